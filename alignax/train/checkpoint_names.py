"""What a run's folder says of its checkpoints by names and records alone, and whether one fits in.

output_dir/checkpoint-<step>/           whole when it was given this name
output_dir/checkpoint-<step>.partial*   one that a kill or an error cut short
"""

import contextlib
import errno
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath

from alignax.core.errors import BadInput
from alignax.train.integrity import RECORD, read_record

PARTIAL = ".partial"
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)  # of a record


def saved_experiment(directory: str | Path | epath.Path) -> dict[str, Any] | None:
    """The settings that the newest checkpoint with a readable record was saved by.

    Reads no arrays, so that a run can be refused before anything is computed for it.
    """
    path = resolve(directory)
    for step in sorted(steps(path), reverse=True):
        with contextlib.suppress(*UNREADABLE):
            return read_record(path / f"checkpoint-{step}")["experiment"]
    return None


def check_writable(directory: str | Path | epath.Path, needed_bytes: int) -> None:
    """Refuses a directory that a run could not save to; called before anything is allocated.

    Args:
        directory: the run's output_dir; it is made.
        needed_bytes: of the checkpoints that will be kept beside those there are, and of one more
            while it is written.

    Raises:
        BadInput: where it cannot be written, or its disk has less free space.
    """
    path = resolve(directory)
    probe = path / f"writable{PARTIAL}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink(missing_ok=True)  # every process of a run probes the same directory at once
    except OSError as error:
        raise BadInput(
            "a directory that can be written",
            f"{type(error).__name__}: {error.strerror or error}",
            "Change its permissions, or give another output_dir.",
            where=str(path),
        ) from error
    left = free(path)
    if left is not None and left < needed_bytes:
        raise BadInput(
            f"{needed_bytes:,} bytes of free disk space",
            f"{left:,}",
            "Free some, keep fewer checkpoints, or give another output_dir.",
            where=str(path),
        )


@contextlib.contextmanager
def not_left_empty(directory: str | Path) -> Iterator[None]:
    """Deletes the folders that a run has made on its way to a refusal, where nothing is in them.

    Several processes leave them: another may be about to write there.
    """
    missing = []
    with contextlib.suppress(OSError, RuntimeError, TypeError):  # whoever checks the path says why
        path = Path(directory).expanduser().absolute()
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        yield
    except BadInput:
        with contextlib.suppress(OSError):
            for folder in missing if jax.process_count() == 1 else ():
                folder.rmdir()
        raise


def resolve(directory: str | Path | epath.Path) -> epath.Path:
    """The absolute path.

    Raises:
        BadInput: it has a character that Orbax takes for a pattern.
    """
    # Absolute, because the working directory may change before a save in the background ends.
    path = epath.Path(directory).expanduser().resolve()
    # Orbax looks for the parts of a checkpoint by a pattern that begins with this very path. Where
    # it matches nothing it writes a checkpoint without arrays, and says that all went well.
    if any(character in str(path) for character in "*?["):
        raise BadInput(
            "a path without the characters * ? [",
            str(path),
            "Rename it, or give another output_dir.",
            where="output_dir",
        )
    return path


def free(path: epath.Path) -> int | None:
    """Bytes; None of an object store, which has no free space to speak of."""
    return None if "://" in str(path) else shutil.disk_usage(path).free


def steps(directory: epath.Path) -> list[int]:
    """Of the checkpoints that were given their names."""
    names = [path.name for path in _children(directory)]
    return [int(m[1]) for name in names if (m := re.fullmatch(r"checkpoint-(\d+)", name))]


def targets(steps: Sequence[int], every: int | None) -> list[int]:
    """Those that a run may roll back to: at multiples of `every`; none where that is None."""
    return [step for step in steps if every is not None and step % every == 0]


def kept(steps: Collection[int], keep: int, every: int | None) -> set[int]:
    """The newest `keep` of whole checkpoints, and the newest that a run may roll back to."""
    newest = sorted(steps)
    return {*newest[-keep:], *targets(newest, every)[-1:]}


def partials(directory: epath.Path) -> list[epath.Path]:
    """What was cut short."""
    pattern = rf"checkpoint-\d+{re.escape(PARTIAL)}.*"
    return [path for path in _children(directory) if re.fullmatch(pattern, path.name)]


def _children(directory: epath.Path) -> list[epath.Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def not_written(path: epath.Path, step: int, error: Exception, whole: int | None) -> BadInput:
    """That a save has failed, whether its disk is full, and which checkpoint is still there.

    Args:
        path: the run's output_dir.
        step: the one that was to be saved.
        error: what came of it.
        whole: the newest checkpoint that is not known to be damaged.
    """
    left = (
        "None is there yet" if whole is None else f"{path / f'checkpoint-{whole}'} is still there"
    )
    full = "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC
    room = free(path) if full else None
    room = "" if room is None else f"; {room:,} bytes are free"
    return BadInput(
        "to write the checkpoint",
        f"{type(error).__name__}: {str(error).partition(chr(10))[0]}{room}",
        f"{'Free some disk space' if full else 'Make the directory writable'}, or give another "
        f"output_dir, and start again. {left}.",
        where=str(path / f"checkpoint-{step}"),
    )


def leaves(state: Any) -> dict[str, Any]:
    """The arrays of a state, or what stands for them, by their names in a checkpoint.

    A flat dictionary, because Orbax joins nested names with dots, and so takes "a.b" and "b" in
    "a" for one array; and because it knows nothing of optax's classes.
    """
    pairs = jax.tree_util.tree_leaves_with_path(state)
    found = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in pairs}
    assert len(found) == len(pairs), "two parameters have one name"
    return found


def check_leaves(wanted: dict[str, Any], found: dict[str, Sequence[Any]], path: epath.Path) -> None:
    """Refuses a checkpoint of another model or optimiser.

    Args:
        wanted: an array or its shape and dtype for each name that the run has.
        found: the shape and the name of the dtype of each that was saved.
        path: the checkpoint.

    Raises:
        BadInput: where a name, a shape or a dtype is not the same.
    """

    def describe(shape: Sequence[int], dtype: str) -> str:
        return f"{dtype}[{', '.join(map(str, shape))}]"

    for name in [*wanted, *(name for name in found if name not in wanted)]:
        expected = describe(wanted[name].shape, str(wanted[name].dtype)) if name in wanted else None
        got = describe(*found[name]) if name in found else None
        if expected != got:
            raise BadInput(
                f"{name} of {expected}" if expected else f"no {name}",
                got or "none",
                "It is of another model or optimiser. Resume with the experiment that "
                f"{RECORD} in it holds, or give another output_dir.",
                where=str(path),
            )
