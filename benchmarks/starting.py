"""`start_up`: a run's way to its first update, cold and then warm, each in a process of its own.

The cold one begins with empty folders for prepared data, reference log-probabilities and compiled
programs, and leaves there what the warm ones find. Files that the system has in memory stay there.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import tables
from benchmarks.timing import Record, Run, run
from benchmarks.train import TIMEOUT

COLD, WARM = "cold", "warm"
# As the command `alignax` keeps programs; JAX's own default leaves out what compiles in a second.
LEAST_SECONDS = "0.2"


def start_up(options: argparse.Namespace, arguments: list[str]) -> None:
    """Starts once cold and `options.times` times warm, into RESULTS.md."""
    record = Record.begin(arguments, vars(options))
    with tempfile.TemporaryDirectory(prefix="alignax-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", "benchmarks.start_up", options.config]
        command += ["--data.cache-dir", str(folder / "data")]
        env = {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": LEAST_SECONDS,
        }
        for number in range(options.times + 1):
            found = Run(shape=options.config, program=WARM if number else COLD, round=number)
            record.add(run(command, found, warmup=0, timeout=TIMEOUT, env=env))
    title = f"From the start of a process to its first update, {record.when[:10]}"
    parts = [
        tables.heading(record, title),
        f"`{options.config}`, seconds since the start: once with nothing on disk, {options.times} "
        "times with prepared data, reference and programs there (median, least to greatest).",
        marks(record.runs),
    ]
    tables.finish(options, *parts)


def marks(runs: list[Run]) -> str:
    """When each part was done, as a table: seconds of wall; of the processor where it is warm."""
    failed = [f"{found.program}: {found.failed}" for found in runs if found.failed]
    good = {
        kind: [found.also["marks"] for found in runs if found.program == kind and not found.failed]
        for kind in (COLD, WARM)
    }
    names = next((list(each[0]) for each in good.values() if each), [])
    rows = []
    for name in names:
        row = [name]
        for kind in (COLD, WARM):
            walls = sorted(found[name][0] for found in good[kind])
            row.append(f"{statistics.median(walls):.2f}" if walls else "")
            if len(walls) > 1:
                row[-1] += f" ({walls[0]:.2f} to {walls[-1]:.2f})"
        processor = [found[name][1] for found in good[WARM]]
        rows.append([*row, f"{statistics.median(processor):.2f}" if processor else ""])
    header = ("done", "cold, s", "warm, s", "of processor, warm")
    return "\n\n".join([tables.table(header, rows), *failed])
