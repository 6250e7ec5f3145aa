"""The update: one pure function for every method.

Losses come one a prompt, unreduced. What they are divided by is a count over the whole optimiser
step, all micro-batches and devices, so that k micro-batches give what one large batch gives.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from alignax.core.masked import masked_mean
from alignax.core.method import Method
from alignax.core.rollouts import DIFFERENCE, FROM_REFERENCE
from alignax.core.types import Batch, Layout, Outputs, Params, TrainState
from alignax.train.optim import global_norm

# (params, batch, layout) -> Outputs
ModelFn = Callable[[Params, Batch, Layout], Outputs]
# (what is trained, what is frozen, key of the draws) -> params
Join = Callable[[Params, Params, PRNGKeyArray], Params]
Scalars = dict[str, Float[Array, ""]]
SKIPPED = "skipped"
DROPOUT = 4  # what a key is for: numbers that are left out


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first update."""
    return TrainState(step=jnp.int32(0), params=params, opt_state=optimizer.init(params))


def make_step(
    method: Method,
    model: ModelFn,
    optimizer: optax.GradientTransformation,
    *,
    join: Join | None = None,
    seed: int | Int[Array, ""] = 0,
    largest_norm: float | None = None,
) -> Callable[..., tuple[TrainState, Scalars]]:
    """The update as a function of the state and one step's arrays, and of what is frozen.

    Every array of the batch and the layout has a leading axis of micro-batches. Metrics are
    means over the prompts of the step; `grad_norm` is taken before clipping.

    Args:
        join: the model's parameters, where the state has a part of them only. Its key is a
            function of seed, update and micro-batch. Nothing else is differentiated, and what is
            frozen comes as an argument of its own, so that it is neither donated nor a constant
            of the program.
        largest_norm: of the gradient, before clipping. An update beyond it, or whose loss or
            gradient is not finite, leaves parameters and moments as they were: only counts go on,
            of updates and so of the schedule, and the metric `skipped` is 1.
    """

    def update(
        state: TrainState, batch: Batch, layout: Layout, frozen: Params = None
    ) -> tuple[TrainState, Scalars]:
        counts = count(batch)
        divisor = counts[method.needs().mean_over]
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), DROPOUT), state.step)
        keys = jax.random.split(key, batch.valid.shape[0])

        def seen(params: Params, key: PRNGKeyArray) -> Params:
            return params if join is None else join(params, frozen, key)

        batch = with_means(
            method, model, functools.partial(seen, state.params), batch, layout, keys
        )

        def micro(
            params: Params, batch: Batch, layout: Layout, key: PRNGKeyArray
        ) -> tuple[Array, Scalars]:
            loss, metrics = evaluate(method, model, seen(params, key), batch, layout)
            return loss / divisor, {"loss": loss / divisor} | {
                name: total / counts["prompts"] for name, total in metrics.items()
            }

        gradient = jax.grad(micro, has_aux=True)
        gradients, metrics = _over_micro_batches(gradient, state.params, batch, layout, keys)
        with jax.named_scope("optimiser"):
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            metrics["grad_norm"] = global_norm(gradients)
        metrics["num_prompts"], metrics["num_tokens"] = counts["prompts"], counts["tokens"]
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        if largest_norm is not None:
            good &= metrics["grad_norm"] <= largest_norm
        metrics[SKIPPED] = 1.0 - good
        params = learnt(lambda new, old: jnp.where(good, new, old), params, state.params)
        opt_state = learnt(lambda new, old: jnp.where(good, new, old), opt_state, state.opt_state)
        return TrainState(state.step + 1, params, opt_state), metrics

    return update


def learnt(choose: Callable[[Any, Any], Any], new: Any, old: Any) -> Any:
    """The new tree, but what learns in it, which is all that counts nothing, as `choose` says."""
    return jax.tree.map(
        lambda x, y: choose(x, y) if jnp.issubdtype(x.dtype, jnp.inexact) else x, new, old
    )


def evaluate(
    method: Method, model: ModelFn, params: Params, batch: Batch, layout: Layout
) -> tuple[Float[Array, ""], Scalars]:
    """Sums, over the prompts that are there, of the loss and of each metric."""
    present = jnp.any(batch.valid, axis=-1)
    outputs = model(params, batch, layout)
    with jax.named_scope("loss"):
        losses, metrics = method.loss(outputs, batch)
    for name, others in ((DIFFERENCE, batch.old_logprobs), (FROM_REFERENCE, batch.ref_logprobs)):
        if others is not None:
            metrics = {**metrics, name: _difference(outputs, others, batch)}
    total = lambda x: jnp.sum(jnp.where(present, x, 0.0))  # noqa: E731
    return total(losses), {name: total(x) for name, x in metrics.items()}


def _difference(
    outputs: Outputs, others: Float[Array, "b k r"], batch: Batch
) -> Float[Array, " b"]:
    """How far the policy's log-probabilities are from others: of what drew, of the reference.

    The mean over the scored tokens of a prompt, in nats. Rounding alone, before the first update
    after a drawing, or of a run; then how far the policy has moved. Where a server draws, what
    stands in for its own are the trainer's at the drawing, and this says nothing of the server.
    """
    there = (batch.mask & batch.valid[..., None]).reshape(len(batch.mask), -1)
    apart = jnp.abs(jax.lax.stop_gradient(outputs.logprobs) - others)
    return masked_mean(apart.reshape(there.shape), there)


def with_means(
    method: Method,
    model: ModelFn,
    seen: Callable[[PRNGKeyArray], Params],
    batch: Batch,
    layout: Layout,
    keys: Key[Array, " a"],
) -> Batch:
    """The step's arrays with what the method's loss needs of all micro-batches together.

    One micro-batch is the whole step, and its loss finds them itself. Several cost a pass of the
    model before the first of them can be differentiated.

    Args:
        seen: the model's parameters for a micro-batch, from its key.
        keys: of each micro-batch.
    """
    accumulation = batch.valid.shape[0]
    first = jax.tree.map(lambda x: x[0], (batch, layout, keys))

    def look(inputs: tuple[Batch, Layout, PRNGKeyArray]) -> Any:
        batch, layout, key = inputs
        found = method.means(model(seen(key), batch, layout), batch)
        return found, jnp.any(batch.valid, axis=-1)

    if accumulation == 1 or not jax.eval_shape(look, first)[0]:
        return batch

    values, present = jax.lax.map(look, (batch, layout, keys))
    means = method.pool({name: x.ravel() for name, x in values.items()}, present.ravel())
    # One copy a micro-batch, since each takes its own part of every array of the batch.
    copies = {name: jnp.broadcast_to(x, (accumulation,)) for name, x in means.items()}
    return batch._replace(means=copies)


def count(batch: Batch) -> Scalars:
    """Prompts and scored tokens of the whole step; at least 1 each, to divide by."""
    prompts = jnp.sum(jnp.any(batch.valid, axis=-1), dtype=jnp.float32)
    tokens = jnp.sum(batch.mask & batch.valid[..., None], dtype=jnp.float32)
    return {"prompts": jnp.maximum(prompts, 1.0), "tokens": jnp.maximum(tokens, 1.0)}


def _over_micro_batches(
    function: Callable[..., Any],
    params: Params,
    batch: Batch,
    layout: Layout,
    keys: Key[Array, " a"],
) -> Any:
    """The sum of the function's results over the leading axis of batch, layout and keys."""
    stacked = (batch, layout, keys)
    first = jax.tree.map(lambda x: x[0], stacked)
    if batch.valid.shape[0] == 1:
        return function(params, *first)

    def add(total: Any, inputs: tuple[Batch, Layout, PRNGKeyArray]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(params, *inputs)), None

    shapes = jax.eval_shape(function, params, *first)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zero, stacked)[0]
