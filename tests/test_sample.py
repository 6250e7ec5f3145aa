"""Answers and scores of files: refused before the work, kept while it goes on."""

import datetime
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from alignax import sample as sample_module
from alignax.cli import main
from alignax.core.errors import BadInput
from alignax.generate.engine import Engine
from alignax.generate.server import Server, ServerFailed
from alignax.models import pretrained
from alignax.sample import sample
from alignax.score import score_by
from tests.generate.servers import answer, choice, scripted
from tests.tiny import byte_ids, llama3_tokenizer
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


def test_the_end_of_an_answer_is_not_written_though_the_tokenizer_does_not_call_it_special(
    model, tmp_path, monkeypatch
):
    tokenizer = llama3_tokenizer(special_end=False)
    monkeypatch.setattr(sample_module, "load_tokenizer", lambda _: tokenizer)
    drawn = SimpleNamespace(
        tokens=np.array([[[*byte_ids("YES"), 1]]]),
        lengths=np.array([[4]]),
        ended=np.array([[True]]),
    )
    monkeypatch.setattr(Engine, "__call__", lambda *_, **__: drawn)
    source, target = rows(tmp_path / "rows.jsonl", 1), tmp_path / "out.jsonl"
    sample(model, source, target, quiet=True, max_new_tokens=4)
    assert json.loads(target.read_text())["completions"] == ["YES"]


def stopped_after(calls, monkeypatch):
    """The engine, which a Ctrl-C meets when it has been called so often; what it was asked."""
    asked, draw = [], Engine.__call__

    def drawing(self, params, key, prompts, prompt_ids, **settings):
        if len(asked) == calls:
            raise KeyboardInterrupt
        asked.append(list(prompt_ids))
        return draw(self, params, key, prompts, prompt_ids, **settings)

    monkeypatch.setattr(Engine, "__call__", drawing)
    return asked


# As the command line has it with --num-samples 2 --max-new-tokens 6.
SIX = {"quiet": True, "max_new_tokens": 6, "num_samples": 2, "temperature": 0.7, "top_p": 0.95}


@pytest.mark.parametrize("lost", [0, 1])  # rows that a kill in the middle of writing has not left
def test_what_our_own_engine_has_drawn_is_kept_and_gone_on_from(
    lost, model, tmp_path, monkeypatch, capsys
):
    source, whole, target = rows(tmp_path / "rows.jsonl", 7), tmp_path / "a", tmp_path / "b"
    sample(model, source, whole, **SIX)
    monkeypatch.setattr(sample_module, "ANSWERS", 6)  # three prompts of two answers
    with monkeypatch.context() as stopping:
        asked = stopped_after(2, stopping)
        with pytest.raises(SystemExit, match="130"):
            main(["sample", str(model), "--data", source, "--to", str(target), "--num-samples",
                  "2", "--max-new-tokens", "6"])  # fmt: skip
    assert asked == [[0, 1], [2, 3]]  # seven in three portions: none is much shorter
    assert capsys.readouterr().err == (
        f"interrupted; 4 rows of {target} are kept: the same command goes on behind them\n"
    )
    assert not target.exists()
    (left,) = tmp_path.glob(".b.*.tmp")
    left.write_text("".join(left.read_text().splitlines(True)[: 4 - lost]))
    asked = stopped_after(9, monkeypatch)
    sample(model, source, target, **SIX)
    # A portion that is there in part is drawn whole.
    assert asked == ([[2, 3], [4, 5, 6]] if lost else [[4, 5, 6]])
    assert target.read_bytes() == whole.read_bytes()
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("change", ["seed", "weights", "ends", "prompt"])
def test_what_other_work_has_drawn_is_not_gone_on_from(change, model, tmp_path, monkeypatch):
    source, target = rows(tmp_path / "rows.jsonl", 4), tmp_path / "out.jsonl"
    own = shutil.copytree(model, tmp_path / "model")
    monkeypatch.setattr(sample_module, "ANSWERS", 4)
    with monkeypatch.context() as stopping:
        stopped_after(1, stopping)
        with pytest.raises(KeyboardInterrupt):
            sample(own, source, target, **SIX)
    if change == "weights":
        shutil.copy(model_directory(tmp_path / "other", init_scale=0.2) / "model.safetensors", own)
    if change == "ends":
        (own / "generation_config.json").write_text('{"eos_token_id": [1, 2, 3]}')
    if change == "prompt":
        rows(tmp_path / "rows.jsonl", 5)
    asked = stopped_after(9, monkeypatch)
    sample(own, source, target, **SIX, seed=int(change == "seed"))
    assert asked[0][0] == 0


TEXT = "I :heart: [b]it[/b],  \tsaid " + "she " * 40 + "."


def test_answers_are_printed_as_they_stand_and_an_empty_one_is_named(model, capsys):
    with scripted(p1=[answer(choice([7, 2], text=f" {TEXT}\n")), answer(choice([2], text=""))]) as (
        running
    ):
        words = ["sample", str(model), "--server", running.url, "--served", "tiny"]
        main([*words, "--prompt", f"Is {TEXT}", "--max-new-tokens", "4"])
        main([*words, "--prompt", "Is it?", "--max-new-tokens", "4"])
    assert capsys.readouterr().out.splitlines() == [f"Is {TEXT}", TEXT, "Is it?", "(empty)"]


def tokenizer_alone(model, folder):
    folder.mkdir()
    for path in model.iterdir():
        if path.name.startswith(("token", "chat_template", "special")):
            shutil.copy(path, folder)
    return folder


def test_where_a_server_answers_a_tokenizer_will_do(model, tmp_path):
    folder, source = tokenizer_alone(model, tmp_path / "bare"), rows(tmp_path / "rows.jsonl", 2)
    with scripted(p1=[GOOD]) as running:
        server = Server(url=running.url, model="tiny")
        # No config.json, so no bound: a served model may have any length.
        sample(folder, source, tmp_path / "a", server=server, quiet=True, max_new_tokens=9999)
        assert sample_module.answer(folder, ["Is it?"], server=server) == [["good"]]
        # Of a family that is not computed here, inside a model of pictures.
        inner = {"max_position_embeddings": 512, "vocab_size": 320}
        config = {"model_type": "llava", "text_config": inner}
        (folder / "config.json").write_text(json.dumps(config))
        sample(folder, source, tmp_path / "b", server=server, quiet=True, max_new_tokens=4)
        with pytest.raises(BadInput, match="fewer new tokens than the model's 512 positions"):
            sample(folder, source, tmp_path / "c", server=server, max_new_tokens=512)
    for name in ("a", "b"):
        found = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert [row["completions"] for row in found] == [["good"], ["good"]]


def test_ids_beyond_those_of_the_tokenizer_are_not_taken_from_a_server(model, tmp_path):
    folder, source = tokenizer_alone(model, tmp_path / "bare"), rows(tmp_path / "rows.jsonl", 1)
    with scripted(p1=[answer(choice([100_000, 2], text="good"))]) as running:
        server = Server(url=running.url, model="tiny", retries=0)
        with pytest.raises(ServerFailed):
            sample(folder, source, tmp_path / "a", server=server, quiet=True, max_new_tokens=4)


def test_where_a_server_answers_no_weights_are_fetched(model, tmp_path, monkeypatch):
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, "*.safetensors" in allow_patterns))
        return str(tokenizer_alone(model, tmp_path / f"fetched{len(asked)}"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with scripted(p1=[GOOD]) as running:
        server = Server(url=running.url, model="tiny")
        sample_module.answer("owner/name", ["Is it?"], server=server)
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        settings = {"base_model_name_or_path": "owner/base"}
        (adapter / "adapter_config.json").write_text(json.dumps(settings))
        sample_module.answer(adapter, ["Is it?"], server=server)
    assert asked == [("owner/name", False), ("owner/base", False)]
    pretrained.locate("owner/name")
    assert asked[-1] == ("owner/name", True)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ('{"vocab_size": "many"}', "vocab_size, a positive whole number; got 'many'"),
        ('{"n_positions": 0}', "n_positions, a positive whole number; got 0"),
    ],
)
def test_a_size_that_is_no_number_is_refused_beside_a_server_too(said, message, model, tmp_path):
    folder = tokenizer_alone(model, tmp_path / "bare")
    (folder / "config.json").write_text(said)
    server = Server(url="http://127.0.0.1:9/v1", model="tiny")
    with pytest.raises(BadInput, match=message):
        sample_module.answer(folder, ["Is it?"], server=server)
