"""Reward models go in and out as sequence classifiers, and begin from language models."""

import json
import logging
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig

from alignax.core.errors import BadInput
from alignax.models import files, pretrained
from alignax.models.families import from_hugging_face, tensor_shapes
from alignax.models.transformer import Decoder
from alignax.train import sharding
from tests.golden.make_family_logits import weights as family_weights
from tests.golden.make_llama_logits import weights
from tests.golden.make_score_logits import CASES, OF_FAMILIES, PAD
from tests.models.test_pretrained import publish, rewrite, same_bytes

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "score_logits.npz")
CLASSES = {
    "one": "LlamaForSequenceClassification",
    "two_tied": "LlamaForSequenceClassification",
    "five_window": "MistralForSequenceClassification",
}


def publish_classifier(directory, case, dtype=np.float32):
    """A directory as transformers writes a classifier: `id2label`, and no key `num_labels`."""
    settings = CASES[case] | {"architectures": [CLASSES[case]], "pad_token_id": 7}
    number = settings.pop("num_labels")
    settings |= {"id2label": {str(i): f"LABEL_{i}" for i in range(number)}}
    tensors = {
        name: weights(name, shape).astype(dtype)
        for name, shape in tensor_shapes(
            from_hugging_face(settings, case), settings["model_type"]
        ).items()
    }
    assert tensors["score.weight"].shape == (number, 32)
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(settings))
    return directory


@pytest.fixture
def language_model(tmp_path):
    """Untied: it has a vocabulary head to leave behind."""
    return publish(tmp_path / "language_model", "untied")


def settings(directory):
    return json.loads((directory / "config.json").read_text())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_a_round_trip_is_exact_to_the_bit(tmp_path, case, dtype):
    source = publish_classifier(tmp_path / "source", case, files.DTYPES[dtype])
    found, out = pretrained.load(source), tmp_path / "again"
    assert found.config.num_scores == CASES[case]["num_labels"]
    pretrained.save(out, found.params, found.config, source=source)
    same_bytes(*(load_file(d / "model.safetensors") for d in (source, out)))
    names = load_file(out / "model.safetensors").keys()
    assert "score.weight" in names
    assert "lm_head.weight" not in names
    assert pretrained.load(out).config == pretrained.read_config(out) == found.config
    abstract = Decoder(config=found.config).abstract()
    assert jax.tree.map(np.shape, found.params) == jax.tree.map(np.shape, abstract)


@pytest.mark.parametrize("case", OF_FAMILIES)
def test_every_familys_classifier_goes_in_and_out_to_the_bit(case, tmp_path, caplog):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    config = json.loads(str(GOLDEN["configs"]))[case]
    (source / "config.json").write_text(json.dumps(config))
    shapes = tensor_shapes(from_hugging_face(config, case), config["model_type"])
    made = {name: family_weights(case, name, shape) for name, shape in shapes.items()}
    save_file(made, source / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.INFO, logger="alignax"):
        found = pretrained.load(source)
        pretrained.save(out, found.params, found.config, source=source)
    assert caplog.text == ""  # no tensor and no key was passed over
    same_bytes(*(load_file(d / "model.safetensors") for d in (source, out)))
    assert sorted(load_file(out / "model.safetensors")) == GOLDEN[f"{case}/names"].tolist()
    theirs = AutoConfig.from_pretrained(out)
    assert theirs.architectures == config["architectures"]
    assert (theirs.num_labels, theirs.pad_token_id) == (OF_FAMILIES[case]["num_labels"], PAD)


@pytest.mark.parametrize("case", CASES)
def test_an_export_is_a_sequence_classifier_to_transformers(tmp_path, case):
    source = publish_classifier(tmp_path / "source", case)
    found, out = pretrained.load(source), tmp_path / "out"
    pretrained.save(out, found.params, found.config, source=source)
    config, number = AutoConfig.from_pretrained(out), CASES[case]["num_labels"]
    assert config.architectures == [CLASSES[case]]
    assert config.num_labels == number
    assert config.id2label == {i: f"LABEL_{i}" for i in range(number)}
    assert config.label2id == {f"LABEL_{i}": i for i in range(number)}
    assert config.problem_type == "regression"
    assert config.pad_token_id == 7


def test_outputs_are_named_by_their_labels(tmp_path):
    source = publish_classifier(tmp_path / "source", "five_window")
    found, out = pretrained.load(source), tmp_path / "out"
    labels = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    pretrained.save(out, found.params, found.config, source=source, labels=labels)
    config = AutoConfig.from_pretrained(out)
    assert config.id2label == dict(enumerate(labels))
    assert config.label2id["verbosity"] == 4


@pytest.mark.parametrize("labels", [("a", "b"), ("a", "b", "c", "d", "d")])
def test_labels_that_are_not_one_for_each_output_are_refused(tmp_path, labels):
    found = pretrained.load(publish_classifier(tmp_path / "source", "five_window"))
    with pytest.raises(BadInput) as raised:
        pretrained.save(tmp_path / "out", found.params, found.config, labels=labels)
    assert str(raised.value) == (
        "labels: expected 5 labels, all different: one for each output of the score head; "
        f"got {len(labels)}: {', '.join(labels)}.\n    Name every output once, or none of them."
    )
    assert not (tmp_path / "out").exists()


def test_a_language_model_is_given_a_new_head_and_leaves_its_vocabularys(language_model, caplog):
    with caplog.at_level(logging.INFO, logger="alignax"):
        found = pretrained.load(language_model, num_scores=200, seed=5)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", f"{language_model}: a new score head, outputs: 200, seed: 5")
    ]
    assert found.config.num_scores == 200
    assert pretrained.read_config(language_model, 200) == found.config
    assert "head" not in found.params
    # 6,400 draws with a deviation of 1 / sqrt(32 + 1): known to 0.9%.
    score = np.asarray(found.params["score"])
    assert score.shape == (200, 32)
    np.testing.assert_allclose(score.std(), 1 / np.sqrt(33), rtol=0.04)
    again, other = (pretrained.load(language_model, num_scores=200, seed=s) for s in (5, 6))
    np.testing.assert_array_equal(again.params["score"], score)
    assert np.abs(np.corrcoef(other.params["score"].ravel(), score.ravel())[0, 1]) < 0.06
    np.testing.assert_array_equal(other.params["embed"], found.params["embed"])
    half = pretrained.load(language_model, num_scores=200, seed=5, dtype="bfloat16")
    np.testing.assert_array_equal(half.params["score"], score.astype(ml_dtypes.bfloat16))


def test_a_new_head_is_saved_and_loaded_as_any_other(language_model, tmp_path):
    found, out = pretrained.load(language_model, num_scores=1), tmp_path / "out"
    pretrained.save(out, found.params, found.config, source=language_model, dtype="float32")
    assert settings(out)["architectures"] == ["LlamaForSequenceClassification"]
    again = pretrained.load(out, num_scores=1, seed=99)
    assert again.config == found.config
    jax.tree.map(np.testing.assert_array_equal, again.params, found.params)


@pytest.mark.parametrize("stored_head", [True, False], ids=["stored", "drawn"])
def test_sharded_parameters_equal_whole_ones(language_model, tmp_path, stored_head):
    directory = language_model
    if stored_head:
        directory = publish_classifier(tmp_path / "classifier", "five_window")
    whole = pretrained.load(directory, num_scores=5)
    decoder = Decoder(config=pretrained.read_config(directory, 5))
    mesh = sharding.make_mesh(sharding.Mesh(data=2, fsdp=4))
    lie = sharding.parameters(mesh, decoder.abstract(), decoder.axes())
    sharded = pretrained.load(directory, num_scores=5, shardings=lie)
    assert sharded.params["score"].sharding == lie["score"]
    assert sharded.params["score"].addressable_shards[0].data.shape == (5, 8)
    jax.tree.map(np.testing.assert_array_equal, sharded.params, whole.params)


@pytest.mark.parametrize("read", [pretrained.load, pretrained.read_config])
def test_another_number_of_outputs_is_refused(tmp_path, read):
    source = publish_classifier(tmp_path / "source", "five_window")
    with pytest.raises(BadInput) as raised:
        read(source, num_scores=1)
    assert str(raised.value) == (
        f"{source / 'config.json'}: expected a score head of 1 outputs; got 5.\n"
        "    Ask for 5, or begin from a language model: its head is made anew."
    )


@pytest.mark.parametrize("read", [pretrained.load, pretrained.read_config])
def test_a_classifier_without_a_vocabulary_head_is_no_language_model(tmp_path, read):
    source = publish_classifier(tmp_path / "source", "one")
    with pytest.raises(BadInput) as raised:
        read(source, num_scores=0)
    assert str(raised.value) == (
        f"{source / 'config.json'}: expected a language model; "
        "got a sequence classifier, which has no vocabulary head.\n"
        "    Choose the language model that it was made from, or use its scores."
    )


def test_a_tied_classifier_is_a_language_model_too_and_leaves_its_scores(tmp_path, caplog):
    source, out = publish_classifier(tmp_path / "source", "two_tied"), tmp_path / "out"
    found = pretrained.load(source, num_scores=0)
    assert [r.getMessage() for r in caplog.records] == [
        f"{source}: passing over 1 tensors that the model has no place for: score.weight"
    ]
    assert found.config.num_scores == 0
    assert "score" not in found.params
    pretrained.save(out, found.params, found.config, source=source)
    assert settings(out)["architectures"] == ["LlamaForCausalLM"]
    assert not settings(out).keys() & {"id2label", "label2id", "num_labels", "problem_type"}
    assert pretrained.load(out).config == found.config


def test_a_classifier_that_lost_its_head_is_refused_and_not_given_another(tmp_path):
    source = publish_classifier(tmp_path / "source", "one")
    tensors = load_file(source / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(BadInput, match=r"the tensor score.weight; got 29 tensors, without it"):
        pretrained.load(source, num_scores=1)


# --- transformers scores the last token that is not `pad_token_id`


def exported_pad(source, tmp_path, **kwargs):
    found = pretrained.load(source, num_scores=1)
    pretrained.save(tmp_path / "out", found.params, found.config, source=source, **kwargs)
    return settings(tmp_path / "out")["pad_token_id"]


def test_the_padding_is_the_sources(language_model, tmp_path, caplog):
    rewrite(language_model / "config.json", pad_token_id=5)
    assert exported_pad(language_model, tmp_path) == 5
    assert not caplog.records


def test_the_padding_may_be_the_tokenizers(language_model, tmp_path, caplog):
    rewrite(language_model / "tokenizer_config.json", pad_token="<|im_start|>")
    assert exported_pad(language_model, tmp_path) == 1
    assert not caplog.records


def test_a_token_that_ends_a_text_never_pads(language_model, tmp_path, caplog):
    """Else transformers would score the token before the end, and the end was learnt at."""
    ends = settings(language_model)["eos_token_id"]
    rewrite(language_model / "config.json", pad_token_id=ends)
    pad = exported_pad(language_model, tmp_path)
    assert pad not in (ends, None)
    tokenizer = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert ids[written["pad_token"]] == pad
    assert caplog.text == ""


def test_without_a_tokenizer_the_end_pads_and_the_log_says_what_follows(tmp_path, caplog):
    found = pretrained.load(publish_classifier(tmp_path / "source", "one"))
    pretrained.save(tmp_path / "out", found.params, found.config, eos=(9,))
    assert settings(tmp_path / "out")["pad_token_id"] == 9
    assert "transformers reads padded batches one token early" in caplog.text
