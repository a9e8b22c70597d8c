"""Export a network as one ONNX file that maps raw images to probabilities and masks."""

import contextlib
import io
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from flexunet_pl import __version__
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import atomic_path
from flexunet_pl.nn.defect_head import image_logit
from flexunet_pl.nn.drift import DriftScore
from flexunet_pl.nn.stages import outputs_of

# torch's exporter writes 18 and converts for any other opset; onnxruntime reads 18 with IR 8 since 1.14.
OPSET = 18
IR_VERSION = 8
METADATA_KEY = "flexunet_pl"
OUTPUTS, DEFECT_OUTPUT, DRIFT_OUTPUT = ("probabilities", "mask"), "defect_probability", "drift_score"
LARGEST_FILE = 2**31 - 2**20  # a protobuf file ends at 2 GiB; the graph itself stays far below 1 MiB


class MaskingNetwork(nn.Module):
    """A network with the inputs and outputs of the exported graph: raw images -> probabilities, masks and so on."""

    def __init__(self, network: nn.Module, num_classes: int, drift: DriftScore | None = None) -> None:
        """Wrap ``network``, which maps images (N, C, H, W), 0..255, to logits (N, K, H, W), perhaps cells and stages.

        ``drift`` scores the stages.
        """
        super().__init__()
        self.drift = drift
        self.network = network
        self.num_classes = num_classes

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map an image uint8 (N, H, W, C) to probabilities float32 (N, H, W, K) and a mask uint8 (N, H, W).

        If the network has a head for whole images, the third output is the probability float32 (N,) of a defect. The
        last one is the drift score float32 (N,), if there is one.
        """
        logits, cells, stages = outputs_of(self.network, image.permute(0, 3, 1, 2))
        head = () if cells is None else (image_logit(cells).sigmoid(),)
        head += () if self.drift is None else (self.drift(stages),)
        if self.num_classes == 1:
            probability = logits.sigmoid()
            return probability.permute(0, 2, 3, 1), (probability[:, 0] > 0.5).to(torch.uint8), *head
        # Transposed before the softmax and not after: onnxruntime's softmax is three times as fast along the last axis.
        return logits.permute(0, 2, 3, 1).softmax(-1), logits.argmax(1).to(torch.uint8), *head

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs."""
        has_head = getattr(self.network, "defect_head", None) is not None
        return [*OUTPUTS, *[DEFECT_OUTPUT][:has_head], *[DRIFT_OUTPUT][: self.drift is not None]]


def export_onnx(network: nn.Module, facts: Mapping[str, Any], path: Path, drift: DriftScore | None = None) -> None:
    """Write ``network`` as an ONNX file: `image` uint8 (N, H, W, C) -> `probabilities` (N, H, W, K), `mask` (N, H, W).

    If the network has a head for whole images, there is a third output, `defect_probability` (N,); with ``drift``
    there is also `drift_score` (N,).
    N, H and W are free, unless ``facts["fixed_size"]`` gives the one height and width the network takes. The file
    contains no trace of the machine that wrote it.

    Args:
        network: Maps images uint8 (N, C, H, W) to logits (N, K, H, W) of any size, padding and cropping by itself; on
            the CPU. It is not changed.
        facts: The content of labels.json; it goes into the file's metadata under "flexunet_pl".
        path: The file to write.
        drift: What scores how far images are from the training set.

    Raises:
        UserError: If the weights are too large for one file.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if weights > LARGEST_FILE:
        size = f"{weights / 2**30:.1f} GiB"
        raise UserError(f"{path}: {size} of weights; an ONNX file holds 2 GiB, export a smaller network")
    model = _traced(network, facts, drift)
    _remove_traces(model)
    _describe(model, facts)
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)
        onnx.checker.check_model(temporary, full_check=True)


def _traced(network: nn.Module, facts: Mapping[str, Any], drift: DriftScore | None) -> onnx.ModelProto:
    """Export the network in evaluation mode, with nothing printed."""
    multiple = facts["size_multiple"]
    # No side is 0, 1, a multiple, or equal to another: torch would specialise the graph to such a size.
    height, width = facts["fixed_size"] or (2 * multiple + 3, 3 * multiple + 5)
    image = torch.zeros(2, height, width, facts["channels"], dtype=torch.uint8)
    dynamic = {0: "batch"}  # torch 2.9 refuses torch.export.Dim here, which must hold for every size without exception
    if facts["fixed_size"] is None:
        dynamic |= {1: "height", 2: "width"}
    was_training = network.training
    masking = MaskingNetwork(network, facts["num_classes"], drift).eval()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's internals; the file is verified against the network
            program = torch.onnx.export(
                masking,
                (image,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=["image"],
                output_names=masking.output_names,
                dynamic_shapes=(dynamic,),
            )
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        sizes = "free sizes" if facts["fixed_size"] is None else f"{height}x{width} pixels"
        raise UserError(f"torch cannot export this network with {sizes} ({reason}); train another network") from error
    finally:
        network.train(was_training)
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    return program.model_proto


def _remove_traces(message: Any) -> None:
    """Clear the exporter's notes, such as file names, in a protobuf message and all messages within."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            for part in value if isinstance(value, Iterable) else (value,):
                _remove_traces(part)


def _describe(model: onnx.ModelProto, facts: Mapping[str, Any]) -> None:
    """Name the sizes, the producer and the versions, and store the facts."""
    height, width = facts["fixed_size"] or ("height", "width")
    sizes: dict[str, list[str | int]] = {
        "image": ["batch", height, width, facts["channels"]],
        "probabilities": ["batch", height, width, facts["num_classes"]],
        "mask": ["batch", height, width],
        DEFECT_OUTPUT: ["batch"],
        DRIFT_OUTPUT: ["batch"],
    }
    for tensor in [*model.graph.input, *model.graph.output]:
        kind = tensor.type.tensor_type.elem_type
        tensor.CopyFrom(onnx.helper.make_tensor_value_info(tensor.name, kind, sizes[tensor.name]))
    del model.graph.value_info[:]  # the sizes in between, as formulas only torch reads
    model.graph.name = METADATA_KEY
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = METADATA_KEY, __version__
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(facts, ensure_ascii=False)})
