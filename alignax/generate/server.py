"""An outside engine: samples drawn by any server of OpenAI's completions interface.

vLLM and SGLang take token ids as a prompt, stop at given token ids, and on request say which ids
they drew. A server that does none of this beyond the first is served too: what it does not know it
ignores, and its text is encoded again. The server draws from the weights that it has loaded; what
a method needs of log-probabilities is computed by our own model.
"""

import concurrent.futures
import dataclasses
import difflib
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import requests

from alignax.core.errors import BadInput
from alignax.data.pipeline import DrawFailed
from alignax.generate.answers import Choice, Malformed, beginning, choices, model_names, response

T = TypeVar("T")
LONGEST_PAUSE = 60.0  # seconds; so that many tries wait long for a server and not for ever


@dataclasses.dataclass(frozen=True, kw_only=True)
class Server:
    """Where samples are drawn, and how patiently.

    Fields:
        url: the base, which most servers end in `/v1`.
        model: its name, as the server's `/models` lists it.
        timeout: seconds to wait for a connection, then for the answer, which comes all at once.
        retries: tries after the first, for each request by itself.
        backoff: seconds before the first of them; every next one waits twice as long, up to a
            minute, and up to a quarter longer, by the request's seed, so that not all come at once.
        parallel: requests at once.
        api_key_variable: the environment variable that holds the key; without it none is sent.
        separately: one request for each sample, with seeds that follow one another, in place of one
            for all samples of a prompt. For servers that draw all of a request's samples from one
            seed, and so alike, as SGLang does when it is made deterministic.
        ask_logprobs: for servers that tell token ids only along with log-probs, as vLLM before
            0.10.2. Costs the server a little time.

    Raises:
        BadInput: a field outside its range.
    """

    url: str
    model: str
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 1.0
    parallel: int = 16
    api_key_variable: str = "OPENAI_API_KEY"
    separately: bool = False
    ask_logprobs: bool = False

    def __post_init__(self) -> None:
        for name, expected, fine, remedy in (
            ("url", "an address that begins with http:// or https://",
             self.url.startswith(("http://", "https://")), "For example http://localhost:8000/v1."),
            ("timeout", "seconds above 0", self.timeout > 0, "120 is enough for most servers."),
            ("retries", "at least 0", self.retries >= 0, "0 stops at the first failure."),
            ("backoff", "seconds, at least 0", self.backoff >= 0, "1 is common."),
            ("parallel", "at least 1", self.parallel >= 1, "1 sends one request after another."),
        ):  # fmt: skip
            if not fine:
                raise BadInput(expected, repr(getattr(self, name)), remedy, where=f"server.{name}")

    def pause(self, turn: int, spread: float = 0.0) -> float:
        """Seconds before retry `turn`, counted from 0; `spread` in [0, 1) sets requests apart."""
        return min(self.backoff * 2.0 ** min(turn, 99), LONGEST_PAUSE) * (1.0 + spread / 4)


class ServerFailed(DrawFailed):
    """A server that did not give a usable answer, however often it was asked."""


class Completions(NamedTuple):
    """What was drawn: for each prompt, for each of its samples.

    Fields:
        tokens: ids, at most `max_new_tokens`; the end-of-turn token included where it ended.
        texts: as the server decoded them, without the end-of-turn token.
        ended: whether the response ended by itself.
    """

    tokens: list[list[list[int]]]
    texts: list[list[str]]
    ended: list[list[bool]]


class _Failed(Exception):
    """A try that may go better the next time; says what came."""


def complete(
    server: Server,
    prompts: Sequence[Sequence[int]],
    *,
    num_samples: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    seed: int,
    prompt_ids: Sequence[int],
    end_ids: Sequence[int],
    encode: Callable[[str], list[int]],
    vocab_size: int | None = None,
) -> Completions:
    """Draws responses to all prompts, several requests at once, each tried again by itself.

    Args:
        prompts: token ids.
        num_samples: responses to each prompt.
        max_new_tokens: a response is cut here.
        temperature: 0 takes the likeliest tokens; all samples of a prompt are then one.
        top_p: as `Sampler.top_p`.
        top_k: as `Sampler.top_k`; 0 keeps all.
        min_p: keep tokens with at least this share of the likeliest one's probability; 0 keeps all.
        seed: with the prompt's number it decides the seed that the server is given, so that a
            request is the same whatever else is asked. What the server makes of it is its own.
        prompt_ids: a number for each prompt, such as its place in the data set.
        end_ids: tokens that end a response: all those of the server's model. The first one is added
            to a response that ended where the server leaves its end token out and does not name it.
        encode: token ids of a text that goes on where a prompt ended; only for servers that do not
            tell the ids.
        vocab_size: ids from here on are not taken from the server; None takes all.

    Raises:
        ServerFailed: no connection, no answer in time, HTTP 408, 429 or 5xx, or an answer that is
            malformed, as often as it was tried.
        BadInput: the server refuses the request, or goes on past an end-of-turn token.
    """
    greedy = temperature == 0
    # vLLM refuses several samples of a greedy prompt, which would be the same.
    together = 1 if greedy or server.separately else num_samples
    firsts = range(0, 1 if greedy else num_samples, together)
    # What is off is sent as well: vLLM would take it from the model's generation config.
    body = {
        "model": server.model,
        "max_tokens": max_new_tokens,
        "n": together,
        "temperature": temperature,
        "top_p": 1.0 if greedy else top_p,
        "top_k": -1 if greedy or top_k == 0 else top_k,  # -1 is off in every version, 0 not
        "min_p": 0.0 if greedy else min_p,
        "repetition_penalty": 1.0,
        "return_token_ids": True,
    }
    if end_ids:
        body["stop_token_ids"] = list(end_ids)
    if server.ask_logprobs:
        body |= {"logprobs": 0, "return_tokens_as_token_ids": True}

    def read(content: bytes) -> list[Choice]:
        return choices(
            content, count=together, max_new_tokens=max_new_tokens, vocab_size=vocab_size
        )

    def ask(row: int, first: int, stopped: threading.Event) -> list[Choice]:
        own = _seed(seed, prompt_ids[row])
        own_body = body | {"prompt": list(prompts[row]), "seed": own + first}
        return _persistently(
            server, "completions", own_body, read, wheres[row], own % 1000 / 1000, stopped
        )

    address = _address(server, "completions")
    wheres = [f"{address} (prompt {i})" for _, i in zip(prompts, prompt_ids, strict=True)]
    tasks = [(row, first) for row in range(len(prompts)) for first in firsts]
    answers = dict(zip(tasks, _all_at_once(ask, tasks, server.parallel), strict=True))
    found = Completions([], [], [])
    for row, where in enumerate(wheres):
        drawn = [choice for first in firsts for choice in answers[row, first]]
        if greedy:
            drawn *= num_samples
        # Encoded here and not in the threads: tokenizers are not made for several at once.
        responses = [
            response(
                choice, max_new_tokens=max_new_tokens, end_ids=end_ids, encode=encode, where=where
            )
            for choice in drawn
        ]
        found.tokens.append([tokens for tokens, _ in responses])
        found.texts.append([choice.text for choice in drawn])
        found.ended.append([ended for _, ended in responses])
    return found


def wait_until_ready(server: Server) -> None:
    """Waits until the server answers and sees that it serves the model, as often as `retries` says.

    Raises:
        ServerFailed: it does not answer.
        BadInput: it refuses, or serves other models.
    """
    where = _address(server, "models")
    names = _persistently(server, "models", None, model_names, where, 0.0, threading.Event())
    if server.model in names:
        return
    near = difflib.get_close_matches(server.model, names, n=3, cutoff=0.5)
    listed = ", ".join(repr(name) for name in (near or names)[:10])
    others = f"other models, the nearest {listed}" if near else f"other models: {listed}"
    raise BadInput(
        f"a server of the model {server.model!r}",
        others if names else "no model",
        "Give server.model a name that the server lists, or start the server with this model.",
        where=where,
    )


def _address(server: Server, path: str) -> str:
    return f"{server.url.rstrip('/')}/{path}"


def _seed(seed: int, prompt_id: int) -> int:
    """30 bits that depend on both.

    A hash and not a sum: servers add a sample's number to the seed, so that the second sample of
    one prompt would share the draws of the first sample of the next.
    """
    digest = hashlib.blake2b(f"{seed} {prompt_id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 2


def _all_at_once(ask: Callable[..., T], tasks: Sequence[tuple[int, int]], parallel: int) -> list[T]:
    """Answers in the order of the tasks. The first failure ends all: nothing further is sent."""
    stopped, failures = threading.Event(), []

    def one(task: tuple[int, int]) -> T | None:
        try:
            return None if stopped.is_set() else ask(*task, stopped)
        except BaseException as failure:
            failures.append(failure)
            stopped.set()
            raise

    pool = concurrent.futures.ThreadPoolExecutor(parallel)
    try:
        futures = [pool.submit(one, task) for task in tasks]
        concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
        if failures:
            raise failures[0]  # those after it may only have been cut short
        return [cast(T, future.result()) for future in futures]
    finally:
        # Requests that are under way end by themselves; to wait for them would hide the failure.
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _persistently(
    server: Server,
    path: str,
    body: dict[str, Any] | None,
    read: Callable[[bytes], T],
    where: str,
    spread: float,
    stopped: threading.Event,
) -> T:
    """The first usable answer, with pauses between the tries."""
    turn = 0
    while True:
        try:
            return read(_once(server, path, body, where))
        except (_Failed, Malformed) as failure:
            came = str(failure)
        if turn == server.retries or stopped.wait(server.pause(turn, spread)):
            tries = "1 try" if turn == 0 else f"{turn + 1} tries"
            raise ServerFailed(
                "an answer from the server",
                f"{came} (after {tries})",
                "Start the server and run the same command again: it goes on where this one "
                "stopped.",
                where=where,
            )
        turn += 1


def _once(server: Server, path: str, body: dict[str, Any] | None, where: str) -> bytes:
    """The content of a good answer.

    Raises:
        _Failed: what may pass.
        BadInput: what will not.
    """
    key = os.environ.get(server.api_key_variable, "").strip() if server.api_key_variable else ""

    def authorise(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if key:
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    try:
        # A connection each: a session is not promised to be safe between threads, and what a
        # connection costs is nothing beside an answer.
        answer = requests.request(
            "GET" if body is None else "POST",
            _address(server, path),
            json=body,
            timeout=server.timeout,
            auth=authorise,
            allow_redirects=False,
        )
    except requests.exceptions.InvalidURL as error:
        raise BadInput("an address", str(error), "Correct server.url.", where=where) from None
    except requests.Timeout:
        raise _Failed(f"no answer in {server.timeout:g} seconds") from None
    except requests.RequestException as error:
        raise _Failed(_cause(error)) from None
    status = answer.status_code
    if 200 <= status < 300:
        return answer.content
    came = f"HTTP {status}: {beginning(answer.content)}"
    if status in (408, 429) or status >= 500:
        raise _Failed(came)
    if status in (401, 403):
        remedy = f"Put the server's key in the environment variable {server.api_key_variable}."
    elif status < 400 or status in (404, 405):
        remedy = "See that server.url is the base of the interface, often .../v1, and server.model "
        remedy += "a name that the server lists under /models."
    else:
        remedy = "The server will not take this request however often: change what it names."
    raise BadInput("a request that the server takes", came, remedy, where=where)


def _cause(error: BaseException) -> str:
    """The innermost reason: libraries wrap one four times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {error}"
