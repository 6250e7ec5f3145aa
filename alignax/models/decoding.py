"""Attention of one new token of every response to the cache, as one kernel for NVIDIA's GPUs.

A decoding step is bound by how many kernels it starts: as XLA compiles them, `caching.write` and
`caching.cached_attention` are thirteen a layer, each of which has next to nothing to do. This one
is Pallas's by way of Triton: it writes the new key and value into the ring, in place, and goes
through what is seen of the prompt and of the ring in blocks, with one running softmax in float32.
Where queries, keys and values come in parts (`few_rows.product`), it adds them up and turns them.

A program is one response and one head of keys. The k responses of a prompt so read its keys k
times, but side by side, and of memory once: the programs start after one another and the rest
finds them in the GPU's cache. With one program for all k there were too few for the GPU's
processors, 48 for 16 prompts and three heads of keys, and each had all the rings to go through.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from alignax.core.axes import device_kind, one_gpu
from alignax.models.attention import MASKED
from alignax.models.caching import Cache
from alignax.models.config import DecoderConfig
from alignax.models.few_rows import FEWEST_ROWS, dot, triton

CAPABILITIES = 8.0, 10.0  # Ampere to Hopper; 9.0 alone has run it
HEAD_DIMS = 64, 128  # sides of blocks must be powers of two
MOST_ROWS = 64  # queries of a head of keys, which are held in registers
BLOCK_NUMBERS = 8192  # of keys at a time: 16 KiB in bfloat16, so that programs share a processor
LONGEST_BLOCK = 128  # places
WARPS, STAGES = 4, 2
Rings = tuple[Float[Array, "*bkg e r"], Float[Array, "*bkg r e"]]


def served() -> bool:
    """Whether the devices here run the kernel: one NVIDIA GPU, Ampere to Hopper.

    On a mesh of several XLA's kernels serve, which are partitioned by themselves.
    """
    if triton is None or not one_gpu():
        return False
    capability = getattr(jax.local_devices()[0], "compute_capability", CAPABILITIES[0])
    return CAPABILITIES[0] <= float(capability) < CAPABILITIES[1]


def fits(config: DecoderConfig, dtype: str) -> bool:
    """Whether the kernel computes the attention of a decoder's layers.

    Its blocks are sized for bfloat16; it computes float32 right, in more room than some GPUs have.
    """
    return dtype == "bfloat16" and (
        config.head_dim in HEAD_DIMS
        and config.heads // config.kv_heads <= MOST_ROWS
        and config.attention_softcap is None
        and all(kind.window is None for kind in config.kinds)
    )


class Blocks(NamedTuple):
    """How an axis of places is gone through.

    Fields:
        places: of the axis. size: of a block, a power of two. count: of blocks.
    """

    places: int
    size: int
    count: int

    @property
    def ragged(self) -> bool:
        """Whether the last block goes over the end."""
        return self.places % self.size != 0


def blocks(places: int, head_dim: int) -> Blocks:
    """Blocks of an axis of places whose keys have `head_dim` numbers."""
    longest = min(LONGEST_BLOCK, BLOCK_NUMBERS // head_dim)
    size = min(longest, max(FEWEST_ROWS, pl.next_power_of_2(places)))
    return Blocks(places, size, -(-places // size))


def attend(
    query: Float[Array, "b k 1 h e"],
    key: Float[Array, "b k 1 g e"],
    value: Float[Array, "b k 1 g e"],
    cache: Cache,
    layer: int,
    *,
    scale: float | None = None,
) -> tuple[Float[Array, "b k 1 h e"], Rings]:
    """What `caching.write` and then `caching.cached_attention` give, for one token and no window.

    It cannot be differentiated.

    Args:
        key, value: of the new tokens. cache: before them.
        scale: of the products; head_dim ** -0.5 where None.
    """
    # As one array, so that what makes the three is one kernel too.
    new = jnp.concatenate([query, key, value], axis=3)[None, :, :, 0]
    out, rings = attend_sums(new, None, cache, layer, scale=scale)
    return out[:, :, None], rings


def attend_sums(
    new: Float[Array, "p b k hgg e"],
    angles: tuple[Float[Array, "b k half"], Float[Array, "b k half"]] | None,
    cache: Cache,
    layer: int,
    *,
    scale: float | None = None,
) -> tuple[Float[Array, "b k h e"], Rings]:
    """The same, of queries, keys and values as one array, in parts to be added up.

    Args:
        new: the heads of queries, then those of keys, then those of values, on one axis.
        angles: cosines and sines by which queries and keys are turned first (`rotary.rotate`);
            None: they are as they should be.
    """
    prompts, responses, groups = cache.leading
    count, *_, all_heads, dim = new.shape
    heads = all_heads - 2 * groups
    prompt_key, prompt_value = cache.prompt_key[layer], cache.prompt_value[layer]
    held = cache.whole(cache.key[layer]), cache.whole(cache.value[layer])
    shared = heads // groups
    rows = max(FEWEST_ROWS, pl.next_power_of_2(shared))
    prompt, ring = blocks(prompt_key.shape[-1], dim), blocks(cache.places, dim)

    # The programs of a prompt's k responses come one after another: what one reads, others find.
    def each(*block: int) -> pl.BlockSpec:
        return pl.BlockSpec((None,) * 3 + block, lambda k, g, b: (b, k, g) + (0,) * len(block))

    def of_prompt(*block: int) -> pl.BlockSpec:
        return pl.BlockSpec((None,) * 2 + block, lambda k, g, b: (b, g, 0, 0))

    turns = [] if angles is None else list(angles)
    of_turn = pl.BlockSpec((None, None, dim // 2), lambda k, g, b: (b, k, 0))
    of_new = (count, None, None, all_heads, dim)
    over_prompt, over_ring = (x.count * x.size for x in (prompt, ring))
    rings = each(dim, over_ring), each(over_ring, dim)
    out, *found = pl.pallas_call(
        functools.partial(
            _attend_one,
            heads=(heads, groups),
            filled_up=rows,
            prompt=prompt,
            ring=ring,
            scale=scale or dim**-0.5,
        ),
        grid=(responses, groups, prompts),
        in_specs=[
            pl.BlockSpec((1,), lambda k, g, b: (0,)),
            pl.BlockSpec((1,), lambda k, g, b: (b,)),
            pl.BlockSpec((None, 1), lambda k, g, b: (b, k)),
            pl.BlockSpec(of_new, lambda k, g, b: (0, b, k, 0, 0)),
            of_prompt(dim, over_prompt),
            of_prompt(over_prompt, dim),
            *rings,
            *[of_turn] * len(turns),
        ],
        out_specs=[each(rows, dim), *rings],
        out_shape=[
            jax.ShapeDtypeStruct((prompts, responses, groups, shared, dim), held[1].dtype),
            *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in held),
        ],
        input_output_aliases={6: 1, 7: 2},  # the rings
        compiler_params=triton and triton.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=not device_kind().startswith("NVIDIA"),
        name="attention_to_cache",
    )(
        cache.at.reshape(1),
        cache.prompt_lengths,
        cache.filled,
        new,
        prompt_key,
        prompt_value,
        *held,
        *turns,
    )
    like = cache.key[layer], cache.value[layer]
    rings = (x.reshape(y.shape) for x, y in zip(found, like, strict=True))
    return out.reshape(prompts, responses, heads, dim), tuple(rings)


class Sums(NamedTuple):
    """A softmax and its values so far, of queries as rows.

    Fields:
        highest: score. total: of exp(score - highest). values: weighted by the same.
    """

    highest: Float[Array, " m"]
    total: Float[Array, " m"]
    values: Float[Array, "m e"]


def _attend_one(
    at: Any,  # [1]
    prompt_length: Any,  # [1]
    filled: Any,  # [1]
    new: Any,  # [p, h + 2 g, e]: queries, keys and values of the token, in p parts
    prompt_key: Any,  # [e p], filled up to whole blocks, as all places are
    prompt_value: Any,  # [p e]
    key: Any,  # [e r]
    value: Any,  # [r e]
    *others: Any,  # cosines and sines [e / 2], where there are any; and what is written:
    # [m e], of the queries of one head of keys, filled up to m rows; [e r], the same memory as
    # `key`; [r e]
    heads: tuple[int, int],
    filled_up: int,
    prompt: Blocks,
    ring: Blocks,
    scale: float,
) -> None:
    """The kernel: one response and one head of keys."""
    *turns, out, key_out, value_out = others
    at, length, past = at[0], prompt_length[0], filled[0]
    shared, head = heads[0] // heads[1], pl.program_id(1)
    rows = (jnp.arange(filled_up) < shared)[:, None]
    dtype = out.dtype
    queries = _turned(new, head * shared + jnp.arange(filled_up), turns, dtype, mask=rows)
    latest_key = _turned(new, heads[0] + head, turns, dtype)
    latest_value = _turned(new, sum(heads) + head, [], dtype)
    triton.store(key_out.at[:, pl.ds(at, 1)], latest_key[:, None])
    triton.store(value_out.at[pl.ds(at, 1), :], latest_value[None])

    # The token sees itself: that begins the sums, so that they are never of nothing, and nobody
    # reads in the ring what was only just written there.
    wide = queries.astype(jnp.float32), latest_key.astype(jnp.float32)
    own = jnp.sum(wide[0] * wide[1][None], axis=1) * scale
    first = jnp.broadcast_to(latest_value.astype(jnp.float32)[None], queries.shape)
    sums = Sums(own, jnp.ones_like(own), first)

    def add(sums: Sums, keys: Any, values: Any, n: Array, axis: Blocks, seen: Any) -> Sums:
        """One block more. Keys are loaded whatever is seen: a mask along them would split loads."""
        part = pl.ds(n * axis.size, axis.size)
        place = n * axis.size + jnp.arange(axis.size)
        inside = {"mask": (place < axis.places)[None], "other": 0} if axis.ragged else {}
        visible = seen(place)
        block = triton.load(keys.at[:, part], **inside)
        there = triton.load(values.at[part, :], mask=visible[:, None], other=0)
        scores = jnp.where(visible[None], dot(queries, block) * scale, MASKED)
        highest = jnp.maximum(sums.highest, scores.max(axis=1))
        faded = jnp.exp(sums.highest - highest)
        weights = jnp.exp(scores - highest[:, None])
        more = dot(weights.astype(there.dtype), there)
        return Sums(
            highest,
            sums.total * faded + weights.sum(axis=1),
            sums.values * faded[:, None] + more,
        )

    def of_prompt(n: Array, sums: Sums) -> Sums:
        return add(sums, prompt_key, prompt_value, n, prompt, lambda place: place < length)

    def of_ring(n: Array, sums: Sums) -> Sums:
        def seen(place: Array) -> Array:
            age = jnp.where(place <= at, at - place, at - place + ring.places)
            return (age > 0) & (age <= past) & (place < ring.places)

        n = jnp.where(n < before, begin + n, rest + n - before)
        return add(sums, key, value, n, ring, seen)

    sums = jax.lax.fori_loop(0, _over(length, prompt.size), of_prompt, sums)
    # The past lies right before `at`; what of it does not fit there, at the end of the ring.
    begin = jnp.maximum(at - past, 0) // ring.size
    end = _over(at, ring.size)
    before = end - begin
    rest = jnp.maximum(jnp.maximum(at - past + ring.places, 0) // ring.size, end)
    after = jnp.where(past > at, jnp.maximum(ring.count - rest, 0), 0)
    sums = jax.lax.fori_loop(0, before + after, of_ring, sums)
    found = sums.values / sums.total[:, None]
    triton.store(out, found.astype(out.dtype), mask=rows)


def _turned(new: Any, rows: Array, turns: list[Any], dtype: Any, mask: Any = None) -> Array:
    """Rows of heads, their parts added, turned where there are angles; in the compute dtype."""
    parts, _, dim = new.shape
    inside = {} if mask is None else {"mask": mask, "other": 0}
    if mask is not None:
        rows = jnp.broadcast_to(rows[:, None], (len(rows), dim))

    def total(places: Array) -> Array:
        # Triton takes indices of one shape alone.
        places = jnp.broadcast_to(places, rows.shape or places.shape)
        found = triton.load(new.at[jnp.int32(0), rows, places], **inside)
        for n in range(1, parts):
            found += triton.load(new.at[jnp.int32(n), rows, places], **inside)
        return found.astype(dtype)

    places = jnp.arange(dim)
    if not turns:
        return total(places)
    # Of each plane the other entry: half a head away.
    own, other = (total(x).astype(jnp.float32) for x in (places, (places + dim // 2) % dim))
    cos, sin = (triton.load(turn.at[places % (dim // 2)]) for turn in turns)
    sin = jnp.where(places < dim // 2, -sin, sin)
    cos, sin = (jnp.broadcast_to(x, own.shape) for x in (cos, sin))
    return (own * cos + other * sin).astype(dtype)


def _over(places: Int[Array, ""], size: int) -> Int[Array, ""]:
    """Blocks that hold so many places."""
    return (places + size - 1) // size
