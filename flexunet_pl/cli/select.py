"""select: which unlabelled images to label next."""

from pathlib import Path

from flexunet_pl.core.arguments import PROGRAM
from flexunet_pl.core.console import note, say

LIST = "label_next.csv"


def select(
    run: Path,
    images: Path,
    count: int = 20,
    out: Path | None = None,
    copy: Path | None = None,
    link: Path | None = None,
    source_share: float = 0.1,
    source_pattern: str | None = None,
    groups: Path | None = None,
    max_pixels: int | None = None,
) -> int:
    """Choose the unlabelled images whose labels would teach a model most: those it is unsure of, and unlike each other.

    Args:
        run: Run folder or checkpoint; best a run of fit --folds, whose networks can disagree.
        images: Folder of unlabelled images.
        count: How many images to choose.
        out: The list, as CSV (default: label_next.csv in the run's folder, or here for a checkpoint).
        copy: New or empty folder for copies of the chosen images.
        link: New or empty folder for symbolic links to them.
        source_share: The largest share of the list from one source, above 0 and at most 1.
        source_pattern: Regular expression with one group around the part of a name that all pictures of a source
            share; without it the variant prefixes of the FlexUNet family are taken off.
        groups: CSV with the columns file and group: which source (such as a part) each image shows.
        max_pixels: The most pixels of an image (default: 100 million).
    """
    from flexunet_pl.data.image_files import pixel_limit
    from flexunet_pl.evaluation.label_next import rank_unlabelled
    from flexunet_pl.report.label_list import check_folder, fill_folder, list_lines, write_list
    from flexunet_pl.training.runs import named_run

    for option, folder in (("--copy", copy), ("--link", link)):
        check_folder(option, folder)
    with pixel_limit(max_pixels):
        found = rank_unlabelled(run, images, count, source_share, source_pattern, groups)
    place = named_run(run)
    path = (place / LIST if place.is_dir() else Path(LIST)) if out is None else out
    write_list(path, found.candidates)
    fill_folder(copy, found.candidates, linked=False)
    fill_folder(link, found.candidates, linked=True)
    note(*found.notes)
    say(*list_lines(found), "", f"written: {', '.join(str(one) for one in (path, copy, link) if one is not None)}")
    say(f"Next: label these images, add them with their masks to the data set, and train again with {PROGRAM} fit.")
    return 0
