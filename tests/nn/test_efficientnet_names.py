"""The names of efficientnet_pytorch are those of timm, block by block."""

import torch

from flexunet_pl.nn.efficientnet_names import timm_names


def test_blocks_are_counted_within_stages_and_layers_within_blocks() -> None:
    needed = [f"model.blocks.{stage}.{block}.conv_dw.weight" for stage, block in ((0, 0), (1, 0), (1, 1), (10, 0))]
    names = {
        "_conv_stem.weight": "model.conv_stem.weight",
        "_bn0.running_var": "model.bn1.running_var",
        "_blocks.0._depthwise_conv.weight": "model.blocks.0.0.conv_dw.weight",
        "_blocks.0._bn1.bias": "model.blocks.0.0.bn1.bias",
        "_blocks.0._project_conv.weight": "model.blocks.0.0.conv_pw.weight",
        "_blocks.2._expand_conv.weight": "model.blocks.1.1.conv_pw.weight",
        "_blocks.2._bn0.bias": "model.blocks.1.1.bn1.bias",
        "_blocks.2._bn1.bias": "model.blocks.1.1.bn2.bias",
        "_blocks.2._se_reduce.bias": "model.blocks.1.1.se.conv_reduce.bias",
        "_blocks.2._project_conv.weight": "model.blocks.1.1.conv_pwl.weight",
        "_blocks.3._bn2.bias": "model.blocks.10.0.bn2.bias",
    }
    weights = {name: torch.tensor(float(index)) for index, name in enumerate(names)}
    others = {"_fc.weight": torch.zeros(1), "_conv_head.weight": torch.zeros(1), "layer1.0.bn1.bias": torch.zeros(1)}
    renamed = timm_names(weights | others, needed)
    assert renamed == {names[name]: value for name, value in weights.items()}
    assert timm_names({"blocks.0.norm1.weight": torch.zeros(1)}, ["model.blocks.0.norm1.weight"]) == {}
