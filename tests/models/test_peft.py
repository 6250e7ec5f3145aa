"""Adapters in PEFT's layout: what peft computes and writes (tests/golden), and what is refused."""

import dataclasses
import json
import logging
import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignax.core.errors import BadInput
from alignax.models import peft, pretrained
from alignax.models.families import from_hugging_face, tensor_shapes
from alignax.models.kernels import at
from alignax.models.lora import Adapter, LoRA
from alignax.models.transformer import Decoder
from tests.golden.make_llama_logits import PROMPT, weights
from tests.golden.make_lora_logits import CASES, adapter_weights
from tests.models.test_golden_logits import CONFIGS, of_packed_rows

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "lora_logits.npz")
every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, and an adapter of it for every case, as transformers and peft lay them out."""
    folder = tmp_path_factory.mktemp("peft")
    raw = json.loads(str(GOLDEN["base"]))
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text(json.dumps(raw))
    shapes = tensor_shapes(from_hugging_face(raw, "base"), raw["model_type"])
    tensors = {name: weights(name, shape) for name, shape in shapes.items()}
    save_file(tensors, folder / "base" / "model.safetensors")
    for case in CASES:
        write(folder / case, case)
    return folder


def write(path, case, change_config=None, change_tensors=lambda tensors: tensors):
    path.mkdir()
    config = json.loads(str(GOLDEN[f"{case}/config"])) | (change_config or {})
    (path / "adapter_config.json").write_text(json.dumps(config))
    shapes = json.loads(str(GOLDEN[f"{case}/shapes"]))
    tensors = {name: adapter_weights(name, tuple(shape)) for name, shape in shapes.items()}
    save_file(change_tensors(tensors), path / "adapter_model.safetensors")
    return path


def load(folder, case):
    """Base, adapter and the adapter's parameters."""
    base = pretrained.load(folder / "base")
    adapter = Adapter(
        decoder=Decoder(config=base.config),
        settings=peft.read_settings(folder / case),
        aliases=peft.module_names(base.config, base.family),
    )
    return base, adapter, peft.load(folder / case, adapter, family=base.family)


@every_case
def test_an_adapter_that_peft_wrote_gives_the_logits_that_peft_computes(folder, case):
    base, adapter, params = load(folder, case)
    run = jax.jit(lambda params: of_packed_rows(adapter.decoder, params)[0])
    logits = run(adapter.attach(base.params, params))
    np.testing.assert_allclose(logits, GOLDEN[f"{case}/logits"], atol=1e-4, rtol=0)


@every_case
def test_the_merged_model_gives_them_too(folder, case):
    merged = peft.load_merged(folder / case, folder / "base")
    decoder = Decoder(config=merged.config)
    logits = jax.jit(lambda params: of_packed_rows(decoder, params)[0])(merged.params)
    np.testing.assert_allclose(logits, GOLDEN[f"{case}/logits"], atol=1e-4, rtol=0)


@every_case
def test_gradients_are_those_of_peft(folder, case):
    """So the norm that DoRA divides by is a constant to the gradient, as there."""
    base, adapter, params = load(folder, case)

    @jax.jit
    @jax.grad
    def gradient_of_responses(params, base):
        whole = adapter.attach(base, params)
        return of_packed_rows(adapter.decoder, whole)[1][:, PROMPT - 1 :].sum()

    found = gradient_of_responses(params, base.params)
    checked = 0
    for name, path, kind, layer in peft.tensors_of(adapter, base.family):
        if f"{case}/gradient/{name}" not in GOLDEN:
            continue
        expected = GOLDEN[f"{case}/gradient/{name}"]
        mine = np.asarray(at(found["layers"], path)[kind][layer])
        mine = {"a": lambda x: x.reshape(-1, 4).T, "b": lambda x: x.reshape(4, -1).T,
                "magnitude": np.ravel}[kind](mine)  # fmt: skip
        scale = np.abs(expected).max()
        np.testing.assert_allclose(mine, expected, atol=1e-5 * scale, rtol=1e-4, err_msg=name)
        checked += 1
    assert checked == {"lora": 4, "rslora": 2, "dora": 6}[case]


@every_case
def test_what_is_written_has_the_names_shapes_and_settings_that_peft_writes(folder, case, tmp_path):
    """And reads back as it was, bit for bit."""
    base, adapter, params = load(folder, case)
    peft.save(tmp_path / "out", params, adapter, base="base", source=folder / "base")
    shapes = {n: list(x.shape) for n, x in load_file(tmp_path / "out" / peft.WEIGHTS).items()}
    assert shapes == json.loads(str(GOLDEN[f"{case}/shapes"]))
    theirs = json.loads(str(GOLDEN[f"{case}/config"]))
    ours = json.loads((tmp_path / "out" / peft.CONFIG).read_text())
    assert sorted(ours.pop("target_modules")) == sorted(theirs["target_modules"])
    assert ours == {name: theirs[name] for name in ours}
    again = peft.load(tmp_path / "out", adapter, family=base.family)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert peft.read_settings(tmp_path / "out") == adapter.settings


def test_settings_are_read_as_peft_wrote_them(folder):
    every = ("mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", *(
        f"self_attn.{x}_proj" for x in "koqv"))  # fmt: skip
    some = ("self_attn.q_proj", "self_attn.v_proj")
    assert peft.read_settings(folder / "lora") == LoRA(rank=4, alpha=8.0, targets=every)
    assert peft.read_settings(folder / "rslora") == LoRA(
        rank=4, alpha=3.0, targets=some, rslora=True
    )
    assert peft.read_settings(folder / "dora") == LoRA(rank=4, alpha=8.0, targets=every, dora=True)
    assert peft.read_settings(folder / "rslora").scale == 1.5  # 3 / sqrt(4)


def test_a_reward_models_head_is_part_of_its_adapter(folder, tmp_path):
    """PEFT's modules_to_save: the head has no base to come back to."""
    base = pretrained.load(folder / "base", num_scores=1)
    adapter = Adapter(decoder=Decoder(config=base.config), settings=LoRA(rank=2))
    params = adapter.init(jax.random.key(0), base.params)
    params["score"] = params["score"] + 1.0
    peft.save(tmp_path / "out", params, adapter, base="base", source=folder / "base")
    config = json.loads((tmp_path / "out" / peft.CONFIG).read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["score"])
    written = load_file(tmp_path / "out" / peft.WEIGHTS)
    np.testing.assert_array_equal(written["base_model.model.score.weight"], params["score"])
    again = peft.load(tmp_path / "out", adapter, family=base.family)
    np.testing.assert_array_equal(again["score"], params["score"])


def refusal(function, *arguments, **settings) -> str:
    with pytest.raises(BadInput) as error:
        function(*arguments, **settings)
    return str(error.value)


def test_an_adapter_of_a_base_of_other_shapes_is_refused_by_its_first_tensor(folder):
    base, adapter, _ = load(folder, "lora")
    wider = dataclasses.replace(base.config, mlp_width=64)
    other = dataclasses.replace(adapter, decoder=Decoder(config=wider))
    said = refusal(peft.load, folder / "lora", other, family="llama")
    assert "layers.0.mlp.down_proj.lora_A.weight" in said
    assert "expected the shape [4, 64]; got [4, 48]" in said
    assert "belongs to another base" in said


def test_an_adapter_with_tensors_too_many_or_too_few_is_refused(folder, tmp_path):
    _, adapter, _ = load(folder, "lora")
    deeper = "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight"
    lacking = "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight"
    more = write(tmp_path / "more", "lora",
                 change_tensors=lambda x: x | {deeper: np.zeros((4, 32), np.float32)})  # fmt: skip
    said = refusal(peft.load, more, adapter, family="llama")
    assert f"1 others, {deeper}" in said
    fewer = write(tmp_path / "fewer", "lora", change_tensors=lambda x: {
        n: t for n, t in x.items() if n != lacking})  # fmt: skip
    assert f"{lacking}: expected a tensor of the shape [4, 32]; got none" in refusal(
        peft.load, fewer, adapter, family="llama"
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"peft_type": "LOHA"}, "peft_type = 'LOHA'"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern = {'q_proj': 8}"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights = 'pissa_niter_16'"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights = 'lora_ga'"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save = ['embed_tokens']"),
        ({"r": None}, "expected r, a whole number; got None"),
        ({"r": 8.5}, "expected r, a whole number; got 8.5"),
        ({"layers_to_transform": "1"}, "layers_to_transform, a whole number or a list of them"),
        (
            {"layers_to_transform": [1], "use_dora": True},
            "layers_to_transform beside use_dora = [1]",
        ),
        ({"r": 0}, "expected a whole number from 1; got 0"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_an_adapter_asks_for_and_is_not_computed_is_refused_by_name(tmp_path, change, named):
    assert named in refusal(peft.read_settings, write(tmp_path / "a", "lora", change))


@pytest.mark.parametrize("layers", [[1, 2], 1])
def test_blocks_that_an_adapter_leaves_out_are_the_bases_own(folder, tmp_path, layers, caplog):
    """B = 0 has no product with A: what PEFT computes where it has no matrices at all."""
    kept = [layers] if layers == 1 else layers
    number = lambda name: int(name.split(".")[4])  # noqa: E731, of base_model.model.model.layers.1
    path = write(tmp_path / "some", "lora", {"layers_to_transform": layers},
                 lambda x: {n: t for n, t in x.items() if number(n) in kept})  # fmt: skip
    base, adapter, whole = load(folder, "lora")
    with caplog.at_level(logging.INFO, logger="alignax"):
        found = peft.load(path, adapter, family=base.family)
    assert f"leaves {3 - len(kept)} of 3 blocks as they are" in caplog.text
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        for i in range(3):
            np.testing.assert_array_equal(mine[i], theirs[i] if i in kept else 0.0)
    wider = write(tmp_path / "wider", "lora", {"layers_to_transform": layers})
    assert "others, base_model.model.model.layers.0." in refusal(
        peft.load, wider, adapter, family=base.family
    )


@pytest.mark.parametrize("name", ["lm_head.lora_A.weight", "model.embed_tokens.lora_embedding_A"])
def test_an_adapter_of_more_than_blocks_is_refused_by_name(tmp_path, name):
    more = {f"base_model.model.{name}": np.zeros((4, 32), np.float32)}
    said = refusal(
        peft.read_settings, write(tmp_path / "a", "lora", change_tensors=lambda x: x | more)
    )
    assert f"of linear layers of its blocks only; got base_model.model.{name}" in said


@pytest.mark.parametrize(
    ("case", "name"), [("phi3", "self_attn.qkv_proj"), ("neox", "attention.query_key_value")]
)
def test_an_adapter_of_a_fused_projection_is_told_as_such(tmp_path, case, name):
    config = from_hugging_face(CONFIGS[case], case)
    family = CONFIGS[case]["model_type"]
    adapter = Adapter(
        decoder=Decoder(config=config),
        settings=LoRA(rank=2, targets=(name,)),
        aliases=peft.module_names(config, family),
    )
    said = refusal(peft.load, tmp_path, adapter, family=family)
    assert f"got {name}, in which {family} fuses 3" in said
    assert "merge it with PEFT" in said


def test_a_folder_without_an_adapter_is_refused(folder):
    assert "adapter_config.json" in refusal(peft.read_settings, folder / "base")


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("phi3", "attention/query is part of self_attn.qkv_proj"),
        ("gpt2", "attention/query is part of attn.c_attn"),
        ("gpt_neox", "attention/query is part of attention.query_key_value"),
    ],
)
def test_a_family_with_fused_matrices_is_refused(family, said):
    config = from_hugging_face(
        next(raw for raw in CONFIGS.values() if raw["model_type"] == family), family
    )
    told = refusal(peft.check, config, family)
    assert said in told
    assert 'export="merged"' in told
