"""Every notebook in colab/ runs from top to bottom, on a tiny model, and says what it claims."""

import ast
import json
import math
import os
import pathlib

import jax
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

from alignax import jobs
from alignax.config import load
from alignax.methods import DPO
from alignax.models import pretrained
from alignax.models.transformer import Decoder
from alignax.train.loop import Loop
from alignax.train.optim import Optim
from tests.tiny_model import experiment, model_directory, write_pairs

ROOT = pathlib.Path(__file__).parents[1]
COLAB = ROOT / "colab"
NOTEBOOKS = sorted(COLAB.glob("*.ipynb"))
MOST_LINES = 170  # of code, all cells together; a page is the point of them
TINY = {"STEPS": 6, "BATCH_SIZE": 8, "LEARNING_RATE": 1e-2, "BETA": 0.5, "MAX_NEW_TOKENS": 8}


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def as_python(cell: nbformat.NotebookNode) -> ast.Module:
    """A cell's syntax tree, its magics turned into the calls that they stand for."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


def parameters(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    (cell,) = (c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", ()))
    return cell


def settings(notebook: nbformat.NotebookNode) -> dict[str, ast.expr]:
    """The names that the parameters cell sets."""
    body = as_python(parameters(notebook)).body
    return {node.targets[0].id: node.value for node in body if isinstance(node, ast.Assign)}


def execute(path: pathlib.Path, folder: pathlib.Path, values: dict, probe: str) -> str:
    """Runs a notebook in `folder` with these parameters; returns what `probe` prints at its end."""
    notebook = nbformat.read(path, as_version=4)
    names = settings(notebook)
    assert not set(names) - set(values), "a parameter without a tiny value; add it to TINY"
    parameters(notebook).source = "\n".join(f"{name} = {values[name]!r}" for name in names)
    notebook.cells.append(nbformat.v4.new_code_cell(probe))
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    # The notebook finds this checkout, and where it does not, it fails rather than fetch another.
    client.execute(env=os.environ | {"PYTHONPATH": str(ROOT), "PIP_NO_INDEX": "1"})
    (output,) = notebook.cells[-1].outputs
    return output.text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_is_valid_and_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_is_flat_and_short(path):
    """The machinery is not imported: neither by its own name nor from the top of the package."""
    cells = code_cells(nbformat.read(path, as_version=4))
    rooms = set()
    for node in (node for cell in cells for node in ast.walk(as_python(cell))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        rooms |= {f"{name}.".split(".")[1] for name in names if name.split(".")[0] == "alignax"}
    assert rooms <= {"losses", "core", "methods", "models", "data", "generate", "evaluate"}
    lines = [line for cell in cells for line in cell.source.splitlines() if line.strip()]
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= 100


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The quickstart executed on a tiny model: its folder, and the numbers of every update."""
    folder = tmp_path_factory.mktemp("quickstart")
    files = {
        "MODEL": str(model_directory(folder / "model")),
        "TRAIN": str(write_pairs(folder / "train.jsonl", 24)),
        "TEST": str(write_pairs(folder / "test.jsonl", 8)),
        "OUTPUT": "out",
    }
    probe = "import json\nprint(json.dumps(history))"
    history = execute(COLAB / "quickstart.ipynb", folder, TINY | files, probe)
    return folder, json.loads(history)


def test_quickstart_has_the_settings_of_its_config():
    """One epoch of `configs/quickstart.py`, by default."""
    config = load(ROOT / "configs" / "quickstart.py")
    pairs = len((ROOT / config.data.train).read_text().splitlines())
    notebook = nbformat.read(COLAB / "quickstart.ipynb", as_version=4)
    found = {name: ast.literal_eval(value) for name, value in settings(notebook).items()}
    found.pop("OUTPUT")
    assert found == {
        "MODEL": config.model.model_name_or_path,
        "TRAIN": config.data.train,
        "TEST": config.data.eval,
        "STEPS": config.loop.num_steps(pairs),
        "BATCH_SIZE": config.loop.batch_size,
        "LEARNING_RATE": config.optim.learning_rate,
        "BETA": config.method.beta,
        "MAX_NEW_TOKENS": config.evaluation.sampler.max_new_tokens,
    }


def test_quickstart_begins_at_ln_2_and_learns(quickstart):
    _, history = quickstart
    assert len(history) == TINY["STEPS"]
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert history[0]["margin"] == pytest.approx(0.0, abs=1e-5)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1]["chosen"] > history[-1]["rejected"]


def test_quickstart_saves_a_model_that_loads(quickstart):
    folder, _ = quickstart
    saved, began = pretrained.load(folder / "out"), pretrained.load(folder / "model")
    assert saved.config == began.config
    assert (folder / "out" / "tokenizer.json").is_file()
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), saved.params, began.params)
    assert any(jax.tree.leaves(moved))
    abstract = Decoder(config=saved.config).abstract()
    assert jax.tree.map(lambda x: x.shape, saved.params) == jax.tree.map(
        lambda x: x.shape, abstract
    )


def test_quickstart_is_the_same_run_as_the_full_machine(quickstart, tmp_path):
    """The flat page and `alignax train` give the same loss at every update."""
    _, history = quickstart
    jobs.train(
        experiment(
            tmp_path,
            method=DPO(beta=TINY["BETA"]),
            optim=Optim(learning_rate=TINY["LEARNING_RATE"], warmup_ratio=0.1),
            loop=Loop(batch_size=TINY["BATCH_SIZE"], max_steps=TINY["STEPS"], logging_steps=1),
            tensorboard=False,
        ),
        quiet=True,
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "loss" in row]
    assert [row["loss"] for row in rows] == pytest.approx(
        [row["loss"] for row in history], abs=1e-5
    )
