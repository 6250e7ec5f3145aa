"""Answers and scores of files: refused before the work, kept while it goes on."""

import datetime
import json

import pyarrow
import pyarrow.parquet
import pytest

from alignax.cli import main
from alignax.core.errors import BadInput
from alignax.generate.server import Server, ServerFailed
from alignax.sample import sample
from alignax.score import score_by
from tests.generate.servers import answer, choice, scripted
from tests.tiny_model import model_directory

GOOD = answer(choice([7, 2], text="good"))  # 2 is the tokenizer's end of turn


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_directory(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def rows(path, count):
    path.write_text(
        "".join(json.dumps({"prompt": f"Is {i}?", "completion": "yes"}) + "\n"
                for i in range(count))
    )  # fmt: skip
    return str(path)


def never(*_, **__):
    raise AssertionError("the work has begun")


def test_a_target_in_a_folder_that_is_missing_is_refused_before_the_work(
    model, tmp_path, monkeypatch
):
    source, target = rows(tmp_path / "rows.jsonl", 1), tmp_path / "missing" / "out.jsonl"
    monkeypatch.setattr("alignax.sample.pretrained.load", never)
    (tmp_path / "rule.py").write_text("def never(completions):\n    raise SystemExit\n")
    for work in (
        lambda: sample(model, source, target, quiet=True),
        lambda: score_by(f"{tmp_path}/rule.py:never", source, target, quiet=True),
    ):
        with pytest.raises(BadInput) as error:
            work()
        assert str(error.value) == (
            f"{target}: expected a file that can be written; got FileNotFoundError: No such file "
            "or directory.\n    Make its folder, or name another file."
        )  # fmt: skip


def test_a_column_that_json_cannot_hold_is_named_before_the_work(model, tmp_path, monkeypatch):
    source = tmp_path / "rows.parquet"
    when = datetime.datetime(2026, 1, 2)
    table = {"prompt": ["Is it?"], "completion": ["yes"], "asked": [when]}
    pyarrow.parquet.write_table(pyarrow.table(table), source)
    monkeypatch.setattr("alignax.sample.pretrained.load", never)
    (tmp_path / "rule.py").write_text("def never(completions):\n    raise SystemExit\n")
    target = tmp_path / "out.jsonl"
    for work in (
        lambda: sample(model, str(source), target, quiet=True),
        lambda: score_by(f"{tmp_path}/rule.py:never", str(source), target, quiet=True),
    ):
        with pytest.raises(BadInput, match=r"rows.parquet:1: .* got asked, a datetime: "):
            work()
        assert not [*tmp_path.glob("out*"), *tmp_path.glob(".*")]


def test_what_a_server_has_answered_is_kept_and_gone_on_from(model, tmp_path):
    source, target = rows(tmp_path / "rows.jsonl", 10), tmp_path / "out.jsonl"
    settings = {"quiet": True, "max_new_tokens": 4}
    with scripted(p1=[*[GOOD] * 8, {"exit": True}]) as running:
        server = Server(url=running.url, model="tiny", retries=0, parallel=1)
        with pytest.raises(ServerFailed, match="run the same command again"):
            sample(model, source, target, server=server, **settings)
    assert not target.exists()
    (left,) = tmp_path.glob(".out.jsonl.*.tmp")
    assert left.read_text().count("\n") == 8
    left.write_text(left.read_text() + '{"prompt": "torn')
    with scripted(p1=[GOOD]) as running:  # at another address
        server = Server(url=running.url, model="tiny")
        sample(model, source, target, server=server, **settings)
        assert len(running.bodies()) == 2
    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["prompt"] for row in found] == [f"Is {i}?" for i in range(10)]
    assert all(row["completions"] == ["good"] for row in found)
    assert list(tmp_path.glob(".*")) == []


def test_a_prompt_on_the_command_line_is_answered_by_the_server_too(model, capsys):
    with scripted(p1=[GOOD]) as running:
        main(["sample", str(model), "--prompt", "Is it?", "--server", running.url,
              "--served", "tiny", "--max-new-tokens", "4"])  # fmt: skip
        assert [body["model"] for body in running.bodies()] == ["tiny"]
    assert capsys.readouterr().out.splitlines() == ["Is it?", "good"]
