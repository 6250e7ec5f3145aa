"""bfloat16 arithmetic on a CPU too: it trains, from ln 2 on, as float32 does but for rounding."""

import dataclasses
import json
import math

import pytest

from alignax import feeds, jobs
from alignax.methods import DPO, GRPO, GSPO, RewardModel
from alignax.models.lora import LoRA
from alignax.train.loop import Loop
from tests.test_online_runs import setup as sampling
from tests.tiny_model import experiment as tiny

LOOP = Loop(batch_size=8, max_steps=4)


def losses(made, folder, **model):
    changed = dataclasses.replace(
        made, model=dataclasses.replace(made.model, **model), output_dir=str(folder)
    )
    jobs.train(changed, quiet=True)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("remat", ["block", "elementwise", "attention", "none"])
def test_dpo_begins_at_ln_2_and_falls_as_it_does_in_float32(remat, tmp_path):
    made = tiny(tmp_path, loop=LOOP, method=DPO())
    half, single = (
        losses(made, tmp_path / dtype, dtype=dtype, remat=remat)
        for dtype in ("bfloat16", "float32")
    )
    assert half[0] == pytest.approx(math.log(2), abs=2e-3)  # its own reference, in bfloat16 too
    # Of 8 bits: a log-probability of some hundred nats is off by tenths, a margin's mean by less.
    assert half == pytest.approx(single, abs=0.02)
    assert half[-1] < half[0]


def test_fewer_ratios_are_clipped_where_nothing_has_moved_than_by_the_samplers_rounding(
    tmp_path, monkeypatch
):
    def clipped(folder):
        made = sampling(folder, GSPO(num_samples=4), loop={"max_steps": 1})
        losses(made, folder / "half", dtype="bfloat16")
        lines = map(json.loads, (folder / "half" / "metrics.jsonl").read_text().splitlines())
        return next(line for line in lines if "loss" in line)

    for name in ("update's", "sampler's"):
        (tmp_path / name).mkdir()
    found = clipped(tmp_path / "update's")
    assert found["sampling/logp_difference"] > 1e-4
    monkeypatch.setattr(feeds, "anew", lambda run: False)
    other = clipped(tmp_path / "sampler's")["clip_ratio/region_mean"]
    assert found["clip_ratio/region_mean"] < other / 2


@pytest.mark.parametrize(
    "made",
    [
        lambda folder: tiny(folder, loop=LOOP, adapter=LoRA(rank=2)),
        lambda folder: tiny(folder, loop=LOOP, method=RewardModel()),
        lambda folder: sampling(folder, GRPO(num_samples=4, beta=0.1), loop={"max_steps": 2}),
        lambda folder: sampling(
            folder, GRPO(num_samples=4), rollout={"source": "reference"}, loop={"max_steps": 2}
        ),
    ],
    ids=["adapter", "reward model", "samples", "samples of the reference"],
)
def test_others_run_in_bfloat16_too(made, tmp_path):
    found = losses(made(tmp_path), tmp_path / "half", dtype="bfloat16")
    assert all(math.isfinite(loss) for loss in found)
    assert len(found) >= 2
