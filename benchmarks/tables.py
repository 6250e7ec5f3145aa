"""Medians, ratios and arithmetic of a record, as sections of RESULTS.md."""

import argparse
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import flops
from benchmarks.shapes import Model, Shape
from benchmarks.timing import Record, Run

RESULTS = Path(__file__).with_name("RESULTS.md")
# How far losses may differ, as a share: that of the first step, and of later ones. The first ones
# differ in the order of sums alone; what Adam makes of that grows from update to update. Those of
# bfloat16 were a guess, and are too narrow for a model of 1.24B (README.md).
AGREE = {"float32": (1e-4, 1e-3), "bfloat16": (1e-2, 5e-2)}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def heading(record: Record, title: str) -> str:
    """The begin of a section."""
    machine = record.machine
    versions: dict[str, str] = {}  # the first program of each set of versions names it
    for run in record.runs:
        if run.versions:
            said = ", ".join(f"{name} {version}" for name, version in run.versions.items())
            versions.setdefault(said, run.program)
    programs = "; ".join(f"{program}: {said}" for said, program in versions.items())
    programs = programs and f" {programs}."
    device = record.settings.get("device")
    numbers = record.settings.get("dtype", "float32")
    if device:
        numbers = f"{device}, {numbers}"
    return (
        f"## {title}\n\n`{record.command}`, {record.when[:10]}; {machine['cores']} cores of "
        f"{machine['processor']}, {machine['memory_gib']} GiB, Python {machine['python']}, "
        f"{numbers}; load {machine['load']} before it began.{programs}"
    )


def comparison(
    runs: Sequence[Run],
    *,
    dtype: str = "float32",
    tokens: float | None = None,
    compared: int | None = None,
) -> str:
    """One shape's programs beside the first of them.

    Seconds are the median over rounds of each run's median step, `x` the median over rounds of the
    ratio within a round, with the least and the greatest; memory is the largest of all rounds. The
    last column is rounds x timed steps of a run.

    Memory is what the operating system says, or the device where programs have one of their own.

    Args:
        dtype: of the arithmetic, by which losses may differ more or less.
        tokens: of a step, for a column of tokens a second: the same number for all programs, of
            prompts and responses as concatenated texts have them.
        compared: the steps from the first on whose losses are compared; None for all. An adapter
            is drawn by each program for itself and does nothing at first, so only that first loss
            is the same.
    """
    on_device = any("device_peak_mib" in run.also for run in runs)
    programs = list(dict.fromkeys(run.program for run in runs))
    by = {name: [run for run in runs if run.program == name] for name in programs}
    first = {run.round: run for run in by[programs[0]] if not run.failed}
    rows = []
    for name in programs:
        good = [run for run in by[name] if not run.failed]
        if not good:
            blank = [""] * (5 if tokens is None else 6)
            rows.append([name, f"failed: {by[name][-1].failed}", *blank])
            continue
        step = statistics.median(_step(run) for run in good)
        peak = max(_peak(run, on_device) for run in good)
        ratios = sorted(_step(r) / _step(first[r.round]) for r in good if r.round in first)
        spread = ""
        if len(ratios) > 1:
            spread = f" ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        base = max((_peak(run, on_device) for run in first.values()), default=float("nan"))
        rows.append(
            [
                name,
                f"{step:.3f}",
                f"{statistics.median(ratios):.2f}{spread}" if ratios else "",
                f"{peak:,.0f}",
                f"{peak / base:.2f}",
                *([] if tokens is None else [f"{tokens / step:,.0f}"]),
                _losses(good, first, dtype, compared),
                f"{len(good)} x {len(good[0].seconds)}",
            ]
        )
    memory = "device peak MiB" if on_device else "peak MiB"
    speed = [] if tokens is None else ["tokens/s"]
    header = ("program", "s a step", "x", memory, "x", *speed, "losses", "rounds x steps")
    return table(header, rows)


def _peak(run: Run, on_device: bool) -> float:
    return run.also.get("device_peak_mib", float("nan")) if on_device else run.peak_mib


def _step(run: Run) -> float:
    return statistics.median(run.seconds)


def _losses(runs: Sequence[Run], first: Mapping[int, Run], dtype: str, compared: int | None) -> str:
    """The first and the last loss; marked where a step's is not the first program's.

    These steps of every round are compared. The first loss of DPO is ln 2 whatever the weights are,
    so it alone would say nothing. Programs that draw their own samples learn from other tokens: the
    first program then has no losses, and nothing is compared.
    """
    losses = runs[0].losses
    if not losses:
        return ""
    said = f"{losses[0]:.5f}, {losses[-1]:.5f}"
    pairs = [
        (run.losses[:compared], first[run.round].losses[:compared])
        for run in runs
        if run.round in first
    ]
    steps = [step for found, ours in pairs if (step := differs(found, ours, dtype))]
    return f"{said} (differs from step {min(steps)} on: do not compare)" if steps else said


def differs(losses: Sequence[float], expected: Sequence[float], dtype: str = "float32") -> int:
    """The first step, from 1, whose loss is another or is missing; 0 where none is.

    Warm-up steps count. Nothing is expected where `expected` is empty.
    """
    if expected and len(losses) != len(expected):
        return min(len(losses), len(expected)) + 1
    for step, (found, ours) in enumerate(zip(losses, expected, strict=False), 1):
        within = AGREE[dtype][step > 1] * abs(ours)
        if not abs(found - ours) <= within:  # so that NaN differs
            return step
    return 0


def arithmetic(
    shapes: Mapping[str, Shape],
    runs: Sequence[Run],
    rates: Mapping[int, float],
    steps: int,
    *,
    counted_by_xla: bool = True,
) -> str:
    """What a step of this library computes, by hand and by XLA, and how fast.

    "Of the machine" is the median over rounds of a run's operations a second over the rate of a
    large product in the same round; "useful" the same without what is computed again.

    The last columns are the products of the same step as others take it: each response behind a
    copy of its prompt, padded to the longest, all positions meeting the vocabulary, and for DPO
    with a reference in the step; nothing computed again; the mean over all steps of the run.

    Args:
        rates: operations a second of a large product of matrices, by round.
        steps: of each run, those that warm up too.
        counted_by_xla: whether XLA's count is of all products: on GPUs it sees none in libraries.
    """
    rows = []
    for name, shape in shapes.items():
        mine = [r for r in runs if r.shape == name and r.program == "alignax" and "work" in r.also]
        if not mine:
            continue
        again = mine[0].also.get("recomputed", True)
        counted = count(shape, shape.model, mine[0].also["work"], again)
        # XLA counts one turn of a loop: over layers, and over chunks of tokens.
        one = dataclasses.replace(shape.model, layers=1)
        work = flops.Work(**mine[0].also["work"])
        work = work._replace(scored=work.scored / work.chunks)
        share = count(shape, one, work._asdict(), again).total / mine[0].also["xla_flops"]
        speed = counted.total / statistics.median(_step(run) for run in mine)
        taken = [_step(run) * rates[run.round] for run in mine if run.round in rates]
        of_machine, useful = (
            f"{statistics.median(done / each for each in taken):.0%}" if taken else ""
            for done in (counted.total, counted.total - counted.again)
        )
        others = flops.operations(
            shape.model,
            flops.concatenated(
                shape, scored="none" if shape.task == "reward" else "all", steps=steps
            ),
            recomputed=False,
            reference=shape.task == "dpo",
            adapter=shape.adapter,
        )
        parts = (counted.blocks, counted.attention, counted.head, counted.backward, counted.again)
        rows.append(
            [
                name,
                *(f"{part / 1e9:.1f}" for part in (*parts, counted.total)),
                f"{share:.3f}" if counted_by_xla else "-",
                f"{speed / 1e9:.0f}",
                of_machine,
                useful,
                f"{others.total / 1e9:.1f}",
                f"{others.total / counted.total:.2f}",
            ]
        )
    header = (
        "GFLOP a step", "blocks", "attention", "head", "backward", "again", "in all",
        "by hand / XLA", "GFLOP/s", "of the machine", "useful", "concatenated", "x",
    )  # fmt: skip
    return table(header, rows)


def count(
    shape: Shape, model: Model, work: Mapping[str, float], recomputed: bool = True
) -> flops.Operations:
    """This library's step: no reference, and a score costs nothing.

    Args:
        recomputed: the backward pass computes blocks again.
    """
    done = flops.Work(**work)
    if shape.task == "reward":
        done = done._replace(scored=0)
    how = {"recomputed": recomputed, "reference": False, "adapter": shape.adapter}
    return flops.operations(model, done, **how)


def finish(options: argparse.Namespace, *parts: str) -> None:
    """Prints a section, and keeps it unless `options.dry`."""
    section = "\n\n".join(parts)
    print(section)
    if not options.dry:
        append(section)


def append(section: str) -> None:
    """Adds a section to RESULTS.md."""
    text = RESULTS.read_text()
    RESULTS.write_text(f"{text.rstrip()}\n\n{section.strip()}\n")
