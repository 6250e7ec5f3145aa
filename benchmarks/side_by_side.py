"""Runs several benchmark commands in turn, A B C A B C ..., and compares what they print.

    python benchmarks/side_by_side.py --rounds 3 \\
        --command 'python benchmarks/dpo_step.py' --command 'path/to/python trl_dpo_step.py'

Each command prints one JSON line last, with `s_per_step_median` (or `median_step_s`) and perhaps
`peak_rss_mib`. In turn, so that a machine whose speed drifts drifts for all of them alike; the
table gives each command's median over its rounds, and how many times the first one's that is.
Peak memory is read from the operating system where a command does not print its own.
"""

import dataclasses
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys

import tyro


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is compared."""

    command: tyro.conf.UseAppendAction[tuple[str, ...]]
    """The command lines, once each."""
    rounds: int = 3
    """How often each is run."""
    timeout: float = 900.0
    """Seconds for one run."""


def run(command: str, timeout: float) -> dict[str, float]:
    """One run's step time in seconds and peak memory in MiB."""
    process = subprocess.Popen(
        shlex.split(command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"expected exit status 0; got {status} from\n    {command}")
    found = json.loads(printed.strip().splitlines()[-1])
    return {
        "step": found.get("s_per_step_median", found.get("median_step_s")),
        "best": found.get("s_per_step_min", found.get("min_step_s")),
        "memory": usage.ru_maxrss / 1024,
    }


def main(settings: Settings) -> None:
    runs: dict[str, list[dict[str, float]]] = {command: [] for command in settings.command}
    for number in range(settings.rounds):
        for command in settings.command:
            runs[command].append(run(command, settings.timeout))
            print(f"round {number + 1}: {runs[command][-1]}  {command}", file=sys.stderr)
    columns = ("step", "best", "memory")
    middle = {
        command: {name: statistics.median(r[name] for r in found) for name in columns}
        for command, found in runs.items()
    }
    first = middle[settings.command[0]]
    load = os.getloadavg()[0]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}; {settings.rounds} rounds"
    )
    print("| command | s a step | x | fastest step | x | peak MiB | x |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for command, found in middle.items():
        cells = [
            f"{found[n]:.{0 if n == 'memory' else 3}f} | {found[n] / first[n]:.2f}" for n in columns
        ]
        print(f"| `{command}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(tyro.cli(Settings))
