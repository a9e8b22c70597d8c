"""Find the files in a folder that have arrived whole."""

import os
from collections.abc import Iterator
from pathlib import Path

from flexunet_pl.inference.onnx_infer import IMAGE_SUFFIXES
from flexunet_pl.serving.journal import Version


class Arrivals:
    """Looks into a folder again and again; a file has arrived once it stayed as it is for a while.

    Only what this process saw counts: clocks of network shares differ, and copies may keep the time of the original.
    """

    def __init__(self, folder: Path, settle: float) -> None:
        """Watch ``folder`` and its subfolders; files have arrived that stayed as they are for ``settle`` seconds."""
        self.folder = folder
        self.settle = settle
        self._since: dict[Version, float] = {}

    def look(self, now: float) -> list[Version]:
        """Return the image files that have arrived, the oldest first; ``now`` is a monotonic time in seconds."""
        seen = set(self._versions(self.folder))
        self._since = {version: self._since.get(version, now) for version in seen}
        arrived = [version for version, since in self._since.items() if now - since >= self.settle and version.size]
        return sorted(arrived, key=lambda version: (version.mtime_ns, version.file))

    def present(self) -> list[Version]:
        """Return the image files of the last look that are not empty, arrived or not."""
        return [version for version in self._since if version.size]

    def age(self, version: Version, now: float) -> float:
        """Return for how many seconds a file has stayed as it is."""
        return now - self._since.get(version, now)

    def version_of(self, file: str) -> Version | None:
        """Return what a file is now, None if it has gone."""
        try:
            status = (self.folder / file).stat()
        except OSError:
            return None
        return Version(file, status.st_size, status.st_mtime_ns)

    def _versions(self, folder: Path) -> Iterator[Version]:
        try:
            entries = list(os.scandir(folder))
        except OSError:  # a share that is away for a moment
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                yield from self._versions(path)
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                version = self.version_of(path.relative_to(self.folder).as_posix())
                if version is not None:
                    yield version
