"""A GGUF file becomes the directory that it was made from: weights, tokenizer and settings."""

import builtins
import json

import gguf
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoTokenizer

from alignax.core.errors import BadInput
from alignax.models import pretrained
from alignax.models.families import from_hugging_face, tensor_shapes
from alignax.models.gguf import convert
from alignax.models.rotary import LinearScaling
from tests.golden.make_llama_logits import CASES, weights
from tests.tiny import SMOLLM2_TEMPLATE, chatml_tokenizer

TOKENIZER = json.loads(chatml_tokenizer().backend_tokenizer.to_str())
TOKENS = sorted(TOKENIZER["model"]["vocab"], key=TOKENIZER["model"]["vocab"].get)
SETTINGS = CASES["grouped_tied"] | {"vocab_size": len(TOKENS)}
CONFIG = from_hugging_face(SETTINGS, "c")
NAMES = {  # as llama.cpp's converter has them
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tensors(config):
    return {
        name: weights(name, shape).astype(ml_dtypes.bfloat16).astype(np.float32)
        for name, shape in tensor_shapes(config, "llama").items()
    }


def llama_cpp_name(name):
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name.replace("model.layers.", "blk.")


def permute(x, heads):
    """As in llama.cpp's convert_hf_to_gguf.py: the halves of a head become neighbours."""
    halves = x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:])
    return halves.swapaxes(1, 2).reshape(x.shape)


def write(path, config=CONFIG, *, change=lambda writer: None, leave_out=(), pre="smollm", **extra):
    writer = gguf.GGUFWriter(path, extra.get("architecture", "llama"))
    writer.add_block_count(config.layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.kinds[0].rope.theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_tokenizer_model(extra.get("tokenizer", "gpt2"))
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * 5 + [1] * (len(TOKENS) - 5))
    writer.add_token_merges([" ".join(m) for m in TOKENIZER["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(SMOLLM2_TEMPLATE)
    change(writer)
    for name, x in tensors(config).items():
        if name in leave_out:
            continue
        heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])
        writer.add_tensor(llama_cpp_name(name), x if heads is None else permute(x, heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("case", ["grouped_tied", "untied", "biases", "wide_heads"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_weights_and_settings_come_back_as_they_were(tmp_path, case, dtype):
    config = from_hugging_face(CASES[case] | {"vocab_size": len(TOKENS)}, "c")
    convert(write(tmp_path / "m.gguf", config), tmp_path / "out", dtype=dtype)
    found = load_file(tmp_path / "out" / "model.safetensors")
    expected = tensors(config)
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name].astype(np.float32), x, err_msg=name)
    loaded = pretrained.load(tmp_path / "out")
    assert loaded.dtype == dtype
    # 1/sqrt(width) is SmolLM2's; the file does not say it. float32 holds 1e-5 as 9.9999997e-06.
    assert loaded.config.init_scale == 1 / np.sqrt(32)
    assert loaded.config.norm_eps == 1e-5
    assert loaded.config.__dict__ | {"init_scale": 0.02} == config.__dict__


def test_quantised_weights_become_the_numbers_that_they_stand_for(tmp_path):
    name, kind = "model.layers.0.mlp.gate_proj.weight", gguf.GGMLQuantizationType.Q8_0
    packed = gguf.quants.quantize(tensors(CONFIG)[name], kind)
    change = lambda writer: writer.add_tensor(  # noqa: E731
        "blk.0.ffn_gate.weight", packed, raw_dtype=kind
    )
    path = write(tmp_path / "m.gguf", change=change, leave_out=[name])
    convert(path, tmp_path / "out", dtype="float32")
    found = load_file(tmp_path / "out" / "model.safetensors")[name]
    np.testing.assert_array_equal(found, gguf.quants.dequantize(packed, kind))
    # A Q8_0 step is a block's largest number / 127; rounding errs by half of it.
    np.testing.assert_allclose(found, tensors(CONFIG)[name], atol=0.8 / 127 / 2 * 1.01)


@pytest.mark.parametrize("pre", ["smollm", "gpt-2"])
def test_the_tokenizer_gives_the_ids_of_the_original(tmp_path, pre):
    convert(write(tmp_path / "m.gguf", pre=pre), tmp_path / "out")
    found = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "In 1999:\n\n7 and  42 cats, this is 3.14  5\n\n\n99 éü🙂<|im_end|>\n"
    expected = chatml_tokenizer()(text).input_ids
    assert found(text).input_ids == expected
    assert found.decode(expected) == text
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id, found.unk_token_id) == (
        *(1, 2, 2),
        0,
    )
    assert set(found.all_special_ids) >= {0, 1, 2}
    assert found.chat_template == SMOLLM2_TEMPLATE


def test_smollm_splits_every_digit_before_anything_else(tmp_path):
    convert(write(tmp_path / "m.gguf"), tmp_path / "out")
    split = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).pre_tokenizer
    # Without the digits' step the two spaces would be parted: "Ġ" and "Ġ42".
    pieces = [piece for piece, _ in split.pre_tokenize_str("a  42\n\n7")]
    assert pieces == ["a", "ĠĠ", "4", "2", "ĊĊ", "7"]


def test_a_bos_is_added_where_the_file_asks_for_one(tmp_path):
    path = write(tmp_path / "m.gguf", change=lambda writer: writer.add_add_bos_token(True))
    convert(path, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("a").input_ids[0] == 1
    assert len(tokenizer("a").input_ids) == 2


def test_all_places_know_the_end(tmp_path):
    convert(write(tmp_path / "m.gguf"), tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").eos_token_id == 2
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


LINEAR = gguf.RopeScalingType.LINEAR


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        (lambda w: w.add_float32("llama.rope.scale_linear", 4.0), 4.0),
        (lambda w: w.add_rope_scaling_factor(4.0), 4.0),  # a type that is not named is linear
        (lambda w: (w.add_rope_scaling_type(LINEAR), w.add_rope_scaling_factor(4.0)), 4.0),
        (lambda w: (w.add_rope_scaling_type(gguf.RopeScalingType.NONE),
                    w.add_rope_scaling_factor(4.0)), None),
        (lambda w: w.add_rope_scaling_factor(0.0), None),
        (lambda w: w.add_rope_scaling_type(LINEAR), None),
    ],
)  # fmt: skip
def test_angles_are_scaled_as_llama_cpp_scales_them(tmp_path, change, factor):
    convert(write(tmp_path / "m.gguf", change=change), tmp_path / "out")
    scaling = pretrained.read_config(tmp_path / "out").kind(0).rope.scaling
    assert scaling == (factor and LinearScaling(factor=factor))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "qwen2"}, "the architecture llama; got 'qwen2'"),
        ({"tokenizer": "llama"}, "model 'llama', pre-tokenizer 'smollm'"),
        ({"pre": "qwen2"}, "smollm; got model 'gpt2', pre-tokenizer 'qwen2'"),
        ({"change": lambda w: w.add_expert_count(8)}, "one MLP a layer; got 8 experts"),
        (
            {"change": lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN)},
            "rope scaling none or linear; got 'yarn'",
        ),
        (
            {"change": lambda w: w.add_rope_scaling_factor(-2.0)},
            "a rope scaling factor above 0; got -2.0",
        ),
        (
            {"change": lambda w: w.add_tensor("rope_freqs.weight", np.ones(4, np.float32))},
            "unscaled frequencies; got rope_freqs",
        ),
        (
            {"change": lambda w: w.add_tensor("blk.0.extra", np.ones(4, np.float32))},
            "1 others, blk.0.extra among them",
        ),
        (
            {
                "leave_out": ["model.norm.weight"],
                "change": lambda w: w.add_tensor(
                    "output_norm.weight", np.ones(CONFIG.width, np.int32)
                ),
            },
            "kind that the package gguf can expand; got output_norm.weight of I32",
        ),
        (
            {"leave_out": ["model.layers.1.mlp.up_proj.weight"]},
            "the tensor blk.1.ffn_up.weight; got none",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_other_files_are_refused_and_leave_nothing_behind(tmp_path, settings, message):
    path = write(tmp_path / "m.gguf", **settings)
    with pytest.raises(BadInput) as raised:
        convert(path, tmp_path / "out")
    assert message in str(raised.value)
    assert str(path) in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_what_is_no_gguf_file_is_refused(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"not at all" * 10)
    with pytest.raises(BadInput, match="expected a GGUF file"):
        convert(tmp_path / "m.gguf", tmp_path / "out")
    whole = write(tmp_path / "whole.gguf").read_bytes()
    for kept in (0, 40, len(whole) // 2, len(whole) - 1000):
        (tmp_path / "m.gguf").write_bytes(whole[:kept])
        with pytest.raises(BadInput, match="expected a GGUF file"):
            convert(tmp_path / "m.gguf", tmp_path / "out")
    with pytest.raises(BadInput, match="No such file"):
        convert(tmp_path / "nowhere.gguf", tmp_path / "out")


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "m.gguf")
    real = builtins.__import__

    def without_gguf(name, *args, **kwargs):
        if name == "gguf":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_gguf)
    with pytest.raises(BadInput, match=r"pip install -e '\.\[gguf\]' in the clone"):
        convert(path, tmp_path / "out")


def test_the_digits_step_is_the_only_difference_between_the_two_kinds():
    # Guards the test above: the reference tokenizer must itself see no difference on its text.
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces = [piece for piece, _ in plain.pre_tokenizer.pre_tokenize_str("a  42\n\n7")]
    assert pieces == ["a", "Ġ", "Ġ42", "Ċ", "Ċ", "7"]
