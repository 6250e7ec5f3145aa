"""Saves and restores a run's state; the one module that touches Orbax.

    output_dir/checkpoint-<step>/       whole when it was given this name
        alignax.json                    step, data position, experiment, size and CRC of each file
        state/ ...                      the arrays, as Orbax writes them
    output_dir/checkpoint-<step>.partial*   one that a kill or an error cut short

Orbax reads a flipped bit in an array's data without a word, and a shape that is not the one asked
for only late; so what was written is recorded here, and checked before Orbax is asked to read.

What can be said without the arrays is in `checkpoint_names`.
"""

import concurrent.futures
import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from alignax.core import processes
from alignax.core.errors import BadInput
from alignax.core.types import TrainState
from alignax.train import checkpoint_names as names
from alignax.train.integrity import damage, read_record, write_record

logger = logging.getLogger("alignax")

_NOT_ORBAX = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)


class Restored(NamedTuple):
    """What a run goes on from.

    Fields:
        step: updates made when it was saved.
        state: the arrays, bit for bit, sharded as was asked.
        position: where the data stood.
        experiment: the settings it was saved by.
        skipped: newer checkpoints that were not whole, each with the reason.
    """

    step: int
    state: TrainState
    position: dict[str, Any]
    experiment: dict[str, Any]
    skipped: list[tuple[str, str]]


class Checkpoints:
    """The checkpoints of one run. Every process of the run holds one and calls it alike.

    Args:
        directory: the run's output_dir, seen by all hosts.
        keep: how many to keep; older ones are deleted once a newer one is whole.
        target_steps: the newest at a multiple of this is kept too, for the run to roll back to.

    Example:
        >>> with Checkpoints("runs/dpo") as checkpoints:
        ...     restored = checkpoints.restore(abstract_state)
        ...     checkpoints.save(100, state, position={"next_index": 6400}, experiment=settings)
    """

    def __init__(
        self, directory: str | Path | epath.Path, *, keep: int = 2, target_steps: int | None = None
    ):
        if keep < 1:
            raise BadInput(
                "at least 1", str(keep), "A run cannot resume without one.", where="keep"
            )
        self._dir = names.resolve(directory)
        self._keep, self._target_steps = keep, target_steps
        # The newest step that a save must come after; one of another run must not be pruned away.
        self._newest = max(names.steps(self._dir), default=-1)
        self._current: int | None = None  # the step that this object last saved or restored
        self._position: dict[str, Any] | None = None  # of the last save, which may still run
        self._damaged: set[int] = set()
        self._pending: concurrent.futures.Future[None] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def save(
        self,
        step: int,
        state: TrainState,
        *,
        position: dict[str, Any],
        experiment: dict[str, Any],
    ) -> None:
        """Begins a save and returns; the caller may donate `state` to its next step at once.

        Waits for the save before, if that still runs. The step saved or restored last is not
        saved again.

        Args:
            step: updates made.
            state: what is saved.
            position: where the data stands, the same in every process; JSON.
            experiment: the settings of the run; JSON.

        Raises:
            BadInput: where the directory cannot be written, holds a later checkpoint of another
                run, or the save before this one has failed.
        """
        self.wait()
        if step == self._current:
            return
        path = self._path(step)
        if step <= self._newest:
            raise BadInput(
                f"a step after {self._newest}, the newest checkpoint in the directory",
                str(step),
                "Resume from it, or give the new run another output_dir.",
                where=str(path),
            )
        leaves = names.leaves(state)
        shapes = {name: [list(x.shape), str(x.dtype)] for name, x in leaves.items()}
        record = {"step": step, "position": position, "experiment": experiment, "leaves": shapes}
        # To JSON now, because the caller may change its dictionaries while the arrays are written.
        text = json.dumps(record)
        before = (self._newest, self._current)
        try:
            if jax.process_index() == 0:
                self._dir.mkdir(parents=True, exist_ok=True)
                self._remove_partial()
            with _context():
                saving = ocp.save_async(self._partial(step), leaves)
        except OSError as error:
            raise self._failed(step, error) from error
        self._newest = self._current = step
        self._position = json.loads(text)["position"]
        self._pending = self._thread.submit(self._finish, saving.result, step, text, before)

    def positions(self) -> list[dict[str, Any]]:
        """Where the data stood at every checkpoint there is, one that is being saved included."""
        found = [] if self._position is None else [self._position]
        for step in names.steps(self._dir):
            with contextlib.suppress(*names.UNREADABLE):  # or deleted meanwhile, for a newer one
                found.append(read_record(self._path(step))["position"])
        return found

    def wait(self) -> None:
        """Returns when nothing is being saved any more.

        Raises:
            BadInput: where that save failed. The checkpoints before it are untouched.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def tidy(self) -> None:
        """Deletes what a killed process has left half written or not yet deleted."""
        if self._current is None or jax.process_index() != 0:
            return
        try:
            self._remove_partial()
        except OSError as error:
            logger.warning("could not delete what was left in %s: %s", self._dir, error)
        self._prune(self._current)

    def close(self) -> None:
        """Waits, then ends the background thread. Raises as `wait` does."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def latest_whole(self) -> int | None:
        """The newest step that every byte is there of, or None. Reads all files of it.

        Raises:
            BadInput: where there are checkpoints and none is whole.
        """
        return self._find_whole()[0]

    def restore(
        self,
        abstract_state: TrainState,
        wanted_step: int | None = None,
        *,
        missing: Callable[[dict[str, Any]], str | None] = lambda position: None,
        target: bool = False,
    ) -> Restored | None:
        """Reads the newest whole checkpoint; None where no save was ever completed.

        Args:
            abstract_state: a `jax.ShapeDtypeStruct` with a sharding for each array. Mesh and
                sharding may differ from those it was saved under.
            wanted_step: the one to read in place of the newest.
            missing: what else a checkpoint is not whole without, given its position: the reason
                to pass it over.
            target: whether only those at multiples of `target_steps` are meant.

        Raises:
            BadInput: where there are checkpoints and none is whole, or the whole one is of
                another model or optimiser; where the one wanted is not there, or damaged.
        """
        if wanted_step is None:
            step, skipped = self._find_whole(missing, target)
        else:
            step, skipped = self._whole(wanted_step), []
        if step is None:
            return None
        path = self._path(step)
        record = read_record(path)
        wanted = names.leaves(abstract_state)
        names.check_leaves(wanted, record["leaves"], path)
        try:
            with _context():
                leaves = ocp.load(path, wanted)
        except _NOT_ORBAX as error:  # whole by its record, which somebody else may have written
            raise BadInput(
                "arrays as Orbax writes them",
                f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.300}",
                "Delete it to go on from the checkpoint before, or give another output_dir.",
                where=str(path),
            ) from error
        # In the order of the structure and not of the dictionary, which jax sorts.
        structure = jax.tree.structure(abstract_state)
        state = jax.tree.unflatten(structure, [leaves[name] for name in wanted])
        self._newest = self._current = step
        return Restored(step, state, record["position"], record["experiment"], skipped)

    def _whole(self, step: int) -> int:
        """The step, where its checkpoint is there and whole."""
        self.wait()
        steps = sorted(names.steps(self._dir))
        reason = damage(self._path(step)) if step in steps else "no such checkpoint"
        reason = processes.any_reason(reason)
        if reason is not None:
            raise BadInput(
                f"a whole checkpoint of step {step}",
                reason,
                f"There are: {', '.join(map(str, steps)) or 'none'}.",
                where=str(self._dir),
            )
        return step

    def _find_whole(
        self,
        missing: Callable[[dict[str, Any]], str | None] = lambda position: None,
        target: bool = False,
    ) -> tuple[int | None, list[tuple[str, str]]]:
        self.wait()
        skipped: list[tuple[str, str]] = []
        if processes.is_first():
            for path in names.partials(self._dir):
                logger.warning("skipped %s: it was cut short while it was being saved", path)
        # One process says which there are, and what one finds is everybody's verdict: two might
        # judge a failing disk differently, and would then wait for each other for ever.
        steps = sorted(names.steps(self._dir))
        steps = names.targets(steps, self._target_steps) if target else steps
        while (step := int(processes.told(np.int32(steps.pop() if steps else -1)))) >= 0:
            path = self._path(step)
            reason = damage(path) or missing(read_record(path)["position"])
            reason = processes.any_reason(reason)
            if reason is None:
                return step, skipped
            if processes.is_first():
                logger.warning("skipped %s: %s", path, reason)
            skipped.append((str(path), reason))
            self._damaged.add(step)
        if skipped:
            raise BadInput(
                "a whole checkpoint",
                f"{len(skipped)} damaged: " + "; ".join(f"{p} ({why})" for p, why in skipped),
                "Put the files back from a copy; or delete these checkpoints, or give another "
                "output_dir, to begin from the start.",
                where=str(self._dir),
            )
        return None, skipped

    def _finish(
        self,
        arrays_written: Callable[[], None],
        step: int,
        record: str,
        before: tuple[int, int | None],
    ) -> None:
        """Completes a save in the background: wait, record, name, prune."""
        try:
            arrays_written()
            # Orbax has let all processes meet by now.
            partial, final = self._partial(step), self._path(step)
            write_record(partial, json.loads(record))
            if jax.process_index() == 0:
                if final.exists():  # damaged, or `save` would have refused
                    self._remove(final)
                partial.rename(final)
                self._damaged.discard(step)
                self._prune(step)
        # All kinds: Orbax raises a full disk as a ValueError of its file layer.
        except Exception as error:
            self._newest, self._current = before
            with contextlib.suppress(OSError):
                self._remove_partial()
            raise self._failed(step, error) from error

    def _prune(self, step: int) -> None:
        steps = names.steps(self._dir)
        kept = names.kept(set(steps) - self._damaged, self._keep, self._target_steps)
        for old in steps:
            if old < step and old not in kept:
                try:
                    self._remove(self._path(old))
                except OSError as error:  # the new one is whole, and that is what counts
                    logger.warning("could not delete %s: %s", self._path(old), error)

    def _remove(self, path: epath.Path) -> None:
        # Renamed first, so that a kill half-way does not leave a name that says it is whole.
        doomed = path.parent / f"{path.name}{names.PARTIAL}-deleted"
        path.rename(doomed)
        doomed.rmtree()

    def _remove_partial(self) -> None:
        if jax.process_index() == 0:
            for path in names.partials(self._dir):
                path.rmtree(missing_ok=True)

    def _failed(self, step: int, error: Exception) -> BadInput:
        whole = max(set(names.steps(self._dir)) - self._damaged, default=None)
        return names.not_written(self._dir, step, error, whole)

    def _path(self, step: int) -> epath.Path:
        return self._dir / f"checkpoint-{step}"

    def _partial(self, step: int) -> epath.Path:
        return self._dir / f"checkpoint-{step}{names.PARTIAL}"


def _context() -> ocp.Context:
    context = ocp.Context()
    # Weights hardly compress: 8 % less on disk for three times the time.
    context.array.saving.use_compression = False
    # So that a directory that cannot be made is an error of `save` and not a time-out after it.
    context.async_options.create_directories_asynchronously = False
    return context
