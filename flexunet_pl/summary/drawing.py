"""Draw a network: blocks from left to right, one level down per halving of the size, and the paths between them."""

import math
from typing import Any

import numpy as np

from flexunet_pl.data.palette import UInt8Array
from flexunet_pl.summary.describe import Block, NetworkSummary
from flexunet_pl.summary.text import gigaflop, megabytes, receptive_field

LEVEL = 1.7  # distance of two levels; a block is 1 high
LEGEND = "Above a block: channels. Below: size, layers with weights and their largest kernel. Dashed: skip connections."
DOWN, BRIDGE, UP, SKIP, INK = "#0072b2", "#cc79a7", "#e69f00", "#7a7a7a", "#202020"


def draw(found: NetworkSummary) -> UInt8Array:
    """Return the picture of a network, uint8 (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes half a second to import
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    levels = [_level(block, found) for block in found.blocks]
    deepest = max(levels)
    count = len(found.blocks)
    figure = Figure(figsize=(max(8.0, 1.05 * count + 2.2), 1.2 * deepest + 3.4), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = [(float(number), -LEVEL * level) for number, level in enumerate(levels)]
    bottom = levels.index(deepest)

    def arrow(start: tuple[float, float], end: tuple[float, float], color: str, style: str, bend: float) -> None:
        shape: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 11, "connectionstyle": f"arc3,rad={bend}"}
        line: dict[str, Any] = {"color": color, "linestyle": style, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
        axes.add_patch(FancyArrowPatch(start, end, **shape, **line))

    for number, (block, (x, y)) in enumerate(zip(found.blocks, places, strict=True)):
        half = _width(block) / 2
        color = DOWN if number < bottom else BRIDGE if number == bottom else UP
        box = FancyBboxPatch((x - half, y - 0.5), 2 * half, 1, boxstyle="round,pad=0,rounding_size=0.05")
        box.set(facecolor=color, edgecolor=INK, linewidth=0.8, alpha=0.9, zorder=3)
        axes.add_patch(box)
        axes.text(x, y + 0.55, f"{block.channels}", ha="center", va="bottom", fontsize=10, weight="bold", color=INK)
        axes.text(x, y - 0.55, _caption(block), ha="center", va="top", fontsize=7.5, color=INK, linespacing=1.2)
        for source in sorted(block.inputs):
            from_x, from_y = places[source]
            right = from_x + _width(found.blocks[source]) / 2
            if source == number - 1:
                arrow((right, from_y), (x - half, y), INK, "-", 0.0)
            else:  # a skip connection enters above the middle, bent if something stands between
                bend = 0.0 if from_y == y and not any(place[1] == y for place in places[source + 1 : number]) else -0.2
                arrow((right, from_y + 0.25), (x - half, y + 0.25), SKIP, "--", bend)
    channels, height, width = found.image
    (first_x, first_y), (last_x, last_y) = places[0], places[-1]
    axes.text(first_x - 0.8, first_y, f"image\n{channels} x\n{height} x {width}", ha="center", va="center", fontsize=8)
    arrow((first_x - 0.4, first_y), (first_x - _width(found.blocks[0]) / 2, first_y), INK, "-", 0.0)
    arrow((last_x + _width(found.blocks[-1]) / 2, last_y), (last_x + 0.45, last_y), INK, "-", 0.0)
    classes = f"{found.classes}\nclass{'es'[: 2 * (found.classes != 1)]}"
    axes.text(last_x + 0.75, last_y, classes, ha="center", va="center", fontsize=8)
    axes.set_xlim(-1.3, count + 0.2)
    axes.set_ylim(-LEVEL * deepest - 1.25, 1.1)
    axes.set_axis_off()
    figure.suptitle(_title(found), fontsize=11)
    figure.supxlabel(LEGEND, fontsize=8)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()


def _title(found: NetworkSummary) -> str:
    costs = f"{gigaflop(found.flops)}, {megabytes(found.inference_bytes)} for one image"
    field = receptive_field(found).split(":")[0]
    return f"{found.name}: {found.parameters / 1e6:.1f} million parameters, {costs}\nreceptive field: {field}"


def _level(block: Block, found: NetworkSummary) -> int:
    """Return how often the image was halved."""
    return max(0, round(math.log2(found.image[1] / max(block.height, 1))))


def _width(block: Block) -> float:
    """Return how wide a block is drawn: wider with each doubling of its channels."""
    return 0.12 + 0.045 * math.log2(max(block.channels, 1))


def _caption(block: Block) -> str:
    return f"{block.height} x {block.width}\n{block.layers} of {block.kernel} x {block.kernel}"
