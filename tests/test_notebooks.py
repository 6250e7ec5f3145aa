"""Every notebook in colab/ runs from top to bottom, on a tiny model, and says what it claims."""

import ast
import inspect
import json
import math
import os
import pathlib
import re

import jax
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

from alignax import jobs, losses
from alignax.config import load
from alignax.methods import DPO
from alignax.models import pretrained
from alignax.models.transformer import Decoder
from alignax.train.loop import Loop
from alignax.train.optim import Optim
from tests.compare.small import SMALL
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


def imported(notebook: nbformat.NotebookNode) -> set[str]:
    """The dotted names that its cells import, at any depth."""
    names = set()
    for node in (node for cell in code_cells(notebook) for node in ast.walk(as_python(cell))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def execute(
    path: pathlib.Path, folder: pathlib.Path, probe: str, values: dict | None = None
) -> str:
    """Runs a notebook in `folder`; returns what `probe` prints at its end.

    With `values` for its parameters, all of them; without, on its own.
    """
    notebook = nbformat.read(path, as_version=4)
    if values is not None:
        names = settings(notebook)
        assert not set(names) - set(values), "a parameter without a tiny value; add it to TINY"
        parameters(notebook).source = "\n".join(f"{name} = {values[name]!r}" for name in names)
    notebook.cells.append(nbformat.v4.new_code_cell(probe))
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    # The notebook finds this checkout, and where it does not, it fails rather than fetch another.
    client.execute(env=os.environ | {"PYTHONPATH": str(ROOT), "PIP_NO_INDEX": "1"})
    # A text comes in as many parts as the kernel flushed it in, which differs from run to run.
    parts = [x for x in notebook.cells[-1].outputs if x.output_type == "stream"]
    return "".join(x.text for x in parts if x.name == "stdout")


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
    notebook = nbformat.read(path, as_version=4)
    parts = [name.split(".") for name in imported(notebook)]
    rooms = {"".join(part[1:2]) for part in parts if part[0] == "alignax"}
    assert rooms <= {"losses", "core", "methods", "models", "data", "generate", "evaluate"}
    cells = code_cells(notebook)
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
    history = execute(COLAB / "quickstart.ipynb", folder, probe, TINY | files)
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


LOSSES_PROBE = """
import json
found = {
    "table": {name: dict(zip(columns, row)) for name, row in table.items()},
    "dpo": dpo_history,
    "swept": swept[1][BETAS.index(BETA)],
    "apart": jax.tree.map(lambda x, y: abs(x[BETAS.index(BETA)] - y).max(), swept[0], after_dpo),
    "rewards": rewards,
    "kls": kls,
}
found = jax.tree.map(lambda x: jnp.asarray(x).tolist(), found)
print(json.dumps(found | {"paired": [*PAIRED], "ranked": [*RANKED], "betas": BETAS}))
"""


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """The numbers of losses.ipynb, executed as it stands."""
    folder = tmp_path_factory.mktemp("losses")
    return json.loads(execute(COLAB / "losses.ipynb", folder, LOSSES_PROBE))


def test_losses_takes_nothing_but_losses_from_the_library():
    names = imported(nbformat.read(COLAB / "losses.ipynb", as_version=4))
    own = {name for name in names if name.split(".")[0] == "alignax"}
    assert own
    assert own <= {f"alignax.losses.{name}" for name in losses.__all__}


def test_losses_begins_at_ln_2(composed):
    assert composed["dpo"][0] == pytest.approx(math.log(2), abs=1e-6)
    for beta in composed["betas"]:
        first = composed["table"][f"beta {beta}"]["first"]
        assert first == pytest.approx(math.log(2), abs=1e-6)


def test_losses_learns_with_every_loss(composed):
    table = composed["table"]
    assert len(composed["paired"]) == 6
    assert len(composed["ranked"]) == 2
    for name in (*composed["paired"], *composed["ranked"]):
        assert table[name]["last"] < table[name]["first"]
        assert table[name]["won"] == 1.0
        assert table[name]["margin"] > 1.0
    for name in composed["ranked"]:
        assert table["start"]["in_order"] < 0.5
        assert table[name]["in_order"] > 0.95


def test_losses_needs_a_likelihood_beside_dpo(composed):
    """What its section 7 says of DPO, and what one added term does about it."""
    dpo, with_nll = composed["table"]["dpo"], composed["table"]["dpo + nll"]
    assert dpo["chosen"] < -1.0
    assert dpo["margin"] > -dpo["chosen"]  # so the rejected answers fell further
    assert dpo["counts_on"] < 0.1
    assert with_nll["chosen"] > 0.0
    assert with_nll["counts_on"] > 0.9


def test_losses_sweeps_beta_as_single_runs_do(composed):
    assert composed["swept"] == pytest.approx(composed["dpo"], abs=1e-5)
    assert max(composed["apart"].values()) < 1e-5
    assert composed["betas"] == sorted(composed["betas"])
    margins = [composed["table"][f"beta {beta}"]["margin"] for beta in composed["betas"]]
    assert margins == sorted(margins, reverse=True)


def test_losses_raises_the_reward_of_its_own_answers(composed):
    rewards, kls = composed["rewards"], composed["kls"]
    assert kls[0] == pytest.approx(0.0, abs=1e-5)
    assert kls[-1] > 0.5
    assert sum(rewards[-20:]) / 20 > 3 * rewards[0]


def test_losses_table_is_what_the_docstrings_say():
    """Its last cell, row by row, and that no loss of log-probabilities or rewards is left out."""
    cell = nbformat.read(COLAB / "losses.ipynb", as_version=4).cells[-1].source
    rows = [line.strip("| ").split("|") for line in cell.splitlines() if line.startswith("| `")]
    rows = {name.strip(" `"): [x.strip() for x in rest] for name, *rest in rows}
    for name, (reads, shape, reduced, reference) in rows.items():
        function = getattr(losses, name)
        doc = " ".join(function.__doc__.split())
        first, *others = inspect.signature(function).parameters.values()
        described = doc.split("Args: ")[1].split(" Returns:")[0]
        for other in others:
            described = described.split(f" {other.name}: ")[0]
        assert first.name == ("rewards" if reads.startswith("rewards") else "logprobs")
        assert first.annotation.dim_str == shape.strip("`[]").replace(",", "")
        assert ("chosen response comes first" in described) == ("chosen first" in reads)
        assert ("In any order" in described) == ("any order" in reads)
        found = {kind for kind in ("summed", "averaged") if f"{kind} over its tokens" in described}
        found |= {"averaged"} if "or averaged as its authors advise" in described else set()
        assert set(re.findall("summed|averaged", reduced)) == found
        assert ("ref_logprobs" in {x.name for x in others}) == (reference == "yes")
    elsewhere = {"kl_estimate", "clipped_policy_gradient", "sequence_clipped_policy_gradient"}
    signatures = {name: inspect.signature(getattr(losses, name)) for name in losses.__all__}
    taking = {name for name, found in signatures.items() if "logprobs" in found.parameters}
    assert set(rows) == (taking - elsewhere) | {"bradley_terry", "plackett_luce"}


COMPARE_PROBE = """
import json
print(json.dumps(gains))
"""


def test_compare_runs_a_slice_shows_its_page_and_checks_it_by_hand(tmp_path):
    """On two updates; the intervals' own check says that two seeds are too few."""
    path = tmp_path / "small.py"
    path.write_text(SMALL)
    values = {"ENTRIES": ["dpo", "grpo"], "SEEDS": 2, "CONFIG": str(path), "OUTPUT": "out"}
    gains = json.loads(execute(COLAB / "compare.ipynb", tmp_path, COMPARE_PROBE, values))
    assert set(gains) == {"dpo", "grpo"}
    assert (tmp_path / "out" / "report.html").is_file()
