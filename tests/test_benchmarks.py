"""What the benchmarks count and say; nothing is timed here."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from alignax.core.types import BLOCK
from alignax.data.pipeline import TokenArrays, build_step
from alignax.methods import DPO, RRHF
from alignax.models.lora import Adapter
from alignax.models.outputs import outputs
from alignax.train.optim import Optim, make_optimizer
from alignax.train.step import evaluate, init_state, make_step
from benchmarks import flops, plans, tables
from benchmarks.ours import ADAPTER, decoder
from benchmarks.rows import Rows, in_order, masked_outputs, prepared
from benchmarks.shapes import SHAPES, TINY, Model, Shape
from benchmarks.timing import Run

SMALL = Model(layers=2, width=128, heads=2, kv_heads=1, mlp_width=256, vocab=512)


def test_tokens_of_a_box_are_counted_by_hand():
    # 4 prompts of 128, two responses of 128 to each; concatenated, 8 texts of 256.
    found = SHAPES["dpo 1:1"].tokens(steps=1)
    assert found == {"prompts": 512, "responses": 1024, "concatenated": 2048}


def test_tokens_of_real_lengths_are_those_of_the_list():
    # Prompts 192 21 185 18, each twice where they are concatenated; answers 65 60, 18 69, 53 32,
    # 17 33.
    found = SHAPES["dpo real lengths"].tokens(steps=1)
    assert found == {"prompts": 416, "responses": 347, "concatenated": 2 * 416 + 347}


def test_operations_by_hand():
    # One layer, d 2, MLP 3, vocabulary 5: 4 * 4 + 3 * 6 = 34 numbers in matrices. 10 tokens:
    # 2 * 10 * 34 = 680; 7 pairs: 4 * 7 * 2 = 56; 6 scored: 2 * 6 * 10 = 120; back twice 856; again
    # 680 + 56 less the MLP's last matrix, 2 * 10 * 6 = 120; the reference as the first three.
    model = Model(layers=1, width=2, heads=1, kv_heads=1, mlp_width=3, vocab=5)
    found = flops.operations(model, flops.Work(10, 7, 6), recomputed=True, reference=True)
    assert (found.blocks, found.attention, found.head) == (680.0, 56.0, 120.0)
    assert (found.backward, found.again, found.reference) == (1712.0, 616.0, 856.0)
    assert found.total == 680 + 56 + 120 + 1712 + 616 + 856


@pytest.mark.parametrize("adapted", [False, True])
def test_operations_by_hand_are_nearly_those_that_xla_counts(adapted):
    """XLA counts one turn of the loop over layers, and norms, softmax and the optimiser too."""
    shape = Shape(task="dpo", groups=2, responses=2, prompt=96, response=48, model=SMALL)
    rows, network = Rows(shape.rows(2)), decoder(SMALL)
    plan = in_order(rows, 2)
    trained, axes, frozen, join = network.abstract(), network.axes(), (), None
    if adapted:
        adapter = Adapter(decoder=network, settings=ADAPTER)
        trained, axes, frozen = adapter.abstract(), adapter.axes(), (trained,)
        join = lambda params, base, key: adapter.attach(base, params, key)  # noqa: E731
    optimizer = make_optimizer(Optim(), 10, axes)
    state = jax.eval_shape(functools.partial(init_state, optimizer=optimizer), trained)
    arrays = build_step(rows, plan, 0, {"ref_logprobs": TokenArrays.empty(rows.lengths)})
    model_fn = functools.partial(outputs, network, reach=plan.shape.reach)
    step = jax.jit(make_step(DPO(), model_fn, optimizer, join=join))
    counted = step.lower(state, *arrays, *frozen).compile().cost_analysis()["flops"]
    packed = plan.shape
    work = flops.in_rows(packed.rows, packed.row_length, packed.scored, packed.reach, BLOCK)
    one = dataclasses.replace(SMALL, layers=1)
    found = flops.operations(one, work, recomputed=True, reference=False, adapter=adapted)
    assert 0.93 < found.total / counted < 1.0


def test_a_response_behind_its_own_prompt_has_the_loss_of_one_that_shares_it():
    """The baseline computes what it is a baseline for, with and without the prompt's positions."""
    shape = Shape(task="rrhf", groups=3, responses=2, prompt=None, response=None, model=TINY)
    rows, network = shape.rows(3), decoder(TINY)
    params = network.init(jax.random.key(0))
    losses = []
    for form in ("shared", "concatenated", "everywhere"):
        data, plan, arrange = prepared(rows, 3, form, 1)
        arrays = arrange(build_step(data, plan, 0), 0)
        batch, layout = jax.tree.map(lambda x: x[0], arrays)
        model_fn = functools.partial(masked_outputs, functools.partial(outputs, network))
        loss, _ = jax.jit(functools.partial(evaluate, RRHF(), model_fn))(params, batch, layout)
        losses.append(float(loss))
    np.testing.assert_allclose(losses[1:], losses[0], rtol=1e-5)


def test_a_table_has_medians_ratios_and_reasons():
    def ran(program, number, *seconds, peak, loss):
        how = {"seconds": list(seconds), "losses": [loss, 0.5], "peak_mib": peak}
        return Run(shape="dpo", program=program, round=number, **how)

    runs = [
        ran("alignax", 0, 1.0, 1.2, 5.0, peak=1000.0, loss=0.69315),
        ran("other", 0, 3.6, peak=2500.0, loss=0.69315),
        ran("strange", 0, 1.0, peak=500.0, loss=0.7),
        Run(shape="dpo", program="broken", round=0, failed="exit status 1: no module named x"),
        ran("alignax", 1, 2.0, peak=900.0, loss=0.69315),
        ran("other", 1, 8.0, peak=2400.0, loss=0.69315),
    ]
    # Medians of rounds: (1.2 + 2) / 2, (3.6 + 8) / 2; ratios within rounds 3.6 / 1.2 and 8 / 2.
    assert tables.comparison(runs).splitlines()[2:] == [
        "| alignax | 1.600 | 1.00 (1.00 to 1.00) | 1,000 | 1.00 | 0.69315, 0.50000 | 2 |",
        "| other | 5.800 | 3.50 (3.00 to 4.00) | 2,500 | 2.50 | 0.69315, 0.50000 | 2 |",
        "| strange | 1.000 | 0.83 | 500 | 0.50 "
        "| 0.70000, 0.50000 (another loss: do not compare) | 1 |",
        "| broken | failed: exit status 1: no module named x |  |  |  |  |  |",
    ]


def test_of_the_meshes_of_a_slice_the_one_that_fits_and_takes_least_is_kept():
    assert plans.meshes(8) == [(1, 8)]
    assert plans.meshes(512) == [(1, 512), (8, 64), (64, 8)]

    def row(data: int, fits: bool, at_most: float) -> plans.Row:
        # 2 GiB of memory, 3 TFLOP and 1 GiB sent; arithmetic takes half a second.
        return plans.Row(64, data, 64 // data, fits, 2**31, 3e12, 2**30, 0.5, 0.625, at_most)

    kept = plans.best([row(1, True, 1.25), row(2, True, 1.0), row(8, False, 0.75)])
    assert plans.markdown(kept).splitlines()[2:] == [
        "| 64 | 4x4x4 | 2 x 32 | 2.0 | 3 | 1.0 | 0.625 | 1.000 | 50% to 80% |"
    ]
