"""Which files a path means: one, all of a split in a folder, or all that a pattern matches.

A folder may be a downloaded repository of the hub, or one of its folders: a split is one file,
`train.jsonl`, or parts whose names count them, `train-00000-of-00002.parquet`, there or in `data/`.
"""

import fnmatch
import glob
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from alignax.core.errors import BadInput

SUFFIXES = (".jsonl.gz", ".jsonl", ".ndjson.gz", ".ndjson", ".json", ".parquet")
# What the package datasets writes beside rows.
_NOTES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
# The hub's own names had a hash at the end for some years.
_PART = re.compile(r"(.+)-(\d+)-of-(\d+)(?:-[0-9a-f]{16})?")
_PATTERN = re.compile(r"[*?[]")
_NAMED = 5  # so many names are listed


class DataFile(NamedTuple):
    """A file, and what it is called where a row's place is told."""

    path: Path
    label: str


def suffix_of(name: str) -> str | None:
    """The one of `SUFFIXES` that a file's name ends in, in capitals too; None for other files."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), None)


def find(source: str, split: str) -> tuple[DataFile, ...]:
    """The files of a source, in the order in which they are read; none where nothing is there.

    Raises:
        BadInput: files of a kind that is not known, a part that is missing, more than one file or
            set of parts of the split in a folder, a pattern that matches nothing.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _of_split(path, split)
    if path.is_file():
        if suffix_of(path.name) is None:
            raise _unknown(path.name, "Convert the file, or rename it if it is one of these.", path)
        return (DataFile(path, path.name),)
    return _matching(path) if _PATTERN.search(source) else ()


def has_split(folder: Path, split: str) -> bool:
    """Whether a folder has anything that is named as a split is, readable or not."""
    names = (f"{glob.escape(split)}{end}" for end in (".*", "-*-of-*.*"))
    places = (folder, folder / "data")
    return any(any(place.glob(name)) for place, name in itertools.product(places, tuple(names)))


def holds(folder: Path) -> str:
    """What a folder holds, in words, without what is hidden; empty where that is nothing."""
    entries = folder.iterdir() if folder.is_dir() else ()
    names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    return f"{folder} holds {_listed(names)}." if names else ""


def refuse_saved(folder: Path, split: str) -> None:
    """Says how rows get out of what `datasets` has written of its memory."""
    splits = (folder / "dataset_dict.json").is_file()
    if splits or (folder / "state.json").is_file():
        raise BadInput(
            "JSON lines or Parquet",
            "a folder that save_to_disk of datasets has written",
            f'Write it as Parquet: datasets.load_from_disk("{folder}")'
            + (f'["{split}"]' if splits else "")
            + f'.to_parquet("{split}.parquet"). In Python, Data takes what load_from_disk gives.',
            where=str(folder),
        )


def _of_split(folder: Path, split: str) -> tuple[DataFile, ...]:
    name = folder.resolve().name
    for place, label in ((folder, name), (folder / "data", f"{name}/data")):
        found = _sets(place, split)
        if len(found) == 1:
            ((known_as, paths),) = found.items()
            _refuse_gaps(paths, known_as, place)
            return tuple(DataFile(path, f"{label}/{path.name}") for path in paths)
        if found:
            named = " or ".join(f"'{place / known_as}'" for known_as in found)
            raise _no_split(folder, split, ", ".join(found), f"Name one of them: {named}.")
    refuse_saved(folder, split)
    files = [*_data_files(folder), *_data_files(folder / "data")]
    if files:
        names = [str(path.relative_to(folder)) for path in files]
        pattern = files[0].parent / f"*{suffix_of(files[0].name)}"
        remedy = f"Name another split, a file itself, or a pattern such as '{pattern}'."
        raise _no_split(folder, split, _listed(names), remedy)
    beside = holds(folder)
    remedy = f"{beside} Name a folder, or the files." if beside else "Name another folder."
    raise _no_split(folder, split, "no data files", remedy)


def _sets(place: Path, split: str) -> dict[str, list[Path]]:
    """The files of a split: each whole one, and each set of parts in order, by its pattern."""
    found: dict[str, list[Path]] = {}
    for path in _data_files(place):
        stem, suffix = _parted(path.name)
        part = _PART.fullmatch(stem)
        if stem == split:
            found[path.name] = [path]
        elif part and part[1] == split:
            found.setdefault(f"{split}-*-of-{part[3]}*{suffix}", []).append(path)
    return {name: sorted(paths, key=_number) for name, paths in found.items()}


def _number(path: Path) -> int:
    part = _PART.fullmatch(_parted(path.name)[0])
    return int(part[2]) if part else 0


def _parted(name: str) -> tuple[str, str]:
    """A name without its suffix, and that."""
    length = len(suffix_of(name) or "")
    return name[: len(name) - length], name[len(name) - length :]


def _data_files(place: Path) -> list[Path]:
    """Files that may hold rows, in the order of their names."""
    entries = sorted(place.iterdir()) if place.is_dir() else ()
    return [path for path in entries
            if suffix_of(path.name) and path.name not in _NOTES and path.is_file()]  # fmt: skip


def _matching(pattern: Path) -> tuple[DataFile, ...]:
    """The files that a pattern matches, in the order of their names, whatever their split."""
    fixed = itertools.takewhile(lambda part: not _PATTERN.search(part), pattern.parts)
    base = Path(*fixed)
    found = sorted(path for path in map(Path, glob.glob(str(pattern), recursive=True))
                   if path.is_file())  # fmt: skip
    if not found:
        remedy = holds(base) or f"There is no folder {base} with anything in it."
        raise BadInput("files that match the pattern", "none", remedy, where=str(pattern))
    for path in found:
        if suffix_of(path.name) is None:
            raise _unknown(str(path.relative_to(base)), "Match fewer files.", pattern)
    places: dict[Path, list[Path]] = {}
    for path in found:
        places.setdefault(path.parent, []).append(path)
    for place, paths in places.items():
        _refuse_gaps(paths, pattern.name, place)
    name = base.resolve().name
    return tuple(DataFile(path, f"{name}/{path.relative_to(base)}") for path in found)


def _refuse_gaps(paths: Iterable[Path], pattern: str, place: Path) -> None:
    """Refuses parts of a whole without another one that the pattern asks for too.

    A part that the pattern leaves out may be missing: who reads a few of many may have no more.
    """
    parts: dict[tuple[str, str, str], dict[int, Path]] = {}
    for path in paths:
        stem, suffix = _parted(path.name)
        part = _PART.fullmatch(stem)
        if not part:
            continue
        known = parts.setdefault((part[1], part[3], suffix), {})
        other = known.setdefault(int(part[2]), path)
        if other != path:
            raise BadInput(
                f"one file for each part of {part[1]}",
                f"{other.name} and {path.name}",
                "Delete what is of an earlier version, or give a pattern that leaves it out.",
                where=str(place),
            )
    for (split, count, suffix), known in parts.items():
        gaps = [name for name in _gaps(split, known, count, suffix)
                if fnmatch.fnmatchcase(name, pattern)]  # fmt: skip
        if gaps:
            raise BadInput(
                f"all {int(count)} parts of {split}",
                f"{len(known)}, without {_listed(gaps)}",
                "Download or write what is missing, or give a pattern that leaves it out.",
                where=str(place),
            )


def _gaps(split: str, known: dict[int, Path], count: str, suffix: str) -> Iterator[str]:
    """Names of parts that are not there; they are counted from 0, or from 1 to the count."""
    first = int(0 not in known and int(count) in known)
    digits = len(count)
    # A name may claim any count: of the parts that it lacks, a few more than are named will do.
    numbers = range(first, first + min(int(count), len(known) + 1000))
    return (f"{split}-{n:0{digits}}-of-{count}{suffix}" for n in numbers if n not in known)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + ", ..." * (len(names) > _NAMED)


def _unknown(name: str, remedy: str, where: Path) -> BadInput:
    return BadInput(f"a file ending in {', '.join(SUFFIXES)}", name, remedy, where=str(where))


def _no_split(folder: Path, split: str, got: str, remedy: str) -> BadInput:
    whole = " or ".join(split + suffix for suffix in SUFFIXES)
    parts = f"or parts such as {split}-00000-of-00002.parquet, there or in data/"
    return BadInput(f"one file of the split {split}: {whole}, {parts}", got, remedy,
                    where=str(folder))  # fmt: skip
