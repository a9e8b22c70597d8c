"""The default network, trained for some steps, in every format: 8 bits, and OpenVINO in fp32 and bf16."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from flexunet_pl.data.synthetic.dataset import TILE_PALETTE, draw_sample
from flexunet_pl.export.int8.quantize import quantize_model
from flexunet_pl.export.onnx import export_onnx
from flexunet_pl.inference.onnx_infer import Model
from flexunet_pl.nn.losses import build_loss
from flexunet_pl.nn.networks import build_network
from flexunet_pl.nn.score_table import ScoreTable, confusion_matrix

UInt8Array = npt.NDArray[np.uint8]
SIDE, STEPS, BATCH = 96, 70, 6
CLASSES = len(TILE_PALETTE)
LARGEST_LOSS = 0.005
pytestmark = pytest.mark.full


def samples(first: int, count: int) -> list[tuple[UInt8Array, UInt8Array]]:
    return [draw_sample((SIDE, SIDE), source, 0, 0) for source in range(first, first + count)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with model.onnx and model.int8.onnx of a trained network."""
    folder = tmp_path_factory.mktemp("bundle")
    settings = {"name": "unet", "encoder": "tu-tf_efficientnet_lite0", "encoder_weights": "imagenet"}
    torch.manual_seed(0)
    network, _ = build_network(settings, CLASSES, 3)
    train(network.train())
    facts: dict[str, Any] = {"num_classes": CLASSES, "channels": 3, "size_multiple": network.size_multiple}
    facts |= {"format": 1, "image_size": [SIDE, SIDE], "resize": "none", "sixteen_bit": None, "ignore": None}
    facts |= {"classes": [{"name": name, "color": list(color)} for name, color in TILE_PALETTE.items()]}
    export_onnx(network, facts | {"fixed_size": None, "min_region_area": 0}, folder / "model.onnx")
    calibration = (image for image, _ in samples(100, 8))
    quantize_model(folder / "model.onnx", calibration, folder / "model.int8.onnx")
    return folder


def train(network: torch.nn.Module) -> None:
    loss, pool = build_loss({"cross_entropy": 1.0, "dice": 1.0}, CLASSES), samples(0, STEPS * BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / STEPS)
        images, masks = (np.stack(arrays) for arrays in zip(*pool[step * BATCH : (step + 1) * BATCH], strict=True))
        value = loss(network(torch.from_numpy(images).permute(0, 3, 1, 2)), torch.from_numpy(masks))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def dice(model: Model) -> float:
    confusion = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    for image, mask in samples(200, 24):
        confusion += confusion_matrix(mask, model.run(image[None])[1][0], CLASSES)
    return float(ScoreTable(confusion)["mean_foreground_dice"] or 0)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_8_bits_lose_hardly_any_dice(bundle: Path, engine: str) -> None:
    reference = dice(Model(bundle))
    assert reference > 0.5, "trained well enough for a comparison to mean something"
    in_8_bits = Model(bundle / "model.int8.onnx", engine)
    assert dice(in_8_bits) > reference - LARGEST_LOSS
    # Dice of so small a network may rise by chance; the masks say how close 8 bits are.
    images = np.stack([image for image, _ in samples(200, 8)])
    assert (in_8_bits.run(images)[1] == Model(bundle).run(images)[1]).mean() > 0.997


@pytest.mark.parametrize(
    ("precision", "largest_mean", "equal"), [("fp32", 1e-6, 1.0), ("bf16", 5e-3, 0.995)], ids=["fp32", "bf16"]
)
def test_openvino_gives_the_masks_of_onnxruntime(
    bundle: Path, precision: str, largest_mean: float, equal: float
) -> None:
    expected, model = Model(bundle), Model(bundle, "openvino", precision=precision)
    assert dice(model) > dice(expected) - LARGEST_LOSS
    for side in (SIDE, SIDE + 13):
        image = draw_sample((side, side + 7), 300, 0, 0)[0][None]
        probabilities, mask, _ = expected.run(image)
        found, found_mask, _ = model.run(image)
        assert np.abs(found - probabilities).mean() < largest_mean
        assert (found_mask == mask).mean() >= equal
