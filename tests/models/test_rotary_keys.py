"""Angles and windows that a config.json names twice are those that transformers takes."""

import json

import pytest
from transformers import AutoConfig

from alignax.core.errors import BadInput
from alignax.models.families import from_hugging_face, to_hugging_face
from alignax.models.rotary import LinearScaling, Rope
from tests.golden.make_family_logits import CASES
from tests.golden.make_llama_logits import CASES as LLAMA_CASES

PARTIAL = "partial_rotary_factor"


def read(directory, config):
    """As transformers does, and as we do."""
    (directory / "config.json").write_text(json.dumps(config))
    return AutoConfig.from_pretrained(directory), from_hugging_face(config, "config.json")


def without(case, *keys):
    return {key: value for key, value in CASES[case].items() if key not in keys}


NEOX = without("neox", "rotary_pct", "rotary_emb_base")
OLDER = {"rotary_pct": 0.5, "rotary_emb_base": 100.0}
LATER = {"partial_rotary_factor": 0.75, "rope_theta": 7.0}
NESTED = {"rope_type": "default", "rope_theta": 5.0, "partial_rotary_factor": 1.0}


@pytest.mark.parametrize(
    ("named", "theta", "share"),
    [
        ({}, 10_000.0, 0.25),
        (LATER, 10_000.0, 0.25),
        (OLDER | LATER, 100.0, 0.5),
        (OLDER | LATER | {"rope_parameters": NESTED}, 5.0, 1.0),
        (LATER | {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, 5.0, 0.25),
    ],
    ids=str,
)
def test_neox_turns_by_rope_parameters_or_else_by_the_older_keys(named, theta, share, tmp_path):
    theirs, ours = read(tmp_path, NEOX | named)
    expected = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": share}
    assert theirs.rope_parameters == expected
    dims = int(share * ours.head_dim)
    assert ours.kind(0).rope == Rope(theta=theta, dims=None if share == 1.0 else dims)


def test_neox_saved_again_by_transformers_is_read_and_written_with_one_word_for_each(tmp_path):
    theirs, ours = read(tmp_path, NEOX | OLDER | LATER)
    theirs.save_pretrained(tmp_path)
    again = json.loads((tmp_path / "config.json").read_text())
    assert {key: again[key] for key in LATER} == LATER
    assert from_hugging_face(again, "again") == ours
    written = to_hugging_face(ours, "gpt_neox", again)
    assert {key: written[key] for key in OLDER} == OLDER
    assert not written.keys() & {*LATER, "rope_parameters"}


GEMMA = without("gemma3", "rope_theta", "rope_local_base_freq", "rope_scaling")
LINEAR = {"rope_type": "linear", "factor": 8.0}
PLAIN = {"rope_type": "default"}


@pytest.mark.parametrize(
    ("full", "sliding", "named", "expected"),
    [
        ({"rope_theta": 5.0}, {}, {}, (5.0, 1.0, 10_000.0)),
        ({"rope_theta": 5.0}, {}, {"rope_local_base_freq": 50.0}, (5.0, 1.0, 50.0)),
        ({}, {}, {"rope_theta": 3.0}, (3.0, 1.0, 10_000.0)),
        ({}, {"rope_theta": 20.0}, {"rope_scaling": LINEAR}, (1e6, 8.0, 20.0)),
        ({"rope_theta": 5.0}, {}, {"rope_scaling": LINEAR}, (5.0, 8.0, 10_000.0)),
    ],
    ids=str,
)
def test_gemma_3_turns_by_nested_settings_and_scales_where_all_is_seen(
    full, sliding, named, expected, tmp_path
):
    nested = {"full_attention": PLAIN | full, "sliding_attention": PLAIN | sliding}
    theirs, ours = read(tmp_path, GEMMA | named | {"rope_parameters": nested})
    theta, factor, local = expected
    found = theirs.rope_parameters
    assert found["full_attention"]["rope_theta"] == theta
    assert found["full_attention"].get("factor", 1.0) == factor
    assert found["sliding_attention"] == PLAIN | {"rope_theta": local}
    scaling = None if factor == 1.0 else LinearScaling(factor=factor)
    ropes = {kind.window: kind.rope for kind in ours.kinds}
    assert ropes == {None: Rope(theta=theta, scaling=scaling), 9: Rope(theta=local)}


def test_all_layers_of_qwen3_with_experts_have_the_window(tmp_path):
    window = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
    theirs, ours = read(tmp_path, CASES["qwen3_moe"] | window)
    assert theirs.sliding_window == 9  # modeling_qwen3_moe.py reads nothing else
    assert [kind.window for kind in ours.kinds] == [9]
    theirs, again = read(tmp_path, to_hugging_face(ours, "qwen3_moe", CASES["qwen3_moe"]))
    assert theirs.sliding_window == 9
    assert again == ours


def test_what_transformers_refuses_to_scale_is_refused(tmp_path):
    config = CASES["phi3"] | {"rope_scaling": LINEAR}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Exception, match=r"type field must be one of .*, got linear"):
        AutoConfig.from_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"of the type default, .*; got 'linear'"):
        from_hugging_face(config, "config.json")


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


def test_gemma_3_whose_layers_with_a_window_are_scaled_is_written_in_nested_settings(tmp_path):
    nested = {
        "full_attention": LINEAR | {"rope_theta": 5.0},
        "sliding_attention": YARN | {"rope_theta": 20.0},
    }
    source = CASES["gemma3"] | {"rope_scaling": None, "rope_parameters": nested}
    _, ours = read(tmp_path, source)
    assert {kind.rope.scaling.factor for kind in ours.kinds} == {8.0, 4.0}
    theirs, again = read(tmp_path, to_hugging_face(ours, "gemma3_text", source))
    assert again == ours
    found = theirs.rope_parameters
    assert found["full_attention"] == nested["full_attention"]
    assert found["sliding_attention"] == nested["sliding_attention"] | {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    }


def test_gemma_3_counts_layers_without_a_window_by_the_public_key_alone(tmp_path):
    config = without("gemma3", "layer_types") | {"_sliding_window_pattern": 2}
    for public, every in (({}, 6), ({"sliding_window_pattern": 3}, 3)):
        theirs, ours = read(tmp_path, config | public)
        expected = [(i + 1) % every == 0 for i in range(ours.layers)]
        assert [kind == "full_attention" for kind in theirs.layer_types] == expected
        assert [ours.kind(i).window is None for i in range(ours.layers)] == expected


def test_gemma_3_caps_no_attention_whatever_its_key_says(caplog):
    config = CASES["gemma3"] | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
    ours = from_hugging_face(config, "some/config.json")
    assert (ours.attention_softcap, ours.logits_softcap) == (None, 3.0)
    assert "some/config.json: attn_logit_softcapping is passed over" in caplog.text


LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA = LLAMA_CASES["untied"] | {"max_position_embeddings": 64}
ORIGINAL = "original_max_position_embeddings"


@pytest.mark.parametrize("scaling", [LLAMA_3, {"rope_type": "yarn", "factor": 4.0}], ids=str)
@pytest.mark.parametrize(("own", "beside"), [(None, 16), (16, 16), (16, None)])
def test_positions_of_the_training_before_are_read_beside_the_rotary_settings_too(
    own, beside, scaling, tmp_path
):
    config = LLAMA | {"rope_scaling": scaling | ({} if own is None else {ORIGINAL: own})}
    config |= {} if beside is None else {ORIGINAL: beside}
    theirs, ours = read(tmp_path, config)
    theirs.standardize_rope_params()  # again, as modeling_rope_utils.py does to compute angles
    assert theirs.rope_parameters[ORIGINAL] == 16
    assert ours.kind(0).rope.scaling.original_positions == 16
    theirs, again = read(tmp_path, to_hugging_face(ours, "llama", config))
    theirs.standardize_rope_params()
    assert theirs.rope_parameters[ORIGINAL] == 16
    assert again == ours


def test_positions_of_the_training_before_that_contradict_each_other_are_refused():
    config = LLAMA | {"rope_scaling": LLAMA_3 | {ORIGINAL: 32}, ORIGINAL: 16}
    with pytest.raises(BadInput, match=r"one original_max.*; got 16, and 32 among the rotary"):
        from_hugging_face(config, "config.json")


@pytest.mark.parametrize(("head", "dims"), [(88, 60), (92, 52), (100, 58), (64, 16)])
@pytest.mark.parametrize(("case", "key"), [("neox", "rotary_pct"), ("phi3", PARTIAL)])
def test_as_many_entries_turn_after_writing_as_before(case, key, head, dims, tmp_path):
    config = CASES[case] | {"hidden_size": 4 * head, key: (dims + 0.5) / head}
    _, ours = read(tmp_path, config)
    assert ours.kind(0).rope.dims == dims
    theirs, again = read(tmp_path, to_hugging_face(ours, config["model_type"], config))
    assert int(head * theirs.rope_parameters[PARTIAL]) == dims  # as modeling_*.py computes it
    assert again == ours
