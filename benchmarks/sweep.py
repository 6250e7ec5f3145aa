"""`sweep`: what do eight seeds cost? One program of a tiny model against as many runs.

DPO on the model and the data of `learns.py` (stories260k, 260,032 parameters; 8 pairs of up to 64 +
80 tokens a step), each run a process of its own with start-up, compilation, evaluation before and
after, checkpoint and export; nothing is compiled before. In turn: a run alone, a sweep, a run
alone, ... and "eight runs" is eight times the run alone of the same round: they are not run.
Processor seconds are given too, since wall time on a machine with other work says little. The
steps' medians, compilation left out, are of the runs' own timings.jsonl.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import tables
from benchmarks.timing import ROOT, Record, Run

CONFIG = """
import dataclasses, sys
sys.path.insert(0, {folder!r})
import learns

def experiment():
    row = dataclasses.replace(learns.ROWS["dpo"], steps={steps})
    made = learns.experiment("dpo", row, seed=0)
    mesh = dataclasses.replace(made.mesh, data=1)
    return dataclasses.replace(made, output_dir={output!r}, mesh=mesh)
"""
ALONE = "a run alone"


def sweep(options: argparse.Namespace, arguments: list[str]) -> None:
    """A run alone and a sweep in turn, `options.rounds` times, into RESULTS.md."""
    together = f"{options.seeds} seeds in one program"
    record = Record.begin(arguments, vars(options))
    with tempfile.TemporaryDirectory(prefix="alignax-") as name:
        config, output = Path(name) / "config.py", Path(name) / "run"
        here = str(Path(__file__).parent)
        config.write_text(CONFIG.format(folder=here, steps=options.steps, output=str(output)))
        seeds = ("--seeds", str(options.seeds))
        run(config, output, *seeds)  # prepares the data and the reference's log-probabilities
        for number in range(options.rounds):
            for program, how in ((ALONE, ()), (together, seeds)):
                found = run(config, output, *how)
                found.program, found.round = program, number
                record.add(found)
    parts = [
        tables.heading(record, f"{options.seeds} seeds in one program, {record.when[:10]}"),
        f"DPO on stories260k, {options.steps} updates, from the start of the process to the "
        f"export; medians of {options.rounds}. \"One after another\" is {options.seeds} times the "
        "run alone of the same round; `ratio` is the program with all seeds over that, with the "
        "least and the greatest.",
        table(record.runs, options.seeds),
    ]  # fmt: skip
    tables.finish(options, *parts)


def run(config: Path, output: Path, *options: str) -> Run:
    """Wall and processor seconds of one process from start to export, and its median step."""
    shutil.rmtree(output, ignore_errors=True)
    hidden = ("JAX_COMPILATION_CACHE_DIR",)
    environment = {name: x for name, x in os.environ.items() if name not in hidden}
    # Set, because the config that is imported would name a folder.
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    command = [sys.executable, "-m", "alignax.cli", "train", str(config), *options]
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        code = os.waitstatus_to_exitcode(status)
        sys.exit(f"expected exit status 0; got {code} from {' '.join(command)}")
    seconds = time.perf_counter() - began
    lines = (output / "timings.jsonl").read_text().splitlines()
    return Run(
        shape="sweep",
        program="",
        round=0,
        seconds=[seconds],
        peak_mib=usage.ru_maxrss / 1024,
        versions={"jax": importlib.metadata.version("jax")},
        also={
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "step": statistics.median(json.loads(line)["seconds"] for line in lines[2:]),
        },
    )


def table(runs: Sequence[Run], seeds: int) -> str:
    """One run, all seeds in one program, as many runs one after another, and their ratio."""
    alone = [found for found in runs if found.program == ALONE]
    together = [found for found in runs if found.program != ALONE]
    asked: dict[str, Callable[[Run], float]] = {
        "wall, s": lambda found: found.seconds[0],
        "processor, s": lambda found: found.also["cpu_seconds"],
        "a step, s": lambda found: found.also["step"],
    }
    rows = []
    for name, of in asked.items():
        one = statistics.median(map(of, alone))
        ratios = sorted(
            of(all_) / of(each) / seeds for each, all_ in zip(alone, together, strict=True)
        )
        rows.append(
            [
                name,
                f"{one:.3f}",
                f"{statistics.median(map(of, together)):.3f}",
                f"{seeds * one:.3f}",
                f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
            ]
        )
    header = (
        "", "one run", f"{seeds} seeds in one program", f"{seeds} runs one after another", "ratio",
    )  # fmt: skip
    return tables.table(header, rows)
