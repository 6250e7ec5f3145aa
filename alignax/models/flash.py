"""Attention over packed rows by the kernel that suits the device: the one place that chooses.

Flash kernels never hold the scores of a row, forward or backward. cuDNN's take ragged segments on
Hopper, and serve without a mask what packed rows ask (`cudnn`): own response so far, and all of
the group's prompt. Those of TPUs (splash), and cuDNN's where layers have windows or the GPU is of
another generation, take what a token sees as a mask. A row has one for all its heads, of two bytes
(cuDNN) or four (splash) for a pair of its tokens, made once for all layers that share a window.
"""

import functools
import itertools
import logging
import math
from collections.abc import Callable, Collection
from typing import Any, Literal

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from alignax.core.axes import ROW_AXES, device_kind, head_axes, row_shards, split_if_even
from alignax.core.errors import BadInput
from alignax.models import cudnn, splash
from alignax.models.attention import packed_attention, visible_tokens
from alignax.models.parts import PRODUCT

log = logging.getLogger("alignax")

Kernel = Literal["xla", "splash", "cudnn"]
Choice = Literal["auto", "xla", "splash", "cudnn"]
Window = int | Int[Array, ""] | None
# (query, key, value, window) -> attended values
AttendRows = Callable[[Array, Array, Array, Window], Array]

CUDNN_HEAD_DIM = 128  # the largest that every supported GPU takes
RAGGED_HEAD_DIM = 256  # and in ragged pieces
CUDNN_CAPABILITY = 8.0  # Ampere
CRITIC_CALLS = 2**29  # the first number of a critic's calls: more than any policy makes


def choose(
    choice: Choice,
    *,
    dtype: str,
    head_dim: int,
    tokens: int,
    softcap: float | None,
    windowed: bool = False,
) -> Kernel:
    """Which kernel serves rows on the mesh in use, or else on the first device.

    `auto` is splash on TPUs, cuDNN on NVIDIA's GPUs where it can serve (else the log says why
    not), and XLA on all other devices.

    Args:
        windowed: whether any layer has a window, and so needs a mask.

    Raises:
        BadInput: cuDNN is asked for by name and cannot serve, or no NVIDIA GPU is there.
    """
    device = device_kind()
    if choice == "auto" and not device.startswith("NVIDIA"):
        return "splash" if device.startswith("TPU") else "xla"
    if choice in ("xla", "splash"):
        return choice
    if not device.startswith("NVIDIA"):
        raise BadInput("an NVIDIA GPU", device, 'Leave it at "auto".', where="model.attention")
    capability = float(getattr(jax.local_devices()[0], "compute_capability", CUDNN_CAPABILITY))
    largest = CUDNN_HEAD_DIM if windowed or not cudnn.served() else RAGGED_HEAD_DIM
    limits = {
        f"dtype {dtype}": dtype == "bfloat16",
        f"a head size of {head_dim}": head_dim % 8 == 0 and head_dim <= largest,
        f"rows of {tokens} tokens": tokens % 2 == 0,
        "capped scores": softcap is None,
        f"compute capability {capability}": capability >= CUDNN_CAPABILITY,
    }
    beyond = ", ".join(name for name, within in limits.items() if not within)
    if not beyond:
        return "cudnn"
    if choice == "cudnn":
        raise BadInput(
            f"bfloat16, a head size of 8 to {largest} in steps of 8, rows of an even number "
            f"of tokens, no cap on scores, compute capability {CUDNN_CAPABILITY} or more",
            beyond,
            'Leave it at "auto".',
            where="model.attention",
        )
    _say_once(f"attention by XLA: cuDNN's does not take {beyond}")
    return "xla"


def over_rows(
    kernel: Kernel,
    group: Int[Array, "n t"],
    response: Int[Array, "n t"],
    position: Int[Array, "n t"],
    *,
    windows: Collection[int | None],
    reach: tuple[int, ...] | None = None,
    segments: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    first_call: int = 0,
) -> AttendRows:
    """Attention over rows as `packed_attention` defines it, to be used by every layer.

    On a mesh each device serves its own rows and heads: kernels are not partitioned by themselves.

    Args:
        windows: all that layers have. A mask of one window is made here, once; of several, by each
            layer for itself, and again in the backward pass, rather than kept for every layer.
        reach: how far back each block of a row looks, where the plan knows it. Of use to XLA only:
            kernels see from the mask which blocks of a row they may leave out.
        segments: prompts and responses in all rows, at most, where that is known. Of use to cuDNN
            only, which then needs no mask.
        first_call: the number of the first call of what is returned (`cudnn.attend`).
    """
    where = group, response, position
    how: Any = {"reach": reach, "scale": scale, "softcap": softcap}

    def attend_by_xla(query: Array, key: Array, value: Array, window: Window) -> Array:
        attended = packed_attention(query, key, value, *where, window=window, **how)
        return checkpoint_name(attended, PRODUCT)

    if kernel == "xla":
        return attend_by_xla

    def prepare(window: Window) -> Any:
        seen = split_if_even(visible_tokens(group, response, position, window))
        if kernel == "cudnn":
            return seen[:, None]
        interpret = not device_kind().startswith("TPU")
        return splash.prepare(seen, softcap=softcap, interpret=interpret)

    def attend(query: Array, key: Array, value: Array, prepared: Any) -> Array:
        run = _cudnn if kernel == "cudnn" else splash.attend
        run = functools.partial(run, scale=scale or query.shape[-1] ** -0.5)
        return _by_device(run, query, key, value, prepared)

    if kernel == "cudnn" and segments and set(windows) == {None} and cudnn.served():
        parts = _row_parts(group.shape[0])
        segments = -(-segments // parts)
        pieces = _by_rows(functools.partial(cudnn.prepare, segments=segments), group, response)
        numbers = itertools.count(first_call)

        def ragged(query: Array, key: Array, value: Array, window: Window) -> Array:
            if not cudnn.fits((len(query) // parts, *query.shape[1:]), segments):
                return attend_by_xla(query, key, value, window)
            run = functools.partial(
                cudnn.attend, scale=scale or query.shape[-1] ** -0.5, number=next(numbers)
            )
            return _by_device(run, query, key, value, pieces)

        return ragged

    if len(windows) == 1:
        once = prepare(*windows)
        return lambda query, key, value, window: attend(query, key, value, once)

    def each(query: Array, key: Array, value: Array, window: Window) -> Array:
        return attend(query, key, value, prepare(window))

    return jax.checkpoint(each, policy=jax.checkpoint_policies.save_only_these_names(splash.KEPT))


def same_bits(kernel: Kernel, *, windowed: bool) -> bool:
    """Whether a kernel's backward pass can be had with the same bits each time.

    cuDNN's with a mask cannot: it sums the mask's gradient, which nobody asked for, as threads come
    by. It serves where `cudnn` does not; the log says so once.
    """
    if kernel != "cudnn" or (cudnn.served() and not windowed):
        return True
    _say_once(
        "updates may differ in their last bits from run to run: cuDNN's attention with a mask adds "
        'up in no fixed order; model.attention="xla" does'
    )
    return False


def _cudnn(query: Array, key: Array, value: Array, seen: Array, *, scale: float) -> Array:
    """cuDNN adds the mask to the scores; told that it is causal, it skips what comes later."""
    attended = jax.nn.dot_product_attention(
        query, key, value, mask=seen, scale=scale, is_causal=True, implementation="cudnn"
    )
    return checkpoint_name(attended, PRODUCT)


def _by_device(
    run: Callable[..., Array],
    query: Float[Array, "n t h e"],
    key: Float[Array, "n t g e"],
    value: Float[Array, "n t g e"],
    prepared: Any,
) -> Float[Array, "n t h e"]:
    """Runs on the rows and heads of each device of the mesh in use, on all where none is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.axis_names:
        return run(query, key, value, prepared)
    rows = _row_axes(query.shape[0])
    heads = head_axes()
    heads = heads if key.shape[2] % math.prod(mesh.shape[name] for name in heads) == 0 else None
    leaves, tree = jax.tree.flatten(prepared)
    states, masks = PartitionSpec(rows, None, heads), PartitionSpec(rows)
    return jax.shard_map(
        lambda query, key, value, leaves: run(query, key, value, tree.unflatten(leaves)),
        in_specs=(states, states, states, masks),
        out_specs=states,
        check_vma=False,  # the kernels do not say over which axes their results vary
    )(query, key, value, leaves)


def _by_rows(run: Callable[..., Any], *arrays: Array) -> Any:
    """Runs on the rows of each device of the mesh in use, on all where none is set."""
    if not jax.sharding.get_abstract_mesh().axis_names:
        return run(*arrays)
    spec = PartitionSpec(_row_axes(arrays[0].shape[0]))
    return jax.shard_map(run, in_specs=spec, out_specs=spec, check_vma=False)(*arrays)


def _row_axes(rows: int) -> tuple[str, ...] | None:
    """Axes of the mesh in use over which so many rows are split; None where it is not even."""
    names = jax.sharding.get_abstract_mesh().axis_names
    return tuple(x for x in ROW_AXES if x in names) if rows % row_shards() == 0 else None


def _row_parts(rows: int) -> int:
    """Into how many parts so many rows are split."""
    return row_shards() if rows % row_shards() == 0 else 1


@functools.cache
def _say_once(message: str) -> None:
    log.warning(message)
