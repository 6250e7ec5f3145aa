"""The arithmetic of an update is that of a hand count."""

import dataclasses

import pytest

from alignax.core import axes
from alignax.data.plan import make_plan
from alignax.forecast import Boxes
from alignax.models.config import DecoderConfig, Experts, LayerKind
from alignax.operations import operations

CONFIG = DecoderConfig(
    vocab_size=10, width=4, layers=2, heads=2, kv_heads=1, head_dim=2, mlp_width=3
)
PLAN = make_plan(Boxes(64, 32, 2).lengths, batch_size=1, num_steps=1)
# 128 tokens, 64 of them scored. A layer: queries and output 4 x 4 each, keys and values 4 x 2 each,
# and three matrices of 4 x 3: 84 numbers. Pairs: 64^2 / 2 of the prompt, and for each of two
# responses 32 x (64 + 16).
BLOCKS, HEAD = 2 * 2 * 128 * 84, 2 * 64 * 4 * 10
PAIRS = 2048 + 2 * 32 * 80
ATTENTION = 2 * 4 * PAIRS * 4


def test_the_backward_pass_is_two_forward_ones_and_one_where_blocks_are_computed_again():
    """But for the last matrix of the MLP, 4 x 3, whose result no gradient needs."""
    found = operations(CONFIG, PLAN, recomputed=False)
    assert found == 3 * (BLOCKS + ATTENTION + HEAD)
    again = 2 * 2 * 128 * 72 + ATTENTION
    assert operations(CONFIG, PLAN, recomputed=True) == found + again
    # A norm behind the MLP needs its result.
    config = dataclasses.replace(CONFIG, norms="around")
    assert operations(config, PLAN, recomputed=True) == found + BLOCKS + ATTENTION


def test_slopes_that_a_gpu_keeps_are_not_computed_again(monkeypatch):
    monkeypatch.setattr("alignax.operations.room", lambda: 1)  # logits in chunks
    again = operations(CONFIG, PLAN, recomputed=False, dtype="bfloat16")
    assert again == 3 * (BLOCKS + ATTENTION) + 4 * HEAD
    monkeypatch.setattr(axes, "device_kind", lambda: "NVIDIA H100 80GB HBM3")
    kept = operations(CONFIG, PLAN, recomputed=False, dtype="bfloat16")
    assert kept == 3 * (BLOCKS + ATTENTION + HEAD)
    assert operations(CONFIG, PLAN, recomputed=False, dtype="float32") == again


def test_of_several_experts_those_are_counted_that_a_token_goes_through():
    config = dataclasses.replace(CONFIG, experts=Experts(count=5, per_token=2))
    # An MLP is a router of 4 x 5 and, for each of two experts, three matrices of 4 x 3: with
    # attention's 48, 140 numbers.
    blocks = 2 * 2 * 128 * 140
    assert operations(config, PLAN, recomputed=False) == 3 * (blocks + ATTENTION + HEAD)
    # The weights of the experts need their results.
    expected = 4 * (blocks + ATTENTION) + 3 * HEAD
    assert operations(config, PLAN, recomputed=True) == expected


def test_a_window_is_all_that_a_token_of_its_layer_sees():
    """Of 16: those of the first 16 tokens see 16^2 / 2, each later one 16."""
    kinds = (LayerKind(window=16), LayerKind())
    prompt, response = 128 + 48 * 16, 32 * 16
    attention = 4 * 4 * (prompt + 2 * response + PAIRS)
    config = dataclasses.replace(CONFIG, kinds=kinds)
    assert operations(config, PLAN, recomputed=False) == 3 * (BLOCKS + attention + HEAD)


def test_a_score_head_meets_every_token_and_no_vocabulary():
    config = dataclasses.replace(CONFIG, num_scores=2)
    head = 2 * 128 * 4 * 2
    assert operations(config, PLAN, recomputed=False) == 3 * (BLOCKS + ATTENTION + head)


@pytest.mark.parametrize(("parts", "times"), [(1, 4), (2, 3)])
def test_logits_that_a_device_does_not_keep_are_computed_again(parts, times):
    """256 MiB hold 33 tokens' logits over 2,000,000: half of the 64, and not all."""
    config = dataclasses.replace(CONFIG, vocab_size=2_000_000)
    head = 2 * 64 * 4 * 2_000_000
    found = operations(config, PLAN, recomputed=False, parts=parts)
    assert found == 3 * (BLOCKS + ATTENTION) + times * head
