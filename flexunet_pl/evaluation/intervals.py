"""Confidence intervals of shares of images."""


def proportion_interval(count: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share ``count / total`` (Clopper and Pearson, Biometrika 26, 1934), 0..1.

    It is (0, 1) if ``total`` is 0.
    """
    if not total:
        return 0.0, 1.0
    from scipy.stats import binomtest  # takes half a second to import

    found = binomtest(count, total).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)
