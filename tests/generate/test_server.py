"""The client of an outside engine, against real servers in processes of their own."""

import contextlib
import functools
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from alignax.core.errors import BadInput
from alignax.generate.sampler import Sampler, sample
from alignax.generate.server import Completions, Server, ServerFailed, complete, wait_until_ready
from alignax.models import pretrained
from alignax.models.transformer import Decoder
from tests.generate.sampling_server import WIDTH
from tests.tiny_model import model_directory

ROOT = pathlib.Path(__file__).parents[2]
END, OTHER_END = 9, 8
REMEDY = (
    "Start the server and run the same command again: the run goes on from its last checkpoint."
)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


class Running:
    """A server's process; `requests` are those it has read, in the order they came."""

    def __init__(self, module, argument):
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, argument],
            stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ},
        )  # fmt: skip
        self._lines: list[str] = []

    @functools.cached_property
    def url(self):
        """Known once it listens."""
        return f"http://127.0.0.1:{int(self.process.stdout.readline())}/v1"

    def stop(self):
        if not self.process.stdout.closed:
            self.process.kill()
            self._lines += self.process.communicate()[0].splitlines()

    def requests(self):
        self.stop()
        return [json.loads(line) for line in self._lines]

    def bodies(self, first=None):
        bodies = [request["body"] for request in self.requests()]
        return [body for body in bodies if first in (None, body["prompt"][0])]


@contextlib.contextmanager
def scripted(**turns):
    """A server that answers prompts beginning with token 1 by `p1`, and so on."""
    script = {name.removeprefix("p"): list(turn) for name, turn in turns.items()}
    running = Running("tests.generate.scripted_server", json.dumps(script))
    try:
        yield running
    finally:
        running.stop()


def answer(*choices, **others):
    """A turn of the script: these choices, all right."""
    return {"body": json.dumps({"choices": list(choices)}), **others}


def choice(tokens, finish="stop", text="text", **others):
    return {"text": text, "finish_reason": finish, "token_ids": tokens, **others}


def ask(running, prompts=((1, 5),), *, server=None, **changes) -> Completions:
    settings = {
        "num_samples": 1,
        "max_new_tokens": 4,
        "temperature": 1.0,
        "seed": 0,
        "prompt_ids": range(len(prompts)),
        "end_ids": [END, OTHER_END],
        "encode": lambda text: [ord(letter) for letter in text],
    } | changes
    settings["prompt_ids"] = list(settings["prompt_ids"])
    url = running if isinstance(running, str) else running.url
    given = {"url": url, "model": "tiny", "retries": 2, "backoff": 0.01} | (server or {})
    return complete(Server(**given), [list(prompt) for prompt in prompts], **settings)


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


GOOD = answer(choice([3, END]))
HTML = "<html><body>Bad gateway</body></html>"
FAILURES = {
    "busy": ({"status": 429, "body": '{"error": {"message": "slow down"}}'},
             "HTTP 429: slow down"),
    "broken": ({"status": 500, "body": '{"message": "out of memory"}'}, "HTTP 500: out of memory"),
    "gateway": ({"status": 502, "body": HTML}, f"HTTP 502: '{HTML}'"),
    "page": ({"body": HTML}, f"what is not JSON: '{HTML}'"),
    "half": ({"body": '{"choices": [{"text": "a'},
             """what is not JSON: '{"choices": [{"text": "a'"""),
    "empty": ({"body": ""}, "what is not JSON: nothing"),
    "cut": ({**GOOD, "cut": 20}, "IncompleteRead"),
    "silent": ({**GOOD, "cut": 0}, "IncompleteRead"),
    "slow": ({**GOOD, "sleep": 2}, "no answer in 0.3 seconds"),
    "error": ({"body": '{"error": {"message": "engine is dead"}}'},
              "an answer without a list of choices: engine is dead"),
    "list": ({"body": "[1]"}, "an answer without a list of choices: '[1]'"),
    "none": (answer(), "0 choices in place of 1"),
    "many": (answer(choice([3, END]), choice([3, END])), "2 choices in place of 1"),
    "number": (answer(7), "choices that are not objects"),
    "place": (answer(choice([3, END], index=1)), "choices with the indices [1]"),
    "mute": (answer({"finish_reason": "stop", "token_ids": [3]}), "a choice without a text"),
    "aborted": (answer(choice([3], "abort")), "a choice with the finish_reason 'abort'"),
    "outside": (answer(choice([3, 40])),
                "40 in place of a token id of a vocabulary of 40"),
    "negative": (answer(choice([-1])), "-1 in place of a token id of a vocabulary of 40"),
    "word": (answer(choice(["3"])), "'3' in place of a token id of a vocabulary of 40"),
    "long": (answer(choice([3] * 5, "length")), "5 tokens in place of at most 4"),
}  # fmt: skip
TIMEOUT = {"slow": 0.3}


def test_a_failure_that_passes_is_outlived_and_only_what_failed_is_asked_again():
    """All ways to fail, each by a prompt of its own in one call, beside a prompt that is well."""
    names = [name for name in FAILURES if name not in TIMEOUT]
    script = {f"p{100 + i}": [FAILURES[name][0]] * 2 + [GOOD] for i, name in enumerate(names)}
    with scripted(p1=[GOOD], **script) as running:
        prompts = [(1, 5), *((100 + i, 5) for i in range(len(names)))]
        found = ask(running, prompts, vocab_size=40)
        asked = [body["prompt"][0] for body in running.bodies()]
    assert found.tokens == [[[3, END]]] * len(prompts)
    assert asked.count(1) == 1
    assert {asked.count(100 + i) for i in range(len(names))} == {3}


def test_a_slow_answer_is_given_up_and_asked_for_again():
    with scripted(p1=[{**GOOD, "sleep": 2}, GOOD]) as running:
        # The second answer is given time enough for any machine, the first not.
        found = ask(running, server={"timeout": 1.0})
        assert len(running.bodies()) == 2
    assert found.tokens == [[[3, END]]]


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_that_stays_stops_the_run_with_what_came(name):
    turn, came = FAILURES[name]
    with scripted(p1=[turn]) as running:
        with pytest.raises(ServerFailed) as error:
            ask(running, vocab_size=40, server={"timeout": TIMEOUT.get(name, 30.0), "retries": 1})
        assert len(running.bodies()) == 2
    assert error.value.where == f"{running.url}/completions (prompt 0)"
    assert came in error.value.got
    assert error.value.got.endswith("(after 2 tries)")
    assert error.value.remedy == REMEDY


def test_only_the_beginning_of_a_long_answer_is_shown():
    with scripted(p1=[{"body": "x" * 5000}]) as running, pytest.raises(ServerFailed) as error:
        ask(running, server={"retries": 0})
    assert error.value.got == f"what is not JSON: '{'x' * 200}...' (after 1 try)"


def test_a_server_that_dies_amid_a_round_stops_the_run_cleanly():
    with scripted(p1=[GOOD], p2=[{"exit": True}]) as running:
        with pytest.raises(ServerFailed) as error:
            ask(running, [(1, 5), (2, 5), (1, 6)], server={"parallel": 1})
        asked = [body["prompt"] for body in running.bodies()]
    assert asked == [[1, 5], [2, 5]]
    # The first try saw the connection die, the last found nobody.
    assert str(error.value) == (
        f"{running.url}/completions (prompt 1): expected an answer from the server; got "
        f"ConnectionRefusedError: {error.value.got.partition(': ')[2]}.\n    {REMEDY}"
    )
    assert "refused" in error.value.got
    assert error.value.got.endswith("(after 3 tries)")


def test_a_server_that_comes_back_is_gone_on_with():
    """It dies at the first request; another takes its port while the client waits."""
    with scripted(p1=[{"exit": True}]) as running:
        port = int(running.url.split(":")[2].partition("/")[0])

        def restart():
            running.process.wait()
            content = GOOD["body"].encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            with socket.create_server(("127.0.0.1", port)) as listening:
                connection, _ = listening.accept()
                with connection:
                    received = b""
                    while not received.endswith(b"}"):
                        received += connection.recv(65536) or b"}"
                    connection.sendall(head + content)

        thread = threading.Thread(target=restart)
        thread.start()
        found = ask(running, server={"retries": 100, "backoff": 0.05})
        thread.join()
    assert found.tokens == [[[3, END]]]


@pytest.mark.parametrize(
    ("status", "body", "came", "remedy"),
    [
        (404, {"error": {"message": "The model `tiny` does not exist."}},
         "HTTP 404: The model `tiny` does not exist.",
         "See that server.url is the base of the interface, often .../v1, and server.model a name "
         "that the server lists under /models."),
        (400, {"object": "error", "message": "maximum context length is 512 tokens"},
         "HTTP 400: maximum context length is 512 tokens",
         "The server will not take this request however often: change what it names."),
        (401, {"error": "Unauthorized"}, "HTTP 401: Unauthorized",
         "Put the server's key in the environment variable OPENAI_API_KEY."),
        (307, {"detail": "moved"}, "HTTP 307: moved",
         "See that server.url is the base of the interface, often .../v1, and server.model a name "
         "that the server lists under /models."),
    ],
)  # fmt: skip
def test_a_refusal_is_final_and_given_in_the_servers_own_words(status, body, came, remedy):
    refuse = {"status": status, "body": json.dumps(body)}
    with scripted(p1=[refuse], p2=[GOOD]) as running:
        with pytest.raises(BadInput) as error:
            ask(running, [(1, 5), (2, 5)], prompt_ids=[41, 42], server={"parallel": 1})
        assert [body["prompt"] for body in running.bodies()] == [[1, 5]]  # nothing after it
    assert not isinstance(error.value, ServerFailed)
    assert str(error.value) == (
        f"{running.url}/completions (prompt 41): expected a request that the server takes; "
        f"got {came}.\n    {remedy}"
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


def test_pauses_double_up_to_a_minute_and_spread_by_a_quarter():
    server = Server(url="http://localhost/v1", model="tiny")
    assert [server.pause(turn) for turn in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert server.pause(2, 0.5) == 4.5
    assert server.pause(10**6) == 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "localhost:8000/v1"},
         "server.url: expected an address that begins with http:// or https://; got "
         "'localhost:8000/v1'.\n    For example http://localhost:8000/v1."),
        ({"timeout": 0.0}, "server.timeout: expected seconds above 0; got 0.0.\n"
         "    120 is enough for most servers."),
        ({"retries": -1}, "server.retries: expected at least 0; got -1.\n"
         "    0 stops at the first failure."),
        ({"backoff": -1.0}, "server.backoff: expected seconds, at least 0; got -1.0.\n"
         "    1 is common."),
        ({"parallel": 0}, "server.parallel: expected at least 1; got 0.\n"
         "    1 sends one request after another."),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(BadInput) as error:
        Server(**({"url": "http://localhost/v1", "model": "tiny"} | changes))
    assert str(error.value) == message


def test_an_address_that_is_none_is_refused_at_once():
    with pytest.raises(BadInput) as error:
        ask("http://")
    assert not isinstance(error.value, ServerFailed)
    assert error.value.remedy == "Correct server.url."


def test_no_prompts_are_no_requests():
    assert ask("http://127.0.0.1:9/v1", []) == Completions([], [], [])


def models(*names):
    return {"body": json.dumps({"object": "list", "data": [{"id": name} for name in names]})}


def test_readiness_waits_for_a_server_that_serves_the_model():
    with scripted(models=[{"status": 503, "body": "loading"}, {"body": HTML}, models("tiny")]) as s:
        wait_until_ready(Server(url=s.url + "/", model="tiny", retries=2, backoff=0.01))
        assert [request["path"] for request in s.requests()] == ["/v1/models"] * 3


@pytest.mark.parametrize(
    ("served", "got"),
    [
        (["Llama-3.2-1B", "SmolLM2-135M", "SmolLM2-360M-Instruct"],
         # 10 letters of both times two over 12 + 12, then 12 over 12 + 21.
         "other models, the nearest 'SmolLM2-135M', 'SmolLM2-360M-Instruct'"),
        (["base"], "other models: 'base'"),
        ([], "no model"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_served_is_answered_with_the_nearest_names(served, got):
    with scripted(models=[models(*served)]) as running, pytest.raises(BadInput) as error:
        wait_until_ready(Server(url=running.url, model="SmolLM2-360M"))
    assert str(error.value) == (
        f"{running.url}/models: expected a server of the model 'SmolLM2-360M'; got {got}.\n"
        "    Give server.model a name that the server lists, or start the server with this model."
    )


def test_readiness_gives_up_on_nobody():
    with scripted(models=[models("tiny")]) as running:
        server = Server(url=running.url, model="tiny", retries=1, backoff=0.01)
        running.stop()
        with pytest.raises(ServerFailed, match=r"/models: .*refused \(after 2 tries\)"):
            wait_until_ready(server)


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
