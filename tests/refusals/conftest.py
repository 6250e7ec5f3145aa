"""A run that would succeed, for each test to spoil."""

import pytest

from tests.refusals.runs import forbid_weights, make_ready
from tests.tiny_model import model_directory


@pytest.fixture(scope="package")
def model(tmp_path_factory):
    """A good model directory, to be copied."""
    return model_directory(tmp_path_factory.mktemp("good") / "model")


@pytest.fixture
def folder(tmp_path, model):
    return make_ready(tmp_path, model)


@pytest.fixture
def no_weights(monkeypatch):
    forbid_weights(monkeypatch)
