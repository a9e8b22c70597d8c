"""Class names and colours <-> class indices: the one owner of what class is what."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.files import write_text
from flexunet_pl.core.yaml_text import load_yaml

IGNORE_INDEX = 255
IGNORE_NAME = "ignore"
MAX_CLASSES = 255

Color = tuple[int, int, int]
UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Palette:
    """An ordered map of class names to colours; the position is the class index, the first is the background.

    Attributes:
        names: Class names, unique, background first.
        colors: One (red, green, blue) colour in 0..255 for each name, unique.
        ignore: The colour of pixels that count nowhere, or None. Its class index is 255.
        nearest: Names of classes; a mask colour of no class counts as the nearest of these. Without any it is an error.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore: Color | None = None
    nearest: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise UserError if there are too few or too many classes, or two share a colour."""
        if not 2 <= len(self.names) <= MAX_CLASSES:
            raise UserError(
                f"palette: {len(self.names)} classes; a palette has 2 to {MAX_CLASSES}, background first. "
                "Write it as an ordered map, such as {background: [0, 0, 0], crack: [0, 0, 255]}"
            )
        if unknown := [name for name in self.nearest if name not in self.names]:
            raise UserError(
                f"data.nearest_classes: {unknown[0]!r} is no class; choose from {', '.join(self.names)}"
                f"{suggestion(unknown[0], self.names)}"
            )
        owner: dict[Color, str] = {}
        for name, color in self._entries():
            if color in owner:
                raise UserError(f"palette: {name!r} and {owner[color]!r} share the colour {list(color)}; change one")
            owner[color] = name

    def __len__(self) -> int:
        """Return the number of classes, background included, ignore excluded."""
        return len(self.names)

    def _entries(self) -> list[tuple[str, Color]]:
        entries = list(zip(self.names, self.colors, strict=True))
        return entries if self.ignore is None else [*entries, (IGNORE_NAME, self.ignore)]

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], origin: str = "palette") -> "Palette":
        """Build a palette from ``{name: [r, g, b], ...}``; raise UserError, naming ``origin``, if it breaks a rule."""
        if not isinstance(mapping, Mapping):
            raise UserError(f"{origin}: {mapping!r} is not a map; write it as {{background: [0, 0, 0], ...}}")
        if misread := [name for name in mapping if not isinstance(name, str | int) or isinstance(name, bool)]:
            raise UserError(f"{origin}: the class name {misread[0]!r} is no text; put it in quotes, as YAML calls for")
        entries = {str(name): _checked_color(name, color, origin) for name, color in mapping.items()}
        ignore = entries.pop(IGNORE_NAME, None)
        return cls(names=tuple(entries), colors=tuple(entries.values()), ignore=ignore)

    def to_mapping(self) -> dict[str, list[int]]:
        """Return the palette as plain data, the form in which packages exchange it."""
        return {name: list(color) for name, color in self._entries()}

    @classmethod
    def load(cls, path: Path) -> "Palette":
        """Read a palette from a YAML file, or from ``data.palette`` of a config.

        Raises:
            UserError: If the file cannot be read, or holds no palette.
        """
        try:
            content = load_yaml(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(
                f"{path}: cannot be read as a palette ({error}); write it as YAML, NAME: [r, g, b], or name a config "
                "with data.palette"
            ) from error
        data = content.get("data") if isinstance(content, Mapping) else None
        if not isinstance(data, Mapping):
            return cls.from_mapping(content, origin=str(path))
        mapping = data.get("palette")
        if isinstance(mapping, str):
            beside = path.parent / mapping
            return cls.load(beside if beside.is_file() else Path(mapping))
        if mapping is None:
            raise UserError(f"{path}: is a config without data.palette; give a file of class names and colours")
        palette = cls.from_mapping(mapping, origin=f"{path}: data.palette")
        return replace(palette, nearest=tuple(map(str, data.get("nearest_classes") or ())))

    def save(self, path: Path) -> None:
        """Write the palette to a YAML file that :meth:`load` reads, atomically."""
        write_text(path, yaml.safe_dump(self.to_mapping(), sort_keys=False, default_flow_style=None))

    def decode(self, mask_index: UInt8Array) -> UInt8Array:
        """Map class indices uint8 (H, W) to colours uint8 (H, W, 3); an index in no palette becomes magenta."""
        return self._color_table[mask_index]

    def encode(self, mask_rgb: UInt8Array) -> tuple[UInt8Array, npt.NDArray[np.bool_]]:
        """Map colours uint8 (H, W, 3) to class indices uint8 (H, W) and a bool (H, W) of colours in no palette."""
        codes = _color_codes(mask_rgb)
        order = np.argsort(self._codes)
        position = np.searchsorted(self._codes, codes, sorter=order).clip(max=len(order) - 1)
        nearest = order[position]
        unknown = self._codes[nearest] != codes
        return self._indices[nearest], unknown

    def flat(self) -> list[int]:
        """Return 768 numbers for ``PIL.Image.putpalette``: the colour of each of the 256 indices."""
        return [int(value) for value in self._color_table.reshape(-1)]

    def nearest_class(self, mask_rgb: UInt8Array) -> UInt8Array:
        """Map colours uint8 (N, 3) to the indices uint8 (N) of the nearest of ``nearest``, of equal ones the first."""
        indices = np.array([self.names.index(name) for name in self.nearest], dtype=np.uint8)
        colors, place = np.unique(mask_rgb, axis=0, return_inverse=True)
        apart = colors[:, None].astype(np.int64) - self.decode(indices)[None]
        return np.asarray(indices[(apart**2).sum(axis=2).argmin(axis=1)][place.reshape(-1)], dtype=np.uint8)

    @cached_property
    def _codes(self) -> npt.NDArray[np.uint32]:
        return _color_codes(np.array([color for _, color in self._entries()], dtype=np.uint8))

    @cached_property
    def _indices(self) -> UInt8Array:
        indices = list(range(len(self.names)))
        return np.array(indices if self.ignore is None else [*indices, IGNORE_INDEX], dtype=np.uint8)

    @cached_property
    def _color_table(self) -> UInt8Array:
        table = np.full((256, 3), (255, 0, 255), dtype=np.uint8)
        table[self._indices] = [color for _, color in self._entries()]
        if self.ignore is None:
            table[IGNORE_INDEX] = (255, 255, 255)
        return table


def _color_codes(rgb: UInt8Array) -> npt.NDArray[np.uint32]:
    """Pack colours uint8 (..., 3) into one number each, uint32 (...)."""
    codes = rgb[..., 0].astype(np.uint32)
    for channel in (1, 2):
        codes <<= 8
        codes |= rgb[..., channel]
    return codes


def _checked_color(name: object, color: object, origin: str) -> Color:
    if (
        not isinstance(color, list | tuple)
        or len(color) != 3
        or not all(isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255 for value in color)
    ):
        raise UserError(f"{origin}: colour of {name!r} is {color!r}; it must be three whole numbers 0..255, [r, g, b]")
    return (color[0], color[1], color[2])
