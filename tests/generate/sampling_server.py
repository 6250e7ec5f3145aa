"""A completions server that draws with our own sampler; run as a process of its own.

Takes a model's directory as its argument. Prints its port once it listens. Tells token ids, as vLLM
does where it is asked to.
"""

import functools
import http.server
import json
import sys
import threading

import jax
import numpy as np
from tokenizers import Tokenizer

from alignax.generate.sampler import Sampler, sample
from alignax.models import pretrained
from alignax.models.transformer import Decoder

WIDTH = 64  # tokens of the longest prompt
LOCK = threading.Lock()


@functools.cache
def model(directory):
    loaded = pretrained.load(directory)
    tokenizer = Tokenizer.from_file(f"{directory}/tokenizer.json")
    return Decoder(config=loaded.config), loaded.params, tokenizer


@functools.cache
def compiled(directory, sampler):
    return jax.jit(functools.partial(sample, model(directory)[0], sampler=sampler))


def choices(directory, body):
    """The samples of one prompt, as the interface gives them."""
    sampler = Sampler(
        num_samples=body["n"],
        max_new_tokens=body["max_tokens"],
        temperature=body["temperature"],
        top_p=body["top_p"],
        top_k=max(body["top_k"], 0),
    )
    prompt = np.zeros((1, WIDTH), np.int32)
    prompt[0, : len(body["prompt"])] = body["prompt"]
    ends = np.array(body["stop_token_ids"], np.int32)
    found = compiled(directory, sampler)(
        model(directory)[1],
        jax.random.key(body["seed"]),
        prompt,
        np.array([len(body["prompt"])], np.int32),
        np.zeros(1, np.int32),
        ends,
    )
    rows = zip(
        *(np.asarray(x)[0].tolist() for x in (found.tokens, found.lengths, found.ended)),
        strict=True,
    )
    for index, (tokens, length, ended) in enumerate(rows):
        shown = tokens[: length - ended]  # the end of turn is no text
        yield {
            "index": index,
            "text": model(directory)[2].decode(shown),
            "finish_reason": "stop" if ended else "length",
            "token_ids": tokens[:length] if body.get("return_token_ids") else None,
        }


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({"data": [{"id": "tiny"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with LOCK:
            self.answer({"choices": list(choices(sys.argv[1], body))})

    def answer(self, answer):
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
