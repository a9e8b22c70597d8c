"""The folders of a data set, and its palette."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.synthetic.dataset import TILE_PALETTE

SPLITS = ("train", "valid", "test")
PALETTE_FILE = "palette.yaml"


@dataclass(frozen=True)
class Layout:
    """The folders of a data set: ``root/SPLIT/{images,masks}``, each replaceable by a folder of its own.

    Attributes:
        root: Folder with train, valid and test, or None where all folders are given.
        folders: Folders given one by one, "train_images" and so on.
    """

    root: Path | None
    folders: Mapping[str, Path] = field(default_factory=dict)

    def split(self, split: str) -> tuple[Path, Path]:
        """Return the folders (images, masks) of a split; raise UserError if one is not given or does not exist."""
        found = []
        for kind in ("images", "masks"):
            key = f"{split}_{kind}"
            folder = self.folders.get(key)
            if folder is None:
                if self.root is None:
                    raise UserError(
                        f"data.{key}: no folder given; set data.root to a folder with {split}/images and "
                        f"{split}/masks, or give data.{split}_images and data.{split}_masks"
                    )
                _check_root(self.root)
                folder = self.root / split / kind
            if not folder.is_dir():
                raise UserError(self._missing(split, key, folder))
            found.append(folder)
        return found[0], found[1]

    def _missing(self, split: str, key: str, folder: Path) -> str:
        """Say that a folder does not exist, and what to do where the data set has other splits."""
        if key in self.folders or self.root is None:
            return f"data.{key}: the folder {folder} does not exist; check the path"
        others = [name for name in SPLITS if (self.root / name / "images").is_dir()]
        if split in others or not others:
            return f"data.root: the folder {folder} does not exist; check the path"
        # A data set made with folds has no valid of its own.
        fold = ", choose the fold that validates with --data.fold 0 if it was made with --folds" * (split == "valid")
        return (
            f"data.root={self.root}: has no {split} split, only {' and '.join(others)} ({folder} does not exist); "
            f"prepare it with a share for {split}{fold}, or give data.{split}_images and data.{split}_masks"
        )


def find_palette(palette: Mapping[str, Any] | str | None, root: str | None, synthetic_images: int = 0) -> Palette:
    """Return the palette given as a map or as the path of a YAML file, else the one in ``root/palette.yaml``.

    Raises:
        UserError: If there is none, or it breaks the rules of a palette.
    """
    if isinstance(palette, str):
        return Palette.load(Path(palette))
    if palette is not None:
        return Palette.from_mapping(palette, origin="data.palette")
    if root is not None and (Path(root) / PALETTE_FILE).is_file():
        return Palette.load(Path(root) / PALETTE_FILE)
    if synthetic_images:
        return Palette.from_mapping(TILE_PALETTE)
    if root is not None:
        _check_root(Path(root))
    where = f" and {Path(root) / PALETTE_FILE} does not exist" if root is not None else ""
    raise UserError(
        f"data.palette is not given{where}; write the class names and mask colours as a map, background first: "
        "{background: [0, 0, 0], crack: [0, 0, 255]}"
    )


def _check_root(root: Path) -> None:
    if not root.is_dir():
        raise UserError(
            f"data.root={root}: this folder does not exist. It should hold train, valid and test, each with images and "
            "masks: unpack the data set there, give another place with --data.root, or draw a demo data set with "
            f"`python -m flexunet_pl prepare synthetic {root}`"
        )
