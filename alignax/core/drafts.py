"""Work that appears whole or not at all, and nothing that a killed process leaves of it for ever.

    FOLDER/.draft-HOST-XXXXXXXX/lock     held for as long as its process lives
    FOLDER/.draft-HOST-XXXXXXXX/...      renamed into FOLDER once it is whole

Whoever works in the same folder next deletes the drafts whose lock is free: the operating system
gives a lock back when its holder ends, however it ends. Several processes, on several hosts too,
may work in it at once. Many network file systems know locks of the same host alone, so a draft of
another host is left alone for a day. On a file system without locks a killed process's draft stays.
"""

import contextlib
import fcntl
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = ".draft-"
OWN = f"{PREFIX}{platform.node()}-"
ABANDONED = 24 * 60 * 60  # seconds after which another host's draft is nobody's


@contextlib.contextmanager
def draft(folder: Path) -> Iterator[Path]:
    """A new folder in `folder`, which is made too; deleted with all that was not renamed out of it.

    Raises:
        OSError: `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder)
    while True:
        made = Path(tempfile.mkdtemp(prefix=OWN, dir=folder))
        # Another process may take it for one that was left, until the lock is held.
        with contextlib.suppress(FileNotFoundError):
            lock = (made / "lock").open("w")
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if (made / "lock").exists():
                break
            lock.close()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        lock.close()


def clear(folder: Path) -> None:
    """Deletes the drafts in a folder that no process works on; does nothing without a folder."""
    try:
        left = [path for path in folder.iterdir() if path.name.startswith(PREFIX)]
    except OSError:
        return
    for path in left:
        with contextlib.suppress(OSError):
            # Not by how it begins: another host's name may begin with this one's.
            mine = path.name.rpartition("-")[0] == OWN[:-1]
            if not mine and time.time() - path.stat().st_mtime < ABANDONED:
                continue
            if not (path / "lock").exists():
                path.rmdir()  # killed before there was a lock; not empty where that is no draft
                continue
            with (path / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
