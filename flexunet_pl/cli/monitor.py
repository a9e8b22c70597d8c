"""monitor: whether the line is still the same, by a log of infer."""

from pathlib import Path

from flexunet_pl.core.console import note, say


def monitor(
    log: Path, by: str = "month", out: Path | None = None, reference: str | None = None, model: Path | None = None
) -> int:
    """Write a page on a log of infer --log: counts, NG rate, classes, drift scores and uncertainty of each period.

    A period that differs from the reference beyond chance gets a warning.

    Args:
        log: The log: lines of JSON, or CSV with the columns time, image, decision, classes, drift_score, uncertainty.
        by: Length of a period: month, week or day, in UTC.
        out: Folder for monitor.html, monitor.csv and monitor.json; by default beside the log, LOG-monitor.
        reference: The period that the others are compared with, such as 2026-05 (default: the first).
        model: A run or a bundle, whose calibration is shown beside the periods.
    """
    from flexunet_pl.report.monitor import write_monitor

    lines, problems = write_monitor(log, by, out, reference, model)
    for problem in problems[:3]:
        note(f"note: {problem}; left out")
    if len(problems) > 3:
        note(f"note: {len(problems) - 3} more lines of {log} are no entries; left out")
    say(*lines)
    return 0
