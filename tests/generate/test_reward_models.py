"""Rewards of a sequence classifier: the plain decoder's, whatever the batch, tokenizer, mesh."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignax.cli import main
from alignax.core.errors import BadInput
from alignax.core.records import Message
from alignax.data.bad_rows import BadRow
from alignax.generate import scoring
from alignax.generate.reward_models import ModelReward
from alignax.generate.rewards import Rewards
from alignax.models import pretrained
from alignax.models.transformer import Decoder
from alignax.score import score
from alignax.train import sharding
from alignax.train.compilations import Compilations
from tests.models import plain
from tests.tiny import chatml_tokenizer, llama3_tokenizer, space_tokenizer
from tests.tiny_batch import CONFIG
from tests.tiny_model import model_directory

PROMPTS = ["Q1", "Q1", "Q22", "Q1", "Q22"]
TEXTS = ["A", "B and B", "A", "", "CCC"]
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def reward_model(path, tokenizer, *, outputs=1, labels=()) -> str:
    """A random classifier in a directory of its own, with a tokenizer."""
    config = dataclasses.replace(CONFIG, vocab_size=320, num_scores=outputs, max_positions=128)
    params = Decoder(config=config).init(jax.random.key(3))
    pretrained.save(path, params, config, labels=labels, eos=(tokenizer.eos_token_id,))
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return reward_model(tmp_path_factory.mktemp("rewards") / "one", chatml_tokenizer())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewards") / "two"
    return reward_model(folder, llama3_tokenizer(), outputs=2, labels=("wit", "depth"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """With a tokenizer in the manner of SentencePiece, and no chat template."""
    return reward_model(tmp_path_factory.mktemp("rewards") / "bare", space_tokenizer())


@functools.cache
def loaded(directory):
    return pretrained.load(directory)


def alone(directory, ids, monkeypatch):
    """The outputs after these ids, by the plain decoder."""
    found = loaded(directory)
    monkeypatch.setattr(plain, "LENGTH", 160)
    return np.asarray(
        plain.after(found.config, found.params | {"head": found.params["score"]}, ids)
    )


def give(model, prompts=PROMPTS, texts=TEXTS):
    return model(prompts, texts, completion_ids=[[0]] * len(texts))


def test_a_chat_is_read_as_its_template_writes_it_up_to_the_end_of_the_turn(one, monkeypatch):
    tokenizer = chatml_tokenizer()
    found = give(ModelReward(directory=one))
    for prompt, text, reward in zip(PROMPTS, TEXTS, found, strict=True):
        before = (
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        ids = [*tokenizer(before).input_ids, *tokenizer(f"{text}<|im_end|>").input_ids]
        assert reward == pytest.approx(float(alone(one, ids, monkeypatch)[0]), abs=1e-5)


def test_a_conversation_is_rendered_turn_by_turn(one, monkeypatch):
    prompt = (Message("system", "S"), Message("user", "U"))
    text = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    ids = chatml_tokenizer()(text + "A<|im_end|>").input_ids
    (found,) = give(ModelReward(directory=one), [prompt], ["A"])
    assert found == pytest.approx(float(alone(one, ids, monkeypatch)[0]), abs=1e-5)


def test_another_tokenizer_than_the_policys_gets_the_text_and_not_the_ids(two, monkeypatch):
    model = ModelReward(directory=two, head=1)
    policy_ids = [chatml_tokenizer()(text).input_ids for text in TEXTS]
    found = model(PROMPTS, TEXTS, completion_ids=policy_ids)
    tokenizer = llama3_tokenizer()
    for prompt, text, reward in zip(PROMPTS, TEXTS, found, strict=True):
        before = (
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
            f"{prompt}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        )
        encode = functools.partial(tokenizer, add_special_tokens=False)
        ids = [*encode(before).input_ids, *encode(f"{text}<|eot_id|>").input_ids]
        assert reward == pytest.approx(float(alone(two, ids, monkeypatch)[1]), abs=1e-5)


def test_without_a_template_strings_stand_as_they_are_and_an_empty_one_has_its_end(
    bare, monkeypatch
):
    # "a b" is ▁a ▁b, ids 3 + 256 + 1 + 26 = 286 and 287; BOS 1 before; "c" is 3 + 256 + 1 + 2 =
    # 262, with no space before it; EOS 2 after.
    found = give(ModelReward(directory=bare, template="none"), ["a b", "a b"], ["c", ""])
    for ids, reward in zip([[1, 286, 287, 262, 2], [1, 286, 287, 2]], found, strict=True):
        assert reward == pytest.approx(float(alone(bare, ids, monkeypatch)[0]), abs=1e-5)


def test_rewards_do_not_depend_on_what_else_is_asked_for(one):
    together = give(ModelReward(directory=one))
    for size in (1, 2):
        np.testing.assert_allclose(
            give(ModelReward(directory=one, batch_size=size)), together, atol=1e-5
        )
    backwards = give(ModelReward(directory=one), PROMPTS[::-1], TEXTS[::-1])[::-1]
    np.testing.assert_allclose(backwards, together, atol=1e-5)
    apart = [
        give(ModelReward(directory=one), [p], [t])[0] for p, t in zip(PROMPTS, TEXTS, strict=True)
    ]
    np.testing.assert_allclose(apart, together, atol=1e-5)
    assert np.ptp(together) > 0.01
    assert give(ModelReward(directory=one), [], []) == []


def test_rewards_are_those_of_alignax_score(one, tmp_path):
    source = tmp_path / "rows.jsonl"
    rows = [{"prompt": p, "completion": t or "D"} for p, t in zip(PROMPTS, TEXTS, strict=True)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    score(one, str(source), tmp_path / "out.jsonl", quiet=True)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    written = [json.loads(line)["score"] for line in lines]
    found = give(ModelReward(directory=one), PROMPTS, [row["completion"] for row in rows])
    np.testing.assert_allclose(found, written, atol=2e-6)  # written with six decimals


def test_a_score_that_is_no_number_is_refused_with_its_row_and_nothing_is_written(one, tmp_path):
    source, broken = tmp_path / "rows.jsonl", tmp_path / "broken"
    source.write_text(json.dumps({"prompt": "Q1", "completion": "A"}) + "\n")
    shutil.copytree(one, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["score.weight"] = np.full_like(tensors["score.weight"], np.nan)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"rows.jsonl:1: expected finite scores; got \[nan\]"):
        score(broken, str(source), tmp_path / "out.jsonl", quiet=True)
    assert not list(tmp_path.glob("*out*"))


def test_a_template_that_is_given_serves_a_model_that_has_none(one, tmp_path):
    source, mute, jinja = tmp_path / "rows.jsonl", tmp_path / "mute", tmp_path / "own.jinja"
    rows = [{"prompt": p, "completion": "A"} for p in ("Q1", "Q22")]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(one, mute)
    tokenizer = chatml_tokenizer()
    jinja.write_text(str(tokenizer.chat_template))
    tokenizer.chat_template = None
    (mute / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(mute)
    score(one, str(source), tmp_path / "by_own.jsonl", quiet=True)
    given = ("--chat-template", str(jinja))
    main(["score", str(mute), "--data", str(source), "--to", str(tmp_path / "out.jsonl"), *given])
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "by_own.jsonl").read_text()
    assert give(ModelReward(directory=str(mute), chat_template=str(jinja))) == give(
        ModelReward(directory=one)
    )


def test_all_outputs_are_given_by_name(two):
    model = ModelReward(directory=two, head=0)
    found = model.attributes(PROMPTS, TEXTS)
    assert (found.shape, found.dtype, model.names) == ((5, 2), np.float32, ("wit", "depth"))
    np.testing.assert_array_equal(found[:, 0], np.float32(give(model)))
    other = give(dataclasses.replace(model, head=1))
    np.testing.assert_array_equal(found[:, 1], np.float32(other))


def test_a_mesh_changes_nothing_but_rounding(one):
    prompts, texts = PROMPTS * 5, [f"{text} {i}" for i, text in enumerate(TEXTS * 5)]
    expected = give(ModelReward(directory=one, batch_size=4), prompts, texts)
    for mesh in (sharding.Mesh(), sharding.Mesh(data=2, fsdp=2, tensor=2)):
        made = sharding.make_mesh(mesh)
        scorer = scoring.load_scorer(one)
        with jax.set_mesh(made):
            found = give(ModelReward(directory=one, batch_size=4), prompts, texts)
            embed = scorer._params(made)["embed"]
        assert embed.sharding.is_fully_replicated
        assert len(embed.sharding.device_set) == 8
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_other_texts_of_like_lengths_meet_programs_that_are_there(one):
    model = ModelReward(directory=one, batch_size=4)
    draw = np.random.default_rng(0)

    def texts():
        return ["".join(draw.choice(list("ABC"), draw.integers(1, 30))) for _ in range(24)]

    prompts = [f"Q{i // 4}" for i in range(24)]
    # Six prompts: four rows, then two. A row has a prompt of 84 tokens and four responses of 2 to
    # 30, so of 92 to 204 tokens: of the ladder only 96, 128, 192 and 256 can come.
    with Compilations() as compiled:
        for _ in range(12):
            give(model, prompts, texts())
    assert 0 < compiled.programs["_run"] <= 2 * 4


def test_weights_are_read_once_for_all_heads_and_again_once_they_have_changed(tmp_path):
    directory = reward_model(tmp_path / "model", chatml_tokenizer(), outputs=2)
    assert scoring.load_scorer(directory) is scoring.load_scorer(directory)
    before = give(ModelReward(directory=directory, head=0))
    found = loaded(directory)
    params = found.params | {"score": found.params["score"] * 2.0}
    pretrained.save(directory, params, found.config, source=directory)
    np.testing.assert_allclose(
        give(ModelReward(directory=directory, head=0)), 2.0 * np.array(before), rtol=1e-5
    )


def test_a_text_that_is_too_long_is_bad_alone_and_is_not_cut(one):
    # The template's own part and "Q1" and "A" are far below 100 tokens; 100 letters are not.
    model = ModelReward(directory=one, max_length=100)
    texts = ["A", "B" * 100, "C"]
    with pytest.raises(BadRow, match="expected prompt and completion within 100 tokens of the"):
        give(model, ["Q1"] * 3, texts)
    found = Rewards(parts=(model,), on_bad="mask").score(
        ["Q1"] * 3, texts, completion_ids=[[0]] * 3, columns={}
    )
    np.testing.assert_array_equal(found.good, [True, False, True])
    np.testing.assert_allclose(found.total[[0, 2]], give(model, ["Q1"] * 2, ["A", "C"]), atol=1e-5)


def test_a_text_with_a_special_token_of_the_reward_models_is_bad(two):
    with pytest.raises(
        BadRow, match=r"text without the tokenizer's special tokens; got <\|eot_id\|>"
    ):
        give(ModelReward(directory=two, head=0), ["Q"], ["A<|eot_id|>B"])


def refusal(model, use=ModelReward.check) -> str:
    with pytest.raises(BadInput) as error:
        use(model)
    return str(error.value)


def test_a_directory_that_holds_no_reward_model_is_refused(tmp_path):
    language_model = model_directory(tmp_path / "model")
    assert refusal(ModelReward(directory=str(language_model))) == (
        f"{language_model}: expected a reward model (a sequence classifier with a score head); "
        "got a language model.\n    Train one with `alignax train --method reward_model`."
    )
    assert "expected a model directory or a hub id (owner/name); got no such directory" in refusal(
        ModelReward(directory=str(tmp_path / "nowhere"))
    )
    (tmp_path / "other").mkdir()
    config = {"model_type": "bloom", "architectures": ["BloomForSequenceClassification"]}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    refused = refusal(ModelReward(directory=str(tmp_path / "other")))
    assert "expected a model_type that alignax computes: llama, mistral, " in refused
    assert "got 'bloom'" in refused


def test_several_outputs_need_a_head_that_names_one(two, one):
    for head, got in ((None, "None"), (2, "2"), (-1, "-1")):
        assert refusal(ModelReward(directory=two, head=head)) == (
            f"rewards: model.head ({two}): expected head to name one of the model's 2 outputs: "
            f"0 wit, 1 depth; got {got}.\n"
            "    Set head to the number of the output that is the reward."
        )
    assert "one of the model's 1 outputs: 0 LABEL_0; got 1" in refusal(
        ModelReward(directory=one, head=1)
    )
    ModelReward(directory=two, head=1).check()
    ModelReward(directory=one).check()


TOOLS = '[{"type": "function", "function": {"name": "weather", "parameters": {}}}]'
THOUGHT = '{"reasoning_content": "It rains."}'


@pytest.mark.parametrize(
    ("turns", "left_out"),
    [
        ([Message("user", "Rain?", tools=TOOLS)], "the tools of a row"),
        ([Message("user", "Rain?"), Message("assistant", "Yes.", THOUGHT), Message("user", "So?")],
         "reasoning_content"),
    ],
)  # fmt: skip
def test_prompts_that_its_template_would_not_write_whole_are_refused_before_a_run(
    one, turns, left_out
):
    model, plain = ModelReward(directory=one), (Message("user", "Rain?"),)
    model.check_prompts(["Rain?", plain], ["a:1", "a:2"])
    with pytest.raises(BadInput) as error:
        model.check_prompts(["Rain?", tuple(turns)], ["a:1", "a:2"])
    said = f"a:2: expected prompts that the reward model {one} can read: a chat template that"
    assert str(error.value).startswith(f"{said} writes {left_out}")
    assert "rollout.rewards.parts.N.chat_template" in error.value.remedy


def test_a_chat_template_that_is_not_there_is_refused(bare):
    assert refusal(ModelReward(directory=bare)) == (
        f"{bare}: expected a reward model whose tokenizer has a chat template; got none.\n"
        "    Name the template that the model was trained with, as chat_template or in "
        'tokenizer_config.json; set template="none" if it was trained on plain strings.'
    )
    plain_texts = ModelReward(directory=bare, template="none")
    plain_texts.check()
    prompt = (Message("user", "Why?"),)
    assert refusal(plain_texts, lambda model: give(model, [prompt], ["a"])) == (
        f"rewards: model.template ({bare}): expected plain strings as prompts, because the reward "
        'model has template="none"; got a conversation.\n'
        '    Set template="chat", with a reward model that has a chat template.'
    )


def test_sizes_that_cannot_work_are_refused(one):
    assert refusal(ModelReward(directory=one, batch_size=0)) == (
        "rewards: model.batch_size: expected a positive number; got 0.\n    Change the setting."
    )
    for length in (0, 129):
        assert refusal(ModelReward(directory=one, max_length=length)) == (
            "rewards: model.max_length: expected a positive number, at most the model's 128; got "
            f"{length}.\n    Change the setting."
        )


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(tmp_path):
    config = dataclasses.replace(CONFIG, vocab_size=40, num_scores=1)
    pretrained.save(
        tmp_path / "m", Decoder(config=config).init(jax.random.key(0)), config, eos=(2,)
    )
    chatml_tokenizer().save_pretrained(tmp_path / "m")
    text = refusal(
        ModelReward(directory=str(tmp_path / "m")), lambda model: give(model, ["Q"], ["A"])
    )
    assert (
        "expected a tokenizer whose ids are below the model's vocabulary of 40; got the id" in text
    )
