"""What a family cannot compute, or its layout cannot say, is refused by the name of the key."""

import pytest

from alignax.core.errors import BadInput
from alignax.models.config import LayerKind
from alignax.models.families import from_hugging_face, to_hugging_face
from tests.golden.make_llama_logits import CASES
from tests.models.test_golden_logits import CONFIGS

SMALL = CASES["untied"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "lama"}, "gpt_neox; got 'lama'.\n    Did you mean llama?"),
        ({"model_type": None}, "gpt_neox; got none"),
        ({"hidden_act": "tanh"}, "hidden_act, one of silu"),
        ({"pretraining_tp": 2}, "pretraining_tp to be 1; got 2"),
        ({"quantization_config": {"bits": 4}}, "no quantization_config; got {'bits': 4}"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "yarn; got 'dynamic'"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "got 'longrope'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor, a positive"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types to be the same"),
        ({"hidden_size": "32"}, "hidden_size, a positive whole number; got '32'"),
        ({"vocab_size": None}, "vocab_size, a positive whole number; got None"),
        ({"rms_norm_eps": 0}, "rms_norm_eps, a positive number; got 0"),
        ({"num_key_value_heads": 3}, "a multiple of num_key_value_heads; got 4 and 3"),
        ({"hidden_size": 30}, "multiple of the number of heads; got hidden_size 30, 4 heads"),
        ({"head_dim": 7}, "heads of an even size, whose halves turn against each other; got a si"),
        ({"is_causal": False}, "is_causal to be True; got False"),
        ({"is_causal": None}, "is_causal to be True; got None"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_cannot_be_computed_is_refused_by_name(change, message):
    with pytest.raises(BadInput) as raised:
        from_hugging_face(SMALL | change, "some/config.json")
    assert message in str(raised.value)
    assert str(raised.value).startswith("some/config.json")


def test_a_missing_key_is_named():
    with pytest.raises(BadInput, match=r"num_hidden_layers.*got no such key"):
        from_hugging_face({k: v for k, v in SMALL.items() if k != "num_hidden_layers"}, "c")


def test_a_layout_without_a_place_for_a_setting_is_refused():
    window = from_hugging_face(CASES["window"], "c")
    with pytest.raises(BadInput, match=r"kinds = .*window=9"):
        to_hugging_face(window, "llama")
    with pytest.raises(BadInput, match="qkv_bias = True"):
        to_hugging_face(from_hugging_face(CASES["biases"], "c"), "mistral")


def test_a_layout_is_not_advised_for_what_came_in_it():
    window, source = from_hugging_face(CASES["window"], "c"), CASES["window"]
    with pytest.raises(BadInput, match="layout of the family that it came from"):
        to_hugging_face(window, "llama", source)
    with pytest.raises(BadInput, match="alignax reads this and cannot write it"):
        to_hugging_face(window, "llama", source | {"model_type": "llama"})


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types, a list of 3"),
        (
            "qwen2",
            {"layer_types": ["full_attention"] * 2 + ["sliding_attention"]},
            "without windows, since use_sliding_window is off",
        ),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "mlp_only_layers, such that all layers"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step, such that all layers"),
        ("smollm3", {"no_rope_layers": [1, 1]}, "no_rope_layers, a list of 5 zeros and ones"),
        (
            "smollm3",
            {"layer_types": ["full_attention"] * 4 + ["sliding_attention"], "sliding_window": 9},
            "without windows, since use_sliding_window is off",
        ),
        (
            "qwen3_moe",
            {"layer_types": ["full_attention"] * 2 + ["sliding_attention"]},
            "layer_types to be the same in every layer",
        ),
        ("gemma3", {"rope_parameters": {"rope_theta": 9.0}}, "settings of full_attention and sli"),
        ("gemma2", {"rope_parameters": {"full_attention": {}}}, "'full_attention' of its own"),
        (
            "gemma2",
            {"use_bidirectional_attention": True},
            "attention to be False; got True",
        ),
        ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": []}}, "got 'longrope'"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "longrope; got 'linear'"),
        ("phi3", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "longrope; got 'yarn'"),
        ("phi3", {"rope_parameters": {"partial_rotary_factor": 0.4}}, "an even number of the 8"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "to be False; got True"),
        ("gpt2", {"activation_function": "tanh"}, "activation_function, one of silu"),
        ("gpt2", {"n_embd": 30}, "a multiple of the number of heads; got hidden_size 30, 4 heads"),
        ("neox", {"use_parallel_residual": "no"}, "use_parallel_residual, true or false"),
        ("untied", {"attn_logit_softcapping": 50.0}, "no attn_logit_softcapping, which this"),
        ("untied", {"sliding_window": 512}, "no sliding_window, which this model_type"),
        ("untied", {"num_local_experts": 8}, "num_local_experts to be 0; got 8"),
        ("olmo2", {"clip_qkv": 8.0}, "no clip_qkv; got 8.0"),
        ("qwen2_yarn", {"rope_scaling": {"rope_type": "yarn", "factor": 2, "mscale": 1.0}}, "msca"),
    ],
    ids=str,
)
def test_what_a_family_cannot_compute_is_refused_by_name(case, change, message):
    if "rope_scaling" in change:
        change = change | {"rope_parameters": None}
    with pytest.raises(BadInput) as raised:
        from_hugging_face(CONFIGS[case] | change, "some/config.json")
    assert message in str(raised.value)


def test_no_layer_has_an_empty_window():
    with pytest.raises(ValueError, match="a window of 0 tokens"):
        LayerKind(window=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("phi", "The nearest is gpt_neox, but its attention and MLP share one norm."),
        ("gemma3", "The nearest is gemma3_text, but it has a vision tower"),
        ("qwen4", "Did you mean qwen"),
    ],
)
def test_a_family_that_is_not_computed_is_told_the_nearest(name, message):
    with pytest.raises(BadInput) as raised:
        from_hugging_face(SMALL | {"model_type": name}, "c")
    assert message in str(raised.value)
