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
    """A file and those that it imports from beside it, and that these import: what decides it.

    Of a file of a package, those of that package too.
    """
    found, left = [], [path]
    while left:
        file = left.pop()
        if file in found or not file.is_file():
            continue
        found.append(file)
        left += _imported(file)
    return sorted(found)


def parsed(content: bytes) -> ast.Module:
    """A file's tree; an empty one of what is no Python of today, which nothing can import."""
    try:
        return ast.parse(content)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _imported(file: Path) -> list[Path]:
    """The files that the imports of a file may mean, whether or not they are there."""
    file = file.absolute() if (file.parent / "__init__.py").is_file() else file
    top = file.parent  # the folder beside whose files its package stands; its own, where in none
    while (top / "__init__.py").is_file():
        top = top.parent
    installed = file.parent.name in ("site-packages", "dist-packages")  # beside all there is
    found: list[Path] = []
    for node in ast.walk(parsed(file.read_bytes())):
        if isinstance(node, ast.Import):
            names, level = [x.name.split(".") for x in node.names], 0
        elif isinstance(node, ast.ImportFrom):
            module, level = [x for x in (node.module or "").split(".") if x], node.level
            names = [[*module, x.name] for x in node.names]
        else:
            continue
        for parts in names:
            if level:  # of a package; elsewhere there is nothing above
                folders = file.parents[level - 1 : level]
            else:
                within = file.relative_to(top).parts[0] == parts[0]
                folders = [] if installed or parts[0] == "alignax" else [file.parent]
                folders += [top] if within else []
            for folder in folders:
                for place in (folder.joinpath(*parts[: i + 1]) for i in range(len(parts))):
                    found += [place.with_name(f"{place.name}.py"), place / "__init__.py"]
    return found


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
