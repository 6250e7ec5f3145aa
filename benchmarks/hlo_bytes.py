"""What the kernels of a compiled GPU program read and write, from its text (HLO).

A kernel that is no product takes about as long as memory takes for its bytes, so that the list says
where time goes before a GPU is at hand: for an update of 1.24B parameters the sum was within 10% of
what an H100 took. Bytes are counted as XLA's fusions move them: of an array that is only sliced the
slices, of one that is updated in place what is written.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4,
         "s64": 8, "u64": 8, "f64": 8}  # fmt: skip
ARRAY = re.compile(rf"\b({'|'.join(SIZES)})\[([\d,]*)\]")
BEGINS = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z\-]*)\((.*)$")
SLICES = ("dynamic-slice", "slice", "gather")
# Operations that are kernels by themselves, and how often each moves what it gives.
ALONE = {"copy": 2, "copy-start": 2, "dynamic-slice": 2, "dynamic-update-slice": 2, "sort": 2,
         "concatenate": 2, "transpose": 2, "scatter": 2, "gather": 2, "broadcast": 1}  # fmt: skip

# Of this library's own kernels of Triton, by the names they have.
OURS = {
    "product_in_parts": "product",
    "gated_product": "product",
    "attention_to_cache": "attention",
}


class Operation(NamedTuple):
    """A line of a computation."""

    name: str
    shape: str
    kind: str
    operands: tuple[str, ...]
    about: str
    root: bool


class Kernel(NamedTuple):
    """What is launched, `times` times; bytes are of all launches.

    Fields:
        kind: product, attention, or the operation. source: the end of the name in the program.
    """

    kind: str
    shape: str
    source: str
    times: int
    bytes: int


def bytes_of(shape: str) -> int:
    """Of an array, or of all arrays of a tuple."""
    total = 0
    for dtype, sides in ARRAY.findall(shape):
        size = SIZES[dtype]
        for side in filter(None, sides.split(",")):
            size *= int(side)
        total += size
    return total


def computations(text: str) -> tuple[dict[str, list[Operation]], str]:
    """The operations of each computation, and the name of the first."""
    found: dict[str, list[Operation]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if begins := BEGINS.match(line):
            current = found.setdefault(begins[2], [])
            entry = begins[2] if begins[1] else entry
        elif (made := LINE.match(line)) and current is not None:
            root, name, shape, kind, rest = made.groups()
            end = _closing(rest)
            operands = tuple(re.findall(r"%([\w.\-]+)", rest[:end]))
            current.append(Operation(name, shape, kind, operands, rest[end:], bool(root)))
    return found, entry


def _closing(text: str) -> int:
    depth = 1
    for index, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if depth == 0:
            return index
    return len(text)


def moved(operations: Sequence[Operation]) -> int:
    """What a fusion reads and writes."""
    by_name = {x.name: x for x in operations}
    users: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        for name in operation.operands:
            users[name].append(operation)

    def read(name: str) -> int | None:
        """What is read of it, by slices; None where it is read whole."""
        total = 0
        for user in users[name]:
            if user.kind == "bitcast":
                part = read(user.name)
                if part is None:
                    return None
                total += part
            elif user.kind in SLICES:
                total += bytes_of(user.shape)
            elif user.kind != "dynamic-update-slice" or user.operands[0] != name:
                return None
        return total

    def written(operation: Operation) -> int:
        if operation.kind == "tuple":
            return sum(written(by_name[name]) for name in operation.operands)
        if operation.kind == "bitcast":
            return written(by_name[operation.operands[0]])
        if operation.kind == "dynamic-update-slice":
            return bytes_of(by_name[operation.operands[1]].shape)
        return bytes_of(operation.shape)

    total = sum(written(x) for x in operations if x.root)
    for operation in operations:
        if operation.kind == "parameter":
            part, whole = read(operation.name), bytes_of(operation.shape)
            total += whole if part is None else min(part, whole)
    return total


def kernels(text: str) -> list[Kernel]:
    """All that a program launches; loops as often as they turn, where that is known."""
    found, entry = computations(text)
    return list(_launched(found, entry, 1))


def _launched(found: dict[str, list[Operation]], name: str, times: int) -> Iterator[Kernel]:
    shapes = {x.name: x.shape for x in found[name]}
    for operation in found[name]:
        source = re.search(r'op_name="([^"]*)"', operation.about)
        about = operation.shape, source[1] if source else "", times
        called = re.search(r"(?:calls|to_apply|body)=%?([\w.\-]+)", operation.about)
        inside = found.get(called[1], []) if called else []
        given = bytes_of(operation.shape)
        if operation.kind == "while" and called:
            turns = re.search(r'known_trip_count":\{"n":"(\d+)"', operation.about)
            yield from _launched(found, called[1], times * int(turns[1] if turns else 1))
        elif operation.kind == "custom-call":
            target = re.search(r'custom_call_target="([^"]+)"', operation.about)
            kind = _target(target[1] if target else "")
            if kind == "triton":
                kind = next((x for name, x in OURS.items() if name in about[1]), kind)
            given -= bytes_of(" ".join(re.findall(r"s8\[\d+\]", operation.shape)))  # room to work
            given += sum(bytes_of(shapes.get(x, "")) for x in operation.operands)
            yield Kernel(kind, *about, times * given)
        elif operation.kind in ("fusion", "fusion-start"):
            targets = [_target(x.about) for x in inside if x.kind == "custom-call"]
            kind = targets[0] if targets else operation.kind
            yield Kernel(kind, *about, times * moved(inside))
        elif operation.kind in ("call", "async-start", "conditional") and called:
            yield from _launched(found, called[1], times)
        elif operation.kind in ALONE:
            yield Kernel(operation.kind, *about, times * given * ALONE[operation.kind])


def _target(text: str) -> str:
    for name, kind in (("cublas", "product"), ("fmha", "attention"), ("triton", "triton")):
        if name in text:
            return kind
    return "custom-call"
