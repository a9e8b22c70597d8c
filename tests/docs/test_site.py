"""The documentation site builds without warnings, and its pages agree with the code and with each other."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from doc_commands import program_in
from test_structure import PACKAGE, RANKS

from flexunet_pl import __version__

PAGES = sorted((ROOT / "docs").rglob("*.md"))


def build_site(folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=folder,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.full
def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = build_site(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES)  # a page each, and the page for addresses that do not exist
    for page in pages:
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//[^"]*', page.read_text()), page
    assert "FlexUNet" in (tmp_path / "site" / "reference" / "nn" / "index.html").read_text()


@pytest.mark.full
@pytest.mark.parametrize("link", ["missing.md", "other.md#no-such-heading"], ids=["page", "heading"])
def test_a_dead_link_fails_the_build(link: str, tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Home\n[link]({link})\n")
    (tmp_path / "docs" / "other.md").write_text("# Other\n")
    config |= {"nav": ["index.md", "other.md"], "plugins": []}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(config))
    done = build_site(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert link.split("#")[-1] in done.stderr


def test_links_of_the_readme_and_the_guides_exist() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"):
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", (ROOT / name).read_text()):
            assert (ROOT / link).exists(), f"{name}: {link}"


def test_the_architecture_page_has_the_layers_that_the_tests_enforce() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    written = [set(re.findall(r"`(\w+)`", row)) for row in re.findall(r"^\| \d+ \|(.*)\|$", page, re.MULTILINE)]
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    enforced = [packages & folders for packages in RANKS]
    assert written[::-1] == [packages for packages in enforced if packages]


def test_the_drawing_has_every_package() -> None:
    drawing = (ROOT / "docs" / "pictures" / "architecture.svg").read_text()
    for packages in RANKS:
        for package in packages & {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}:
            assert f">{package}</text>" in drawing


def test_the_citation_has_the_version_and_the_licence_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}  # what the format requires
    assert citation["version"] == __version__
    assert citation["license"] == project["license"]
    assert citation["repository-code"] == project["urls"]["Homepage"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project["authors"]]


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_call_targets_that_the_makefile_has(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = set(re.findall(r"run: make ([a-z-]+)", path.read_text()))
    assert called
    assert called <= targets
    versions = re.findall(r'python-version: "([\d.]+)"', path.read_text())
    classifiers = (ROOT / "pyproject.toml").read_text()
    assert versions
    assert all(f"Programming Language :: Python :: {version}" in classifiers for version in versions)


def test_the_loss_of_the_contributing_guide_works(tmp_path: Path) -> None:
    (tmp_path / "miss.py").write_text(program_in(ROOT / "CONTRIBUTING.md"))
    spec = importlib.util.spec_from_file_location("miss", tmp_path / "miss.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    mask = torch.tensor([[[0, 1], [1, 255]]], dtype=torch.uint8)
    loss = module.Miss(2, power=3)(module.Pixels.of(torch.zeros(1, 2, 2, 2), mask))
    assert loss.item() == pytest.approx(0.5**3)
