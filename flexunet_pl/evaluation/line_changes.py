"""Whether an inspection line changed from period to period, by a log of its images, beyond what chance explains."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from flexunet_pl.evaluation.decision_log import LogEntry
from flexunet_pl.evaluation.intervals import proportion_interval

# How the name of a period follows from the time.
PERIODS: dict[str, Callable[[datetime], str]] = {
    "month": lambda time: f"{time:%Y-%m}",
    "week": lambda time: f"{time - timedelta(days=time.weekday()):%Y-%m-%d}",  # its Monday
    "day": lambda time: f"{time:%Y-%m-%d}",
}
SCORES = {"drift_score": "drift score", "uncertainty": "uncertainty"}
QUANTILES = (0.5, 0.9, 0.99)
FAMILY_ERROR = 0.01  # the probability that a log without any change gets a warning
LEAST_IMAGES = 5  # of a period that is compared
BORDER = 1.0  # of a drift score


@dataclass(frozen=True)
class Period:
    """The images of a month, week or day.

    Attributes:
        name: Such as 2026-05, or the day, or the Monday of the week.
        images: Their number.
        rejected: How many are NG, or show a defect where the log has no decision.
        classes: How many show each class.
        scores: The drift scores and the uncertainties that are known, in the order of time, by name.
        models: The models that segmented them.
    """

    name: str
    images: int
    rejected: int
    classes: Mapping[str, int]
    scores: Mapping[str, Sequence[float]]
    models: tuple[str, ...]

    @property
    def rejected_interval(self) -> tuple[float, float]:
        """The 95 % interval of the NG rate."""
        return proportion_interval(self.rejected, self.images)

    @property
    def beyond_border(self) -> int:
        """How many images have a drift score above 1."""
        return sum(score > BORDER for score in self.scores["drift_score"])

    def quantiles(self, score: str) -> list[float] | None:
        """Return the QUANTILES of a score, None if none is known."""
        values = self.scores[score]
        return np.quantile(values, QUANTILES).tolist() if values else None


@dataclass(frozen=True)
class Change:
    """A test of one period against the reference.

    Attributes:
        period: Name of the period.
        what: What was compared, such as "NG rate".
        before: The value in the reference, a share or a median.
        after: The value in the period.
        p_value: Probability of such a difference by chance.
        adjusted: The same after the correction for all tests of the log.
    """

    period: str
    what: str
    before: float
    after: float
    p_value: float
    adjusted: float = 1.0

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the change gets a warning."""
        return self.adjusted < FAMILY_ERROR

    def __str__(self) -> str:
        """Return the sentence of the warning."""
        values = (
            f"{self.before:.1%} -> {self.after:.1%}"
            if "rate" in self.what
            else f"{self.before:.3f} -> {self.after:.3f}"
        )
        return f"{self.period}: the {self.what} differs beyond chance, {values} (p = {self.adjusted:.1g} after Holm)"


def in_periods(entries: Sequence[LogEntry], by: str) -> list[Period]:
    """Split entries, in the order of time, into periods of PERIODS in UTC; periods without images are left out."""
    grouped: dict[str, list[LogEntry]] = {}
    for entry in entries:
        grouped.setdefault(PERIODS[by](entry.time), []).append(entry)
    return [
        Period(
            name,
            len(group),
            sum(entry.is_rejected for entry in group),
            Counter(name for entry in group for name in sorted(entry.classes)),
            {key: [entry.scores[key] for entry in group if key in entry.scores] for key in SCORES},
            tuple(sorted({entry.model for entry in group if entry.model is not None})),
        )
        for name, group in grouped.items()
    ]


def compare_periods(periods: Sequence[Period], reference: Period) -> list[Change]:
    """Compare each other period with a reference; p-values are corrected for all tests (Holm, Scand. J. Stat. 6, 1979).

    Shares, the NG rate and the rate of images beyond the border, are compared by Fisher's exact test; drift scores and
    uncertainties by the two-sample Kolmogorov-Smirnov test. Periods below LEAST_IMAGES are not compared.
    """
    changes: list[Change] = []
    for period in periods:
        if period is not reference and min(period.images, reference.images) >= LEAST_IMAGES:
            changes += _tests(period, reference)
    adjusted = holm([change.p_value for change in changes])
    return [Change(**{**vars(change), "adjusted": p}) for change, p in zip(changes, adjusted, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted so that all of them together err with the stated probability (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values, dtype=np.float64)[order] * (len(order) - np.arange(len(order)))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return [float(value) for value in adjusted]


def _tests(period: Period, reference: Period) -> list[Change]:
    from scipy.stats import fisher_exact, ks_2samp  # half a second that few commands need

    def share(what: str, hits: Callable[[Period], int], total: Callable[[Period], int]) -> Change:
        counts = [[hits(one), total(one) - hits(one)] for one in (reference, period)]
        before, after = (hits(one) / total(one) for one in (reference, period))
        return Change(period.name, what, before, after, float(fisher_exact(counts).pvalue))

    def known(one: Period, score: str) -> Sequence[float]:
        return one.scores[score]

    found = [share("NG rate", lambda one: one.rejected, lambda one: one.images)]
    for score, title in SCORES.items():
        values: list[Any] = [known(one, score) for one in (reference, period)]
        if min(map(len, values)) < LEAST_IMAGES:
            continue
        before, after = map(float, map(np.median, values))
        found.append(
            Change(period.name, f"distribution of the {title}", before, after, float(ks_2samp(*values).pvalue))
        )
        if score == "drift_score":
            beyond = "rate of images unlike the training set"
            found.append(share(beyond, lambda one: one.beyond_border, lambda one: len(known(one, "drift_score"))))
    return found
