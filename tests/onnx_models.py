"""Small ONNX files that keep the contract of exported graphs, and pictures to try them on."""

import csv
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy import ndimage

from flexunet_pl.data.palette import Palette
from flexunet_pl.inference.onnx_infer import Labels

UInt8Array = npt.NDArray[np.uint8]
PALETTE = Palette(("background", "crack", "oil"), ((0, 0, 0), (255, 0, 0), (0, 128, 255)))

FACTS: dict[str, Any] = {
    "format": 1,
    "version": "0.0",
    "classes": [
        {"name": name, "color": list(color)} for name, color in zip(PALETTE.names, PALETTE.colors, strict=True)
    ],
    "ignore": None,
    "num_classes": 3,
    "channels": 3,
    "image_size": [8, 8],
    "resize": "none",
    "sixteen_bit": None,
    "size_multiple": 1,
    "fixed_size": None,
    "checkpoint_sha256": "0" * 64,
    "network": "flexunet",
}
# One 1x1 convolution: the score of class k is a tenth of channel k, so the brightest channel is the class.
BRIGHTEST_CHANNEL = (np.eye(3) * 0.1)[:, :, None, None]
# The same of the mean over 15x15 pixels (zero beyond the border), so a tile sees 7 pixels less than it should.
BRIGHTEST_AROUND = np.tile(np.eye(3)[:, :, None, None] / 225 * 0.1, (1, 1, 15, 15))
RED, GREEN, BLUE = (200, 10, 10), (10, 200, 10), (10, 10, 200)


def labels(**changes: Any) -> Labels:
    return Labels.from_metadata({"flexunet_pl": json.dumps(FACTS | changes)}, "test")


def write_model(
    path: Path, weight: npt.NDArray[Any] = BRIGHTEST_CHANNEL, *, pool: int = 1, metadata: bool = True, **changes: Any
) -> Path:
    """Write an ONNX file of one convolution, after pooling if asked for, that keeps the contract of exported graphs."""
    facts = FACTS | changes
    classes = weight.shape[0]
    height, width = facts["fixed_size"] or ("h", "w")
    pad = weight.shape[2] // 2
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("MaxPool", ["planes"], ["small"], kernel_shape=[pool] * 2, strides=[pool] * 2),
        helper.make_node("Resize", ["small", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Conv", ["large", "weight"], ["logits"], pads=[pad] * 4),
        helper.make_node("Transpose", ["logits"], ["last"], perm=[0, 2, 3, 1]),
    ]
    if classes == 1:
        nodes += [
            helper.make_node("Sigmoid", ["last"], ["probabilities"]),
            helper.make_node("Greater", ["probabilities", "half"], ["above"]),
            helper.make_node("Squeeze", ["above", "axis"], ["chosen"]),
        ]
    else:
        nodes += [
            helper.make_node("Softmax", ["last"], ["probabilities"], axis=3),
            helper.make_node("ArgMax", ["last"], ["chosen"], axis=3, keepdims=0),
        ]
    nodes.append(helper.make_node("Cast", ["chosen"], ["mask"], to=TensorProto.UINT8))
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", height, width, weight.shape[1]])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", height, width, classes]),
            helper.make_tensor_value_info("mask", TensorProto.UINT8, ["n", height, width]),
        ],
        [
            numpy_helper.from_array(weight.astype(np.float32), "weight"),
            numpy_helper.from_array(np.array([1, 1, pool, pool], dtype=np.float32), "scales"),
            numpy_helper.from_array(np.array([0.5], dtype=np.float32), "half"),
            numpy_helper.from_array(np.array([3], dtype=np.int64), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        helper.set_model_props(model, {"flexunet_pl": json.dumps(facts)})
    onnx.save(model, path)
    return path


def picture(colors: list[list[tuple[int, int, int]]]) -> UInt8Array:
    return np.array(colors, dtype=np.uint8)


def noise(*shape: int, seed: int = 0) -> UInt8Array:
    """Return blotches of a few pixels, uint8, so that neighbouring pixels are alike as in photos."""
    values = np.random.default_rng(seed).standard_normal(shape)
    smooth = ndimage.gaussian_filter(values, (3, 3) + (0,) * (len(shape) - 2))
    return np.asarray((smooth - smooth.min()) / np.ptp(smooth) * 255, dtype=np.uint8)


def read_summary(out: Path) -> list[dict[str, str]]:
    with (out / "summary.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def png_16_bit_rgb(values: npt.NDArray[np.uint16]) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def scipy_tally(mask: UInt8Array) -> tuple[npt.NDArray[np.int64], ...]:
    pixels, regions, largest = (np.zeros(256, dtype=np.int64) for _ in range(3))
    for index in np.unique(mask):
        region_of, count = ndimage.label(mask == index, structure=np.ones((3, 3)))
        sizes = np.bincount(region_of.ravel())[1:]
        pixels[index], regions[index], largest[index] = sizes.sum(), count, sizes.max()
    return pixels, regions, largest
