"""A user's own class is known by its file and that file's neighbours, or by its cells."""

import dataclasses
import linecache
import sys
import types

import pytest

from alignax.core import modules, own_code
from alignax.core.method import Method
from alignax.methods import DPO

CLASS = """
import dataclasses
from alignax import Method
from mine_helpers import order

@dataclasses.dataclass(frozen=True)
class Mine(Method):
    def needs(self): ...
    def group(self, record): return order(record)
    def loss(self, outputs, batch): ...

def experiment():
    return "runs/a"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(CLASS)
    (tmp_path / "mine_helpers.py").write_text("def order(x): return x\n")
    (tmp_path / "unrelated.py").write_text("")
    yield tmp_path
    sys.modules.pop("mine_helpers", None)


def digests(folder, module="mine"):
    """As a new process finds them."""
    return dict(own_code.digests(modules.run(folder / f"{module}.py", "alignax_config").Mine) or {})


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_class_is_known_by_its_file_and_what_this_imports_from_beside_it(folder):
    first = digests(folder)
    assert set(first) == {"mine.py", "mine_helpers.py"}
    edit(folder / "mine_helpers.py", "return x", "return x[::-1]")
    second = digests(folder)
    assert second["mine.py"] == first["mine.py"]
    assert second["mine_helpers.py"] != first["mine_helpers.py"]
    edit(folder / "mine.py", "order(record)", "order(record)[:1]")
    assert digests(folder)["mine.py"] != first["mine.py"]


def test_what_a_config_returns_is_told_by_its_settings_and_not_by_its_text(folder):
    first = digests(folder)
    edit(folder / "mine.py", "runs/a", "runs/b")
    with (folder / "mine.py").open("a") as file:
        file.write('\nif __name__ == "__main__":\n    experiment()\n')
    assert digests(folder) == first


def test_a_class_stays_what_it_was_when_its_file_is_edited_under_it(folder):
    kind = modules.run(folder / "mine.py", "alignax_config").Mine
    first = own_code.key(kind)
    edit(folder / "mine.py", "order(record)", "order(record)[:1]")
    assert own_code.key(kind) == first
    assert own_code.key(modules.run(folder / "mine.py", "alignax_config").Mine) != first


def test_a_base_in_another_folder_counts_too(folder, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other")
    (other / "mine_base.py").write_text(CLASS.replace("Mine", "Base"))
    (other / "mine_helpers.py").write_text("def order(x): return x\n")
    monkeypatch.syspath_prepend(str(other))
    (folder / "mine.py").write_text("from mine_base import Base\n\nclass Mine(Base):\n    pass\n")
    assert {name.rpartition("/")[2] for name in digests(folder)} == {
        "mine.py", "mine_base.py", "mine_helpers.py"
    }  # fmt: skip


def test_the_packages_own_methods_have_no_digest():
    assert own_code.digests(DPO) == {}
    assert own_code.key(DPO) == ""

    @dataclasses.dataclass(frozen=True)
    class Other(DPO):
        pass

    assert "test_own_code.py" in (own_code.digests(Other) or {})


def test_files_of_a_package_are_followed_by_relative_and_by_full_names(tmp_path):
    package = tmp_path / "lib"
    (package / "sub").mkdir(parents=True)
    texts = {
        "__init__.py": "", "a.py": "from . import b\nfrom lib.sub import c\n", "b.py": "",
        "sub/__init__.py": "", "sub/c.py": "from ..d import x\nimport numpy\n", "d.py": "x = 1\n",
        "e.py": "",
    }  # fmt: skip
    for name, text in texts.items():
        (package / name).write_text(text)
    found = modules.with_neighbours(package / "a.py")
    names = {str(path.relative_to(package)) for path in found}
    assert names == {"__init__.py", "a.py", "b.py", "sub/__init__.py", "sub/c.py", "d.py"}


def typed(monkeypatch, *cells, known=True):
    """The class `Mine` of a notebook whose cells these are."""
    notebook = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    for number, text in enumerate(cells):
        name = f"<cell {number} of {hash(cells)}>"
        if known:
            monkeypatch.setitem(
                linecache.cache, name, (len(text), None, text.splitlines(keepends=True), name)
            )
        exec(compile(text, name, "exec"), notebook.__dict__)
    return notebook.__dict__["Mine"]


CELL = CLASS.replace("from mine_helpers import order\n", "").partition("def experiment")[0]


def test_a_class_of_a_notebook_is_known_by_its_cells_and_those_of_what_it_calls(monkeypatch):
    order = "def order(x):\n    return x[:COUNT]\n"
    keys = {
        own_code.key(typed(monkeypatch, "COUNT = 1\n", order, CELL)),
        own_code.key(typed(monkeypatch, "COUNT = 2\n", order, CELL)),
        own_code.key(typed(monkeypatch, "COUNT = 1\n", order.replace("x[", "x[1:"), CELL)),
        own_code.key(typed(monkeypatch, "COUNT = 1\n", order, CELL + "\n")),
    }
    assert len(keys) == 4
    assert None not in keys
    again = own_code.key(typed(monkeypatch, "COUNT = 1\n", "OTHER = 3\n", order, CELL))
    assert again in keys  # what it does not name does not count


def test_of_a_class_without_a_source_nothing_is_known(monkeypatch):
    kind = typed(monkeypatch, "def order(x): return x\n", CELL, known=False)
    assert issubclass(kind, Method)
    assert own_code.digests(kind) is None
    assert own_code.key(kind) is None


def test_a_helpers_cell_that_was_edited_since_counts(monkeypatch):
    kind = typed(monkeypatch, "WORDS = ['a']\ndef order(x):\n    return x, WORDS\n", CELL)
    notebook, first = own_code._functions(kind), own_code.key(kind)
    globals_of = next(notebook).__globals__
    text, name = "def order(x):\n    return x[::-1], WORDS\n", "cell-edited"
    lines = text.splitlines(keepends=True)
    monkeypatch.setitem(linecache.cache, name, (len(text), None, lines, name))
    exec(compile(text, name, "exec"), globals_of)
    second = own_code.key(kind)
    globals_of["WORDS"] = ["b"]
    assert len({first, second, own_code.key(kind)}) == 3


def test_a_neighbour_that_is_no_python_of_today_stops_nothing(folder):
    (folder / "mine_helpers.py").write_text("print 'old'\n")
    path = folder / "mine.py"
    path.write_text(CLASS.replace(
        "from mine_helpers import order",
        "try:\n    from mine_helpers import order\nexcept SyntaxError:\n    order = None",
    ))  # fmt: skip
    assert set(digests(folder)) == {"mine.py", "mine_helpers.py"}


def test_files_of_one_name_in_folders_of_one_name_count_each(tmp_path):
    for part in ("a", "b"):
        (tmp_path / "both" / part / "inner").mkdir(parents=True)
        (tmp_path / "both" / part / "__init__.py").write_text("")
        (tmp_path / "both" / part / "inner" / "__init__.py").write_text("N = 1\n")
    (tmp_path / "both" / "__init__.py").write_text("")
    text = CLASS.replace("from mine_helpers import order", "from both.a import inner\n"
                         "from both.b import inner as other\norder = tuple")  # fmt: skip
    (tmp_path / "mine.py").write_text(text)
    first = digests(tmp_path)
    for part in ("a", "b"):
        (tmp_path / "both" / part / "inner" / "__init__.py").write_text("N = 2\n")
        second = digests(tmp_path)
        assert second != first
        first = second
