"""A tiny random decoder, and data sets of token ids for it, held in memory."""

import functools

import jax
import numpy as np

from alignax.data.pipeline import InMemory
from alignax.data.plan import Lengths
from alignax.data.tokenise import Example
from alignax.models.config import DecoderConfig, LayerKind
from alignax.models.outputs import outputs
from alignax.models.rotary import Rope
from alignax.models.transformer import Decoder

CONFIG = DecoderConfig(
    vocab_size=40,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp_width=24,
    kinds=(LayerKind(rope=Rope(theta=100.0)),),  # so that places a few tokens apart are told apart
    init_scale=0.3,
)


@functools.cache
def decoder(**changes) -> Decoder:
    return Decoder(config=CONFIG, **changes)


@functools.cache
def params(seed: int = 0):
    return jax.jit(decoder().init)(jax.random.key(seed))


def model_fn(params, batch, layout):
    return outputs(decoder(), params, batch, layout)


def example(prompt, responses, masks=None, scores=None) -> Example:
    """One group; every response token is scored where no masks are given."""
    masks = [[True] * len(r) for r in responses] if masks is None else masks
    return Example(
        prompt=np.array(prompt, np.int32),
        responses=np.concatenate([np.array(r, np.int32) for r in responses]),
        response_lengths=np.array([len(r) for r in responses], np.int32),
        mask=np.concatenate([np.array(m, bool) for m in masks]),
        scores=np.array(range(len(responses), 0, -1) if scores is None else scores, np.float32),
        origin="table",
    )


def random_table(count, *, responses=2, longest=12, seed=0) -> InMemory:
    """Groups of random tokens and lengths; about one response token in four is not scored."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        sizes = draw.integers(1, longest + 1, responses)
        masks = [draw.random(size) < 0.75 for size in sizes]
        for mask in masks:
            mask[-1] = True
        tokens = [draw.integers(0, CONFIG.vocab_size, size) for size in sizes]
        prompt = draw.integers(0, CONFIG.vocab_size, draw.integers(1, longest + 1))
        made.append(example(prompt, tokens, masks))
    return InMemory(made)


def random_lengths(count, *, seed=0) -> Lengths:
    """Pairs as long as Anthropic's helpful ones: log-normal, cut at 512 and 256 tokens."""
    draw = np.random.default_rng(seed)
    prompt = np.clip(draw.lognormal(4.6, 0.8, count), 10, 512).astype(np.int32)
    response = np.clip(draw.lognormal(4.1, 0.8, (count, 2)), 2, 256).astype(np.int32)
    return Lengths(prompt, response, response)
