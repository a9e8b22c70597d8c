"""Weights of EfficientNets under the names of the package efficientnet_pytorch and its descendants."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

# Layers there and in timm, which numbers those of a block from the first one that is there: the blocks of the first
# stage do not expand their channels.
STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
    **SQUEEZE,
}
NOT_EXPANDING = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **SQUEEZE}

NAME = re.compile(r"(?:_blocks\.(\d+)\.)?(\w+)\.(\w+)")
TIMM_BLOCK = re.compile(r"model\.blocks\.(\d+)\.(\d+)\.")


def timm_names(weights: Mapping[str, Tensor], needed: Iterable[str]) -> dict[str, Tensor]:
    """Return the weights of stem and blocks under timm's names.

    Args:
        weights: Named as ``_conv_stem.weight`` and ``_blocks.3._bn0.bias``; others are left out.
        needed: The names that the encoder has, such as ``model.blocks.2.0.conv_pw.weight``: timm numbers the blocks of
            each stage.
    """
    blocks = sorted({(int(found[1]), int(found[2])) for found in map(TIMM_BLOCK.match, needed) if found})
    parts = {name: found.groups() for name in weights if (found := NAME.fullmatch(name))}
    expanding = {block for block, layer, _ in parts.values() if layer == "_expand_conv"}
    renamed = {}
    for name, (block, layer, kind) in parts.items():
        layers, place = STEM, ""
        if block is not None:
            layers = EXPANDING if block in expanding else NOT_EXPANDING
            place = "blocks.{}.{}.".format(*blocks[int(block)]) if int(block) < len(blocks) else ""
        if layer in layers:
            renamed[f"model.{place}{layers[layer]}.{kind}"] = weights[name]
    return renamed
