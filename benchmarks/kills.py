"""SIGKILL at random moments, until the run ends: does it end as if nobody had killed it?

    python -m benchmarks kills --times 100
    python -m benchmarks kills --times 100 --pause 0.01     # on a file system that is slow

Two small runs, DPO on a data set and PPO on its own samples, each killed so many times. A process
is killed at a moment drawn evenly over the processor time of an unbroken one (which other work on
the machine does not stretch), and started again, until the run has ended; then another begins, with
no prepared data. What it left is held against what the
unbroken one left: the names of all files, every file of the run byte for byte (clocks apart), and
every array of every checkpoint bit for bit.

Imports are done once, in a server that forks each process before JAX has started in it: a restart
costs what the run itself costs. Programs are compiled by the unbroken run and found on disk by the
others. With `--pause`, Python's file operations below the run's folder (creating, renaming,
deleting) take so many seconds more of that time, so that kills fall between them; the data of
arrays are written by Orbax in C++ and take no more.
"""

import argparse
import collections
import contextlib
import functools
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

import alignax.run
from alignax import jobs
from alignax.config import Evaluation, Experiment
from alignax.core.records import Prompt
from alignax.feeds import Rounds
from alignax.generate.reward_functions import Function
from alignax.generate.rewards import Rewards
from alignax.generate.rollout import Rollout
from alignax.generate.sampler import Sampler
from alignax.measuring import Evaluator
from alignax.methods import PPO
from alignax.train import reference
from alignax.train.checkpoint import Checkpoints
from alignax.train.integrity import damage, read_record
from alignax.train.loop import Loop
from tests.tiny_model import experiment as tiny
from tests.tiny_model import write_rows

# Where a process can be: what it calls, by the name of the phase. The innermost one counts.
PHASES: Sequence[tuple[str, Any, str]] = (
    ("prepare", alignax.run, "prepare"),
    ("prepare", alignax.run, "load_prompts"),
    ("reference", reference, "cached"),
    ("restore", jobs, "restore"),
    ("update", jobs, "train_loop"),
    ("evaluate", Evaluator, "__call__"),
    ("rollout", Rounds, "draw"),
    ("save", Checkpoints, "save"),
    ("export", jobs, "export"),
)
NAMES = ("start", *dict.fromkeys(name for name, _, _ in PHASES))
CLOCKS = "timings.jsonl"


def even(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """A reward: the share of tokens with even numbers."""
    return [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]


def offline(folder: Path) -> Experiment:
    """DPO; three updates an epoch, so that most checkpoints are from the middle of one."""
    return tiny(
        folder,
        loop=Loop(batch_size=8, max_steps=12, save_steps=2, eval_steps=5),
        evaluation=Evaluation(num_prompts=2, sampler=Sampler(max_new_tokens=4)),
        tensorboard=False,
    )


def sampled(folder: Path) -> Experiment:
    """PPO; rounds of four updates, and a checkpoint at each update."""
    made = tiny(
        folder,
        method=PPO(refresh=4, epochs=2),
        loop=Loop(batch_size=8, max_steps=8, save_steps=1),
        rollout=Rollout(
            rewards=Rewards(parts=(Function(function=even),)), max_new_tokens=6, slots=16
        ),
        evaluation=Evaluation(num_prompts=2, sampler=Sampler(max_new_tokens=4)),
        tensorboard=False,
    )
    write_rows(folder / "train.jsonl", 24, Prompt)
    write_rows(folder / "test.jsonl", 8, Prompt)
    return made


KINDS: dict[str, Callable[[Path], Experiment]] = {"offline": offline, "sampled": sampled}


def attempt(kind: str, folder: Path, pause: float) -> None:
    """One process of a run, which says in the file `phase` where it is."""
    os.chdir(folder)  # where there is no repository whose state would be noted
    printed = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    made = KINDS[kind](folder)
    _tell_phases(os.open("phase", os.O_CREAT | os.O_WRONLY))
    if pause:
        _slow(folder, pause)
    jobs.train(made, quiet=True)


def _tell_phases(file: int) -> None:
    """Has the functions of `PHASES`, and the thread that saves, note when they are at work."""
    place = ["start"]

    def note() -> None:
        os.pwrite(file, place[-1].ljust(16).encode(), 0)

    def told(name: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            place.append(name)
            note()
            try:
                return function(*arguments, **named)
            finally:
                place.pop()
                note()

        return call

    for name, owner, attribute in PHASES:
        setattr(owner, attribute, told(name, getattr(owner, attribute)))
    finish = Checkpoints._finish

    def finishing(*arguments: Any) -> None:
        os.pwrite(file, b"saving", 16)
        finish(*arguments)
        os.pwrite(file, b"      ", 16)

    Checkpoints._finish = finishing
    os.pwrite(file, b" " * 22, 0)
    note()


def _slow(folder: Path, pause: float) -> None:
    """Has every file operation of Python's below `folder` that changes something wait first."""
    changing = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not flags & writing:
                return
        elif event in changing:
            path = arguments[0]
        else:
            return
        if isinstance(path, str | os.PathLike) and str(path).startswith(str(folder)):
            until = time.thread_time() + pause
            while time.thread_time() < until:
                pass

    sys.addaudithook(hook)


class Killed:
    """Runs of one kind in a folder, always of the same path, so that they are told the same."""

    def __init__(self, kind: str, folder: Path, pause: float):
        self.kind, self.folder, self._pause = kind, folder, pause
        self.seconds = 0.0  # of processor time, that the last process took
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload(["benchmarks.kills"])

    def run(self, limit: float = math.inf) -> bool:
        """One process, killed after `limit` seconds of processor time; whether it ended before."""
        process = self._forks.Process(target=attempt, args=(self.kind, self.folder, self._pause))
        process.start()
        assert process.pid is not None
        clock = ~process.pid << 3 | 2  # of that process, on Linux
        while process.is_alive():
            with contextlib.suppress(OSError):  # it has ended
                self.seconds = time.clock_gettime(clock)
            if self.seconds >= limit:
                process.kill()
            process.join(0.001)
        if process.exitcode not in (0, -signal.SIGKILL):
            raise SystemExit((self.folder / "log").read_text())
        return process.exitcode == 0

    def phase(self) -> tuple[str, bool]:
        """Where the last process was, and whether a checkpoint was being written beside."""
        path = self.folder / "phase"
        told = path.read_bytes() if path.exists() else b""
        return told[:16].decode().strip() or "start", told[16:22] == b"saving"

    def clear(self) -> None:
        """As before the first process, but for the model and what was compiled."""
        for name in ("run", "cache", "phase", "log"):
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def differences(ended: Path, unbroken: Path) -> list[str]:
    """What a run left otherwise than an unbroken one did; each folder holds `run` and `cache`."""
    found = [f"{name}: {why}" for name, why in _names(ended, unbroken)]
    for path in sorted((unbroken / "run").rglob("*")):
        name = path.relative_to(unbroken)
        if not path.is_file() or "checkpoint-" in str(name) or not (ended / name).is_file():
            continue
        one, two = (ended / name).read_bytes(), path.read_bytes()
        if name.name == CLOCKS:
            one, two = ([json.loads(x)["step"] for x in y.splitlines()] for y in (one, two))
        if one != two:
            found.append(f"{name}: another content")
    for path in sorted((unbroken / "run").glob("checkpoint-*")):
        other = ended / "run" / path.name
        if other.is_dir():
            found += [f"{path.name}: {why}" for why in _arrays_differ(other, path)]
    return found


def _names(ended: Path, unbroken: Path) -> list[tuple[str, str]]:
    """Names in one folder and not in the other. Orbax names the files in a checkpoint by chance."""

    def names(folder: Path) -> set[str]:
        paths = [p for top in ("run", "cache") for p in (folder / top).rglob("*")]
        parts = [p.relative_to(folder).parts for p in paths]
        return {"/".join(x[:2] if "checkpoint-" in x[1] else x) for x in parts}

    one, two = names(ended), names(unbroken)
    return [(x, "left over") for x in sorted(one - two)] + [
        (x, "missing") for x in sorted(two - one)
    ]


def _arrays_differ(one: Path, other: Path) -> list[str]:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    loaded = []
    for path in (one, other):
        if (reason := damage(path)) is not None:
            return [reason]
        wanted = {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
            for name, (shape, dtype) in read_record(path)["leaves"].items()
        }
        loaded.append({name: np.asarray(x) for name, x in ocp.load(path, wanted).items()})
    if loaded[0].keys() != loaded[1].keys():
        return ["other arrays"]
    return [x for x in loaded[0] if loaded[0][x].tobytes() != loaded[1][x].tobytes()]


def kill(kind: str, times: int, seed: int, pause: float, folder: Path) -> bool:
    """Kills runs of one kind so many times, and prints what came of it; whether all was well."""
    folder.mkdir(parents=True)
    killed, unbroken = Killed(kind, folder, pause), folder.with_name(f"{kind}-unbroken")
    killed.run()  # compiles
    killed.clear()
    killed.run()
    length = killed.seconds
    unbroken.mkdir()
    for name in ("run", "cache"):
        if (folder / name).exists():  # prompts are not kept prepared
            (folder / name).rename(unbroken / name)
    killed.clear()
    print(f"{kind}: an unbroken process takes {length:.1f} s of processor time; seed {seed}",
          flush=True)  # fmt: skip
    draw, where, beside = random.Random(seed), collections.Counter(), collections.Counter()
    count = runs = longest = lives = wrong = 0
    while count < times or lives:
        # The last run is let go to its end.
        ended = killed.run(draw.random() * length if count < times else math.inf)
        lives += 1
        if not ended:
            phase, saving = killed.phase()
            where[phase] += 1
            beside[phase] += saving
            count += 1
            continue
        found = differences(folder, unbroken)
        runs, longest = runs + 1, max(longest, lives)
        print(f"run {runs}: {lives} processes, {len(found)} differences", flush=True)
        lives = 0
        wrong += bool(found)
        for line in found:
            print(f"  run {runs}: {line}", flush=True)
        if found:
            shutil.copytree(folder, folder.with_name(f"{kind}-differs-{runs}"))
        killed.clear()
    print(f"{count} kills in {runs} runs, at most {longest} processes to a run: "
          f"{runs - wrong} of {runs} ended like the unbroken one")  # fmt: skip
    print("| killed in | times | while a checkpoint was being written |\n| --- | ---: | ---: |")
    for name in NAMES:
        if where[name]:
            print(f"| {name} | {where[name]} | {beside[name]} |")
    return not wrong


def kills(options: argparse.Namespace, _: Sequence[str]) -> None:
    """The command."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # one device, quickly compiled
    well = [kill(kind, options.times, options.seed, options.pause, folder / kind)
            for kind in options.kinds]  # fmt: skip
    if not all(well):
        raise SystemExit(f"what differs is kept in {folder}")
    shutil.rmtree(folder)
