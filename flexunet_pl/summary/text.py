"""The description of a network as text."""

from flexunet_pl.summary.describe import FLOAT_BYTES, REACH_WIDTH, NetworkSummary

HEADERS = ("layer", "kind", "kernel", "output (C x H x W)", "parameters", "GFLOP")


def as_text(found: NetworkSummary) -> str:
    """Return the table of layers, and below it what they add up to."""
    rows = [
        (
            layer.name,
            layer.kind,
            f"{layer.kernel}x{layer.kernel}" if layer.kernel else "",
            " x ".join(str(side) for side in layer.output),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.flops / 1e9:.3f}" if layer.flops else "",
        )
        for layer in found.layers
    ]
    widths = [max(len(cell) for cell in column) for column in zip(HEADERS, *rows, strict=True)]

    def line(cells: tuple[str, ...]) -> str:
        texts = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(texts).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([*_head(found), "", line(HEADERS), rule, *(line(row) for row in rows), rule, *_foot(found)]) + "\n"


def _head(found: NetworkSummary) -> list[str]:
    channels, height, width = found.image
    return [f"{found.name}: {found.classes} output channels from images of {channels} x {height} x {width}"]


def _foot(found: NetworkSummary) -> list[str]:
    _, height, width = found.image
    weights = f"{found.parameters:,} ({megabytes(found.parameters * FLOAT_BYTES)} in float32)"
    images = f"{found.batch_size} image{'s'[: found.batch_size != 1]}"
    flops = f"{gigaflop(found.flops)} forward for one image of {height} x {width}"
    training = megabytes(found.training_bytes)
    return [
        f"parameters        {weights}",
        f"FLOP              {flops}; a multiplication with the addition after it counts as 2",
        f"receptive field   {receptive_field(found)}",
        f"inference memory  {megabytes(found.inference_bytes)}: weights, and the most that one image needs at once",
        f"training memory   {training}: weights, gradients, Adam's two averages, features of {images} to go back",
        "                  (both in float32, without what the kernels need as workspace)",
    ]


def receptive_field(found: NetworkSummary) -> str:
    """Say how much of an image one output pixel depends on."""
    if found.receptive_field is None:
        return "not known: the network has operations whose reach cannot be followed, such as attention"
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
