"""Files of strangers, many of them: each is read, or refused in words, and nothing else happens.

    python -m benchmarks fuzz --inputs 100000
    python -m benchmarks fuzz --inputs 2000 --parsers GGUF "chat template"

Each parser has a process of its own. An input is a change of a good file (`hostile`, `parsers`),
drawn from the seed, the parser's name and the input's number. Held against every input:

- it is read, or `BadInput` is raised: no other error;
- no file outside its folder is opened, no program started, no connection made, nothing unpickled,
  no code executed: all of which Python itself reports (audit events);
- it takes at most 20 seconds and 1 GiB of address space beyond what the process had before.

Prints a row for each parser; ends with exit status 1 where something was found. As many parsers
are at work as there are processors.

Neither hypothesis nor atheris draws the inputs. What is held against them is of a process and not
of a call; an input is found again by its number, without a database of examples; and with three
changes at most there is nothing to shrink. atheris steers by the coverage of Python's own code, and
most of these readers are Rust or C++.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.hostile import Files, Folder
from benchmarks.parsers import PARSERS
from benchmarks.row_parsers import REFUSED

SECONDS = 20
MEMORY = 1 << 30
MOST_FOUND = 5
LIBRARIES = tuple({sys.prefix, sys.base_prefix, *filter(None, sys.path), str(Path.cwd())})
WATCHED = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn",
           "subprocess.Popen", "socket.connect", "socket.bind", "socket.getaddrinfo",
           "pickle.find_class", "exec", "ctypes.dlopen", "shutil.rmtree", "os.remove",
           "os.rename")  # fmt: skip


class Escaped(BaseException):
    """Something was done that reading a file does not need. No `except Exception` holds it."""


class TooSlow(BaseException):
    """An input took longer than it may."""


class Watch:
    """Looks at what Python says that it does, while it is on.

    Args:
        allowed: folders below which anything may happen.
    """

    def __init__(self, *allowed: Path):
        self._allowed = tuple(map(str, allowed))
        self._on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on or (event != "open" and event not in WATCHED):
            return
        self._on = False  # looking is no act of the reader's
        try:
            if not self._harmless(event, arguments):
                self.seen.append(f"{event} {arguments!r:.200}")
        finally:
            self._on = True
        if self.seen:
            raise Escaped(self.seen[0])

    def _harmless(self, event: str, arguments: tuple[Any, ...]) -> bool:
        first = arguments[0] if arguments else ""
        if event == "exec":
            # Modules of libraries, which are imported when first needed.
            return first.co_filename.startswith((*LIBRARIES, "<frozen"))
        if event == "subprocess.Popen":  # anew after a template had to be ended
            return any(str(x).endswith("template_process.py") for x in arguments[1])
        if event == "open" and isinstance(first, int):
            return True
        if isinstance(first, bytes):
            first = os.fsdecode(first)
        path = os.path.realpath(first) if isinstance(first, str | os.PathLike) else ""
        if event in ("open", "os.remove", "os.rename", "shutil.rmtree"):
            reading = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
            return path.startswith(self._allowed) or (
                reading and path.startswith((*LIBRARIES, "/dev/null", "/proc/self", "/dev/urandom"))
            )
        return False

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self._on = True
        try:
            yield
        finally:
            self._on = False
        if self.seen:  # and then swallowed
            raise Escaped(self.seen.pop())


def fuzz_one(name: str, inputs: int, seed: int, answers: Any) -> None:
    """The process of one parser; puts into `answers` its row and what was found."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    warnings.simplefilter("ignore")
    logging.disable()
    for told in (1, 2):  # libraries tell of what they pass over
        os.dup2(os.open(os.devnull, os.O_WRONLY), told)
    (folder / "good").mkdir()
    os.chdir(folder)
    parser = PARSERS[name](folder / "good")
    held = Folder(folder / "files")
    watch = Watch(folder)
    counts: collections.Counter[str] = collections.Counter()
    slowest = 0.0

    def late(*_: Any) -> None:
        raise TooSlow(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)

    def look(files: Files) -> None:
        nonlocal slowest
        held.hold(files)
        began = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            with watch():
                parser.read(held.path)
            counts["read"] += 1
        except REFUSED:
            counts["refused"] += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            watch.seen.clear()
            slowest = max(slowest, time.perf_counter() - began)

    held.hold(parser.whole)
    parser.read(held.path)  # imports what is needed
    look(parser.whole)
    assert counts.pop("read") == 1, counts
    limited()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, found = time.perf_counter(), []
    for number in range(inputs):
        try:
            look(parser.changed(random.Random(f"{seed}/{name}/{number}")))
        except BaseException as error:
            where = "".join(traceback.format_exception(error)[-6:])[-3000:]
            found.append(f"{name}, input {number}:\n{where}")
            if len(found) == MOST_FOUND:
                break
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    row = (name, counts["read"], counts["refused"], len(found), slowest, grown,
           time.perf_counter() - began)  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    answers.put((row, found))


def limited() -> None:
    """No more address space than `MEMORY` beyond what there is."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def fuzz(options: argparse.Namespace, _: Sequence[str]) -> None:
    """The command."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["HF_HUB_OFFLINE"] = "1"
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["benchmarks.fuzz"])
    print("| parser | read | refused | found | slowest | memory | all |\n"
          "| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)  # fmt: skip

    def of(name: str) -> bool:
        answers = forks.SimpleQueue()
        process = forks.Process(target=fuzz_one, args=(name, options.inputs, options.seed, answers))
        process.start()
        process.join()
        if answers.empty():
            print(f"| {name} | its process ended with {process.exitcode} |", flush=True)
            return False
        row, found = answers.get()
        told = "| {} | {:,} | {:,} | {} | {:.2f} s | +{:.0f} MB | {:.0f} s |".format(*row)
        print(told, flush=True)
        for one in found:
            print(one, file=sys.stderr, flush=True)
        return not found

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        well = list(pool.map(of, options.parsers or PARSERS))
    if not all(well):
        sys.exit(1)
