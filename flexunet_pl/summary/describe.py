"""Describe a network: each layer with its cost, the blocks they form, the receptive field and memory."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

from flexunet_pl.summary.trace import Trace

# Wider than the receptive field of any network in use; on the meta device this costs only the column numbers.
REACH_WIDTH = 16_384
FLOAT_BYTES = 4


class Layer(NamedTuple):
    """One layer: its name, kind, kernel (0 without one), output (C, H, W), parameters, FLOPs for one image."""

    name: str
    kind: str
    kernel: int
    output: tuple[int, ...]
    parameters: int
    flops: int


class Block(NamedTuple):
    """Layers one after the other that work at one size.

    Attributes:
        channels: Of the last layer, the network's own last one left out.
        height: In pixels.
        width: In pixels.
        kernel: The largest one.
        layers: How many layers with weights.
        parameters: Of all of them.
        inputs: Numbers of the blocks it reads from.
    """

    channels: int
    height: int
    width: int
    kernel: int
    layers: int
    parameters: int
    inputs: frozenset[int]


class NetworkSummary(NamedTuple):
    """The description of a network for images (channels, height, width).

    Attributes:
        name: Of its class.
        image: (C, H, W).
        classes: Output channels.
        batch_size: Images in a training step.
        layers: In the order in which they work.
        blocks: What they form, in this order.
        parameters: Number of weights.
        views: How often the network sees an image: 2 with test-time augmentation.
        flops: For one image forward in all views, 2 for each multiplication with addition.
        receptive_field: The most pixels of a row that one output pixel depends on; None where that is unknown, and
            REACH_WIDTH or more where it is the whole image.
        inference_bytes: Weights, and the peak of intermediate results for one image in all views.
        training_bytes: Weights, their gradients, two averages for Adam, and the features kept for the backward pass.
    """

    name: str
    image: tuple[int, int, int]
    classes: int
    batch_size: int
    layers: tuple[Layer, ...]
    blocks: tuple[Block, ...]
    parameters: int
    views: int
    flops: int
    receptive_field: int | None
    inference_bytes: int
    training_bytes: int


def describe(network: nn.Module, image: tuple[int, int, int], batch_size: int = 1, *, views: int = 1) -> NetworkSummary:
    """Describe a network that maps images (N, C, H, W) to logits (N, K, H, W), for images of one size, in float32.

    Args:
        network: Any network; it is not changed.
        image: (C, H, W) of an image.
        batch_size: Images in a training step.
        views: How often the network sees each image when it predicts, in one pass.
    """
    shadow = _meta_copy(network).eval()
    for parameter in shadow.parameters():
        parameter.requires_grad_(False)
    weights = sum(one.numel() * one.element_size() for one in [*shadow.parameters(), *shadow.buffers()])
    layers, blocks, classes, flops, peak_bytes = _walk(shadow, image)
    wide = torch.zeros(1, image[0], image[1], REACH_WIDTH, device="meta")
    trace = Trace(wide)
    with trace:
        output = shadow(wide)
    reach = trace.reach(output)
    field = None if reach is None or trace.unknown else int(reach.sum(axis=0).max()) + 1
    return NetworkSummary(
        name=type(network).__name__,
        image=image,
        classes=classes,
        batch_size=batch_size,
        layers=tuple(layers),
        blocks=tuple(blocks),
        parameters=sum(one.numel() for one in shadow.parameters()),
        views=views,
        flops=views * flops,
        receptive_field=field,
        inference_bytes=weights + views * peak_bytes,
        training_bytes=4 * weights + batch_size * _kept_for_backward(network, image),
    )


def _meta_copy(network: nn.Module) -> nn.Module:
    """Return a copy of a network on the meta device, in float32; its weights are not copied."""
    weightless: dict[int, Any] = {}
    for one in [*network.parameters(), *network.buffers()]:
        empty = torch.empty_like(one, device="meta", dtype=torch.float32 if one.is_floating_point() else None)
        weightless[id(one)] = nn.Parameter(empty) if isinstance(one, nn.Parameter) else empty
    return copy.deepcopy(network, weightless)


def _walk(shadow: nn.Module, image: tuple[int, int, int]) -> tuple[list[Layer], list[Block], int, int, int]:
    """Run one image through the network; return its layers and blocks, and how many classes, FLOP and peak bytes."""
    picture = torch.zeros(1, *image, device="meta")
    trace = Trace(picture)
    layers: list[Layer] = []
    blocks: list[Block] = []
    channels: list[int] = []
    names = {module: name for name, module in shadow.named_modules()}

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        is_working = not list(module.children()) or module._parameters
        if not is_working or not isinstance(output, Tensor) or output.ndim != 4:
            return
        own = sum(one.numel() for one in module.parameters(recurse=False))
        kernel = max(getattr(module, "kernel_size", (0,))) if own else 0
        shape = tuple(output.shape[1:])
        layers.append(Layer(names[module], type(module).__name__, kernel, shape, own, 0))
        if not kernel or shape[1:] == (1, 1):  # a layer that only weighs channels belongs to the block around it
            return
        if not blocks or (blocks[-1].height, blocks[-1].width) != shape[1:]:
            blocks.append(Block(0, shape[1], shape[2], 0, 0, 0, frozenset()))
        channels.append(shape[0])
        last = blocks[-1]
        number = len(blocks) - 1
        blocks[-1] = last._replace(
            channels=shape[0],
            kernel=max(last.kernel, kernel),
            layers=last.layers + 1,
            parameters=last.parameters + own,
            inputs=last.inputs | trace.sources(inputs[0]) - {number},
        )
        trace.mark(output, number, blocks[-1].inputs)

    with register_module_forward_hook(record), FlopCounterMode(display=False) as counter, trace:
        classes = int(shadow(picture).shape[1])
    if blocks and blocks[-1].layers > 1:
        blocks[-1] = blocks[-1]._replace(channels=channels[-2])
    flops = {name.partition(".")[2]: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    layers = [layer._replace(flops=flops.get(layer.name, 0)) for layer in layers]
    return layers, blocks, classes, counter.get_total_flops(), trace.peak_bytes


def _kept_for_backward(network: nn.Module, image: tuple[int, int, int]) -> int:
    """Return the bytes of features that a training step keeps of each image for the backward pass."""
    shadow = _meta_copy(network).train()
    weights = {one.untyped_storage()._cdata for one in [*shadow.parameters(), *shadow.buffers()]}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # while it is held, its number is not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        shadow(torch.zeros(2, *image, device="meta"))  # two, since BatchNorm after a global mean refuses one
    return int(sum(storage.nbytes() for storage in kept.values())) // 2
