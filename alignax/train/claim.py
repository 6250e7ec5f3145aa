"""One run at a time in an output_dir: a claim, which the first process holds while it trains.

    OUTPUT/.claim     who trains here; locked, and touched every ten seconds

The operating system gives the lock back when its holder ends, however it ends; a file server may
keep that of a host that is gone. So one that has not been touched for two minutes is nobody's. A
process that was only paused for so long ends at once when it finds another's claim in its place:
two that write into one folder would leave neither's run.
"""

import contextlib
import fcntl
import logging
import os
import platform
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from alignax.core import processes
from alignax.core.errors import BadInput

log = logging.getLogger("alignax")
FILE = ".claim"
TOUCHED, ABANDONED = 10.0, 120.0  # seconds


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder. Holds nothing where the file system has no locks.

    Raises:
        BadInput: another process holds the claim.
    """
    # Processes in containers may share their number and the name of their host.
    own = f"process {os.getpid()} on {platform.node()}\n{secrets.token_hex(16)}"
    file = _take(folder / FILE, own) if processes.is_first() else None
    if file is None:
        yield
        return
    ended = threading.Event()
    touching = threading.Thread(target=_touch, args=(folder / FILE, file, own, ended), daemon=True)
    touching.start()
    try:
        yield
    finally:
        ended.set()
        touching.join()
        with contextlib.suppress(OSError):
            if _is_still(folder / FILE, file):
                (folder / FILE).unlink()
        file.close()


def _take(path: Path, own: str) -> TextIOWrapper | None:
    """The file, locked; None where there can be no lock."""
    while True:
        try:
            file = path.open("a+")
        except OSError:  # what cannot be written is for those to say who have something to write
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, file):  # and not deleted meanwhile by the one who held it
                file.truncate(0)
                file.write(own)
                file.flush()
                return file
        except BlockingIOError:
            with file:
                _refuse(path, file)
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()
            file.close()
            return None
        file.close()


def _refuse(path: Path, file: TextIOWrapper) -> None:
    """Raises, unless the holder has not been heard of for long: then the file is deleted."""
    with contextlib.suppress(FileNotFoundError):  # the holder has ended
        if _now(path.parent) - os.fstat(file.fileno()).st_mtime < ABANDONED:
            raise BadInput(
                "an output_dir in which no run is at work",
                f"{_who(path.read_text()) or 'another process'} trains there",
                "Stop it, or wait for its end; or give another output_dir.",
                where=str(path.parent),
            )
        if _is_still(path, file):
            path.unlink()


def _now(folder: Path) -> float:
    """The time by the clock that notes touches, which on a file server is not this host's."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"now")
            probe.flush()
            return os.fstat(probe.fileno()).st_mtime
    except OSError:  # a full disk
        return time.time()


def _touch(path: Path, file: TextIOWrapper, own: str, ended: threading.Event) -> None:
    while not ended.wait(TOUCHED):
        with contextlib.suppress(OSError):
            who = path.read_bytes().decode(errors="replace")
            # Not by inodes alone: some network file systems number a file anew.
            if who and who != own and not _is_still(path, file):
                log.critical(
                    "%s: %s has taken this folder, while this process was paused: it ends here, "
                    "and saves nothing.", path.parent, _who(who),
                )  # fmt: skip
                os._exit(1)
        with contextlib.suppress(OSError):
            os.utime(file.fileno())


def _who(text: str) -> str:
    return text.partition("\n")[0]


def _is_still(path: Path, file: TextIOWrapper) -> bool:
    """Whether the path is this open file's."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
