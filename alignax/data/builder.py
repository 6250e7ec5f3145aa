"""A data set prepared once: token ids in ArrayRecord files, written and read through TFDS.

TensorFlow is not needed. What was prepared is found again by a fingerprint over everything that
it depends on, so a second run tokenises nothing and prints the same reports.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float32, UInt64

from alignax.core import drafts
from alignax.core.errors import BadInput
from alignax.core.records import Group, Lacking, LeftOut, Record, placed
from alignax.data.bad_rows import OnBadRow
from alignax.data.catalogues import quiet_tfds
from alignax.data.chat import Renderer, renderer_hash
from alignax.data.convert import Pairing
from alignax.data.fields import is_blank
from alignax.data.forms import ScoredTurns
from alignax.data.in_memory import told
from alignax.data.lints import digests
from alignax.data.pipeline import token_counts
from alignax.data.plan import Lengths
from alignax.data.sources import Report, content_hash, load_records
from alignax.data.tokenise import Example, TokenLimits, TokenReport, tokenise

FORMAT = 7  # raise it whenever the same input would be written otherwise
SPLIT = "groups"
MOST_BYTES = 2**28  # of a data set that stays in memory as it is read
OF_A_TOKEN, OF_A_GROUP = 5, 1536  # bytes there


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared data set on disk, with random access. Threads share it; processes pickle it.

    Fields:
        directory: where it is kept.
        fingerprint: hex SHA-256 of what it was made from, but for code of the user's own.
        by_own_code: whether such code made it.
    """

    directory: Path
    fingerprint: str
    by_own_code: bool = False

    def __len__(self) -> int:
        return len(self.lengths.prompt)

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index %= len(self)
        found = self._read.get(index)
        if found is not None:
            return found
        row = self._rows[index]
        numbers = row["attributes"]
        attributes = numbers.reshape(len(row["scores"]), -1) if numbers.size else None
        found = Example(**{**row, "origin": row["origin"].decode(), "attributes": attributes})
        if self._stays:
            for array in found:
                if isinstance(array, np.ndarray):
                    array.setflags(write=False)  # all who ask get the same
            self._read[index] = found
        return found

    @property
    def lengths(self) -> Lengths:
        """Token counts of all groups."""
        return self._lengths

    @functools.cached_property
    def _lengths(self) -> Lengths:
        with np.load(self.directory / "lengths.npz") as arrays:
            return Lengths(*(arrays[name] for name in Lengths._fields))

    @functools.cached_property
    def gaps(self) -> Float32[np.ndarray, " g"]:
        """How far apart the first and the last response of each group are scored."""
        return np.load(self.directory / "gaps.npy")

    @functools.cached_property
    def digests(self) -> UInt64[np.ndarray, "g 3"]:
        """By which equal prompts and opposite pairs are known, as `lints.digests` has it."""
        return np.load(self.directory / "digests.npy")

    @functools.cached_property
    def _read(self) -> dict[int, Example]:
        """What was read and stays in memory, by index: to read a group takes 0.1 ms."""
        return {}

    @functools.cached_property
    def _stays(self) -> bool:
        """Whether the whole data set may stay in memory once read."""
        tokens = int(self.lengths.total.sum())
        return OF_A_TOKEN * tokens + OF_A_GROUP * len(self) <= MOST_BYTES

    @property
    def records(self) -> Report:
        """What was read from the source."""
        return Report.from_json(self._notes["records"])

    @property
    def tokens(self) -> TokenReport:
        """What tokenising kept and lost."""
        return TokenReport.from_json(self._notes["tokens"])

    @property
    def content(self) -> str:
        """Changes with what was made: with the tokens themselves, where the user's code decides.

        Else with what they were made from, which says as much.
        """
        return self._notes["content"] if self.by_own_code else self.fingerprint

    @property
    def limits(self) -> TokenLimits:
        """The lengths that were allowed."""
        return TokenLimits(**self._notes["limits"])

    @functools.cached_property
    def _notes(self) -> dict[str, Any]:
        return json.loads((self.directory / "notes.json").read_text())

    @functools.cached_property
    def _rows(self) -> Sequence[dict[str, Any]]:
        folder = self.directory / Examples.name / str(Examples.VERSION)
        builder: Any = tfds.builder_from_directory(folder)
        return builder.as_data_source(split=SPLIT)

    def __getstate__(self) -> dict[str, Any]:
        # What is cached stays behind: another process opens the files itself.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __str__(self) -> str:
        return f"{self.records}\n{self.tokens}\nprepared: {self.directory}"


class Examples(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes token ids as a TFDS data set, in order, in a format that is read by index."""

    name = "examples"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, examples: Sequence[Example], data_dir: Path):
        self._examples = examples
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        return tfds.core.DatasetInfo(
            builder=self,
            description="Prompts and responses as token ids, made by alignax.",
            features=features.FeaturesDict(
                {
                    "prompt": features.Tensor(shape=(None,), dtype=np.int32),
                    "responses": features.Tensor(shape=(None,), dtype=np.int32),
                    "response_lengths": features.Tensor(shape=(None,), dtype=np.int32),
                    "mask": features.Tensor(shape=(None,), dtype=np.bool_),
                    "scores": features.Tensor(shape=(None,), dtype=np.float32),
                    "origin": features.Text(),
                    "attributes": features.Tensor(shape=(None,), dtype=np.float32),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        for number, example in enumerate(self._examples):
            none = np.zeros(0, np.float32)
            numbers = none if example.attributes is None else example.attributes.ravel()
            yield number, {**example._asdict(), "attributes": numbers}


@told
def prepare(
    source: str,
    group: Callable[[Record], Group],
    record_type: type[Record],
    renderer: Renderer,
    limits: TokenLimits,
    *,
    grouping: str,
    code: str = "",
    cache_dir: str | Path,
    split: str = "train",
    on_bad_row: OnBadRow = "refuse",
    max_dropped_share: float = 0.1,
    limit: int | None = None,
    pairing: Pairing = "best-worst",
    strength: Sequence[str] = (),
    scored_turns: ScoredTurns = "all",
    columns: Mapping[str, str] = MappingProxyType({}),
) -> Prepared:
    """The tokenised data set of a source: made now, or found where an earlier run left it.

    Args:
        source: a path, `tfds:NAME` or `hf:owner/name`.
        group: puts the responses of one record side by side, as `Method.group`.
        record_type: what `group` takes.
        grouping: the name of `group`, and all settings it depends on; two functions that differ
            must have two names, because results are found again by it.
        code: of `group`, where it is the user's own: two that differ must have two.
        cache_dir: where prepared data sets are kept.
        split: which file of a directory, or which split of a data set.
        on_bad_row: whether a row with a defect stops the work, or is dropped and counted.
        max_dropped_share: of groups that may be dropped or cut, in [0, 1]; bad rows that were
            dropped count as groups, what was left out does not.
        limit: read no more rows than this.
        pairing, strength: how lists are made into pairs, as `convert.pairs` has it.
        scored_turns: which answers of a demonstration are imitated.
        columns: which of the source's columns is read as which, as `columns.renamed` has it.

    Raises:
        BadInput: for bad rows, for too many dropped or cut, for a folder that cannot be written.
    """
    depends_on = {
        "format": FORMAT,
        "source": content_hash(source, split=split),
        "split": split,
        "record": record_type.__qualname__,
        "grouping": grouping,
        "renderer": renderer_hash(renderer),
        "limits": dataclasses.asdict(limits),
        "on_bad_row": on_bad_row,
        "limit": limit,
        "pairing": [pairing, *strength],
        "scored_turns": scored_turns,
    }
    if columns:  # without, as it was where nobody could say
        depends_on["columns"] = sorted(columns.items())
    fingerprint = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    key = hashlib.sha256(f"{fingerprint} {code}".encode()).hexdigest() if code else fingerprint
    prepared = Prepared(Path(cache_dir).expanduser().resolve() / key[:16], fingerprint, bool(code))
    drafts.clear(prepared.directory.parent)
    if prepared.directory.is_dir():
        prepared.tokens.check(max_dropped_share, prepared.records.dropped)
        return prepared
    records, report = load_records(
        source,
        record_type,
        split=split,
        on_bad_row=on_bad_row,
        limit=limit,
        pairing=pairing,
        strength=strength,
        chat=renderer.template == "chat",
        scored_turns=scored_turns,
        columns=columns,
    )
    groups = []
    for record in records:
        try:
            groups.append(placed(group(record), record))
        except LeftOut as useless:
            report.left_out.add(useless.reason, record.origin)
        except Lacking as defect:
            if on_bad_row == "refuse":
                raise
            report.dropped.add(defect.reason, record.origin)
    if not groups:
        raise BadInput(
            "at least one row that teaches something",
            f"{len(records)} records, left out: {report.left_out}"
            + (f"; dropped: {report.dropped}" if report.dropped else ""),
            "Give other data, or change the method's settings.",
            where=source,
        )
    # Of lists alone a response may be empty: what a model said that ended at once.
    empty = any(is_blank(text) for one in groups for text in one.responses)
    examples, tokens = tokenise(groups, renderer, limits, on_bad_row=on_bad_row, empty=empty)
    tokens.check(max_dropped_share, report.dropped)
    if not examples:
        raise BadInput(
            "at least one group within the limits",
            str(tokens.dropped),
            "Raise max_length.",
            where=source,
        )
    notes = {
        "records": dataclasses.asdict(report),
        "tokens": dataclasses.asdict(tokens),
        "limits": dataclasses.asdict(limits),
        "depends_on": depends_on,
        "content": _content(examples),
    }
    _write(prepared.directory, examples, notes)
    return prepared


def _content(examples: Sequence[Example]) -> str:
    """Hex SHA-256 of all tokens, and of which are scored."""
    digest = hashlib.sha256()
    for x in examples:
        digest.update(np.array([len(x.prompt), len(x.response_lengths)], np.int64).tobytes())
        for array in (x.prompt, x.response_lengths, x.responses, x.mask):
            digest.update(array.tobytes())
    return digest.hexdigest()


def _write(directory: Path, examples: Sequence[Example], notes: dict[str, Any]) -> None:
    """Writes beside the place and then renames, so that what is there is always whole."""
    with contextlib.ExitStack() as stack:
        try:
            draft = stack.enter_context(drafts.draft(directory.parent))
        except OSError as error:
            raise BadInput(
                "a folder to keep prepared data in",
                f"{error.strerror} ({type(error).__name__})",
                "Set data.cache_dir to a folder that can be written.",
                where=str(directory.parent),
            ) from error
        whole = draft / directory.name
        with quiet_tfds():
            Examples(examples, whole).download_and_prepare(download_dir=draft / "downloads")
        np.savez(whole / "lengths.npz", **token_counts(examples)._asdict())
        np.save(whole / "gaps.npy", np.array([x.scores[0] - x.scores[-1] for x in examples]))
        np.save(whole / "digests.npy", digests(examples))
        (whole / "notes.json").write_text(json.dumps(notes, indent=1))
        try:
            whole.rename(directory)
        except OSError:
            # Another process may have finished the same work first; then its copy serves.
            if not directory.is_dir():
                raise
