"""Weights go in and out of the public layout to the bit, and what is wrong with them is said."""

import json
import logging
import os
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from alignax.core.errors import BadInput
from alignax.models import completeness, files, pretrained
from alignax.models.families import from_hugging_face, tensor_shapes
from alignax.models.transformer import Decoder
from tests.golden.make_llama_logits import CASES, weights
from tests.tiny import chatml_tokenizer

NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture
def model(tmp_path):
    """A directory as published: bfloat16 weights, a tokenizer, two ways to say where to stop."""
    return publish(tmp_path / "published", "grouped_tied")


def publish(directory, case, dtype=ml_dtypes.bfloat16):
    config = from_hugging_face(CASES[case], case)
    chatml_tokenizer().save_pretrained(directory)
    tensors = {
        name: weights(name, shape).astype(dtype)
        for name, shape in tensor_shapes(config, CASES[case]["model_type"]).items()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    rewrite(directory / "config.json", **CASES[case], eos_token_id=0, bos_token_id=1)
    rewrite(directory / "generation_config.json", eos_token_id=[0, 3], temperature=0.7)
    return directory


def rewrite(path, **changes):
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | changes))


def rewrite_tensors(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def same_bytes(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
@pytest.mark.parametrize("case", ["grouped_tied", "biases", "wide_heads", "window"])
def test_a_round_trip_is_exact_to_the_bit(tmp_path, case, dtype):
    source = publish(tmp_path / "source", case, files.DTYPES[dtype])
    found = pretrained.load(source)
    assert (found.family, found.dtype, found.directory) == (
        CASES[case]["model_type"],
        dtype,
        source,
    )
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(found.params))
    pretrained.save(tmp_path / "again", found.params, found.config, source=source)
    same_bytes(*(load_file(d / "model.safetensors") for d in (source, tmp_path / "again")))
    assert pretrained.load(tmp_path / "again").config == found.config


def test_parameters_have_the_structure_that_init_makes(model):
    found = pretrained.load(model)
    abstract = Decoder(config=found.config).abstract()
    assert jax.tree.map(jnp.shape, found.params) == jax.tree.map(jnp.shape, abstract)
    assert pretrained.load(model, dtype="bfloat16").params["embed"].dtype == jnp.bfloat16


def test_sharded_parameters_equal_whole_ones_and_read_their_own_parts(model, monkeypatch):
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "tensor"))
    mapping = {"embed": "fsdp", "heads": "tensor", "kv_heads": "tensor", "mlp": "tensor",
               "vocab": "tensor"}  # fmt: skip
    whole = pretrained.load(model)
    decoder = Decoder(config=whole.config)
    shardings = jax.tree.map(
        lambda axes: NamedSharding(mesh, PartitionSpec(*(mapping.get(a) for a in axes))),
        decoder.axes(),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    read = 0
    fetch = files.Checkpoint.fetch

    def counting(self, name, index):
        nonlocal read
        part = fetch(self, name, index)
        read += part.size
        return part

    monkeypatch.setattr(files.Checkpoint, "fetch", counting)
    sharded = pretrained.load(model, shardings=shardings)
    assert read == decoder.num_params  # each number once, for eight devices
    for path, sharding in jax.tree.leaves_with_path(shardings):
        a, b = whole.params, sharded.params
        for key in path:
            a, b = a[key.key], b[key.key]
        assert b.sharding == sharding
        np.testing.assert_array_equal(a, b)


def test_shards_and_their_index_hold_the_same_tensors(model, tmp_path):
    found = pretrained.load(model)
    out = tmp_path / "sharded"
    pretrained.save(out, found.params, found.config, source=model, max_shard_bytes=8000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = sorted(out.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert all(path.stat().st_size < 8000 + 2000 for path in shards)  # a header beside the numbers
    whole = load_file(model / "model.safetensors")
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in whole.values())
    parts = {path.name: load_file(path) for path in shards}
    same_bytes({n: parts[file][n] for n, file in index["weight_map"].items()}, whole)
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(out).params, found.params)
    shards[1].unlink()
    with pytest.raises(BadInput, match=rf"the shard {shards[1].name}; got no such file"):
        pretrained.load(out)


def test_an_export_is_what_transformers_reads(model, tmp_path):
    found = pretrained.load(model)
    out = tmp_path / "out"
    pretrained.save(out, found.params, found.config, source=model)
    config = AutoConfig.from_pretrained(out)
    assert (config.model_type, config.architectures) == ("llama", ["LlamaForCausalLM"])
    assert str(config.dtype).endswith("bfloat16")
    before, after = (AutoTokenizer.from_pretrained(path) for path in (model, out))
    text = "In 1999:\n\n7 and  42 cats.<|im_end|>"
    assert after(text).input_ids == before(text).input_ids
    assert after.chat_template == before.chat_template is not None
    with files.open_checkpoint(out) as checkpoint:
        assert "lm_head.weight" not in checkpoint.tensors  # tied


def test_all_three_places_know_every_end(model, tmp_path):
    found = pretrained.load(model)
    out = tmp_path / "out"
    pretrained.save(out, found.params, found.config, source=model, eos=(4,))
    # 0 and 3 from the source's settings, 4 as asked, 2 is the tokenizer's <|im_end|>.
    assert AutoConfig.from_pretrained(out).eos_token_id == [0, 3, 4, 2]
    generation = GenerationConfig.from_pretrained(out)
    assert generation.eos_token_id == [0, 3, 4, 2]
    assert generation.temperature == 0.7
    assert AutoTokenizer.from_pretrained(out).eos_token_id in generation.eos_token_id


def test_an_export_without_a_source_names_no_ids(model, tmp_path):
    found = pretrained.load(model)
    pretrained.save(tmp_path / "out", found.params, found.config)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.bos_token_id is config.eos_token_id is None
    assert pretrained.load(tmp_path / "out").dtype == "float32"


def test_new_files_can_be_read_by_whom_the_directory_lets_in(model, tmp_path):
    found = pretrained.load(model)
    pretrained.save(tmp_path / "out", found.params, found.config)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert len(modes) == 1


def test_a_failed_export_leaves_the_earlier_one_and_no_litter(model, tmp_path, monkeypatch):
    found = pretrained.load(model)
    out = tmp_path / "out"
    pretrained.save(out, found.params, found.config, source=model)
    before = pretrained.fingerprint(out)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    doubled = jax.tree.map(lambda x: 2 * x, found.params)
    with pytest.raises(BadInput, match=r"can be written; got .*No space left on device"):
        pretrained.save(out, doubled, found.config, source=model)
    assert pretrained.fingerprint(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "published"]
    monkeypatch.undo()
    pretrained.save(out, doubled, found.config, source=model)
    assert pretrained.fingerprint(out) != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "published"]


def test_an_export_may_replace_its_own_source(model):
    found = pretrained.load(model)
    pretrained.save(model, jax.tree.map(lambda x: 2 * x, found.params), found.config, source=model)
    np.testing.assert_array_equal(pretrained.load(model).params["embed"], 2 * found.params["embed"])
    assert AutoTokenizer.from_pretrained(model)("a").input_ids


def test_an_export_interrupted_between_its_renames_is_found_again(model, tmp_path):
    os.rename(model, tmp_path / ".published.old")
    with files.replacing(model):
        assert (model / "config.json").exists()


def test_somebody_elses_directory_is_not_replaced(model, tmp_path):
    found = pretrained.load(model)
    out = tmp_path / "home"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match=r"an earlier export; got 1 other files, thesis.tex"):
        pretrained.save(out, found.params, found.config, source=model)
    assert (out / "thesis.tex").read_text() == "years of work"
    with pytest.raises(BadInput, match=r"can be written; got .*Not a directory"):
        pretrained.save(out / "thesis.tex" / "x", found.params, found.config)


def test_numbers_beyond_float16_are_refused(model, tmp_path):
    found = pretrained.load(model)
    large = jax.tree.map(lambda x: 1e6 * x, found.params)
    with pytest.raises(BadInput, match=r"numbers within float16; got numbers up to .*e\+05"):
        pretrained.save(tmp_path / "out", large, found.config, dtype="float16")
    with pytest.raises(BadInput, match="float32, bfloat16, float16; got 'int8'"):
        pretrained.save(tmp_path / "out", large, found.config, dtype="int8")


def test_the_fingerprint_is_of_the_contents_alone(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "elsewhere")
    assert pretrained.fingerprint(copy) == pretrained.fingerprint(model)
    rewrite(copy / "tokenizer_config.json", note="x")
    assert pretrained.fingerprint(copy) == pretrained.fingerprint(model)
    rewrite_tensors(copy, lambda t: t.update({NORM: t[NORM] + 1}))
    assert pretrained.fingerprint(copy) != pretrained.fingerprint(model)


def refused(directory, *parts):
    with pytest.raises(BadInput) as raised:
        pretrained.load(directory)
    for part in parts:
        assert part in str(raised.value)


def test_a_missing_tensor_is_named(model):
    rewrite_tensors(model, lambda tensors: tensors.pop(NORM))
    refused(model, f"the tensor {NORM}; got 28 tensors, without it and 0 others", str(model))


def test_a_mis_shaped_tensor_is_named_with_both_shapes(model):
    rewrite_tensors(model, lambda t: t.update({NORM: t[NORM][:5]}))
    refused(model, f"model.safetensors: {NORM}: expected the shape [32]; got [5]")


def test_a_quantised_tensor_is_refused(model):
    rewrite_tensors(model, lambda t: t.update({NORM: np.zeros(32, np.int8)}))
    refused(model, "a tensor of F32, BF16, F16; got I8", "not quantised")


def test_extra_tensors_are_counted_in_a_warning(model, caplog):
    extra = {
        "vision.weight": np.zeros(3, np.float32),
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32),
    }
    rewrite_tensors(model, lambda t: t.update(extra))
    with caplog.at_level(logging.WARNING):
        pretrained.load(model)
    assert [r.getMessage() for r in caplog.records] == [
        f"{model}: passing over 1 tensors that the model has no place for: vision.weight"
    ]


def test_a_stored_head_of_a_tied_model_is_welcome_while_it_is_the_embedding(
    model, caplog, monkeypatch
):
    embedding = "model.embed_tokens.weight"
    rewrite_tensors(model, lambda t: t.update({"lm_head.weight": t[embedding]}))
    with caplog.at_level(logging.WARNING):
        pretrained.load(model)
        assert not caplog.records
    head = load_file(model / "model.safetensors")[embedding].copy()
    head[-1, -1] = 7
    rewrite_tensors(model, lambda t: t.update({"lm_head.weight": head}))
    monkeypatch.setattr(completeness, "_ROWS", 30)  # the last of several parts differs
    refused(model, "no lm_head.weight, or one that equals", "Set tie_word_embeddings: false in")
    assert pretrained.load(model, num_scores=1).config.num_scores == 1
    rewrite(model / "config.json", tie_word_embeddings=False)
    assert pretrained.load(model).params["head"][-1, -1] == 7


def test_an_index_that_an_earlier_model_left_is_passed_over(model):
    index = {"weight_map": {NORM: "model-00001-of-00002.safetensors"}}
    rewrite(model / "model.safetensors.index.json", **index)
    assert files.weight_files(model) == [model / "model.safetensors"]


def test_a_truncated_file_is_refused(model):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(model, f"{path}: expected a complete safetensors file", "cut short")


def test_weights_in_other_formats_are_answered_with_the_way_to_convert_them(model):
    (model / "model.safetensors").unlink()
    refused(model, "model.safetensors.index.json; got neither")
    (model / "weights.gguf").touch()
    refused(model, "got weights.gguf", "alignax.models.gguf.convert")
    (model / "pytorch_model.bin").touch()
    refused(model, "got pytorch_model.bin", "save_pretrained")


def test_what_is_no_model_directory_is_said(model, tmp_path, monkeypatch):
    refused(tmp_path / "nowhere", "a model directory or a hub id (owner/name); got no such")
    refused(model / "config.json", "got a file")
    (model / "config.json").write_text("{")
    refused(model, "config.json: expected a JSON object")
    (model / "config.json").unlink()
    refused(model, "a config.json; got none")


def test_a_hub_id_is_fetched_or_refused_with_what_to_do(model, monkeypatch):
    refused("owner/name", "owner/name: expected a model directory, or a hub id", "fetch_weights.py")
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert pretrained.load("owner/name").directory == model
    assert asked[0][0] == "owner/name"
    assert "*.safetensors" in asked[0][1]
    assert "*.bin" not in asked[0][1]
