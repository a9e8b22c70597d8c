"""Networks of unusual settings as graphs, in float and in 8 bits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flexunet_pl.data.synthetic.dataset import draw_sample
from flexunet_pl.export.int8.quantize import quantize_model
from flexunet_pl.export.onnx import export_onnx
from flexunet_pl.export.verify import OnnxModel, verify_onnx
from flexunet_pl.nn.flexunet import FlexUNet

SETTINGS: dict[str, dict[str, Any]] = {
    "one level, one class, four channels": {"num_layers": 1, "num_classes": 1, "in_channels": 4},
    "gelu, even kernel": {"activation": "gelu", "base_kernel": 4},
    "elu, BatchNorm, 9x9": {"activation": "elu", "normalization": True, "base_kernel": 9},
    "GroupNorm": {"normalization": "group", "input_normalize": True},
    "leaky ReLU, dilation": {"activation": "leaky_relu", "dilation": 3},
    "11x11, input divided by 255": {"base_kernel": 11, "input_normalize": True},
    "eight levels": {"num_layers": 8, "base_filters": 1, "base_kernel": 3},
}


@pytest.mark.full
@pytest.mark.parametrize("name", SETTINGS)
def test_any_setting_exports_in_float_and_in_8_bits(name: str, tmp_path: Path) -> None:
    settings = {"num_classes": 3, "in_channels": 3, "base_filters": 4, "base_kernel": 5, "num_layers": 3}
    torch.manual_seed(0)
    network = FlexUNet.from_arguments(settings | SETTINGS[name])
    for key, value in network.state_dict().items():
        if key.endswith(("bias", "running_mean")):
            value.uniform_(-0.3, 0.3)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    facts = {"num_classes": network.num_classes, "channels": network.in_channels, "fixed_size": None}
    facts["size_multiple"] = network.size_multiple
    export_onnx(network, facts, tmp_path / "float.onnx")
    channels = np.arange(network.in_channels) % 3
    pictures = [draw_sample((64, 48), source, 0, 0)[0][..., channels] for source in range(4)]
    verify_onnx(network, tmp_path / "float.onnx", facts, pictures[3:])
    quantize_model(tmp_path / "float.onnx", pictures[:3], tmp_path / "int8.onnx")
    expected, expected_mask = OnnxModel(tmp_path / "float.onnx")(pictures[3][None])
    probabilities, mask = OnnxModel(tmp_path / "int8.onnx")(pictures[3][None])
    # Random weights leave the classes close to each other; nearly all pixels still fall the same way.
    assert np.abs(probabilities - expected).mean() < 0.05
    assert (mask == expected_mask).mean() > 0.9
    assert OnnxModel(tmp_path / "int8.onnx")(pictures[3][None, :5, :7])[1].shape == (1, 5, 7)
