"""The client of an outside engine: what it asks, and what it makes of good answers."""

import functools

import jax
import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.data.chat import Renderer
from alignax.generate.drawing import ask_server
from alignax.generate.sampler import Sampler, sample
from alignax.generate.server import Completions, Server, complete, wait_until_ready
from alignax.models import pretrained
from alignax.models.transformer import Decoder
from tests.generate.sampling_server import WIDTH
from tests.generate.servers import END, GOOD, OTHER_END, Running, answer, ask, choice, scripted
from tests.tiny import byte_ids, chatml_tokenizer, llama3_tokenizer
from tests.tiny_model import model_directory


def test_ids_texts_and_ends_come_back_by_prompt_and_sample():
    one = answer(choice([3, END], text="a"), choice([3, 4, 5, 6], "length", text="b"))
    # The second of its choices comes first.
    two = answer(choice([7, END], text="d", index=1), choice([OTHER_END], text="c", index=0))
    with scripted(p1=[one], p2=[two]) as running:
        found = ask(running, [(2, 5), (1, 5)], num_samples=2)
    assert found.tokens == [[[OTHER_END], [7, END]], [[3, END], [3, 4, 5, 6]]]
    assert found.texts == [["c", "d"], ["a", "b"]]
    assert found.ended == [[True, True], [True, False]]


def test_a_request_says_all_settings_and_turns_off_what_a_generation_config_may_hold():
    with scripted(p1=[answer(choice([END]), choice([END]))]) as running:
        ask(running, num_samples=2, top_p=0.9, temperature=0.7, min_p=0.1)
        (request,) = running.requests()
    seed = request["body"].pop("seed")
    assert 0 <= seed < 2**31
    assert request == {
        "path": "/v1/completions",
        "key": None,
        "body": {
            "model": "tiny", "prompt": [1, 5], "n": 2, "max_tokens": 4, "temperature": 0.7,
            "top_p": 0.9, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.0,
            "stop_token_ids": [9, 8], "return_token_ids": True,
        },
    }  # fmt: skip


def test_a_greedy_prompt_is_asked_once_untruncated_and_copied():
    with scripted(p1=[answer(choice([3, END], text="a"))]) as running:
        found = ask(running, num_samples=3, temperature=0.0, top_p=0.5, top_k=7)
        (body,) = running.bodies()
    assert found.tokens == [[[3, END]] * 3]
    assert found.texts == [["a"] * 3]
    assert (body["n"], body["temperature"], body["top_p"], body["top_k"]) == (1, 0, 1, -1)


def test_a_greedy_first_sample_is_asked_for_by_itself_and_the_others_are_drawn():
    renderer = Renderer(tokenizer=chatml_tokenizer(), template="none")
    turns = [answer(choice([3, 2])), answer(choice([4, 2]), choice([5, 2]))]
    with scripted(p1=turns) as running:
        found = ask_server(
            Server(url=running.url, model="tiny"), renderer,
            Sampler(num_samples=3, temperature=0.8, greedy_first=True),
            [np.array([1, 5], np.int32)], [0], seed=0, vocab_size=320,
        )  # fmt: skip
        bodies = running.bodies()
    assert found.tokens == [[[3, 2], [4, 2], [5, 2]]]
    assert found.ended == [[True] * 3]
    assert [(body["n"], body["temperature"]) for body in bodies] == [(1, 0), (2, 0.8)]


@pytest.mark.parametrize(("template", "end"), [("chat", 1), ("none", 4)])
def test_a_bare_servers_text_ends_as_the_chat_template_closes_a_turn(template, end):
    """With <|eot_id|>, where eos is <|end_of_text|>."""
    renderer = Renderer(tokenizer=llama3_tokenizer(), template=template)
    with scripted(p1=[answer({"text": "A", "finish_reason": "stop"})]) as running:
        found = ask_server(
            Server(url=running.url, model="tiny"), renderer, Sampler(num_samples=1),
            [np.array([1, 5], np.int32)], [0], seed=0, vocab_size=320,
        )  # fmt: skip
    assert found.tokens == [[[*byte_ids("A"), end]]]


def test_a_prompts_request_is_the_same_in_any_batch_and_another_by_another_seed_or_number():
    good = [answer(choice([END]))]
    with scripted(p1=good, p2=good, p3=good) as running:
        ask(running, [(1, 5), (2, 5), (3, 5)], prompt_ids=[10, 11, 12])
        ask(running, [(2, 5)], prompt_ids=[11])
        ask(running, [(2, 5)], prompt_ids=[11], seed=1)
        ask(running, [(2, 5)], prompt_ids=[13])
        together, alone, seeded, numbered = running.bodies(2)
    assert alone == together
    assert len({together["seed"], seeded["seed"], numbered["seed"]}) == 3


def test_seeds_of_neighbouring_prompts_are_far_apart():
    # Servers add a sample's number to the seed: 16 samples of 50 prompts want 800 seeds.
    good = [answer(*[choice([END])] * 16)]
    with scripted(p1=good) as running:
        ask(running, [(1, 5)] * 50, num_samples=16)
        seeds = [body["seed"] for body in running.bodies()]
    assert len({seed + sample for seed in seeds for sample in range(16)}) == 800


def test_samples_asked_for_separately_have_seeds_that_follow_one_another():
    with scripted(p1=[answer(choice([3, END])), answer(choice([4, END]))]) as running:
        found = ask(running, num_samples=2, server={"separately": True, "parallel": 1})
        one, two = running.bodies()
    assert found.tokens == [[[3, END], [4, END]]]
    assert (one["n"], two["n"]) == (1, 1)
    assert two["seed"] == one["seed"] + 1
    assert one["prompt"] == two["prompt"]


def test_ids_are_read_from_the_names_of_tokens_where_log_probs_are_asked_for():
    names = {"tokens": ["token_id:3", "token_id:9"], "token_logprobs": [-1.0, -2.0]}
    bare = {"text": "abcd", "finish_reason": "stop", "logprobs": names}
    with scripted(p1=[answer(bare)]) as running:
        found = ask(running, server={"ask_logprobs": True})
        (body,) = running.bodies()
    assert found.tokens == [[[3, END]]]
    assert body["logprobs"] == 0
    assert body["return_tokens_as_token_ids"]


@pytest.mark.parametrize(
    ("text", "finish", "tokens", "ended"),
    [
        ("ab", "length", [97, 98], False),
        ("ab", "stop", [97, 98, END], True),  # the first of the ends
        ("", "stop", [END], True),
        ("abcd", "stop", [97, 98, 99, 100], False),  # no room is left for the end
        ("abcdef", "length", [97, 98, 99, 100], False),
        ("a\x08", "stop", [97, OTHER_END], True),  # the text holds its end, id 8
        ("a\x08b", "length", [97, OTHER_END], True),
    ],
)
def test_a_bare_servers_text_is_encoded_ended_and_cut(text, finish, tokens, ended):
    with scripted(p1=[answer({"text": text, "finish_reason": finish})]) as running:
        assert ask(running) == Completions([[tokens]], [[text]], [[ended]])


@pytest.mark.parametrize(
    ("named", "tokens"),
    [
        ({}, [3, END]),
        ({"stop_reason": None}, [3, END]),
        ({"stop_reason": OTHER_END}, [3, OTHER_END]),
        ({"matched_stop": OTHER_END}, [3, OTHER_END]),
        ({"matched_stop": "<|im_end|>"}, [3, END]),
        ({"matched_stop": 77}, [3, END]),
    ],
)
def test_an_end_that_the_ids_lack_is_added_as_the_server_names_it(named, tokens):
    with scripted(p1=[answer(choice([3], **named))]) as running:
        found = ask(running)
    assert found.tokens == [[tokens]]
    assert found.ended == [[True]]


def test_a_server_that_goes_on_past_the_end_of_turn_is_refused():
    with scripted(p1=[answer(choice([3, END, 4, 5], "length"))]) as running:
        with pytest.raises(BadInput) as error:
            ask(running, prompt_ids=[6])
        assert len(running.bodies()) == 1
    assert str(error.value) == (
        f"{running.url}/completions (prompt 6): expected responses that stop at the first "
        "end-of-turn token; got 9 at place 1 of 4 tokens.\n"
        "    The server does not heed stop_token_ids: let its model's generation config name "
        "[9, 8] as eos_token_id."
    )


def test_the_key_is_sent_and_never_shown(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret\n")
    with scripted(p1=[{"status": 403, "body": "no"}]) as running:
        with pytest.raises(BadInput) as error:
            ask(running, server={"api_key_variable": "SOME_KEY"})
        (request,) = running.requests()
    assert request["key"] == "Bearer secret"
    assert "secret" not in str(error.value)


def test_the_key_variable_may_be_empty():
    with scripted(p1=[GOOD]) as running:
        ask(running, server={"api_key_variable": ""})
        assert running.requests()[0]["key"] is None


def test_no_prompts_are_no_requests():
    assert ask("http://127.0.0.1:9/v1", []) == Completions([], [], [])


def test_a_server_of_our_own_sampler_gives_what_the_sampler_gives(tmp_path):
    """Through HTTP, one prompt a request, against one batch in this process."""
    directory = model_directory(tmp_path / "model", init_scale=0.3)
    running = Running("tests.generate.sampling_server", str(directory))  # loads meanwhile
    loaded = pretrained.load(directory)
    prompts = [[5, 90, 3], [70, 1, 200, 8, 44, 6], [110, 12]]
    padded = np.zeros((3, WIDTH), np.int32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    sampler = Sampler(num_samples=1, max_new_tokens=12, temperature=0.0)
    run = jax.jit(functools.partial(sample, Decoder(config=loaded.config), sampler=sampler))

    def ours(ends):
        lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        key, ids = jax.random.key(0), np.arange(3, dtype=np.int32)
        return run(loaded.params, key, padded, lengths, ids, np.array(ends, np.int32))

    try:
        # A token that is certain to be drawn by the first prompt: one response ends early.
        ends = [int(ours([319, 318]).tokens[0, 0, 4]), 319]
        expected = ours(ends)
        server = Server(url=running.url, model="tiny", parallel=3)
        wait_until_ready(server)
        found = complete(
            server, prompts, num_samples=1, max_new_tokens=12, temperature=0.0, seed=0,
            prompt_ids=[0, 1, 2], end_ids=ends, encode=lambda text: [], vocab_size=320,
        )  # fmt: skip
    finally:
        running.stop()
    for i in range(3):
        length = int(expected.lengths[i, 0])
        assert found.tokens[i][0] == expected.tokens[i, 0, :length].tolist()
        assert found.ended[i][0] == bool(expected.ended[i, 0])
    assert found.ended[0][0]
    assert len(found.tokens[0][0]) <= 5
    assert max(len(tokens[0]) for tokens in found.tokens) == 12
