"""Nothing that this library reads is ever unpickled, evaluated or imported, a config apart."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / "alignax").rglob("*.py"))
# Each of them makes objects of any class, or runs what it is given.
MODULES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch", "yaml"}
CALLS = {"eval", "exec", "__import__", "exec_module", "run_path", "run_module"}
# An experiment's config is a Python file by design, as is a file of rewards: both are the user's.
RUN = {"alignax/core/modules.py": {"exec_module"}}


def unsafe(path: pathlib.Path) -> list[str]:
    """What a source file does that could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            found += [name] if name in CALLS else []
            asked = {word.arg: word.value for word in node.keywords}
            found += [name for name in ("allow_pickle", "trust_remote_code", "weights_only")
                      if name in asked and getattr(asked[name], "value", True)]  # fmt: skip
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_file_unpickles_and_evaluates_nothing(path):
    assert set(unsafe(path)) <= RUN.get(str(path.relative_to(ROOT)), set())


def test_what_would_be_found_is_found(tmp_path):
    """Guards the test above."""
    (tmp_path / "bad.py").write_text(
        "import pickle\nfrom torch import load\nx = eval('1')\nnp.load(f, allow_pickle=True)\n"
        "AutoTokenizer.from_pretrained(d, trust_remote_code=True)\nnp.load(f, allow_pickle=False)\n"
    )
    wanted = ["pickle", "torch", "eval", "allow_pickle", "trust_remote_code"]
    assert sorted(unsafe(tmp_path / "bad.py")) == sorted(wanted)


WATCHED = """
import pathlib, sys
from alignax import jobs
from alignax.config import Evaluation
from alignax.train.loop import Loop
from tests.tiny_model import experiment

found = []
sys.addaudithook(lambda event, what: found.append(what) if event == "pickle.find_class" else None)
made = experiment(
    pathlib.Path(sys.argv[1]), loop=Loop(batch_size=8, max_steps=2), tensorboard=False,
    evaluation=Evaluation(num_prompts=0),
)
for _ in range(2):  # the second one reads data, reference and checkpoint from disk
    jobs.train(made, quiet=True)
assert (pathlib.Path(made.output_dir) / "export").is_dir()
print("unpickled:", found)
"""


def test_a_run_and_its_resumption_unpickle_no_class_in_any_library(tmp_path):
    """Python itself reports every class that it looks up for a pickle: TFDS's, Orbax's, Grain's."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "unpickled: []\n"
