"""What the benchmarks count and say; nothing is timed here."""

import argparse
import dataclasses
import functools
import subprocess

import jax
import numpy as np
import pytest

from alignax.core.types import BLOCK
from alignax.data.pipeline import TokenArrays, build_step
from alignax.data.plan import Lengths
from alignax.methods import DPO, RRHF
from alignax.models import pretrained
from alignax.models.lora import Adapter
from alignax.models.outputs import outputs
from alignax.train.optim import Optim, make_optimizer
from alignax.train.step import evaluate, init_state, make_step
from benchmarks import decode_step, devices, flops, peers, plans, tables, timing, train, workload
from benchmarks.__main__ import parser as benchmarks_parser
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


def test_real_lengths_of_one_response_are_the_chosen_ones():
    # Prompts 192 21 185 18 19 164 20 128, chosen 65 18 53 17 48 30 232 12.
    found = SHAPES["sft real lengths"].tokens(steps=1)
    assert found == {"prompts": 747, "responses": 475, "concatenated": 1222}


def test_every_number_of_devices_of_scale_splits_its_prompts():
    counts = benchmarks_parser().parse_args(["scale"]).devices
    assert counts == [1, 2, 4, 8]
    shape = train.shared_by(counts, dataclasses.replace(SHAPES["dpo 1:1"], model=TINY))
    assert shape.groups == 8
    for count in counts:
        _, plan, _ = prepared(shape.rows(2 * shape.groups), shape.groups, "shared", count)
        assert (len(plan), plan.shape.shards) == (2, count)


def test_a_newcomers_update_runs_and_begins_at_ln_2(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("XLA_FLAGS")  # of one device
    monkeypatch.setattr(timing, "KEPT", tmp_path)  # where a command keeps its runs
    command = ["train", "--tiny", "--dry", "--shapes", "dpo 1:1", "--rounds", "1", "--steps", "1"]
    options = benchmarks_parser().parse_args(command)
    devices.settle(options)
    train.train(options, command)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("| alignax |") and "| 0.69315, " in line for line in lines)
    assert any(line.startswith("| dpo 1:1 |") for line in lines)  # of the arithmetic
    assert len(list(tmp_path.iterdir())) == 1


def test_more_responses_than_have_real_lengths_are_refused():
    shape = dataclasses.replace(SHAPES["dpo real lengths"], responses=3)
    with pytest.raises(ValueError, match="at most 2 responses of real lengths to a prompt; got 3"):
        shape.lengths(4)


def test_boxes_of_real_lengths_are_the_mean_over_the_steps():
    # The longest text of the first four prompts is 192 + 65 = 257, of the next four 20 + 232 = 252.
    # 8 texts a step: 8 * (257 + 252) / 2 tokens, 8 * (257^2 + 252^2) / 2 pairs. Answers have 347
    # and 455 tokens.
    shape = SHAPES["dpo real lengths"]
    first = flops.concatenated(shape, scored="all", steps=1)
    assert first == flops.Work(2056.0, 528392.0, 2056.0)
    both = flops.concatenated(shape, scored="responses", steps=2)
    assert both == flops.Work(2036.0, 518212.0, 401.0)


def test_logits_in_chunks_are_counted_again():
    # As below, 2 * 6 * 10 = 120 for the head.
    model = Model(layers=1, width=2, heads=1, kv_heads=1, mlp_width=3, vocab=5)
    kept = flops.operations(model, flops.Work(10, 7, 6), recomputed=True, reference=False)
    again = flops.operations(model, flops.Work(10, 7, 6, 2), recomputed=True, reference=False)
    assert (again.again - kept.again, again.total - kept.total) == (120.0, 120.0)


def test_logits_are_in_chunks_where_they_take_more_than_is_kept():
    # 2^28 bytes hold 2097.15 rows of 32,000 floats of 4 bytes.
    chunks = [flops.vocabulary_chunks(n, 32_000, 2**28) for n in (2097, 2098, 4194, 4195)]
    assert chunks == [1, 2, 2, 3]


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
    # The last column is rounds and timed steps of the first run.
    assert tables.comparison(runs).splitlines()[2:] == [
        "| alignax | 1.600 | 1.00 (1.00 to 1.00) | 1,000 | 1.00 | 0.69315, 0.50000 | 2 x 3 |",
        "| other | 5.800 | 3.50 (3.00 to 4.00) | 2,500 | 2.50 | 0.69315, 0.50000 | 2 x 1 |",
        "| strange | 1.000 | 0.83 | 500 | 0.50 "
        "| 0.70000, 0.50000 (differs from step 1 on: do not compare) | 1 x 1 |",
        "| broken | failed: exit status 1: no module named x |  |  |  |  |  |",
    ]


def test_losses_of_all_steps_are_compared():
    ours = [0.69315, 0.6, 0.5]
    assert tables.differs([0.69320, 0.6005, 0.4996], ours) == 0  # 7e-5, 8e-4 and 8e-4 of it
    assert tables.differs([0.69330, 0.6, 0.5], ours) == 1  # 2e-4
    assert tables.differs([0.69315, 0.6, 0.501], ours) == 3  # 2e-3
    assert tables.differs([0.69315, float("nan"), 0.5], ours) == 2
    assert tables.differs([0.69315, 0.6], ours) == 3  # there is none
    assert tables.differs([0.3, 0.2], []) == 0  # own samples: nothing is expected


def test_a_loss_that_departs_after_the_first_step_is_named_in_the_table():
    how = {"shape": "dpo", "seconds": [1.0], "peak_mib": 100.0}
    runs = [
        Run(program="alignax", round=0, losses=[0.69315, 0.6, 0.5], **how),
        Run(program="untrained", round=0, losses=[0.69315, 0.69315, 0.69315], **how),
    ]
    told = tables.comparison(runs).splitlines()[-1]
    assert "| 0.69315, 0.69315 (differs from step 2 on: do not compare) |" in told
    # Of adapters, which each program draws for itself, the first loss is compared alone.
    told = tables.comparison(runs, compared=1).splitlines()[-1]
    assert "| 0.69315, 0.69315 |" in told


def test_the_share_of_the_machine_is_the_median_of_shares_within_rounds():
    # A step of 680 + 56 + 120 + 1712 + 616 = 3184 operations, 616 of them again. Shares of the
    # rate of the same round: 3184 / 12736 = 1/4, 3184 / 2 / 3184 = 1/2, 3184 / 4 / 3184 = 1/4;
    # useful 2568 / 12736. The median step over the median rate would be 3184 / 2 / 3184 = 1/2.
    model = Model(layers=1, width=2, heads=1, kv_heads=1, mlp_width=3, vocab=5)
    shape = Shape(task="sft", groups=1, responses=1, prompt=4, response=6, model=model)
    also = {"work": flops.Work(10, 7, 6)._asdict(), "xla_flops": 3184.0}
    runs = [
        Run(shape="sft", program="alignax", round=number, seconds=[seconds], also=also)
        for number, seconds in enumerate([1.0, 2.0, 4.0])
    ]
    rates = {0: 12736.0, 1: 3184.0, 2: 3184.0}
    header, _, row = (
        line.split(" | ") for line in tables.arithmetic({"sft": shape}, runs, rates, 3).splitlines()
    )
    found = dict(zip(header, row, strict=True))
    assert (found["of the machine"], found["useful"]) == ("25%", "20%")
    assert found["by hand / XLA"] == "1.000"


PINS = ("torch==2.13.0", "google-tunix==0.1.7")


@pytest.mark.parametrize(
    ("installed", "complete"),
    [
        ("# asked for: torch==2.13.0 google-tunix==0.1.7\nabsl-py==2.5.1\n", True),
        ("# asked for: torch==2.12.0 google-tunix==0.1.7\ntorch==2.13.0\n", False),
        # Made by hand: the list of packages alone.
        ("google_tunix==0.1.7\ntorch==2.13.0+cpu\n", True),
        ("google_tunix==0.1.6\ntorch==2.13.0+cpu\n", False),
        ("", False),
    ],
)
def test_an_environment_of_other_versions_is_not_complete(installed, complete):
    assert peers.complete(installed, PINS) == complete


def test_a_changed_pin_makes_the_environment_anew(tmp_path, monkeypatch):
    asked = []

    def installer(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="some==1\n", stderr="")

    monkeypatch.setattr(peers.subprocess, "run", installer)
    (tmp_path / "lib").mkdir()
    for version, commands in (("1", 3), ("1", 0), ("2", 3)):  # venv, install, list
        monkeypatch.setitem(peers.REQUIREMENTS, "lib", ((f"some=={version}",),))
        asked.clear()
        peers.make("lib", tmp_path)
        assert len(asked) == commands
    assert (tmp_path / "lib" / "installed.txt").read_text() == "# asked for: some==2\nsome==1\n"


def test_a_table_of_gpus_has_tokens_and_the_memory_of_the_device():
    # 4096 tokens a step of half a second. What a process has on the host says nothing.
    how = {"shape": "dpo", "round": 0, "seconds": [0.5], "peak_mib": 9999.0}
    runs = [
        Run(program="alignax", also={"device_peak_mib": 1000.0}, **how),
        Run(program="other", also={"device_peak_mib": 1500.0}, **how),
        Run(shape="dpo", program="large", round=0, failed="out of memory"),
    ]
    header, _, *rows = tables.comparison(runs, dtype="bfloat16", tokens=4096.0).splitlines()
    assert header == (
        "| program | s a step | x | device peak MiB | x | tokens/s | losses | rounds x steps |"
    )
    assert rows == [
        "| alignax | 0.500 | 1.00 | 1,000 | 1.00 | 8,192 |  | 1 x 1 |",
        "| other | 0.500 | 1.00 | 1,500 | 1.50 | 8,192 |  | 1 x 1 |",
        "| large | failed: out of memory |  |  |  |  |  |  |",
    ]


def test_no_gpu_is_an_end_in_words(monkeypatch):
    said = subprocess.CompletedProcess([], 1, stdout="", stderr="Error\nUnknown backend cuda\n")
    monkeypatch.setattr(devices.subprocess, "run", lambda *_, **__: said)
    options = argparse.Namespace(command="train", platform="gpu", environments=None)
    with pytest.raises(SystemExit, match=r"no GPU is here.*Unknown backend cuda"):
        devices.settle(options)


def test_shapes_of_gpus_have_the_models_of_llama():
    # Parameters of Llama 3.2 1B, without norms: 128,256 * 2,048, and 16 blocks of
    # 2 * 2,048 * (2,048 + 512) + 3 * 2,048 * 8,192.
    model = SHAPES["dpo 1k 1b"].model
    assert model.vocab * model.width + model.layers * model.block_params == 1_235_746_816
    assert {name for name, shape in SHAPES.items() if shape.by_name} == {"dpo 1k 1b", "dpo 1k 3b"}


def test_a_tied_model_is_written_without_its_output_matrix_and_read(tmp_path):
    model = dataclasses.replace(TINY, tied=True)
    workload.write_model(tmp_path / "model", model, dtype="bfloat16")
    found = pretrained.load(tmp_path / "model")
    assert (found.config.tied, found.dtype) == (True, "bfloat16")


def test_bytes_of_a_step_of_decoding_by_hand():
    # 134,515,008 parameters; a token of the cache is 2 * 30 * 3 * 64 = 11,520 numbers. Two slots,
    # each a prompt of 128 tokens and 4 responses of 10 so far: 336 tokens. 2 bytes a number.
    assert decode_step.bytes_read(decode_step.MODELS["135m"], 2, 4, 10.0, 2) == 2 * (
        134_515_008 + 11_520 * 336
    )


def test_kernels_that_are_timed_are_first_compared_with_float32():
    model = dataclasses.replace(decoder(SMALL), dtype="bfloat16")
    params = model.init(jax.random.key(0))
    found = decode_step.errors(model, params, model.unstack(params), 2, 2)
    # Eight bits a number; here XLA's kernels are the ones that serve.
    assert 0 < found["XLA's"] == found["these"] < 2**-6
    params["layers"]["mlp"]["up"]["kernel"] *= 1.1  # of the float32 side alone
    weights = model.unstack(model.init(jax.random.key(0)))
    assert decode_step.errors(model, params, weights, 2, 2)["these"] > 2**-6


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


def test_each_command_has_its_own_number_of_steps():
    read = benchmarks_parser().parse_args
    found = {name: read([name]).steps for name in ("train", "scale", "sample")}
    assert found == {"train": 5, "scale": 5, "sample": 1}


def test_pairs_that_are_seen_are_counted_by_hand():
    # A prompt of 3 and responses of 2 and 4: 9 / 2 of the prompt, 4 / 2 and 16 / 2 of themselves,
    # and each response's tokens see 3 more.
    lengths = Lengths(np.array([3]), np.array([[2, 4]]), np.array([[2, 4]]))
    assert flops.seen(lengths) == 4.5 + 2 + 8 + 3 * 6
