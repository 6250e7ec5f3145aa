"""What becomes of a run when an update is not finite, or too large to be trusted."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax

from alignax.core.errors import BadInput
from alignax.core.types import TrainState
from alignax.train.checkpoint import Checkpoints
from alignax.train.step import SKIPPED, learnt

log = logging.getLogger("alignax")

OnBadUpdate = Literal["stop", "skip", "roll_back"]


class BadUpdates:
    """Looks at every update's metrics and holds the run to its policy.

    The update itself has left parameters and moments as they were, so nothing is to be mended
    here.

    Args:
        policy: as `Loop.on_bad_update` has it.
        most: in a row, after which the run stops whatever the policy.
        keep: writes out the arrays of an update, and says where.
    """

    def __init__(
        self, policy: OnBadUpdate, most: int, keep: Callable[[int, Any], Path] | None = None
    ):
        self._policy, self._most, self._keep = policy, most, keep
        self._in_a_row, self._roll_back = 0, False

    def look(self, step: int, values: dict[str, float], arrays: Any) -> None:
        """Takes `skipped` out of the metrics of a good update.

        Args:
            arrays: of the update, as the step was given them.

        Raises:
            BadInput: where the run is to stop.
        """
        if not values.get(SKIPPED):
            values.pop(SKIPPED, None)
            self._in_a_row = 0
            return
        self._in_a_row += 1
        kept = None if self._keep is None else self._keep(step, arrays)
        found = f"loss {values['loss']:g}, gradient norm {values['grad_norm']:g} at step {step}"
        where = "" if kept is None else f" Its batch is in {kept}."
        too_many = self._in_a_row > self._most
        if self._policy == "stop" or too_many:
            finite = math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])
            raise BadInput(
                f"at most {self._most} bad updates in a row"
                if self._policy != "stop"
                else "a gradient norm of at most loop.largest_grad_norm"
                if finite
                else "a finite loss and gradient",
                found,
                "Look at the batch. Run again, which goes on from the last checkpoint, with "
                "loop.on_bad_update at skip, or at roll_back with a loop.save_steps of which a "
                "multiple lies between that checkpoint and this step; or with a lower "
                f"optim.learning_rate, in another output_dir.{where}",
                where=f"step {step}",
            )
        log.warning("%s: %s.%s", found, self._policy.replace("_", " "), where)
        self._roll_back = self._policy == "roll_back"

    def rolled_back(self, state: TrainState, checkpoints: Checkpoints) -> TrainState:
        """The state to go on with: what was learnt is the newest target's, where it must be.

        Counts go on, of updates and so of the schedule and the data: the batches since that
        checkpoint are not met again.
        """
        if not self._roll_back:
            return state
        self._roll_back = False
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        found = checkpoints.restore(abstract, target=True)
        if found is None:
            raise BadInput(
                "a checkpoint to roll back to, at a multiple of loop.save_steps",
                "none yet",
                "Run again with a lower loop.save_steps, or with loop.on_bad_update at skip.",
                where=f"step {int(state.step)}",
            )
        log.warning("rolled back to the parameters of step %d", found.step)
        return learnt(lambda _, old: old, state, found.state)
