"""What tokenising kept and lost, as it is printed and kept with the tokens."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignax.core.errors import BadInput
from alignax.data.bad_rows import Tally


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenReport:
    """What tokenising kept and lost. Printable.

    Fields:
        groups: that came. kept: of them.
        cut, dropped: groups, by reason.
        prompt_tokens, response_tokens, scored_tokens: of the kept groups.
        longest: kept group, prompt and longest response together, in tokens.
        empty: responses of the kept groups without text: white space at most, and their end.
        cut_off: responses of the kept groups that broke off (`ended` false): no end is learnt.
        forgotten: turns of their prompts with thoughts that the chat template leaves out.
    """

    groups: int
    kept: int
    cut: Tally
    dropped: Tally
    prompt_tokens: int
    response_tokens: int
    scored_tokens: int
    longest: int
    empty: int
    cut_off: int = 0
    forgotten: int = 0

    @property
    def share_lost(self) -> float:
        """Groups that were dropped or cut, as a share of all."""
        return (self.dropped.total + self.cut.total) / max(self.groups, 1)

    def check(self, max_dropped_share: float = 0.1, bad_rows: Tally | None = None) -> None:
        """Raises BadInput if more than this share of the data was dropped or cut.

        Args:
            bad_rows: those dropped before there were groups. Each counts as a group.
        """
        bad = bad_rows or Tally()
        lost, of = bad.total + self.dropped.total + self.cut.total, bad.total + self.groups
        if lost and lost / of > max_dropped_share:
            first = "; ".join(filter(None, (bad.first, self.dropped.first, self.cut.first)))
            rows = f"bad rows {bad.total:,}, " if bad else ""
            raise BadInput(
                f"at most {max_dropped_share:.1%} of the data to be dropped or cut",
                f"{lost / of:.1%}: {rows}dropped {self.dropped.total:,}, cut {self.cut.total:,} "
                f"of {of:,}. First: {first}",
                f"{'Mend the rows, raise' if bad else 'Raise'} max_length, shorten the data, or "
                "raise max_dropped_share.",
            )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TokenReport":
        """The report that `dataclasses.asdict` took apart."""
        tallies = {name: Tally.from_json(value[name]) for name in ("cut", "dropped")}
        return cls(**{**value, **tallies})

    def __str__(self) -> str:
        empty = f"; responses without text: {self.empty:,}" if self.empty else ""
        return "\n".join(
            (
                f"groups: {self.groups:,}; kept: {self.kept:,}; longest: {self.longest:,} tokens",
                f"  tokens: {self.prompt_tokens:,} in prompts, {self.response_tokens:,} in "
                f"responses, {self.scored_tokens:,} of them scored{empty}",
                f"  cut: {self.cut}",
                f"  dropped: {self.dropped}",
                *(
                    [
                        f"  answers that broke off before they ended: {self.cut_off:,}; no end of "
                        "turn is taught behind them"
                    ]
                    if self.cut_off
                    else []
                ),
                *(
                    [
                        "  earlier turns whose thoughts the chat template leaves out: "
                        f"{self.forgotten:,}"
                    ]
                    if self.forgotten
                    else []
                ),
            )
        )
