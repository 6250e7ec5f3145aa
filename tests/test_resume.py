"""A run that was killed and resumed ends bit for bit where an unbroken one ends."""

import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 20
CONFIG = f"""
import os, pathlib
from alignax import Evaluation, Loop, Sampler
from tests.tiny_model import experiment as tiny

def experiment():
    return tiny(
        pathlib.Path(os.environ["TINY_FOLDER"]),
        loop=Loop(batch_size=8, max_steps={STEPS}, save_steps=3, eval_steps=7),
        evaluation=Evaluation(num_prompts=4, sampler=Sampler(max_new_tokens=8)),
        output_dir=os.environ["TINY_OUTPUT"],
    )
"""
# What is a function of config and seed alone.
FILES = ("metrics.jsonl", "trainer_state.json", "export/model.safetensors")


class Runs:
    """Processes that train by one config, each into a directory of its own."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        (folder / "config.py").write_text(CONFIG)

    def start(self, name: str) -> subprocess.Popen:
        environment = {
            **os.environ,
            "XLA_FLAGS": "",  # one device: a step is then short, and kills fall anywhere
            "PYTHONPATH": str(ROOT),
            "TINY_FOLDER": str(self.folder),
            "TINY_OUTPUT": str(self.folder / name),
        }
        command = [sys.executable, "-m", "alignax.cli", "train", str(self.folder / "config.py")]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def finish(self, name: str) -> str:
        process = self.start(name)
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
        return printed

    def stop_after(self, name: str, lines: int, how: int, delay: float = 0.0) -> tuple[int, str]:
        """Sends a signal once the log holds this many lines more than now."""
        wanted = self.lines(name) + lines
        process = self.start(name)
        while process.poll() is None and self.lines(name) < wanted:
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(how)
        printed, _ = process.communicate(timeout=300)
        return process.returncode, printed

    def lines(self, name: str) -> int:
        path = self.folder / name / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def digests(self, name: str) -> dict[str, str]:
        return {
            file: hashlib.sha256((self.folder / name / file).read_bytes()).hexdigest()
            for file in FILES
        }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = Runs(tmp_path_factory.mktemp("resume"))
    made.finish("unbroken")
    return made


def test_a_run_killed_at_random_moments_ends_like_an_unbroken_one(runs):
    seed = random.randrange(2**32)
    print(f"kills drawn with seed {seed}")
    draw = random.Random(seed)
    for _ in range(3):
        code, _ = runs.stop_after("killed", draw.randint(1, 6), signal.SIGKILL, draw.random() / 5)
        assert code in (-signal.SIGKILL, 0)
    runs.finish("killed")
    assert runs.digests("killed") == runs.digests("unbroken")


def test_a_run_asked_to_stop_saves_says_so_and_ends_like_an_unbroken_one(runs):
    code, printed = runs.stop_after("asked", 5, signal.SIGTERM)
    assert code == 0, printed
    assert "SIGTERM: saved step" in printed
    assert "resumed from step" in runs.finish("asked")
    assert runs.digests("asked") == runs.digests("unbroken")


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_named(runs):
    runs.stop_after("damaged", 10, signal.SIGTERM)
    found = sorted(
        (runs.folder / "damaged").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1])
    )
    assert len(found) == 2
    largest = max((p for p in found[-1].rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1  # one bit, in the middle of the arrays
    largest.write_bytes(content)
    printed = runs.finish("damaged").replace("\n", "")  # the terminal breaks lines anywhere
    assert f"passed over {found[-1].name}".split()[-1] in printed
    assert f"resumed from step {found[0].name.split('-')[1]}" in printed
    assert runs.digests("damaged") == runs.digests("unbroken")
