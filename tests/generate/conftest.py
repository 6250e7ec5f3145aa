"""Servers of these tests are on this machine: no proxy, and no key of whoever runs them."""

import pytest


@pytest.fixture(autouse=True)
def _plain_network(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
