"""The list of images to label next: a table, a CSV, and a folder of the images."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from flexunet_pl.core.console import table
from flexunet_pl.core.csv_text import csv_of_maps
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import atomic_folder, write_text
from flexunet_pl.evaluation.label_next import Candidate, LabelNext

MOST_LISTED = 20


def write_list(path: Path, candidates: Sequence[Candidate]) -> None:
    """Write a CSV with a row for each image, the most useful first; the columns are those of docs/labels.md."""
    rows = []
    for one in candidates:
        parts = {key: "" if value is None else round(value, 4) for key, value in one.uncertainty._asdict().items()}
        rows.append(
            {"rank": one.rank, "image": str(one.path), "uncertainty": round(one.uncertainty.total, 4)}
            | parts
            | {"distance": "" if one.distance is None else round(one.distance, 4), "nearest": one.nearest}
            | {"source": one.source, "why": one.why}
        )
    write_text(path, csv_of_maps(rows))


def list_lines(found: LabelNext) -> list[str]:
    """Return lines for the terminal."""
    rows = [[one.rank, one.path.name, one.uncertainty.total, one.why] for one in found.candidates[:MOST_LISTED]]
    lines = [f"{len(found.candidates)} of {found.images} images to label next:", ""]
    lines.append(table(["", "image", "uncertainty", "why"], rows))
    left = len(found.candidates) - MOST_LISTED
    return [*lines, f"and {left} more"] if left > 0 else lines


def check_folder(option: str, folder: Path | None) -> None:
    """Raise UserError if a folder that is to be filled has files, or is a file."""
    if folder is not None and (folder.is_file() or (folder.is_dir() and any(folder.iterdir()))):
        raise UserError(f"{option} {folder}: is there already; name a new or an empty folder")


def fill_folder(folder: Path | None, candidates: Sequence[Candidate], *, linked: bool) -> None:
    """Copy the images into a new or empty folder, or link them there; the folder appears when it is complete."""
    if folder is None:
        return
    with atomic_folder(folder) as temporary:
        for one in candidates:
            target = temporary / one.path.name
            if linked:
                target.symlink_to(one.path.resolve())
            else:
                shutil.copyfile(one.path, target)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(folder)
