import copy
import json
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics import Metric as TorchMetric

from flexunet_pl.nn.metric_registry import METRICS, Metric, register_metric
from flexunet_pl.nn.metrics import (
    Scores,
    ScoreTable,
    _histogram,
    _histogram_by_sorting,
    confusion_matrix,
    edge_confusion,
    mask_from_logits,
    near_outline,
)

IGNORE = 255


def masks(*rows: list[int]) -> Tensor:
    """One image a row, each of one pixel row: (N, 1, W)."""
    return torch.tensor(rows, dtype=torch.uint8).unsqueeze(1)


def table_of(truth: list[int], predicted: list[int], num_classes: int = 3) -> ScoreTable:
    scores = Scores(num_classes)
    scores.update_masks(masks(predicted), masks(truth))
    return scores.compute()


def of_class(table: ScoreTable, index: int) -> tuple[float | None, ...]:
    """Dice, IoU, precision, recall, truth pixels and predicted pixels of a class."""
    return tuple(table.of_class(index).values())


def random_batch(
    images: int, classes: int = 3, channels: int | None = None, size: tuple[int, int] = (6, 9), seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, channels, H, W), masks with ignored pixels and a loss for each image."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, channels or classes, *size, generator=generator)
    mask = torch.randint(0, classes, (images, *size), generator=generator).to(torch.uint8)
    mask[torch.rand(mask.shape, generator=generator) < 0.1] = IGNORE
    return logits, mask, 5 * torch.rand(images, generator=generator, dtype=torch.float64)


class TestConfusion:
    """What follows from counting pixels."""

    def test_two_classes_of_which_each_has_one_error(self) -> None:
        #                 right right wrong(0 for 1) wrong(1 for 2) right ignored
        table = table_of([0, 1, 1, 2, 2, IGNORE], [0, 1, 0, 1, 2, 1])
        assert table.confusion == ((1, 0, 0), (1, 1, 0), (0, 1, 1))
        assert of_class(table, 0) == (2 * 1 / (1 + 2), 1 / 2, 1 / 2, 1 / 1, 1, 2)
        assert of_class(table, 1) == (2 * 1 / (2 + 2), 1 / (2 + 2 - 1), 1 / 2, 1 / 2, 2, 2)
        assert of_class(table, 2) == (2 * 1 / (2 + 1), 1 / (2 + 1 - 1), 1 / 1, 1 / 2, 2, 1)
        assert table["mean_foreground_dice"] == (1 / 2 + 2 / 3) / 2
        assert table["mean_foreground_iou"] == pytest.approx((1 / 3 + 1 / 2) / 2, abs=1e-16)
        assert table["micro_foreground_dice"] == 2 * (1 + 1) / ((2 + 2) + (2 + 1))
        assert table["mean_iou"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3, abs=1e-16)
        assert table["pixel_accuracy"] == 3 / 5
        assert table["mean_class_accuracy"] == pytest.approx((1 / 1 + 1 / 2 + 1 / 2) / 3, abs=1e-16)
        assert table["mean_image_dice"] == pytest.approx(4 / 7, abs=2**-32)
        assert table.images == 1

    def test_absent_class_has_no_scores_and_is_left_out_of_the_means(self) -> None:
        table = table_of([0, 0, 1, 1], [0, 1, 1, 1])
        assert of_class(table, 2) == (None, None, None, None, 0, 0)
        assert table["mean_foreground_dice"] == of_class(table, 1)[0] == 2 * 2 / (2 + 3)
        assert table["mean_foreground_iou"] == of_class(table, 1)[1] == 2 / 3
        assert table["mean_iou"] == (1 / 2 + 2 / 3) / 2
        assert table["mean_class_accuracy"] == (1 / 2 + 2 / 2) / 2

    def test_false_alarms_on_an_absent_class_are_reported_beside_the_means(self) -> None:
        table = table_of([0, 0, 0, 1], [2, 2, 0, 1])
        assert table["mean_foreground_dice"] == 1
        assert of_class(table, 2) == (None, None, None, None, 0, 2)
        assert table["micro_foreground_dice"] == 2 * 1 / (1 + 3)
        assert table["pixel_accuracy"] == 2 / 4
        assert table.to_mapping(["ground", "crack", "oil"])["false_alarms"] == {"oil": 2}

    def test_predicting_nothing_but_background_scores_0_on_the_classes_that_occur(self) -> None:
        table = table_of([0, 0, 0, 1, 2], [0, 0, 0, 0, 0])
        assert of_class(table, 1) == (0.0, 0.0, 0.0, 0.0, 1, 0)
        assert table["mean_foreground_dice"] == 0
        assert table["pixel_accuracy"] == 3 / 5
        assert table["mean_image_dice"] == 0

    def test_truth_of_nothing_but_background_has_no_foreground_scores(self) -> None:
        table = table_of([0, 0, 0, 0], [0, 0, 0, 1])
        assert table["mean_foreground_dice"] is None
        assert table["mean_foreground_iou"] is None
        assert table["micro_foreground_dice"] is None
        assert table["mean_image_dice"] is None
        assert table.to_mapping(["ground", "crack", "oil"])["false_alarms"] == {"crack": 1, "oil": 0}
        assert table.of_class(0)["recall"] == 3 / 4

    def test_nothing_counted_gives_no_scores(self) -> None:
        table = table_of([IGNORE, IGNORE], [0, 1])
        assert table["pixel_accuracy"] is None
        assert [of_class(table, index) for index in range(3)] == [(None, None, None, None, 0, 0)] * 3
        assert table["mean_class_accuracy"] is None
        assert table.images == 1

    def test_dice_per_image_is_a_mean_over_the_images_that_have_foreground(self) -> None:
        scores = Scores(3)
        truth = masks([0, 1, 1, 0], [0, 0, 0, 0], [2, 2, 2, 2], [0, 0, IGNORE, 1])
        scores.update_masks(masks([1, 1, 2, 0], [1, 1, 1, 1], [2, 2, 2, 0], [0, 0, 1, 0]), truth)
        table = scores.compute()
        # hits 1 of 2 true and 3 predicted; no foreground; 3 of 4 and 3; 0 of 1 and 0 (the ignored pixel is not counted)
        assert table["mean_image_dice"] == pytest.approx((2 / 5 + 6 / 7 + 0) / 3, abs=2**-32)
        assert table.images == 4

    def test_one_unbatched_image_and_images_of_different_sizes_add_up(self) -> None:
        scores = Scores(2)
        scores.update_masks(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 1], [0, 1]], dtype=torch.uint8))
        scores.update_masks(torch.tensor([[1, 1, 1]]), torch.tensor([[1, 1, 0]], dtype=torch.uint8))
        table = scores.compute()
        assert table.confusion == ((1, 2), (0, 4))
        assert table.images == 2
        assert table["dice_coef_multiclass"] is None
        assert table["loss"] is None

    def test_255_classes_fit_beside_the_ignored_pixels(self) -> None:
        truth = masks([0, 253, 254, 255])
        scores = Scores(255)
        scores.update_masks(masks([0, 254, 254, 7]), truth)
        confusion = np.array(scores.compute().confusion)
        assert confusion.sum() == 3
        assert confusion[0, 0] == confusion[253, 254] == confusion[254, 254] == 1

    @pytest.mark.parametrize(
        ("truth", "predicted"), [([0, 3], [0, 0]), ([0, 254], [0, 0]), ([0, 1], [0, 3]), ([0, 1], [0, IGNORE])]
    )
    def test_an_index_that_is_no_class_is_an_error(self, truth: list[int], predicted: list[int]) -> None:
        with pytest.raises(
            ValueError, match=r"1 pixels of the masks or predictions are no class: .* from 0 to 2, and 255"
        ):
            table_of(truth, predicted)
        with pytest.raises(ValueError, match="3 classes end at 2"):
            confusion_matrix(np.array(truth), np.array(predicted), 3)

    @given(data=st.data())
    @settings(max_examples=50, deadline=None)
    def test_equals_sets_of_pixels(self, data: st.DataObject) -> None:
        classes = data.draw(st.integers(2, 5))
        pixels = data.draw(st.integers(1, 30))
        truth = data.draw(st.lists(st.sampled_from([*range(classes), IGNORE]), min_size=pixels, max_size=pixels))
        predicted = data.draw(st.lists(st.integers(0, classes - 1), min_size=pixels, max_size=pixels))
        table = table_of(truth, predicted, classes)
        counted = {i for i, index in enumerate(truth) if index != IGNORE}
        for k in range(classes):
            dice, iou, precision, recall, support, pixels_predicted = of_class(table, k)
            true = {i for i in counted if truth[i] == k}
            found = {i for i in counted if predicted[i] == k}
            assert (support, pixels_predicted) == (len(true), len(found))
            if true:
                assert dice == 2 * len(true & found) / (len(true) + len(found))
                assert iou == len(true & found) / len(true | found)
                assert recall == len(true & found) / len(true)
                assert precision == (len(true & found) / len(found) if found else 0)
        by_hand = ScoreTable(confusion_matrix(np.array(truth), np.array(predicted), classes))
        assert by_hand.confusion == table.confusion

    def test_pure_functions_take_arrays_and_tensors_and_agree_with_the_metric(self) -> None:
        logits, mask, _ = random_batch(images=3)
        predicted = mask_from_logits(logits)
        scores = Scores(3)
        scores.update_masks(predicted, mask)
        read_only = mask.numpy().copy()
        read_only.flags.writeable = False
        for truth in (mask, read_only):
            matrix = confusion_matrix(truth, predicted, 3)
            assert matrix.dtype == np.int64
            assert np.array_equal(matrix, scores.compute().confusion)
            assert ScoreTable(torch.from_numpy(matrix)) == ScoreTable(matrix)

    def test_masks_of_different_shapes_are_refused(self) -> None:
        with pytest.raises(ValueError, match="they must agree"):
            confusion_matrix(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 2)
        with pytest.raises(ValueError, match="they must agree"):
            Scores(2).update_masks(torch.zeros(1, 2, 3), torch.zeros(1, 2, 2))

    def test_both_ways_to_count_agree(self) -> None:
        # Sorting is what runs on accelerators.
        cells = torch.randint(0, 40, (1000,), dtype=torch.int32)
        cells[cells == 0] = 1
        assert torch.equal(_histogram(cells, 50), _histogram_by_sorting(cells, 50))
        assert _histogram(cells, 50).sum() == 1000


class TestSoft:
    """The coefficients of the original family."""

    def test_worked_numbers_of_two_classes(self) -> None:
        probabilities = torch.tensor([[0.75, 0.25], [0.5, 0.5]])  # of two pixels, truth 0 and 1
        scores = Scores(2)
        scores.update(probabilities.T[None, :, None].log(), masks([0, 1]))
        table = scores.compute()
        assert table["dice_coef_multiclass"] == pytest.approx((2 * (0.75 + 0.5) + 1) / (2 + 2 + 1), abs=1e-7)
        assert table["dice_coef_foreground"] == pytest.approx(2 * 0.5 / (1 + 0.75), abs=1e-6)
        assert table["dice_coef_hybrid"] == pytest.approx((1.5 * 3.5 / 5 + 0.5 * 4 / 7) / 2, abs=1e-6)

    @pytest.mark.parametrize("channels", [1, 2, 4])
    def test_equals_the_formulas_in_float64(self, channels: int) -> None:
        classes = max(channels, 2)
        logits, mask, _ = random_batch(images=3, classes=classes, channels=channels)
        scores = Scores(classes)
        scores.update(logits, mask)
        table = scores.compute()
        p = (logits.double().sigmoid() if channels == 1 else logits.double().softmax(1)).numpy()
        counted = (mask != IGNORE).numpy()[:, None]
        y = np.stack([mask.numpy() == k for k in ([1] if channels == 1 else range(channels))], axis=1)
        overlap, total = (p * y * counted).sum((2, 3)), ((p + y) * counted).sum((2, 3))
        multiclass = (2 * overlap.sum(1) + 1) / (total.sum(1) + 1)
        first = 0 if channels == 1 else 1
        foreground = (2 * overlap[:, first:] + 1e-6) / (total[:, first:] + 1e-6)
        assert table["dice_coef_multiclass"] == pytest.approx(multiclass.mean(), abs=1e-7)
        assert table["dice_coef_foreground"] == pytest.approx(foreground.mean(), abs=1e-7)

    def test_multiclass_is_soft_pixel_accuracy_and_foreground_counts_absent_classes(self) -> None:
        truth = masks([0] * 9 + [1])
        certain = torch.zeros(1, 3, 1, 10)
        certain[:, 0] = 100  # background everywhere
        scores = Scores(3)
        scores.update(certain, truth)
        table = scores.compute()
        assert table["dice_coef_multiclass"] == pytest.approx((2 * 9 + 1) / (10 + 10 + 1), abs=1e-9)
        # Class 1 is missed: 1e-6 / (1 + 1e-6). Class 2 is neither there nor predicted: 1e-6 / 1e-6.
        assert table["dice_coef_foreground"] == pytest.approx((0 + 1) / 2, abs=1e-6)
        assert table["mean_foreground_dice"] == 0

    @pytest.mark.parametrize("probability", [1e-9, 1e-11])
    def test_tiny_probabilities_of_an_absent_class_are_not_rounded_away(self, probability: float) -> None:
        # Beside an epsilon of 1e-6 the sum over 4096 pixels is 4e-6 or 4e-8.
        logits = torch.tensor([0.0, math.log(probability)]).view(1, 2, 1, 1).expand(1, 2, 64, 64)
        scores = Scores(2)
        scores.update(logits, torch.zeros(1, 64, 64, dtype=torch.uint8))
        expected = 1e-6 / (4096 * probability + 1e-6)
        assert scores.compute()["dice_coef_foreground"] == pytest.approx(expected, rel=1e-5)

    def test_one_channel_counts_in_a_2x2_matrix_from_p_above_a_half(self) -> None:
        logits = torch.tensor([0.0, 1e-9, 1e-3, -1e-3]).view(1, 1, 1, 4)  # sigmoid(1e-9) is 0.5 in float32
        assert mask_from_logits(logits).tolist() == [[[0, 0, 1, 0]]]
        scores = Scores(2)
        scores.update(logits, masks([0, 1, 1, 1]))
        assert scores.compute().confusion == ((1, 0), (2, 1))

    def test_the_first_of_equal_logits_wins(self) -> None:
        assert mask_from_logits(torch.tensor([1.0, 2.0, 2.0]).view(1, 3, 1, 1)).tolist() == [[[1]]]

    def test_loss_is_the_mean_over_images(self) -> None:
        logits, mask, _ = random_batch(images=3)
        scores = Scores(3)
        scores.update(logits[:1], mask[:1], torch.tensor([0.5]))
        scores.update(logits[1:], mask[1:], torch.tensor([1.0, 3.0]))
        assert scores.compute()["loss"] == 1.5

    @pytest.mark.parametrize("loss", [math.nan, math.inf, 1e9])
    def test_a_loss_out_of_bounds_shows_as_nan_in_the_table_and_null_in_json(self, loss: float) -> None:
        logits, mask, _ = random_batch(images=2)
        scores = Scores(3)
        scores.update(logits, mask, torch.tensor([0.5, loss]))
        table = scores.compute()
        assert str(table["loss"]) == "nan"
        assert table.to_mapping(["a", "b", "c"])["loss"] is None

    def test_logits_that_are_not_finite_show_as_nan(self) -> None:
        logits, mask, _ = random_batch(images=2)
        logits[1, 0, 0, 0] = math.nan
        scores = Scores(3)
        scores.update_soft(logits, mask)
        table = scores.compute()
        assert str(table["dice_coef_multiclass"]) == "nan"
        assert str(table["dice_coef_foreground"]) == "nan"

    def test_soft_and_hard_scores_may_be_taken_at_different_sizes(self) -> None:
        logits, mask, loss = random_batch(images=2)
        whole, apart = Scores(3), Scores(3)
        whole.update(logits, mask, loss)
        apart.update_soft(logits, mask, loss)
        for n in range(2):
            apart.update_masks(mask_from_logits(logits)[n], mask[n])
        assert apart.compute() == whole.compute()

    @pytest.mark.parametrize(
        ("logits_shape", "mask_shape", "message"),
        [
            ((2, 4, 5, 5), (2, 5, 5), "logits have 4 channels; 3 classes need 1 or as many"),
            ((2, 3, 5, 5), (2, 5, 6), "N, H and W must agree"),
            ((2, 3, 5, 5), (1, 5, 5), "N, H and W must agree"),
        ],
    )
    def test_shapes_that_do_not_fit_are_refused(
        self, logits_shape: tuple[int, ...], mask_shape: tuple[int, ...], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            Scores(3).update_soft(torch.zeros(logits_shape), torch.zeros(mask_shape, dtype=torch.uint8))

    def test_a_loss_that_is_not_one_an_image_is_refused(self) -> None:
        logits, mask, _ = random_batch(images=2)
        with pytest.raises(ValueError, match="one value for each of the 2 images"):
            Scores(3).update(logits, mask, torch.tensor(1.0))


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Note the bytes of the largest tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


class TestAccumulation:
    """Order, batches, processes and life cycle."""

    @pytest.fixture
    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        return random_batch(images=7, size=(33, 41))

    @staticmethod
    def whole(batch: tuple[Tensor, Tensor, Tensor]) -> ScoreTable:
        scores = Scores(3)
        scores.update(*batch)
        return scores.compute()

    @pytest.mark.parametrize("sizes", [[1] * 7, [2, 2, 3], [6, 1], [3, 4]])
    def test_the_table_does_not_depend_on_order_or_batches(
        self, batch: tuple[Tensor, Tensor, Tensor], sizes: list[int]
    ) -> None:
        order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
        scores = Scores(3)
        for end, size in zip(np.cumsum(sizes), sizes, strict=True):
            scores.update(*(tensor[order[end - size : end]] for tensor in batch))
        assert scores.compute() == self.whole(batch)

    def test_the_table_does_not_depend_on_memory_layout_or_threads(self) -> None:
        logits, mask, loss = random_batch(images=1, size=(300, 311))
        expected = self.whole((logits, mask, loss))
        assert self.whole((logits.to(memory_format=torch.channels_last), mask, loss)) == expected
        threads = torch.get_num_threads()
        torch.set_num_threads(1 if threads > 1 else 2)
        try:
            assert self.whole((logits, mask, loss)) == expected
        finally:
            torch.set_num_threads(threads)

    def test_two_processes_see_the_table_of_one(self, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        ranks = [Scores(3), Scores(3)]
        for rank, scores in enumerate(ranks):
            for n in range(rank, 7, 2):
                scores.update(*(tensor[n : n + 1] for tensor in batch))
        states = [[getattr(scores, name) for name in ("confusion", "strays", "images", "sums")] for scores in ranks]
        assert {"confusion", "strays", "images", "sums"} == ranks[0]._reductions.keys()
        gathered: Iterator[list[Tensor]] = iter([list(pair) for pair in zip(*states, strict=True)])
        ranks[0].dist_sync_fn = lambda *_args, **_kwargs: next(gathered)
        ranks[0].distributed_available_fn = lambda: True
        assert ranks[0].compute() == self.whole(batch)
        assert ranks[0].images == 4, "after the table each process has its own counts again"

    def test_a_table_is_renewed_by_each_kind_of_update(self) -> None:
        scores = Scores(2)
        scores.update_masks(masks([1]), masks([1]))
        assert scores.compute()["pixel_accuracy"] == 1
        scores.update_masks(masks([0]), masks([1]))
        assert scores.compute()["pixel_accuracy"] == 0.5
        scores.update_soft(torch.zeros(1, 1, 1, 1), masks([1]), torch.tensor([2.0]))
        assert scores.compute()["loss"] == 2
        scores.reset()
        scores.update_masks(masks([0]), masks([0]))
        assert scores.compute() == table_of([0], [0], 2)

    def test_copies_and_pickles_count_on(self, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        scores = Scores(3)
        scores.update(*(tensor[:3] for tensor in batch))
        for twin in (copy.deepcopy(scores), pickle.loads(pickle.dumps(scores))):  # noqa: S301  our own bytes
            twin.update(*(tensor[3:] for tensor in batch))
            assert twin.compute() == self.whole(batch)

    def test_counts_go_on_outside_the_inference_mode_they_were_reset_in(self) -> None:
        scores = Scores(2)
        with torch.inference_mode():
            scores.update_masks(masks([1]), masks([1]))
            scores.reset()
        scores.update(torch.zeros(1, 1, 1, 1, requires_grad=True), masks([1]), torch.ones(1, requires_grad=True))
        assert scores.compute().images == 1
        assert not scores.sums.requires_grad

    def test_states_stay_integers_and_out_of_checkpoints(self) -> None:
        scores = Scores(3).half().double().to(torch.bfloat16)
        scores.update(*random_batch(images=1))
        assert {scores.confusion.dtype, scores.strays.dtype, scores.images.dtype, scores.sums.dtype} == {torch.int64}
        assert not scores.state_dict()

    def test_a_single_class_is_refused(self) -> None:
        with pytest.raises(ValueError, match="num_classes=1 must count background and foreground"):
            Scores(1)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_updates_never_wait_for_the_accelerator(self, channels: int) -> None:
        # Tensors without data: whatever asks for a value, or for the number of True ones, fails.
        classes = max(channels, 2)
        logits, mask, loss = (t.to("meta") for t in random_batch(images=2, classes=classes, channels=channels))
        Scores(classes).to("meta").update(logits, mask, loss)

    def test_updates_run_with_deterministic_algorithms(self, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        torch.use_deterministic_algorithms(True)
        try:
            table = self.whole(batch)
        finally:
            torch.use_deterministic_algorithms(False)
        assert table == self.whole(batch)

    def test_no_intermediate_is_larger_than_the_probabilities(self) -> None:
        logits, mask, loss = random_batch(images=2, classes=60, size=(64, 64))
        with Largest() as largest:
            Scores(60).update(logits, mask, loss)
        assert largest.bytes <= logits.numel() * 4
        with Largest() as largest:
            Scores(60).update_masks(mask.clamp(max=59), mask)
        assert largest.bytes <= max(mask.numel() * 4, 2 * 61**2 * 8)


class TestMapping:
    """The table as JSON takes it."""

    def test_holds_what_test_scores_json_holds(self) -> None:
        scores = Scores(3)
        scores.update(torch.zeros(1, 3, 1, 2), masks([0, 1]), torch.tensor([0.25]))
        mapping = scores.compute().to_mapping(["ground", "crack", "oil"])
        assert json.loads(json.dumps(mapping, allow_nan=False)) == mapping
        assert list(mapping["classes"]) == ["ground", "crack", "oil"]
        zeros = {"dice": 0, "iou": 0, "precision": 0, "recall": 0}
        assert mapping["classes"]["crack"] == zeros | {"support": 1, "predicted": 0}
        assert mapping["classes"]["oil"] == dict.fromkeys(zeros) | {"support": 0, "predicted": 0}
        assert mapping["false_alarms"] == {"oil": 0}
        assert mapping["loss"] == 0.25
        assert mapping["images"] == 1
        assert mapping.keys() >= {
            "mean_foreground_dice",
            "mean_foreground_iou",
            "pixel_accuracy",
            "dice_coef_multiclass",
        }

    def test_names_and_classes_have_to_agree(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            table_of([0, 1], [0, 1]).to_mapping(["ground", "crack"])


def test_is_a_metric_of_torchmetrics() -> None:
    assert issubclass(Scores, TorchMetric)


# Corners of the colour cube, red first: background 000, crack 001, glue_strip 100, gray_stroke 010, oil 110, rough 011.
CLASS_OF_CORNER = np.array([0, 1, 3, 5, 2, 0, 4, 0], dtype=np.uint8)


def nearest_class(path: Path) -> npt.NDArray[np.uint8]:
    corner = (np.asarray(Image.open(path).convert("RGB")) > 127) @ np.array([4, 2, 1], dtype=np.uint8)
    return CLASS_OF_CORNER[corner]


def test_published_masks_of_real_tiles(shared_dir: Path) -> None:
    root = shared_dir / "data" / "mvtec-tile-mini"
    published, nothing = Scores(6), Scores(6)
    hits, sizes = np.zeros(6), np.zeros(6)
    for split in ("train", "valid"):
        for path in sorted((root / split / "masks").iterdir()):
            truth, predicted = nearest_class(path), nearest_class(root / split / "reference_predictions" / path.name)
            hits += [np.sum((truth == k) & (predicted == k)) for k in range(6)]
            sizes += [np.sum(truth == k) + np.sum(predicted == k) for k in range(6)]
            published.update_masks(torch.from_numpy(predicted), torch.from_numpy(truth))
            background = torch.zeros(1, 6, *truth.shape)
            background[:, 0] = 100
            nothing.update(background, torch.from_numpy(truth[None]))
    table = published.compute()
    assert [table.of_class(index)["dice"] for index in range(6)] == list(2 * hits / sizes)
    assert table["mean_foreground_dice"] == pytest.approx(np.mean(2 * hits[1:] / sizes[1:]), abs=1e-15)
    assert float(np.mean(2 * hits[1:] / sizes[1:])) > 0.9
    # (36 * .9176 - 12 * .9146) / 24: what was measured on all 36 public tiles, less the 12 that are not here.
    assert nothing.compute()["dice_coef_multiclass"] == pytest.approx(0.9191, abs=2e-4)
    assert nothing.compute()["mean_foreground_dice"] == 0


class TestRegistry:
    """Metrics are declared once."""

    def test_a_key_is_taken_once_for_each_source_and_level(self) -> None:
        with pytest.raises(ValueError, match=r"metric 'dice' \(other\): Dice has this key"):
            register_metric(Metric("dice", "other", lambda counts: counts.hits, per_class=True))

    def test_a_registered_metric_is_in_the_table_the_log_and_the_json(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flexunet_pl.nn.metric_registry.METRICS", METRICS)
        for place in (("pixels", False, "worst_iou"), ("pixels", True, "f2")):
            monkeypatch.setitem(METRICS, place, None)  # removes it again after the test
            monkeypatch.delitem(METRICS, place)
        f2 = Metric("f2", "F2", lambda c: c.share(5 * c.hits, 4 * c.support + c.predicted), per_class=True, main=True)
        worst = Metric("worst_iou", "worst IoU", lambda c: np.nanmin(c.share(c.hits, c.support + c.predicted - c.hits)))
        register_metric(f2, worst)
        table = table_of([0, 0, 1, 1], [0, 1, 1, 1])
        assert table["worst_iou"] == 1 / 2  # background: 1 of 2 pixels; class 1: 2 of 3
        mapping = table.to_mapping(["ground", "crack", "oil"])
        assert mapping["worst_iou"] == 1 / 2
        assert mapping["classes"]["crack"]["f2"] == 5 * 2 / (4 * 2 + 3)
        assert mapping["classes"]["oil"]["f2"] is None
        assert table.to_log(["ground", "crack", "oil"]).items() >= {"worst_iou": 1 / 2, "f2/crack": 10 / 11}.items()


def test_pixels_near_an_outline_are_those_with_another_class_in_reach() -> None:
    mask = torch.zeros(1, 1, 8, dtype=torch.uint8)
    mask[0, 0, 4:] = 1
    assert near_outline(mask, 1).flatten().tolist() == [False, False, False, True, True, False, False, False]
    assert near_outline(mask, 2).flatten().tolist() == [False, False, True, True, True, True, False, False]
    assert near_outline(mask.transpose(1, 2), 2).flatten().tolist() == near_outline(mask, 2).flatten().tolist()
    assert not near_outline(torch.ones(2, 3, 3, dtype=torch.uint8)).any(), "no outline"
    assert near_outline(torch.tensor([[[0, 1]]], dtype=torch.uint8), 9).all(), "a reach beyond the image"


def test_edge_confusion_counts_what_is_wrong_near_an_outline_and_not_ignored() -> None:
    """Of 8 pixels in a row, 4 are in reach; of these one is missed. What is ignored makes an outline too."""
    mask = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1]]], dtype=torch.uint8)
    predicted = torch.tensor([[[1, 0, 0, 0, 0, 1, 1, 0]]])
    assert edge_confusion(predicted, mask, 2).tolist() == [[0, 0], [1, 0]]
    mask[0, 0, 2] = 255
    assert edge_confusion(predicted, mask, 2).tolist() == [[0, 1], [1, 0]]
    assert edge_confusion(predicted.expand(3, 1, 8), mask.expand(3, 1, 8), 2).tolist() == [[0, 3], [3, 0]]
    assert edge_confusion(mask * 0, mask * 0 + 255, 2).tolist() == [[0, 0], [0, 0]]
