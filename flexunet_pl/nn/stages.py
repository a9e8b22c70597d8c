"""What a network computes beside its logits: the cells of its head for whole images, and the encoder's features."""

from typing import NamedTuple

from torch import Tensor, nn

from flexunet_pl.nn.defect_head import logits_and_cells


class Outputs(NamedTuple):
    """What a network computes for images (N, C, H, W)."""

    logits: Tensor  # (N, K, H, W)
    cells: Tensor | None  # (N, 1, h, w) of :class:`DefectHead`, None without that head
    # The encoder's features (N, C_i, h_i, w_i) from fine to coarse; none where they are not in rows and columns.
    stages: list[Tensor]


def outputs_of(network: nn.Module, image: Tensor) -> Outputs:
    """Map an image (N, C, H, W), 0..255, to all that a network computes; without stages if it does not give them."""
    outputs = getattr(network, "outputs", None)
    if outputs is None:
        return Outputs(*logits_and_cells(network, image), [])
    found: Outputs = outputs(image)
    return found
