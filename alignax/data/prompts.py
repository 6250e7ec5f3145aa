"""Prompts to sample from, as text for rewards and as token ids for the sampler, in memory."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from alignax.core.errors import BadInput
from alignax.core.records import Prompt, Text
from alignax.data.bad_rows import BadRow, OnBadRow, Tally
from alignax.data.chat import Renderer
from alignax.data.in_memory import told
from alignax.data.sources import Report, load_records
from alignax.data.tokenise import Example

FORGOTTEN = "with thoughts in earlier turns, which the chat template leaves out"


@dataclasses.dataclass(frozen=True)
class Prompts:
    """A set of prompts. Printable; make it with `load_prompts`.

    Fields:
        texts: strings or conversations, as rewards see them.
        ids: token ids, as the sampler sees them.
        columns: the other columns of their rows; None where a row lacks one.
        origins: `file:line` of each.
        records: what was read. dropped: prompts that were not used, by reason.
        rows: the other columns of each row as it has them; what it lacks is not there.
    """

    texts: Sequence[Text]
    ids: Sequence[np.ndarray]
    columns: Mapping[str, Sequence[Any]]
    origins: Sequence[str]
    records: Report
    dropped: Tally
    rows: Sequence[Mapping[str, Any]] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Example:
        """A prompt as an example whose responses are yet to be drawn."""
        return unanswered(self.ids[index], self.origins[index])

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(ids) for ids in self.ids)

    def __str__(self) -> str:
        return self.described("for rewards", self.columns)

    def described(self, use: str, names: Collection[str]) -> str:
        """The report, where columns of these names have a use besides.

        Args:
            use: of them, in words.
        """
        count = sum(len(ids) for ids in self.ids)
        return "\n".join(
            (
                self.records.described(use, names),
                f"prompts: {len(self):,}; tokens: {count:,}, at most {self.longest:,}",
                f"  dropped: {self.dropped}",
            )
        )


def unanswered(ids: np.ndarray, origin: str = "") -> Example:
    """A prompt's ids as an example whose responses are yet to be drawn."""
    return Example(
        prompt=ids,
        responses=np.zeros(0, np.int32),
        response_lengths=np.zeros(0, np.int32),
        mask=np.zeros(0, bool),
        scores=np.zeros(0, np.float32),
        origin=origin,
    )


@told
def load_prompts(
    source: str,
    renderer: Renderer,
    *,
    ask: Callable[[Text], Text],
    max_length: int,
    split: str = "train",
    on_bad_row: OnBadRow = "refuse",
    limit: int | None = None,
    max_dropped_share: float = 0.1,
    columns: Mapping[str, str] = MappingProxyType({}),
    remedy: str = "Raise data.limits.max_length, lower rollout.max_new_tokens, or raise "
    "data.max_dropped_share.",
) -> Prompts:
    """The prompts of a source that leave room to answer.

    Args:
        source: a path, `tfds:NAME` or `hf:owner/name`; any type of record that has a prompt.
        ask: how the policy is asked, as `Method.ask`.
        max_length: of a prompt in tokens; longer ones are dropped and counted, because half a
            prompt is none.
        on_bad_row: whether a row with a defect stops the work, or is dropped and counted.
        limit: read no more rows than this.
        max_dropped_share: of prompts that may be dropped, bad rows among them, in [0, 1].
        columns: which of the source's columns is read as which, as `columns.renamed` has it.
        remedy: where too many are dropped, in terms of the caller's own settings.

    Raises:
        BadInput: at `file:line`, with what to do.
    """
    records, report = load_records(
        source,
        Prompt,
        split=split,
        on_bad_row=on_bad_row,
        limit=limit,
        chat=renderer.template == "chat",
        columns=columns,
    )
    kept, rendered, dropped = [], [], Tally()
    for record in cast(list[Prompt], records):
        try:
            rendered.append(renderer.prompt(ask(record.prompt), record.origin))
            if renderer.forgotten(record.prompt):
                report.noted.add(FORGOTTEN, record.origin)
        except BadRow as defect:
            if on_bad_row == "refuse":
                raise
            dropped.add(defect.reason, record.origin)
            continue
        kept.append(record)
    ids = [np.array(row, np.int32) for row in renderer.prompt_ids(rendered)]
    fits = [0 < len(row) <= max_length for row in ids]
    for record, row, good in zip(kept, ids, fits, strict=True):
        if not good:
            reason = (
                f"prompt longer than {max_length} tokens" if len(row) else "prompt of no tokens"
            )
            dropped.add(reason, f"{record.origin} ({len(row)} tokens)")
    bad = report.dropped
    lost, of = dropped.total + bad.total, len(records) + bad.total
    if lost and lost / of > max_dropped_share:
        raise BadInput(
            f"at most {max_dropped_share:.1%} of the prompts to be dropped",
            f"{lost:,} of {of:,}: {'; '.join(str(x) for x in (bad, dropped) if x)}",
            f"Mend the rows, or {remedy[:1].lower()}{remedy[1:]}" if bad else remedy,
            where=source,
        )
    chosen = [(r, i) for r, i, good in zip(kept, ids, fits, strict=True) if good]
    if not chosen:
        raise BadInput("at least one prompt", f"none; dropped: {dropped}", "Give a source with "
                       "prompts.", where=source)  # fmt: skip
    names = dict.fromkeys(name for record, _ in chosen for name in record.columns)
    return Prompts(
        texts=[record.prompt for record, _ in chosen],
        ids=[row for _, row in chosen],
        columns={n: [record.columns.get(n) for record, _ in chosen] for n in names},
        origins=[record.origin for record, _ in chosen],
        records=report,
        dropped=dropped,
        rows=[record.columns for record, _ in chosen],
    )
