"""Segment images with an exported FlexUNet: one file that needs numpy, Pillow and onnxruntime, nothing else."""

import contextlib
import csv
import difflib
import glob
import io
import itertools
import json
import math
import os
import sys
import threading
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int64]
Size = tuple[int, int]  # (height, width)
Run = Callable[[UInt8Array], Any]  # images uint8 (N, H, W, C) -> a mapping of OUTPUTS and perhaps the other two
Predict = Callable[[UInt8Array], FloatArray]  # image uint8 (1, h, w, C) -> probabilities float32 (1, h, w, K)
Result = tuple[list[Any], "Decision"]  # rows of summary.csv on a file, and its decision

METADATA_KEY, METADATA_FORMAT = "flexunet_pl", 1
OUTPUTS, DEFECT_OUTPUT, DRIFT_OUTPUT = ("probabilities", "mask"), "defect_probability", "drift_score"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".npy")
BITS, PHOTOMETRIC, ORIENTATION, KIND, TIFF_TILE = 258, 262, 274, 339, (322, 323)  # tags of TIFF
KINDS, YCBCR_JPEG, LEAST_SIDE = {1: "unsigned", 2: "signed", 3: "floating-point"}, (6, 7), 16
MODE_OF_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
DEEP_REPAIR = "convert it to 8 bits, or set data.sixteen_bit to full_range (0..65535 -> 0..255) or min_max (grey only)"
RESIZE_RULES, SIXTEEN_BIT_RULES = ("stretch", "letterbox", "none"), (None, "full_range", "min_max")
EXTRAS = {
    "colors": "also write the masks as RGB, to DIR/colors",
    "overlays": "also write the images with the classes painted over them, to DIR/overlays",
    "probabilities": "also write the probabilities (h, w, K) at the network's size, to DIR/probabilities/NAME.npz",
}
OF_CLASS = ("file", "class", "pixels", "share", "regions", "largest_region", "highest_probability")
SUMMARY_HEADER = (*OF_CLASS, DEFECT_OUTPUT, "decision", "uncertainty", DRIFT_OUTPUT)  # the last ones are on an image
DRIFT_BORDER, CONTESTED = 1.0, 0.05  # of a drift score; P(defect) from which a pixel counts in the uncertainty
# Sizes of a region, which rules limit as max_SIZE, and the power of mm per pixel in them.
SIZES = {"area_px": 0, "length_px": 0, "width_px": 0, "area_mm2": 2, "length_mm": 1, "width_mm": 1}
RULE_KEYS, MOST_REGIONS = ("class", *(f"max_{size}" for size in (*SIZES, "count")), "decision"), 1000  # the largest
IGNORE_INDEX, DEFAULT_MAX_PIXELS, DEFAULT_OVERLAP = 255, 100_000_000, 128  # docs/inference.md measures the overlap
UNBLENDED_SHARE = 0.25  # of an overlap: this much at either end is left to the tile that sees further beyond it
MASK_TILE, BAND_PIXELS, TIFF_BYTES, WORKERS = 256, 1 << 20, 1 << 24, 3  # TIFF_BYTES are read or written at a time
_pillow_limit = threading.Lock()


class InferenceError(ValueError):
    """A mistake the user can fix; the message names the file or option, the problem and the fix."""


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn any exception of a decoder or an engine into an InferenceError that starts with ``what``."""
    try:
        yield
    except InferenceError:
        raise
    except Exception as error:
        raise InferenceError(f"{what} ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})") from error


class Region(NamedTuple):
    """An 8-connected region of a class; length and width are the sides of the smallest rectangle around its pixels."""

    name: str  # of the class
    area: int  # pixels
    length: float  # pixels, the longer side
    width: float  # pixels
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels; the last two are exclusive
    confidence: float  # mean probability of the class over the region, 0..1
    is_allowed: bool = False  # by a rule

    def to_mapping(self, scale: float | None) -> dict[str, Any]:
        """Return plain data, with the SIZES in pixels and, with a scale in mm per pixel, in mm and mm2."""
        sizes = {size: getattr(self, size.split("_")[0]) * (scale or 1) ** power for size, power in SIZES.items()}
        sizes = {size: round(sizes[size], 6) for size in sizes if scale is not None or not SIZES[size]}
        facts = {"box": self.box, "confidence": round(self.confidence, 6), "is_allowed": self.is_allowed}
        return {"class": self.name, **sizes, **facts}


class Decision(NamedTuple):
    """Whether a piece, the object in an image, is good."""

    verdict: str  # OK or NG
    score: float  # the probability that the image shows any defect, 0..1
    regions: tuple[Region, ...] | None  # the largest first; None of a mask that never was whole in memory


class Acceptance(NamedTuple):
    """When a piece is good: its score is below the threshold, or it has regions and rules allow all of them."""

    threshold: float = 0.5
    statement: str = "no escape rate is known for it; flexunet decide RUN chooses it on validation images"
    mm_per_pixel: float | None = None
    rules: tuple[Mapping[str, Any], ...] = ()

    def changed(self, names: Sequence[str], origin: str, **changes: Any) -> "Acceptance":
        """Return a copy with checked changes, for classes ``names``; InferenceError that begins with ``origin``."""
        new = self._replace(**{key: value for key, value in changes.items() if key in self._fields})
        _check_number(new.threshold, f"{origin}: the threshold", 0, 1)
        _check_number(1 if new.mm_per_pixel is None else new.mm_per_pixel, f"{origin}: mm per pixel", 1e-9, 1e9)
        new = new._replace(rules=tuple(new.rules) if isinstance(new.rules, list | tuple) else (new.rules,))
        for number, rule in enumerate(new.rules, 1):
            _check_rule(rule, names[1:], new.mm_per_pixel, f"{origin}: rule {number}")
        is_as_known = new.rules == self.rules and (new.mm_per_pixel == self.mm_per_pixel or not new.rules)
        if "statement" not in changes and not is_as_known:
            new = new._replace(statement="no escape rate is known for these rules")
        return new

    def allow(self, regions: Iterable[Region]) -> tuple[Region, ...]:
        """Mark the regions of a piece that a rule allows: within all its limits, and at most ``max_count`` of them."""
        marked = [region._replace(is_allowed=False) for region in regions]
        for rule in self.rules:
            own = [(i, one.to_mapping(self.mm_per_pixel)) for i, one in enumerate(marked) if one.name == rule["class"]]
            within = [i for i, one in own if all(one[key[4:]] <= rule[key] for key in rule if key[4:] in SIZES)]
            for place in within if len(within) <= rule.get("max_count", math.inf) else ():
                marked[place] = marked[place]._replace(is_allowed=True)
        return tuple(marked)

    def decide(self, score: float, regions: Sequence[Region] | None) -> Decision:
        """Decide by the probability of a defect and :func:`find_regions`; without regions no rule allows any."""
        marked = None if regions is None else self.allow(regions)
        is_allowed = marked is not None and 0 < len(marked) < MOST_REGIONS and all(one.is_allowed for one in marked)
        return Decision("OK" if score < self.threshold or is_allowed else "NG", score, marked)

    def to_mapping(self, decisions: Mapping[str, Decision]) -> dict[str, Any]:
        """Return the content of decisions.json: a summary, how pieces are decided, and each decision by its file."""
        pieces = dict[str, Any]()
        for file, (verdict, score, regions) in decisions.items():
            listed = None if regions is None else [region.to_mapping(self.mm_per_pixel) for region in regions]
            classes = listed and list(dict.fromkeys(one["class"] for one in listed if not one["is_allowed"]))
            pieces[file] = {"decision": verdict, "score": round(score, 6), "classes": classes, "regions": listed}
        bad = sum(decision.verdict == "NG" for decision in decisions.values())
        summary = f"NG {bad} of {len(decisions)} (threshold {self.threshold:.4g}: {self.statement})"
        return {"summary": summary, **self._asdict(), "pieces": pieces}


def _check_number(value: Any, what: str, low: float, high: float) -> None:
    if type(value) not in (int, float) or not low <= value <= high:
        raise InferenceError(f"{what} {value!r} must be a number, {low:g}..{high:g}")


def _check_rule(rule: Any, names: Sequence[str], scale: float | None, place: str) -> None:
    if not isinstance(rule, Mapping) or "class" not in rule:
        raise InferenceError(f"{place}: {rule!r} must be a map with a class, such as class: {names[0]}")
    words = [("key", key, RULE_KEYS) for key in rule] + [("class", rule["class"], tuple(names))]
    for kind, word, known in [*words, ("decision", rule.get("decision", "ok"), ("ok",))]:
        if word not in known:
            nearest = difflib.get_close_matches(str(word), known, 1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"choose from {', '.join(known)}"
            raise InferenceError(f"{place}: {kind} {word!r} is unknown; {hint}")
    for key, limit in rule.items():
        if key.startswith("max_"):
            _check_number(limit, f"{place}: {key}", 0, 1e9)
        if "_mm" in key and scale is None:
            raise InferenceError(f"{place}: {key} needs --mm-per-pixel, the side of a pixel in mm; or limit pixels")


class Labels(NamedTuple):
    """The metadata of an exported model."""

    names: tuple[str, ...]  # of the classes by index; the first is the background
    colors: tuple[tuple[int, int, int], ...]  # (red, green, blue), 0..255, for each name
    ignore: tuple[int, int, int] | None  # colour of ignored pixels (index 255, never predicted)
    num_classes: int  # channels K of the probabilities; 1 is a single sigmoid channel for the second class
    channels: int  # channels C of an image
    image_size: Size  # the working size, and how an image gets there:
    resize: str  # "stretch", "letterbox" (longest side, then padded) or "none" (native size)
    sixteen_bit: str | None  # how 16-bit images become 8-bit: "full_range", "min_max", or None, which refuses them
    size_multiple: int  # tiles start at multiples of this, so they are pooled like the whole image
    fixed_size: Size | None  # the only size the network accepts, or None
    min_region_area: int  # defects of fewer pixels become background, in a mask at the image's own size
    acceptance: Acceptance = Acceptance()  # how pieces are decided

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], origin: str) -> "Labels":
        """Read the labels of the model file ``origin``; InferenceError if a fact is missing or malformed."""
        with _explained(f"{origin}: its metadata {METADATA_KEY!r} (palette) is missing or incomplete; export again"):
            facts = json.loads(metadata[METADATA_KEY])
            if facts["format"] != METADATA_FORMAT:
                raise ValueError(f"format {facts['format']} is not {METADATA_FORMAT}, which this program reads")
            facts["min_region_area"] = int(facts.get("min_region_area", facts.get("smallest_region", 0)))
            facts["resize"] = {"keep": "letterbox"}.get(facts["resize"], facts["resize"])  # its older name, as above
            facts["names"] = [entry["name"] + "" for entry in facts["classes"]]  # what is no text raises a TypeError
            facts["colors"] = [tuple(entry["color"]) for entry in facts["classes"]]
            decided = facts.get("decision") or {}
            facts["acceptance"] = Acceptance().changed(facts["names"], f"{origin}: its decision", **decided)
            labels = cls._make(tuple(v) if isinstance(v := facts[name], list) else v for name in cls._fields)
            has_classes = 2 <= len(labels.names) <= IGNORE_INDEX and labels.num_classes in (1, len(labels.names))
            if not has_classes or labels.resize not in RESIZE_RULES or labels.sixteen_bit not in SIXTEEN_BIT_RULES:
                found = f"resize {labels.resize!r} and sixteen_bit {labels.sixteen_bit!r}"
                raise ValueError(f"num_classes {labels.num_classes} with {len(labels.names)} names, {found}")
            whole = (labels.num_classes, labels.channels, labels.size_multiple, labels.min_region_area + 1)
            sizes = [labels.image_size, labels.image_size if labels.fixed_size is None else labels.fixed_size]
            colors = [*labels.colors, labels.colors[0] if labels.ignore is None else labels.ignore]
            for rows, count, low, high in ([whole], 4, 1, 1 << 31), (sizes, 2, 1, 1 << 14), (colors, 3, 0, 255):
                if not all(len(row) == count and all(type(v) is int and low <= v <= high for v in row) for row in rows):
                    raise ValueError(f"{rows} must be {count} whole numbers each, {low}..{high}")
        return labels

    def color_table(self) -> UInt8Array:
        """Return the colour of each index, uint8 (256, 3); magenta where there is no class."""
        table = np.full((256, 3), (255, 0, 255), dtype=np.uint8)
        table[: len(self.colors)] = self.colors
        table[IGNORE_INDEX] = (255, 255, 255) if self.ignore is None else self.ignore
        return table


@contextlib.contextmanager
def open_image(path: Path, max_pixels: int, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open an image file, or its content, not decoded yet; InferenceError if it is none, or above the limit."""
    with contextlib.ExitStack() as opened, _explained(f"{path}: cannot be read as an image; replace the file"):
        # Not opened by its path: Pillow would map a turned TIFF into memory with its sides exchanged.
        file: IO[bytes] = opened.enter_context(path.open("rb") if content is None else io.BytesIO(content))
        with _pillow_limit, contextlib.ExitStack() as stack:
            stack.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            Image.MAX_IMAGE_PIXELS = None  # max_pixels replaces it
            image = Image.open(file)
        tile = [getattr(image, "tag_v2", {}).get(tag, 1) for tag in TIFF_TILE]  # decoded whole, however small the image
        check_pixels(path, max(image.height, tile[1]), max(image.width, tile[0]), max_pixels)
        yield image


def read_image(path: Path, labels: Any, max_pixels: int = DEFAULT_MAX_PIXELS) -> UInt8Array:
    """Read an image file as uint8 (H, W, C), 0..255, upright, by Labels or the ReadingRules of training."""
    if path.suffix.lower() != ".npy":
        with open_image(path, max_pixels) as image:
            return convert(image, labels, path)
    with _explained(f"{path}: cannot be read as a numpy array; save it with numpy.save"):
        array = np.lib.format.open_memmap(path, mode="r")
    if array.ndim != 3 or 0 in array.shape or array.shape[2] != labels.channels:
        raise InferenceError(f"{path}: shape {array.shape}; it must be (H, W, C) with data.channels={labels.channels}")
    check_pixels(path, array.shape[0], array.shape[1], max_pixels, array.nbytes)
    return _eight_bit(path, array, labels.sixteen_bit)


def read_bytes(content: bytes, labels: Labels, max_pixels: int = DEFAULT_MAX_PIXELS) -> UInt8Array:
    """Read the content of an image file as :func:`read_image` reads a file."""
    with open_image(path := Path("image"), max_pixels, content) as image:
        return convert(image, labels, path)


def convert(image: Image.Image, labels: Any, path: Path) -> UInt8Array:
    """Convert a picture to uint8 (H, W, C) as :func:`read_image` does; ``path`` is only named in errors."""
    if labels.channels not in MODE_OF_CHANNELS:
        raise InferenceError(f"{path}: data.channels={(k := labels.channels)} needs .npy images (H, W, {k})")
    is_deep, is_grey, rule = is_sixteen_bit(image, path), image.mode.startswith("I"), labels.sixteen_bit
    if is_deep and (rule is None or not (is_grey or rule == "full_range")):
        raise InferenceError(f"{path}: a 16-bit image; {DEEP_REPAIR}; it has mode {image.mode}")
    inversion = np.uint16(65535 * (getattr(image, "tag_v2", {}).get(PHOTOMETRIC, 1) == 0))  # Pillow inverts only 8 bits
    upright = ImageOps.exif_transpose(image)
    if is_deep and is_grey:  # of 16-bit colours Pillow keeps the high bytes
        upright = Image.fromarray(_eight_bit(path, np.asarray(upright).astype(np.uint16) ^ inversion, rule))
    upright = upright.convert("RGBA") if upright.mode in ("LA", "PA", "P") else upright
    return np.atleast_3d(np.array(upright.convert(MODE_OF_CHANNELS[labels.channels])))


def is_sixteen_bit(image: Image.Image, path: Path) -> bool:
    """Return whether an opened file has 16 bits a channel; InferenceError unless they are unsigned, 1 to 8 or 16."""
    tags, unpacking = getattr(image, "tag_v2", {}), str(getattr(image, "tile", ""))
    is_deep = image.mode.startswith("I;16") or (image.format == "PNG" and ";16" in unpacking)  # colour is of mode RGB
    bits, kinds = (set(np.atleast_1d(tags.get(*tag)).tolist()) for tag in ((BITS, 16 if is_deep else 8), (KIND, 1)))
    if kinds != {1} or not (bits <= {1, 2, 4, 8} or bits == {16}) or image.mode in ("I", "F", "LAB", "HSV", "La"):
        found = f"{KINDS.get(max(kinds))} values of {max(bits)} bits, " * bool(tags) + f"mode {image.mode}"
        raise InferenceError(f"{path}: {found}; convert it to grey, RGB or CMYK with unsigned values of 8 or 16 bits")
    return bits == {16}


def check_pixels(path: Path, height: int, width: int, max_pixels: int, array_bytes: int = 0) -> None:
    """Raise InferenceError if an image needs more memory than the limit; a long side costs some when it is resized."""
    if max(height * width, array_bytes // 4, LEAST_SIDE * max(height, width)) > max_pixels:
        size = f"{height} x {width} pixels exceed --max-pixels {max_pixels} (a side counts as 16, 4 bytes as a pixel)"
        raise InferenceError(f"{path}: {size}; raise it for a file you trust, or use a tiled TIFF and --tile")


def _eight_bit(path: Path, values: npt.NDArray[Any], rule: str | None, ends: Sequence[int] = ()) -> UInt8Array:
    """Map uint8 or uint16 (...) to uint8 (...) by the rule; ``ends`` of the whole image if this is a part of it."""
    if values.dtype == np.uint8:
        return np.array(values)
    if values.dtype.kind != "u" or values.dtype.itemsize != 2 or rule is None:
        raise InferenceError(f"{path}: values of type {values.dtype}; an array image must be uint8; {DEEP_REPAIR}")
    low, *_, high = sorted((0, 65535) if rule == "full_range" else ends or (int(values.min()), int(values.max())))
    table = (np.arange(65536, dtype=np.float32).clip(low, high) - low) * (255 / max(high - low, 1))
    return np.asarray(np.rint(table).astype(np.uint8)[values])


def working_image(image: UInt8Array, labels: Labels) -> tuple[UInt8Array, Size]:
    """Resize uint8 (H, W, C) to the working size; also return the size of the part that is not padding (top left)."""
    if labels.resize == "none":
        return image, (image.shape[0], image.shape[1])
    height, width = filled = labels.image_size
    if labels.resize == "letterbox":
        scale = min(height / image.shape[0], width / image.shape[1])
        filled = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    # Not RGB: one channel at a time, because Pillow would treat a fourth channel as alpha and premultiply the others.
    parts = [image] if image.shape[2] == 3 else [image[..., i] for i in range(image.shape[2])]
    resized = [Image.fromarray(part).resize(filled[::-1], Image.Resampling.BILINEAR) for part in parts]
    padding = ((0, height - filled[0]), (0, width - filled[1]), (0, 0))
    return np.pad(np.dstack([np.asarray(picture) for picture in resized]), padding, mode="edge"), filled


class Tiling(NamedTuple):
    """Squares of ``side`` pixels that overlap by ``overlap`` or a little more and start at multiples of ``step``."""

    side: int
    overlap: int
    step: int = 1

    @classmethod
    def checked(cls, side: int, overlap: int | None, step: int) -> "Tiling":
        """Check that tiles advance; an overlap of None is 128, or a quarter of the side if that is less."""
        overlap = min(DEFAULT_OVERLAP, side // 4) if overlap is None else overlap
        if not 0 <= overlap <= side - step:
            raise InferenceError(f"--tile {side} --overlap {overlap}: the overlap must be within 0..{side - step}")
        return cls(side, overlap, step)

    def along(self, length: int) -> list[tuple[int, int, FloatArray]]:
        """Return (start, end, weights) of each tile on a side of ``length``; weights add up to 1 at every pixel."""
        last = math.ceil(max(0, length - self.side) / self.step) * self.step
        advance = (self.side - self.overlap) // self.step * self.step
        spans = [(start, min(start + self.side, length)) for start in [*range(0, last, advance), last]]
        margin, total, ramps = self.overlap * UNBLENDED_SHARE, np.zeros(length), []
        for start, end in spans:
            place = np.arange(start, end) + 0.5
            inside = np.minimum(place - start if start else np.inf, end - place if end < length else np.inf)
            ramps.append(np.clip((inside - margin) / max(self.overlap - 2 * margin, 1e-6), 1e-6, 1.0))
            total[start:end] += ramps[-1]
        return [(a, b, (ramp / total[a:b]).astype(np.float32)) for (a, b), ramp in zip(spans, ramps, strict=True)]


def tiled_rows(bands: Iterator[UInt8Array], size: Size, predict: Predict, tiling: Tiling) -> Iterator[FloatArray]:
    """Segment bands uint8 (rows, W, C) of an image tile by tile; the next float32 (rows, W, K) overwrites this."""
    tile_rows, columns = tiling.along(size[0]), tiling.along(size[1])
    tops = [top for top, _, _ in tile_rows] + [size[0]]
    rows, total = next(bands), np.zeros((0, 0, 0), dtype=np.float32)
    for (top, bottom, row_weights), next_top in zip(tile_rows, tops[1:], strict=True):
        while len(rows) < bottom - top:
            rows = np.concatenate([rows, next(bands)])
        for left, right, column_weights in columns:
            probabilities = predict(rows[None, : bottom - top, left:right])[0]
            if not total.size:
                total = np.zeros((bottom - top, size[1], probabilities.shape[-1]), dtype=np.float32)
            weights = row_weights[:, None, None] * column_weights[:, None]
            total[: bottom - top, left:right] += probabilities * weights
        yield total[: next_top - top]
        total[: bottom - next_top] = total[next_top - top : bottom - top]
        total[bottom - next_top :] = 0
        rows = rows[next_top - top :]


def most_probable(probabilities: FloatArray) -> UInt8Array:
    """Map probabilities (..., K) to class indices uint8 (...); with K = 1 the second class is above 0.5."""
    if probabilities.shape[-1] == 1:
        return np.asarray(probabilities[..., 0] > 0.5, dtype=np.uint8)
    return np.asarray(probabilities.argmax(axis=-1), dtype=np.uint8)


def highest_probabilities(probabilities: FloatArray) -> FloatArray:
    """Map probabilities (h, w, K) to the highest one of each class, float32 (K,), or (2,) with K = 1."""
    if probabilities.shape[-1] == 1:
        return np.array([1 - probabilities.min(), probabilities.max()], dtype=np.float32)
    return np.array([probabilities[..., k].max() for k in range(probabilities.shape[-1])], dtype=np.float32)


def doubt(probabilities: FloatArray) -> FloatArray:
    """Map probabilities (..., K) to float64 (3,): sum of 1 - margin over contested pixels, their number, max P(defect).

    Contested are pixels with P(defect) >= CONTESTED; the margin is that of their two most likely classes.
    """
    pixels, (total, count, highest) = probabilities.reshape(-1, probabilities.shape[-1]), (0.0, 0, 0.0)
    for part in (pixels[start : start + BAND_PIXELS] for start in range(0, len(pixels), BAND_PIXELS)):
        defect = part[:, 0] if part.shape[1] == 1 else 1 - part[:, 0]
        chosen = part[defect >= CONTESTED]
        two = np.column_stack([1 - chosen, chosen]) if chosen.shape[1] == 1 else np.partition(chosen, -2)[:, -2:]
        total += float((1 - np.abs(two[:, 1] - two[:, 0])).sum(dtype=np.float64))
        count, highest = count + len(chosen), max(highest, float(defect.max()))
    return np.array([total, count, highest])


def image_scores(
    tiles: Sequence[tuple[float, float]], doubts: Sequence[FloatArray]
) -> tuple[float, float, float | None]:
    """Return P(defect), uncertainty and drift score of an image from (P(defect), drift) of tiles and its parts' doubts.

    Uncertainty is the mean of 1 - margin over contested pixels, 0..1, or the highest P(defect) if there are none.
    """
    (total, count), (chance, drift) = np.sum(doubts, axis=0)[:2], np.max(tiles, axis=0).tolist()
    uncertainty = float(total / count if count else np.max(doubts, axis=0)[2])
    return chance, uncertainty, None if math.isnan(drift) else drift


def tally(bands: Iterable[UInt8Array]) -> tuple[IndexArray, IndexArray, IndexArray]:
    """Count pixels, 8-connected regions and pixels of the largest by class, int64 (256,), in bands uint8 (rows, W)."""
    pixels, regions, largest = (np.zeros(256, dtype=np.int64) for _ in range(3))
    row_above = np.zeros((0, 0), dtype=np.uint8)
    open_of_pixel, open_sizes = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for band in itertools.chain(bands, [None]):  # None: a row without a class closes all open regions
        rows = np.full_like(row_above, IGNORE_INDEX) if band is None else band
        pixels += np.bincount(rows.ravel(), minlength=256)
        mask = np.concatenate([row_above.reshape(-1, rows.shape[1]), rows])
        first, run_of, upper, lower = find_runs(mask)
        sizes = np.diff(first, append=mask.size)
        if len(row_above):  # its runs touch the open regions above, whose sizes they continue
            top = np.arange(run_of[0, -1] + 1)
            upper, lower = np.append(upper, top), np.append(lower, len(first) + open_of_pixel[first[top]])
            sizes[top] = 0
        roots = connect(len(first) + len(open_sizes), upper, lower)  # the smallest node of each, never an open one
        sizes = np.bincount(roots, np.append(sizes, open_sizes), len(first)).astype(np.int64)
        roots = roots[: len(first)]
        is_open = np.bincount(roots[run_of[-1]], minlength=len(first)) > 0
        closed = (roots == np.arange(len(first))) & ~is_open
        classes = mask.ravel()[first[closed]]
        regions += np.bincount(classes, minlength=256)
        np.maximum.at(largest, classes, sizes[closed])
        row_above, open_sizes = mask[-1:].copy(), sizes[is_open]
        open_of_pixel = (np.cumsum(is_open) - 1)[roots[run_of[-1]]]
    return pixels, regions, largest


def find_regions(mask: UInt8Array, certainty: FloatArray, names: Sequence[str]) -> tuple[Region, ...]:
    """Measure the MOST_REGIONS largest regions of defects in a mask (H, W); ``certainty`` (h, w): certainty_of()."""
    first, _, *edges = find_runs(mask)
    roots, classes = connect(len(first), *edges), mask.ravel()[first]
    places = [(2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(mask.shape, certainty.shape, strict=True)]
    sums = np.add.reduceat(certainty[places[0][:, None], places[1]].ravel(), first, dtype=np.float64)
    (tops, lefts), lengths = np.divmod(first, mask.shape[1]), np.diff(first, append=mask.size)
    order, regions = np.argsort(roots, kind="stable"), []
    groups = [runs for runs in np.split(order, np.flatnonzero(np.diff(roots[order])) + 1) if classes[runs[0]]]
    for runs in sorted(groups, key=lambda runs: -int(lengths[runs].sum()))[:MOST_REGIONS]:
        top, at = np.unique(tops[runs], return_index=True)  # of each row only the outer ends matter
        left, right = lefts[runs][at], np.maximum.reduceat(lefts[runs] + lengths[runs], at)
        area, box = int(lengths[runs].sum()), (int(left.min()), int(top[0]), int(right.max()), int(top[-1]) + 1)
        corners = np.concatenate([[left, top], [left, top + 1], [right, top], [right, top + 1]], axis=1).T
        facts = (*rectangle_sides(corners), box, float(sums[runs].sum()) / area)
        regions.append(Region(names[classes[runs[0]]], area, *facts))
    return tuple(regions)


def certainty_of(probabilities: FloatArray) -> FloatArray:
    """Map probabilities (..., K) to that of the most probable class (...)."""
    rest = 1 - probabilities[..., 0] if probabilities.shape[-1] == 1 else 0
    return np.asarray(np.maximum(probabilities.max(axis=-1), rest))


def rectangle_sides(points: npt.NDArray[Any]) -> tuple[float, float]:
    """Return length and width of the smallest rectangle around points (N, 2), in a direction to 0.01 degrees."""
    best = 45.0
    for step, reach in ((1.0, 45), (0.01, 100)):  # every degree, then around the best one
        degrees = best + step * np.arange(-reach, reach + 1)
        turns = np.deg2rad(degrees + np.array([[0.0], [90.0]]))
        sides = np.ptp(np.tensordot(points, np.stack([np.cos(turns), np.sin(turns)]), 1), axis=0)
        best = float(degrees[place := int(sides.prod(axis=0).round(6).argmin())])
    return float(sides[:, place].max().round(9)), float(sides[:, place].min().round(9))


def without_small_regions(mask: UInt8Array, smallest: int) -> UInt8Array:
    """Make defect regions (8-connected, of any classes) below ``smallest`` pixels background in a mask (H, W)."""
    if smallest < 2:
        return mask
    first, run_of, upper, lower = find_runs((mask > 0).view(np.uint8))
    roots = connect(len(first), upper, lower)
    sizes = np.bincount(roots, weights=np.diff(first, append=mask.size))
    return np.where(sizes[roots][run_of] < smallest, np.uint8(0), mask)


def _without_small_regions(bands: Iterable[UInt8Array], smallest: int) -> Iterator[UInt8Array]:
    """Do the same to a mask given as bands of rows; only ``smallest`` rows on either side are kept."""
    held, above = np.zeros((0, 0), dtype=np.uint8), 0
    for band in itertools.chain(bands, [None]):
        held = held if band is None else np.concatenate([held.reshape(-1, band.shape[1]), band])
        end = len(held) if band is None else len(held) - smallest  # a small region has fewer rows than that
        if end > above:
            yield without_small_regions(held, smallest)[above:end]
            held, above = held[max(0, end - smallest) :], min(end, smallest)


def find_runs(mask: UInt8Array) -> tuple[IndexArray, IndexArray, IndexArray, IndexArray]:
    """Split a mask (H, W) into runs of equal pixels: starts in ``mask.ravel()``, run of each pixel, touching pairs."""
    starts = np.ones(mask.shape, dtype=bool)
    starts[:, 1:] = mask[:, 1:] != mask[:, :-1]
    run_of = np.cumsum(starts.ravel()).reshape(mask.shape) - 1
    # Runs touch vertically where either starts, and diagonally where one starts just after the other ends.
    below = (mask[1:] == mask[:-1]) & (starts[1:] | starts[:-1])
    corner = starts[1:, 1:] & starts[:-1, 1:]
    falling, rising = corner & (mask[1:, 1:] == mask[:-1, :-1]), corner & (mask[1:, :-1] == mask[:-1, 1:])
    upper = np.concatenate([run_of[:-1][below], run_of[:-1, :-1][falling], run_of[:-1, 1:][rising]])
    lower = np.concatenate([run_of[1:][below], run_of[1:, 1:][falling], run_of[1:, :-1][rising]])
    return np.flatnonzero(starts), run_of, upper, lower


def connect(count: int, one: IndexArray, other: IndexArray) -> IndexArray:
    """Return for each of ``count`` nodes the smallest node it is connected to by the edges (one[i], other[i])."""
    parent = np.arange(count)
    while len(one):
        np.minimum.at(parent, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(grandparent := parent[parent], parent):
            parent = grandparent
        one, other = parent[one], parent[other]
        one, other = one[one != other], other[one != other]
    return parent


def _load_onnxruntime(path: Path, threads: int, precision: str, providers: Sequence[str]) -> tuple[Run, dict[str, str]]:
    import onnxruntime

    if precision != "fp32":
        raise InferenceError(f"--precision {precision} needs --engine openvino; onnxruntime runs the model as exported")
    available = onnxruntime.get_available_providers()
    chosen = [next((full for full in available if full.lower().startswith(name.lower())), name) for name in providers]
    if missing := [name for name in chosen if name not in available]:
        raise InferenceError(f"--providers {missing}: this onnxruntime has only {available}; cuda: onnxruntime-gpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # docs/inference.md has the figures
    session = onnxruntime.InferenceSession(path, options, providers=chosen or ["CPUExecutionProvider"])
    if lost := set(chosen) - set(session.get_providers()):
        raise InferenceError(f"--providers {', '.join(lost)}: onnxruntime cannot start it; check its libraries")
    metadata = session.get_modelmeta().custom_metadata_map
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"image": images}), strict=True)), metadata


def _load_openvino(path: Path, threads: int, precision: str, providers: Sequence[str]) -> tuple[Run, dict[str, str]]:
    import openvino

    if providers:
        raise InferenceError("--providers belongs to --engine onnxruntime; leave it out with openvino")
    core, place = openvino.Core(), ["framework", METADATA_KEY]
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        sys.stderr.write("--precision bf16: this CPU has no bf16 instructions; using fp32\n")
        precision = "fp32"
    network = core.read_model(path)
    metadata = {METADATA_KEY: str(network.get_rt_info(place).value)} if network.has_rt_info(place) else {}
    # Without the hint OpenVINO uses bf16 on CPUs that have it.
    hint = {"fp32": "f32"}.get(precision, precision)
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": str(threads)}
    compiled = core.compile_model(network, "CPU", settings | {"PERFORMANCE_HINT": "LATENCY"})
    names = [output.any_name for output in network.outputs]
    return lambda images: {name: found[name] for found in [compiled({"image": images})] for name in names}, metadata


ENGINES = {"onnxruntime": _load_onnxruntime, "openvino": _load_openvino}


class Prediction(NamedTuple):
    """The class of each pixel of an image, uint8 (H, W), and the probabilities."""

    mask_index: UInt8Array
    probabilities: FloatArray  # (h, w, K) at the working size without padding; with tiles (H, W, K)
    defect_probability: float  # that the image shows any defect, 0..1
    decision: Decision
    uncertainty: float = 0.0  # 0..1, see image_scores
    drift_score: float | None = None  # above 1 far from the training set; None if the model was not calibrated for it


class Model:
    """An exported network and its ``labels``; safe to share between threads."""

    def __init__(
        self,
        path: str | Path,
        engine: str = "onnxruntime",
        threads: int | None = None,  # None: all cores
        precision: str = "fp32",  # "bf16" needs openvino
        providers: Sequence[str] = (),  # of onnxruntime, such as "cuda"; empty: the CPU
    ) -> None:
        """Load an .onnx file or a bundle (a folder with model.onnx) into an engine of ENGINES."""
        path = Path(path) / "model.onnx" if Path(path).is_dir() else Path(path)
        if not path.is_file():
            raise InferenceError(f"{path}: no such model; give an .onnx file, or a folder that holds model.onnx")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with _explained(f"{path}: cannot be loaded; is it an ONNX file, copied whole, and {engine} installed?"):
            self._run, metadata = ENGINES[engine](path, cores if threads is None else threads, precision, providers)
        self.labels = Labels.from_metadata(metadata, str(path))
        facts = json.loads(metadata[METADATA_KEY])
        self.model_id = str(facts.get("checkpoint_sha256", ""))[:12]
        self.drift_reference = (facts.get("drift") or {}).get("reference", {})  # scores of validation images, by name
        self._turn = threading.Lock()

    def run(self, images: UInt8Array) -> tuple[FloatArray, UInt8Array, FloatArray]:
        """Map uint8 (N, H, W, C) to probabilities float32 (N, H, W, K), classes uint8 (N, H, W) and P(defect) (N,).

        P(defect), that the image shows any, is the network's own or else the highest of a pixel.
        """
        outputs = self.outputs(images)
        return outputs[OUTPUTS[0]], outputs[OUTPUTS[1]], outputs[DEFECT_OUTPUT]

    def outputs(self, images: UInt8Array) -> dict[str, Any]:
        """Map uint8 (N, H, W, C) to what :meth:`run` returns by name, and the drift scores (N,), NaN without any."""
        height, width = images.shape[1:3]
        fixed = self.labels.fixed_size or (height, width)
        if height > fixed[0] or width > fixed[1]:
            raise InferenceError(f"{height} x {width} pixels, but the network takes {fixed}; use --tile {min(fixed)}")
        images = np.pad(images, ((0, 0), (0, fixed[0] - height), (0, fixed[1] - width), (0, 0)), mode="edge")
        with self._turn, _explained(f"the engine failed on {height} x {width} pixels; --tile needs less memory"):
            outputs = self._run(images)
        probabilities, mask = (outputs[name][:, :height, :width] for name in OUTPUTS)
        of_pixels = probabilities[..., 0] if probabilities.shape[-1] == 1 else 1 - probabilities[..., 0]
        rest = {DEFECT_OUTPUT: of_pixels.max((1, 2)), DRIFT_OUTPUT: np.full(len(images), np.nan, np.float32)}
        return {**rest, **outputs, OUTPUTS[0]: probabilities, OUTPUTS[1]: mask}

    def tiling(self, side: int, overlap: int | None = None) -> Tiling:
        """Return tiles for :meth:`predict`; see :meth:`Tiling.checked`."""
        return Tiling.checked(side, overlap, self.labels.size_multiple)

    def predict(self, image: str | Path | UInt8Array, tiling: Tiling | None = None) -> Prediction:
        """Segment a file or uint8 (H, W, C): whole at the working size, or in tiles at its own size."""
        pixels = image if isinstance(image, np.ndarray) else read_image(Path(image), self.labels)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != self.labels.channels:
            raise InferenceError(f"image {pixels.dtype} {pixels.shape}; give uint8 (H, W, {self.labels.channels})")
        size = (pixels.shape[0], pixels.shape[1])
        if tiling is not None:
            scores: list[tuple[float, float]] = []
            blocks = tiled_rows(iter([pixels]), size, lambda tile: self.run_tile(tile, scores), tiling)
            probabilities = np.concatenate([block.copy() for block in blocks])
            mask_index = most_probable(probabilities)
        else:
            working, filled = working_image(pixels, self.labels)
            outputs = self.outputs(working[None])
            scores = [(float(outputs[DEFECT_OUTPUT][0]), float(outputs[DRIFT_OUTPUT][0]))]
            probabilities, seen = (outputs[name][0, : filled[0], : filled[1]] for name in OUTPUTS)
            mask_index = np.asarray(Image.fromarray(seen).resize(size[::-1], Image.Resampling.NEAREST))
        mask_index = without_small_regions(mask_index, self.labels.min_region_area)
        chance, uncertainty, drift = image_scores(scores, [doubt(probabilities)])
        regions = find_regions(mask_index, certainty_of(probabilities), self.labels.names)
        decision = self.labels.acceptance.decide(chance, regions)
        return Prediction(mask_index, probabilities, chance, decision, uncertainty, drift)

    def run_tile(self, tile: UInt8Array, scores: list[tuple[float, float]]) -> FloatArray:
        """Map a tile uint8 (1, h, w, C) to probabilities (1, h, w, K); append its P(defect) and drift to ``scores``."""
        outputs = self.outputs(tile)
        scores.append((float(outputs[DEFECT_OUTPUT][0]), float(outputs[DRIFT_OUTPUT][0])))
        return np.asarray(outputs[OUTPUTS[0]])


def _tiff_bands(page: Any) -> Iterator[npt.NDArray[Any]]:
    """Decode a tifffile page one row of its tiles or strips at a time, (rows, W) or (rows, W, samples)."""
    height, width, (band_height, tile_width) = page.imagelength, page.imagewidth, page.chunks[:2]
    segments = page.segments(maxworkers=1, buffersize=TIFF_BYTES)
    for top in range(0, height, band_height):
        band = np.zeros((min(band_height, height - top), width, page.samplesperpixel), dtype=page.dtype)
        for segment, (*_, left, _), _ in itertools.islice(segments, math.ceil(width / tile_width)):
            if segment is not None:
                band[:, left : left + tile_width] = segment[0, : len(band), : width - left]
        yield band[..., 0] if page.samplesperpixel == 1 else band


def _segment_tiff(model: Model, path: Path, target: Path, tiling: Tiling, max_pixels: int) -> Result:
    """Segment a TIFF in tiles into a TIFF; only the rows of one row of tiles are in memory."""
    with _explained("TIFF with --tile needs tifffile; pip install tifffile imagecodecs"):
        import tifffile
    labels, highest = model.labels, np.zeros(len(model.labels.names), dtype=np.float32)
    scores: list[tuple[float, float]] = []
    doubts: list[FloatArray] = []
    with _whole(target) as temporary, _explained(f"{path}: cannot be segmented"), tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        height, width = size = page.imagelength, page.imagewidth
        is_plain = page.bitspersample in ((8, 16) if page.samplesperpixel == 1 else (8,)) and page.dtype.kind == "u"
        is_plain &= page.photometric in (1, 2) or (page.photometric, page.compression) == YCBCR_JPEG
        is_plain &= page.planarconfig == page.tags.valueof(ORIENTATION, 1) == 1 and 1 not in page.extrasamples
        if not is_plain or page.samplesperpixel > 4:
            raise InferenceError(f"{path}: --tile reads upright TIFF, grey (8 or 16 bits) or RGB (8 bits); convert it")
        check_pixels(path, page.chunks[0], max(width, page.chunks[1]), max_pixels)
        unpacked = max(page.databytecounts) * {8: 1032, 32946: 1032, 34925: 7000}.get(page.compression, 0)
        if unpacked > 4 * max_pixels and "imagecodecs" not in sys.modules:
            raise InferenceError(f"{path}: a tile or strip may unpack to {unpacked} bytes; pip install imagecodecs")
        needs_extremes = page.dtype == np.uint16 and labels.sixteen_bit == "min_max"
        ends = [int(end) for band in _tiff_bands(page) for end in (band.min(), band.max())] if needs_extremes else []
        pictures = (_eight_bit(path, band, labels.sixteen_bit, ends) for band in _tiff_bands(page))
        bands = (convert(Image.fromarray(picture), labels, path) for picture in pictures)

        def masks() -> Iterator[UInt8Array]:
            for block in tiled_rows(bands, size, lambda tile: model.run_tile(tile, scores), tiling):
                doubts.append(doubt(block))
                np.maximum(highest, highest_probabilities(block), out=highest)
                yield most_probable(block)

        def mask_tiles() -> Iterator[UInt8Array]:
            waiting, done = np.zeros((0, width), dtype=np.uint8), 0
            for rows in _without_small_regions(masks(), labels.min_region_area):
                waiting, done = np.concatenate([waiting, rows]), done + len(rows)
                if sys.stderr.isatty():
                    sys.stderr.write(f"\r\x1b[K{path}: {done} of {height} rows")
                while len(waiting) >= MASK_TILE or (done == height and len(waiting)):
                    yield from (waiting[:MASK_TILE, left : left + MASK_TILE] for left in range(0, width, MASK_TILE))
                    waiting = waiting[MASK_TILE:]

        form: dict[str, Any] = {"shape": size, "dtype": np.uint8, "tile": (MASK_TILE, MASK_TILE), "compression": "zlib"}
        form |= {"photometric": "palette", "colormap": labels.color_table().T.astype(np.uint16) * 257}
        tifffile.imwrite(temporary, mask_tiles(), bigtiff=height * width > 1 << 31, buffersize=TIFF_BYTES, **form)
        with tifffile.TiffFile(temporary) as mask_file:
            chance, *others = image_scores(scores, doubts)
            found = labels.acceptance.decide(chance, None)  # regions and rules need the whole mask
            rows = _tiff_bands(mask_file.pages.first)
            return summary_rows(path, labels.names, rows, highest, (chance, found.verdict, *others)), found


def summary_rows(
    path: Path, names: Sequence[str], bands: Iterable[UInt8Array], highest: FloatArray, of_image: Sequence[Any]
) -> list[Any]:
    """Return the rows of summary.csv of an image: one a class; ``of_image`` are the last columns."""
    pixels, regions, largest = (column[: len(names)].tolist() for column in tally(bands))
    shares, chances = [round(n / sum(pixels), 6) for n in pixels], [round(float(chance), 6) for chance in highest]
    columns = names, pixels, shares, regions, largest, chances
    last = ["" if value is None else round(value, 6) if isinstance(value, float) else value for value in of_image]
    return [(str(path), *row, *last) for row in zip(*columns, strict=True)]


def drift_line(rows: Sequence[Sequence[Any]]) -> str:
    """Return a line on the images in rows of summary.csv whose drift score is above the border; empty if none is."""
    scores = {row[0]: row[SUMMARY_HEADER.index(DRIFT_OUTPUT)] for row in rows}
    far = [f"{name} ({score:.2f})" for name, score in scores.items() if score != "" and score > DRIFT_BORDER]
    what = f"{len(far)} of {len(scores)} images are unlike the training set ({DRIFT_OUTPUT} above {DRIFT_BORDER:g})"
    return f"{what}, first: {far[0]}\n" if far else ""


def append_log(path: Path, rows: Sequence[Sequence[Any]], model_id: str) -> None:
    """Append what is known of an image, its rows of summary.csv, as a line of JSON; other processes may do so too."""
    of_image = zip(SUMMARY_HEADER[len(OF_CLASS) :], rows[0][len(OF_CLASS) :], strict=True)
    entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "image": rows[0][0], "model": model_id}
    entry |= {"classes": {row[1]: row[2] for row in rows[1:] if row[2]}, **dict(of_image)}
    line = json.dumps({key: None if value == "" else value for key, value in entry.items()})
    with _explained(f"--log {path}: cannot be written"), path.open("ab", buffering=0) as file:
        file.write(f"{line}\n".encode())  # in one call, so that lines of several processes do not mix


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, renamed to it at the end; the next run overwrites a killed one's."""
    temporary = path.with_name(f".part{hash(tuple(os.fsencode(path.name)))}{path.suffix}")
    try:
        with _explained(f"{path}: cannot be written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Return the image files in files, folders (not their subfolders) and globs, each once."""
    found: dict[Path, Path] = {}
    for argument in arguments:
        given = Path(argument)
        matches = given.iterdir() if given.is_dir() else map(Path, glob.glob(argument, recursive=True))  # noqa: PTH207
        images = [path for path in matches if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]
        images = [given] if given.is_file() else sorted(path for path in images if path.is_file())
        if not images:
            raise InferenceError(f"{argument}: no image ({', '.join(IMAGE_SUFFIXES)}) found; check the path")
        found |= {path.resolve(): path for path in images}
    return list(found.values())


def mask_paths(files: Sequence[Path], out: Path, tiling: Tiling | None = None) -> list[Path]:
    """Return the mask path of each file: named by its stem, or by as much of its path as makes the name unique."""
    folder = os.path.commonpath([path.resolve().parent for path in files])
    paths = [path.resolve().relative_to(folder) for path in files]
    names = [path.stem for path in paths]
    for longer in ([path.with_suffix("") for path in paths], paths):
        uses = Counter(name.casefold() for name in names)
        names = [str(path) if uses[name.casefold()] > 1 else name for path, name in zip(longer, names, strict=True)]
    suffixes = [".tif" if tiling and path.suffix.lower() in (".tif", ".tiff") else ".png" for path in files]
    masks = [out / (name + suffix) for name, suffix in zip(names, suffixes, strict=True)]
    uses = Counter(str(path.resolve()).casefold() for path in [*files, *masks])
    if clash := [str(mask) for mask in masks if uses[str(mask.resolve()).casefold()] > 1]:
        raise InferenceError(f"{clash[0]}: would overwrite an image or another mask; choose another --out")
    return masks


def overlay(image: UInt8Array, mask_index: UInt8Array, colors: UInt8Array) -> UInt8Array:
    """Paint the defects of a mask (H, W) half over an image (H, W, C), in colours (256, 3); return uint8 (H, W, 3)."""
    rgb = image[..., :3] if image.shape[2] > 2 else np.repeat(image[..., :1], 3, axis=2)
    return np.asarray(np.where(mask_index[..., None] > 0, rgb // 2 + colors[mask_index] // 2, rgb))


def _save(found: Prediction, image: UInt8Array, colors: UInt8Array, mask: Path, extras: Sequence[str]) -> None:
    for folder in ("", *extras):
        with _whole(
            mask.parent / folder / f"{mask.stem}{'.npz' if folder == 'probabilities' else '.png'}"
        ) as temporary:
            if folder == "probabilities":
                np.savez(temporary, probabilities=found.probabilities)
                continue
            pixels = colors[found.mask_index] if folder else found.mask_index
            picture = Image.fromarray(overlay(image, found.mask_index, colors) if folder == "overlays" else pixels)
            if not folder:
                picture.putpalette(colors.ravel().tolist())
            picture.save(temporary)


def infer_files(
    model: Model,
    files: Sequence[Path],
    out: Path,
    extras: Sequence[str],
    tiling: Tiling | None,
    max_pixels: int,
    log: Path | None = None,
) -> int:
    """Segment files into ``out``, with summary.csv and decisions.json; report and skip failures, return how many.

    A line on each image is appended to ``log``.
    """
    with _explained(f"--out {out}: cannot be created"):
        out.mkdir(parents=True, exist_ok=True)
    if log is not None:
        with _explained(f"--log {log}: cannot be written"):
            log.open("ab").close()
    masks = mask_paths(files, out, tiling)
    if extras and any(mask.suffix == ".tif" for mask in masks):
        raise InferenceError(f"--{extras[0]} needs the whole image in memory; leave it out for TIFF with --tile")

    def segment(path: Path, mask: Path) -> Result | InferenceError:
        try:
            with _explained(f"{path}: cannot be segmented"):
                if tiling and mask.suffix == ".tif":
                    return _segment_tiff(model, path, mask, tiling, max_pixels)
                image = read_image(path, model.labels, max_pixels)
                found = model.predict(image, tiling)
                _save(found, image, model.labels.color_table(), mask, extras)
                bands = np.array_split(found.mask_index, math.ceil(found.mask_index.size / BAND_PIXELS))
                highest = highest_probabilities(found.probabilities)
                of_image = found.defect_probability, found.decision.verdict, *found[4:]
                return summary_rows(path, model.labels.names, bands, highest, of_image), found.decision
        except InferenceError as error:
            return error if str(path) in str(error) else InferenceError(f"{path}: {error}")

    rows, decisions, failed = [SUMMARY_HEADER], dict[str, Decision](), 0
    started, clear = time.monotonic(), "\r\x1b[K" if sys.stderr.isatty() else ""
    with ThreadPoolExecutor(1 if tiling else WORKERS) as pool:
        for done, (path, result) in enumerate(zip(files, pool.map(segment, files, masks), strict=True), 1):
            if isinstance(result, InferenceError):
                failed += 1
                sys.stderr.write(f"{clear}error: {result}\n")
            else:
                rows += result[0]
                decisions[str(path)] = result[1]
                if log is not None:
                    append_log(log, result[0], model.model_id)
            if clear:
                bar, left = "#" * (20 * done // len(files)), (time.monotonic() - started) * (len(files) / done - 1)
                sys.stderr.write(f"{clear}[{bar:20}] {done} of {len(files)} images, {left:.0f} s left")
    sys.stderr.write(f"{clear}{len(files) - failed} of {len(files)} images segmented; masks and summary.csv: {out}\n")
    sys.stderr.write(drift_line(rows[1:]))
    with _whole(out / "summary.csv") as temporary, temporary.open("w", -1, "utf-8", "backslashreplace", "") as stream:
        csv.writer(stream).writerows(rows)
    content = model.labels.acceptance.to_mapping(decisions)
    with _whole(out / "decisions.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.stderr.write(f"{content['summary']}\n" * bool(decisions))
    return failed


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InferenceError(f"{message}; --help lists the options")


def main(argv: Sequence[str] | None = None, prog: str = "infer.py", kind: type[ArgumentParser] = _Parser) -> int:
    """Run the command line; return 0, 1 if an image failed, or 2 after a mistake (printed as ``error: ...``)."""
    parser = kind(prog=prog, description="Segment images with an exported model.")
    parser.add_argument("model", help="a bundle (a folder with model.onnx), or an .onnx file")
    parser.add_argument("images", nargs="+", help="image files, folders, or globs in quotes")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for masks and summary.csv")
    for name, explanation in EXTRAS.items():
        parser.add_argument(f"--{name}", dest="extras", action="append_const", const=name, default=[], help=explanation)
    parser.add_argument("--log", type=Path, metavar="FILE", help="append a line of JSON on each image, for monitor")
    parser.add_argument("--engine", choices=ENGINES, default="onnxruntime", help="engine that runs the network")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 is faster, with openvino")
    parser.add_argument("--providers", type=lambda text: text.split(","), default=(), help="such as cuda,cpu")
    parser.add_argument("--threads", type=int, help="threads of the engine (default: all cores)")
    parser.add_argument("--tile", type=int, help="segment at native size in tiles of this side, such as 512")
    parser.add_argument("--overlap", type=int, help=f"how far tiles overlap (default: {DEFAULT_OVERLAP})")
    parser.add_argument("--min-region-area", type=int, help="smaller defects become background (default: the model's)")
    parser.add_argument("--mm-per-pixel", type=float, help="side of a pixel in mm, for the sizes of regions in mm")
    parser.add_argument("--rules", type=Path, metavar="FILE", help="regions that are OK, a JSON list (see the docs)")
    parser.add_argument("--max-pixels", type=int, default=DEFAULT_MAX_PIXELS, help="most pixels to decode at once")
    try:
        options = parser.parse_args(argv)
        if (options.min_region_area or 0) < 0:
            parser.error(f"--min-region-area {options.min_region_area} must be 0, which keeps all, or pixels")
        if options.overlap is not None and options.tile is None:
            parser.error(f"--overlap {options.overlap} needs --tile")
        files = find_images(options.images)
        model = Model(options.model, options.engine, options.threads, options.precision, options.providers)
        if options.min_region_area is not None:
            model.labels = model.labels._replace(min_region_area=options.min_region_area)
        changes = {} if options.mm_per_pixel is None else {"mm_per_pixel": options.mm_per_pixel}
        if options.rules is not None:
            with _explained(f"--rules {options.rules}: cannot be read as a list of rules"):
                changes["rules"] = getattr(kind, "load_rules", json.loads)(options.rules.read_text(encoding="utf-8"))
        origin = f"--mm-per-pixel {options.mm_per_pixel}" if options.rules is None else f"--rules {options.rules}"
        acceptance = model.labels.acceptance.changed(model.labels.names, origin, **changes)
        model.labels = model.labels._replace(acceptance=acceptance)
        tiling = None if options.tile is None else model.tiling(options.tile, options.overlap)
        return min(1, infer_files(model, files, options.out, options.extras, tiling, options.max_pixels, options.log))
    except InferenceError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
