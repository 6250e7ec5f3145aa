"""config.json is read in old keys and new, and what cannot be computed is refused by name."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from transformers import AutoConfig

from alignax.core.errors import BadInput
from alignax.models.config import (
    DecoderConfig,
    LinearScaling,
    Llama3Scaling,
    rotary_frequencies,
)
from alignax.models.families import FAMILIES, from_hugging_face, to_hugging_face
from alignax.models.stored import stored
from alignax.models.transformer import Decoder
from tests.golden.make_llama_logits import CASES

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "llama_logits.npz")
NEW_KEYS = json.loads(str(GOLDEN["configs"]))  # the same cases, as transformers 5 writes them

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
    "max_position_embeddings",
}


def test_llama_3_2_is_read_field_by_field():
    config = from_hugging_face(LLAMA_3_2, "config.json")
    assert config == DecoderConfig(
        vocab_size=128256,
        width=2048,
        layers=16,
        heads=32,
        kv_heads=8,
        head_dim=64,
        mlp_width=8192,
        max_positions=131072,
        rope_theta=500_000.0,
        rope_scaling=Llama3Scaling(
            factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=8192
        ),
        norm_eps=1e-5,
        tied=True,
    )
    assert config.num_params == 1_235_814_400  # as the model card has it: 1.23B


@pytest.mark.parametrize("case", CASES)
def test_old_and_new_keys_say_the_same(case):
    old = from_hugging_face(CASES[case], "old")
    assert old == from_hugging_face(NEW_KEYS[case], "new")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("configs", [CASES, NEW_KEYS], ids=["old keys", "new keys"])
def test_what_is_written_is_read_back_the_same_here_and_by_transformers(case, configs, tmp_path):
    source = configs[case]
    config = from_hugging_face(source, "config.json")
    written = to_hugging_face(config, source["model_type"], source) | {"torch_dtype": "bfloat16"}
    assert from_hugging_face(written, "written") == config
    (tmp_path / "config.json").write_text(json.dumps(written))
    theirs = AutoConfig.from_pretrained(tmp_path).to_dict()
    assert str(theirs["dtype"]) in ("bfloat16", "torch.bfloat16")
    expected = dict(NEW_KEYS[case])
    expected["rope_parameters"] = dict(expected["rope_parameters"])
    expected["rope_parameters"].pop("type", None)  # the old name of rope_type, kept beside it
    for key in COMPUTED & expected.keys():
        assert theirs[key] == expected[key], key


def test_absent_heads_and_head_dim_follow_from_the_others():
    config = from_hugging_face({k: v for k, v in SMALL.items() if "key_value" not in k}, "c")
    assert (config.kv_heads, config.head_dim) == (4, 8)


def test_an_absent_window_of_mistral_is_4096_and_a_null_one_is_none():
    mistral = {k: v for k, v in CASES["window"].items() if k != "sliding_window"}
    assert from_hugging_face(mistral, "c").window == 4096
    assert from_hugging_face(mistral | {"sliding_window": None}, "c").window is None


def test_the_source_keeps_what_is_not_the_decoders():
    config = from_hugging_face(LLAMA_3_2, "c")
    written = to_hugging_face(config, "llama", LLAMA_3_2 | {"vendor_note": "x", "dtype": "?"})
    assert written["eos_token_id"] == [128001, 128008, 128009]
    assert written["vendor_note"] == "x"
    assert "dtype" not in written
    assert "torch_dtype" not in written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "lama"}, "llama, mistral; got 'lama'.\n    Did you mean llama?"),
        ({"model_type": None}, "llama, mistral; got none"),
        ({"hidden_act": "gelu"}, "hidden_act to be 'silu'; got 'gelu'"),
        ({"pretraining_tp": 2}, "pretraining_tp to be 1; got 2"),
        ({"quantization_config": {"bits": 4}}, "no quantization_config; got {'bits': 4}"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "linear, llama3; got 'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "got 'dynamic'"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "got 'longrope'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor, a positive"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types to be the same"),
        ({"hidden_size": "32"}, "hidden_size, a positive whole number; got '32'"),
        ({"vocab_size": None}, "vocab_size, a positive whole number; got None"),
        ({"rms_norm_eps": 0}, "rms_norm_eps, a positive number; got 0"),
        ({"num_key_value_heads": 3}, "a multiple of num_key_value_heads; got 4 and 3"),
        ({"hidden_size": 30}, "hidden_size 30, 4 heads"),
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
    with pytest.raises(BadInput, match="window = 9"):
        to_hugging_face(window, "llama")
    with pytest.raises(BadInput, match="attention_bias = True"):
        to_hugging_face(from_hugging_face(CASES["biases"], "c"), "mistral")


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
@pytest.mark.parametrize("case", CASES)
def test_every_parameter_has_one_place_in_the_checkpoint(case, num_scores):
    config = dataclasses.replace(from_hugging_face(CASES[case], "c"), num_scores=num_scores)
    places = {place.path: place.full_shape for place in stored(config)}
    params = Decoder(config=config).abstract()

    def leaves(tree, path=()):
        for name, value in tree.items():
            if isinstance(value, dict):
                yield from leaves(value, (*path, name))
            else:
                yield (*path, name), value.shape

    assert places == dict(leaves(params))
    total = sum(int(np.prod(p.stored_shape)) * len(p.names) for p in stored(config))
    assert total == config.num_params


def test_part_of_a_parameter_is_read_from_part_of_the_tensors():
    for place in stored(from_hugging_face(CASES["biases"], "c")):
        whole = np.arange(np.prod(place.full_shape), dtype=np.float32).reshape(place.full_shape)
        layers = whole if place.stacked else whole[None]
        tensors = {n: place.to_stored(x) for n, x in zip(place.names, layers, strict=True)}
        fetched = []

        def fetch(name, index, tensors=tensors, fetched=fetched):
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
            name = place.path[-2:]
            if not (name[0] in ("query", "key", "value", "out") and size == 8):
                assert sum(fetched) == part.size, (place.path, axis)  # the bytes needed, no more


def test_frequencies_are_those_of_the_papers():
    base = DecoderConfig(
        vocab_size=8, width=8, layers=1, heads=1, kv_heads=1, head_dim=4, mlp_width=8
    )
    # theta^(-2i/d): 1 and 10000^(-1/2)
    np.testing.assert_allclose(rotary_frequencies(base), [1.0, 0.01], rtol=1e-7)
    linear = dataclasses.replace(base, rope_scaling=LinearScaling(factor=4.0))
    np.testing.assert_allclose(rotary_frequencies(linear), [0.25, 0.0025], rtol=1e-7)
    # Wavelengths 6.28 and 628 against 100 / 4 and 100 / 1: the first is kept, the second / 8.
    scaling = Llama3Scaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=100
    )
    llama3 = dataclasses.replace(base, rope_scaling=scaling)
    np.testing.assert_allclose(rotary_frequencies(llama3), [1.0, 0.00125], rtol=1e-6)


def test_families_are_listed_by_their_model_type():
    assert list(FAMILIES) == ["llama", "mistral"]
