"""The scores of an evaluation, by worked numbers, brute force and published implementations."""

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_calibration_error

from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.evaluation.boundary import count_boundaries, tolerance_of
from flexunet_pl.evaluation.calibration import BINS, Calibration
from flexunet_pl.evaluation.curves import (
    AUPRO_LIMIT,
    CURVE_POINTS,
    ClassHistogram,
    Detection,
    DetectionHistogram,
    odds_bins,
)
from flexunet_pl.evaluation.image_counts import count_image
from flexunet_pl.evaluation.models import ImagePrediction, plane
from flexunet_pl.evaluation.regions import by_size, hit_share, match_regions
from flexunet_pl.evaluation.totals import Bootstrap, Totals
from flexunet_pl.nn.bootstrap import draw_counts, group_counts, group_weights, interval, scores_of_draws

PALETTE = Palette(("background", "crack", "oil"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)), ignore=(9, 9, 9))
BINARY = Palette(("background", "defect"), ((0, 0, 0), (255, 0, 0)))


def detected(scores: list[float], region: list[int]) -> Detection:
    histogram = DetectionHistogram()
    histogram.add(np.array(scores, dtype=np.float32), np.array(region, dtype=np.int32))
    return histogram.compute()


@pytest.mark.parametrize(
    ("scores", "region", "auroc", "ap", "aupro"),
    [
        pytest.param([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 1.0, 1.0, 1.0, id="perfect"),
        pytest.param([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 0.0, (1 / 3 + 2 / 4) / 2, 0.0, id="upside down"),
        pytest.param([0.5, 0.5, 0.5, 0.5], [1, 1, 0, 0], 0.5, 0.5, 0.15, id="all alike: the diagonal"),
        # Thresholds .9 (tp), .8 (fp of 2), .7 (tp), .1: ROC area = 1/2 * 1/2 + 1 * 1/2; AP = 1/2 * 1 + 1/2 * 2/3.
        pytest.param([0.9, 0.8, 0.7, 0.1], [1, 0, 2, 0], 0.75, 5 / 6, 0.5, id="one false alarm between two regions"),
        # A region of 4 pixels found at once, one of 1 pixel never: the mean overlap is a half, not 4 of 5.
        pytest.param(
            [0.9, 0.9, 0.9, 0.9, 0.1, 0.5, 0.2, 0.2, 0.2],
            [1, 1, 1, 1, 2, 0, 0, 0, 0],
            0.8,
            4 / 5 + 1 / 5 * 5 / 9,
            0.5,
            id="regions weigh alike, whatever their size",
        ),
    ],
)
def test_detection_by_hand(scores: list[float], region: list[int], auroc: float, ap: float, aupro: float) -> None:
    found = detected(scores, region)
    assert found.auroc == pytest.approx(auroc, abs=1e-12)
    assert found.average_precision == pytest.approx(ap, abs=1e-12)
    assert found.aupro == pytest.approx(aupro, abs=1e-12)


def test_the_limit_of_aupro_lies_on_a_straight_line() -> None:
    # One defect pixel at .5 between clean ones: PRO is 0 up to a rate of .2 and rises to 1 at .4, as .5 ties with one.
    scores, region = [0.9, 0.5, 0.5, 0.4, 0.3, 0.2], [0, 1, 0, 0, 0, 0]
    found = detected(scores, region)
    # From (.2, 0) to (.3, .5): a triangle of .1 * .5 / 2, over .3.
    assert found.aupro == pytest.approx(0.025 / 0.3, abs=1e-12)
    assert found.pro[-1] == [AUPRO_LIMIT, 0.5]


@pytest.mark.parametrize("region", [[0, 0], [1, 1]], ids=["no defect", "nothing but defects"])
def test_detection_needs_defects_and_others(region: list[int]) -> None:
    assert detected([0.3, 0.4], region) == Detection(None, None, None, [], [])


def smooth_scores(seed: int, fine: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return scores float32 and defect regions of some images (N, H, W): blobs, with many ties if not ``fine``."""
    from scipy.ndimage import gaussian_filter
    from scipy.ndimage import label as connected

    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.normal(size=(6, 48, 40)), (0, 3, 3))
    truth = noise > np.quantile(noise, 0.9)
    scores = noise + gaussian_filter(rng.normal(size=noise.shape), (0, 2, 2)) * 0.7
    scores = (scores - scores.min()) / (scores.max() - scores.min())
    scores = scores if fine else np.round(scores, 2)
    regions = np.stack([connected(one, structure=np.ones((3, 3)))[0] for one in truth])
    return scores.astype(np.float32), regions.astype(np.int32)


@pytest.mark.parametrize("fine", [True, False], ids=["fine", "many ties"])
def test_pixel_auroc_and_average_precision_are_those_of_torchmetrics(fine: bool) -> None:
    scores, regions = smooth_scores(1, fine)
    histogram = DetectionHistogram()
    for one, region in zip(scores, regions, strict=True):
        histogram.add(one.reshape(-1), region.reshape(-1))
    found = histogram.compute()
    chances, labels = torch.from_numpy(scores.reshape(-1)), torch.from_numpy((regions > 0).reshape(-1).astype(int))
    assert found.auroc == pytest.approx(float(binary_auroc(chances, labels)), abs=2e-6)
    assert found.average_precision == pytest.approx(float(binary_average_precision(chances, labels)), abs=2e-6)
    assert len(found.roc) <= CURVE_POINTS


@pytest.mark.parametrize("fine", [True, False], ids=["fine", "many ties"])
def test_aupro_is_the_area_under_overlaps_counted_threshold_by_threshold(fine: bool) -> None:
    scores, regions = (one[:2] for one in smooth_scores(2, fine))
    histogram = DetectionHistogram()
    for one, region in zip(scores, regions, strict=True):
        histogram.add(one.reshape(-1), region.reshape(-1))
    places = [np.where(regions[index] == number) for index in range(2) for number in range(1, regions[index].max() + 1)]
    images = [index for index in range(2) for _ in range(regions[index].max())]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(scores)[::-1]:
        hit = scores >= threshold
        rates.append(float(hit[regions == 0].mean()))
        overlaps.append(float(np.mean([hit[index][place].mean() for index, place in zip(images, places, strict=True)])))
    inside = np.array(rates) <= AUPRO_LIMIT
    x = np.append(np.array(rates)[inside], AUPRO_LIMIT)
    y = np.append(np.array(overlaps)[inside], np.interp(AUPRO_LIMIT, rates, overlaps))
    assert len(x) > 10
    assert histogram.compute().aupro == pytest.approx(float(np.trapezoid(y, x)) / AUPRO_LIMIT, abs=1e-9)


def test_the_score_is_what_float32_makes_of_it_and_ties_stay_ties() -> None:
    background = np.array([1.0, 1 - 2**-24, 0.5, 2**-30], dtype=np.float32)
    scores = 1 - background
    histogram = DetectionHistogram()
    histogram.add(scores, np.array([0, 0, 1, 1], dtype=np.int32))
    assert np.flatnonzero(histogram.clean).tolist() == [0, 1]
    assert np.flatnonzero(histogram.defect).tolist() == [1 << 23, 1 << 24]


def test_the_average_precision_of_a_class_is_that_of_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    is_class = rng.random(20_000) < 0.1
    odds = rng.normal(size=20_000) * 6 + np.where(is_class, 6, -6)
    chances = (1 / (1 + np.exp(-odds))).astype(np.float32)  # some so near 1 that they are equal to it
    assert (chances == 1).any()
    histogram = ClassHistogram(2)
    histogram.add(1, odds_bins(chances), is_class)
    expected = float(binary_average_precision(torch.from_numpy(chances), torch.from_numpy(is_class.astype(int))))
    assert histogram.average_precision(1) == pytest.approx(expected, abs=1e-4)
    assert histogram.average_precision(0) is None
    points = histogram.curve(1)
    assert points[-1][0] == 1.0
    assert points[-1][1] == pytest.approx(is_class.mean(), abs=1e-4)


def test_odds_keep_their_order_to_both_ends() -> None:
    chances = np.array([-1e-9, 0.0, 1e-30, 1e-7, 0.5, 1 - 1e-3, 1 - 2**-23, 1 - 2**-24, 1.0, 1 + 1e-7], np.float32)
    bins = odds_bins(chances)
    assert (np.diff(bins) >= 0).all()
    assert len(set(bins[3:9].tolist())) == 6
    assert bins.min() >= 0


def test_calibration_by_hand_and_against_torchmetrics() -> None:
    calibration = Calibration()
    calibration.add(np.full(10, 0.8, dtype=np.float32), np.arange(10) < 6)
    assert calibration.expected_error == pytest.approx(0.2, abs=1e-6)
    assert calibration.bins()[0] | {"confidence": 0, "accuracy": 0} == {
        "from": 0.8,
        "to": round(13 / 15, 6),
        "pixels": 10,
        "confidence": 0,
        "accuracy": 0,
    }
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 5000).astype(np.float32)
    is_right = rng.random(5000) < confidence**2
    other = Calibration()
    other.add(confidence, is_right)
    expected = binary_calibration_error(
        torch.from_numpy(confidence), torch.from_numpy(is_right.astype(int)), n_bins=BINS, norm="l1"
    )
    assert other.expected_error == pytest.approx(float(expected), abs=1e-5)
    assert Calibration().expected_error is None
    assert other.sums[0, -1] > 0, "a confidence of 1 belongs to the last bin"


def test_regions_are_matched_within_their_class_and_corners_connect() -> None:
    truth = np.zeros((8, 12), dtype=np.uint8)
    predicted = np.zeros_like(truth)
    truth[0:2, 0:4] = 1  # 8 pixels, of which 4 are found with 4 others: IoU 4 / 12
    predicted[0:1, 0:4] = predicted[2:3, 0:4] = 1
    predicted[1, 1] = 1  # joins the two: IoU 5 / 12
    predicted[2, 0] = 1
    truth[4, 6], truth[5, 7] = 1, 1  # one region over a corner, found as another class
    predicted[4, 6], predicted[5, 7] = 2, 2
    truth[7, 0:3] = 255
    predicted[7, 0:3] = 2  # nobody knows: no false alarm
    found = match_regions(truth, predicted, 3)
    assert found[1].areas.tolist() == [8, 2]
    assert found[1].best_iou.tolist() == pytest.approx([5 / 12, 0])
    assert (found[1].false_alarms, found[2].false_alarms) == (0, 1)
    together = [found[1], found[2]]
    assert (hit_share(together, 0.1), hit_share(together, 0.5)) == (0.5, 0.0)
    assert hit_share([], 0.1) is None


def test_dice_by_size_is_that_of_the_matched_region() -> None:
    truth = np.zeros((40, 40), dtype=np.uint8)
    truth[:20, :20] = 1
    predicted = np.zeros_like(truth)
    predicted[:20, :10] = 1  # 200 of 400 pixels: Dice 2 * 200 / 600
    table = by_size([match_regions(truth, predicted, 2)[1]])
    assert table == [
        {
            "from_pixels": 316,
            "to_pixels": 999,
            "regions": 1,
            "mean_dice": pytest.approx(2 / 3),
            "hit_iou_0.1": 1.0,
            "hit_iou_0.5": 0.0,
        }
    ]


def test_boundaries_within_the_tolerance_by_brute_force() -> None:
    rng = np.random.default_rng(3)
    truth, predicted = (np.kron(rng.integers(0, 3, (6, 7)), np.ones((30, 30))).astype(np.uint8) for _ in range(2))
    truth[60:90, 30:60] = 255
    reach = tolerance_of(*truth.shape)
    assert reach == pytest.approx(0.0075 * np.hypot(180, 210))
    for index, found in count_boundaries(truth, predicted, 3).items():
        edges = []
        for mask in (truth, np.where(truth == 255, 255, predicted)):
            padded = np.pad(mask, 1, mode="edge")
            sides = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
            differs = np.any([side != mask for side in sides], axis=0)
            edges.append((mask == index) & differs & ~np.any([side == 255 for side in sides], axis=0))
        true_edge, predicted_edge = edges
        assert found.truth == true_edge.sum()
        assert found.predicted == predicted_edge.sum()
        assert found.truth_found == (distance_transform_edt(~predicted_edge)[true_edge] <= reach).sum()
        assert found.predicted_right == (distance_transform_edt(~true_edge)[predicted_edge] <= reach).sum()
        precision, recall = found.predicted_right / found.predicted, found.truth_found / found.truth
        assert found.f_score == pytest.approx(2 * precision * recall / (precision + recall))


def test_a_boundary_a_pixel_off_is_right_and_one_far_off_is_wrong() -> None:
    truth = np.zeros((100, 100), dtype=np.uint8)
    truth[20:60, 20:60] = 1
    for shift, score in ((0, 1.0), (1, 1.0), (30, 0.0)):
        counts = count_boundaries(truth, np.roll(truth, shift, (0, 1)), 2)[1]
        assert counts.f_score == pytest.approx(score, abs=0.05)
    assert count_boundaries(truth, np.zeros_like(truth), 2)[1].f_score == 0.0
    assert count_boundaries(np.zeros_like(truth), truth, 2)[1].f_score is None


def confusion(hit: int, true: int, predicted: int) -> list[list[int]]:
    """Return a confusion matrix of two classes with these pixels of the second."""
    return [[0, predicted - hit], [true - hit, hit]]


def test_intervals_come_from_drawing_groups() -> None:
    # Two groups, one all right and one all wrong: a draw has 2, 1 or 0 right ones, so Dice 1, 1/2 or 0.
    counts = np.array([confusion(10, 10, 10), confusion(0, 10, 10), confusion(0, 0, 0)])
    places, weights = group_weights(["a", "b", "b"], 2000, seed=0)
    assert places.tolist() == [0, 1, 1]
    assert set(weights.sum(axis=1).tolist()) == {2}
    drawn = scores_of_draws(draw_counts(group_counts(counts, places), weights), ["background", "defect"])
    dice, iou = drawn["mean_foreground_dice",], drawn["mean_foreground_iou",]
    assert sorted(set(dice.tolist())) == [0.0, 0.5, 1.0]
    assert np.mean(dice == 0.5) == pytest.approx(0.5, abs=0.05)
    assert iou[dice == 0.5][0] == pytest.approx(1 / 3)
    assert interval(dice) == [0.0, 1.0]
    assert interval(np.full(3, np.nan)) is None
    assert drawn["classes", "defect", "recall"][dice == 0.5][0] == 10 / 20
    assert drawn["classes", "defect", "dice"].tolist() == dice.tolist()
    assert drawn["pixel_accuracy",][dice == 0.5][0] == pytest.approx(10 / 30)
    assert ("classes", "defect", "support") not in drawn, "a count has no better direction and no interval"
    assert not {("loss",), ("mean_image_dice",)} & drawn.keys(), "means over images are not drawn"
    again = group_weights(["a", "b", "b"], 2000, seed=0)[1]
    assert np.array_equal(weights, again)
    assert not np.array_equal(weights, group_weights(["a", "b", "b"], 2000, seed=1)[1])


def test_the_interval_of_a_mean_is_as_wide_as_statistics_say() -> None:
    rng = np.random.default_rng(0)
    hits_of = rng.integers(0, 101, 400)
    counts = np.array([confusion(int(hit), 100, 100) for hit in hits_of])
    places, weights = group_weights([str(number) for number in range(400)], 1000, seed=0)
    drawn = scores_of_draws(draw_counts(group_counts(counts, places), weights), ["background", "defect"])
    low, high = interval(drawn["mean_foreground_dice",]) or (0, 0)
    assert (high - low) / 2 == pytest.approx(1.96 * hits_of.std() / 100 / 20, rel=0.15)


def prediction(mask: UInt8Array, probabilities: np.ndarray | None = None) -> ImagePrediction:
    return ImagePrediction(np.zeros((*mask.shape, 3), dtype=np.uint8), mask, probabilities)


def test_dice_coef_multiclass_beside_nothing_but_background() -> None:
    truth = np.array([[0, 0, 0, 1]], dtype=np.uint8)
    chances = np.array([[[0.5, 0.25, 0.25], [1, 0, 0], [1, 0, 0], [0.25, 0.75, 0]]], dtype=np.float32)
    found = count_image(prediction(np.array([[0, 0, 0, 1]], dtype=np.uint8), chances), truth, 3)
    assert found.soft == pytest.approx((2 * 3.25 + 1) / 9)
    assert found.soft_of_background == pytest.approx((2 * 3 + 1) / 9)
    hard = count_image(prediction(np.array([[0, 0, 1, 1]], dtype=np.uint8)), truth, 3)
    assert hard.soft == pytest.approx((2 * 3 + 1) / 9)


def test_with_one_sigmoid_channel_the_coefficient_is_that_of_the_channel() -> None:
    truth = np.array([[0, 1, 1, 255]], dtype=np.uint8)
    chances = np.array([[[0.25], [0.75], [0.5], [1.0]]], dtype=np.float32)
    found = count_image(prediction(np.array([[0, 1, 0, 1]], dtype=np.uint8), chances), truth, 2)
    assert found.soft == pytest.approx((2 * 1.25 + 1) / (1.5 + 2 + 1))
    assert found.soft_of_background == pytest.approx(1 / 3)
    assert found.probabilities is not None
    assert found.probabilities.anomaly.tolist() == [0.25, 0.75, 0.5]
    assert found.probabilities.region.tolist() == [0, 1, 1]
    assert found.confusion.tolist() == [[1, 0], [1, 1]]


def test_probabilities_come_to_the_size_of_the_image_as_masks_do() -> None:
    from PIL import Image

    small = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for size in ((7, 9), (3, 8), (2, 3), (300, 5)):
        expected = np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.NEAREST))
        assert np.array_equal(plane(small[..., None].astype(np.float32), 1, size), expected.astype(np.float32))


def test_absent_classes_have_no_score_and_false_alarms_count() -> None:
    totals = Totals(PALETTE)
    truth, predicted = np.zeros((10, 10), dtype=np.uint8), np.zeros((10, 10), dtype=np.uint8)
    truth[:5, :5] = 1
    predicted[:5, :5] = 1
    predicted[8:, 8:] = 2
    totals.add("one", None, count_image(prediction(predicted), truth, 3))
    clean = np.zeros_like(truth)
    totals.add("two", None, count_image(prediction(clean), clean, 3))
    found = totals.to_mapping(Bootstrap(["one", "two"], 50, 0))
    assert found["mean_foreground_dice"] == 1.0
    assert found["classes"]["oil"]["dice"] is None
    assert found["false_alarms"] == {"oil": 4}
    assert found["classes"]["oil"]["false_alarm_regions"] == 1
    assert found["classes"]["crack"]["images"] == 1
    assert found["confusion"][0] == [171, 0, 4]
    assert found["confusion_share"][2] == [None, None, None]
    assert [row["dice"] for row in found["per_image"]] == [pytest.approx(50 / 54), None]
    assert found["per_image"][0] | {} == found["per_image"][0] | {
        "missed": 0,
        "invented": 4,
        "wrong_class": 0,
        "wrong": 4,
        "defect": 25,
        "regions": 1,
        "regions_hit": 1,
    }
    assert found["detection"]["pixel_auroc"] is None
    assert found["calibration"] is None
    assert found["detection"]["images_without_defect"] == 1
    assert found["detection"]["images_without_defect_with_alarm"] == 0


def test_probabilities_of_a_perfect_model_give_ones() -> None:
    totals = Totals(BINARY)
    truth = np.zeros((16, 16), dtype=np.uint8)
    truth[4:8, 4:8] = 1
    chances = np.where(truth[..., None] == [0, 1], 0.9, 0.1).astype(np.float32)
    totals.add("one", None, count_image(prediction(truth, chances), truth, 2))
    found = totals.to_mapping(Bootstrap(["one"], 10, 0))
    assert (found["detection"]["pixel_auroc"], found["detection"]["aupro_0.3"]) == (1.0, 1.0)
    assert found["classes"]["defect"]["average_precision"] == 1.0
    assert found["calibration"]["expected_error"] == pytest.approx(0.1, abs=1e-6)
    assert found["intervals"]["mean_foreground_dice"] is None


@pytest.mark.parametrize(
    ("defects", "groups", "of_defect", "of_background"),
    [
        pytest.param([9], ["a"], False, False, id="one image"),
        pytest.param([9, 9], ["a", "a"], False, False, id="two images of one source"),
        pytest.param([9, 0, 0], ["a", "b", "c"], False, True, id="a class that only one of three images shows"),
        pytest.param([9, 9, 0], ["a", "a", "b"], False, True, id="a class that only one of two sources shows"),
        pytest.param([9, 4, 0], ["a", "b", "c"], True, True, id="a class that two images show"),
    ],
)
def test_a_score_of_one_group_has_no_interval(
    defects: list[int], groups: list[str], of_defect: bool, of_background: bool
) -> None:
    totals = Totals(BINARY)
    for number, pixels in enumerate(defects):
        truth, guess = np.zeros((2, 64), dtype=np.uint8)
        truth[:pixels], guess[2 : max(2, pixels)] = 1, 1
        shape = (8, 8)
        totals.add(str(number), None, count_image(prediction(guess.reshape(shape)), truth.reshape(shape), 2))
    found = totals.to_mapping(Bootstrap(groups, 200, 0))["intervals"]
    assert (found["classes"]["defect"]["dice"] is not None) == of_defect
    assert (found["mean_foreground_dice"] is not None) == of_defect
    assert (found["classes"]["background"]["dice"] is not None) == of_background
    assert (found["pixel_accuracy"] is not None) == of_background
