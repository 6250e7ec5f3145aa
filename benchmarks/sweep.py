"""What do eight seeds cost? A sweep of a tiny model against as many runs, one after another.

    python benchmarks/sweep.py --seeds 8 --rounds 3

DPO on the model and the data of `learns.py` (stories260k, 260,032 parameters; 8 pairs of up to 64 +
80 tokens a step), each run a process of its own with start-up, compilation, evaluation before and
after, checkpoint and export; nothing is compiled before. In turn: a run alone, a sweep, a run
alone, ... and "eight runs" is eight times the median run. Processor seconds are given too, since
wall time on a machine with other work says little. Prints one JSON object; the steps' medians,
compilation left out, are of the runs' own timings.jsonl.
"""

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

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


@dataclasses.dataclass(frozen=True)
class Settings:
    """How many and how long."""

    seeds: int = 8
    steps: int = 40
    rounds: int = 3


def run(config: Path, output: Path, *options: str) -> dict[str, float]:
    """Wall and processor seconds of one process from start to export, and its median step."""
    shutil.rmtree(output, ignore_errors=True)
    hidden = ("JAX_COMPILATION_CACHE_DIR",)
    environment = {name: x for name, x in os.environ.items() if name not in hidden}
    # Set, because the config that is imported would name a folder.
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    command = [sys.executable, "-m", "alignax.cli", "train", str(config), *options]
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"expected exit status 0; got {status} from {' '.join(command)}")
    lines = (output / "timings.jsonl").read_text().splitlines()
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "step": statistics.median(json.loads(line)["seconds"] for line in lines[2:]),
    }


def main(settings: Settings) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config, output = Path(folder) / "config.py", Path(folder) / "run"
        config.write_text(
            CONFIG.format(
                folder=str(Path(__file__).parent), steps=settings.steps, output=str(output)
            )
        )
        seeds = ("--seeds", str(settings.seeds))
        run(config, output, *seeds)  # prepares the data and the reference's log-probabilities
        alone, together = [], []
        for _ in range(settings.rounds):
            alone.append(run(config, output))
            together.append(run(config, output, *seeds))
    found = {"seeds": settings.seeds, "steps": settings.steps, "rounds": settings.rounds}
    for name in ("seconds", "cpu_seconds", "step"):
        one, all_ = (statistics.median(x[name] for x in side) for side in (alone, together))
        found |= {
            f"{name}_of_a_run": round(one, 3),
            f"{name}_of_the_sweep": round(all_, 3),
            f"{name}_of_the_sweep_over_{settings.seeds}_runs": round(
                all_ / one / settings.seeds, 3
            ),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(tyro.cli(Settings))
