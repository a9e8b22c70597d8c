from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import pytest
import segmentation_models_pytorch.losses as smp
import torch
from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from flexunet_pl.core.errors import UserError
from flexunet_pl.nn.losses import LOSSES, build_loss

IGNORE = 255
LN2 = log(2)
MULTICLASS = sorted(LOSSES.keys() - {"binary_cross_entropy"})
ONE_CHANNEL = sorted(LOSSES.keys() - {"cross_entropy"})
CASES = [*((name, 3) for name in MULTICLASS), *((name, 1) for name in ONE_CHANNEL)]


def logits_of(probabilities: Sequence[Sequence[float]]) -> Tensor:
    """One image, one row: the probabilities of each pixel -> logits (1, K, 1, W)."""
    return torch.tensor(probabilities).T[None, :, None, :].log()


def one_channel_logits_of(probabilities: Sequence[float]) -> Tensor:
    return torch.tensor(probabilities)[None, None, None, :].logit()


def mask_of(*truth: int) -> Tensor:
    return torch.tensor([[truth]], dtype=torch.uint8)


def random_batch(channels: int, images: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (N, channels, 5, 7) and a mask with every class and some ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, channels, 5, 7, generator=generator)
    mask = torch.randint(0, max(channels, 2), (images, 5, 7), generator=generator).to(torch.uint8)
    mask[:, 0, :3] = IGNORE
    return logits, mask


# Four pixels of three classes; the probability of the true class is 1/2, 1/2, 1/4, 1/2.
FOUR = logits_of([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])
FOUR_TRUTH = (0, 1, 1, 2)
# Three pixels of one sigmoid channel; the probability of the true class is 3/4, 1/2, 3/4.
THREE = one_channel_logits_of([0.25, 0.5, 0.75])
THREE_TRUTH = (0, 1, 1)


@pytest.mark.parametrize(
    ("spec", "truth", "expected"),
    [
        pytest.param(
            {"cross_entropy": 1.0}, FOUR_TRUTH, (1 + 1 + 2 + 1) / 4 * LN2, id="cross_entropy: mean of ln2 2ln2"
        ),
        pytest.param(
            {"cross_entropy": 1.0}, (0, 1, IGNORE, 2), LN2, id="cross_entropy: the pixel of 2 ln2 is ignored, 3 remain"
        ),
        pytest.param(
            {"cross_entropy": {"class_weights": [1, 2, 4]}},
            FOUR_TRUTH,
            (1 * 1 + 2 * 1 + 2 * 2 + 4 * 1) / (1 + 2 + 2 + 4) * LN2,
            id="cross_entropy: weighted mean, divided by the sum of the weights of the pixels",
        ),
        pytest.param(
            {"cross_entropy": {"label_smoothing": 0.3}},
            FOUR_TRUTH,
            (0.7 * 5 / 4 + 0.3 * 5 / 3) * LN2,
            id="cross_entropy: 0.3 of the mean over classes (1 + 2 + 2) / 3 ln2, the same at each pixel",
        ),
        pytest.param(
            {"focal": 1.0},
            FOUR_TRUTH,
            (3 * 0.5**2 * 1 + 0.75**2 * 2) / 4 * LN2,
            id="focal: (1 - p)^2 is 1/4 three times and 9/16 once",
        ),
        pytest.param(
            {"focal": {"gamma": 1, "alpha": 0.75}},
            FOUR_TRUTH,
            (0.25 * 0.5 + 0.75 * (0.5 + 0.75 * 2 + 0.5)) / 4 * LN2,
            id="focal: gamma 1, background weighs 1/4 and foreground 3/4",
        ),
        pytest.param(
            {"focal": {"gamma": 0, "alpha": [1, 2, 4]}},
            (0, 1, IGNORE, 2),
            (1 + 2 + 4) / 3 * LN2,
            id="focal: gamma 0 is weighted cross-entropy divided by the number of counted pixels",
        ),
        pytest.param(
            {"dice": 1.0},
            FOUR_TRUTH,
            1 - (2 * 0.75 / (1.25 + 2) + 2 * 0.5 / (1.25 + 1)) / 2,
            id="dice: hits .75 and .5, predicted 1.25 and 1.25, true 2 and 1",
        ),
        pytest.param(
            {"dice": {"include_background": True}},
            FOUR_TRUTH,
            1 - (2 * 0.5 / (1.5 + 1) + 2 * 0.75 / (1.25 + 2) + 2 * 0.5 / (1.25 + 1)) / 3,
            id="dice: background as well, hits .5, predicted 1.5, true 1",
        ),
        pytest.param(
            {"dice": {"smooth": 1}},
            FOUR_TRUTH,
            1 - ((1.5 + 1) / (3.25 + 1) + (1 + 1) / (2.25 + 1)) / 2,
            id="dice: 1 added above and below",
        ),
        pytest.param(
            {"dice": 1.0},
            (0, 1, 1, IGNORE),
            1 - 2 * 0.75 / (1 + 2),
            id="dice: class 2 is ignored, so only class 1 is present, predicted .25 + .5 + .25",
        ),
        pytest.param(
            {"log_dice": {"epsilon": 0.01}},
            FOUR_TRUTH,
            log(1.01) - (log(2 * 0.75 / (1.25 + 2) + 0.01) + log(2 * 0.5 / (1.25 + 1) + 0.01)) / 2,
            id="log_dice: -log of each Dice, 0 at a Dice of 1",
        ),
        pytest.param(
            {"jaccard": 1.0},
            FOUR_TRUTH,
            1 - (0.75 / (1.25 + 2 - 0.75) + 0.5 / (1.25 + 1 - 0.5)) / 2,
            id="jaccard: hits / (predicted + true - hits)",
        ),
        pytest.param(
            {"jaccard": {"smooth": 2}},
            (0, 1, 1, 0),
            1 - (0.75 + 2) / (1.25 + 2 - 0.75 + 2),
            id="jaccard: class 2 is absent, 2 added above and below",
        ),
        pytest.param(
            {"tversky": 1.0},
            FOUR_TRUTH,
            1 - (0.75 / (0.75 + 0.3 * 0.5 + 0.7 * 1.25) + 0.5 / (0.5 + 0.3 * 0.75 + 0.7 * 0.5)) / 2,
            id="tversky: false alarms .5 and .75 weigh .3, misses 1.25 and .5 weigh .7",
        ),
        pytest.param(
            {"tversky": {"alpha": 0, "beta": 1, "smooth": 0.25}},
            FOUR_TRUTH,
            1 - ((0.75 + 0.25) / (0.75 + 1.25 + 0.25) + (0.5 + 0.25) / (0.5 + 0.5 + 0.25)) / 2,
            id="tversky: misses alone is recall, smoothed",
        ),
        pytest.param(
            {"lovasz": 1.0},
            FOUR_TRUTH,
            ((0.75 / 2 + 0.5 / 2) + 0.5 / 1) / 2,
            id="lovasz: the worst errors are the hits; they raise the loss by 1/2, 1/2 and by 1",
        ),
        pytest.param(
            {"lovasz": 1.0},
            (1, 0, 2, IGNORE),
            (0.75 / 1 + (0.75 / 1)) / 2,
            id="lovasz: single pixels of p 1/4 each raise the Jaccard loss to 1 at once",
        ),
        pytest.param(
            {"categorical_focal_dice": {"epsilon": 0}},
            FOUR_TRUTH,
            5 / 4 * LN2 + 1 - (0.5 + 0.5 + 0.25 + 0.5) / 4,
            id="categorical_focal_dice: cross-entropy + 1 - mean p of the truth",
        ),
        pytest.param(
            {"categorical_focal_dice": {"epsilon": 1}},
            (0, 1, IGNORE, 2),
            LN2 + 1 - (2 * 0.5 + 1) / (2 + 1),
            id="categorical_focal_dice: Dice of a pixel is (2 p + 1) / (2 + 1)",
        ),
        pytest.param(
            {"cross_entropy": 2.0, "dice": {"weight": 0.5}, "jaccard": 0},
            (0, 1, 1, IGNORE),
            2 * 4 / 3 * LN2 + 0.5 * (1 - 2 * 0.75 / 3),
            id="sum: 2 * (1 + 1 + 2) / 3 ln2 + half the dice",
        ),
    ],
)
def test_worked_numbers_of_three_classes(spec: Mapping[str, Any], truth: tuple[int, ...], expected: float) -> None:
    assert float(build_loss(spec, num_classes=3)(FOUR, mask_of(*truth))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("spec", "truth", "expected"),
    [
        pytest.param(
            {"binary_cross_entropy": 1.0},
            THREE_TRUTH,
            (2 * -log(0.75) + LN2) / 3,
            id="binary_cross_entropy: true class has 3/4, 1/2, 3/4",
        ),
        pytest.param(
            {"binary_cross_entropy": {"pos_weight": 3}},
            THREE_TRUTH,
            (-log(0.75) + 3 * LN2 - 3 * log(0.75)) / 3,
            id="binary_cross_entropy: pixels of class 1 thrice, still divided by 3 pixels",
        ),
        pytest.param(
            {"binary_cross_entropy": {"label_smoothing": 0.2}},
            (0, IGNORE, IGNORE),
            -0.9 * log(0.75) - 0.1 * log(0.25),
            id="binary_cross_entropy: truth .9 and .1 at the one counted pixel",
        ),
        pytest.param({"dice": 1.0}, THREE_TRUTH, 1 - 2 * 1.25 / (1.5 + 2), id="dice: hits 1.25, predicted 1.5, true 2"),
        pytest.param({"jaccard": 1.0}, THREE_TRUTH, 1 - 1.25 / (1.5 + 2 - 1.25), id="jaccard: 1.25 / 2.25"),
        pytest.param(
            {"tversky": 1.0},
            THREE_TRUTH,
            1 - 1.25 / (1.25 + 0.3 * 0.25 + 0.7 * 0.75),
            id="tversky: false alarms .25, misses .75",
        ),
        pytest.param(
            {"focal": 1.0},
            THREE_TRUTH,
            (2 * 0.25**2 * -log(0.75) + 0.5**2 * LN2) / 3,
            id="focal: (1 - p)^2 is 1/16, 1/4, 1/16",
        ),
        pytest.param(
            {"focal": {"gamma": 0, "alpha": 0.75}},
            THREE_TRUTH,
            (0.25 * -log(0.75) + 0.75 * (LN2 - log(0.75))) / 3,
            id="focal: alpha 3/4 for class 1, 1/4 for background",
        ),
        pytest.param(
            {"lovasz": 1.0},
            THREE_TRUTH,
            0.5 / 2 + 0.25 / (2 * 3) + 0.25 / 3,
            id="lovasz: Jaccard loss 1/2 after the hit, 2/3 after the miss, 1 after the other hit",
        ),
        pytest.param(
            {"categorical_focal_dice": {"epsilon": 0}},
            THREE_TRUTH,
            (2 * -log(0.75) + LN2) / 3 + 1 - (0.75 + 0.5 + 0.75) / 3,
            id="categorical_focal_dice: binary cross-entropy + 1 - mean p of the truth",
        ),
    ],
)
def test_worked_numbers_of_one_sigmoid_channel(
    spec: Mapping[str, Any], truth: tuple[int, ...], expected: float
) -> None:
    assert float(build_loss(spec, num_classes=1)(THREE, mask_of(*truth))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"binary_cross_entropy", "cross_entropy"}))
def test_one_sigmoid_channel_is_the_two_class_softmax_of_0_and_its_logit(name: str) -> None:
    logits, mask = random_batch(channels=1)
    two_channels = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(build_loss({name: 1}, 1)(logits, mask), build_loss({name: 1}, 2)(two_channels, mask))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("class_weights", [None, [0.5, 1.0, 3.0]])
def test_cross_entropy_is_that_of_torch(label_smoothing: float, class_weights: list[float] | None) -> None:
    logits, mask = random_batch(channels=3)
    loss = build_loss({"cross_entropy": {"label_smoothing": label_smoothing}}, 3, class_weights)
    expected = functional.cross_entropy(
        logits,
        mask.long(),
        None if class_weights is None else torch.tensor(class_weights),
        ignore_index=IGNORE,
        label_smoothing=label_smoothing,
    )
    torch.testing.assert_close(loss(logits, mask), expected)


def test_binary_cross_entropy_is_that_of_torch_over_the_counted_pixels() -> None:
    logits, mask = random_batch(channels=1)
    counted = mask != IGNORE
    expected = functional.binary_cross_entropy_with_logits(
        logits[:, 0][counted], mask[counted].float(), pos_weight=torch.tensor(2.5)
    )
    loss = build_loss({"binary_cross_entropy": {"pos_weight": 2.5}}, 1)
    torch.testing.assert_close(loss(logits, mask), expected)


@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [
        ("dice", {}, smp.DiceLoss("multiclass", ignore_index=IGNORE)),
        ("log_dice", {"epsilon": 1e-6}, smp.DiceLoss("multiclass", log_loss=True, ignore_index=IGNORE)),
        ("jaccard", {}, smp.JaccardLoss("multiclass")),
        (
            "tversky",
            {"alpha": 0.2, "beta": 0.6},
            smp.TverskyLoss("multiclass", alpha=0.2, beta=0.6, ignore_index=IGNORE),
        ),
        ("lovasz", {}, smp.LovaszLoss("multiclass", ignore_index=IGNORE)),
    ],
)
def test_overlap_with_every_class_present_is_that_of_segmentation_models_pytorch(
    name: str, options: Mapping[str, float], reference: torch.nn.Module
) -> None:
    logits, mask = random_batch(channels=4)
    if name == "jaccard":  # the reference knows no ignored pixels
        mask[mask == IGNORE] = 0
    loss = build_loss({name: {"include_background": True, **options}}, 4)
    torch.testing.assert_close(loss(logits, mask), reference(logits, mask.long()))


def test_a_class_that_is_not_found_yet_keeps_its_slope_in_log_dice() -> None:
    # A defect of 4 of 4,096 pixels with a probability of 1e-4 everywhere.
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[0, 30:32, 30:32] = 1
    slopes = {}
    for name in ("cross_entropy", "dice", "log_dice"):
        logits = torch.zeros(1, 2, 64, 64)
        logits[:, 1] = log(1e-4)
        logits.requires_grad_()
        build_loss({name: 1}, 2)(logits, mask).backward()
        assert logits.grad is not None
        slopes[name] = -float(logits.grad[0, 1, 30:32, 30:32].sum())
    assert slopes["cross_entropy"] == pytest.approx(4 / 4096, rel=0.01)
    assert slopes["dice"] < slopes["cross_entropy"] / 4
    assert slopes["log_dice"] > 3 * slopes["cross_entropy"]


def test_focal_is_the_softmax_focal_loss_and_not_a_sum_of_sigmoid_focal_losses() -> None:
    logits, mask = random_batch(channels=4)
    mask[mask == IGNORE] = 0
    ours = build_loss({"focal": {"gamma": 1.5}}, 4)(logits, mask)
    torch.testing.assert_close(ours, softmax_focal_loss_with_logits(logits, mask.long(), gamma=1.5))
    assert abs(ours - smp.FocalLoss("multiclass", gamma=1.5)(logits, mask.long())) > 0.1


@pytest.mark.parametrize("name", ["dice", "log_dice", "jaccard", "tversky", "lovasz"])
def test_absent_classes_neither_lower_the_loss_nor_raise_it(name: str) -> None:
    # Channels 2 to 5 are absent and practically never predicted: the loss is that of the two classes alone.
    logits, mask = random_batch(channels=2)
    padded = torch.cat([logits, torch.full_like(logits, -60.0), torch.full_like(logits, -60.0)], dim=1)
    torch.testing.assert_close(build_loss({name: 1}, 6)(padded, mask), build_loss({name: 1}, 2)(logits, mask))


@pytest.mark.parametrize("name", ["dice", "log_dice", "jaccard", "tversky", "lovasz"])
def test_classes_are_present_in_the_batch_not_in_each_image(name: str) -> None:
    logits, mask = random_batch(channels=3, images=2)
    mask[0] = 1
    mask[1] = 2
    side_by_side = torch.cat([logits[:1], logits[1:]], dim=3)
    one_image = torch.cat([mask[:1], mask[1:]], dim=2)
    loss = build_loss({name: 1}, 3)
    torch.testing.assert_close(loss(logits, mask), loss(side_by_side, one_image))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["dice", "log_dice", "jaccard", "tversky", "lovasz"])
def test_nothing_but_background_costs_nothing_by_overlap(name: str, channels: int) -> None:
    logits, mask = random_batch(channels)
    logits.requires_grad_()
    loss = build_loss({name: 1}, channels)(logits, torch.zeros_like(mask))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_a_mask_of_ignored_pixels_gives_0_with_zero_gradients(name: str, channels: int) -> None:
    logits, mask = random_batch(channels)
    logits.requires_grad_()
    loss = build_loss({name: 1}, channels)(logits, torch.full_like(mask, IGNORE))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_mask_of_classes_that_weigh_nothing_gives_0_with_zero_gradients() -> None:
    logits = random_batch(channels=3)[0].requires_grad_()
    loss = build_loss({"cross_entropy": 1}, 3, class_weights=[0, 1, 1])(logits, torch.zeros(2, 5, 7, dtype=torch.uint8))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_ignored_pixels_do_not_matter(name: str, channels: int) -> None:
    logits, mask = random_batch(channels)
    ignored = (mask == IGNORE).unsqueeze(1)
    loss = build_loss({name: 1}, channels)
    expected = loss(logits, mask)
    changed = torch.where(ignored, 3 - 2 * logits, logits).requires_grad_()
    actual = loss(changed, mask)
    actual.backward()
    torch.testing.assert_close(actual, expected)
    assert changed.grad is not None
    assert not changed.grad.masked_select(ignored).any()
    assert changed.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "channels"), CASES)
def test_extreme_logits_give_finite_losses_and_gradients(name: str, channels: int, dtype: torch.dtype) -> None:
    logits, mask = random_batch(channels)
    extreme = (logits.sign() * 1e4).to(dtype).requires_grad_()
    loss = build_loss({name: 1}, channels)(extreme, mask)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert extreme.grad is not None
    assert extreme.grad.isfinite().all()


def test_focal_with_gamma_below_1_has_finite_gradients_where_the_truth_is_certain() -> None:
    logits = torch.tensor([40.0, -40.0]).view(1, 2, 1, 1).requires_grad_()
    build_loss({"focal": {"gamma": 0.5}}, 2)(logits, mask_of(0)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_gradients_are_those_of_finite_differences(name: str, channels: int) -> None:
    logits, mask = random_batch(channels, images=1)
    loss = build_loss({name: 1}, channels)
    assert torch.autograd.gradcheck(lambda x: loss(x, mask), logits.double().requires_grad_())


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_half_precision_logits_and_autocast_are_computed_in_float32(name: str, channels: int) -> None:
    logits, mask = random_batch(channels)
    loss = build_loss({name: 1}, channels)
    half = logits.bfloat16()
    expected = loss(half.float(), mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = loss(half, mask)
    assert actual.dtype == torch.float32
    assert actual == expected


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_no_loss_waits_for_the_accelerator(name: str, channels: int) -> None:
    # Tensors without data: whatever asks for a value, or for the number of True ones, fails.
    logits, mask = (tensor.to("meta") for tensor in random_batch(channels))
    build_loss({name: 1}, channels).to("meta")(logits.requires_grad_(), mask).backward()


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Lists the operations that have no deterministic kernel on CUDA; on the CPU torch does not refuse them.

    See torch.use_deterministic_algorithms: a reduced nll_loss2d, a running sum of floats, histograms, medians.
    """

    REFUSED = ("bincount", "histc", "kthvalue", "median", "put_", "scatter_reduce", "index_reduce")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.refused: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        is_reduced = name.startswith("nll_loss2d") and next(arg for arg in args if type(arg) is int) != 0
        is_running_sum = name == "cumsum" and args[0].is_floating_point()
        if is_reduced or is_running_sum or name in self.REFUSED:
            self.refused.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_losses_use_only_operations_with_a_deterministic_kernel(name: str, channels: int) -> None:
    logits, mask = random_batch(channels)
    with Operations() as operations:
        build_loss({name: 1}, channels)(logits.requires_grad_(), mask).backward()
    assert operations.refused == []


def test_operations_without_a_deterministic_kernel_are_found() -> None:
    logits, mask = random_batch(channels=3)
    with Operations() as operations:
        loss: Tensor = functional.cross_entropy(logits.requires_grad_(), mask.long(), ignore_index=IGNORE)
        loss.backward()  # type: ignore[no-untyped-call]
        logits.detach().cumsum(0)
        mask.long().cumsum(0)
    assert operations.refused == ["nll_loss2d_forward", "nll_loss2d_backward", "cumsum"]


def test_the_loss_of_each_image_does_not_depend_on_the_batch() -> None:
    logits, mask = random_batch(channels=3, images=4)
    mask[1] = IGNORE
    loss = build_loss({"cross_entropy": 1, "dice": 1, "focal": 1, "lovasz": 0.5}, 3, class_weights=[1, 2, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        together = loss.per_image(logits.requires_grad_(), mask)
        split = torch.cat([loss.per_image(logits[:1], mask[:1]), loss.per_image(logits[1:], mask[1:])])
    assert together.dtype == torch.float64
    assert not together.requires_grad
    assert torch.equal(together, split)
    assert together[1] == 0
    for n in (0, 2, 3):
        torch.testing.assert_close(together[n].float(), loss(logits[n : n + 1], mask[n : n + 1]).detach())


def test_class_weights_follow_the_device_and_stay_out_of_checkpoints() -> None:
    loss = build_loss({"cross_entropy": 1, "focal": {"alpha": 0.3}}, 3, class_weights=[1, 2, 3])
    assert not loss.state_dict()
    assert [tuple(buffer.shape) for buffer in loss.buffers()] == [(3,), (3,)]


@pytest.mark.parametrize(
    ("spec", "channels", "class_weights", "message"),
    [
        (
            {"dise": 1.0},
            3,
            None,
            r"loss\.dise: no such loss; did you mean 'dice'\?; choose from binary_cross_entropy, ",
        ),
        ({"zzz": 1.0}, 3, None, r"loss\.zzz: no such loss; choose from "),
        ({}, 3, None, r"loss=\{\} must map names of losses to weights"),
        ("dice", 3, None, r"loss='dice' must map names of losses to weights"),
        ({"dice": None}, 3, None, r"loss\.dice: weight=None must be a number at least 0"),
        ({"dice": -1}, 3, None, r"loss\.dice: weight=-1 must be a number at least 0"),
        ({"dice": True}, 3, None, r"loss\.dice: weight=True must be a number"),
        ({"dice": float("nan")}, 3, None, r"loss\.dice: weight=nan must be a number"),
        ({"dice": 0, "focal": 0}, 3, None, r"has only weights of 0; give at least one"),
        (
            {"dice": {"smoth": 1}},
            3,
            None,
            r"loss\.dice\.smoth: no such option; did you mean 'smooth'\?; choose from weight,",
        ),
        ({"dice": {"smooth": "a"}}, 3, None, r"loss\.dice: smooth='a' must be a number at least 0"),
        ({"dice": {"include_background": 1}}, 3, None, r"include_background=1 must be true or false"),
        ({"tversky": {"alpha": -0.1}}, 3, None, r"loss\.tversky: alpha=-0\.1 must be a number at least 0"),
        ({"focal": {"alpha": 1.5}}, 3, None, r"loss\.focal: alpha=1\.5 must be a number from 0 to 1"),
        ({"focal": {"alpha": [1, 2]}}, 3, None, r"alpha=\[1, 2\] must be a list of 3 numbers, one for each class"),
        ({"cross_entropy": {"label_smoothing": 2}}, 3, None, r"label_smoothing=2 must be a number from 0 to 1"),
        ({"cross_entropy": 1}, 3, [1, 2], r"class_weights=\[1, 2\] must be a list of 3 numbers"),
        ({"cross_entropy": 1}, 3, [1, 2, -3], r"class_weights\[2\]=-3 must be a number at least 0"),
        ({"dice": 1}, 3, [1, 2, 3], r"class_weights apply to cross_entropy, and loss has only dice"),
        (
            {"cross_entropy": 1},
            1,
            None,
            r"loss\.cross_entropy: needs a channel for each class, .* use binary_cross_entropy",
        ),
        (
            {"binary_cross_entropy": 1},
            3,
            None,
            r"loss\.binary_cross_entropy: needs the one channel .* use cross_entropy",
        ),
    ],
)
def test_mistakes_in_a_recipe_name_the_key_the_rule_and_the_repair(
    spec: Any, channels: int, class_weights: list[float] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_loss(spec, channels, class_weights)


def test_logits_and_masks_that_do_not_fit_are_refused() -> None:
    loss = build_loss({"dice": 1}, 3)
    logits, mask = random_batch(channels=3)
    with pytest.raises(ValueError, match="logits have 2 channels; this loss was built for 3"):
        loss(logits[:, :2], mask)
    with pytest.raises(ValueError, match="N, H and W must agree"):
        loss(logits, mask[:, :4])
