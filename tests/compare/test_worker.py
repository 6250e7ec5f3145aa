"""What a cell finds in its folder: its own run goes on, and another's is cleared away."""

import pytest

from alignax.compare.worker import begin


@pytest.fixture
def folder(tmp_path):
    begin(tmp_path / "cells" / "proxy", "settings a")
    made = tmp_path / "cells" / "proxy"
    (made / "checkpoint-2").mkdir()
    (made / "checkpoint-2" / "record").write_text("by a")
    (made / "result.json").write_text("{}")
    return made


def test_a_run_by_the_same_settings_finds_its_checkpoints(folder):
    begin(folder, "settings a")
    assert (folder / "checkpoint-2" / "record").read_text() == "by a"


@pytest.mark.parametrize("told", ["settings a", None])
def test_a_run_by_other_settings_finds_nothing(folder, told):
    if told is None:  # by a version that did not say what it was
        (folder / "fingerprint").unlink()
    begin(folder, "settings b")
    assert [path.name for path in folder.iterdir()] == ["fingerprint"]
    assert (folder / "fingerprint").read_text() == "settings b"
