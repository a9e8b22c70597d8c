"""Format an audit as JSON and as text."""

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from flexunet_pl import __version__
from flexunet_pl.core.console import table
from flexunet_pl.core.types import Problem
from flexunet_pl.curation.audit.checks import AuditResult
from flexunet_pl.curation.audit.inspection import ERROR, NOTE, WARNING, Inspection

SEVERITIES = (ERROR, WARNING, NOTE)
TITLES = {
    "palette": "No palette",
    "pairing": "Images, masks and folders without partner",
    "unreadable": "Files that cannot be read",
    "size": "Image and mask of different size",
    "off-palette": "Colours or indices of no class",
    "blended": "Blended colours along edges",
    "empty": "Masks that mark nothing",
    "manifest": "Files and manifest differ",
    "balance": "Classes that are missing",
    "look-alikes": "Sources that look alike",
    "leak": "Leaks between splits",
    "duplicate": "Copies within a split",
    "near-duplicate": "Alike under different names, within a split",
}
MOST_LISTED = 3


def as_json(found: AuditResult, exit_code: int) -> dict[str, Any]:
    """Return the whole audit as plain data."""
    return {
        "version": __version__,
        "data": str(found.root),
        "palette": found.palette.to_mapping(),
        "exit_code": exit_code,
        "counts": {severity: found.count(severity) for severity in SEVERITIES},
        "images": {split: sum(item.split == split for item in found.items) for split in found.classes},
        "sizes": [
            {"height": height, "width": width, "images": count} for (height, width), count in count_sizes(found.items)
        ],
        "blended_pixels": sum(item.blended for item in found.items),
        "classes": found.classes,
        "regions": {label: spread_of(areas) for label, areas in found.areas.items()},
        "leaks": {
            split: {"images": sum(item.split == split for item in found.items), "with_relatives_in": others}
            for split, others in found.leaks.shares.items()
        },
        "findings": [
            {"kind": one.kind, "severity": one.severity, "message": str(one), "files": list(one.files)}
            for one in found.findings
        ],
    }


def as_lines(found: AuditResult) -> list[str]:
    """Return the audit as lines: images, regions and pixels of each class, then the problems, errors first."""
    lines = [f"{len(found.items)} images with masks in {found.root}", ""]
    columns = ("images", "regions", "pixels")
    for split, cells in found.classes.items():
        rows = [[name, *(cell[column] for column in columns)] for name, cell in cells.items()]
        lines += [table([split, *columns], rows), ""]
    for severity in SEVERITIES:
        for kind, findings in by_kind(found, severity):
            lines.append(f"{severity}: {TITLES[kind]} ({len(findings)})")
            lines += [f"    {finding}" for finding in findings[:MOST_LISTED]]
            if len(findings) > MOST_LISTED:
                lines.append(f"    and {len(findings) - MOST_LISTED:,} more")
    return [*lines, *summary_lines(found), verdict(found)]


def summary_lines(found: AuditResult) -> list[str]:
    """Return one line for each split that shares sources with another, and one on blended colours."""
    lines = []
    blended = [item.blended for item in found.items if item.blended]
    if blended:
        lines.append(
            f"{sum(blended):,} pixels of {len(blended)} masks have blended colours (anti-aliased edges); "
            "data.antialiased_masks: true moves each to the class of a neighbour"
        )
    if len(found.leaks.shares) > 1 and not found.leaks.pairs:
        lines.append("no leak: no source, copy or near-duplicate is in two splits")
    for split, others in found.leaks.shares.items():
        images = sum(item.split == split for item in found.items)
        for other, count in others.items():
            if count and (other == "train" or split == "test"):
                lines.append(f"{split}: {count} of {images} images ({count / images:.0%}) have a relative in {other}")
    return lines


def verdict(found: AuditResult) -> str:
    """Return the number of errors and warnings in words."""
    errors, warnings = found.count(ERROR), found.count(WARNING)
    if not errors and not warnings:
        return "clean: nothing to fix"
    return f"{errors} error{'s'[: errors != 1]}, {warnings} warning{'s'[: warnings != 1]}"


def by_kind(found: AuditResult, severity: str) -> list[tuple[str, list[Problem]]]:
    """Return the findings of a severity by kind, in the order of TITLES, without kinds that have none."""
    grouped = {
        kind: [one for one in found.findings if one.kind == kind and one.severity == severity] for kind in TITLES
    }
    return [(kind, findings) for kind, findings in grouped.items() if findings]


def count_sizes(items: Sequence[Inspection]) -> list[tuple[tuple[int, int], int]]:
    """Return the (height, width) that occur and how often, the commonest first."""
    return Counter(item.size for item in items if item.size is not None).most_common()


def spread_of(areas: Counter[int]) -> dict[str, float]:
    """Return the number of regions, and the smallest, median and largest area in pixels."""
    if not areas:
        return {"regions": 0}
    values = list(areas.elements())
    middle = float(median(values))
    return {
        "regions": len(values),
        "smallest": min(values),
        "median": middle,
        "largest": max(values),
        "median_diameter": round(float(np.sqrt(4 * middle / np.pi)), 1),
    }
