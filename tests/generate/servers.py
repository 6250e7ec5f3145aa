"""Servers in processes of their own, what they say, and a client's call with short settings."""

import contextlib
import functools
import json
import os
import pathlib
import subprocess
import sys
from typing import IO, cast

from alignax.generate.server import Completions, Server, complete

ROOT = pathlib.Path(__file__).parents[2]
END, OTHER_END = 9, 8
HTML = "<html><body>Bad gateway</body></html>"


class Running:
    """A server's process; `requests` are those it has read, in the order they came."""

    def __init__(self, module, argument):
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, argument],
            stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ},
        )  # fmt: skip
        self._out = cast(IO[str], self.process.stdout)
        self._lines: list[str] = []

    @functools.cached_property
    def url(self):
        """Known once it listens."""
        return f"http://127.0.0.1:{int(self._out.readline())}/v1"

    def stop(self):
        if not self._out.closed:
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


def models(*names):
    return {"body": json.dumps({"object": "list", "data": [{"id": name} for name in names]})}


GOOD = answer(choice([3, END]))
