"""A misspelt setting in a config file: its line, the settings that there are, and the nearest."""

import json
import os
import pathlib
import subprocess
import sys

IMPORTS = (
    "from alignax import Function, Rewards, Rollout\n"
    "from alignax.generate.reward_models import Model\n\n\n"
)
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
    # Two classes have this name; nothing of the other is like what was written.
    "Model(directry='x')": (
        "expected a setting of Model: directory, batch_size, template, ",
        "; got directry.\n    Did you mean directory?",
    ),
}
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


def test_a_misspelt_setting_is_told_whatever_class_it_is_of(tmp_path):
    """In a process of its own: the checks of these tests would see the misspelling first."""
    paths = [tmp_path / f"{i}.py" for i in range(len(CASES))]
    for path, made in zip(paths, CASES, strict=True):
        path.write_text(f"{IMPORTS}def experiment():\n    return {made}\n")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, paths)],
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    for path, (begins, ends), message in zip(paths, CASES.values(), found, strict=True):
        assert message.startswith(f"{path}:6: {begins}")
        assert message.endswith(ends)
