import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignax.core.errors import BadInput
from alignax.train.optim import (
    Optim,
    check,
    clip_by_global_norm,
    decay_mask,
    global_norm,
    make_optimizer,
    schedule,
)


def rates(optim, num_steps):
    return [float(schedule(optim, num_steps)(count)) for count in range(num_steps)]


def test_linear_warms_up_from_the_first_update_and_would_reach_zero_after_the_last():
    # 2 warm-up updates of 10: 1/2, 1; then 8 that fall by 1/9 each.
    optim = Optim(learning_rate=9.0, warmup_ratio=0.2)
    np.testing.assert_allclose(rates(optim, 10), [4.5, 9, 8, 7, 6, 5, 4, 3, 2, 1])


def test_cosine_would_reach_its_floor_after_the_last():
    # Progress 0, 1/4, 1/2, 3/4: height (1 + cos(pi progress)) / 2; floor 0.2 of 10.
    optim = Optim(learning_rate=10.0, warmup_steps=1, lr_scheduler_type="cosine", min_lr_ratio=0.2)
    height = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    np.testing.assert_allclose(rates(optim, 4), [2 + 8 * h for h in height], rtol=1e-6)
    assert float(schedule(optim, 4)(4)) == pytest.approx(2.0)


def test_constant_stays_at_its_peak():
    optim = Optim(learning_rate=3.0, warmup_steps=3, lr_scheduler_type="constant", min_lr_ratio=0.3)
    np.testing.assert_allclose(rates(optim, 6), [1, 2, 3, 3, 3, 3])


def test_without_warmup_the_first_update_has_the_peak():
    # Update i of 4 has 1 - (i - 1)/4.
    optim = Optim(learning_rate=4.0, warmup_steps=0)
    np.testing.assert_allclose(rates(optim, 4), [4, 3, 2, 1])


def test_a_run_that_is_all_warmup_reaches_the_peak():
    np.testing.assert_allclose(rates(Optim(learning_rate=4.0, warmup_steps=4), 4), [1, 2, 3, 4])
    np.testing.assert_allclose(rates(Optim(learning_rate=4.0), 1), [4.0])


def test_warmup_ratio_is_rounded_up_but_not_by_a_binary_fraction():
    # 0.1 * 15 = 1.5 -> 2 updates; 0.1 * 30 is 3.0000000000000004 in binary -> 3.
    assert rates(Optim(learning_rate=2.0), 15)[:2] == [1.0, 2.0]
    assert rates(Optim(learning_rate=3.0), 30)[:3] == [1.0, 2.0, 3.0]


def test_past_the_end_the_rate_stays_at_the_floor():
    rate = schedule(Optim(learning_rate=2.0, min_lr_ratio=0.5), 10)
    assert float(rate(10)) == float(rate(99)) == 1.0


def test_the_schedule_is_the_same_under_jit():
    rate = schedule(Optim(learning_rate=1.0, lr_scheduler_type="cosine"), 20)
    eager = [float(rate(count)) for count in range(20)]
    assert [float(jax.jit(rate)(jnp.int32(count))) for count in range(20)] == pytest.approx(eager)


AXES = {
    "embed": ("vocab", "embed"),
    "norm": ("embed",),
    "layers": {
        "query": {
            "kernel": ("layers", "embed", "heads", "head_dim"),
            "bias": ("layers", "heads", "head_dim"),
        },
        "key_bias": ("layers", "kv_heads", "head_dim"),
        "up": ("layers", "embed", "mlp"),
        "norm": ("layers", "embed"),
        "lora_b": ("layers", "rank", "heads", "head_dim"),
    },
}


def test_only_matrices_decay():
    assert decay_mask(AXES) == {
        "embed": True,
        "norm": False,
        "layers": {
            "query": {"kernel": True, "bias": False},
            "key_bias": False,
            "up": True,
            "norm": False,
            "lora_b": True,
        },
    }


def test_weight_decay_is_decoupled_and_leaves_norms_alone():
    # Zero gradients: what moves a parameter is the decay alone, by rate * decay = 0.5 * 0.1.
    optim = Optim(learning_rate=0.5, weight_decay=0.1, lr_scheduler_type="constant", warmup_steps=0)
    params = {"w": jnp.ones((2, 2)), "norm": jnp.ones(2)}
    tx = make_optimizer(optim, 4, {"w": ("embed", "mlp"), "norm": ("embed",)})
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["norm"], 0.0)


@pytest.mark.parametrize(
    ("optimizer", "first_update"),
    [
        # Gradient 4, rate 0.5, no clipping.
        ("adamw", -0.5),  # mean 4 over root of mean square 4, bias-corrected
        ("lion", -0.5),  # the sign
        ("sgd", -2.0),
        ("rmsprop", -5.0),  # 4 / sqrt(0.01 * 16) = 10
    ],
)
def test_first_update_is_what_the_definition_says(optimizer, first_update):
    optim = Optim(
        learning_rate=0.5,
        optimizer=optimizer,
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_grad_norm=None,
    )
    params = {"w": jnp.zeros((1, 1))}
    tx = make_optimizer(optim, 4, {"w": ("embed", "mlp")})
    updates, _ = tx.update({"w": jnp.full((1, 1), 4.0)}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], first_update, rtol=1e-5)


def updates_of(gradients, **settings):
    """Updates of one parameter at the rate 0.5, without clipping."""
    optim = Optim(
        learning_rate=0.5,
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_grad_norm=None,
        **settings,
    )
    params, found = {"w": jnp.zeros((1, 1))}, []
    tx = make_optimizer(optim, 4, {"w": ("embed", "mlp")})
    state = tx.init(params)
    for gradient in gradients:
        update, state = tx.update({"w": jnp.full((1, 1), gradient)}, state, params)
        found.append(update["w"].item())
    return found


def test_adamw_has_the_decays_and_the_epsilon_that_it_is_given():
    # The means are 2 and then 2, corrected by 1 - 0.25; of squares 4 and 4, by 1 - 0.5625.
    _, second = updates_of([4.0, 2.0], adam_b1=0.5, adam_b2=0.75, adam_eps=1.0)
    expected = -0.5 * (2 / 0.75) / (math.sqrt(4 / 0.4375) + 1.0)
    assert second == pytest.approx(expected, rel=1e-5)


def test_the_epsilon_of_rmsprop_is_outside_the_root():
    # 1e-6 / (sqrt(0.01 * 1e-12) + 1e-7); inside it would be 1e-6 / sqrt(1e-14 + 1e-7).
    (found,) = updates_of([1e-6], optimizer="rmsprop", adam_eps=1e-7)
    assert found == pytest.approx(-2.5, rel=1e-5)


def test_lions_decays_are_0_9_for_the_update_and_0_99_for_the_mean():
    # After 4 the mean is 0.01 * 4. The second update has the sign of 0.9 * 0.04 + 0.1 g, which
    # turns at g = -0.36.
    assert updates_of([4.0, -0.35], optimizer="lion") == [-0.5, -0.5]
    assert updates_of([4.0, -0.37], optimizer="lion") == [-0.5, 0.5]


def test_clipping_comes_before_the_moments():
    optim = Optim(max_grad_norm=1.0, adam_b1=0.9)
    params = {"w": jnp.zeros((2,))}
    tx = make_optimizer(optim, 4, {"w": ("embed",)})
    # Norm 5 is brought to 1: (3, 4) -> (0.6, 0.8); the first mean is a tenth of that.
    _, state = tx.update({"w": jnp.array([3.0, 4.0])}, tx.init(params), params)
    adam = next(s for s in state if isinstance(s, optax.ScaleByAdamState))
    np.testing.assert_allclose(adam.mu["w"], [0.06, 0.08], rtol=1e-6)


def test_gradients_within_the_norm_are_untouched():
    grads = {"w": jnp.array([0.3, 0.4], jnp.bfloat16)}
    tx = clip_by_global_norm(1.0)
    updates, _ = tx.update(grads, tx.init(grads))
    assert updates["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates["w"], grads["w"])


def test_the_norm_of_bfloat16_is_summed_in_float32():
    # 70,000 ones: in bfloat16 a running sum would stay at 256.
    assert float(global_norm({"w": jnp.ones(70_000, jnp.bfloat16)})) == pytest.approx(
        math.sqrt(70_000)
    )


def test_clipping_does_not_hide_a_nan():
    tx = clip_by_global_norm(1.0)
    updates, _ = tx.update({"w": jnp.array([jnp.nan, 1.0])}, optax.EmptyState())
    assert np.isnan(updates["w"][0])


def test_defaults_pass():
    check(Optim(), 1)
    check(Optim(max_grad_norm=None, warmup_steps=5, lr_scheduler_type="constant"), 5)


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        ("learning_rate", -1e-6, "a finite number, 0 or above; got -1e-06."),
        ("learning_rate", math.nan, "a finite number, 0 or above; got nan."),
        ("learning_rate", math.inf, "a finite number, 0 or above; got inf."),
        ("warmup_ratio", 1.5, "a number in [0, 1]; got 1.5."),
        ("min_lr_ratio", -0.1, "a number in [0, 1]; got -0.1."),
        ("adam_b1", 1.0, "a number in [0, 1); got 1.0."),
        ("adam_b2", math.nan, "a number in [0, 1); got nan."),
        ("adam_eps", -1.0, "a finite number, 0 or above; got -1.0."),
        ("adam_eps", 0.0, "a number above 0 in float32; got 0.0."),
        ("adam_eps", 1e-40, "a number above 0 in float32; got 1e-40."),
        ("weight_decay", -0.1, "a finite number, 0 or above; got -0.1."),
        ("max_grad_norm", 0.0, "a number above 0, or None; got 0.0."),
        ("warmup_steps", 11, "0 to 10, the updates of the run; got 11."),
        ("warmup_steps", -1, "0 to 10, the updates of the run; got -1."),
        ("lr_scheduler_type", "linaer", "constant, linear, cosine; got 'linaer'."),
        ("optimizer", "adam", "adamw, rmsprop, sgd, lion; got 'adam'."),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(setting, value, text):
    optim = Optim()
    # Past the constructor, as a config file or the command line may come without type checks.
    object.__setattr__(optim, setting, value)
    with pytest.raises(BadInput) as error:
        check(optim, 10)
    assert str(error.value).startswith(f"optim.{setting}: expected {text}\n")


def test_a_run_without_updates_is_refused():
    with pytest.raises(BadInput, match="expected a run of at least 1 update; got 0"):
        check(Optim(), 0)


def test_settings_are_a_value():
    assert dataclasses.replace(Optim(), learning_rate=1.0) != Optim()
    assert hash(Optim()) == hash(Optim())
