"""Imports point one way: core <- methods | models | data <- generate <- train <- evaluate <- ..."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "alignax"
LAYERS = [
    {"core"},
    {"methods", "models", "data"},
    {"losses", "operations", "topology"},
    {"generate"},
    {"train"},
    {"evaluate"},
    {"config", "told_types"},
    {"networks", "overrides", "remarks"},
    {"catalogue", "members", "run", "saved"},
    {"feeds", "measuring", "facts", "programs", "sweepable"},
    {"card", "earlier", "trained"},
    {"jobs", "sample", "score", "show"},
    {"rerun", "sweep", "forecast"},
    {"compare", "options", "planning"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}


def room(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import; write it out"
            names = [node.module]
            if node.module == "alignax":
                names = [f"alignax.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("alignax.")}
    return found


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_from_rooms_beneath_its_own(path):
    own = room(path)
    for other in imports(path) - {own}:
        assert HEIGHT[other] < HEIGHT[own], f"{path} imports alignax.{other}"


def test_shared_code_names_no_method():
    """A method's name outside methods/ would mean that shared code asks which one it is."""
    from alignax.methods import ALL

    names = {method.__name__.lower() for method in ALL}
    for path in FILES:
        if room(path) in ("methods", "losses"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name | ast.Attribute | ast.FunctionDef | ast.ClassDef):
                word = getattr(node, "id", getattr(node, "attr", getattr(node, "name", "")))
                assert word.lower() not in names, f"{path}:{node.lineno} names {word}"
