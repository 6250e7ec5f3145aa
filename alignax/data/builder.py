"""A data set prepared once: token ids in ArrayRecord files, written and read through TFDS.

TensorFlow is not needed. What was prepared is found again by a fingerprint over everything that
it depends on, so a second run tokenises nothing and prints the same reports.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from alignax.core import drafts
from alignax.core.errors import BadInput
from alignax.core.records import Group, Lacking, LeftOut, Record, placed
from alignax.data import lints
from alignax.data.bad_rows import OnBadRow
from alignax.data.catalogues import quiet_tfds
from alignax.data.chat import Renderer, renderer_hash
from alignax.data.convert import Pairing
from alignax.data.fields import is_blank
from alignax.data.forms import ScoredTurns
from alignax.data.in_memory import told
from alignax.data.pipeline import token_counts
from alignax.data.prepared import NAME, SPLIT, VERSION, Prepared
from alignax.data.sources import content_hash, load_records
from alignax.data.tokenise import Example, TokenLimits, tokenise

FORMAT = 8  # raise it whenever the same input would be written otherwise
TOKENS = 7  # and this one whenever it would be other tokens: runs begun before cannot go on


class Examples(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes token ids as a TFDS data set, in order, in a format that is read by index."""

    name = NAME
    VERSION = tfds.core.Version(VERSION)

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
                    "ended": features.Tensor(shape=(None,), dtype=np.bool_),
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
            ended = np.zeros(0, bool) if example.ended is None else example.ended
            yield number, {**example._asdict(), "attributes": numbers, "ended": ended}


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
    judged: bool = False,
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
        judged: whether responses are for a model that learns to judge: it is asked about whole
            ones, so those that broke off have an end of turn.

    Raises:
        BadInput: for bad rows, for too many dropped or cut, for a folder that cannot be written.
    """
    depends_on = {
        "format": TOKENS,
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
    key = hashlib.sha256(f"{fingerprint} {FORMAT} {code} {judged}".encode()).hexdigest()
    prepared = Prepared(Path(cache_dir).expanduser().resolve() / key[:16], fingerprint, bool(code))
    drafts.clear(prepared.directory.parent)
    if prepared.directory.is_dir():
        prepared.tokens.check(max_dropped_share, prepared.records.dropped)
        return prepared.known()
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
    groups, asked = [], {}
    for record in records:
        if judged:
            record = dataclasses.replace(record, cut=frozenset())
        try:
            groups.append(placed(group(record), record))
            asked[groups[-1].origin] = lints.asked(record.prompt)
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
        "content": lints.content(examples),
        "broke off": any(x.ended is not None for x in examples),
    }
    of_groups = {
        "gaps": np.array([x.scores[0] - x.scores[-1] for x in examples]),
        "digests": lints.digests(examples),
        "asked": np.array([asked[x.origin] for x in examples], np.uint64),
        "highest": lints.highest(examples),
    }
    _write(prepared.directory, examples, of_groups, notes)
    return prepared.known()


def _write(
    directory: Path,
    examples: Sequence[Example],
    of_groups: Mapping[str, np.ndarray],
    notes: dict[str, Any],
) -> None:
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
        for name, array in of_groups.items():
            np.save(whole / f"{name}.npy", array)
        (whole / "notes.json").write_text(json.dumps(notes, indent=1))
        try:
            whole.rename(directory)
        except OSError:
            # Another process may have finished the same work first; then its copy serves.
            if not directory.is_dir():
                raise
