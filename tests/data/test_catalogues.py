"""What names after `hf:` mean, and what the package `datasets` says when it cannot read them."""

import sys
import types

import pytest

from alignax.core.errors import BadInput
from alignax.data.sources import content_hash, read_rows


class Generation(Exception):
    """As DatasetGenerationError: of no family, and without the cause in its words."""


@pytest.fixture
def asked(monkeypatch):
    """The names that `datasets` is asked for; it raises what is appended as an error."""
    names = []

    def load_dataset(*given, split):
        if names and isinstance(names[-1], Exception):
            raise names[-1]
        names.append(given)
        return [{"prompt": split}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return names


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("owner/name", ("owner/name",)),
        ("owner/name/a config", ("owner/name", "a config")),
        ("name", ("name",)),
    ],
)
def test_a_name_of_the_hub_is_owner_and_name_and_a_configuration(name, given, asked):
    assert list(read_rows(f"hf:{name}")) == [({"prompt": "train"}, f"hf:{name}:1")]
    assert asked == [given]


def test_a_folder_is_given_to_datasets_whole(asked, tmp_path, monkeypatch):
    folder = tmp_path / "a" / "b" / "c" / "d"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (str(folder), "./a/b/c", "a/b/c/d", "~/a"):
        ((_, origin),) = read_rows(f"hf:{name}")
        assert origin == f"hf:{name}:1"
    assert asked == [(str(folder),), ("a/b/c",), ("a/b/c/d",), (str(tmp_path / "a"),)]


@pytest.mark.parametrize(
    "name",
    ["/no/such", "./x/y/z", "../x", "~nosuchuser/x", "a/b/c/d", "a b/c", "", "x" * 300 + "?"],
)
def test_what_is_neither_a_name_nor_a_folder_is_refused(name, asked):
    for work in (lambda: list(read_rows(f"hf:{name}")), lambda: content_hash(f"hf:{name}")):
        with pytest.raises(BadInput) as refused:
            work()
        assert str(refused.value) == (
            f"hf:{name}: expected hf:owner/name, hf:owner/name/config, or hf: and a folder that is "
            f"here; got {name or 'no name'}.\n    Check the name, or the path."
        )
    assert not asked


def test_a_folder_that_datasets_loads_otherwise_is_told_how_to_become_parquet(asked, tmp_path):
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(BadInput, match=r'load_from_disk\(".*"\)\.to_parquet\("train.parquet"\)'):
        list(read_rows(f"hf:{tmp_path}"))
    assert not asked


def chained(error, *causes):
    error.__cause__ = chained(*causes) if causes else None
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError("Dataset scripts are no longer supported, but found x.py"),
            "Dataset scripts are no longer supported, but found x.py",
        ),
        (
            chained(Generation("An error occurred."), ValueError("JSON parse error:\nrow 1")),
            "Generation: An error occurred: JSON parse error",
        ),
        (KeyError("label"), "KeyError: 'label'"),
        (OSError(), "OSError"),
        (ValueError("word " * 1000), " ".join(["word"] * 39) + " [...]"),
    ],
)
def test_whatever_datasets_raises_is_told_with_its_cause(error, told, asked):
    asked.append(error)
    with pytest.raises(BadInput) as refused:
        list(read_rows("hf:owner/name"))
    assert str(refused.value) == (
        "hf:owner/name: expected a data set of the hub with the split train; got "
        f"{told}.\n    Check name and split; hf:owner/name/config names a configuration."
    )
    assert refused.value.__cause__ is error
