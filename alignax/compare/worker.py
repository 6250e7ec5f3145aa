"""A process that runs cells: one JSON object a line comes in, one goes out.

    python -m alignax.compare.worker CONFIG --output DIR [--part JSON] [--cores 0 1]

A cell that fails is a result too: it says why. What a cell leaves on disk is its result alone, and
where another begins from it, its exported model.
"""

import argparse
import dataclasses
import gc
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignax.compare.cells import Cell
    from alignax.compare.peaks import Peaks
    from alignax.compare.settings import Comparison


def main() -> None:
    """Runs cells until there are no more."""
    parser = argparse.ArgumentParser(prog="python -m alignax.compare.worker")
    parser.add_argument("config")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--part", default="{}")
    parser.add_argument("--cores", nargs="*", type=int, default=[])
    options = parser.parse_args()
    if options.cores:  # before JAX counts them for its threads
        os.sched_setaffinity(0, options.cores)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what runs print goes to the log

    import jax

    from alignax import facts
    from alignax.compare import cells, settings
    from alignax.compare.cells import Cell
    from alignax.compare.peaks import Peaks
    from alignax.train import compilations

    compilations.keep_on_disk()
    # Small programs too: the other processes have the same ones.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    part = settings.Part(**json.loads(options.part))
    comparison = settings.load(options.config, part)
    commit, peaks = (facts.git() or {}).get("commit"), Peaks()
    for number, line in enumerate(sys.stdin):
        cell = Cell(**json.loads(line))
        began = time.perf_counter()
        try:
            found = run(comparison, cell, options.output, peaks)
        except Exception as error:  # of whatever a run may raise: the others go on
            found = {"failed": f"{type(error).__name__}: {error}"}
        wall = time.perf_counter() - began
        found |= {"cell": dataclasses.asdict(cell), "wall": wall, "commit": commit}
        cells.write(cells.result_path(options.output, cell), found)
        print(json.dumps({"failed": found.get("failed")}), file=answers)
        if number == 0:  # all modules are there, and to look through them takes 0.3 s every time
            gc.collect()
            gc.freeze()


def run(comparison: "Comparison", cell: "Cell", output: Path, peaks: "Peaks") -> dict[str, Any]:
    """A cell's result: the rows of its measurements, what identifies it, and its peak of memory."""
    from alignax import jobs
    from alignax.compare import cells, fingerprints, measure
    from alignax.data import json_lines
    from alignax.run import Run

    if cell.purpose == "baselines":
        return _baselines(comparison, cell, output)
    if cell.purpose == "proxy":  # the first of all: what cannot be judged is told now
        measure.check(comparison)
    experiment = cells.experiment(comparison, cell, output)
    folder = Path(experiment.output_dir)
    found: dict[str, Any] = {"fingerprint": fingerprints.of(comparison, cell)}
    begin(folder, found["fingerprint"])
    experiment = cells.with_own_rows(comparison, cell, experiment)
    peaks.begin()
    jobs.train(experiment, quiet=True, shape=_shape(comparison, cell, experiment))
    found["peak_mib"] = peaks.end(cell.entry)
    finished = Run(experiment, quiet=True)
    if cell.purpose == "proxy":
        lines = json_lines.read(folder / "metrics.jsonl")
        last = {name: x for row in lines for name, x in row.items() if "accuracies" in name}
        return found | {"accuracy": last}
    proxy = cells.learnt_reward(comparison, output)
    rewards = {"gold": comparison.gold, "proxy": proxy, **comparison.measures}
    rows = measure.rows(finished, rewards)
    _tidy(comparison, cell, folder)
    return found | {"rows": rows, "parameters": finished.decoder.num_params}


def begin(folder: Path, fingerprint: str) -> None:
    """Clears what a run by other settings left, which would be refused, or gone on with.

    A run by the same settings that was killed, or failed, goes on from its last checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "fingerprint"
    if told.exists() and told.read_text() == fingerprint:
        return
    _clear(folder)
    told.write_text(fingerprint)


_shapes: dict[str, Any] = {}  # of this process: what `_shape` has found by now


def _shape(comparison: "Comparison", cell: "Cell", experiment: Any) -> Any:
    """Of batches, for all runs that can share the compiled update of this one."""
    from alignax.compare import cells
    from alignax.data.ladder import widened
    from alignax.data.plan import alike
    from alignax.run import Run
    from alignax.saved import to_json

    if not cell.entry or experiment.rollout:
        return None
    run, others = Run(experiment, quiet=True), cells.siblings(comparison, cell, experiment)
    # All that plans are made of: methods that learn from the same data have the same ones.
    own = comparison.entry(cell.entry).own_rows
    made_of = [own, run.train_data.fingerprint, repr(run.method.needs().schedule)]
    key = json.dumps([made_of, [(x.seed, to_json(x.loop)) for x in others]])
    if key not in _shapes:
        plan = alike([run.like(other).plan for other in others])[0]
        if own:  # other seeds have other rows, but alike
            room = experiment.data.limits.max_length - plan.shape.prompt
            plan = widened(plan, prompt=plan.shape.prompt, response=room)
        _shapes[key] = plan.shape
    return _shapes[key]


def _baselines(comparison: "Comparison", cell: "Cell", output: Path) -> dict[str, Any]:
    """The reference's own answers, judged."""
    import jax

    from alignax.compare import baselines, cells, fingerprints, measure
    from alignax.generate.engine import Engine
    from alignax.run import Run

    name = comparison.compute_like
    like = dataclasses.replace(cell, purpose="final", entry=name, steps=1)
    experiment = cells.experiment(comparison, like, output)
    run = Run(experiment, quiet=True)
    sampler = dataclasses.replace(experiment.evaluation.sampler, num_samples=comparison.answers)
    prompts = run.prompts("answered")
    engine = Engine(model=run.decoder, sampler=sampler, end_ids=tuple(sorted(run.renderer.end_ids)),
                    slots=max(256, comparison.answers), fitted=False,  # programs for this once
                    weights=run.decoding_shardings)  # fmt: skip
    with jax.set_mesh(run.mesh):
        key = jax.random.key(experiment.seed)
        drawn = engine(run.initial_policy(), key, prompts.ids, range(len(prompts)))
        texts = [
            run.decode_all([x[:n].tolist() for x, n in zip(rows, lengths, strict=True)])
            for rows, lengths in zip(drawn.tokens, drawn.lengths, strict=True)
        ]
        proxy = cells.learnt_reward(comparison, output)
        gold = measure.scored(comparison.gold, prompts.texts, texts, prompts.columns)
        learnt = measure.scored(proxy, prompts.texts, texts, prompts.columns)
    return baselines.result(gold, learnt, [row[0] for row in texts]) | {
        "labels": measure.labels(comparison.base.data, comparison.gold),
        "fingerprint": fingerprints.of(comparison, cell),
        "prompts": [str(text) for text in prompts.texts],
        "generated": int(drawn.lengths.sum()),
    }


def _tidy(comparison: "Comparison", cell: "Cell", folder: Path) -> None:
    begun_from = {entry.after for entry in comparison.entries}
    needed = cell.purpose == "final" and cell.entry in begun_from
    _clear(folder, but="export" if needed else None)


def _clear(folder: Path, but: str | None = None) -> None:
    for path in folder.iterdir():
        if path.name != but:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()
