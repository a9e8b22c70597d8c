"""Make a data set ready to train with, whatever its form, and say what is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flexunet_pl.core.errors import UserError
from flexunet_pl.curation.audit.checks import check_dataset, find_all
from flexunet_pl.curation.audit.inspection import ERROR, NOTE, WARNING
from flexunet_pl.curation.prepare.archives import folder_of, is_archive, unpacked
from flexunet_pl.curation.prepare.detection import is_split, named_palette, palette_note, read_any
from flexunet_pl.curation.prepare.view import view_of
from flexunet_pl.data.layout import PALETTE_FILE
from flexunet_pl.data.manifest import MANIFEST_FILE, folds_of
from flexunet_pl.data.palette import Palette
from flexunet_pl.planning.rules import counted
from flexunet_pl.training.runs import COMMON_NAMES, RUNS

VIEWS = RUNS / "data"  # links to the images of folders that were not prepared
# Near-duplicates are searched among as many images; more take minutes.
MOST_TO_COMPARE = 500
MOST_FINDINGS = 5
SEVERITIES = (ERROR, WARNING, NOTE)


@dataclass(frozen=True)
class Source:
    """A data set to plan for.

    Attributes:
        name: What its runs are called.
        root: Folder with train, valid and perhaps test.
        palette: What class is what.
        is_view: Whether it stands for another folder, and has a palette of its own.
        notes: What the user should know before training begins, the worst first.
    """

    name: str
    root: Path
    palette: Palette
    is_view: bool
    notes: list[str]


def source_from(
    path: Path,
    palette: Palette | None = None,
    colors: Mapping[str, Sequence[int]] | None = None,
    views: Path = VIEWS,
    folds: int = 0,
) -> Source:
    """Return a data set in any form, audited.

    A prepared one is used as it is. Of another folder, or of an archive, which is unpacked beside itself, a view is
    made: images are linked, masks converted, sources split.

    Args:
        path: A folder, or an archive of one.
        palette: What the colours of its masks mean; by default its palette.yaml, else the colours found.
        colors: Names of some colours, used where there is no palette.
        views: The folder of the views.
        folds: If 2 or more, the data set must have as many folds; one without them gets a view that has.

    Raises:
        UserError: If there is no such folder, no known layout in it, or its files have problems.
    """
    was_there = is_archive(path) and folder_of(path).is_dir()
    folder = unpacked(path) if is_archive(path) else path
    if not folder.is_dir():
        raise UserError(f"{path}: this folder does not exist; give the folder of a data set, or an archive of one")
    name = folder.resolve().name or "data"
    name = f"{name}-data" if name in COMMON_NAMES else name
    if _folds(folder) == folds if folds else is_split(folder) or _folds(folder):
        return _prepared(name, folder, palette, colors)
    contents = read_any(folder, palette, colors)
    view = view_of(folder, contents, views, folds)
    layout = f"{path}: {contents.layout}, {len(contents.found)} images, split by source in {view.root}"
    kept = [f"{path}: {folder} is there already, and is used as it is"] if was_there and folder != path else []
    seen = [] if view.is_new else ["nothing in it has changed since an earlier run"]
    return Source(name, view.root, Palette.load(view.root / PALETTE_FILE), True, [*kept, layout, *seen, *view.notes])


def _folds(folder: Path) -> int:
    return len(folds_of(folder)) if (folder / MANIFEST_FILE).is_file() else 0


def _prepared(name: str, root: Path, palette: Palette | None, colors: Mapping[str, Sequence[int]] | None) -> Source:
    notes = []
    if palette is None and (root / PALETTE_FILE).is_file():
        palette = Palette.load(root / PALETTE_FILE)
    if palette is None:
        palette = named_palette([pair for split, pair in find_all(root, []) if split == "train"], colors)
        notes.append(palette_note(root, palette))
    found = check_dataset(root, palette, None, look=len(find_all(root, [])) <= MOST_TO_COMPARE)
    worst = sorted(
        (one for one in found.findings if one.severity != NOTE and one.kind != "blended"),
        key=lambda one: SEVERITIES.index(one.severity),
    )
    counts = ", ".join(counted(found.count(severity), severity) for severity in SEVERITIES)
    notes.append(f"{root}: {len(found.items)} images audited: {counts}")
    notes += [f"{one.severity}: {one}" for one in worst[:MOST_FINDINGS]]
    if len(worst) > MOST_FINDINGS:
        notes.append(f"and {len(worst) - MOST_FINDINGS} more: flexunet audit {root}")
    return Source(name, root, palette, False, notes)
