"""Every method by the name it has on the command line, with what it needs and its own config."""

import argparse
import dataclasses
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.table import Table

from alignax import config
from alignax.config import Experiment
from alignax.core import modules
from alignax.core.errors import BadInput
from alignax.core.method import Method, Needs
from alignax.core.setting_types import alike, did_you_mean
from alignax.data.forms import COLUMNS
from alignax.data.sources import holds_split
from alignax.methods import ALL

PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


class Entry(NamedTuple):
    """A method: its name in words, its class, its default config."""

    name: str
    method: type[Method]
    config: Path

    @property
    def record(self) -> str:
        """The columns that it learns from; of conversations, those of a single turn too."""
        first, *others = COLUMNS[self.method().needs().record]
        shown = [first, *others[: first == ("messages",)]]
        return " or ".join(", ".join(columns) for columns in shown)

    @property
    def needs(self) -> str:
        """What it needs beside data, in words."""
        needs = self.method().needs()
        found = ["reference"] if needs.reference else []
        found += [f"{needs.head} head"] if needs.head else []
        found += ["samples", "reward"] if needs.sampling is not None else []
        return ", ".join(found) or "-"

    @property
    def paper(self) -> str:
        """The arXiv number of its paper."""
        return paper(self.method) or "-"


def paper(method: type[Method]) -> str | None:
    """The first arXiv number that the class is described by, or else its module."""
    own = (inspect.getdoc(method) or "").partition("\nFields:")[0]
    for text in (own, inspect.getdoc(sys.modules[method.__module__])):
        if found := PAPER.search(text or ""):
            return found.group(1)
    return None


def about(method: type[Method]) -> str:
    """The first sentence or line of the docstring of the class."""
    return (inspect.getdoc(method) or "").partition("\n\n")[0].replace("\n", " ")


def entries() -> list[Entry]:
    """Every method that has a config, by name. Of several configs the one on the demo's data."""
    classes = {cls.__name__.lower(): cls for cls in ALL}
    found: dict[str, Entry] = {}
    for path in sorted(config.configs_directory().glob("*.py")):
        words = path.stem.split("_")
        starts = ["_".join(words[: i + 1]) for i in range(len(words))]
        name = next((s for s in reversed(starts) if s.replace("_", "") in classes), None)
        if name is not None and (name not in found or path.stem == f"{name}_quickstart"):
            found[name] = Entry(name, classes[name.replace("_", "")], path)
    return [found[name] for name in sorted(found)]


def entry(name: str, where: str = "--method") -> Entry:
    """The method of this name; `-` and `_`, capitals and small letters are the same.

    Args:
        name: or that of a user's own, as "path/to/file.py:CLASS" or "package.module:CLASS".
        where: it was asked for.

    Raises:
        BadInput: no such method, with the nearest one.
    """
    if ":" in name:
        return _from_outside(name, where)
    known = {_bare(e.name): e for e in entries()}
    if _bare(name) not in known:
        near = [known[x].name for x in alike(_bare(name), list(known))]
        raise BadInput(
            f"a method: {', '.join(e.name for e in known.values())}",
            name or "nothing",
            f"Name the class in it: {name}:CLASS."
            if name.endswith(".py")
            else did_you_mean(near) or "alignax methods explains them.",
            where=where,
        )
    return known[_bare(name)]


def _from_outside(place: str, where: str) -> Entry:
    """A user's own method, with the config of the one that needs most of what it needs."""
    found = modules.load(place, where, what="a class of a method")
    if not isinstance(found, type) or not issubclass(found, Method):
        raise BadInput(
            "a class that is an alignax.Method",
            f"{place}: {found!r}",
            f"Name the class: {where} FILE.py:CLASS. docs/own_method.md shows one.",
            where=where,
        )
    if lacking := sorted(getattr(found, "__abstractmethods__", ())):
        raise BadInput(
            "a class with the functions needs, group and loss",
            f"{place} without {', '.join(lacking)}",
            "docs/own_method.md shows one.",
            where=where,
        )
    try:
        needs = found().needs()
    except TypeError as error:
        raise BadInput(
            "a method whose settings all have defaults",
            str(error),
            "Give each one, or set them in a config: docs/own_method.md shows one.",
            where=f"{where} {place}",
        ) from error
    alike_most = max(entries(), key=lambda e: _in_common(needs, e))
    if _in_common(needs, alike_most)[0] < 3:
        raise BadInput(
            f"a method that learns from what another does: {needs.record.__name__}",
            f"{found.__name__}, which "
            + ("takes a data set" if needs.sampling is None else "samples")
            + (f" and has a {needs.head} head" if needs.head else ""),
            "Write it a config: docs/own_method.md shows one.",
            where=f"{where} {place}",
        )
    return Entry(place, found, alike_most.config)


def _in_common(needs: Needs, other: Entry) -> tuple[int, int, bool]:
    """How like another's needs are: in what a config is about; in all; and the demo's."""
    its = other.method().needs()
    about = (its.record is needs.record, its.head == needs.head,
             (its.sampling is None) == (needs.sampling is None))  # fmt: skip
    names = [field.name for field in dataclasses.fields(needs)]
    same = sum(getattr(its, name) == getattr(needs, name) for name in names)
    return sum(about), same, other.config.stem.endswith("_quickstart")


def is_method(name: str) -> bool:
    """Whether `entry` knows it."""
    return _bare(name) in (_bare(e.name) for e in entries())


def refuse_as_config(path: str) -> None:
    """Refuses a method's name where a config file or a model is asked for.

    Raises:
        BadInput: it is one, and no file or folder.
    """
    if path and not Path(path).suffix and not Path(path).exists() and is_method(path):
        raise BadInput(
            "a config file",
            f"the name of a method, {path}",
            f"Did you mean --method {path}?",
            where="command line",
        )


def _bare(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def experiment(arguments: Sequence[str]) -> tuple[Experiment, list[str]]:
    """The experiment of a method's own config, on other data and weights where they are given.

    Args:
        arguments: `--method NAME`, and `--data`, `--eval-data`, `--model` where wanted, among
            others of the command line, which are given back.
    """
    parser = argparse.ArgumentParser(prog="alignax", add_help=False, allow_abbrev=False)
    for option in ("--method", "--data", "--eval-data", "--model"):
        parser.add_argument(option)
    options, others = parser.parse_known_args(arguments)
    found = entry(options.method or "")
    made, folder = config.load(found.config), found.name
    if type(made.method) is not found.method:
        folder = found.method.__name__.lower()
        made = dataclasses.replace(made, method=found.method(), output_dir=f"runs/{folder}")
    if options.model:
        model = dataclasses.replace(made.model, model_name_or_path=options.model)
        made = dataclasses.replace(made, model=model)
    if options.data:
        both = holds_split(options.data, made.data.eval_split)
        held_out = options.eval_data or (options.data if both else None)
        data = dataclasses.replace(made.data, train=options.data, eval=held_out)
        stem = _stem(options.data)
        made = dataclasses.replace(made, data=data, output_dir=f"runs/{folder}_{stem}")
    elif options.eval_data:
        made = dataclasses.replace(
            made, data=dataclasses.replace(made.data, eval=options.eval_data)
        )
    return made, others


def _stem(source: str) -> str:
    """What a run is named by: of the source's last part, up to a dot, what no pattern matches."""
    path = Path(source)
    while path.name and not (stem := re.sub(r"[*?[\]]+", "", path.name.split(".")[0]).strip("-")):
        path = path.parent
    return stem if path.name else "data"


def explained(found: Entry) -> str:
    """One method, for the terminal."""
    lines = (
        ("learns from", found.record),
        ("needs", found.needs),
        ("paper", f"arXiv:{found.paper}"),
        ("config", str(found.config)),
        ("settings", f"alignax train --method {found.name} --help"),
    )
    described = "\n".join(f"{name:<13}{value}" for name, value in lines)
    return f"{found.name}\n\n{described}\n\n{inspect.getdoc(found.method)}"


def table() -> Table:
    """All methods, for the terminal."""
    rows = Table(box=box.SIMPLE)
    for name in ("method", "learns from", "needs", "arXiv"):
        rows.add_column(name, no_wrap=name in ("method", "arXiv"))
    for e in entries():
        rows.add_row(e.name, e.record, e.needs, e.paper)
    return rows
