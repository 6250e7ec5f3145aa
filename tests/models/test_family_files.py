"""Every family's files go in and out to the bit, on one device and on eight, fused or not."""

import json
import logging

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig

from alignax.core.errors import BadInput
from alignax.models import pretrained
from alignax.models.transformer import Decoder
from alignax.train import sharding
from tests.golden.make_family_logits import weights
from tests.golden.make_llama_logits import LENGTH, POSITIONS, PROMPT, tokens
from tests.models.rows import layout
from tests.models.test_golden_logits import CONFIGS, GOLDEN, TENSORS, located

FUSED = ("phi3", "gpt2", "neox")


def publish(directory, case, rename=lambda name: name, extra=(), dtype=ml_dtypes.bfloat16):
    """A directory as transformers saves it, in the published number format."""
    directory.mkdir()
    made = {rename(n): weights(case, n, tuple(s)).astype(dtype) for n, s in TENSORS[case].items()}
    save_file(made | dict(extra), directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(CONFIGS[case]))
    return directory


@pytest.mark.parametrize("case", TENSORS)
def test_a_round_trip_is_exact_to_the_bit(case, tmp_path, caplog):
    source = publish(tmp_path / "source", case)
    with caplog.at_level(logging.INFO, logger="alignax"):
        found = pretrained.load(source)
        pretrained.save(tmp_path / "again", found.params, found.config, source=source)
    assert caplog.text == ""  # no tensor and no key was passed over
    before, after = (load_file(d / "model.safetensors") for d in (source, tmp_path / "again"))
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].tobytes() == after[name].tobytes(), name
    assert pretrained.load(tmp_path / "again").config == found.config
    theirs = AutoConfig.from_pretrained(tmp_path / "again")
    assert theirs.architectures == CONFIGS[case]["architectures"]


def test_gpt2_as_it_was_published_has_shorter_names_and_masks(tmp_path, caplog):
    masks = {f"h.{i}.attn.bias": np.ones((1, 1, 64, 64), np.float32) for i in range(3)}
    short = publish(tmp_path / "short", "gpt2", lambda n: n.removeprefix("transformer."), masks)
    long = publish(tmp_path / "long", "gpt2")
    with caplog.at_level(logging.WARNING, logger="alignax"):
        found = pretrained.load(short)
    assert caplog.text == ""
    jax.tree.map(np.testing.assert_array_equal, found.params, pretrained.load(long).params)
    pretrained.save(tmp_path / "out", found.params, found.config, source=short)
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(TENSORS["gpt2"])


def test_pythia_as_it_was_published_has_masks_and_frequencies(tmp_path, caplog):
    extra = {}
    for i in range(3):
        at = f"gpt_neox.layers.{i}.attention"
        extra[f"{at}.bias"] = np.ones((1, 1, 8, 8), np.float32)
        extra[f"{at}.masked_bias"] = np.array(-1e9, np.float32)
        extra[f"{at}.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    with caplog.at_level(logging.WARNING, logger="alignax"):
        pretrained.load(publish(tmp_path / "model", "neox", extra=extra))
    assert caplog.text == ""


@pytest.mark.parametrize("case", [*FUSED, "mixtral", "olmo2"])
def test_eight_devices_hold_what_one_holds(case, tmp_path):
    source = publish(tmp_path / "source", case, dtype=np.float32)
    whole = pretrained.load(source)
    decoder = Decoder(config=whole.config)
    mesh = sharding.make_mesh(sharding.Mesh(data=2, fsdp=2, tensor=2))
    places = sharding.parameters(mesh, decoder.abstract(), decoder.axes())
    sharded = pretrained.load(source, shardings=places)
    jax.tree.map(np.testing.assert_array_equal, whole.params, sharded.params)
    pretrained.save(tmp_path / "out", sharded.params, whole.config, source=source)
    before, after = (load_file(d / "model.safetensors") for d in (source, tmp_path / "out"))
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


@pytest.mark.parametrize("case", ["gemma3", "neox", "mixtral"])
def test_eight_devices_compute_what_transformers_computes(case, tmp_path):
    """Experts, windows by layer and parallel parts, with rows and matrices spread out."""
    source = publish(tmp_path / "source", case, dtype=np.float32)
    mesh = sharding.make_mesh(sharding.Mesh(data=2, fsdp=2, tensor=2))
    decoder = Decoder(config=pretrained.read_config(source))
    places = sharding.parameters(mesh, decoder.abstract(), decoder.axes())
    params = pretrained.load(source, shardings=places).params
    prompt, *responses = (x.tolist() for x in (tokens()[0, :PROMPT], *tokens()[:, PROMPT:]))
    length = PROMPT + 2 * (LENGTH - PROMPT) + 2
    rows = layout([[(prompt, responses)]] * 4, length)  # the same group in each of four rows

    with jax.set_mesh(mesh):
        rows = jax.device_put(rows, sharding.rows(mesh))
        run = jax.jit(lambda params, rows: decoder.logits(params, decoder.packed(params, rows)))
        logits = np.asarray(run(params, rows))
    for row in logits:
        for i in range(2):
            expected = GOLDEN[f"{case}/logits"][i]
            np.testing.assert_allclose(row[located(i, POSITIONS)], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", [*FUSED, "mixtral"])
def test_a_missing_tensor_is_named(case, tmp_path):
    source = publish(tmp_path / "source", case)
    tensors = load_file(source / "model.safetensors")
    gone = next(n for n in tensors if ".1." in n and ("qkv" in n or "attn.c_" in n or "w2" in n or
                                                     "query_key" in n))  # fmt: skip
    del tensors[gone]
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(BadInput) as raised:
        pretrained.load(source)
    assert f"expected the tensor {gone}" in str(raised.value)
