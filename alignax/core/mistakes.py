"""What is wrong with a config file, told at its line: Python's own errors in three parts.

Settings that are misspelt, missing or not given by name, names that are not there, imports that
fail, and text that is not Python. Any other error of the file keeps its trace.
"""

import contextlib
import dataclasses
import re
import sys
import traceback
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignax.core.errors import BadInput
from alignax.core.setting_types import nearest

UNKNOWN = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
MISSING = re.compile(r"(\w+)\.__init__\(\) missing \d+ required keyword-only arguments?: (.+)")
UNNAMED = re.compile(r"(\w+)\.__init__\(\) takes 1 positional argument but (\d+)\b.* were given")
NOT_THERE = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")


class Mistake(NamedTuple):
    """What was expected, what came, what to do."""

    expected: str
    got: str
    remedy: str


@contextlib.contextmanager
def told(path: Path, kinds: Sequence[type]) -> Iterator[None]:
    """Answers what is wrong with a config file at `file:line`.

    Args:
        kinds: the classes whose settings the file may write, with all that these may hold.

    Raises:
        BadInput: in place of Python's error.
    """
    try:
        yield
    except SyntaxError as error:
        raise BadInput(
            "a Python config file",
            f"{error.msg}: {(error.text or '').strip()!r}",
            "Mend the line.",
            where=f"{error.filename}:{error.lineno}",
        ) from error
    except (TypeError, ImportError, NameError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        # Of the file itself, or of one that it imports: not of a library that they call.
        written = [x for x in frames if not x.filename.startswith("<frozen importlib")]
        near = path.resolve().parent
        own = [x for x in written[-1:] if Path(x.filename).resolve().parent == near]
        mistake = _mistake(error, kinds)
        if mistake is None or not own:
            raise
        same = Path(own[-1].filename).resolve() == path.resolve()
        place = path if same else own[-1].filename
        raise BadInput(*mistake, where=f"{place}:{own[-1].lineno}") from error


def _mistake(error: Exception, kinds: Sequence[type]) -> Mistake | None:
    if isinstance(error, NameError):
        near = nearest(str(error.name), list(sys.modules["alignax"].__all__))
        remedy = f"from alignax import {near}" if near else "Define or import it."
        return Mistake("names that the file defines or imports", str(error.name), remedy)
    if isinstance(error, ImportError):
        return _import(error)
    text = str(error)
    if wrong := UNKNOWN.search(text):
        settings, name = wrong.groups()
        known = _fields_of(settings, name, kinds)
        near = nearest(name, known)
        return Mistake(
            f"a setting of {settings}" + (f": {', '.join(known)}" if known else ""),
            name,
            f"Did you mean {near}?" if near else "Rename or remove it.",
        )
    if wrong := MISSING.search(text):
        settings, names = wrong[1], re.findall(r"'(\w+)'", wrong[2])
        return Mistake(
            f"all settings of {settings} that have no default",
            f"no {', no '.join(names)}",
            f"Write {settings}(..., {names[0]}=VALUE).",
        )
    if wrong := UNNAMED.search(text):
        known = _fields_of(wrong[1], "", kinds)
        return Mistake(
            f"settings of {wrong[1]} by name" + (f": {', '.join(known)}" if known else ""),
            f"{int(wrong[2]) - 1} without a name",
            f"Write {wrong[1]}({known[0] if known else 'name'}=...).",
        )
    return None


def _import(error: ImportError) -> Mistake:
    if wrong := NOT_THERE.search(str(error)):
        name, module = wrong.groups()
        near = nearest(name, dir(sys.modules.get(module)))
        remedy = f"Did you mean {near}?" if near else "Mend the import."
        return Mistake(f"a name that {module} has", name, remedy)
    near = nearest(str(error.name), ["alignax", *sys.stdlib_module_names])
    remedy = f"Did you mean {near}?" if near else "Mend the import, or install what it names."
    return Mistake("modules that can be imported", str(error), remedy)


def _fields_of(settings: str, name: str, kinds: Sequence[type]) -> list[str]:
    """The settings of the dataclass of this name, among all that values of `kinds` may hold.

    Of several classes of one name it is one that does not have this setting, and that which has
    something like it.
    """
    seen, found = set(), []
    ahead: list[Any] = [*kinds]
    while ahead:
        one = ahead.pop(0)
        has_settings = hasattr(one, "__dataclass_fields__")
        if one in seen or not (has_settings or one.__module__.startswith("alignax.")):
            continue
        seen.add(one)
        ahead += one.__subclasses__()  # of a method or a reward, those that there are
        if not has_settings:
            continue
        if one.__name__ == settings:
            found.append([field.name for field in dataclasses.fields(one)])
        with contextlib.suppress(NameError):  # a stranger's class may name what is not there
            for hint in typing.get_type_hints(one).values():
                ahead += _classes_within(hint)
    found = [known for known in found if name not in known]
    return max(found, key=lambda known: nearest(name, known) is not None, default=[])


def _classes_within(hint: Any) -> list[type]:
    """The classes that a type names, those within a tuple too."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return [hint]
    return [one for part in typing.get_args(hint) for one in _classes_within(part)]
