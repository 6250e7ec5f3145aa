"""The readers of strangers' rows, for `fuzz`: JSON lines, in gzip too, lists, Parquet."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pyarrow
import pyarrow.parquet

from alignax.core.errors import BadInput
from alignax.core.records import LeftOut, Preference, Prompt, Ranking, Scored
from alignax.data.chat import Renderer
from alignax.data.sources import load_records
from benchmarks.hostile import Files, Parser, changed_bytes, changed_json
from tests.tiny import chatml_tokenizer

REFUSED = (BadInput, LeftOut)
PAIR = {"prompt": "Is 2 a number?", "chosen": "yes", "rejected": "no", "margin": 1.5}
CHAT = {"prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}]}  # fmt: skip
LIST = {"prompt": "Is 2?", "completions": ["a", "b"], "scores": [1.0, 0.5], "sources": ["x", "y"]}
ONE = {"messages": [*CHAT["prompt"], *CHAT["chosen"]], "score": 1}
ROWS = {Preference: PAIR, Ranking: LIST, Scored: ONE, Prompt: {"prompt": "Is 2?", "answer": "2"}}


def _records(name: str) -> Callable[[Path], None]:
    renderer = Renderer(tokenizer=chatml_tokenizer())

    def read(path: Path) -> None:
        refused = []
        for kind in ROWS:
            try:
                records, report = load_records(str(path / name), kind)
                str(report)
                renderer.prompt_ids([renderer.prompt(record.prompt) for record in records])
            except REFUSED as error:
                refused.append(error)
        if len(refused) == len(ROWS):  # no method could learn from it
            raise refused[0]

    return read


def rows(folder: Path) -> Parser:
    """JSON lines, plain."""
    del folder
    trees = [*ROWS.values(), CHAT]

    def changed(draw: Random) -> Files:
        row = draw.choice(trees)
        lines = json.dumps(row).encode() + b"\n" + changed_json(draw, row, tuple(PAIR)) + b"\n"
        return {"rows.jsonl": lines}

    whole = {"rows.jsonl": (json.dumps(PAIR) + "\n").encode()}
    return Parser(whole, changed, _records("rows.jsonl"))


def packed_rows(folder: Path) -> Parser:
    """JSON lines in gzip, or a list in one JSON file."""
    del folder
    packed = gzip.compress(b"".join(json.dumps(PAIR).encode() + b"\n" for _ in range(3)))
    bomb = gzip.compress(b"\0" * (1 << 28))
    whole = {"rows.jsonl.gz": packed, "rows.json": json.dumps([PAIR, CHAT]).encode()}
    readers = {name: _records(name) for name in whole}

    def changed(draw: Random) -> Files:
        if not draw.randrange(1000):  # for it takes a second
            return {"rows.jsonl.gz": bomb}
        if draw.randrange(2):
            return {"rows.jsonl.gz": changed_bytes(draw, packed)}
        return {"rows.json": changed_json(draw, [PAIR, CHAT], tuple(PAIR))}

    def read(path: Path) -> None:
        for file in path.iterdir():
            readers[file.name](path)

    return Parser(whole, changed, read)


def parquet(folder: Path) -> Parser:
    """A Parquet file."""
    del folder
    buffer = io.BytesIO()
    table = pyarrow.Table.from_pylist([PAIR | {"n": i, "turns": CHAT["prompt"]} for i in range(20)])
    pyarrow.parquet.write_table(table, buffer)
    raw = buffer.getvalue()
    whole = {"rows.parquet": raw}
    (footer,) = np.frombuffer(raw[-8:-4], "<u4").tolist()
    head = raw[: -footer - 8], raw[-footer - 8 :]
    bomb = io.BytesIO()
    long = pyarrow.DictionaryArray.from_arrays(np.zeros(10**5, np.int32), ["x" * 10**6])
    columns = {"prompt": long.indices.cast("string"), "chosen": long, "rejected": long}
    pyarrow.parquet.write_table(pyarrow.table(columns), bomb, compression="zstd")

    def changed(draw: Random) -> Files:
        if not draw.randrange(1000):
            return {"rows.parquet": bomb.getvalue()}
        if draw.randrange(2):
            return {"rows.parquet": changed_bytes(draw, raw)}
        return {"rows.parquet": head[0] + changed_bytes(draw, head[1])}

    return Parser(whole, changed, _records("rows.parquet"))
