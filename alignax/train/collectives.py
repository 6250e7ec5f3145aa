"""What a compiled program sends between devices: every collective, how often, and how much.

Read from the program itself, as text, after the partitioner: nothing that it has added is missed.
A collective in the body of a loop counts as often as the loop runs.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from alignax.core.errors import BadInput

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4,
         "u32": 4, "f64": 8, "s64": 8, "u64": 8}  # fmt: skip

_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_SHAPE = re.compile(r"\b(\w+)\[([\d,]*)\]")
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(r"(?:calls|to_apply|async_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_LOOP = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONSTANT = re.compile(r"%([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)")
_ELEMENT = re.compile(r"%([\w.\-]+) = [su]32\[\]\S* get-tuple-element\(.*\), index=(\d+)")
_COMPARED = re.compile(r"ROOT .* compare\(%([\w.\-]+), %([\w.\-]+)\)")
_NAMES = re.compile(r"%([\w.\-]+)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_GROUPS = {  # the three ways in which a program says which devices take part
    "iota": re.compile(r"replica_groups=\[(\d+),(\d+)\]"),
    "listed": re.compile(r"replica_groups=\{\{([\d,]+)\}"),
    # Where axes do not follow one another, the order of devices stands between.
    "mesh": re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=[^{]*)? \{([^}]*)\}"),
}
_SCATTERED = "all-reduce-scatter"  # what TPUs' compiler calls one whose result is cut at once


class Collective(NamedTuple):
    """One operation of a program.

    Fields:
        kind: one of `KINDS`.
        devices: that take part in it together.
        size: bytes of the whole array, on one of these: what is gathered, or is to be reduced.
        times: that it runs in one call of the program; once where a loop does not say.
        name: of the operation in the source, for people.
    """

    kind: str
    devices: int
    size: int
    times: int
    name: str

    @property
    def sent(self) -> float:
        """Bytes that each device sends, by the ring that every implementation is measured by."""
        share = (self.devices - 1) / self.devices
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return factor * self.size * self.times


def collectives(program: str) -> list[Collective]:
    """All collectives of a compiled program, `compiled.as_text()`; those of one device are none."""
    lines, entry = _computations(program)
    found: list[Collective] = []
    # On TPUs one that runs beside arithmetic stands in all parts that this is cut into.
    met: set[tuple[str, str, str]] = set()

    def walk(name: str, times: int, loop: str) -> None:
        for line in lines.get(name, ()):
            operation, cycle = _OPERATION.search(line), _LOOP.search(line)
            if operation is not None:
                result, kind, start = operation.groups()
                kind = "reduce-scatter" if name.startswith(_SCATTERED) else kind
                channel = _CHANNEL.search(line)
                if channel is not None and kind == "all-gather":
                    key = (loop, channel.group(1), result.split("{")[0])
                    if key in met:
                        continue
                    met.add(key)
                cut = kind == "reduce-scatter" and not name.startswith(_SCATTERED)
                one = _collective(line, result, kind, bool(start), cut, times)
                if one.devices > 1:
                    found.append(one)
            elif cycle is not None:
                condition, body = cycle.groups()
                known = _KNOWN.search(line)
                trips = int(known.group(1)) if known else _trips(lines, condition, body)
                walk(body, times * trips, body)
            else:
                called = _CALLED.findall(line)
                for names in _BRANCHES.findall(line):
                    called += [x.strip().lstrip("%") for x in names.split(",")]
                for other in called:
                    walk(other, times, loop)

    walk(entry, 1, "")
    return found


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    lines: dict[str, list[str]] = {}
    entry = current = ""
    for line in program.splitlines():
        header = _HEADER.match(line)
        if header is not None:
            current = header.group(1)
            lines[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current:
            lines[current].append(line)
    return lines, entry


def _trips(lines: dict[str, list[str]], condition: str, body: str) -> int:
    """How often a loop runs: the constant that its counter is compared with, in the condition or in
    what it calls, over the counter's step; once where there is none."""
    own = lines.get(condition, ())
    found = [int(x) for line in own for _, x in _CONSTANT.findall(line)]
    inner = [_trips(lines, name, "") for line in own for name in _CALLED.findall(line)]
    most = max([*found, *inner], default=1)
    # TPUs' compiler cuts products into parts that are passed round, and unrolls their loops by two.
    return max(1, most // _step(own, lines.get(body, ())))


def _step(condition: Sequence[str], body: Sequence[str]) -> int:
    """What the body adds to the number that the condition compares; 1 where that is not plain."""
    elements = dict(x for line in condition for x in _ELEMENT.findall(line))
    compared = [x for line in condition for pair in _COMPARED.findall(line) for x in pair]
    counter = next((int(elements[x]) for x in compared if x in elements), None)
    root = next((x for x in body if x.lstrip().startswith("ROOT") and " tuple(" in x), "")
    results = _NAMES.findall(root.partition(" tuple(")[2].partition(")")[0])
    if counter is None or counter >= len(results):
        return 1
    start = f"%{results[counter]} = "
    adds = next((x for x in body if x.lstrip().startswith(start) and " add(" in x), "")
    constants = {name: int(x) for line in body for name, x in _CONSTANT.findall(line)}
    terms = _NAMES.findall(adds.partition(" add(")[2].partition(")")[0])
    return max([constants[x] for x in terms if x in constants], default=1) or 1


def _devices(line: str, kind: str) -> int:
    if kind == "collective-permute":
        return 2
    for name, pattern in _GROUPS.items():
        match = pattern.search(line)
        if match is None:
            continue
        if name == "iota":
            return int(match.group(2))
        if name == "listed":
            return len(match.group(1).split(","))
        sizes = {x: int(n) for x, n in re.findall(r"'([^']+)'=(\d+)", match.group(1))}
        return math.prod(sizes[x] for x in re.findall(r"'([^']+)'", match.group(2)))
    # To pass it over would be to say that nothing is sent.
    raise BadInput(
        "replica groups in a form that is known",
        line.strip()[:400],
        "Report it, with the versions of jax and libtpu.",
        where="the compiled program",
    )


def _collective(
    line: str, result: str, kind: str, start: bool, cut: bool, times: int
) -> Collective:
    sizes = [
        BYTES[dtype] * math.prod(int(x) for x in shape.split(",") if x)
        for dtype, shape in _SHAPE.findall(result)
        if dtype in BYTES and not (start and (dtype, shape) == ("u32", ""))  # a semaphore
    ]
    devices = _devices(line, kind)
    # What is started here and awaited elsewhere returns its operands before its results, except
    # an all-reduce, which may be of several arrays.
    if start and kind != "all-reduce":
        sizes = sizes[len(sizes) // 2 :]
    size = sum(sizes)
    name = re.search(r'op_name="([^"]*)"', line)
    return Collective(
        kind, devices, size * devices if cut else size, times, name.group(1) if name else ""
    )
