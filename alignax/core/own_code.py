"""The code of classes that are not this package's, such as a user's own method, by digests.

What is kept on disk is found again by what it was made from. This package's own code has numbers
for that (`FORMAT`); a class of the user's is known by the text of its file and of the files that
this imports from beside it, or in a notebook by its cells.
"""

import ast
import functools
import hashlib
import inspect
import linecache
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alignax.core import modules

# Functions of a config: what they return is told by the settings themselves.
CONFIGS = ("experiment", "comparison")
MADE = "<string>"  # the file of functions that `dataclasses` makes: they stand in the class
_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = {name: Path(x).resolve() for name, x in sysconfig.get_paths().items()}
_INSTALLED = (_PLACES["purelib"], _PLACES["platlib"])


def is_own(kind: type) -> bool:
    """Whether the class is this package's."""
    return _top(kind) == _PACKAGE.name


def digests(kind: type) -> Mapping[str, str] | None:
    """A digest of each file that decides a class, by the file's name; of this package's own none.

    As they were when this was first asked: a file may change while its class is at work. What only
    makes a config's settings is left out. A class that was typed in has one digest, of the cells
    that it and the functions that it calls stand in, as they are now; None where Python does not
    know them.
    """
    if is_own(kind):
        return {}
    if found := _of_files(kind):
        return found
    text = _typed_in(kind)
    return None if text is None else {kind.__name__: _digest(text)}


@functools.cache
def _of_files(kind: type) -> Mapping[str, str]:
    paths = files(kind)
    names = [path.name for path in paths]
    found: dict[str, str] = {}
    for x in paths:
        name = x.name if names.count(x.name) == 1 else f"{x.parent.name}/{x.name}"
        digest = _digest(_code(x))  # of several files of one name together
        found[name] = _digest(f"{found[name]} {digest}".encode()) if name in found else digest
    return found


def key(kind: type) -> str | None:
    """All `digests` as one word: empty for this package's own, None where there is none."""
    found = digests(kind)
    if not found:
        return None if found is None else ""
    return _digest(repr(sorted(found.items())).encode())


def files(kind: type) -> list[Path]:
    """The files of a class and of its bases, with those that they import from beside them.

    Of bases that are of another installed package none, nor of this package's own. Of a class that
    was typed in there are none.
    """
    found: set[Path] = set()
    for base in kind.__mro__:
        for path in _files_of(base):
            if _top(base) == _top(kind) or not _is_within(path, _INSTALLED):
                found.update(x for x in modules.with_neighbours(path) if not _is_known(x))
    return sorted(found)


def _top(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _code(path: Path) -> bytes:
    """A file without the functions of a config, and without what it does as a script."""
    content = path.read_bytes()
    lines: list[bytes | None] = [*content.replace(b"\r\n", b"\n").split(b"\n")]
    for node in modules.parsed(content).body:
        config = isinstance(node, ast.FunctionDef) and node.name in CONFIGS
        script = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        if config or script:
            decorators = [x.lineno for x in getattr(node, "decorator_list", ())]
            for i in range(min([node.lineno, *decorators]) - 1, node.end_lineno or node.lineno):
                lines[i] = None
    return b"\n".join(x for x in lines if x is not None).rstrip()


def _functions(kind: type) -> Iterator[types.FunctionType]:
    """What the class itself defines."""
    for value in vars(kind).values():
        for one in (value, *(getattr(value, name, None) for name in ("__func__", "fget", "func"))):
            found = inspect.unwrap(one) if callable(one) else one
            if isinstance(found, types.FunctionType):
                yield found


def _files_of(kind: type) -> set[Path]:
    """Of the class itself: where its functions stand, or else its module. None that is known."""
    places = {x.__code__.co_filename for x in _functions(kind)} - {MADE}
    places = {x for x in places if not _is_known(Path(x))}  # from 3.13 on dataclasses gives some
    if not places:
        places = {getattr(sys.modules.get(kind.__module__), "__file__", None) or MADE}
    return {path for path in map(Path, places) if path.is_file() and not _is_known(path)}


def _is_known(path: Path) -> bool:
    """Whether a file is this package's or Python's."""
    python = _is_within(path, (_PLACES["stdlib"],)) and not _is_within(path, _INSTALLED)
    return python or _is_within(path, (_PACKAGE,))


def _is_within(path: Path, folders: tuple[Path, ...]) -> bool:
    return any(path.resolve().is_relative_to(folder) for folder in folders)


def _typed_in(kind: type) -> bytes | None:
    """The cells of a class, and of the functions and numbers that it names; None if unknown."""
    found: set[bytes] = set()
    ahead: list[Any] = [x for x in kind.__mro__ if not is_own(x) and x.__module__ != "builtins"]
    seen: list[Any] = []
    while ahead:
        one = ahead.pop()
        if one in seen:
            continue
        seen.append(one)
        if isinstance(one, type):
            ahead += _functions(one)
            continue
        place = one.__code__.co_filename
        if place == MADE or _is_known(Path(place)) or _is_within(Path(place), _INSTALLED):
            continue
        lines = linecache.getlines(place)
        if not lines:
            return None
        found.add("".join(lines).encode())
        for name in _names(one.__code__):
            value = one.__globals__.get(name)
            path = getattr(value, "__file__", None)
            function = inspect.unwrap(value) if callable(value) else None
            if isinstance(value, types.ModuleType) and path is not None:
                near = [] if _is_within(Path(path), _INSTALLED) else [Path(path)]
                paths = [x for y in near if not _is_known(y) for x in modules.with_neighbours(y)]
                found.update(x.read_bytes() for x in paths)
            elif isinstance(value, type):
                ahead += [value] if value.__module__ == kind.__module__ else []
            elif isinstance(function, types.FunctionType):
                ahead.append(function)
            elif isinstance(value, set | frozenset):
                found.add(f"{name} = {sorted(map(repr, value))}".encode())
            elif isinstance(value, bool | int | float | str | tuple | list | dict):
                found.add(f"{name} = {value!r}".encode())
    return b"\n".join(sorted(found)) or None


def _names(code: types.CodeType) -> set[str]:
    inner = [x for x in code.co_consts if isinstance(x, types.CodeType)]
    return {*code.co_names}.union(*map(_names, inner))
