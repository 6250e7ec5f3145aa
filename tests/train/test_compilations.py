"""Programs are counted by name, and the command line keeps them on disk."""

import json
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp

from alignax.train import compilations
from alignax.train.compilations import Compilations


def test_a_program_is_counted_once_for_each_shape_and_not_when_it_is_met_again():
    def halved(x):
        return x / 2

    halve = jax.jit(halved)
    with Compilations() as compiled:
        for size in (2, 3, 2, 3):
            halve(jnp.zeros(size))
    halve(jnp.zeros(4))  # outside: not counted
    assert compiled.programs["halved"] == 2
    assert compiled.seconds["halved"] > 0.0


def test_a_lap_tells_what_was_compiled_since_the_one_before():
    with Compilations() as compiled:
        jax.jit(lambda x: x + 1)(jnp.zeros(5))
        first, second = compiled.lap(), compiled.lap()
    assert first["programs_compiled"] >= 1
    assert first["seconds_compiling"] > 0.0
    assert second == {"programs_compiled": 0, "seconds_compiling": 0.0}


def test_what_was_compiled_is_told_in_one_line():
    compiled = Compilations()
    compiled.programs.update({"update": 1, "logprobs": 2, "add": 3})
    compiled.seconds.update({"logprobs": 2.0, "update": 38.25, "add": 0.01})
    compiled.found = 2
    assert str(compiled) == (
        "6 programs in 40.3 s (2 found on disk): update 38.2 s, logprobs 2.0 s for 2"
    )


def test_memory_is_given_back_after_what_took_long_to_compile(monkeypatch):
    given = []
    monkeypatch.setattr(compilations, "give_back", lambda: given.append(1))
    with Compilations():
        monkeypatch.setattr(compilations, "FREES_SECONDS", 1e6)
        jax.jit(lambda x: x + 2)(jnp.zeros(6))
        assert not given
        monkeypatch.setattr(compilations, "FREES_SECONDS", 0.0)
        halve = jax.jit(lambda x: x / 3)
        halve(jnp.zeros(6))
        assert given
        count = len(given)
        halve(jnp.zeros(6))  # compiled already
        assert len(given) == count
    jax.jit(lambda x: x / 5)(jnp.zeros(6))  # outside: the process is its owner's
    assert len(given) == count


PROGRAM = """
import json
{prepare}
import jax, jax.numpy as jnp
from alignax.train.compilations import Compilations
with Compilations() as compiled:
    jax.jit(lambda x: 2 * x)(jnp.ones(8))
print(json.dumps([compiled.programs["<lambda>"], compiled.found > 0]))
"""
LIBRARY = "import alignax.train.compilations"
COMMAND = """
from alignax import cli, commands
commands.COMMANDS["show"] = lambda *_: None  # only what comes before a command
cli.main(["show", "config.py"])
"""


def in_a_process(prepare: str, home, **variables: str) -> list:
    """How many programs a process has compiled, and whether any was found on disk."""
    environment = {name: x for name, x in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {
        "XDG_CACHE_HOME": str(home),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # or so small a program is not kept
        **variables,
    }
    script = PROGRAM.format(prepare=prepare)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_command_finds_on_disk_what_an_earlier_one_compiled(tmp_path):
    assert in_a_process(COMMAND, tmp_path) == [1, False]
    assert any((tmp_path / "alignax" / "jax").iterdir())
    assert in_a_process(COMMAND, tmp_path) == [1, True]
    # Keeping is turned off by JAX's own variable.
    assert in_a_process(COMMAND, tmp_path, JAX_ENABLE_COMPILATION_CACHE="0") == [1, False]


def test_a_folder_given_to_jax_stands(tmp_path):
    given = tmp_path / "given"
    in_a_process(COMMAND, tmp_path / "home", JAX_COMPILATION_CACHE_DIR=str(given))
    assert any(given.iterdir())
    assert not (tmp_path / "home").exists()


def test_the_library_keeps_nothing(tmp_path):
    in_a_process(LIBRARY, tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_updates_on_gpus_are_compiled_for_the_same_bits_each_time(monkeypatch):
    monkeypatch.setattr(compilations, "device_kind", lambda: "NVIDIA H100 80GB HBM3")
    options = compilations.update_options(traced=True)
    assert options is not None
    assert options["xla_gpu_exclude_nondeterministic_ops"] is True
    # This XLA knows the names, whatever the device.
    assert jax.jit(lambda x: x + 1, compiler_options=options)(jnp.ones(2)).sum() == 4.0
    assert compilations.update_options(same=False) == {}
    later = types.SimpleNamespace(compute_capability="10.0")
    monkeypatch.setattr(jax, "local_devices", lambda: [later])
    assert compilations.update_options() == {}


def test_updates_on_cpus_ask_for_no_option_that_xla_does_not_know(monkeypatch):
    assert compilations.update_options() == {compilations.LOOK_AT_REGIONS: True}
    monkeypatch.setattr(compilations, "LOOK_AT_REGIONS", "xla_cpu_an_option_that_is_gone")
    assert compilations.update_options() is None


def test_updates_on_tpus_have_no_options(monkeypatch):
    monkeypatch.setattr(compilations, "device_kind", lambda: "TPU v5 lite")
    assert compilations.update_options() is None
