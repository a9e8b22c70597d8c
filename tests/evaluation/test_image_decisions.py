"""Good or defective by image, against counts by hand."""

import numpy as np
import pytest

from flexunet_pl.data.palette import Palette
from flexunet_pl.evaluation.image_counts import count_image
from flexunet_pl.evaluation.image_decisions import ImageScores
from flexunet_pl.evaluation.models import ImagePrediction
from flexunet_pl.evaluation.totals import Bootstrap, Totals


def scores(defective: list[float], good: list[float]) -> ImageScores:
    found = ImageScores()
    for score in defective:
        found.add(score, is_defective=True)
    for score in good:
        found.add(score, is_defective=False)
    return found


@pytest.mark.parametrize(
    ("defective", "good", "threshold", "false_alarms", "auroc"),
    [
        pytest.param([0.9, 0.8], [0.1, 0.2], 0.8, 0.0, 1.0, id="apart"),
        pytest.param([0.9, 0.3], [0.1, 0.5], 0.3, 0.5, 3 / 4, id="all of two must be found: one of two good is above"),
        pytest.param([0.5], [0.5, 0.1], 0.5, 0.5, 3 / 4, id="a tie is an alarm, and half a pair"),
        pytest.param([0.01] + [0.9] * 19, [0.5], 0.9, 0.0, 19 / 20, id="19 of 20 are 95 %"),
        pytest.param([0.01] + [0.9] * 18, [0.5], 0.01, 1.0, 18 / 19, id="18 of 19 are less"),
        pytest.param([], [0.5], None, None, None, id="no defective image"),
        pytest.param([0.5], [], 0.5, None, None, id="no good image"),
    ],
)
def test_false_alarms(
    defective: list[float], good: list[float], threshold: float | None, false_alarms: float | None, auroc: float | None
) -> None:
    found = scores(defective, good)
    assert found.threshold == threshold
    assert found.false_alarms == false_alarms
    assert found.auroc == (None if auroc is None else pytest.approx(auroc))


def test_a_report_has_the_number_and_predicted_masks_have_none() -> None:
    palette = Palette.from_mapping({"background": [0, 0, 0], "crack": [255, 0, 0]})
    image, empty = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    chances = np.full((4, 4, 2), 0.5, np.float32)
    for probability, expected in ((0.7, 0.0), (None, None)):
        totals = Totals(palette)
        for name, truth, shift in (("bad", empty + 1, 0.0), ("good", empty, -0.5)):
            score = None if probability is None else probability + shift
            totals.add(name, None, count_image(ImagePrediction(image, empty, chances, score), truth, 2))
        found = totals.to_mapping(Bootstrap(["bad", "good"], 0, 0))
        assert found["detection"]["false_alarms_per_good_image"] == expected
        assert found["detection"]["image_auroc"] == (None if probability is None else 1.0)
        assert found["per_image"][0]["defect_probability"] == probability
