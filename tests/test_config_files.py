"""A config file: loaded, or refused with what is wrong in it."""

import textwrap

import pytest

from alignax.config import Data, Experiment, Model, configs_directory, load
from alignax.core.errors import BadInput
from alignax.methods import SFT


def refusal(function, *arguments) -> str:
    with pytest.raises(BadInput) as error:
        function(*arguments)
    return str(error.value)


def write(folder, text):
    path = folder / "tiny.py"
    path.write_text(textwrap.dedent(text))
    return path


GOOD = """
    import dataclasses
    from alignax.config import Data, Experiment, Model
    from alignax.methods import SFT

    @dataclasses.dataclass(frozen=True)
    class Own:
        size: "int" = 3

    def experiment():
        return Experiment(method=SFT(), model=Model(model_name_or_path="m"),
                          data=Data(train="t"), output_dir="o", seed=Own().size)
"""


def test_a_config_is_a_function_that_returns_an_experiment(tmp_path):
    expected = Experiment(
        method=SFT(),
        model=Model(model_name_or_path="m"),
        data=Data(train="t"),
        output_dir="o",
        seed=3,
    )
    path = write(tmp_path, GOOD)
    assert load(path) == load(str(path)) == expected


def test_a_config_that_is_not_there_is_answered_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, GOOD)
    assert refusal(load, tmp_path / "tinny.py") == (
        f"{tmp_path}/tinny.py: expected a Python config file; got no such file.\n"
        f"    Did you mean {tmp_path}/tiny.py?"
    )
    assert refusal(load, tmp_path / "other.py") == (
        f"{tmp_path}/other.py: expected a Python config file; got no such file.\n"
        f"    Those in {configs_directory()} are examples; alignax methods lists what --method "
        "takes in place of one."
    )
    ours = configs_directory() / "quickstart.py"
    assert f"Did you mean {ours}?" in refusal(load, tmp_path / "quickstrat.py")
    assert refusal(load, tmp_path).startswith(f"{tmp_path}: expected a Python config file; ")


@pytest.mark.parametrize(
    ("text", "expected", "got"),
    [
        ("x = 1", "a function experiment() that returns an Experiment", "none"),
        ("experiment = 1", "a function experiment() that returns an Experiment", "none"),
        ("def experiment(): pass", "experiment() to return an Experiment", "NoneType"),
        ("def experiment(): return {}", "experiment() to return an Experiment", "dict"),
    ],
)
def test_a_config_without_an_experiment_is_refused(text, expected, got, tmp_path):
    path = write(tmp_path, text)
    assert refusal(load, path) == (
        f"{path}: expected {expected}; got {got}.\n    configs/quickstart.py shows one."
    )


def test_an_error_of_the_configs_own_code_is_left_as_it_is(tmp_path):
    path = write(tmp_path, "def experiment(): return [][1]")
    with pytest.raises(IndexError):
        load(path)
