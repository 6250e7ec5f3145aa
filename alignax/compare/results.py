"""The raw results of a comparison: JSON lines, and what was compared, so that both can be shared.

`alignax report OUTPUT` reads these two files, the lines compressed or not, and `made.json` where it
is there. Lines may have lost their texts.
"""

import dataclasses
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignax import catalogue
from alignax.compare import cells as cells_lib
from alignax.compare.cells import Cell
from alignax.compare.settings import OF_A_RUN, Comparison
from alignax.core.errors import BadInput
from alignax.core.method import Method
from alignax.core.records import Prompt
from alignax.data import json_lines
from alignax.data.sources import load_records
from alignax.saved import to_json

RESULTS, DESCRIPTION = "results.jsonl", "comparison.json"


def describe(comparison: Comparison) -> dict[str, Any]:
    """What the analysis has to know of a comparison, as JSON."""
    loop = comparison.base.loop
    plain = ("title", "tuning_seeds", "seeds", "compute_like", "again", "shuffled", "answers",
             "gold_says", "proxy_says", "data_says", "limits")  # fmt: skip
    return {name: getattr(comparison, name) for name in plain} | {
        "model": _nearby(comparison.base.model.model_name_or_path),
        "train_prompts": len(_train_prompts(comparison)),
        "trials": max(len(entry.trials) for entry in comparison.entries),
        "samples": comparison.base.evaluation.sampler.num_samples,
        "data_steps": loop.max_steps,
        "eval_steps": loop.eval_steps,
        "batch_size": loop.batch_size,
        "most_updates": comparison.most_updates,
        "claims": [dataclasses.asdict(claim) for claim in comparison.claims],
        "entries": [
            {
                "name": entry.name,
                "title": entry.title or entry.name,
                "family": entry.family,
                "paper": catalogue.paper(type(entry.method)),
                "learns_from": entry.method.needs().record.__name__.lower(),
                "method": to_json(entry.method),
                "trials": [dict(x) for x in entry.trials],
                "settings": {
                    n: _nearby(x) if isinstance(x, str) else x for n, x in entry.settings.items()
                },
                "like": entry.like,
                "after": entry.after,
                "asks": type(entry.method).ask is not Method.ask,
                "league": entry.league,
            }
            for entry in comparison.entries
        ],
    }


def _nearby(place: str) -> str:
    """A path as it is from here, where it is below; a hub id as it stands."""
    path = Path(place)
    inside = path.is_absolute() and path.is_relative_to(Path.cwd())
    return str(path.relative_to(Path.cwd())) if inside else place


def _train_prompts(comparison: Comparison) -> Sequence[Any]:
    data = comparison.base.data
    return load_records(
        str(data.train), Prompt, split=data.train_split, columns=data.columns,
        on_bad_row=data.on_bad_row, chat=data.template == "chat",
    )[0]  # fmt: skip


def write(comparison: Comparison, output: Path, found: Mapping[Cell, Mapping[str, Any]]) -> None:
    """One line a measurement, a failed run, the proxy and the baselines; whole or not at all."""
    written = (output / RESULTS).with_suffix(".new")
    with written.open("w", encoding="utf-8") as file:
        for cell, result in found.items():
            about: dict[str, Any] = {"purpose": cell.purpose, "entry": cell.entry}
            if cell.entry:
                setting = dict(cells_lib.setting(comparison, cell))
                about |= {"trial": cell.trial, "setting": setting, "seed": cell.seed}
            for row in _lines(result):
                file.write(json.dumps(about | row, ensure_ascii=False) + "\n")
    written.replace(output / RESULTS)
    text = json.dumps(describe(comparison), indent=1, ensure_ascii=False)
    (output / DESCRIPTION).write_text(text, encoding="utf-8")


def _lines(result: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    kept = {k: x for k, x in result.items() if k not in ("cell", "rows", "fingerprint")}
    for row in result.get("rows", ()):
        cost = None if row["cost"] is None else row["cost"] | {"peak_mib": result["peak_mib"]}
        yield row | {"cost": cost} | {k: result.get(k) for k in ("parameters", "commit")}
    if "rows" not in result:
        yield kept


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs of one entry and purpose, at one trial.

    Fields:
        seeds: of the s runs that ended. steps: the m at which answers were measured, the first 0.
        values: by metric, [s, m, p]; of a run's cost the same number for all prompts.
        rows: the s lists of m lines.
    """

    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    values: Mapping[str, np.ndarray]
    rows: list[list[dict[str, Any]]]

    def at(self, metric: str, step: int, seeds: Iterable[int] | None = None) -> np.ndarray:
        """A metric at a step, [s, p]; of those seeds."""
        wanted = self.seeds if seeds is None else tuple(seeds)
        index = [self.seeds.index(seed) for seed in wanted]
        return self.values[metric][index, self.steps.index(step)]


@dataclasses.dataclass(frozen=True)
class Results:
    """All raw results, by what they are of."""

    described: Mapping[str, Any]
    lines: list[dict[str, Any]]

    def one(self, purpose: str) -> dict[str, Any]:
        """The only line of a purpose, such as the baselines."""
        return next((x for x in self.lines if x["purpose"] == purpose), {})

    def failed(self, entry: str, purpose: str = "final") -> list[str]:
        """Why runs of an entry failed."""
        return [
            x["failed"]
            for x in self.lines
            if x["purpose"] == purpose and x["entry"] == entry and "failed" in x
        ]

    def runs(self, entry: str, purpose: str = "final", trial: int | None = None) -> Runs | None:
        """The runs of an entry; None where fewer than two seeds ended (one, for tuning)."""
        by_seed: dict[int, list[dict[str, Any]]] = {}
        for x in self.lines:
            own = x["purpose"] == purpose and x["entry"] == entry and "failed" not in x
            if own and trial in (None, x["trial"]):
                by_seed.setdefault(x["seed"], []).append(x)
        if len(by_seed) < (1 if purpose == "tune" else 2):
            return None
        seeds = tuple(sorted(by_seed))
        rows = [sorted(by_seed[seed], key=lambda x: x["step"]) for seed in seeds]
        steps = tuple(x["step"] for x in rows[0])
        names = list(rows[0][-1]["prompts"])
        values = {n: np.array([[x["prompts"][n] for x in row] for row in rows]) for n in names}
        prompts = values[names[0]].shape[2]
        for name in OF_A_RUN:
            numbers = [[(x["cost"] or {}).get(name, 0.0) for x in row] for row in rows]
            # NaN is what could not be measured.
            values[name] = np.repeat(np.array(numbers, np.float64)[..., None], prompts, axis=2)
        diversity = np.array([[x["diversity"] for x in row] for row in rows])
        values["diversity"] = np.repeat(diversity[..., None], prompts, axis=2)
        return Runs(seeds, steps, values, rows)


def read(output: Path) -> Results:
    """The results of a comparison that has ended."""
    place = output / RESULTS
    if not place.is_file():
        place = place.with_name(f"{RESULTS}.gz")
    for path, name in ((place, RESULTS), (output / DESCRIPTION, DESCRIPTION)):
        if not path.is_file():
            raise BadInput("the output folder of alignax compare", f"no {name}",
                           "Run alignax compare first; report makes its page again.",
                           where=str(output))  # fmt: skip
    opened = gzip.open if place.suffix == ".gz" else open
    with opened(place, "rt", encoding="utf-8") as file:
        lines = json_lines.parsed(file.read())
    return Results(json.loads((output / DESCRIPTION).read_text("utf-8")), lines)
