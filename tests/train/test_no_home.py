"""A user without a home folder, as a container's number that no user has."""

import logging
import pathlib

import jax

from alignax.train import compilations


def test_without_a_home_nothing_is_kept_and_the_log_says_so_once(monkeypatch, caplog):
    def home():
        raise RuntimeError("Could not determine home directory.")

    given = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pathlib.Path, "home", home)
    try:
        with caplog.at_level(logging.WARNING, "alignax"):
            compilations.keep_on_disk()
        assert jax.config.jax_compilation_cache_dir is None
        (record,) = caplog.records
        assert record.getMessage() == (
            "compiled programs are not kept: the user has no home folder (HOME is not set). "
            "XDG_CACHE_HOME names another."
        )
        monkeypatch.setenv("XDG_CACHE_HOME", "/there")
        compilations.keep_on_disk()
        assert jax.config.jax_compilation_cache_dir == "/there/alignax/jax"
    finally:
        jax.config.update("jax_compilation_cache_dir", given)
