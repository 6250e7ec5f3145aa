"""`alignax show MODEL`: what a model's files say of it, no weight read."""

import io
import json
import shutil

import pytest
from rich.console import Console
from safetensors import safe_open

from alignax import run as run_module
from alignax import show
from alignax.cli import main
from alignax.models import files, pretrained
from tests.data.chat_families import FAMILIES, gpt2
from tests.tiny_model import model_directory


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_directory(tmp_path_factory.mktemp("show") / "model")


def shown(model, monkeypatch, capsys, *options, width=80):
    """What is printed where there is no terminal, as in a pipe."""
    monkeypatch.setattr(run_module, "console", Console(width=width, color_system=None))
    main(["show", str(model), *options])
    return capsys.readouterr().out


def described(name, width=80):
    """The tokens and the template of a family, for people."""
    family = FAMILIES.get(name)
    tokenizer = family.tokenizer() if family else gpt2()
    printed = io.StringIO()
    Console(file=printed, width=width).print(show.template(tokenizer, (), None))
    return printed.getvalue()


def row(printed, name):
    """The words of the line that begins with a name."""
    (line,) = [x for x in printed.splitlines() if x.strip().startswith(f"{name} ")]
    return line.split()[len(name.split()) :]


def test_every_parameter_has_its_axes_its_dtype_and_its_bytes(model, monkeypatch, capsys):
    printed = shown(model, monkeypatch, capsys)
    # 320 x 32 float32 numbers are 40,960 bytes; of 2 layers 2 x 32 x 4 x 8 x 4 are 8,192.
    assert row(printed, "embed") == ["vocab=320", "embed=32", "F32", "41.0", "kB"]
    assert row(printed, "layers/")[0] == "layers=2"
    query = ["embed=32", "heads=4", "head_dim=8", "F32", "8.2", "kB"]
    assert row(printed, "attention/query/kernel") == query
    assert row(printed, "norm/scale") == ["embed=32", "F32", "128", "B"]
    # Each layer: q and o 2 x 1,024, k and v 2 x 512, the MLP 3 x 2,048, norms 2 x 32; the norm 32.
    count = 320 * 32 + 2 * (2 * 1024 + 2 * 512 + 3 * 2048 + 2 * 32) + 32
    assert row(printed, "all")[0] == f"{count:,}"
    assert row(printed, "parameters")[0] == f"{count:,},"
    with safe_open(model / "model.safetensors", framework="np") as file:
        names = list(file.keys())
    assert sum(f"layers.{i}." in name for name in names for i in range(2)) == 2 * 9
    assert len([x for x in printed.splitlines() if x.endswith(("kB ", " B "))]) == 9 + 2 + 1


def test_the_facts_of_a_model_stand_before_its_parameters(model, monkeypatch, capsys):
    printed = shown(model, monkeypatch, capsys)
    assert row(printed, "family") == ["llama", "(LlamaForCausalLM)"]
    assert row(printed, "head")[0] == "tied:"
    assert row(printed, "context") == ["512", "positions"]
    assert row(printed, "BOS") == ["<|im_start|>", "(1)"]
    assert row(printed, "EOS") == ["<|im_end|>", "(2)"]
    assert row(printed, "before a text") == ["the", "tokenizer", "puts", "nothing"]


@pytest.mark.parametrize("width", [80, 120])
def test_it_is_readable_in_a_pipe_of_any_width(width, model, monkeypatch, capsys):
    printed = shown(model, monkeypatch, capsys, width=width)
    assert "\x1b" not in printed
    assert max(map(len, printed.splitlines())) <= width
    for line in printed.splitlines():
        if "kernel" in line:  # no row is broken in two
            assert line.rstrip().endswith("kB")


def test_no_weight_is_read(model, monkeypatch, capsys):
    def fail(*_):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(files.Checkpoint, "fetch", fail)
    assert "attention/query/kernel" in shown(model, monkeypatch, capsys)
    with pytest.raises(AssertionError, match="a weight was read"):
        pretrained.load(model)


def test_a_reward_model_says_so(tmp_path, monkeypatch, capsys):
    model = model_directory(tmp_path / "scores", num_scores=2)
    printed = shown(model, monkeypatch, capsys)
    assert "a score head, outputs: 2; a reward model" in printed
    assert row(printed, "score") == ["scores=2", "embed=32", "F32", "256", "B"]


def test_prompt_header_and_answer_are_told_apart_by_their_bars():
    printed = described("qwen 2.5")
    conversation, rest = printed.split("generation prompt, 9 tokens\n")
    header, answer = rest.split("response, trained, ")
    assert header.strip() == "<|im_start|>¦a¦s¦s¦is¦t¦an¦t¦⏎¦"
    assert "│" not in conversation
    assert answer.rstrip().endswith("2│ │x│ │4│.│<|im_end|>│")
    assert "¦" not in answer
    assert conversation.rstrip().endswith("<|im_start|>¦u¦s¦er¦⏎¦\nA¦n¦d¦ ¦8¦?¦<|im_end|>¦⏎¦")


@pytest.mark.parametrize(
    ("name", "fact", "wanted"),
    [
        ("qwen 2.5", "system", "taken; without one the template writes '<|im_start|>system"),
        ("qwen 3", "system", "taken"),
        ("gemma 2", "system", "refused (System role not supported)"),
        ("gemma 3", "system", "taken"),
        ("llama 3", "writes BOS", "once, at the start"),
        ("qwen 3", "writes BOS", "never"),
        ("llama 2", "writes BOS", "2 times: it opens or ends turns"),
        ("phi 3", "end of turn", "<|endoftext|> <|end|>"),
    ],
)
def test_the_ways_of_a_template_are_said(name, fact, wanted):
    (line,) = [x for x in described(name, width=200).splitlines() if x.startswith(f"{fact} ")]
    words = line.removeprefix(fact).strip()
    assert words == wanted or ("'" in wanted and words.startswith(wanted))


def test_a_format_without_a_header_says_that_the_answer_follows_at_once():
    assert "generation prompt, none" in described("mistral")


def test_a_model_without_a_template_is_shown_with_the_one_that_it_could_have():
    printed = described("gpt 2")
    assert "none; shown is what data.chat_template could be" in printed
    assert "plain: User:" in printed
    assert "response, trained, " in printed


def test_a_template_can_be_tried(model, monkeypatch, capsys):
    printed = shown(model, monkeypatch, capsys, "--chat-template", "plain")
    assert row(printed, "chat template") == ["plain"]
    assert "generation prompt, " in printed
    assert "<|im_start|>" not in printed.split("conversation, ")[1]


def test_a_model_without_a_tokenizer_is_shown_but_for_it(model, tmp_path, monkeypatch, capsys):
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    for path in [*bare.glob("tokenizer*"), *bare.glob("special*")]:
        path.unlink()
    printed = shown(bare, monkeypatch, capsys)
    assert "attention/query/kernel" in printed
    assert "tokenizer  none: " in printed


REFUSED = {
    "no such directory": ("nowhere/at/all", "expected a model directory or a hub id"),
    "a directory of something else": ("empty", "expected a config.json; got none"),
    "a file": ("notes.txt", "expected a model directory or a hub id (owner/name); got a file"),
    "a config without its ending": ("tiny", "Did you mean {folder}/tiny.py?"),
    "another kind of model": ("bert", "expected a model_type that alignax computes"),
    "no weights": ("weightless", "expected model.safetensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_model_is_refused(name, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "tiny.py").write_text("")
    for kind, contents in (("bert", {"model_type": "bert"}), ("weightless", None)):
        model = model_directory(tmp_path / kind)
        if contents is None:
            (model / "model.safetensors").unlink()
        else:
            (model / "config.json").write_text(json.dumps(contents))
    path, wanted = REFUSED[name]
    with pytest.raises(SystemExit) as stopped:
        main(["show", str(tmp_path / path)])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert wanted.format(folder=tmp_path) in printed
