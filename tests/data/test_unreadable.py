"""Files that the file system does not give: said in words, wherever they are opened."""

import json
import os
import pathlib

import pytest

from alignax.core.errors import BadInput
from alignax.core.records import Preference
from alignax.data import templates
from alignax.data.sources import content_hash, load_records, read_rows
from tests.tiny import chatml_tokenizer

ROW = {"prompt": "p", "chosen": "a", "rejected": "b"}
REMEDY = "Check its name, and that you may read it and the folders above it."
DENIED = f"got Permission denied.\n    {REMEDY}"


@pytest.fixture
def locked(monkeypatch):
    """Files below a folder `locked` cannot be read, nor looked at in `shut`, whoever runs this."""

    def refusing(name, real):
        def call(path, *arguments, **options):
            shut = pathlib.Path(path).parent.name
            if shut == "shut" or (shut == "locked" and name != "stat"):
                raise PermissionError(13, os.strerror(13), str(path))
            return real(path, *arguments, **options)

        return call

    for name in ("stat", "open", "read_bytes", "read_text"):
        monkeypatch.setattr(pathlib.Path, name, refusing(name, getattr(pathlib.Path, name)))


def rows(folder, name):
    folder.mkdir(exist_ok=True)
    text = json.dumps([ROW]) if name.endswith(".json") else json.dumps(ROW) + "\n"
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
@pytest.mark.parametrize("folder", ["locked", "shut"])
def test_a_file_that_may_not_be_read_is_named_with_what_to_do(name, folder, tmp_path, request):
    source = rows(tmp_path / folder, name)
    request.getfixturevalue("locked")
    for work in (lambda: list(read_rows(source)), lambda: content_hash(source)):
        with pytest.raises(BadInput) as refused:
            work()
        assert str(refused.value).endswith(f"{name}: expected a file that can be read; {DENIED}")


def test_a_file_that_breaks_off_as_it_is_read_is_told_at_its_line(tmp_path, monkeypatch):
    source = rows(tmp_path, "x.jsonl")

    class Broken:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def readline(self, _):
            raise OSError(5, os.strerror(5))

    monkeypatch.setattr(pathlib.Path, "open", lambda *_: Broken())
    with pytest.raises(BadInput) as refused:
        load_records(source, Preference)
    assert str(refused.value) == (
        "x.jsonl:1: expected a file that can be read; got Input/output error.\n"
        "    Copy or download the file again."
    )


def test_the_home_of_no_user_and_a_name_that_is_too_long_hold_no_data():
    with pytest.raises(BadInput) as refused:
        load_records("~nosuchuser/x.jsonl", Preference)
    assert str(refused.value) == (
        "~nosuchuser/x.jsonl: expected a file that can be read; got Could not determine home "
        f"directory.\n    {REMEDY}"
    )
    with pytest.raises(BadInput, match="got File name too long"):
        load_records("x" * 300 + ".jsonl", Preference)


def test_a_chat_template_is_no_file_where_its_name_cannot_be_one(tmp_path, request):
    for value in ("y" * 300, "~nosuchuser/x.jinja"):
        with pytest.raises(BadInput, match="which is no name and no file"):
            templates.choose(value, chatml_tokenizer(), "data.chat_template")
    (tmp_path / "shut").mkdir()
    (tmp_path / "shut" / "x.jinja").write_text("{{ messages }}")
    request.getfixturevalue("locked")
    with pytest.raises(BadInput, match="a file with a chat template; got Permission denied"):
        templates.choose(str(tmp_path / "shut" / "x.jinja"), chatml_tokenizer(), "x")


def test_an_object_a_line_under_the_name_of_a_list_is_told_its_own_name(tmp_path):
    (tmp_path / "x.json").write_text(f"{json.dumps(ROW)}\n\n{json.dumps(ROW)}\n")
    with pytest.raises(BadInput) as refused:
        load_records(str(tmp_path / "x.json"), Preference)
    assert str(refused.value) == (
        "x.json:3: expected a list of objects; got an object a line.\n    Name the file .jsonl."
    )
    (tmp_path / "x.json").write_text('[{"a": 1}]\n]')
    with pytest.raises(BadInput, match=r"x.json:2: .* got broken JSON at column 1 \(Extra data\)"):
        load_records(str(tmp_path / "x.json"), Preference)
