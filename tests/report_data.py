"""Small data for reports: images whose brightest channel tells the class, so that a drawn ONNX file is the model."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from onnx_models import BLUE, GREEN, PALETTE, RED
from PIL import Image

from flexunet_pl.data.palette import UInt8Array

# What the model of onnx_models makes of a pixel: red is class 0, green 1, blue 2.
PAINT = np.array([RED, GREEN, BLUE], dtype=np.uint8)


def write_case(folder: Path, name: str, truth: UInt8Array, shown: UInt8Array) -> None:
    """Write an image that looks like the classes ``shown`` (H, W), and its truth uint8 (H, W) as an index PNG."""
    for kind, picture in (("images", Image.fromarray(PAINT[shown])), ("masks", Image.fromarray(truth))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        picture.save(folder / kind / f"{name}.png")


def write_cases(root: Path, split: str = "test", count: int = 8, size: tuple[int, int] = (24, 20)) -> None:
    """Write images with a square of class 1 or 2, or none in every fourth; every second one is shown a bit off."""
    for number in range(count):
        truth = np.zeros(size, dtype=np.uint8)
        if number % 4:
            truth[4:12, 3 : 5 + 2 * number] = 1 + number % 2
        write_case(root / split, f"part{number}", truth, np.roll(truth, number % 2 * (1 + number // 4), 0))
    PALETTE.save(root / "palette.yaml")


class Numbers(HTMLParser):
    """Reads what a page shows.

    Attributes:
        by_key: Text by JSON pointer, of every element that says which number it shows.
        loose: Texts of cells and boxes with a digit in them that no such element holds.
    """

    VOID = ("meta", "img", "input", "br", "line", "rect", "circle", "polyline", "link")
    # Where numbers may stand that are no results: names, headings, pictures, how the report was made.
    EXEMPT = ("style", "script", "svg", "h1", "h2", "h3", "th", "a", "code", "option", "title", "figcaption")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.by_key: dict[str, str] = {}
        self.loose: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self._open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Pass over ``<rect/>``, which holds nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        key = self._open[-1][1].get("data-key") if self._open else None
        if key is not None:
            assert self.by_key.setdefault(key, data) == data
        elif any(tag == "td" and "number" in (facts.get("class") or "") for tag, facts in self._open) or any(
            facts.get("class") in ("figure", "card") for _, facts in self._open
        ):
            if any(tag in self.EXEMPT for tag, _ in self._open) or _explains(self._open):
                return
            if any(letter.isdigit() for letter in data):
                self.loose.append(data)


def _explains(parents: list[tuple[str, dict[str, str | None]]]) -> bool:
    """Tell whether a text is the title of a box or the words beside a number."""
    return parents[-1][0] == "div" and parents[-1][1].get("class") != "figure"


def look_up(scores: Any, key: str) -> Any:
    """Return what a JSON pointer stands for."""
    for part in key.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        scores = scores[int(part)] if isinstance(scores, list) else scores[part]
    return scores
