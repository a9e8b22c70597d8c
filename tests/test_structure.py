"""Import rules between packages, the size of modules, and imports that must stay cheap."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "flexunet_pl"

# Imports point to earlier ranks only; packages of one rank do not import each other.
RANKS = (
    {"core", "inference"},
    {"data", "nn"},
    {"visualization"},
    {"training", "curation"},
    {"evaluation", "keras", "planning"},
    {"report", "summary"},
    {"export"},
    {"migrate", "serving"},
    {"api"},
    {"cli"},
    {"__init__", "__main__"},
)
RANK_OF = {package: rank for rank, packages in enumerate(RANKS) for package in packages}
FILES = sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, absolute or relative, wherever in the file."""
    package = ("flexunet_pl", *path.relative_to(PACKAGE).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return {name for name in found if name.split(".")[0] == "flexunet_pl" and "." in name}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_down_only(path: Path) -> None:
    own = package_of(path)
    for name in imports_of(path):
        target = name.split(".")[1]
        if target == own or target == "__version__":
            continue
        assert RANK_OF[target] < RANK_OF[own], f"{path.name} ({own}) imports {name}"


def test_imports_of_sees_absolute_relative_and_late_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "nn").mkdir()
    path = tmp_path / "nn" / "module.py"
    path.write_text("from ..data import masks\nfrom . import losses\ndef f():\n    import flexunet_pl.training.task\n")
    assert imports_of(path) >= {"flexunet_pl.data.masks", "flexunet_pl.nn.losses", "flexunet_pl.training.task"}


def test_no_module_imports_itself_through_others() -> None:
    """Look for circles between files; packages are left out, since their files may import from them."""
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in FILES}
    graph = {name: imports_of(path) & modules.keys() - {name} for name, path in modules.items()}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_the_inference_file_stands_alone() -> None:
    assert imports_of(PACKAGE / "inference" / "onnx_infer.py") == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_small(path: Path) -> None:
    limit = 820 if path.name == "onnx_infer.py" else 320
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["prepare", "--help"],
        ["prepare", "folders", "--help"],
        ["audit", "--help"],
        ["infer", "--help"],
        ["report", "--help"],
        ["summary", "--help"],
    ],
    ids=" ".join,
)
def test_what_needs_no_torch_does_not_load_it(arguments: list[str]) -> None:
    code = f"""
import sys
from flexunet_pl.cli.main import main
try:
    code = main({arguments!r})
except SystemExit as stop:
    code = stop.code
assert not code, code
heavy = {{"torch", "lightning", "matplotlib.pyplot", "scipy", "pandas"}} & sys.modules.keys()
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
