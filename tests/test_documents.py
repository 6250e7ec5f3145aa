"""What README, CONTRIBUTING and the pages say: settings that there are, commands that do so."""

import ast
import os
import pathlib
import re
import subprocess

import nbformat
import pytest

from alignax import catalogue, config
from alignax.models.lora import LoRA
from alignax.overrides import names
from tests.test_layers import LAYERS

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONFIG = (ROOT / "configs" / "quickstart.py").read_text()
ROOMS = "method|model|data|optim|loop|rollout|adapter|evaluation|mesh"


def section(title):
    """Of the README, up to the next heading."""
    return re.split(r"^#+ ", README.split(f"# {title}\n")[1], flags=re.MULTILINE)[0]


def code(text, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_readme_shows_the_whole_config_of_the_demo():
    shown = code(section("Your own model and data"))[0]
    assert shown.strip() == CONFIG.split('"""')[2].strip()


def test_its_other_piece_of_a_config_runs_as_it_stands():
    exec(code(section("Learning from its own samples"))[0], found := {})
    assert found["rollout"].rewards.weights == (1.0, 0.2)


@pytest.mark.parametrize("title", ["Your own model and data", "Coming from TRL"])
def test_settings_that_the_readme_names_are_there(title):
    known = {f"adapter.{name}" for name in names(LoRA())} | {"rollout.server", "rollout.rewards"}
    for entry in catalogue.entries():
        known |= set(names(config.load(entry.config)))
    found = re.findall(rf"(?<![\w/])(?:--)?((?:{ROOMS})\.[\w.-]+)", section(title))
    assert len(found) > 5
    wanted = {re.sub(r"\.\d.*|\.$", "", name).replace("-", "_") for name in found}
    assert wanted - known == set()


def test_the_numbers_of_the_demo_are_the_same_everywhere():
    notebook = nbformat.read(ROOT / "colab" / "quickstart.ipynb", as_version=4)
    pages = {
        "README.md": README,
        "configs/quickstart.py": CONFIG,
        "colab/quickstart.ipynb": "\n".join(cell.source for cell in notebook.cells),
        "benchmarks/RESULTS.md": (ROOT / "benchmarks" / "RESULTS.md").read_text(),
    }
    found = re.search(r"rewards/margins 0 -> (\S+ \[\S+ \S+\])", CONFIG)
    for name, text in pages.items():
        assert found[1].rstrip(",") in text, name


def test_every_module_is_in_the_readmes_tree_and_every_layer_in_contributing():
    tree = section("What is here")
    for path in (ROOT / "alignax").glob("[a-z]*.py"):
        assert re.search(rf"\b{path.name}", tree), path.name
    block = (ROOT / "CONTRIBUTING.md").read_text().split("core <- ")[1].split("```")[0]
    layers = [set(re.findall(r"\w+", layer)) for layer in ("core <- " + block).split("<-")]
    assert layers == LAYERS


def test_nothing_is_to_be_installed_from_an_index_that_does_not_have_it():
    sources = [p for x in ("alignax", "configs", "docs") for p in (ROOT / x).rglob("*.[pm][yd]")]
    for path in (*sources, ROOT / "README.md"):
        for name in re.findall(r"pip install '(alignax\[[^']*)'", path.read_text()):
            assert " @ " in name, f"{path}: {name}"


def test_what_a_comparison_costs_is_what_was_measured():
    words = (ROOT / "configs" / "compare_smollm2.py").read_text().split('"""')[1]
    measured = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    (minutes,) = re.findall(r"The start took (\d+ min)", measured)
    assert minutes in words
    first = re.findall(r"^    (\S.*)$", words, flags=re.MULTILINE)[0]
    assert first in section("Which method is better")


@pytest.mark.parametrize(
    ("status", "exported", "expected", "requeued"),
    [(0, True, 0, False), (0, False, 0, True), (2, False, 2, False), (2, True, 2, False)],
    ids=["finished", "saved and stopped", "failed", "failed after an export"],
)
def test_the_script_for_slurm_puts_back_what_has_only_saved(
    status, exported, expected, requeued, tmp_path
):
    (script,) = [x for x in code((ROOT / "docs/pods.md").read_text(), "") if "#SBATCH" in x]
    lines = [x for x in script.splitlines() if not x.startswith(("#", "RUN=", ". "))]
    assert len(lines) == 2
    made = f"mkdir -p {tmp_path}/run/export; " if exported else ""
    for name, does in {"srun": f"{made}exit {status}", "scontrol": 'echo "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "RUN": f"{tmp_path}/run",
             "SLURM_JOB_ID": "7"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == expected
    assert done.stdout == ("requeue 7\n" if requeued else "")


def test_python_in_the_readme_can_be_read():
    for text in code(README):
        ast.parse(text)
