"""`train`: the same update by every program, in turn; `scale`: ours over widths and devices."""

import argparse
import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import devices, tables, workload
from benchmarks.peers import OURS, PROGRAMS, Program, make
from benchmarks.shapes import SHAPES, TINY, Model, Shape
from benchmarks.timing import Record, Run, run

# In every round; the others in the first one.
MAIN = ("dpo 1:1", "dpo 4:1", "rrhf k=6 4:1")
WIDTHS = {
    "d 256, 4 layers": Model(),
    "d 512, 8 layers": Model(layers=8, width=512, heads=8, kv_heads=8, mlp_width=1376),
    "d 768, 12 layers": Model(layers=12, width=768, heads=12, kv_heads=12, mlp_width=2064),
}
TIMEOUT = 900.0  # seconds for one run
LEARNING_RATE = 1e-4


def train(options: argparse.Namespace, arguments: list[str]) -> None:
    """Every shape by every program that can, `options.rounds` times, into RESULTS.md."""
    chosen = options.shapes or [name for name, shape in SHAPES.items() if not shape.by_name]
    shapes = {name: SHAPES[name] for name in chosen}
    if options.tiny:
        shapes = {
            name: dataclasses.replace(shape, model=dataclasses.replace(TINY, tied=shape.model.tied))
            for name, shape in shapes.items()
        }
    programs = [p for p in PROGRAMS if p.peer is None or p.peer in options.against]
    if options.programs:
        programs = [p for p in programs if p is OURS or p.name in options.programs]
    record = Record.begin(arguments, vars(options))
    missing = environments(programs, options)
    with tempfile.TemporaryDirectory(prefix="alignax-") as folder:
        jobs = write_jobs(Path(folder), shapes, options)
        for number in range(options.rounds):
            record.add(rate(Path(folder), number, options))
            for name, shape in shapes.items():
                for program in programs:
                    again = (name in MAIN and not program.once) or options.shapes
                    fits = program.fits(name, shape, options.platform)
                    if not fits or (number and not again):
                        continue
                    record.add(one(program, name, jobs[name], number, missing, options, folder))
    tables.finish(options, *report(record, shapes, options))


def report(record: Record, shapes: Mapping[str, Shape], options: argparse.Namespace) -> list[str]:
    """The section's parts: heading, one table a shape, arithmetic."""
    steps = options.warmup + options.steps
    parts = [tables.heading(record, f"The same update beside others, {record.when[:10]}")]
    for name, shape in shapes.items():
        runs = [run for run in record.runs if run.shape == name]
        if runs:
            tokens = shape.tokens(steps)["concatenated"] / steps
            tokens = tokens if options.platform == "gpu" else None
            table = tables.comparison(
                runs, dtype=options.dtype, tokens=tokens, compared=1 if shape.adapter else None
            )
            parts += [f"{describe(name, shape)}:", table]
    rates = {run.round: run.also["rate"] for run in record.runs if "rate" in run.also}
    if rates:
        said = ", ".join(f"{rate / 1e9:.0f}" for rate in rates.values())
        parts += [
            f"Arithmetic of alignax's step; a large product of matrices ran at {said} GFLOP/s in "
            "each round:",
            tables.arithmetic(
                shapes, record.runs, rates, steps, counted_by_xla=options.platform == "cpu"
            ),
        ]
    return parts


def scale(options: argparse.Namespace, arguments: list[str]) -> None:
    """The step of `dpo 1:1` over widths of the model, and over virtual devices of a CPU."""
    shapes = {
        name: dataclasses.replace(SHAPES["dpo 1:1"], model=TINY if options.tiny else model)
        for name, model in WIDTHS.items()
    }
    record = Record.begin(arguments, vars(options))
    programs = [p for p in PROGRAMS if p is OURS or (p.peer in options.against and not p.only)]
    missing = environments(programs, options)
    counts = options.devices if options.platform == "cpu" else []
    first = next(iter(shapes))
    with tempfile.TemporaryDirectory(prefix="alignax-") as folder:
        split = {"devices": shared_by(counts, shapes[first])} if counts else {}
        jobs = write_jobs(Path(folder), shapes | split, options)
        for number in range(options.rounds):
            record.add(rate(Path(folder), number, options))
            for name, shape in shapes.items():
                for program in programs:
                    if program.fits(name, shape, options.platform):
                        record.add(one(program, name, jobs[name], number, missing, options, folder))
            for count in counts:
                flag = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
                name = dataclasses.replace(OURS, name=f"{count} devices")
                record.add(
                    one(
                        name, "devices", jobs["devices"], number, missing, options, folder, env=flag
                    )
                )
    parts = report(record, shapes, options)
    parts[0] = tables.heading(record, f"Over widths and devices, {record.when[:10]}")
    devices = [run for run in record.runs if run.shape == "devices"]
    if devices:
        prompts = split["devices"].groups
        said = f"`{first}` with {prompts} prompts, on virtual devices, which share the same cores:"
        parts += [said, tables.comparison(devices, dtype=options.dtype)]
    tables.finish(options, *parts)


def shared_by(counts: Sequence[int], shape: Shape) -> Shape:
    """The shape with as many prompts as each number of devices splits evenly."""
    return dataclasses.replace(shape, groups=math.lcm(shape.groups, *counts))


def one(
    program: Program,
    shape: str,
    job: dict,
    number: int,
    missing: Mapping[str, str],
    options: argparse.Namespace,
    folder: str,
    env: Mapping[str, str] | None = None,
) -> Run:
    """One run of one program."""
    found = Run(shape=shape, program=program.name, round=number)
    if program.environment in missing:
        found.failed = missing[program.environment]
        return found
    path = Path(job["rows"]).with_name("job.json")
    path.write_text(json.dumps(job | {"options": dict(program.options)}))
    # One cache of compiled programs for all, empty when the command begins.
    env = {
        **devices.surroundings(options.platform, options.dtype),
        "JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled",
        **(env or {}),
    }
    command = program.command(path, options.environments.absolute())
    return run(command, found, warmup=options.warmup, timeout=TIMEOUT, env=env)


def rate(folder: Path, number: int, options: argparse.Namespace) -> Run:
    """How fast the machine multiplies matrices, measured in a process of its own."""
    path = folder / "rate.json"
    job = {"task": "rate", "platform": options.platform, "dtype": options.dtype}
    path.write_text(json.dumps(job))
    found = Run(shape="a large product", program="rate", round=number)
    env = devices.surroundings(options.platform, options.dtype)
    return run(OURS.command(path, folder), found, warmup=0, timeout=TIMEOUT, env=env)


def environments(programs: list[Program], options: argparse.Namespace) -> dict[str, str]:
    """Makes what is missing; the reasons of those that cannot be made."""
    failed = {}
    for name in dict.fromkeys(p.environment for p in programs if p.environment):
        try:
            make(name, options.environments, options.platform)
        except RuntimeError as error:
            failed[name] = str(error)
    return failed


def write_jobs(
    folder: Path, shapes: Mapping[str, Shape], options: argparse.Namespace
) -> dict[str, dict]:
    """The files of every shape, and what a program is told of them."""
    jobs = {}
    for number, (name, shape) in enumerate(shapes.items()):
        where = folder / str(number)
        rows = (options.warmup + options.steps) * shape.groups
        workload.write(where, shape, rows, dtype=options.dtype)
        jobs[name] = {
            "task": shape.task,
            "platform": options.platform,
            "dtype": options.dtype,
            "model": str(where / "model"),
            "rows": str(where / "rows.json"),
            "groups": shape.groups,
            "responses": shape.responses,
            "prompt": shape.prompt,
            "response": shape.response,
            "adapter": shape.adapter,
            "learning_rate": LEARNING_RATE,
            "threads": len(os.sched_getaffinity(0)),
        }
    return jobs


def describe(name: str, shape: Shape) -> str:
    """A shape in words."""
    model = shape.model
    lengths = "lengths of hh_helpful"
    if shape.prompt is not None:
        lengths = f"prompt {shape.prompt}, response {shape.response}"
    return (
        f"**{name}**: {shape.groups} prompts, {shape.responses} responses to each, {lengths}"
        f"{', LoRA of rank 16' if shape.adapter else ''}; {model.layers} layers, d {model.width}, "
        f"vocabulary {model.vocab:,}"
    )
