"""Files as strangers may write them, for `fuzz`: a whole one, changed in one place or a few.

A change is a function of a random number generator: values of JSON, bytes, lengths in headers,
pieces of a template. At most three things are changed, so what is found can be read.
"""

import copy
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

Files = dict[str, bytes]
Change = Callable[[Random], bytes]


class Parser(NamedTuple):
    """A reader and its input.

    Fields:
        whole: files that are read without an error.
        changed: draws those as a stranger may have written them.
        read: the call, on the folder that holds the files.
    """

    whole: Files
    changed: Callable[[Random], Files]
    read: Callable[[Path], Any]


# Names that lead out of a folder, numbers at the edges of types, and what is hard to hold.
NAMES = ("../secret", "/etc/passwd", "a/../../secret", "", ".", "..", "a\0b", "~/x", "x" * 5000)
NUMBERS = (0, 1, -1, 2, 7, 2**31 - 1, 2**31, 2**63, 2**64, 10**30, 10**400, 0.5, 1e308, -0.0,
           float("inf"), float("nan"))  # fmt: skip
OTHERS = (None, True, False, [], {}, [[]], "\ud800", "é", "1", "none", "llama", "default")
COUNTS = (0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


_LEAVES = (*NAMES, *NUMBERS, *OTHERS)
_KEYS = ("a", "__class__", "rope_type", "type", "content", "factor", "0")


def _value(draw: Random) -> Any:
    """What may stand where something else is expected in JSON."""
    how = draw.randrange(10)
    if how < 6:
        return copy.copy(draw.choice(_LEAVES))
    few = [copy.copy(draw.choice(_LEAVES)) for _ in range(draw.randrange(4))]
    if how < 9:
        return few if draw.randrange(2) else {draw.choice(_KEYS): value for value in few}
    found: Any = []
    for _ in range(draw.choice((2, 50, 200))):
        found = [found]
    return found


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container in JSON with every key or index of it; not those that lie very deep."""
    found, level = [], [tree]
    for _ in range(6):
        below = []
        for holder in level:
            keys = _keys(holder)
            found += [(holder, key) for key in keys]
            below += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
        level = below
    return found


def _keys(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


_EDITS = ("replace", "replace", "replace", "add", "drop", "copy")


def changed_json(draw: Random, tree: Any, spare: Sequence[str] = NAMES) -> bytes:
    """JSON with a value replaced, left out or added, one to three times; seldom broken as text.

    Args:
        spare: keys to add.
    """
    found = copy.deepcopy(tree)
    for _ in range(draw.randint(1, 3)):
        places = _places(found)
        if not places:
            break
        (holder, key), how = draw.choice(places), draw.choice(_EDITS)
        if how == "drop":
            del holder[key]
        elif how == "add" and isinstance(holder, dict):
            holder[draw.choice(spare)] = _value(draw)
        elif how == "copy":
            other, where = draw.choice(places)
            holder[key] = json.loads(json.dumps(other[where]))  # however deep
        else:
            holder[key] = _value(draw)
    raw = json.dumps(found).encode()
    if draw.randrange(20):
        return raw
    half = draw.randrange(len(raw))
    return draw.choice((
        b"", b"[]", b"0", b"null", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"\xff\xfe",
        b'{"a": ' + b"1" * 5000 + b"}", raw[:half], raw + raw[half:], b"\xef\xbb\xbf" + raw,
    ))  # fmt: skip


_CHANGES = ("byte", "byte", "long", "int", "cut", "end", "twice", "zeros")


def changed_bytes(draw: Random, raw: bytes, first: int | None = None) -> bytes:
    """Bytes with some overwritten, cut out, doubled or put in, one to three times.

    Args:
        first: how many of the first bytes are changed most of the time, such as a header.
    """
    found = bytearray(raw)
    for _ in range(draw.randint(1, 3)):
        end = max(1, len(found))
        if first is not None and draw.randrange(10):
            end = min(end, first)
        at, some, how = draw.randrange(end), draw.randint(1, 64), draw.choice(_CHANGES)
        if how == "byte":
            found[at : at + 1] = bytes([draw.randrange(256)])
        elif how in ("long", "int"):
            size, form = (8, "<Q") if how == "long" else (4, "<I")
            number = draw.choice((*COUNTS, draw.randrange(2**16))) % 2 ** (8 * size)
            found[at : at + size] = struct.pack(form, number)
        elif how == "cut":
            del found[at : at + some]
        elif how == "end":
            del found[at:]
        elif how == "twice":
            found[at:at] = found[at : at + some]
        else:
            found[at:at] = bytes(some)
    return bytes(found)


def changed_safetensors(draw: Random, raw: bytes) -> bytes:
    """The header's JSON changed, with a length that is true; or any bytes."""
    (length,) = struct.unpack_from("<Q", raw)
    if draw.randrange(2):
        return changed_bytes(draw, raw, first=length + 8)
    spare = ("__metadata__", "lm_head.weight", "x")
    header = changed_json(draw, json.loads(raw[8 : 8 + length]), spare)
    return struct.pack("<Q", len(header)) + header + raw[8 + length :]


PIECES = (
    "{{ 'a' * 10**10 }}", "{{ 10 ** (10 ** 10) }}", "{% set x = [0] * 10**9 %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ ''.__class__.__mro__ }}", "{{ messages.__class__ }}", "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('id') }}", "{{ lipsum(n=10**9) }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}", "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}", "{% extends '/etc/passwd' %}", "{{ namespace.__init__ }}",
    "{{ '%1000000000d' % 1 }}", "{{ '{:>1000000000}'.format(1) }}", "{{ 'a'.ljust(10**10) }}",
    "{{ messages | map(attribute='__class__') | list }}", "{{ 'x' | center(10**10) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ range(10**9) | list }}",
    "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "{{ raise_exception('no') }}", "{{ strftime_now('%Y' * 1000) }}", "{{ messages | tojson }}",
    "{{ messages | tojson(indent=10**9) }}", "{{ messages.append(1) }}", "{{ undefined.x }}",
    "{{ joiner }}", "{{ dict.mro() }}", "{{ 1 / 0 }}", "{% generation %}a{% endgeneration %}",
    "{{ bos_token }}", "{{ eos_token }}", "{{", "{%", "%}", "}}", "{#", "\0", "\ud7ff", "{{ '' }}",
)  # fmt: skip
# These run into the limit of time and end the process: one in some thousands is enough.
SLOW = PIECES[1], PIECES[3], PIECES[8]


def changed_template(draw: Random, text: str) -> bytes:
    """A template with pieces of others put in, cut out or doubled."""
    for _ in range(draw.randint(1, 3)):
        at, end = sorted((draw.randint(0, len(text)), draw.randint(0, len(text))))
        how, piece = draw.randrange(10), draw.choice(PIECES)
        if how < 6:
            kept = piece not in SLOW or draw.randrange(200) == 0
            text = text[:at] + piece * kept + text[at:]
        elif how < 8:
            text = text[:at] + text[min(end, at + 40) :]
        else:
            text = text[:at] + text[at:end] + text[at:]
    return text.encode(errors="replace")


def one_of_files(whole: Files, changes: Mapping[str, Change]) -> Callable[[Random], Files]:
    """All files of a folder, one of them changed."""
    names = sorted(changes)

    def change(draw: Random) -> Files:
        name = draw.choice(names)
        return {**whole, name: changes[name](draw)}

    return change


def files_of(folder: Path) -> Files:
    """The contents of a folder, by names relative to it."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


class Folder:
    """A folder whose files are replaced again and again; those that stay alike are not written."""

    def __init__(self, path: Path):
        self.path = path
        self._held: Files = {}

    def hold(self, files: Files) -> None:
        for name in self._held.keys() - files.keys():
            (self.path / name).unlink()
        for name, content in files.items():
            if self._held.get(name) != content:
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                (self.path / name).write_bytes(content)
        self._held = dict(files)
