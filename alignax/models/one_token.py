"""All layers of a decoder for one new token of every response, in seven kernels each.

What `blocks.Block` computes, arranged so that little is started: queries, keys and values are one
product whose parts attention adds up and turns (`decoding`), and every sum with the stream is one
kernel with the norm after it (`few_rows`).
"""

import jax
from jaxtyping import Array, Float

from alignax.core.types import Params
from alignax.models import decoding, few_rows
from alignax.models.caching import Cache
from alignax.models.config import DecoderConfig
from alignax.models.parts import ACTIVATIONS

Angles = tuple[Float[Array, "b k one half"], Float[Array, "b k one half"]]


def fits(config: DecoderConfig, responses: int, angles: Angles | None) -> bool:
    """Whether the layers of a decoder are made of what the kernels compute.

    Args:
        responses: that get a token. angles: by which all layers turn queries and keys.
    """
    heads, dim = config.heads + 2 * config.kv_heads, config.head_dim
    return (
        few_rows.fits(responses, config.width, heads * dim, config.heads * dim, config.mlp_width)
        and (config.norm, config.norm_offset, config.norms) == ("rms", 0.0, "before")
        and not (config.parallel or config.qkv_bias or config.out_bias or config.mlp_bias)
        and (config.qk_norm, config.experts, config.gated) == ("none", None, True)
        and config.activation != "gelu"  # Pallas has no erf for Triton
        and len(config.kinds) == 1
        and (angles is None or 2 * angles[0].shape[-1] == dim)
    )


def layers(
    config: DecoderConfig,
    params: Params,
    stream: Float[Array, "b k 1 d"],
    normed: Float[Array, "b k 1 d"],
    angles: Angles | None,
    cache: Cache,
) -> tuple[Float[Array, "b k 1 d"], list[decoding.Rings]]:
    """The states after the final norm, and what each layer's rings hold then.

    Args:
        params: unstacked, of joined blocks. normed: the stream as the first block's norm gives it.
    """
    shape, width = stream.shape, config.width
    stream, normed = (x.reshape(-1, width) for x in (stream, normed))
    turns = jax.tree.map(lambda x: x[:, :, 0], angles)
    blocks, rings = params["layers"], []
    norms = [block["attention_norm"]["scale"] for block in blocks[1:]] + [params["norm"]["scale"]]
    heads = config.heads + 2 * config.kv_heads
    for i, (block, norm) in enumerate(zip(blocks, norms, strict=True)):
        attention, mlp = block["attention"], block["mlp"]
        new = few_rows.product(normed, attention["joined"]["kernel"].reshape(width, -1))
        new = new.reshape(-1, *shape[:2], heads, config.head_dim)
        attended, held = decoding.attend_sums(new, turns, cache, i, scale=config.attention_scale)
        rings.append(held)
        out = attention["out"]["kernel"].reshape(-1, width)
        pieces = few_rows.product(attended.reshape(len(stream), -1), out)
        stream, normed = few_rows.added(pieces, stream, block["mlp_norm"]["scale"], config.norm_eps)
        wide = few_rows.gated(normed, mlp["joined"]["kernel"], ACTIVATIONS[config.activation])
        pieces = few_rows.product(wide, mlp["down"]["kernel"])
        stream, normed = few_rows.added(pieces, stream, norm, config.norm_eps)
    return normed.reshape(shape), rings
