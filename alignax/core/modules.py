"""Python that settings name: the module of a file, and what stands at a name in it.

Such a file is the user's own code and runs when it is read; it imports its neighbours, as a script
does.
"""

import ast
import contextlib
import difflib
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from alignax.core.errors import BadInput

REMEDY = 'Give "package.module:name" or "path/to/file.py:name".'


def load(place: str, where: str, *, what: str = "a function") -> Any:
    """What stands at "package.module:name" or "path/to/file.py:name".

    Args:
        where: it was asked for, and what it should be, for the messages.

    Raises:
        BadInput: there is no such module or name, or the module fails.
    """
    module_name, _, name = place.rpartition(":")
    if not module_name or not name:
        raise BadInput("a module and a name in it", repr(place), REMEDY, where=where)
    if module_name.endswith(".py"):
        path = Path(module_name).expanduser().resolve()
        if not path.is_file():
            raise BadInput("a Python file", f"no such file: {module_name}", REMEDY, where=where)
        module = _guarded(lambda: _as_it_is(path, path.stat().st_mtime_ns), where)
    else:
        module = _guarded(lambda: _named(module_name), where)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [word for word in vars(found) if not word.startswith("_")]
            near = difflib.get_close_matches(part, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else REMEDY
            raise BadInput(f"{what} {name} in {module_name}", "none", hint, where=where)
        found = getattr(found, part)
    return found


def _named(name: str) -> ModuleType:
    """A module that is installed, or else one of the folder at hand, as with `python -m`.

    PYTHONSAFEPATH leaves that folder out, as it does there.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] or sys.flags.safe_path:
            raise
    with _beside(os.getcwd()):
        return importlib.import_module(name)


@contextlib.contextmanager
def _beside(folder: str) -> Iterator[None]:
    """Modules of a folder can be imported meanwhile."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def run(path: Path, prefix: str) -> ModuleType:
    """The module of a file, under a name of its own that begins with `prefix`.

    Raises:
        Exception: whatever the file raises.
    """
    spec = importlib.util.spec_from_file_location(f"{prefix}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses of the file look themselves up here
    with _beside(str(path.resolve().parent)):
        spec.loader.exec_module(module)
    return module


def with_neighbours(path: Path) -> list[Path]:
    """A file and those beside it that it imports, and that these import: what decides it."""
    found, left = [], [path]
    while left:
        file = left.pop()
        if file in found or not file.is_file():
            continue
        found.append(file)
        for node in ast.walk(ast.parse(file.read_bytes())):
            names = [x.name for x in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            left += [file.with_name(f"{name.partition('.')[0]}.py") for name in names]
    return sorted(found)


def _guarded(load: Callable[[], ModuleType], where: str) -> ModuleType:
    try:
        return load()
    except Exception as error:  # of whatever the module does when it is imported
        raise BadInput(
            "a module that can be imported",
            f"{type(error).__name__}: {error}",
            "Mend the module, or check its name. " + REMEDY,
            where=where,
        ) from error


@functools.lru_cache(maxsize=16)
def _as_it_is(path: Path, changed: int) -> ModuleType:
    """The module of a file; it is run again once it has changed."""
    del changed
    return run(path, "alignax_named")
