"""What a server does wrong, and what the client of the outside engine makes of it."""

import json
import socket
import threading

import pytest

from alignax.core.errors import BadInput
from alignax.generate.server import Server, ServerFailed, wait_until_ready
from tests.generate.servers import END, GOOD, HTML, answer, ask, choice, models, scripted

REMEDY = "Start the server and run the same command again: it goes on where this one stopped."
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
    "half a letter": (answer(choice([3], text="a\ud83d")), "half a surrogate pair"),
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
    with scripted(p1=[refuse], p2=[GOOD], p3=[GOOD]) as running:
        with pytest.raises(BadInput) as error:
            ask(running, [(1, 5), (2, 5)], prompt_ids=[41, 42], server={"parallel": 1})
        ask(running, [(3, 5)])  # by then a request that was still sent would have come
        assert [body["prompt"] for body in running.bodies()] == [[1, 5], [3, 5]]
    assert not isinstance(error.value, ServerFailed)
    assert str(error.value) == (
        f"{running.url}/completions (prompt 41): expected a request that the server takes; "
        f"got {came}.\n    {remedy}"
    )


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
