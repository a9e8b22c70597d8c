"""Find the image files that annotations name."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from flexunet_pl.data.annotations.fields import Place, shown
from flexunet_pl.data.samples import IMAGE_SUFFIXES

# Label Studio puts eight characters before the name of a file that is uploaded.
# Masks of Pascal VOC, which are no images.
MASK_FOLDERS = ("SegmentationClass", "SegmentationObject")
UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")


class ImageFiles:
    """The image files in a folder and all folders below it, by path and by name."""

    def __init__(self, folder: Path) -> None:
        """List the image files; hidden ones and those in hidden folders are left out."""
        self.folder = folder
        self.paths: dict[Path, None] = {}
        self._by_name: defaultdict[str, list[Path]] = defaultdict(list)
        self._by_stem: defaultdict[str, list[Path]] = defaultdict(list)
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder).parts
            is_hidden = any(part.startswith((".", "__MACOSX")) or part in MASK_FOLDERS for part in inside)
            if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden and path.is_file():
                self.paths[path] = None
                self._by_name[path.name].append(path)
                self._by_stem[path.stem].append(path)

    def find(self, name: str, place: Place) -> Path:
        """Return the image file that an annotation file calls ``name``: a path, a web address or a bare name.

        A file at exactly this path, seen from the annotation file or from the folder, is taken first, then the
        only file whose path ends like it, most of its folders first.

        Raises:
            UserError: If there is none, or several fit equally well.
        """
        for spelled in _spellings(name):
            parts = [part for part in PurePosixPath(spelled).parts if part not in ("/", ".", "..")]
            if not parts:
                continue
            for folder in (place.file.parent, self.folder):
                for path in (folder / spelled, folder.joinpath(*parts)):
                    if (path := Path(os.path.normpath(path))) in self.paths:
                        return path
            candidates = self._by_name.get(parts[-1], [])
            if len(candidates) > 1:
                depth = max(_shared_ending(path, parts) for path in candidates)
                candidates = [path for path in candidates if _shared_ending(path, parts) == depth]
            if len(candidates) == 1:
                return candidates[0]
            if candidates:
                both = " and ".join(str(path) for path in candidates[:2])
                place.fail(f"the image {shown(name)} may be {both}", "give the two different names, or move one away")
        return place.fail(
            f"the image {shown(name)} is missing in {self.folder}",
            "add it, give its folder with --images FOLDER, or delete it from the annotations",
        )

    def with_stem(self, stem: str, folders: Sequence[str]) -> list[Path]:
        """Return the images with this stem that are in a folder of one of these names, or all if there is none."""
        paths = self._by_stem.get(stem, [])
        return [path for path in paths if path.parent.name in folders] or paths


def _shared_ending(path: Path, parts: Sequence[str]) -> int:
    """Return how many of the last parts of a path and of ``parts`` are equal."""
    shared = 0
    for one, other in zip(reversed(path.parts), reversed(parts), strict=False):
        if one != other:
            break
        shared += 1
    return shared


def _spellings(name: str) -> list[str]:
    """Return what a name may stand for: as it is, as part of a web address, and without what an upload adds to it."""
    plain = name.replace("\\", "/")
    found = [plain]
    try:
        address = urlsplit(plain)
    except ValueError:
        return found
    if "/data/local-files" in address.path:
        found = parse_qs(address.query).get("d", [])
    elif address.scheme or address.query or "%" in plain:
        found.append(unquote(address.path))
    last = PurePosixPath(found[-1]).name if found else ""
    if UPLOADED.match(last):
        found.append(UPLOADED.sub("", last, count=1))
    return [path for path in found if path and "\0" not in path]
