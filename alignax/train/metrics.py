"""What a run says of itself: JSON lines first, TensorBoard and W&B as copies of them.

`metrics.jsonl` and `rollouts.jsonl` hold what is a function of config and seed and nothing else,
so those of a resumed run equal an unbroken one's byte for byte. Clocks go to `timings.jsonl`.
"""

import importlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, SupportsFloat, TextIO, runtime_checkable

import numpy as np
from tensorboardX import SummaryWriter

from alignax.core import processes
from alignax.core.errors import BadInput
from alignax.train.metric_lines import (
    NOTHING,
    as_line,
    read_on,
    replace,
    unwritable,
    whole_lines,
    write_history,
)

logger = logging.getLogger("alignax")


@runtime_checkable
class Log(Protocol):
    """What the loop writes its numbers to: the log of one run, or of several side by side."""

    def write(
        self,
        step: int,
        metrics: Mapping[str, SupportsFloat],
        *,
        timings: Mapping[str, SupportsFloat] | None = None,
    ) -> None:
        """Takes the metrics of a step, and its timings."""
        ...

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes responses that were drawn for an update."""
        ...

    def at(self, step: int) -> dict[str, float]:
        """What is logged of a step."""
        ...

    def rewind(self, step: int) -> int:
        """Drops what was written after `step`."""
        ...

    def flush(self) -> None:
        """Brings all that is written together up to date."""
        ...


class MetricLog:
    """Writes the numbers of each step, in one process of a run.

    A line is in the operating system's hands when `write` returns, so a killed process loses at
    most the line it was at. Everything of a step is written, and by `flush` on the disk, before the
    checkpoint of that step: then `rewind` leaves nothing out, even where the machine was lost.

    Args:
        output_dir: where `metrics.jsonl`, `timings.jsonl`, `rollouts.jsonl`, `trainer_state.json`
            and the folder `tensorboard` go.
        tensorboard: whether to write event files too.
        wandb: the W&B project to copy to; None for no W&B.
        writes: False in the other processes of a run, which call it alike and write nothing.

    Raises:
        BadInput: where the directory cannot be written, or W&B is asked for and not installed.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        *,
        tensorboard: bool = True,
        wandb: str | None = None,
        writes: bool = True,
    ):
        self._writes = writes
        self._dir = Path(output_dir)
        self._tensorboard = tensorboard
        self._events: SummaryWriter | None = None
        self._files: dict[str, TextIO] = {}
        self._first_step = 0
        self._read = NOTHING  # of metrics.jsonl: a long run looks at each line once
        # Asked for first: a run must not begin and then find that it cannot report.
        self._wandb_module = None if wandb is None or not writes else _import_wandb()
        self._wandb_project, self._wandb_run = wandb, None
        try:
            self._dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self._dir, error) from error

    def write(
        self,
        step: int,
        metrics: Mapping[str, SupportsFloat],
        *,
        timings: Mapping[str, SupportsFloat] | None = None,
    ) -> None:
        """Writes one line of metrics and, where given, one of timings.

        Args:
            step: updates made so far.
            metrics: functions of config and seed: loss, rewards, learning rate, tokens seen.
            timings: the rest: seconds, tokens a second.
        """
        if not self._writes:
            return
        self._append("metrics.jsonl", as_line(step, metrics))
        if timings:
            self._append("timings.jsonl", as_line(step, timings))
        both = {**metrics, **(timings or {})}
        if self._tensorboard:
            events = self._open_events()
            for name, value in both.items():
                events.add_scalar(name, float(value), step)
        if self._wandb_module is not None:
            self._open_wandb().log({name: float(value) for name, value in both.items()}, step=step)

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes responses that were drawn for an update, one line a prompt."""
        for row in rows if self._writes else ():
            line = json.dumps({"step": step, **row}, ensure_ascii=False)
            self._append("rollouts.jsonl", line + "\n")

    def at(self, step: int) -> dict[str, float]:
        """What is logged of a step: all its lines of metrics, joined."""
        found: dict[str, float] = {}
        for line in whole_lines(self._dir / "metrics.jsonl"):
            row = json.loads(line)
            if row.pop("step") == step:
                found |= {name: float(x) for name, x in row.items()}
        return found

    def rewind(self, step: int) -> int:
        """Drops what was written after `step`, which a resumed run is about to write again.

        A last line that a kill cut short is dropped too. TensorBoard hides the steps it has seen
        beyond `step`; W&B keeps them, and ignores the same numbers when they come again.

        Args:
            step: the restored step; -1 drops everything, for a run that starts anew.

        Returns:
            How many lines of metrics were dropped.

        Raises:
            BadInput: where a line other than the last is not one of ours.
        """
        self._close_files()
        self._first_step, self._read = step + 1, NOTHING
        if not self._writes:
            return 0
        dropped = [self._rewind_file(self._dir / name, step) for name in _FILES]
        if dropped[0]:
            logger.info(
                "%s: dropped %d lines after step %d", self._dir / _FILES[0], dropped[0], step
            )
        return dropped[0]

    def _rewind_file(self, path: Path, step: int) -> int:
        if not path.exists():
            return 0
        lines = sum(1 for line in path.read_bytes().split(b"\n") if line)
        kept = [line for line in whole_lines(path) if json.loads(line)["step"] <= step]
        replace(path, (line.encode() for line in kept))
        return lines - len(kept)

    def flush(self) -> None:
        """Brings all to the disk, `trainer_state.json` up to date. Call it before checkpoints."""
        if not self._writes:
            return
        for name, file in self._files.items():
            try:
                os.fsync(file.fileno())
            except OSError as error:
                raise unwritable(self._dir / name, error) from error
        log = self._dir / _FILES[0]
        self._read = read_on(log, self._read)
        write_history(self._dir / "trainer_state.json", log, self._read)
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes all that is open. Safe to call twice."""
        self.flush()
        self._close_files()
        if self._wandb_run is not None:
            self._wandb_run.finish()
            self._wandb_run = None

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _append(self, name: str, line: str) -> None:
        path = self._dir / name
        try:
            if name not in self._files:
                self._files[name] = path.open("a", encoding="utf-8", newline="\n")
            self._files[name].write(line)
            self._files[name].flush()
        except OSError as error:
            raise unwritable(path, error) from error

    def _open_events(self) -> SummaryWriter:
        if self._events is None:
            self._events = SummaryWriter(
                str(self._dir / "tensorboard"),
                purge_step=self._first_step,
                # tensorboardX names files by the second: two of one second would overwrite.
                filename_suffix=f".{time.time_ns()}",
            )
        return self._events

    def _open_wandb(self) -> Any:
        if self._wandb_run is None:
            # A resumed run goes on in the W&B run that it began in.
            kept = self._dir / "wandb_run_id"
            self._wandb_run = self._wandb_module.init(  # type: ignore[union-attr]
                project=self._wandb_project,
                name=self._dir.name,
                dir=str(self._dir),
                id=kept.read_text().strip() if kept.exists() else None,
                resume="allow",
            )
            kept.write_text(self._wandb_run.id + "\n")
        return self._wandb_run

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        if self._events is not None:
            self._events.close()
            self._events = None


_FILES = ("metrics.jsonl", "timings.jsonl", "rollouts.jsonl")


def evaluated(log: Log, step: int) -> bool:
    """Whether a log has an evaluation of a step, as the first process finds it."""
    found = processes.is_first() and any(name.startswith("eval_") for name in log.at(step))
    return bool(processes.told(np.int32(found)))


def _import_wandb() -> Any:
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise BadInput(
            "the package wandb, which reporting to W&B needs",
            f"{type(error).__name__}: {error}",
            "pip install -e '.[wandb]' in the clone, or report to TensorBoard alone.",
            where="wandb",
        ) from error
