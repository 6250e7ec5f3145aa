"""Weights and checkpoints that are not whole, or of another model: refused, or passed over."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignax import jobs
from alignax.cli import main
from tests.refusals.runs import nothing_was_made, refused, without
from tests.tiny_model import experiment as tiny
from tests.tiny_model import model_directory

# --- Weights


def change_weights(change):
    def apply(folder):
        path = folder / "model" / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return apply


def cut_weights(folder):
    path = folder / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


NORM = "model.layers.1.input_layernorm.weight"
WEIGHTS = {
    "a missing tensor": (
        change_weights(lambda tensors: tensors.pop(NORM)),
        f"{{model}}: expected the tensor {NORM}; got 19 tensors, without it and 0 others.\n"
        "    The weights do not belong to this config.json; take both from one source.",
    ),
    "a mis-shaped tensor": (
        change_weights(lambda tensors: tensors.update({NORM: np.ones(16, np.float32)})),
        f"{{model}}/model.safetensors: {NORM}: expected the shape [32]; got [16].\n",
    ),
    "a tensor of whole numbers": (
        change_weights(lambda tensors: tensors.update({NORM: np.ones(32, np.int8)})),
        f"{NORM}: expected a tensor of F32, BF16, F16; got I8.\n",
    ),
    "no weights": (
        without("model.safetensors"),
        "{model}: expected model.safetensors, or shards and model.safetensors.index.json; got "
        "neither.\n    Fetch the weights in the safetensors format.",
    ),
    "weights that break off": (
        cut_weights,
        "{model}/model.safetensors: expected a complete safetensors file; got ",
    ),
    "no tokenizer": (
        lambda folder: [without(x)(folder) for x in ("tokenizer.json", "tokenizer_config.json")],
        "{model}: expected a tokenizer beside the weights (tokenizer.json, "
        "tokenizer_config.json); got ",
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_model_directory_that_is_not_whole_is_refused(name, folder, capsys):
    change, wanted = WEIGHTS[name]
    change(folder)
    printed = refused(folder, capsys)
    assert wanted.format(model=folder / "model") in printed
    assert nothing_was_made(folder)


# --- Checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    experiment = tiny(folder)
    jobs.train(experiment, quiet=True)
    return experiment, folder / "run"


@pytest.fixture
def copied(trained, tmp_path):
    """A config for a copy of a finished run, and the copy."""
    _, output = trained
    shutil.copytree(output, tmp_path / "run")
    (tmp_path / "config.py").write_text(
        "import dataclasses, pathlib\n"
        "from tests.tiny_model import experiment as tiny\n"
        "def experiment():\n"
        f"    made = tiny(pathlib.Path({str(output.parent)!r}))\n"
        f"    return dataclasses.replace(made, output_dir={str(tmp_path / 'run')!r})\n"
    )
    return tmp_path


def damage(checkpoint):
    """Changes one bit in the middle of the largest file."""
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    return largest.relative_to(checkpoint)


def test_no_whole_checkpoint_is_an_error_and_not_a_new_run(copied, capsys):
    files = [damage(copied / "run" / f"checkpoint-{step}") for step in (4, 6)]
    before = {p: p.read_bytes() for p in (copied / "run").rglob("*") if p.is_file()}
    printed = refused(copied, capsys)
    assert f"{copied}/run: expected a whole checkpoint; got 2 damaged: " in printed
    for step, file in zip((4, 6), files, strict=True):
        assert f"checkpoint-{step} ({file} has changed since it was written)" in printed
    assert "Put the files back from a copy; or delete these checkpoints" in printed
    assert {path: path.read_bytes() for path in before} == before


def test_a_half_written_checkpoint_is_passed_over_and_said_so(copied, capsys, caplog):
    newest = copied / "run" / "checkpoint-6"
    (newest / "alignax.json").unlink()
    newest.rename(copied / "run" / "checkpoint-6.partial")
    main(["evaluate", str(copied / "config.py")])
    assert f"skipped {copied}/run/checkpoint-6.partial: it was cut short" in caplog.text
    main(["train", str(copied / "config.py")])
    assert "resumed from step 4 of 6" in capsys.readouterr().out
    assert not (copied / "run" / "checkpoint-6.partial").exists()
    assert (copied / "run" / "checkpoint-6" / "alignax.json").exists()


def test_a_checkpoint_of_another_model_is_refused_before_it_is_read(copied, capsys):
    other = model_directory(copied / "other", mlp_width=128)
    printed = refused(copied, capsys, "--model.model-name-or-path", str(other))
    assert "model.model_name_or_path: expected the settings of the run that " in printed
    printed = refused(copied, capsys, "--model.model-name-or-path", str(other), command="evaluate")
    assert f", by which {copied}/run was trained; got '{other}'" in printed
