"""The exported graph: its contract, and that it gives what the network gives."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import flexunet_pl.export.onnx as onnx_export
from flexunet_pl.core.errors import UserError
from flexunet_pl.export.onnx import export_onnx
from flexunet_pl.export.verify import OnnxModel, compared, top_two_margin, verify_onnx
from flexunet_pl.nn.flexunet import FlexUNet, FlexUNetSettings
from flexunet_pl.nn.metrics import mask_from_logits


class OneSizeNetwork(nn.Module):
    """A network of another kind, which takes one size only."""

    fixed_size = (6, 10)

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.convolution(image.to(self.convolution.weight.dtype))
        return features.view(features.shape[0], 2, 6, 10)


def facts_of(network: nn.Module, num_classes: int, channels: int = 3) -> dict[str, Any]:
    fixed = getattr(network, "fixed_size", None)
    return {
        "classes": [{"name": "Größe", "color": [0, 0, 0]}],
        "num_classes": num_classes,
        "channels": channels,
        "size_multiple": getattr(network, "size_multiple", 1),
        "fixed_size": None if fixed is None else list(fixed),
    }


class DroppingNetwork(nn.Module):
    """A small network that drops values while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Dropout(0.5))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layers(image.float())
        return logits


Exported = tuple[nn.Module, dict[str, Any], Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Export networks that differ in all that the graph depends on; weights are random, biases and statistics too."""
    torch.manual_seed(0)
    networks: dict[str, tuple[nn.Module, int, int]] = {
        "three classes": (
            FlexUNet(3, settings=FlexUNetSettings(base_filters=4, base_kernel=5, num_layers=3, dropout=0.2)),
            3,
            3,
        ),
        "one sigmoid": (
            FlexUNet(
                1,
                in_channels=4,
                settings=FlexUNetSettings(
                    base_filters=4, num_layers=2, activation="mish", normalization=True, input_normalize=True
                ),
            ),
            1,
            4,
        ),
        "one size": (OneSizeNetwork(), 2, 3),
    }
    folder = tmp_path_factory.mktemp("exported")
    result = {}
    for name, (network, num_classes, channels) in networks.items():
        shake(network)
        facts = facts_of(network, num_classes, channels)
        path = folder / f"{name}.onnx"
        export_onnx(network, facts, path)
        result[name] = (network, facts, path)
    return result


def shake(network: nn.Module) -> None:
    """Give biases and running statistics, which begin at 0 and 1, values of their own."""
    for name, value in network.state_dict().items():
        if name.endswith("bias"):
            value.uniform_(-0.5, 0.5)
        elif name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)


@pytest.mark.parametrize(
    ("name", "image", "probabilities", "mask"),
    [
        pytest.param(
            "three classes",
            ["batch", "height", "width", 3],
            ["batch", "height", "width", 3],
            ["batch", "height", "width"],
            id="any size",
        ),
        pytest.param(
            "one sigmoid",
            ["batch", "height", "width", 4],
            ["batch", "height", "width", 1],
            ["batch", "height", "width"],
            id="four channels, one probability",
        ),
        pytest.param("one size", ["batch", 6, 10, 3], ["batch", 6, 10, 2], ["batch", 6, 10], id="one size, any batch"),
    ],
)
def test_the_graph_has_the_signature_of_the_house(
    exported: dict[str, Exported], name: str, image: list[Any], probabilities: list[Any], mask: list[Any]
) -> None:
    session = onnxruntime.InferenceSession(exported[name][2], providers=["CPUExecutionProvider"])
    assert [(entry.name, entry.type, entry.shape) for entry in session.get_inputs()] == [
        ("image", "tensor(uint8)", image)
    ]
    assert [(entry.name, entry.type, entry.shape) for entry in session.get_outputs()] == [
        ("probabilities", "tensor(float)", probabilities),
        ("mask", "tensor(uint8)", mask),
    ]


@pytest.mark.parametrize("name", ["three classes", "one sigmoid", "one size"])
def test_onnxruntime_gives_what_torch_gives(exported: dict[str, Exported], name: str) -> None:
    network, facts, path = exported[name]
    rng = np.random.default_rng(1)
    height, width = facts["fixed_size"] or (40, 56)
    picture = rng.integers(0, 256, (height, width, facts["channels"]), dtype=np.uint8)
    report = verify_onnx(network, path, facts, [picture])
    assert report["largest_probability_difference"] <= 1e-4
    assert report["decided_mask_disagreement"] == 0
    shapes = [batch["shape"][:3] for batch in report["batches"]]
    if facts["fixed_size"] is None:
        step = facts["size_multiple"]
        assert [1, 1, 1] in shapes
        assert [3, step, step] in shapes
        assert [2, step - 1, 2 * step + 1] in shapes
        assert [1, 40, 56] in shapes
    else:
        assert shapes == [[1, 6, 10], [3, 6, 10], [1, 6, 10]]
    # The mask is the one that training, test and predict use, not only the one of the exported wrapper.
    network.eval()
    with torch.inference_mode():
        logits = network(torch.from_numpy(picture[None].transpose(0, 3, 1, 2).copy()))
    probabilities, mask = OnnxModel(path)(picture[None])
    if probabilities.shape[-1] == 1:
        margin = np.abs(2 * probabilities[..., 0] - 1)
    else:
        margin = np.diff(np.sort(probabilities, axis=-1)[..., -2:], axis=-1)[..., 0]
    decided = margin > 1e-4  # a tie may fall either way on another processor
    assert decided.mean() > 0.9
    np.testing.assert_array_equal(mask[decided], mask_from_logits(logits).numpy()[decided])


def with_head(path: Path, bias: list[float], out: Path) -> OnnxModel:
    """Copy an exported file so that its logits are ``bias`` everywhere."""
    model = onnx.load(path)
    for constant in model.graph.initializer:
        if constant.name == "network.head.weight":
            constant.CopyFrom(onnx.numpy_helper.from_array(np.zeros(constant.dims, np.float32), constant.name))
        elif constant.name == "network.head.bias":
            constant.CopyFrom(onnx.numpy_helper.from_array(np.array(bias, np.float32), constant.name))
    onnx.save(model, out)
    return OnnxModel(out)


def test_the_first_of_equally_likely_classes_wins(exported: dict[str, Exported], tmp_path: Path) -> None:
    model = with_head(exported["three classes"][2], [0.0, 2.0, 2.0], tmp_path / "tie.onnx")
    probabilities, mask = model(np.zeros((1, 2, 3, 3), np.uint8))
    # exp(0, 2, 2) = 1, 7.389, 7.389; sum 15.778
    np.testing.assert_allclose(probabilities[0, 0, 0], [0.06338, 0.46831, 0.46831], atol=1e-5)
    assert (mask == 1).all()


def test_a_single_probability_of_one_half_is_background(exported: dict[str, Exported], tmp_path: Path) -> None:
    model = with_head(exported["one sigmoid"][2], [0.0], tmp_path / "half.onnx")
    probabilities, mask = model(np.zeros((1, 2, 3, 4), np.uint8))
    assert probabilities.shape == (1, 2, 3, 1)
    assert (probabilities == 0.5).all()
    assert (mask == 0).all()


def test_versions_are_those_that_onnxruntime_reads_since_1_14(exported: dict[str, Exported]) -> None:
    model = onnx.load(exported["one sigmoid"][2])
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert model.ir_version == 8
    assert not model.functions


def test_the_metadata_is_the_labels(exported: dict[str, Exported]) -> None:
    _, facts, path = exported["three classes"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["flexunet_pl"]) == facts


def test_the_file_says_nothing_of_the_machine(exported: dict[str, Exported]) -> None:
    for _, _, path in exported.values():
        content = path.read_bytes()
        for trace in (str(Path.cwd()), str(Path(torch.__file__).parent), sys.prefix, "torch", ".py", "site-packages"):
            assert trace.encode() not in content, f"{path.name} tells {trace}"
        assert len(list(path.parent.glob(f"{path.name}*"))) == 1, "no data beside the file"


def test_transposed_convolutions_and_one_padding_stay(exported: dict[str, Exported]) -> None:
    kinds = [node.op_type for node in onnx.load(exported["three classes"][2]).graph.node]
    assert kinds.count("ConvTranspose") == 2
    assert kinds.count("Pad") == 1
    # The softmax reads what the transposition gives: along the last axis it is several times as fast.
    assert kinds.index("Transpose", 1) < kinds.index("Softmax")


def test_export_is_quiet_and_leaves_the_network_as_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = DroppingNetwork().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export_onnx(network, facts_of(network, 2), tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    probabilities, _ = OnnxModel(tmp_path / "model.onnx")(np.full((1, 8, 8, 3), 200, np.uint8))
    assert (probabilities == probabilities[0, 0, 0]).all(), "dropout is off in the file"

    def broken(*_: object, **__: object) -> None:
        raise onnx.checker.ValidationError("broken")

    monkeypatch.setattr(onnx.checker, "check_model", broken)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(onnx.checker.ValidationError):
        export_onnx(network, facts_of(network, 2), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir()), "a file that fails its check appears under no name"


def test_weights_beyond_one_file_are_refused_before_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "LARGEST_FILE", 10)
    network = nn.Conv2d(3, 1, 1)
    with pytest.raises(UserError, match=r"model\.onnx: .* GiB of weights; an ONNX file holds 2 GiB"):
        export_onnx(network, facts_of(network, 1), tmp_path / "model.onnx")


def test_a_file_with_other_weights_is_told_from_the_network(exported: dict[str, Exported]) -> None:
    network, facts, path = exported["three classes"]
    other = FlexUNet(3, settings=FlexUNetSettings(base_filters=4, base_kernel=5, num_layers=3))
    other.load_state_dict(network.state_dict())
    other.state_dict()["head.bias"].add_(torch.tensor([0.0, 0.002, 0.0]))
    message = r"onnxruntime and PyTorch disagree on noise of shape \[1, 1, \d, 3\], where at most 0\.0001 is allowed"
    with pytest.raises(UserError, match=message):
        verify_onnx(other, path, facts, [])


def test_not_a_number_is_no_agreement(exported: dict[str, Exported]) -> None:
    _, facts, path = exported["three classes"]
    other = FlexUNet(3, settings=FlexUNetSettings(base_filters=4, base_kernel=5, num_layers=3))
    other.state_dict()["head.bias"].fill_(float("nan"))
    with pytest.raises(UserError, match="disagree"):
        verify_onnx(other, path, facts, [])


def test_differences_are_counted() -> None:
    expected = np.array([[[[0.5, 0.3, 0.2], [0.4, 0.39995, 0.20005]], [[0.2, 0.2, 0.6], [0.1, 0.8, 0.1]]]], np.float32)
    result = expected.copy()
    result[0, 0, 1] = [0.39995, 0.4, 0.20005]  # undecided, and the other way round
    result[0, 1, 1] = [0.45, 0.45, 0.1]
    expected_mask = np.array([[[0, 1], [2, 1]]], np.uint8)
    mask = np.array([[[0, 0], [2, 0]]], np.uint8)
    difference = compared(result, mask, expected, expected_mask, margin=1e-4)
    assert difference.largest_probability_difference == pytest.approx(0.35)
    assert difference[1:] == (4, 2, 1)
    np.testing.assert_allclose(top_two_margin(expected)[0], [[0.2, 0.00005], [0.4, 0.7]], atol=1e-6)
    one_channel = np.array([[[[0.5], [0.9], [0.2]]]], np.float32)
    np.testing.assert_allclose(top_two_margin(one_channel), [[[0.0, 0.8, 0.6]]], atol=1e-6)
    with pytest.raises(ValueError, match="shapes"):
        compared(result[:, :1], mask, expected, expected_mask, margin=1e-4)
