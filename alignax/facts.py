"""What a run keeps of itself for the model card: in `card.json`, beside its checkpoints.

An export can come long after the run, when its data are no longer there or prepared otherwise.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from alignax import catalogue
from alignax.data.bad_rows import Tally
from alignax.evaluate.report import from_metrics
from alignax.evaluate.stats import Estimate
from alignax.models import files
from alignax.run import Run
from alignax.saved import code_of, to_json
from alignax.train.metric_lines import whole_lines

FILE = "card.json"
_PACKAGES = ("alignax", "jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "flax",
             "optax", "numpy", "orbax-checkpoint", "tokenizers", "transformers")  # fmt: skip


def keep(run: Run, count: Callable[[str], int], command: Sequence[str] | None) -> None:
    """Writes what is known of a run before its first step.

    What is around the run is a list: of each process that found something else there.

    Args:
        count: the number of prompts behind a metric, by its name.
        command: the words after `alignax train` that started the run; None where it was no
            command: then those of an earlier process of the same run stay.
    """
    path = Path(run.experiment.output_dir) / FILE
    facts = of(run) | {
        "data": [_of_data(run, name) for name in ("train", "eval") if _source(run, name)],
        "steps": run.num_steps,
        "evaluated": {name: count(name) for name in ("eval_", "eval_sampled/")},
    }
    earlier = files.read_json(path)
    before, now = earlier.get("around", []), around()
    facts["around"] = before if now in before else [*before, now]
    facts["arguments"] = earlier.get("arguments") if command is None else list(command)
    if facts["arguments"] is not None:
        facts["command"] = shlex.join(["alignax", "train", *facts["arguments"]])
    if jax.process_index() == 0:
        draft = path.with_name(f".{FILE}.tmp")
        files.write_json(draft, facts)
        draft.replace(path)


def around() -> dict[str, Any]:
    """What may change a run's last bits, and is no setting: versions, devices, the code's state."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "versions": versions(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
        "git": git(),
    }


def versions() -> dict[str, str]:
    """Of the packages that a run's numbers, tokens and checkpoints come from, where installed."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git() -> dict[str, Any] | None:
    """Commit and number of changed files of the repository that is worked in; None in no one."""

    def ask(*words: str) -> str:
        asked = subprocess.run(
            ["git", *words], capture_output=True, text=True, timeout=10, check=True
        )
        return asked.stdout.strip()

    try:
        return {
            "commit": ask("rev-parse", "HEAD"),
            "changed files": len(ask("status", "--porcelain").splitlines()),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def kept(run: Run) -> dict[str, Any]:
    """What was kept; of a run that kept nothing, what its settings say."""
    return of(run) | files.read_json(Path(run.experiment.output_dir) / FILE)


def ends_at(output: Path, step: int) -> bool:
    """Whether a run ends with this update; a run that kept nothing may."""
    return files.read_json(output / FILE).get("steps") in (None, step)


def of(run: Run) -> dict[str, Any]:
    """What the settings say: the method with its hyperparameters and paper, and the rest."""
    method = run.method
    found = next((e for e in catalogue.entries() if e.method is type(method)), None)
    return {
        "method": {
            "name": found.name if found else type(method).__name__.lower(),
            "class": type(method).__name__,
            "about": catalogue.about(type(method)),
            "paper": catalogue.paper(type(method)),
            "reference": method.needs().reference,
            "sampled": bool(run.experiment.rollout),
        },
        "settings": settings(run),
    }


def settings(run: Run) -> dict[str, Any]:
    """The experiment as JSON; what is about samples is left out where none are drawn.

    Of a method that is not this package's, digests of its code too.
    """
    found = to_json(dataclasses.replace(run.experiment, method=run.method)) | code_of(run.method)
    return found if run.experiment.rollout else found | {"rollout": {}}


def estimates(run: Run, step: int, evaluated: Mapping[str, int]) -> dict[str, Estimate]:
    """The held-out means that were logged at a step; none where none were.

    Args:
        evaluated: as `keep` wrote them: the prompts behind metrics, by the start of their names.
    """
    path = Path(run.experiment.output_dir) / "metrics.jsonl"
    flat: dict[str, float] = {}
    for line in whole_lines(path) if path.is_file() else ():
        row = json.loads(line)
        if row.pop("step") == step:
            flat |= {name: float(x) for name, x in row.items()}
    longest_first = sorted(evaluated, key=len, reverse=True)
    return from_metrics(
        flat, lambda name: next((evaluated[s] for s in longest_first if name.startswith(s)), 0)
    )


def _source(run: Run, name: str) -> str | None:
    return getattr(run.experiment.data, name)


def _of_data(run: Run, name: str) -> dict[str, Any]:
    if run.experiment.rollout:
        prompts = run.prompts(name)
        report, kept_count, lost = prompts.records, len(prompts), prompts.dropped
        tokens: dict[str, int] = {"prompt": sum(len(ids) for ids in prompts.ids)}
        cut = Tally()
    else:
        prepared = run.prepared(name)
        report, counted = prepared.records, prepared.tokens
        kept_count, lost, cut = counted.kept, counted.dropped, counted.cut
        tokens = {
            "prompt": counted.prompt_tokens,
            "response": counted.response_tokens,
            "scored": counted.scored_tokens,
        }
    return {
        "use": name,
        "source": report.source,
        "split": report.split,
        "form": report.form,
        "rows": report.rows,
        "records": report.records,
        "bad rows": report.dropped.counts,
        "left out": report.left_out.counts,
        "too long or not rendered": lost.counts,
        "cut": cut.counts,
        "used": kept_count,
        "tokens": tokens,
    }
