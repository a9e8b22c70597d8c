"""A network of the zoo as a list of Keras layers, from the operations that torch records when it runs."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from flexunet_pl.core.errors import UserError
from flexunet_pl.keras.chain import Call, Chain, NoCounterpart, StateTensor
from flexunet_pl.keras.contents import MAX_LAYERS
from flexunet_pl.keras.layers import KerasLayer
from flexunet_pl.keras.model_json import numbered_names
from flexunet_pl.keras.operations import BUILDERS
from flexunet_pl.nn.zoo import ZooNetwork

REPAIR = "use --formats onnx"
# Height and width of the traced image, in multiples of the network's; that they differ shows what depends on the size.
PROBE = (2, 3)
# Arguments of torch's operations that hold weights.
STATE = ("weight", "bias", "running_mean", "running_var")
PROBABILITIES, DEFECT_PROBABILITY = "probabilities", "defect_probability"


class Logits(nn.Module):
    """What a Keras model computes between its first layer, which normalises, and its last, which turns logits into
    probabilities. Its parts have the names they have in the network, so that the keys of weights are the same.
    """

    def __init__(self, network: ZooNetwork) -> None:
        """Take the parts of ``network``."""
        super().__init__()
        self.model = network.model
        self.defect_head: nn.Module | None = getattr(network, "defect_head", None)
        self.defect_gate: nn.Module | None = getattr(network, "defect_gate", None)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map normalised images (N, C, H, W) to logits (N, K, H, W) and, with a defect head, logits (N, 1)."""
        if self.defect_head is None:
            return (self.model(x),)
        model: Any = self.model
        features = model.encoder(x)
        logits: Tensor = model.segmentation_head(model.decoder(features))
        cells = self.defect_head(features[-1])
        if self.defect_gate is not None:
            logits = self.defect_gate(logits, cells)
        return logits, cells.amax((2, 3))


def traced_layers(network: ZooNetwork) -> list[KerasLayer]:
    """Return the Keras layers of ``network``, in the order in which Keras keeps the layers of such a model.

    The first output, of the layer ``probabilities``, is softmax, or sigmoid for one class. If the network has a
    ``defect_head`` there is a second one, (N, 1), of the layer ``defect_probability``.

    Raises:
        UserError: If the network computes something for which no layer of Keras is known here; the message names the
            layer and the operation.
    """
    program = _exported(network)
    sides = tuple(factor * network.size_multiple for factor in PROBE)
    chain = Chain()
    x = _normalised(chain, chain.input(network.in_channels, (sides[0], sides[1])), network)
    logits = _translated(chain, program, x)
    activation = "softmax" if network.num_classes > 1 else "sigmoid"
    outputs = [_activated(chain, logits[0], activation, PROBABILITIES)]
    if len(logits) > 1:
        outputs.append(_activated(chain, logits[1], "sigmoid", DEFECT_PROBABILITY))
    layers = _in_order_of_keras(chain.layers, outputs)
    if len(layers) > MAX_LAYERS:
        raise UserError(f"it has {len(layers)} layers, and a Keras file at most {MAX_LAYERS}; {REPAIR}")
    return layers


def _exported(network: ZooNetwork) -> torch.export.ExportedProgram:
    """Return the operations of ``network`` in evaluation mode, for one image."""
    height, width = (factor * network.size_multiple for factor in PROBE)
    image = torch.zeros(1, network.in_channels, height, width, dtype=network.mean.dtype, device=network.mean.device)
    with _evaluation_mode(network), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's internals
        try:
            return torch.export.export(Logits(network), (image,), strict=False)
        except Exception as error:  # torch raises nearly every kind over what it cannot record
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"torch cannot record what it computes ({reason}); {REPAIR}") from error


@contextlib.contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Switch ``network`` to evaluation mode, and each of its modules back to its own mode."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _normalised(chain: Chain, x: KerasLayer, network: ZooNetwork) -> KerasLayer:
    """Append the Rescaling that does ``(x - mean) / std``: two numbers where all channels share them, else lists."""
    means, stds = (tensor.flatten().tolist() for tensor in (network.mean, network.std))
    scale, offset = [1 / std for std in stds], [-mean / std for mean, std in zip(means, stds, strict=True)]
    if len({*zip(scale, offset, strict=True)}) == 1:
        return chain.add("Rescaling", (x,), {"scale": scale[0], "offset": offset[0]}, x.channels)
    return chain.add("Rescaling", (x,), {"scale": scale, "offset": offset}, x.channels)


def _translated(chain: Chain, program: torch.export.ExportedProgram, x: KerasLayer) -> list[KerasLayer]:
    """Append the layers for all operations of ``program`` on the image ``x``, and return those of its outputs."""
    signature = program.graph_signature
    keys = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    keys = {name: key for name, key in keys.items() if key not in signature.non_persistent_buffers}
    values: dict[fx.Node, KerasLayer | StateTensor] = {}
    for node in program.graph.nodes:
        if node.name in signature.user_inputs:
            values[node] = x
        elif node.name in keys:
            values[node] = StateTensor(keys[node.name], tuple(node.meta["val"].shape))
        elif node.op == "call_function":
            # torch lets whatever shares the memory of a tensor that was changed in place take the result.
            values[node] = _layer_of(chain, node, values)
    outputs = program.graph.output_node().args[0]
    return [layer for layer in map(values.get, outputs) if isinstance(layer, KerasLayer)]


def _operation(node: fx.Node) -> tuple[str, str]:
    """Return the name of the operation ``node`` in torch.ops.aten, and that of its overload."""
    name, _, overload = str(node.target).removeprefix("aten.").rpartition(".")
    return name, overload


def _layer_of(chain: Chain, node: fx.Node, values: dict[fx.Node, KerasLayer | StateTensor]) -> KerasLayer:
    """Append the layers for the operation ``node`` and return the last."""
    name, overload = _operation(node)
    name = name.removesuffix("_")
    try:
        if f"{name}.{overload}" not in BUILDERS:
            raise NoCounterpart("no layer of Keras that is known here does that")
        layer = BUILDERS[f"{name}.{overload}"](chain, Call(_arguments(node, values), tuple(node.meta["val"].shape[2:])))
    except NoCounterpart as error:
        raise UserError(f"the layer {_place(node)} computes {name}: {error}; {REPAIR}") from error
    sides, channels = tuple(node.meta["val"].shape[2:]), node.meta["val"].shape[1]
    if (chain.sides[layer.name], layer.channels) != (sides, channels):
        found = f"{layer.channels} channels of {chain.sides[layer.name]}"
        raise RuntimeError(f"{_place(node)} gives {channels} channels of {sides}, Keras' {layer.kind} {found}")
    return layer


def _arguments(node: fx.Node, values: dict[fx.Node, KerasLayer | StateTensor]) -> dict[str, Any]:
    """Return the arguments of the operation ``node`` by name, defaults included, with ``values`` for tensors."""
    target: Any = node.target
    known = {argument.name: argument for argument in target._schema.arguments}
    arguments = {name: argument.default_value for name, argument in known.items() if argument.has_default_value()}
    arguments |= {**dict(zip(known, node.args, strict=False)), **node.kwargs}

    def find(tensor: fx.Node) -> Any:
        if tensor not in values:
            raise NoCounterpart("it computes with a constant that is no weight")
        return values[tensor]

    arguments = {name: fx.node.map_arg(value, find) for name, value in arguments.items()}
    for name, argument in known.items():
        is_tensor = str(argument.type) in ("Tensor", "Optional[Tensor]")
        wanted = StateTensor if name in STATE else KerasLayer
        if is_tensor and not isinstance(arguments[name], wanted | None):
            raise NoCounterpart(f"{name} is {'computed' if name in STATE else 'a constant or a weight'}")
    return arguments


def _place(node: fx.Node) -> str:
    """Return the name and the class of the innermost module that calls the operation ``node``."""
    modules = [*node.meta.get("nn_module_stack", {}).values()]
    if not modules:
        return node.name
    name, kind = modules[-1]
    kind = kind if isinstance(kind, str) else kind.__name__
    return f"{name} ({kind.rpartition('.')[2]})"


def _activated(chain: Chain, logits: KerasLayer, activation: str, name: str) -> KerasLayer:
    """Turn ``logits`` into probabilities, in the convolution that computes them, or else in a layer of its own.

    The layer is called ``name``.
    """
    takers = [layer for layer in chain.layers.values() if logits.name in layer.inputs]
    if logits.kind == "Conv2D" and not takers:
        del chain.layers[logits.name]
        layer = dataclasses.replace(logits, name=name, options=logits.options | {"activation": activation})
    else:
        layer = KerasLayer("Activation", name, (logits.name,), {"activation": activation}, logits.channels)
    chain.layers[name] = layer
    return layer


def _in_order_of_keras(layer_of: dict[str, KerasLayer], outputs: list[KerasLayer]) -> list[KerasLayer]:
    """Return the layers that ``outputs`` need, sorted and named as Keras does when it builds the model.

    Keras sorts by the number of layers on the longest way to an output, farthest first, then by the order in which a
    depth-first search from the outputs meets them. Files of weights number the layers of each class in this order.
    """
    met: dict[str, int] = {}
    waiting = [layer.name for layer in reversed(outputs)]
    while waiting:
        name = waiting.pop()
        if name not in met:
            met[name] = len(met)
            waiting.extend(reversed(layer_of[name].inputs))
    depths = dict.fromkeys(met, 0)
    # Layers were made after their inputs, but for those that got their activation late and feed no other.
    for name in reversed([*layer_of]):
        for source in layer_of[name].inputs if name in met else ():
            depths[source] = max(depths[source], depths[name] + 1)
    ordered = sorted(met, key=lambda name: (-depths[name], met[name]))
    layers = [layer_of[name] for name in ordered]
    kept = {layer.name for layer in outputs}
    names = {old: old if old in kept else new for old, new in zip(ordered, numbered_names(layers), strict=True)}
    return [
        dataclasses.replace(layer, name=names[layer.name], inputs=tuple(names[x] for x in layer.inputs))
        for layer in layers
    ]
