"""Rank unlabelled images by what a model would learn from their labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from flexunet_pl.core.console import progress, warn
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.yaml_text import load_yaml
from flexunet_pl.data.manifest import sha256_of
from flexunet_pl.data.samples import IMAGE_SUFFIXES, files_in, find_images
from flexunet_pl.data.sources import look_up_groups, read_groups, source_of
from flexunet_pl.evaluation.uncertainty import Probe, Uncertainty
from flexunet_pl.evaluation.varied_choice import Floats, choose, most_of_source
from flexunet_pl.training import runs

MOST_LABELLED = 500  # training images that new ones are compared with, spread evenly
REASONS = {
    "entropy": "unsure of the class of some pixels",
    "doubt": "unsure whether it shows a defect",
    "disagreement": "the networks disagree",
}


@dataclass(frozen=True)
class Candidate:
    """An image that is worth a label.

    Attributes:
        rank: From 1.
        path: Its file.
        source: The source that its name says.
        uncertainty: Its parts.
        distance: To the nearest image that is labelled or ranks before it, 0..2; None if there is none.
        nearest: That image's file name; empty if there is none.
        why: In words.
    """

    rank: int
    path: Path
    source: str
    uncertainty: Uncertainty
    distance: float | None
    nearest: str
    why: str


@dataclass(frozen=True)
class LabelNext:
    """The images to label next, how many were looked at, and remarks on what was left out."""

    candidates: list[Candidate]
    images: int
    notes: list[str]


def rank_unlabelled(
    run: Path, images: Path, count: int, share: float, pattern: str | None = None, groups: Path | None = None
) -> LabelNext:
    """Rank images by uncertainty and variety.

    One image is in memory at a time; what is kept of each are its features, some hundred numbers.

    Args:
        run: Run folder or checkpoint; of a run with folds, their disagreement counts too.
        images: Folder of images without labels. Copies of the run's training images are left out.
        count: How many to choose.
        share: The largest share of one source, 0..1.
        pattern: Regular expression with one group around the source in a name, or None.
        groups: CSV with the columns file and group, which says the sources instead; None takes the names.

    Raises:
        UserError: If an argument is out of range, the run has no checkpoint, or no image can be used.
    """
    if count < 1:
        raise UserError(f"--count {count} must be at least 1")
    if not 0 < share <= 1:
        raise UserError(f"--source_share {share:g} must be above 0, and at most 1")
    files = find_images(images)
    sources = _sources(files, pattern, groups)
    checkpoint = runs.find_checkpoint(run)
    labelled_files = _training_images(run)
    known = _copies(files, labelled_files)
    probe = Probe(checkpoint)
    labelled = [probe.ask(path)[1] for path in progress(_spread(labelled_files), "Reading labelled images")]
    found: list[tuple[Path, str, Uncertainty]] = []
    features: list[Floats] = []
    unreadable = 0
    for path, source in progress(zip(files, sources, strict=True), "Reading unlabelled images", len(files)):
        if path in known:
            continue
        try:
            uncertainty, own = probe.ask(path)
        except UserError as error:
            unreadable += 1
            warn(f"left out: {error}", key="left out")
            continue
        found.append((path, source, uncertainty))
        features.append(own)
    if not found:
        if len(known) == len(files):
            raise UserError(f"{images}: the run has trained on all its {len(files)} images; name a folder of new ones")
        raise UserError(f"{images}: none of its {len(files) - len(known)} new images can be used; see above")
    most = most_of_source(count, share)
    chosen = choose(
        np.array([uncertainty.total for _, _, uncertainty in found]),
        np.stack(features),
        np.stack(labelled) if labelled else np.zeros((0, features[0].size), dtype=np.float32),
        [source for _, source, _ in found],
        count,
        most,
    )
    names = [path.name for path in _spread(labelled_files)]
    candidates = []
    for rank, one in enumerate(chosen, start=1):
        path, source, uncertainty = found[one.place]
        near = one.nearest
        nearest = "" if near is None else names[-1 - near] if near < 0 else found[near][0].name
        why = _why(uncertainty, one.distance, nearest, is_labelled=near is not None and near < 0)
        candidates.append(Candidate(rank, path, source, uncertainty, one.distance, nearest, why))
    notes = _notes(candidates, len(known), unreadable, bool(labelled), count, most)
    return LabelNext(candidates, len(found), notes)


def _sources(files: Sequence[Path], pattern: str | None, groups: Path | None) -> list[str]:
    if groups is None:
        return [source_of(path.stem, pattern) for path in files]
    if pattern is not None:
        raise UserError(f"--groups {groups} and --source_pattern {pattern!r} both say the sources; leave one out")
    found = look_up_groups([path.name for path in files], read_groups(groups), groups)
    return [found[path.name] for path in files]


def _why(uncertainty: Uncertainty, distance: float | None, nearest: str, *, is_labelled: bool) -> str:
    parts = {key: value for key, value in uncertainty._asdict().items() if value is not None}
    largest = max(parts, key=lambda key: parts[key])
    reason = f"{REASONS[largest]} ({parts[largest]:.2f})"
    if distance is None:
        return reason
    return f"{reason}; nearest {'labelled' if is_labelled else 'chosen'} image {nearest} ({distance:.2f} away)"


def _notes(
    chosen: Sequence[Candidate], known: int, unreadable: int, has_labelled: bool, count: int, most: int
) -> list[str]:
    """Return a sentence for each thing that a user may not expect."""
    notes = []
    if known:
        notes.append(f"{known} images are left out: they are training images of the run.")
    if unreadable:
        notes.append(f"{unreadable} images are left out: they cannot be used; see above.")
    if not has_labelled:
        notes.append("The run's training images are not there, so variety counts among the new images alone.")
    if len(chosen) < count:
        notes.append(f"There are only {len(chosen)} images to choose from, not {count}.")
    largest = max(sum(one.source == other.source for other in chosen) for one in chosen)
    if largest > most:
        notes.append(f"A source has up to {largest} images, more than {most}: there are too few other sources.")
    return notes


def _training_images(run: Path) -> list[Path]:
    """Return the files that the run trained on as far as its config says, else none."""
    folder = runs.named_run(run)
    folder = folder.parent.parent if folder.is_file() else folder
    try:
        data = dict(load_yaml((folder / runs.CONFIG).read_text(encoding="utf-8"))["data"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return []
    given = data.get("train_images")
    root = data.get("root")
    place = given if isinstance(given, str) else f"{root}/train/images" if isinstance(root, str) else None
    # Relative paths of a saved config are relative to its folder.
    return files_in(folder / place, IMAGE_SUFFIXES) if place is not None and (folder / place).is_dir() else []


def _spread(files: Sequence[Path]) -> list[Path]:
    return list(files[:: max(1, -(-len(files) // MOST_LABELLED))])


def _copies(files: Sequence[Path], labelled: Sequence[Path]) -> set[Path]:
    """Return the files that equal a labelled one byte for byte."""
    sizes = {path.stat().st_size for path in labelled}
    alike = [path for path in files if path.stat().st_size in sizes]
    if not alike:
        return set()
    wanted = {path.stat().st_size for path in alike}
    digests = {sha256_of(path) for path in labelled if path.stat().st_size in wanted}
    return {path for path in alike if sha256_of(path) in digests}
