"""Export formats: what the registry refuses, and a format that a plugin module adds."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import flexunet_pl.export.registry as registry
from flexunet_pl.core.errors import UserError
from flexunet_pl.export.bundle import export
from flexunet_pl.export.registry import EXPORTERS, Exporter, chosen_exporters, register_exporter

PLUGIN = """
import json
from pathlib import Path

from flexunet_pl.core.errors import UserError
from flexunet_pl.export.registry import Exporter, register_exporter

def write(job, path):
    path.write_text(json.dumps(sorted(job.task.network.state_dict())))
    path.with_name("model.keys.txt").write_text("beside it")

def verify(job, path):
    keys = json.loads(path.read_text())
    if len(keys) > LIMIT:
        raise UserError(f"{path.name}: {len(keys)} weights, at most LIMIT are allowed")
    return {"weights": len(keys)}

register_exporter(
    Exporter(
        name="keys",
        suffix=".keys.json",
        description="the names of the weights",
        write=write,
        verify=verify,
        companions={"plugin.py": Path(__file__)},
        usage="Read `model.keys.json` with any JSON reader.",
    )
)
"""


@pytest.fixture
def own_registry() -> Iterator[None]:
    """Let a test register formats that are gone afterwards."""
    before = dict(EXPORTERS)
    yield
    EXPORTERS.clear()
    EXPORTERS.update(before)


def load_plugin(folder: Path, name: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{name}.py").write_text(PLUGIN.replace("LIMIT", str(limit)))
    monkeypatch.syspath_prepend(folder)
    importlib.import_module(name)


@pytest.mark.usefixtures("own_registry")
def test_a_plugin_module_adds_a_format(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_plugin(tmp_path, "plugin_that_passes", 1000, monkeypatch)
    out = tmp_path / "bundle"
    assert export(tiny_checkpoint, out, formats="keys,weights.h5") == 0
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "check.json",
        "labels.json",
        "model.keys.json",
        "model.keys.txt",
        "model.png",
        "model.weights.h5",
        "plugin.py",
        "summary.txt",
    }
    report = json.loads((out / "check.json").read_text())
    keys = json.loads((out / "model.keys.json").read_text())
    assert report["model.keys.json"] == {"weights": len(keys)}
    readme = (out / "README.md").read_text()
    assert "- model.keys.json: the names of the weights\n" in readme
    assert "Read `model.keys.json` with any JSON reader." in readme
    # The next bundle in this folder lacks the format; its files go, except one that changed since.
    (out / "model.keys.txt").write_text("changed")
    assert export(tiny_checkpoint, out, formats="weights.h5") == 0
    assert {"model.keys.txt"} == {path.name for path in out.iterdir()} & {
        "model.keys.json",
        "model.keys.txt",
        "plugin.py",
    }


@pytest.mark.usefixtures("own_registry")
def test_a_format_that_fails_its_verification_leaves_nothing_behind(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_plugin(tmp_path, "plugin_that_fails", 3, monkeypatch)
    (tmp_path / "exports").mkdir()
    with pytest.raises(UserError, match=r"model\.keys\.json: \d+ weights, at most 3 are allowed"):
        export(tiny_checkpoint, tmp_path / "exports" / "bundle", formats="weights.h5,keys")
    assert not list((tmp_path / "exports").iterdir())


def exporter(name: str, suffix: str, made_from: tuple[str, ...] = ()) -> Exporter:
    return Exporter(name, suffix, "", lambda *_: None, lambda *_: {}, made_from=made_from)


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize(
    ("name", "suffix"),
    [pytest.param("onnx", ".other", id="same name"), pytest.param("other", ".onnx", id="same file")],
)
def test_a_format_is_registered_once(name: str, suffix: str) -> None:
    with pytest.raises(ValueError, match=r"export format 'onnx' exists and writes model\.onnx"):
        register_exporter(exporter(name, suffix))
    assert "other" not in EXPORTERS


@pytest.mark.usefixtures("own_registry")
def test_formats_are_written_after_what_they_are_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "EXPORTERS", {})
    for name, made_from in {"a": ("b", "c"), "b": ("c",), "c": ()}.items():
        register_exporter(exporter(name, f".{name}", made_from))
    assert [one.name for one in chosen_exporters(["a", "b", "c", "b"], "--formats=a,b,c,b")] == ["c", "b", "a"]
    with pytest.raises(UserError, match="--formats=a,c: a is made from b; add it, --formats b,a"):
        chosen_exporters(["a", "c"], "--formats=a,c")
