"""What the literature says of these methods, as questions to the results of a comparison."""

import dataclasses
from typing import Literal

Kind = Literal["order", "best", "collapses", "spread", "hacked"]
ARITY: dict[Kind, tuple[int, int | None]] = {  # how many entries: at least, at most
    "order": (2, None), "best": (2, None), "collapses": (2, 2), "spread": (2, 2), "hacked": (1, 1),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of the literature that the results answer.

    Fields:
        name: short, unique.
        says: the sentence. source: who says so.
        entries: that it is about; which of them is to be better is in `kind`.
        kind: "order": each entry is better than the next. "best": the first is better than each of
            the others. "collapses": the first is better than the second, which ends below where it
            began. "spread": the numbers of the first vary less over its trials than those of the
            second over its own, as standard deviations over trials within a seed. "hacked": from
            the reference to the last measurement of the one entry, the proxy's reward grows and
            the gold reward falls.
        metric: what is compared: gold, proxy, kl, length, ended, one of `Comparison.measures`, or
            of a run's cost: flops, seconds, peak_mib, grad_norm (mean square, before clipping).
        higher: whether more of it is better.
        at: "data": at the data budget; "end": at the end of each, however long.
        note: what has to be known to read the verdict.
    """

    name: str
    says: str
    source: str
    entries: tuple[str, ...]
    kind: Kind = "order"
    metric: str = "gold"
    higher: bool = True
    at: Literal["data", "end"] = "data"
    note: str = ""
