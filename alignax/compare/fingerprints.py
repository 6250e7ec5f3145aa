"""What decides a cell's result, as one short word: while that is the same, the result stands."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from alignax.compare import cells
from alignax.compare.cells import Cell
from alignax.compare.settings import Comparison
from alignax.config import Experiment
from alignax.core import modules, own_code
from alignax.core.errors import BadInput
from alignax.data.sources import files_of
from alignax.saved import to_json

# Settings of data that say nothing here, as where nobody could say.
_OFF = {"scored_turns": "all", "columns": {}}


def of(comparison: Comparison, cell: Cell) -> str:
    """Of settings, data, rewards, and the models that a cell begins from and is judged by.

    Not of places: a comparison and its output may move.
    """
    parts: list[Any] = []
    if cell.purpose == "baselines":
        parts.append(comparison.answers)
        cell = dataclasses.replace(cell, purpose="final", entry=comparison.compute_like, steps=1)
    made = cells.experiment(comparison, cell, Path())
    said = to_json(dataclasses.replace(made, output_dir=""))
    for name, off in _OFF.items():
        if said["data"].get(name) == off:
            del said["data"][name]
    parts.append(said)
    files = _of_data(made)
    files += _of_model(Path(made.model.model_name_or_path))
    if cell.purpose != "proxy":
        known = (comparison.gold, *comparison.measures.values())
        parts += [to_json(x) for x in known]
        parts.append(of(comparison, Cell(purpose="proxy")))
        entry = comparison.entry(cell.entry)
        places = [str(getattr(x, "function", "")) for x in (*known, *made.rollout.rewards.parts)]
        if entry.own_rows is not None:
            parts.append(entry.own_rows)
            places.append(entry.own_rows)
        if entry.after is not None:
            parts.append(of(comparison, cells.begun_from(comparison, cell)))
        for name in (place.rpartition(":")[0] for place in places):
            files += _code(name)
        files += own_code.files(type(entry.method))
    text = json.dumps(parts, sort_keys=True)
    files = [path for path in files if path.is_file()]
    for folder in sorted({str(path.parent) for path in files}, key=len, reverse=True):
        text = text.replace(json.dumps(folder)[1:-1], "")
    digest = hashlib.sha256(text.encode())
    for path in files:
        about = path.stat()
        digest.update(_digest(path, about.st_size, about.st_mtime_ns))
    return digest.hexdigest()[:16]


def _code(name: str) -> list[Path]:
    """The files of a module that is not this package's: of a file, or by its name. This package's
    own are told by the commit that stands beside each result."""
    if name.endswith(".py"):
        return modules.with_neighbours(Path(name))
    module = sys.modules.get(name)
    if module is None or name.partition(".")[0] == "alignax":
        return [Path(name)]
    return modules.with_neighbours(Path(module.__file__)) if module.__file__ else []


def _of_data(made: Experiment) -> list[Path]:
    """The files of its data; what cannot be read is refused by the run itself."""
    data = made.data
    found = []
    for source, split in (
        (data.train, data.train_split),
        (data.eval, data.eval_split),
        (made.evaluation.prompts, data.eval_split),
    ):
        with contextlib.suppress(BadInput):
            found += files_of(str(source), split=split) if source else ()
    return found


def _of_model(folder: Path) -> list[Path]:
    """The files of a model's directory; of a hub's model its name is all that is known."""
    return sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []


@functools.cache
def _digest(path: Path, size: int, changed: int) -> bytes:
    """Of a file's contents, read once while nobody writes it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
