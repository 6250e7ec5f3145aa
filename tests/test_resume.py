"""A run that was killed and resumed ends bit for bit where an unbroken one ends."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

from tests.run_files import arrays, lines

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 20
# Three steps are an epoch, so that most checkpoints are from the middle of one.
CONFIG = f"""
import os, pathlib
from alignax import Evaluation, Loop, Sampler
from tests.tiny_model import experiment as tiny

def experiment():
    return tiny(
        pathlib.Path(os.environ["TINY_FOLDER"]),
        loop=Loop(batch_size=8, max_steps={STEPS}, save_steps=4, eval_steps=7, keep=3),
        evaluation=Evaluation(num_prompts=4, sampler=Sampler(max_new_tokens=8)),
        output_dir=os.environ["TINY_OUTPUT"],
    )
"""
# What is a function of config and seed alone.
FILES = ("metrics.jsonl", "trainer_state.json", "export/model.safetensors",
         "samples-0.jsonl", f"samples-{STEPS}.jsonl")  # fmt: skip


class Runs:
    """Processes that train by one config, each into a directory of its own."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        (folder / "config.py").write_text(CONFIG)

    def start(self, name: str, *, doomed: bool = False) -> subprocess.Popen:
        environment = {
            **os.environ,
            "XLA_FLAGS": "",  # one device: a step is then short, and kills fall anywhere
            "PYTHONPATH": str(ROOT),
            "TINY_FOLDER": str(self.folder),
            "TINY_OUTPUT": str(self.folder / name),
            "COLUMNS": "400",  # so that no line that is looked for is broken
        }
        if doomed:  # it reads the cache of compiled programs, and leaves no half of one there
            environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1e9"
        command = [sys.executable, "-m", "alignax.cli", "train", str(self.folder / "config.py")]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def finish(self, name: str) -> str:
        process = self.start(name)
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
        return printed

    def stop(
        self, name: str, how: int, when: Callable[[], bool], delay: float = 0.0
    ) -> tuple[int, str]:
        """Sends a signal once `when()` holds, looked for again and again, and after a delay."""
        process = self.start(name, doomed=True)
        while process.poll() is None and not when():
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(how)
        printed, _ = process.communicate(timeout=300)
        return process.returncode, printed

    def logged(self, name: str) -> int:
        """Lines in the log."""
        path = self.folder / name / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def more(self, name: str, count: int) -> Callable[[], bool]:
        """Whether the log holds so many lines more than now."""
        wanted = self.logged(name) + count
        return lambda: self.logged(name) >= wanted

    def assert_ended_like_the_unbroken_one(self, name: str) -> None:
        ended, unbroken = self.folder / name, self.folder / "unbroken"
        for file in FILES:
            assert (ended / file).read_bytes() == (unbroken / file).read_bytes(), file
        # The clocks differ; that every step has one line does not.
        steps = [[line["step"] for line in lines(x / "timings.jsonl")] for x in (ended, unbroken)]
        assert steps[0] == steps[1] == list(range(1, STEPS + 1))
        one, two = (arrays(x / f"checkpoint-{STEPS}") for x in (ended, unbroken))
        assert one.keys() == two.keys()
        for array in one:  # the optimiser's too
            np.testing.assert_array_equal(one[array], two[array], strict=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = Runs(tmp_path_factory.mktemp("resume"))
    made.finish("unbroken")
    return made


def copy_without_the_end(runs: Runs, name: str) -> pathlib.Path:
    """The unbroken run as it would be, had it been killed after its last save."""
    folder = runs.folder / name
    shutil.copytree(runs.folder / "unbroken", folder)
    shutil.rmtree(folder / "export")
    (folder / f"samples-{STEPS}.jsonl").unlink()
    return folder


def test_a_run_killed_at_random_moments_ends_like_an_unbroken_one(runs):
    seed = random.randrange(2**32)
    print(f"kills drawn with seed {seed}")
    draw = random.Random(seed)
    output = runs.folder / "killed"
    shutil.rmtree(runs.folder / "cache")  # it prepares the data and asks the reference itself
    for number in range(3):
        if number == 0:  # somewhere between the first file and the first update
            when, delay = output.is_dir, draw.random() * 3
        else:  # in any step, at any place of it
            when, delay = runs.more("killed", draw.randint(1, 6)), draw.random() / 5
        code, _ = runs.stop("killed", signal.SIGKILL, when, delay)
        assert code in (-signal.SIGKILL, 0)
        print(f"killed with {runs.logged('killed')} lines in the log")
    runs.finish("killed")
    runs.assert_ended_like_the_unbroken_one("killed")


def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(runs):
    output = runs.folder / "saving"

    def saving() -> bool:
        return (output / "checkpoint-4").is_dir() and any(output.glob("checkpoint-8.partial*"))

    for _ in range(5):  # the save may end in the instant between the look and the kill
        shutil.rmtree(output, ignore_errors=True)
        code, _ = runs.stop("saving", signal.SIGKILL, saving)
        if any(output.glob("checkpoint-8.partial*")):
            break
    assert code == -signal.SIGKILL
    assert not (output / "checkpoint-8").exists()
    printed = runs.finish("saving")
    assert f"{output}/checkpoint-8.partial" in printed
    assert "it was cut short while it was being saved" in printed
    assert f"resumed from step 4 of {STEPS}" in printed
    assert not list(output.glob("*.partial*"))
    runs.assert_ended_like_the_unbroken_one("saving")


def test_a_run_killed_while_it_evaluates_evaluates_again(runs):
    output = runs.folder / "evaluating"

    def evaluating() -> bool:
        """Between the line of update 7 and the line of the evaluation after it."""
        return runs.logged("evaluating") == 8

    for _ in range(5):  # and so may the evaluation
        shutil.rmtree(output, ignore_errors=True)
        code, _ = runs.stop("evaluating", signal.SIGKILL, evaluating)
        if runs.logged("evaluating") == 8:
            break
    assert code == -signal.SIGKILL
    last = lines(output / "metrics.jsonl")[-1]
    assert last["step"] == 7
    assert "eval_loss" not in last
    saved = (output / "checkpoint-4").is_dir()  # written beside the updates 5, 6, 7, at leisure
    assert (f"resumed from step 4 of {STEPS}" in runs.finish("evaluating")) == saved
    runs.assert_ended_like_the_unbroken_one("evaluating")


def test_a_run_killed_between_its_last_save_and_its_export_exports(runs):
    output = copy_without_the_end(runs, "unexported")
    shutil.copy(runs.folder / "unbroken" / f"samples-{STEPS}.jsonl", output)
    assert f"finished already, all {STEPS} steps" in runs.finish("unexported")
    runs.assert_ended_like_the_unbroken_one("unexported")


def test_a_run_asked_to_stop_saves_says_so_and_ends_like_an_unbroken_one(runs):
    code, printed = runs.stop("asked", signal.SIGTERM, runs.more("asked", 5))
    assert code == 0, printed
    assert "SIGTERM: saved step" in printed
    step = int(printed.split("SIGTERM: saved step ")[1].split()[0])
    assert (runs.folder / "asked" / f"checkpoint-{step}").is_dir()
    assert not (runs.folder / "asked" / "export").exists()
    assert f"resumed from step {step} of {STEPS}" in runs.finish("asked")
    runs.assert_ended_like_the_unbroken_one("asked")


def flip(file: pathlib.Path) -> None:
    """One bit, in the middle of the file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: pathlib.Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def largest(checkpoint: pathlib.Path) -> pathlib.Path:
    """The file that holds arrays."""
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


# The checkpoints are those of steps 20, 16 and 12: what is done to the first ones.
DAMAGE = {
    "a flipped bit": ([(20, flip, "has changed since it was written")], 16),
    "a lost and a shortened file": (
        [(20, pathlib.Path.unlink, "is missing"), (16, truncate, "bytes instead of")],
        12,
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_checkpoints_are_passed_over_for_the_one_before_and_named(runs, kind):
    damages, whole = DAMAGE[kind]
    output = copy_without_the_end(runs, kind)
    expected = []
    for step, spoil, reason in damages:
        checkpoint = output / f"checkpoint-{step}"
        file = largest(checkpoint)
        spoil(file)
        expected.append((f"passed over {checkpoint}: {file.relative_to(checkpoint)} ", reason))
    printed = runs.finish(kind)
    told = [line for line in printed.splitlines() if line.startswith("passed over ")]
    for line, (beginning, reason) in zip(told, expected, strict=True):
        assert line.startswith(beginning)
        assert reason in line
    assert f"resumed from step {whole} of {STEPS}" in printed
    runs.assert_ended_like_the_unbroken_one(kind)
