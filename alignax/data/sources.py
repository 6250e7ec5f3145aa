"""Where rows come from: files, TensorFlow Datasets and the Hugging Face hub, each row with a place.

A source is named by one string: a path, `tfds:NAME`, `tfds:NAME/config`, `hf:owner/name` or plain
`owner/name`.
"""

import dataclasses
import difflib
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from alignax.core.errors import BadInput
from alignax.core.records import Labelled, LeftOut, Preference, Ranking, Record, Text
from alignax.data.bad_rows import BadRow, OnBadRow, Tally
from alignax.data.catalogues import Row, hf_data, hf_rows, tfds_builder, tfds_rows
from alignax.data.convert import CONVERTERS, Pairing, with_unrelated
from alignax.data.forms import Form, ScoredTurns, detect, met, optional
from alignax.data.records import noted, parse
from alignax.data.row_files import json_lines, json_list, parquet_rows, readable

SUFFIXES = (".jsonl.gz", ".jsonl", ".json", ".parquet")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What was read from a source and what was not used. Printable.

    Fields:
        source, split: what was asked for.
        form: how rows were read, in words.
        columns: those that were read. ignored: all others of any row, and keys of messages.
        rows: read. records: made of them.
        dropped: rows with a defect, by reason.
        left_out: rows, or what they were made into, that teach the method nothing, by reason.
        repeated_prompts: records whose prompt an earlier record had too.
        noted: rows that were used, though perhaps not as they were meant, by what was seen.
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
        ignored = f"; ignored: {', '.join(self.ignored)}" if self.ignored else ""
        return "\n".join(
            (
                f"{self.source} ({self.split}): {self.form}",
                f"  columns: {', '.join(self.columns)}{ignored}",
                f"  rows: {self.rows:,}; records: {self.records:,}; "
                f"with the prompt of an earlier one: {self.repeated_prompts:,}",
                f"  dropped: {self.dropped}",
                *([f"  left out: {self.left_out}"] if self.left_out else []),
                *([f"  noted: {self.noted}"] if self.noted else []),
            )
        )


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
) -> tuple[list[Record], Report]:
    """All records of a source, made into what the method learns from where they are not that yet.

    Args:
        source: a path, `tfds:NAME` or `hf:owner/name`.
        record_type: what the method learns from.
        split: which file of a directory, or which split of a data set.
        on_bad_row: whether a row with a defect stops the reading, or is dropped and counted.
        limit: read no more rows than this.
        pairing, strength: how lists are made into pairs, as `convert.pairs` has it.
        chat, scored_turns: how rows are read, as `forms.detect` has it.

    Raises:
        BadInput: at `file:line`, with what to do.
    """
    records: list[Record] = []
    dropped, left_out, seen_as, form, rows = Tally(), Tally(), Tally(), None, 0
    # Of all rows, in the order in which they were met.
    columns: dict[str, None] = {}
    seen: dict[str, None] = {}
    for row, origin in itertools.islice(read_rows(source, split=split), limit):
        if form is None:
            form = detect(row, record_type, origin, chat=chat, scored_turns=scored_turns)
            columns.update(dict.fromkeys(form.columns))
        rows += 1
        columns.update(dict.fromkeys(optional(row, form)))
        seen.update(dict.fromkeys(met(row, form)))
        try:
            record = parse(row, form, origin)
            for what in noted(row, form, record):
                seen_as.add(what, origin)
            if form.wanted is None:
                records.append(record)
            else:
                convert = CONVERTERS[form.record, form.wanted]
                records += convert(record, pairing, strength)
        except LeftOut as useless:
            left_out.add(useless.reason, origin)
        except BadRow as defect:
            if on_bad_row == "refuse":
                raise
            dropped.add(defect.reason, origin)
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
        form=str(form) + (f" ({pairing})" if _is_paired(form) else ""),
        columns=tuple(columns),
        ignored=tuple(name for name in seen if name not in columns),
        rows=rows,
        records=len(records),
        dropped=dropped,
        left_out=left_out,
        repeated_prompts=len(records) - len(prompts),
        noted=seen_as,
    )
    return records, report


def _is_paired(form: Form) -> bool:
    """Whether lists were made into pairs, so that it matters which."""
    return form.record is Ranking and form.wanted in (Preference, Labelled)


def read_rows(source: str, *, split: str = "train") -> Iterator[tuple[Row, str]]:
    """Rows of a source, each with its origin: `file:line`, or `name:row` where there are no lines.

    Raises:
        BadInput: no such source, a kind of file that is not known, or a broken file.
    """
    kind, name = _locate(source, split)
    if kind == "tfds":
        return tfds_rows(name, split)
    if kind == "hf":
        return hf_rows(name, split)
    path = Path(name)
    label = _label(source, path)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return json_lines(path, label)
    if path.suffix == ".json":
        return json_list(path, label)
    return parquet_rows(path, label)


def content_hash(source: str, *, split: str = "train") -> str:
    """Changes whenever what `read_rows` gives does: over a file's bytes, or a name and version."""
    digest = hashlib.sha256()
    kind, name = _locate(source, split)
    if kind == "file":
        path = Path(name)
        digest.update(_label(source, path).encode())
        with readable(source), path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    elif kind == "tfds":
        digest.update(f"tfds:{tfds_builder(name).info.full_name}:{split}".encode())
    else:
        # The library's own fingerprint follows the content of the files, a version does not.
        digest.update(f"hf:{name}:{split}:{hf_data(name, split)._fingerprint}".encode())
    return digest.hexdigest()


def _locate(source: str, split: str) -> tuple[Literal["file", "tfds", "hf"], str]:
    """The kind of a source, and its path or its name without the prefix."""
    if source.startswith("tfds:"):
        return "tfds", source.removeprefix("tfds:")
    if source.startswith("hf:"):
        return "hf", source.removeprefix("hf:")
    with readable(source):
        return _found(source, split)


def _found(source: str, split: str) -> tuple[Literal["file", "hf"], str]:
    """A file, or else the name of a data set of the hub."""
    path = Path(source).expanduser()
    if path.is_dir():
        return "file", str(_file_of_split(path, split))
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise BadInput(
                f"a file ending in {', '.join(SUFFIXES)}",
                path.name,
                "Convert the file, or rename it if it is one of these.",
                where=source,
            )
        return "file", str(path)
    if HUB_NAME.fullmatch(source) and not source.endswith(SUFFIXES) and not path.parent.is_dir():
        return "hf", source
    raise _missing(source, path)


def _label(source: str, path: Path) -> str:
    """A file's name in origins; with its folder where the folder was given as the source."""
    folder = Path(source).expanduser()
    return f"{folder.resolve().name}/{path.name}" if folder.is_dir() else path.name


def _file_of_split(folder: Path, split: str) -> Path:
    found = [folder / f"{split}{suffix}" for suffix in SUFFIXES]
    found = [path for path in found if path.is_file()]
    if len(found) == 1:
        return found[0]
    data = sorted(path.name for path in folder.iterdir() if path.name.endswith(SUFFIXES))
    raise BadInput(
        f"one file of the split {split}: {' or '.join(split + suffix for suffix in SUFFIXES)}",
        ", ".join(path.name for path in found) or ", ".join(data) or "no data files",
        "Name the file itself." if found else "Name another split, or the file itself.",
        where=str(folder),
    )


def _missing(source: str, path: Path) -> BadInput:
    folder = path.parent
    entries = folder.iterdir() if folder.is_dir() else ()
    names = [entry.name for entry in entries if not entry.name.startswith(".")]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if near:
        remedy = f"Nearest in {folder}: {', '.join(near)}."
    elif names:
        remedy = f"{folder} holds {', '.join(sorted(names)[:5])}{', ...' * (len(names) > 5)}."
    else:
        remedy = "Give a path, tfds:NAME or hf:owner/name."
    return BadInput("a file or folder", "nothing there", remedy, where=source)
