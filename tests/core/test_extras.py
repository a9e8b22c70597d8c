"""A missing package is reported with the extra that installs it."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.extras import EXTRA_OF, TRAIN_PACKAGES, missing_extra


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        pytest.param("torch", "train", id="a package"),
        pytest.param("lightning.pytorch", "train", id="a module of a package"),
        pytest.param("openvino", "openvino", id="a package of another extra"),
    ],
)
def test_the_error_names_package_and_extra(module: str, extra: str) -> None:
    with pytest.raises(UserError, match=rf"{module.split('.')[0]}; run: pip install 'flexunet_pl\[{extra}\]'"):
        raise missing_extra(ModuleNotFoundError(name=module))


def test_a_module_of_no_extra_stays_an_import_error() -> None:
    with pytest.raises(ModuleNotFoundError):
        missing_extra(ModuleNotFoundError(name="flexunet_pl.no_such_module"))


def test_a_command_without_its_extra_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "run.ckpt").touch()
    for name in [name for name in sys.modules if name.startswith("flexunet_pl.summary")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing torch then fails as if it were not installed
    assert main(["summary", str(tmp_path / "run.ckpt")]) == 2
    assert capsys.readouterr().err == "error: this needs the package torch; run: pip install 'flexunet_pl[train]'\n"


def test_extras_agree_with_pyproject() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {
        extra: {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in lines} for extra, lines in extras.items()
    }
    assert names["train"] == TRAIN_PACKAGES
    assert all(package in names[extra] for package, extra in EXTRA_OF.items())
