"""Every network of the zoo keeps the contract of FlexUNet: any size, training, checkpoints, export."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.export.bundle import export, facts_of
from flexunet_pl.export.onnx import export_onnx
from flexunet_pl.nn.encoder_weights import load_encoder_weights, read_weights
from flexunet_pl.nn.networks import build_network
from flexunet_pl.nn.zoo import ZOO, LoneValueBatchNorm, ZooNetwork, ZooSettings
from flexunet_pl.training.task import SegmentationTask

# Encoders that timm has for tests; a thousandth of what people train.
SMALL = {name: "tu-test_vit" if name == "dpt" else "tu-test_resnet" for name in ZOO}
PALETTE = {"background": [0, 0, 0], "crack": [255, 0, 0], "oil": [0, 255, 0]}


def small_task(name: str, encoder_weights: str | None = None, **settings: Any) -> SegmentationTask:
    torch.manual_seed(0)
    network = {"name": name, "encoder": SMALL[name], "encoder_weights": encoder_weights}
    return SegmentationTask(PALETTE, network=network, image_size=64, **settings)


def saved(task: SegmentationTask, path: Path) -> Path:
    torch.save({"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}, path)
    return path


@pytest.mark.parametrize("name", ZOO)
def test_every_network_takes_any_size_trains_and_comes_back_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    task = small_task(name, in_channels=4, schedule="constant", learning_rate=1e-3)
    side = task.size_multiple
    mask = torch.zeros(2, side, side, dtype=torch.uint8)
    mask[:, side // 2 :] = 1
    image = 200 * mask.unsqueeze(1).repeat(1, 4, 1, 1)
    optimizer: Any = task.train().configure_optimizers()
    losses = []
    for _ in range(4):
        loss = task.criterion(task(image), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    task(image[:1, :, :5, :7])  # the last batch of an epoch may be one small image
    read = SegmentationTask.from_checkpoint(saved(task, tmp_path / "last.ckpt"))
    odd = torch.randint(0, 256, (1, 4, 35, 70), dtype=torch.uint8)
    with torch.inference_mode():
        expected = task.eval()(odd)
        assert expected.shape == (1, 3, 35, 70)
        assert expected.std() > 0
        torch.testing.assert_close(task(odd.float()), expected)
        assert torch.equal(read(odd), expected)


@pytest.mark.full
@pytest.mark.parametrize("name", ZOO)
def test_every_network_goes_all_the_way_from_the_command_line_to_masks(
    name: str, tiny_config: Path, tiny_data: Path, tmp_path: Path
) -> None:
    all_the_way(name, tiny_config, tiny_data, tmp_path)


def test_a_network_goes_all_the_way_from_the_command_line_to_masks(
    tiny_config: Path, tiny_data: Path, tmp_path: Path
) -> None:
    all_the_way("pspnet", tiny_config, tiny_data, tmp_path)


def all_the_way(name: str, tiny_config: Path, tiny_data: Path, folder: Path) -> None:
    """Fit, test, export with the comparison against PyTorch, and segment with the bundle."""
    own = dict.fromkeys(TINY["model"].keys() - {"learning_rate"}, "null")  # type: ignore[attr-defined]  # plain YAML
    keys = own | {"network": name, "encoder": SMALL[name], "optimizer": "adamw"}
    side = str(max(32, ZOO[name].size_multiple))
    settings = [word for key, value in keys.items() for word in (f"--model.{key}", value)]
    settings += ["--data.image_size", side, "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
    run = folder / "run"
    assert main(["fit", "--config", str(tiny_config), *settings, "--run_dir", str(run)]) == 0
    checkpoint = run / "checkpoints" / "last.ckpt"
    assert main(["test", "--config", str(tiny_config), "--ckpt_path", str(checkpoint)]) == 0
    assert (run / "test_scores.json").is_file()
    bundle = folder / "bundle"
    assert export(checkpoint, bundle) == 0
    labels = json.loads((bundle / "labels.json").read_text())
    assert labels["network"] == name
    assert labels["fixed_size"] == (None if ZOO[name].exports_any_size else [32, 32])
    check = json.loads((bundle / "check.json").read_text())["model.onnx"]
    assert check["largest_probability_difference"] <= 5e-4
    assert check["decided_mask_disagreement"] == 0
    assert (len(check["batches"]) > 4) == ZOO[name].exports_any_size
    picture = sorted((tiny_data / "test" / "images").iterdir())[0]
    out = folder / "masks"
    assert main(["infer", str(bundle), str(picture), "--out", str(out)]) == 0
    with Image.open(out / f"{picture.stem}.png") as mask:
        assert mask.size == (32, 32)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        pytest.param("unett", {}, "did you mean 'unet'", id="network"),
        pytest.param(
            "unet",
            {"base_filters": 8},
            "model.base_filters=8: no setting of model.network=unet",
            id="a key of FlexUNet",
        ),
        pytest.param(
            "flexunet",
            {"encoder": "resnet18"},
            "model.encoder=resnet18: no setting of model.network=flexunet",
            id="a key of the zoo",
        ),
        pytest.param("unet", {"encoder": "resnet81"}, "did you mean 'resnet18'", id="encoder"),
        pytest.param("unet", {"encoder": "tu-test_resnt"}, "did you mean 'tu-test_resnet'", id="encoder of timm"),
        pytest.param("linknet", {"encoder": "mit_b0"}, "does not work with model.network='linknet'", id="no match"),
        pytest.param(
            "unet", {"encoder": "tu-test_vit"}, "does not work with model.network='unet'", id="one scale only"
        ),
        pytest.param("dpt", {"encoder": "resnet18"}, "dpt needs a transformer of timm", id="dpt"),
        pytest.param(
            "unet", {"encoder": "resnet18", "encoder_weights": "imagnet"}, "choose from imagenet", id="weights"
        ),
    ],
)
def test_what_does_not_fit_is_told(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_network({"name": name} | given, 3, 3)


def test_the_network_normalises_as_its_encoder_expects() -> None:
    network = ZooNetwork("unet", 2, settings=ZooSettings(encoder="resnet18")).eval()
    assert network.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])  # 255 * .485, .456, .406
    assert network.std.flatten().tolist() == pytest.approx([58.395, 57.12, 57.375])  # 255 * .229, .224, .225
    image = torch.randint(0, 256, (1, 3, 32, 64), dtype=torch.uint8)
    expected = network.model((image / 255 - network.mean / 255) / (network.std / 255))
    torch.testing.assert_close(network(image), expected, atol=1e-4, rtol=1e-4)
    assert ZooNetwork("unet", 2, in_channels=1, settings=ZooSettings(encoder="xception")).mean.flatten().tolist() == [
        127.5
    ]
    assert ZooNetwork("unet", 2, 4, settings=ZooSettings(encoder="resnet18")).mean.flatten().tolist() == pytest.approx(
        [123.675, 116.28, 103.53, 123.675]
    )


@pytest.mark.parametrize(
    ("encoder", "spell"),
    [
        pytest.param("resnet18", lambda key: key, id="torchvision and smp"),
        pytest.param("resnet18", lambda key: f"module.{key}", id="parallel training"),
        pytest.param("tu-test_resnet", lambda key: key.removeprefix("model."), id="timm"),
        pytest.param("tu-test_convnext", lambda key: key.removeprefix("model.").replace("_", ".", 1), id="timm stages"),
        pytest.param("resnet18", lambda key: f"network.model.encoder.{key}", id="our checkpoints"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_encoder_weights_are_read_from_files_of_all_kinds(
    encoder: str, spell: Any, suffix: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    part = encoder_of(ZooNetwork("fpn", 2, settings=ZooSettings(encoder=encoder)))
    weights = {spell(key): value.clone() for key, value in part.state_dict().items()}
    weights["fc.weight"] = torch.zeros(10, 4)  # a classifier, which is left out
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": weights}, path)
    else:
        save_file(weights, path)
    other = ZooNetwork("fpn", 2, settings=ZooSettings(encoder=encoder, encoder_weights=str(path)))
    assert all(torch.equal(value, part.state_dict()[key]) for key, value in encoder_of(other).state_dict().items())


def encoder_of(network: ZooNetwork) -> nn.Module:
    return network.model.get_submodule("encoder")


def test_a_first_layer_for_rgb_is_adapted_to_other_channels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    three = encoder_of(ZooNetwork("unet", 2, settings=ZooSettings(encoder="resnet18"))).eval()
    torch.save(three.state_dict(), tmp_path / "three.pth")
    grey = torch.rand(1, 1, 32, 32)
    expected = three(grey.expand(-1, 3, -1, -1))[-1]
    for channels in (1, 2, 5):
        network = ZooNetwork("unet", 2, channels, settings=ZooSettings("resnet18", str(tmp_path / "three.pth")))
        result = encoder_of(network).eval()(grey.expand(-1, channels, -1, -1))[-1]
        if channels == 1:
            torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)
        weight = encoder_of(network).get_parameter("conv1.weight")
        assert weight.shape[1] == channels
        if channels > 1:
            expected_weight = three.get_parameter("conv1.weight")[:, 0] * 3 / channels
            torch.testing.assert_close(weight[:, 0], expected_weight)


def test_weights_of_another_encoder_and_files_that_run_code_are_refused(tmp_path: Path) -> None:
    import os

    small = encoder_of(ZooNetwork("unet", 2, settings=ZooSettings(encoder="resnet18")))
    torch.save(small.state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(
        UserError, match=r"holds \d+ of the \d+ weights of the encoder 'resnet34'; the first one missing"
    ):
        ZooNetwork("unet", 2, settings=ZooSettings(encoder="resnet34", encoder_weights=str(tmp_path / "resnet18.pth")))
    wide = {
        key: value.repeat(2, *[1] * (value.ndim - 1)) if value.ndim else value
        for key, value in small.state_dict().items()
    }
    torch.save(wide, tmp_path / "wide.pth")
    with pytest.raises(UserError, match=r"conv1.weight is \[128, 3, 7, 7\] in the file and \[64, 3, 7, 7\]"):
        load_encoder_weights(small, str(tmp_path / "wide.pth"), "resnet18")
    torch.save({"weight": os.system}, tmp_path / "evil.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 20)
    for name in ("evil.pth", "broken.safetensors"):
        with pytest.raises(UserError, match="cannot be read as weights"):
            read_weights(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        ZooNetwork("unet", 2, settings=ZooSettings(encoder="resnet18", encoder_weights="weights/absent.pth"))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds no weights"):
        read_weights(tmp_path / "list.pt")


def test_a_checkpoint_rebuilds_the_network_without_the_file_of_encoder_weights(tmp_path: Path) -> None:
    torch.save(encoder_of(small_task("unet").network).state_dict(), tmp_path / "e.pth")  # type: ignore[arg-type]
    task = small_task("unet", encoder_weights=str(tmp_path / "e.pth"))
    (tmp_path / "e.pth").unlink()
    read = SegmentationTask.from_checkpoint(saved(task, tmp_path / "last.ckpt"))
    expected = {"name": "unet", "encoder": "tu-test_resnet", "encoder_weights": "random"}
    expected |= {"defect_head": True, "defect_gate": True}  # type: ignore[dict-item]  # plain YAML
    assert read.hparams["network"] == expected
    assert all(torch.equal(value, read.state_dict()[key]) for key, value in task.state_dict().items())


def test_what_exports_for_one_size_says_so_where_there_is_none(tmp_path: Path) -> None:
    task = small_task("upernet", resize="none")
    with pytest.raises(UserError, match=r"takes one size only, and data.resize=none"):
        facts_of(task, saved(task, tmp_path / "last.ckpt"))


def test_a_norm_of_single_values_uses_what_it_has_seen() -> None:
    norm, plain = LoneValueBatchNorm(2).train(), nn.BatchNorm2d(2).train()
    batch = torch.randn(4, 2, 3, 3)
    assert torch.equal(norm(batch), plain(batch))
    lone = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1)
    assert torch.equal(norm(lone), plain.eval()(lone))


def test_what_torch_cannot_export_is_refused(tmp_path: Path) -> None:
    class Untraceable(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.float() if image.sum() > 0 else image.float() + 1

    facts = {"num_classes": 3, "channels": 3, "size_multiple": 1, "fixed_size": None}
    with pytest.raises(UserError, match="torch cannot export this network with free sizes"):
        export_onnx(Untraceable(), facts, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_the_shipped_config_trains(tmp_path: Path) -> None:
    small = ["--model.encoder", "tu-test_resnet", "--data.root", str(tmp_path / "data"), "--data.synthetic_images", "9"]
    small += ["--data.image_size", "64", "--data.crop_size", "32", "--data.num_workers", "0"]
    one_step = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.logger", "false"]
    config = ["--config", str(ROOT / "configs" / "zoo.yaml"), "--trainer.accelerator", "cpu"]
    assert main(["fit", *config, *small, *one_step, "--run_dir", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "epoch_pictures" / "epoch_0001.png").is_file()


def test_training_sizes_name_the_network(tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = [word for key in TINY["model"].keys() - {"learning_rate"} for word in (f"--model.{key}", "null")]  # type: ignore[attr-defined]
    arguments = [
        "fit",
        "--config",
        str(tiny_config),
        *own,
        "--model.network",
        "fpn",
        "--model.encoder",
        "tu-test_resnet",
    ]
    sizes = ["--data.image_size", "40", "--data.crop_size", "none"]
    assert main([*arguments, *sizes, "--run_dir", str(tmp_path)]) == 2
    assert "data.image_size=40 must be a multiple of 32 to train this network (network=fpn); try 64" in (
        capsys.readouterr().err
    )
