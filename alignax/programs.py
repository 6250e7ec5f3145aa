"""The compiled programs of a run: its first state, and its update.

Methods, models and settings are values, so programs are kept by them: runs of one process that
differ in nothing that a program is made of share it. Numbers of the type `Scalar` are arguments.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from alignax.core.method import Method, scalars, with_scalars
from alignax.core.shaping import is_zero
from alignax.core.types import Batch, Held, Layout, Number, Params, Scalar, TrainState, held
from alignax.data.plan import Plan
from alignax.run import Run
from alignax.train import optim as optim_lib
from alignax.train import sharding
from alignax.train.compilations import update_options
from alignax.train.profile import Profile
from alignax.train.step import ModelFn, init_state, make_step


def make_compiled_step(
    run: Run,
    plan: Plan | None,
    optimizer: Any,
    shardings: TrainState,
    profile: Profile | None,
    num_steps: int | None = None,
) -> Any:
    """The update, compiled when first called; an adapter's base goes into it as an argument.

    Args:
        num_steps: that the optimizer was made for; without it the update is no other run's too.
    """
    frozen, experiment = run.frozen, run.experiment
    same = all(decoder.same_bits for decoder in run.decoders)
    if frozen is None and profile is None and num_steps is not None:
        # A number that is 0 may decide what is computed at all; the others are arguments.
        numbers = {name: x for name, x in scalars(run.method).items() if not is_zero(x)}
        optim = experiment.optim
        step = _compiled_step(
            with_scalars(run.method, dict.fromkeys(numbers, 1.0)), run.model_fn(plan),
            optim_lib.without_length(dataclasses.replace(optim, learning_rate=1.0), num_steps),
            experiment.loop.largest_grad_norm, held(run.trained[1]), held(shardings),
            sharding.replicated(run.mesh), same,
        )  # fmt: skip
        # Sent to the devices once, and not with every update; weakly typed, as numbers are. With
        # several processes `device_put` refuses: it finds 0.01 in float32 another number than 0.01.
        given = (numbers, optim.learning_rate, num_steps)
        if jax.process_count() == 1:
            given = jax.device_put(given, sharding.replicated(run.mesh))
        return functools.partial(step, *given)
    join = None if frozen is None else run.join
    step = jax.jit(
        make_step(
            run.method,
            run.model_fn(plan),
            optimizer,
            join=join,
            seed=run.experiment.seed,
            largest_norm=run.experiment.loop.largest_grad_norm,
        ),
        donate_argnums=0,
        out_shardings=(shardings, sharding.replicated(run.mesh)),
        compiler_options=update_options(traced=profile is not None, same=same),
    )
    step = step if profile is None else profile.of(step)
    if frozen is None:
        return step
    return lambda state, *arrays: step(state, *arrays, frozen.base)


@functools.lru_cache(maxsize=8)
def _compiled_step(
    method: Method,
    model: ModelFn,
    optim: optim_lib.Optim,
    largest_norm: float | None,
    axes: Held,
    shardings: Held,
    whole: Any,
    same: bool,
) -> Any:
    def update(
        numbers: dict[str, Scalar],
        learning_rate: Scalar,
        num_steps: Number,
        state: TrainState,
        batch: Batch,
        layout: Layout,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        own = dataclasses.replace(optim, learning_rate=learning_rate)
        optimizer = optim_lib.make_optimizer(own, num_steps, axes.tree)
        step = make_step(with_scalars(method, numbers), model, optimizer, largest_norm=largest_norm)
        return step(state, batch, layout)

    return jax.jit(
        update,
        donate_argnums=3,
        out_shardings=(shardings.tree, whole),
        compiler_options=update_options(same=same),
    )


@functools.lru_cache(maxsize=8)
def make_compiled_init(
    optim: optim_lib.Optim, num_steps: int, axes: Held, shardings: Held
) -> Callable[[Params], TrainState]:
    """The state before the first update as a function of the parameters, which it consumes."""
    optimizer = optim_lib.make_optimizer(optim, num_steps, axes.tree)
    return jax.jit(
        lambda params: init_state(params, optimizer),
        out_shardings=shardings.tree,
        donate_argnums=0,
    )
