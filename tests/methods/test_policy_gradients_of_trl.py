"""Losses, gradients and clipped shares are what TRL's own trainers compute."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from alignax import methods
from tests.sampled import batch_of, outputs_of, slope

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "policy_gradients_trl.json").read_text()
)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: f"{c['group']}-{c['method']}")
def test_loss_gradient_and_clipped_shares_are_those_of_trl(case):
    group = {name: np.array(x)[None] for name, x in GOLDEN["groups"][case["group"]].items()}
    method = getattr(methods, case["method"])(**case["settings"])
    batch = batch_of(
        group["rewards"],
        group["mask"].sum(axis=-1),
        tokens=group["mask"].shape[-1],
        old_logprobs=group["old_logprobs"],
        ref_logprobs=group["ref_logprobs"],
    )
    batch, outputs = method.select(jax.random.key(0), batch), outputs_of(group["logprobs"])
    # What the step divides by, for a step of this one prompt.
    divisor = group["mask"].sum() if method.needs().mean_over == "tokens" else 1
    losses, metrics = method.loss(outputs, batch)
    np.testing.assert_allclose(losses[0] / divisor, case["loss"], rtol=2e-5, atol=1e-6)
    found = slope(method, outputs, batch).logprobs[0] / divisor
    np.testing.assert_allclose(found, case["gradient"], rtol=2e-5, atol=1e-6)
    for name, value in case["metrics"].items():
        np.testing.assert_allclose(metrics[name][0], value, rtol=1e-6)


def test_trl_clips_in_some_cases_on_either_side_and_in_others_not():
    shares = {
        name: {case["metrics"][f"clip_ratio/{name}_mean"] for case in GOLDEN["cases"]}
        for name in ("low", "high")
    }
    assert all(0.0 in found and max(found) > 0.1 for found in shares.values())
