"""Where programs run and in which numbers: what `--platform` and `--dtype` mean to a process.

In bfloat16 parameters and optimiser stay float32, and products are bfloat16. Tunix alone keeps its
parameters in the dtype: it knows no other way.
"""

import argparse
import os
import subprocess
import sys

from benchmarks.peers import ENVIRONMENTS, Platform

JAX_NAMES: dict[Platform, str] = {"cpu": "cpu", "gpu": "cuda"}


def settle(options: argparse.Namespace) -> None:
    """Completes options that have a platform: the device's name, and where environments are.

    Raises:
        SystemExit: no GPU is here, and one is asked for.
    """
    if "platform" not in options:
        return
    if getattr(options, "environments", ...) is None:
        options.environments = ENVIRONMENTS[options.platform]
    if options.command != "environments":  # those may be made anywhere
        options.device = gpu() if options.platform == "gpu" else ""


def gpu() -> str:
    """What JAX calls the first GPU; asked in a process of its own, which gives it back.

    Raises:
        SystemExit: there is none, or this JAX cannot use it.
    """
    command = [sys.executable, "-c", "import jax; print(jax.devices('cuda')[0].device_kind)"]
    env = {**os.environ, "JAX_PLATFORMS": ""}  # JAX finds what is there
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        sys.exit(
            "expected a GPU for --platform gpu; no GPU is here, or alignax[cuda] is not installed "
            f"(JAX says: {said}); leave --platform out to run on the CPU"
        )
    return done.stdout.strip().splitlines()[-1]


def surroundings(platform: Platform, dtype: str) -> dict[str, str]:
    """The environment variables that every program of a platform gets."""
    env = {"JAX_PLATFORMS": JAX_NAMES[platform]}
    if platform == "cpu":
        return env | {"CUDA_VISIBLE_DEVICES": ""}
    env["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.95"  # a process has the GPU for itself
    if dtype == "float32":  # where JAX's default is TF32, and PyTorch's is not
        env["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    return env
