"""config.json is read in old keys and new, and what is written is read back the same."""

import dataclasses
import functools
import json
import pathlib

import numpy as np
import pytest
from transformers import AutoConfig

from alignax.core.errors import BadInput
from alignax.models import pretrained
from alignax.models.config import DecoderConfig, LayerKind
from alignax.models.families import (
    FAMILIES,
    from_hugging_face,
    places,
    tensor_shapes,
    to_hugging_face,
)
from alignax.models.rotary import LinearScaling, Llama3Scaling, Rope, YarnScaling, frequencies
from alignax.models.transformer import Decoder
from tests.golden import make_family_logits
from tests.golden.make_llama_logits import CASES

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
FURTHER = np.load(FOLDER / "family_logits.npz")
# The same cases, as transformers 5 writes them.
NEW_KEYS = json.loads(str(np.load(FOLDER / "llama_logits.npz")["configs"]))
CONFIGS = NEW_KEYS | json.loads(str(FURTHER["configs"]))
OLD_KEYS = CASES | make_family_logits.CASES
SCORES = json.loads(str(FURTHER["scores"]))

LLAMA_3_2 = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 128256,
}
SMALL = CASES["untied"]
COMPUTED = {  # the keys of transformers 5 that change what is computed
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps"),
    *("rope_parameters", "tie_word_embeddings", "attention_bias", "mlp_bias", "sliding_window"),
    *("max_position_embeddings", "layer_types", "use_sliding_window", "max_window_layers"),
    *("no_rope_layers", "hidden_activation", "query_pre_attn_scalar", "attn_logit_softcapping"),
    *("final_logit_softcapping", "num_experts_per_tok", "num_local_experts", "norm_topk_prob"),
    *("moe_intermediate_size", "mlp_only_layers", "decoder_sparse_step", "n_embd", "n_layer"),
    *("n_head", "n_inner", "n_positions", "activation_function", "layer_norm_epsilon"),
    *("layer_norm_eps", "use_parallel_residual", "partial_rotary_factor"),
}


def plainly(value):
    """Rotary settings without what says the same twice, or says the default."""
    if not isinstance(value, dict):
        return value
    usual = {"type": value.get("type"), "beta_fast": 32, "beta_slow": 1}
    return {k: plainly(v) for k, v in value.items() if k not in usual or v != usual[k]}


def test_llama_3_2_is_read_field_by_field():
    config = from_hugging_face(LLAMA_3_2, "config.json")
    scaling = Llama3Scaling(
        factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=8192
    )
    assert config == DecoderConfig(
        vocab_size=128256,
        width=2048,
        layers=16,
        heads=32,
        kv_heads=8,
        head_dim=64,
        mlp_width=8192,
        max_positions=131072,
        kinds=(LayerKind(rope=Rope(theta=500_000.0, scaling=scaling)),),
        norm_eps=1e-5,
        tied=True,
    )
    assert Decoder(config=config).num_params == 1_235_814_400  # as the model card has it: 1.23B


@pytest.mark.parametrize("case", CONFIGS)
def test_old_and_new_keys_say_the_same(case):
    old = from_hugging_face(OLD_KEYS[case], "old")
    assert old == from_hugging_face(CONFIGS[case], "new")


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("configs", [OLD_KEYS, CONFIGS], ids=["old keys", "new keys"])
def test_what_is_written_is_read_back_the_same_here_and_by_transformers(case, configs, tmp_path):
    source = configs[case]
    config = from_hugging_face(source, "config.json")
    written = to_hugging_face(config, source["model_type"], source) | {"torch_dtype": "bfloat16"}
    assert from_hugging_face(written, "written") == config
    (tmp_path / "config.json").write_text(json.dumps(written))
    theirs = AutoConfig.from_pretrained(tmp_path).to_dict()
    assert str(theirs["dtype"]) in ("bfloat16", "torch.bfloat16")
    expected = CONFIGS[case]
    for key in COMPUTED & expected.keys():
        if key == "head_dim" and expected[key] is None:
            continue  # derived there, and written here
        assert plainly(theirs[key]) == plainly(expected[key]), key


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("phi3", {"head_dim": 12}),
        ("olmo2", {"head_dim": 12}),
        ("gemma2", {"layer_types": ["full_attention"] * 4}),
        ("gemma3", {"layer_types": ["full_attention"] * 7}),
        ("gpt2", {"n_embd": 36}),
    ],
)
def test_what_only_some_models_of_a_family_have_is_written_too(case, change, tmp_path):
    source = OLD_KEYS[case] | change
    count = source.get("num_hidden_layers")
    source |= {k: v[:1] * count for k, v in change.items() if k == "layer_types"}
    config = from_hugging_face(source, "config.json")
    written = to_hugging_face(config, source["model_type"])
    assert from_hugging_face(written, "written") == config
    (tmp_path / "config.json").write_text(json.dumps(written))
    theirs = AutoConfig.from_pretrained(tmp_path).to_dict()
    assert {key: theirs[key] for key in change} == {key: source[key] for key in change}
    if "layer_types" in change:  # a window that no layer has: a null is refused there
        assert theirs["sliding_window"] == 4096


def test_a_head_size_that_follows_from_the_others_is_not_written_where_it_has_no_key():
    for case in ("phi3", "olmo2"):
        config = from_hugging_face(OLD_KEYS[case], "c")
        assert "head_dim" not in to_hugging_face(config, OLD_KEYS[case]["model_type"])


def test_absent_heads_and_head_dim_follow_from_the_others():
    config = from_hugging_face({k: v for k, v in SMALL.items() if "key_value" not in k}, "c")
    assert (config.kv_heads, config.head_dim) == (4, 8)


def test_an_absent_window_of_mistral_is_4096_and_a_null_one_is_none():
    mistral = {k: v for k, v in CASES["window"].items() if k != "sliding_window"}
    assert from_hugging_face(mistral, "c").kinds[0].window == 4096
    null = from_hugging_face(mistral | {"sliding_window": None}, "c")
    assert null.kinds[0].window is None


def test_the_source_keeps_what_is_not_the_decoders():
    config = from_hugging_face(LLAMA_3_2, "c")
    written = to_hugging_face(config, "llama", LLAMA_3_2 | {"vendor_note": "x", "dtype": "?"})
    assert written["eos_token_id"] == [128001, 128008, 128009]
    assert written["vendor_note"] == "x"
    assert "dtype" not in written
    assert "torch_dtype" not in written


CLASSIFIER = SMALL | {"architectures": ["LlamaForSequenceClassification"]}


@pytest.mark.parametrize(
    ("keys", "number"),
    [
        ({"num_labels": 1}, 1),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, 3),
        ({"id2label": {"0": "a"}, "num_labels": 1}, 1),
        ({}, 2),  # transformers' default, which it does not write
        ({"id2label": None, "num_labels": None}, 2),
    ],
    ids=str,
)
def test_a_sequence_classifier_has_a_score_for_each_label(keys, number):
    assert from_hugging_face(CLASSIFIER | keys, "c").num_scores == number
    assert from_hugging_face(SMALL | keys, "c").num_scores == 0
    assert from_hugging_face(LLAMA_3_2 | keys, "c").num_scores == 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_labels": 0}, "num_labels, a positive whole number; got 0"),
        ({"id2label": {}}, "a name for each of num_labels outputs; got {} and num_labels None"),
        ({"id2label": {"0": "a"}, "num_labels": 3}, "got {'0': 'a'} and num_labels 3"),
    ],
    ids=str,
)
def test_labels_that_contradict_each_other_are_refused(keys, message):
    with pytest.raises(BadInput) as raised:
        from_hugging_face(CLASSIFIER | keys, "some/config.json")
    assert message in str(raised.value)


def test_labels_of_a_language_model_are_refused():
    with pytest.raises(BadInput, match=r"0 labels, all different.*; got 1: reward"):
        to_hugging_face(from_hugging_face(SMALL, "c"), "llama", labels=("reward",))


def test_a_classifier_pads_with_the_sources_token_or_else_its_first_end():
    config = from_hugging_face(CLASSIFIER | {"num_labels": 1}, "c")
    ends = {"eos_token_id": [128001, 128008, 128009], "pad_token_id": None}
    assert to_hugging_face(config, "llama", ends)["pad_token_id"] == 128001
    assert to_hugging_face(config, "llama", ends | {"pad_token_id": 0})["pad_token_id"] == 0
    assert to_hugging_face(config, "llama", {"eos_token_id": 0})["pad_token_id"] == 0
    assert to_hugging_face(config, "llama")["pad_token_id"] is None


@pytest.mark.parametrize("num_scores", [0, 3])
@pytest.mark.parametrize("case", CONFIGS)
def test_every_parameter_has_one_place_in_the_checkpoint(case, num_scores):
    config = dataclasses.replace(from_hugging_face(CONFIGS[case], "c"), num_scores=num_scores)
    found = places(config, CONFIGS[case]["model_type"])
    decoder = Decoder(config=config)

    def leaves(tree, path=()):
        for name, value in tree.items():
            if isinstance(value, dict):
                yield from leaves(value, (*path, name))
            else:
                yield (*path, name), value.shape

    assert {place.path: place.full_shape for place in found} == dict(leaves(decoder.abstract()))
    shapes = tensor_shapes(config, CONFIGS[case]["model_type"]).values()
    assert sum(int(np.prod(shape)) for shape in shapes) == decoder.num_params


@pytest.mark.parametrize("case", ["biases", "phi3", "gpt2", "neox", "mixtral"])
def test_part_of_a_parameter_is_read_from_part_of_the_tensors(case):
    config, family = from_hugging_face(CONFIGS[case], "c"), CONFIGS[case]["model_type"]
    found = places(config, family)
    draw, params = np.random.default_rng(0), {}
    for place in found:
        inside = functools.reduce(lambda tree, n: tree.setdefault(n, {}), place.path[:-1], params)
        inside[place.path[-1]] = draw.standard_normal(place.full_shape).astype(np.float32)
    tensors = dict(pretrained.tensors(params, found))
    for place in found:
        whole = functools.reduce(lambda tree, name: tree[name], place.path, params)
        fetched = []

        def fetch(name, index, fetched=fetched):
            fetched.append(tensors[name][index].size)
            return tensors[name][index]

        everything = tuple(slice(None) for _ in place.full_shape)
        np.testing.assert_array_equal(place.read(everything, fetch, whole.dtype), whole)
        for axis, size in enumerate(place.full_shape):
            half = list(everything)
            half[axis] = slice(size // 2, None)
            fetched.clear()
            part = place.read(tuple(half), fetch, whole.dtype)
            np.testing.assert_array_equal(part, whole[tuple(half)])
            # The bytes needed and no more, unless entries of a head are asked for: rows of a
            # matrix that has all heads' entries in one axis.
            heads = place.path[-2:][0] in ("query", "key", "value", "out")
            inner = axis - len(place.over) in (place.axes[0][1:] + place.axes[-1][1:])
            if not (heads and (inner or (place.part and family == "gpt_neox"))):
                assert sum(fetched) == part.size, (place.path, axis)


def test_frequencies_are_those_of_the_papers():
    # theta^(-2i/d): 1 and 10000^(-1/2)
    np.testing.assert_allclose(frequencies(Rope(), 4), [1.0, 0.01], rtol=1e-7)
    linear = Rope(scaling=LinearScaling(factor=4.0))
    np.testing.assert_allclose(frequencies(linear, 4), [0.25, 0.0025], rtol=1e-7)
    # Wavelengths 6.28 and 628 against 100 / 4 and 100 / 1: the first is kept, the second / 8.
    llama3 = Llama3Scaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=100
    )
    np.testing.assert_allclose(frequencies(Rope(scaling=llama3), 4), [1.0, 0.00125], rtol=1e-6)
    # Within 1,000 positions a plane i turns 1000 / (2 pi) * 10000^(-i / 2) times: 32 times where
    # i is 0.35, once where it is 1.10. Rounded out to 0 and 2: plane 0 is kept, and plane 1 stands
    # half way between 0.01 and 0.01 / 8.
    yarn = YarnScaling(factor=8.0, original_positions=1000, attention_factor=1.2)
    np.testing.assert_allclose(frequencies(Rope(scaling=yarn), 4), [1.0, 0.005625], rtol=1e-6)
    # Of 8 entries, the first 4 turn.
    np.testing.assert_allclose(frequencies(Rope(dims=4), 8), [1.0, 0.01], rtol=1e-7)


def test_families_are_listed_by_their_model_type():
    assert sorted(FAMILIES) == [
        *("gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "mixtral", "olmo2"),
        *("phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 21},
        {"attn_logit_softcapping": None},
        {"vendor_note": 7},
        {"partial_rotary_factor": 1.0},
    ],
    ids=str,
)
def test_keys_that_change_nothing_are_passed_over(change):
    assert from_hugging_face(SMALL | change, "c") == from_hugging_face(SMALL, "c")


@pytest.mark.parametrize("case", CONFIGS)
def test_a_sequence_classifier_has_the_class_that_transformers_has_for_it(case):
    config = dataclasses.replace(from_hugging_face(CONFIGS[case], "c"), num_scores=1)
    written = to_hugging_face(config, CONFIGS[case]["model_type"])
    if case in SCORES:
        assert written["architectures"] == [SCORES[case]]
    assert from_hugging_face(written, "c") == config
