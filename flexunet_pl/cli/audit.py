"""audit: check a data set."""

import tempfile
from pathlib import Path

from flexunet_pl.core.console import say
from flexunet_pl.core.errors import UserError

CLEAN, WARNED, FAILED = 0, 1, 2


def audit(
    data: Path,
    strict: bool = False,
    out: Path | None = None,
    palette: Path | None = None,
    source_pattern: str | None = None,
    near_duplicates: bool = True,
    max_pixels: int | None = None,
    labels: Path | None = None,
) -> int:
    """Check a data set: pairing, readability, sizes, colours, empty masks, balance, duplicates, leaks between splits.

    With --labels it also ranks the labels that a model contradicts with confidence, of images it has not trained on.

    The exit code is 0 if nothing is wrong, 2 if there are errors, and with --strict true 1 if there are warnings.

    Args:
        data: Folder with train, valid and test (each with images and masks), or with images and masks.
        strict: Whether warnings alone make the exit code 1.
        out: Where to write audit.json and audit.html; by default into the data set's folder.
        palette: YAML file with class names and colours, or a config that has them; by default palette.yaml in the
            folder, else the colours that cover areas in the masks.
        source_pattern: Regular expression with one group around the part of a name that all pictures of a source
            share; without it the variant prefixes of the FlexUNet family are taken off.
        near_duplicates: Whether to look for images that look alike under different names.
        max_pixels: The most pixels of an image or mask (default: 100 million).
        labels: Run that was trained on this data set, best with fit --folds 5; its networks check the labels of the
            images they have not seen, and label_review.html shows which to look at.
    """
    from flexunet_pl.core.files import write_json, write_text
    from flexunet_pl.core.types import Problem
    from flexunet_pl.curation.audit.checks import check_dataset, find_all
    from flexunet_pl.curation.audit.findings_report import as_json, as_lines
    from flexunet_pl.curation.audit.inspection import ERROR, NOTE, WARNING
    from flexunet_pl.curation.audit.page import as_page
    from flexunet_pl.curation.palette_detection import infer_palette
    from flexunet_pl.data.image_files import pixel_limit
    from flexunet_pl.data.layout import PALETTE_FILE
    from flexunet_pl.data.palette import Palette

    with pixel_limit(max_pixels):
        queue = find_all(data, [])
        folder = data if out is None else out
        _check_writable(folder)
        if labels is not None:
            from flexunet_pl.evaluation.held_out import find_held_out

            find_held_out(labels, data)  # an unsuitable run fails before the work
        inferred = None
        if palette is None and not (data / PALETTE_FILE).is_file():
            colors = infer_palette([pair.mask for _, pair in queue])
            listed = ", ".join(f"{name} {color}" for name, color in colors.to_mapping().items())
            inferred = Problem(
                f"has no {PALETTE_FILE}; its masks show areas of {len(colors)} colours, taken as {listed}",
                data,
                kind="palette",
                severity=NOTE,
            )
        else:
            colors = Palette.load(data / PALETTE_FILE if palette is None else palette)
        found = check_dataset(data, colors, source_pattern, look=near_duplicates)
        if inferred is not None:
            found.findings.append(inferred)
        code = FAILED if found.count(ERROR) else WARNED if strict and found.count(WARNING) else CLEAN
        write_json(folder / "audit.json", as_json(found, code))
        write_text(folder / "audit.html", as_page(found))
        say(*as_lines(found), f"written: {folder / 'audit.json'} and {folder / 'audit.html'}")
        if labels is not None:
            from flexunet_pl.report.label_review import write_label_review

            say("", *write_label_review(labels, data, colors, folder))
        return code


def _check_writable(folder: Path) -> None:
    """Check before the work that the report can be written."""
    place = folder
    while not place.exists():
        place = place.parent
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise UserError(
            f"{folder}: the report cannot be written there ({error}); name another folder with --out"
        ) from error
