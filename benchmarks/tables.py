"""Medians, ratios and arithmetic of a record, as sections of RESULTS.md."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks import flops
from benchmarks.shapes import Model, Shape
from benchmarks.timing import Record, Run

RESULTS = Path(__file__).with_name("RESULTS.md")
AGREE = 1e-4  # losses of one step, as a share: float32, and another order of sums


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
    return (
        f"## {title}\n\n`{record.command}`, {record.when[:10]}; {machine['cores']} cores of "
        f"{machine['processor']}, {machine['memory_gib']} GiB, Python {machine['python']}, "
        f"float32; load {machine['load']} before it began. {programs}."
    )


def comparison(runs: Sequence[Run]) -> str:
    """One shape's programs beside the first of them.

    Seconds are the median over rounds of each run's median step, `x` the median over rounds of the
    ratio within a round, with the least and the greatest; memory is the largest of all rounds.
    """
    programs = list(dict.fromkeys(run.program for run in runs))
    by = {name: [run for run in runs if run.program == name] for name in programs}
    first = {run.round: run for run in by[programs[0]] if not run.failed}
    rows = []
    for name in programs:
        good = [run for run in by[name] if not run.failed]
        if not good:
            rows.append([name, f"failed: {by[name][-1].failed}", "", "", "", "", ""])
            continue
        step = statistics.median(_step(run) for run in good)
        peak = max(run.peak_mib for run in good)
        ratios = sorted(_step(r) / _step(first[r.round]) for r in good if r.round in first)
        spread = ""
        if len(ratios) > 1:
            spread = f" ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        base = max((run.peak_mib for run in first.values()), default=float("nan"))
        rows.append(
            [
                name,
                f"{step:.3f}",
                f"{statistics.median(ratios):.2f}{spread}" if ratios else "",
                f"{peak:,.0f}",
                f"{peak / base:.2f}",
                _losses(good[0], first),
                str(len(good)),
            ]
        )
    return table(("program", "s a step", "x", "peak MiB", "x", "losses", "rounds"), rows)


def _step(run: Run) -> float:
    return statistics.median(run.seconds)


def _losses(run: Run, first: dict[int, Run]) -> str:
    """The first and the last loss; marked where the first one is not the first program's."""
    if not run.losses:
        return ""
    said = f"{run.losses[0]:.5f}, {run.losses[-1]:.5f}"
    ours = next(iter(first.values())).losses if first else []
    if ours and abs(run.losses[0] - ours[0]) > AGREE * abs(ours[0]):
        return f"{said} (another loss: do not compare)"
    return said


def arithmetic(shapes: dict[str, Shape], runs: Sequence[Run], rate: float) -> str:
    """What a step of this library computes, by hand and by XLA, and how fast.

    The last columns are the products of the same step as others take it: each response behind a
    copy of its prompt, padded to the longest, all positions meeting the vocabulary, and for DPO
    with a reference in the step; nothing computed again.
    """
    rows = []
    for name, shape in shapes.items():
        mine = [r for r in runs if r.shape == name and r.program == "alignax" and "work" in r.also]
        if not mine:
            continue
        counted = count(shape, shape.model, mine[0].also["work"])
        # XLA counts one turn of the loop over layers.
        one = Model(**{**vars(shape.model), "layers": 1})
        share = count(shape, one, mine[0].also["work"]).total / mine[0].also["xla_flops"]
        speed = counted.total / statistics.median(_step(run) for run in mine)
        others = flops.operations(
            shape.model,
            flops.concatenated(shape, scored="none" if shape.task == "reward" else "all"),
            recomputed=False,
            reference=shape.task == "dpo",
            adapter=shape.adapter,
        )
        parts = (counted.blocks, counted.attention, counted.head, counted.backward, counted.again)
        rows.append(
            [
                name,
                *(f"{part / 1e9:.1f}" for part in (*parts, counted.total)),
                f"{share:.3f}",
                f"{speed / 1e9:.0f}",
                f"{speed / rate:.0%}",
                f"{others.total / 1e9:.1f}",
                f"{others.total / counted.total:.2f}",
            ]
        )
    header = (
        "GFLOP a step", "blocks", "attention", "head", "backward", "again", "in all",
        "by hand / XLA", "GFLOP/s", "of the machine", "concatenated", "x",
    )  # fmt: skip
    return table(header, rows)


def count(shape: Shape, model: Model, work: dict[str, int]) -> flops.Operations:
    """This library's step: blocks computed again, no reference, and a score costs nothing."""
    done = flops.Work(**work)
    if shape.task == "reward":
        done = done._replace(scored=0)
    return flops.operations(model, done, recomputed=True, reference=False, adapter=shape.adapter)


def append(section: str) -> None:
    """Adds a section to RESULTS.md."""
    text = RESULTS.read_text()
    RESULTS.write_text(f"{text.rstrip()}\n\n{section.strip()}\n")
