"""A mistake in a config file: its line, what was expected, and the nearest that there is."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

IMPORTS = (
    "from alignax import Function, Match, ModelReward, Optim, Rewards, Rollout\n"
    "from alignax import Model\n\n\n"
)
# By what the config returns, which stands on its line 6.
CASES = {
    "Rollout(rewards=None, max_tokens=3)": (
        "expected a setting of Rollout: rewards, max_new_tokens, num_samples, ",
        "; got max_tokens.\n    Did you mean max_new_tokens?",
    ),
    "Rewards(part=())": (
        "expected a setting of Rewards: parts, weights, on_bad; got part.\n    Did you mean parts?",
        "",
    ),
    "Function(functoin='x')": (
        "expected a setting of Function: function; got functoin.\n    Did you mean function?",
        "",
    ),
    "ModelReward(directry='x')": (
        "expected a setting of ModelReward: directory, batch_size, template, ",
        "; got directry.\n    Did you mean directory?",
    ),
    "Function()": (
        "expected all settings of Function that have no default; got no function.\n    "
        "Write Function(..., function=VALUE).",
        "",
    ),
    "Optim(0.1, warmup_steps=2)": (
        "expected settings of Optim by name: learning_rate, ",
        "; got 1 without a name.\n    Write Optim(learning_rate=...).",
    ),
    "Optim(0.1)": (
        "expected settings of Optim by name: learning_rate, ",
        "; got 1 without a name.\n    Write Optim(learning_rate=...).",
    ),
    "Zzz()": (
        "expected names that the file defines or imports; got Zzz.\n    Define or import it.",
        "",
    ),
    "Experimnt()": (
        "expected names that the file defines or imports; got Experimnt.\n    from alignax import "
        "Experiment",
        "",
    ),
    "__import__('alingax')": (
        "expected modules that can be imported; got No module named 'alingax'.\n    Did you mean "
        "alignax?",
        "",
    ),
}
WRONG_IMPORT = "from alignax import (\n    DPOO,\n    Experiment,\n)\n"
LOAD = """
import sys
from alignax.config import load
from alignax.core.errors import BadInput
import json
found = []
for path in sys.argv[1:]:
    try:
        load(path)
    except BadInput as error:
        found.append(str(error))
print(json.dumps(found))
"""


def told(paths, folder):
    """In a process of its own: the checks of these tests would see the mistakes first."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, paths)],
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_a_mistake_is_told_at_its_line_however_the_file_is_named(relative, tmp_path):
    (tmp_path / "mine").mkdir()
    paths = [tmp_path / "mine" / f"{i}.py" for i in range(len(CASES))]
    for path, made in zip(paths, CASES, strict=True):
        path.write_text(f"{IMPORTS}def experiment():\n    return {made}\n")
    wrong_import = tmp_path / "mine" / "wrong_import.py"
    wrong_import.write_text(WRONG_IMPORT)
    given = [*paths, wrong_import]
    given = [path.relative_to(tmp_path) for path in given] if relative else given
    *messages, last = told(given, tmp_path)
    for path, (begins, ends), message in zip(given, CASES.values(), messages, strict=False):
        assert message.startswith(f"{path}:6: {begins}")
        assert message.endswith(ends)
    assert last == (
        f"{given[-1]}:1: expected a name that alignax has; got DPOO.\n    Did you mean DPO?"
    )


def test_of_two_classes_of_a_name_the_one_that_lacks_the_setting_is_told(tmp_path):
    """And not that which has it, as if its own setting were misspelt."""
    (tmp_path / "a.py").write_text(
        "import dataclasses\nfrom alignax import Match as Other\n\n\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\n"
        "class Match(Other.__base__):\n    word: str\n    __call__ = len\n\n\n"
        "def experiment():\n    return Match(pattern='x')\n"
    )
    assert told(["a.py"], tmp_path) == [
        "a.py:12: expected a setting of Match: word; got pattern.\n    Rename or remove it."
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("return missing", "expected names that the file defines or imports; got missing."),
        ("from alignax import DPO; return DPO(btea=1)", "expected a setting of DPO: "),
        ("import no_such_module", "expected modules that can be imported; got "),
    ],
)
def test_a_mistake_in_a_file_beside_it_is_told_at_that_files_line(line, expected, tmp_path):
    """No line of the config itself can be mended."""
    beside = tmp_path / "beside.py"
    beside.write_text(f"def f():\n    {line}\n")
    (tmp_path / "a.py").write_text("import beside\n\n\ndef experiment():\n    beside.f()\n")
    (message,) = told(["a.py"], tmp_path)
    assert message.startswith(f"{beside}:2: {expected}")


def test_a_mistake_of_a_library_keeps_its_trace(tmp_path):
    """It is nobody's here: no line of the config can be mended."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "__init__.py").write_text("def f():\n    return missing\n")
    (tmp_path / "a.py").write_text("import library\n\n\ndef experiment():\n    library.f()\n")
    with pytest.raises(AssertionError, match="NameError: name 'missing' is not defined"):
        told(["a.py"], tmp_path)
