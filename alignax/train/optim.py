"""The optimiser of a run as a value: its settings, its learning-rate schedule, its optax transform.

Setting names and defaults are Hugging Face's, where Hugging Face has them; deviations are marked.
"""

import dataclasses
import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from alignax.core.errors import BadInput
from alignax.core.types import Number, Params, Scalar

Scheduler = Literal["constant", "linear", "cosine"]
Optimizer = Literal["adamw", "rmsprop", "sgd", "lion"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    """How gradients become updates.

    Fields:
        learning_rate: at its peak, after the warm-up. Typical: 5e-7 for preferences, 1e-5 for SFT,
            1e-4 for LoRA; a third of that for lion.
        lr_scheduler_type: what follows the warm-up: nothing, a straight line or half a cosine
            down to `min_lr_ratio`.
        warmup_ratio: share of the run's updates that warm up, in [0, 1]; rounded up.
        warmup_steps: the same in updates; takes the place of `warmup_ratio` where given.
        min_lr_ratio: what the rate falls to over the peak, in [0, 1]; not for `constant`.
        optimizer: `adamw`; `rmsprop` as DPO's authors used it (PyTorch's: decay 0.99, epsilon
            outside the root); `sgd` without momentum; `lion` (decays 0.9 and 0.99).
        adam_b1: decay of the mean of gradients, in [0, 1). adamw only.
        adam_b2: decay of the mean of squared gradients, in [0, 1). adamw only.
        adam_eps: added to the root of that mean. adamw and rmsprop.
        weight_decay: decoupled, scaled by the learning rate; only on matrices (`decay_mask`).
        max_grad_norm: gradients with a greater global norm are scaled down to it; None for never.
    """

    learning_rate: Scalar = 5e-7
    lr_scheduler_type: Scheduler = "linear"
    warmup_ratio: float = 0.1
    warmup_steps: int | None = None
    min_lr_ratio: float = 0.0
    optimizer: Optimizer = "adamw"
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0


def check(optim: Optim, num_steps: int) -> None:
    """Refuses settings that no run of `num_steps` updates can use.

    Raises:
        BadInput: naming the setting as `optim.<name>`.
    """
    _one_of("lr_scheduler_type", optim.lr_scheduler_type, get_args(Scheduler))
    _one_of("optimizer", optim.optimizer, get_args(Optimizer))
    _between("learning_rate", float(optim.learning_rate), 0.0, math.inf)
    _between("warmup_ratio", optim.warmup_ratio, 0.0, 1.0, closed=True)
    _between("min_lr_ratio", optim.min_lr_ratio, 0.0, 1.0, closed=True)
    _between("adam_b1", optim.adam_b1, 0.0, 1.0)
    _between("adam_b2", optim.adam_b2, 0.0, 1.0)
    _between("adam_eps", optim.adam_eps, 0.0, math.inf)
    if optim.optimizer in ("adamw", "rmsprop") and optim.adam_eps < jnp.finfo(jnp.float32).tiny:
        raise BadInput(
            "a number above 0 in float32",
            repr(optim.adam_eps),
            "Without it a parameter that has had no gradient yet becomes 0 / 0.",
            where="optim.adam_eps",
        )
    _between("weight_decay", optim.weight_decay, 0.0, math.inf)
    if optim.max_grad_norm is not None:
        _between("max_grad_norm", optim.max_grad_norm, 0.0, math.inf)
        if optim.max_grad_norm == 0.0:
            raise BadInput(
                "a number above 0, or None",
                "0.0",
                "With 0 every gradient would be 0. None turns clipping off.",
                where="optim.max_grad_norm",
            )
    if num_steps < 1:
        raise BadInput("a run of at least 1 update", str(num_steps), "Train for longer.")
    if not 0 <= _warmup_steps(optim, num_steps) <= num_steps:
        raise BadInput(
            f"0 to {num_steps}, the updates of the run",
            str(optim.warmup_steps),
            "Shorten the warm-up, lengthen the run, or give warmup_ratio in its place.",
            where="optim.warmup_steps",
        )


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadInput(", ".join(known), repr(value), "Name one of them.", where=f"optim.{name}")


def _between(name: str, value: float, low: float, high: float, *, closed: bool = False) -> None:
    # Written so that NaN, which compares false with everything, is refused.
    if low <= value < high or (closed and value == high):
        return
    span = "a finite number, 0 or above" if high == math.inf else f"a number in [{low:g}, {high:g}"
    span += "" if high == math.inf else "]" if closed else ")"
    raise BadInput(span, repr(value), "Change the setting.", where=f"optim.{name}")


def schedule(optim: Optim, num_steps: Number) -> optax.Schedule:
    """The learning rate of each update of a run.

    Departs from Hugging Face: update i of w warm-up updates has `learning_rate` i / w, counted
    from 1: update w has the peak, and the update after the last would have `min_lr_ratio` of it,
    so that none is spent at 0 at either end.

    Returns:
        A function of the number of updates made before, as optax counts them.

        update (of 10)   1    2    3     4    ...  10
        argument         0    1    2     3    ...   9
        linear, w = 2    1/2  1    8/9   7/9  ...  1/9    times `learning_rate`
    """
    warmup = _warmup_steps(optim, num_steps)
    peak = max(warmup, 1)  # the first update of all has the peak where nothing warms up
    decays = num_steps + 1 - peak

    def learning_rate(count: Any) -> Float[Array, ""]:
        update = jnp.asarray(count, jnp.float32) + 1.0
        progress = jnp.clip((update - peak) / decays, 0.0, 1.0)
        match optim.lr_scheduler_type:
            case "constant":
                fall = jnp.zeros_like(progress)
            case "linear":
                fall = progress
            case "cosine":
                fall = 0.5 - 0.5 * jnp.cos(jnp.pi * progress)
        height = 1.0 - (1.0 - optim.min_lr_ratio) * fall
        return optim.learning_rate * jnp.where(update < warmup, update / max(warmup, 1), height)

    return learning_rate


def _warmup_steps(optim: Optim, num_steps: Number) -> int:
    if optim.warmup_steps is not None:
        return optim.warmup_steps
    # 0.1 * 30 is 3.0000000000000004; what a binary fraction adds must not become an update.
    return math.ceil(round(optim.warmup_ratio * num_steps, 6))


def without_length(optim: Optim, num_steps: int) -> Optim:
    """The same settings with the warm-up in updates: a schedule may then trace `num_steps`."""
    warmup = _warmup_steps(optim, num_steps)
    return dataclasses.replace(optim, warmup_steps=warmup, warmup_ratio=0.0)


def make_optimizer(optim: Optim, num_steps: Number, axes: Params) -> optax.GradientTransformation:
    """Clips, preconditions, decays, scales: in this order.

    Args:
        axes: the logical axes of each parameter, a tree of tuples of names.
    """
    match optim.optimizer:
        case "adamw":
            direction = optax.scale_by_adam(optim.adam_b1, optim.adam_b2, optim.adam_eps)
        case "rmsprop":
            direction = optax.scale_by_rms(0.99, optim.adam_eps, eps_in_sqrt=False)
        case "sgd":
            direction = optax.identity()
        case "lion":
            direction = optax.scale_by_lion(0.9, 0.99)
    clip = [] if optim.max_grad_norm is None else [clip_by_global_norm(optim.max_grad_norm)]
    decay = []
    if optim.weight_decay:
        decay = [optax.add_decayed_weights(optim.weight_decay, decay_mask(axes))]
    rate = optax.scale_by_learning_rate(schedule(optim, num_steps))
    return optax.chain(*clip, direction, *decay, rate)


def decay_mask(axes: Params) -> Any:
    """True for matrices, which are decayed; False for norms and biases, which are not.

    The rank of an array does not tell: stacked layers add an axis, and the bias of an attention
    projection is stored as heads by head_dim. So neither "layers" nor that split is counted.

        ("layers", "embed", "heads", "head_dim")  True
        ("layers", "heads", "head_dim")           False
        ("vocab", "embed")                        True
        ("layers", "embed")                       False
    """

    def is_matrix(names: tuple[str | None, ...]) -> bool:
        if "head_dim" in names:
            names = tuple(name for name in names if name not in ("heads", "kv_heads"))
        return len([name for name in names if name != "layers"]) >= 2

    return jax.tree.map(is_matrix, axes, is_leaf=lambda leaf: isinstance(leaf, tuple))


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales gradients whose global norm is above `max_norm` down to it.

    `optax.clip_by_global_norm` sums squares in the gradients' own dtype; this one in float32.
    """

    def update(updates, state, params=None):
        del params
        norm = global_norm(updates)
        # A NaN leaves the gradients as they are: clipping must not hide it from the loop.
        scale = jnp.where(norm > max_norm, max_norm / norm, 1.0)
        return jax.tree.map(lambda g: (g * scale).astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def global_norm(tree: Params) -> Float[Array, ""]:
    """Root of the sum of squares over all leaves, summed in float32 whatever their dtype."""
    return optax.tree.norm(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree))
