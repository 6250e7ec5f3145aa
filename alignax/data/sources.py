"""Where rows come from: files, TensorFlow Datasets and the Hugging Face hub, each row with a place.

A source is named by one string: a path, a pattern of paths, `tfds:NAME`, `tfds:NAME/config`,
`hf:owner/name` or plain `owner/name`.
"""

import dataclasses
import difflib
import hashlib
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

from alignax.core.errors import BadInput
from alignax.core.records import (
    Demonstration,
    Labelled,
    LeftOut,
    Preference,
    Ranking,
    Record,
    Scored,
    Text,
)
from alignax.data import pair_scores
from alignax.data.bad_rows import BadRow, OnBadRow, Tally
from alignax.data.catalogues import Row, hf_data, hf_rows, tfds_builder, tfds_rows
from alignax.data.columns import described, renamed
from alignax.data.convert import CONVERTERS, Pairing, with_unrelated
from alignax.data.forms import Form, ScoredTurns, detect, met, optional
from alignax.data.in_memory import is_written, told
from alignax.data.local_files import DataFile, find, has_split, holds, suffix_of
from alignax.data.records import last_alone, noted, parse
from alignax.data.row_files import json_lines, json_list, parquet_rows, readable

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What was read from a source and what was not used. Printable.

    Fields:
        source, split: what was asked for.
        form: how rows were read, in words; of how many files, where there are several.
        columns: those that were read, with the source's own names where these are others.
        ignored: all other columns of any row, and keys of messages.
        rows: read. records: made of them.
        dropped: rows with a defect, by reason.
        left_out: rows, or what they were made into, that teach the method nothing, by reason.
        repeated_prompts: records whose prompt an earlier record had too.
        noted: rows that were used, though perhaps not as they were meant, by what was seen: of
            pairs also those whose choice a judge contradicts.
    """

    source: str
    split: str
    form: str
    columns: tuple[str, ...]
    ignored: tuple[str, ...]
    rows: int
    records: int
    dropped: Tally
    left_out: Tally
    repeated_prompts: int
    noted: Tally = dataclasses.field(default_factory=Tally)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Report":
        """The report that `dataclasses.asdict` took apart."""
        lists = {name: tuple(value[name]) for name in ("columns", "ignored")}
        tallies = {name: Tally.from_json(value[name]) for name in ("dropped", "left_out", "noted")}
        return cls(**{**value, **lists, **tallies})

    def __str__(self) -> str:
        return self.described()

    def described(self, use: str = "", names: Collection[str] = ()) -> str:
        """The report, where ignored columns of these names are of use to others.

        Args:
            use: in words, such as "for rewards".
        """
        used = [name for name in self.ignored if name in names]
        ignored = [name for name in self.ignored if name not in names]
        others = "".join(
            f"; {what}: {', '.join(which)}"
            for what, which in ((use, used), ("ignored", ignored))
            if which
        )
        return "\n".join(
            (
                f"{self.source} ({self.split}): {self.form}",
                f"  columns: {', '.join(self.columns)}{others}",
                f"  rows: {self.rows:,}; records: {self.records:,}; "
                f"with the prompt of an earlier one: {self.repeated_prompts:,}",
                f"  dropped: {self.dropped}",
                *([f"  left out: {self.left_out}"] if self.left_out else []),
                *([f"  noted: {self.noted}"] if self.noted else []),
            )
        )


@told
def load_records(
    source: str,
    record_type: type[Record],
    *,
    split: str = "train",
    on_bad_row: OnBadRow = "refuse",
    limit: int | None = None,
    pairing: Pairing = "best-worst",
    strength: Sequence[str] = (),
    chat: bool = False,
    scored_turns: ScoredTurns = "all",
    columns: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[Record], Report]:
    """All records of a source, made into what the method learns from where they are not that yet.

    Args:
        source: a path, a pattern of paths, `tfds:NAME` or `hf:owner/name`.
        record_type: what the method learns from.
        split: which files of a directory, or which split of a data set.
        on_bad_row: whether a row with a defect stops the reading, or is dropped and counted.
        limit: read no more rows than this.
        pairing, strength: how lists are made into pairs, as `convert.pairs` has it.
        chat, scored_turns: how rows are read, as `forms.detect` has it.
        columns: which of the source's columns is read as which, as `columns.renamed` has it.

    Raises:
        BadInput: at `file:line`, with what to do.
    """
    read: list[Record] = []
    dropped, left_out, seen_as, form, rows = Tally(), Tally(), Tally(), None, 0
    # Of all rows, in the order in which they were met.
    used: dict[str, None] = {}
    seen: dict[str, None] = {}
    place = _locate(source, split)
    for row, origin in itertools.islice(_rows(place, split), limit):
        rows += 1
        try:
            row = renamed(row, columns, origin)
            if form is None:
                form = detect(row, record_type, origin, chat=chat, scored_turns=scored_turns)
                used.update(dict.fromkeys(form.columns))
            used.update(dict.fromkeys(optional(row, form)))
            seen.update(dict.fromkeys(met(row, form)))
            record = parse(row, form, origin)
            for what in noted(row, form, record):
                seen_as.add(what, origin)
            read.append(record)
        except BadRow as defect:
            if on_bad_row == "refuse" or form is None:  # of a map that fits no row, one is enough
                raise
            dropped.add(defect.reason, origin)
    scores = _kind_of_scores(form, read)
    records: list[Record] = []
    for record in read:
        try:
            if scores:
                pair_scores.check(cast(Preference, record), scores)
            records += _made(record, form, pairing, strength)
        except LeftOut as useless:
            left_out.add(useless.reason, record.origin)
        except BadRow as defect:
            if on_bad_row == "refuse":
                raise
            dropped.add(defect.reason, record.origin)
        else:
            if isinstance(record, Preference) and (how := pair_scores.against(record)):
                seen_as.add(how, record.origin)
    if form is None or not records:
        raise BadInput(
            "at least one usable row",
            f"{rows} rows, dropped: {dropped}" + (f"; left out: {left_out}" if left_out else "")
            if rows
            else "no rows",
            "Give a source with data, or another split.",
            where=f"{source} ({split})",
        )
    if record_type is Labelled:
        labelled = cast(list[Labelled], records)
        records = list(with_unrelated(labelled, f"{source} ({split})"))
    prompts: set[Text] = {record.prompt for record in records}
    report = Report(
        source=source,
        split=split,
        form=str(form)
        + (f" ({pairing})" if _is_paired(form) else "")
        + (f"; {len(place.files)} files" if len(place.files) > 1 else "")
        + (f" (scores: {scores})" if scores else "")
        + ("; line n is row n of those given" if is_written(source) else ""),
        columns=tuple(described(tuple(used), columns)),
        ignored=tuple(name for name in seen if name not in used),
        rows=rows,
        records=len(records),
        dropped=dropped,
        left_out=left_out,
        repeated_prompts=len(records) - len(prompts),
        noted=seen_as,
    )
    return records, report


def _kind_of_scores(form: Form | None, read: Sequence[Record]) -> str | None:
    """By which of `pair_scores.KINDS` pairs are read; None where no scores are made of pairs."""
    if form is None or form.record is not Preference or form.wanted not in (Ranking, Scored):
        return None
    return pair_scores.kind(cast(Sequence[Preference], read)) if read else None


def _made(
    record: Record, form: Form | None, pairing: Pairing, strength: Sequence[str]
) -> Sequence[Record]:
    """What a record is made into; itself where it is what the method learns from."""
    if form is None or form.wanted is None:
        return [record]
    made = CONVERTERS[form.record, form.wanted](record, pairing, strength)
    if form.wanted is Demonstration and form.scored_turns == "last":
        return [last_alone(cast(Demonstration, x)) for x in made]
    return made


def _is_paired(form: Form) -> bool:
    """Whether lists were made into pairs, so that it matters which."""
    return form.record is Ranking and form.wanted in (Preference, Labelled)


def read_rows(
    source: str, *, split: str = "train", columns: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[Row, str]]:
    """Rows of a source, each with its origin: `file:line`, or `name:row` where there are no lines.

    Args:
        columns: as in `load_records`.

    Raises:
        BadInput: no such source, a kind of file that is not known, or a broken file; a row that
            lacks one of `columns`.
    """
    found = _rows(_locate(source, split), split)
    return ((renamed(row, columns, origin), origin) for row, origin in found)


def content_hash(source: str, *, split: str = "train") -> str:
    """Changes whenever what `read_rows` gives does: over files' bytes, or a name and version."""
    digest = hashlib.sha256()
    kind, name, files = _locate(source, split)
    if kind == "tfds":
        digest.update(f"tfds:{tfds_builder(name).info.full_name}:{split}".encode())
    elif kind == "hf":
        # The library's own fingerprint follows the content of the files, a version does not.
        digest.update(f"hf:{name}:{split}:{hf_data(name, split)._fingerprint}".encode())
    for path, label in files:
        digest.update(label.encode())
        with readable(str(path)), path.open("rb") as file:
            if len(files) > 1:  # so that a row which moves to the next file changes it
                digest.update(b"\0%d\0" % path.stat().st_size)
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def files_of(source: str, *, split: str = "train") -> list[Path]:
    """The files that `read_rows` reads; none of what is not there, or no files.

    Raises:
        BadInput: as `read_rows`, for files that are there.
    """
    if source.startswith(("tfds:", "hf:")):
        return []
    with readable(source):
        return [path for path, _ in find(source, split)]


def holds_split(source: str, split: str) -> bool:
    """Whether a source is a folder with files that are named as a split is, readable or not."""
    with readable(source):
        path = Path(source).expanduser()
        return path.is_dir() and has_split(path, split)


class _Place(NamedTuple):
    """A data set of a catalogue by its name without the prefix, or files."""

    kind: Literal["files", "tfds", "hf"]
    name: str
    files: tuple[DataFile, ...] = ()


def _locate(source: str, split: str) -> _Place:
    if source.startswith("tfds:"):
        return _Place("tfds", source.removeprefix("tfds:"))
    if source.startswith("hf:"):
        return _Place("hf", source.removeprefix("hf:"))
    with readable(source):
        files = find(source, split)
        if files:
            return _Place("files", source, files)
        path = Path(source).expanduser()
        if HUB_NAME.fullmatch(source) and not suffix_of(source) and not path.parent.is_dir():
            return _Place("hf", source)
        raise _missing(source, path)


def _rows(place: _Place, split: str) -> Iterator[tuple[Row, str]]:
    if place.kind == "tfds":
        return tfds_rows(place.name, split)
    if place.kind == "hf":
        return hf_rows(place.name, split)
    # One after another: a file is opened once the rows of the one before it are read.
    return itertools.chain.from_iterable(map(_rows_of_file, place.files))


def _rows_of_file(file: DataFile) -> Iterator[tuple[Row, str]]:
    suffix = suffix_of(file.path.name)
    read = {".json": json_list, ".parquet": parquet_rows}.get(suffix or "", json_lines)
    return read(file.path, file.label)


def _missing(source: str, path: Path) -> BadInput:
    folder = path.parent
    entries = folder.iterdir() if folder.is_dir() else ()
    names = [entry.name for entry in entries if not entry.name.startswith(".")]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if near:
        remedy = f"Nearest in {folder}: {', '.join(near)}."
    else:
        remedy = holds(folder) or "Give a path, tfds:NAME or hf:owner/name."
    return BadInput("a file or folder", "nothing there", remedy, where=source)
