"""Runs programs in turn, each run a process of its own, and keeps what they say.

In turn (A B C A B C), so that a machine whose speed drifts drifts for all of them alike. A run that
fails or takes too long is a run too: its reason is kept, and the others go on.
"""

import dataclasses
import datetime
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT = Path(__file__).parent / "runs"


@dataclasses.dataclass(kw_only=True)
class Run:
    """One run of one program.

    Fields:
        shape, program, round: which.
        seconds: of its steps, those that warm up left out. losses: of all steps.
        peak_mib: largest resident memory, as the operating system has it.
        versions: of its libraries.
        also: whatever else it printed.
        failed: why there are no numbers.
    """

    shape: str
    program: str
    round: int
    seconds: list[float] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)
    peak_mib: float = 0.0
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    also: dict[str, Any] = dataclasses.field(default_factory=dict)
    failed: str = ""


def run(
    command: Sequence[str], run: Run, *, warmup: int, timeout: float, env: Mapping[str, str]
) -> Run:
    """Fills in what a command prints: one JSON object with `seconds`, the last one of all lines."""
    # This process must stay small: what it holds when it starts another counts in that one's peak.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
        start_new_session=True,
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(timeout, stop)
    timer.start()
    assert process.stdout is not None
    with process.stdout:
        lines = [line.strip() for line in process.stdout if line.strip()]
    _, status, usage = os.wait4(process.pid, 0)
    timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    if late.is_set():
        run.failed = f"took more than {timeout:.0f} s"
    elif process.returncode:
        run.failed = f"exit status {process.returncode}: {lines[-1] if lines else 'no message'}"
    elif not (objects := [line for line in lines if line.startswith('{"')]):
        run.failed = f"printed no numbers: {lines[-1] if lines else 'nothing'}"
    else:
        found = json.loads(objects[-1])
        run.seconds = found.pop("seconds", [])[warmup:]
        run.losses = found.pop("losses", [])
        run.versions = found.pop("versions", {})
        run.also = found
        run.peak_mib = usage.ru_maxrss / 1024
    return run


@dataclasses.dataclass(kw_only=True)
class Record:
    """All runs of one command, written anew after each of them."""

    command: str
    when: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    runs: list[Run] = dataclasses.field(default_factory=list)

    @classmethod
    def begin(cls, arguments: Sequence[str], settings: Mapping[str, Any]) -> "Record":
        """An empty record of a command that begins now."""
        return cls(
            command=f"python -m benchmarks {shlex.join(arguments)}",
            when=datetime.datetime.now().isoformat(timespec="seconds"),
            machine=machine(),
            settings={name: str(value) for name, value in settings.items()},
        )

    def add(self, found: Run, say: str = "") -> None:
        """Keeps a run and tells of it."""
        self.runs.append(found)
        KEPT.mkdir(exist_ok=True)
        name = f"{self.command.split()[3]}-{self.when.replace(':', '')}.json"
        (KEPT / name).write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        told = found.failed or (
            f"{sorted(found.seconds)[len(found.seconds) // 2]:.3f} s a step, "
            f"{found.peak_mib:,.0f} MiB"
            if found.seconds
            else json.dumps(found.also)
        )
        where = f"round {found.round + 1}, {found.shape}, {found.program}"
        print(f"{time.strftime('%H:%M:%S')} {where}: {told}{say}", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """What it runs on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }
