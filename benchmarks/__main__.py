"""The benchmarks as one program.

    python -m benchmarks train --against trl tunix easydel raw --rounds 3
    python -m benchmarks sample --against trl
    python -m benchmarks scale --devices 1 2 4 8
    python -m benchmarks sweep --seeds 8
    python -m benchmarks start_up --times 5
    python -m benchmarks decode_step --batch 64
    python -m benchmarks kills --times 100
    python -m benchmarks fuzz --inputs 100000
    python -m benchmarks plans
    python -m benchmarks environments

How, and what is fair about it: benchmarks/README.md.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

from benchmarks import devices
from benchmarks.peers import PEERS, PROGRAMS, REQUIREMENTS, make
from benchmarks.plans import SLICES
from benchmarks.shapes import SHAPES

MODULES = {"scale": "train", "start_up": "starting"}  # of the others the name is the command's


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--platform", choices=("cpu", "gpu"), default="cpu")
    numbers = argparse.ArgumentParser(add_help=False)
    numbers.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the arithmetic"
    )
    shared = argparse.ArgumentParser(add_help=False, parents=[where])
    shared.add_argument("--environments", type=Path, metavar="DIR", help="of the other libraries")
    dry = argparse.ArgumentParser(add_help=False)
    dry.add_argument("--dry", action="store_true", help="print, and leave RESULTS.md as it is")
    timed = argparse.ArgumentParser(add_help=False, parents=[shared, numbers, dry])
    timed.add_argument("--rounds", type=int, default=3)
    timed.add_argument("--warmup", type=int, default=2, help="first steps, which are not counted")
    timed.add_argument("--tiny", action="store_true", help="a tiny model: does everything run?")
    beside = argparse.ArgumentParser(add_help=False, parents=[timed])
    beside.add_argument("--against", nargs="*", default=[], choices=PEERS)
    beside.add_argument("--steps", type=int, default=5, help="timed, in each run")
    train = commands.add_parser("train", parents=[beside], help="the same update by every program")
    train.add_argument("--shapes", nargs="*", choices=SHAPES, help="those alone, in every round")
    names = [program.name for program in PROGRAMS]
    train.add_argument("--programs", nargs="*", choices=names, help="those alone, beside ours")
    scale = commands.add_parser("scale", parents=[beside], help="over widths and devices")
    scale.add_argument(
        "--devices", nargs="*", type=int, default=[1, 2, 4, 8], help="virtual ones, of a CPU"
    )
    sample = commands.add_parser("sample", parents=[timed], help="samples of many prompts")
    # Not by `set_defaults`, which would change the default of all that share the argument.
    sample.add_argument("--steps", type=int, default=1, help="drawings, in each run")
    sample.add_argument(
        "--against", nargs="*", default=[], choices=("trl",),
        help="transformers, which is in the environment of trl; the others' samplers are not timed",
    )  # fmt: skip
    sample.add_argument("--lengths", nargs="*", choices=("equal", "mix"), default=["equal", "mix"])
    kills = commands.add_parser("kills", help="SIGKILL at random moments: what comes of the run")
    kills.add_argument("--times", type=int, default=100, help="of each kind")
    kills.add_argument("--kinds", nargs="*", default=["offline", "sampled"])
    kills.add_argument("--pause", type=float, default=0.0, help="seconds before a file operation")
    kills.add_argument("--seed", type=int, default=0)
    fuzz = commands.add_parser("fuzz", help="files of strangers: read, or refused in words")
    fuzz.add_argument("--inputs", type=int, default=100_000, help="to each parser")
    fuzz.add_argument("--parsers", nargs="*", help="those alone")
    fuzz.add_argument("--seed", type=int, default=0)
    plans = commands.add_parser("plans", help="an update on slices of 8 to 4,096 chips, compiled")
    plans.add_argument("--chips", nargs="*", type=int, choices=SLICES, default=list(SLICES))
    commands.add_parser("environments", parents=[shared], help="makes the peers' environments")
    sweep = commands.add_parser("sweep", parents=[dry], help="many seeds in one program")
    sweep.add_argument("--seeds", type=int, default=8)
    sweep.add_argument("--steps", type=int, default=40, help="updates of each run")
    sweep.add_argument("--rounds", type=int, default=3)
    start_up = commands.add_parser(
        "start_up", parents=[dry], help="from the start of a process to its first update"
    )
    start_up.add_argument("--times", type=int, default=5, help="warm starts, after one cold")
    start_up.add_argument("--config", default="configs/quickstart.py")
    decode = commands.add_parser(
        "decode_step", parents=[where, numbers], help="what a token of every response costs"
    )
    decode.add_argument("--rounds", type=int, default=5)
    decode.add_argument(
        "--tokens", type=int, default=5, help="of every response, in the shorter of two calls"
    )
    decode.add_argument("--model", choices=("135m", "1b", "3b"), default="135m")
    decode.add_argument("--batch", type=int, help="responses at once; without it several numbers")
    return top


def main() -> None:
    arguments = sys.argv[1:]
    # Large pages for the processes of all programs alike, as the command `alignax` has them.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    options = parser().parse_args(arguments)
    devices.settle(options)
    if options.command == "environments":
        for name in REQUIREMENTS:
            print(make(name, options.environments, options.platform))
        return
    if options.command == "decode_step":  # in this process, which has imported no JAX yet
        os.environ.update(devices.surroundings(options.platform, options.dtype))
    module = MODULES.get(options.command, options.command)
    getattr(importlib.import_module(f"benchmarks.{module}"), options.command)(options, arguments)


if __name__ == "__main__":
    main()
