"""The description of a network as text."""

from flexunet_pl.core.console import table
from flexunet_pl.summary.describe import FLOAT_BYTES, REACH_WIDTH, NetworkSummary

HEADERS = ("layer", "kind", "kernel", "output (C x H x W)", "parameters", "GFLOP")


def as_text(found: NetworkSummary) -> str:
    """Return the table of layers, and their sums below it."""
    rows = [
        (
            layer.name,
            layer.kind,
            f"{layer.kernel}x{layer.kernel}" if layer.kernel else "",
            " x ".join(map(str, layer.output)),
            layer.parameters or "",
            layer.flops / 1e9 or "",
        )
        for layer in found.layers
    ]
    channels, height, width = found.image
    head = f"{found.name}: {found.classes} output channels from images of {channels} x {height} x {width}"
    return "\n".join([head, "", table(HEADERS, rows), "", *_sums(found)]) + "\n"


def _sums(found: NetworkSummary) -> list[str]:
    _, height, width = found.image
    weights = f"{found.parameters:,} ({megabytes(found.parameters * FLOAT_BYTES)} in float32)"
    images = f"{found.batch_size} image{'s'[: found.batch_size != 1]}"
    views = "" if found.views == 1 else f" in {found.views} views (model.tta)"
    flops = f"{gigaflop(found.flops)} forward for one image of {height} x {width}{views}"
    training = megabytes(found.training_bytes)
    return [
        f"parameters        {weights}",
        f"FLOP              {flops}; a multiply-add counts as 2",
        f"receptive field   {receptive_field(found)}",
        f"inference memory  {megabytes(found.inference_bytes)}: weights, and the peak of features for one image",
        f"training memory   {training}: weights, gradients, Adam's two averages, features of {images}",
        "                  (both in float32, without the workspace of kernels)",
    ]


def receptive_field(found: NetworkSummary) -> str:
    """Say how much of an image one output pixel depends on."""
    if found.receptive_field is None:
        return "unknown: the network has operations that mix all pixels, such as attention"
    if found.receptive_field >= REACH_WIDTH:
        return "the whole image"
    return f"{found.receptive_field} pixels: the most of a row that one output pixel depends on"


def gigaflop(count: int) -> str:
    """Return a number of operations in GFLOP or MFLOP."""
    return f"{count / 1e9:.1f} GFLOP" if count >= 1e8 else f"{count / 1e6:.2f} MFLOP"


def megabytes(count: int) -> str:
    """Return a number of bytes in kB, MB or GB."""
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
