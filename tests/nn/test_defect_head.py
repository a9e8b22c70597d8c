"""The head for whole images: its loss by hand, the size of the image, checkpoints with and without it."""

import math
from pathlib import Path

import pytest
import torch

from flexunet_pl.core.errors import UserError
from flexunet_pl.nn.defect_head import FIRST_LOGIT, STEEPNESS, DefectGate, DefectHead, defect_loss, image_logit
from flexunet_pl.nn.networks import build_network
from flexunet_pl.nn.tta import FlipTTA
from flexunet_pl.nn.zoo import ZooNetwork, ZooSettings
from flexunet_pl.training.task import SegmentationTask

PALETTE = {"background": [0, 0, 0], "crack": [255, 0, 0]}


def network(**settings: object) -> ZooNetwork:
    torch.manual_seed(0)
    return ZooNetwork("unet", 2, 3, ZooSettings("tu-test_resnet", "random", **settings))  # type: ignore[arg-type]


def test_the_loss_is_the_cross_entropy_of_the_cells_and_of_the_highest_one() -> None:
    cells = torch.tensor([[[[0.0, 2.0]]]])
    mask = torch.zeros(1, 32, 64, dtype=torch.uint8)
    mask[0, 5, 3] = 1  # in the left cell
    of_cells = (math.log(2) + math.log(1 + math.exp(2))) / 2
    of_image = math.log(1 + math.exp(-2))
    assert defect_loss(cells, mask).item() == pytest.approx(of_cells + of_image, rel=1e-6)


def test_what_is_ignored_is_neither_good_nor_a_defect() -> None:
    cells = torch.tensor([[[[0.0, 2.0]]]])
    mask = torch.zeros(1, 32, 64, dtype=torch.uint8)
    mask[..., 32:] = 255
    of_image = math.log(1 + math.exp(2))
    assert defect_loss(cells, mask).item() == pytest.approx(math.log(2) + of_image, rel=1e-6)
    mask[..., :] = 255
    assert defect_loss(cells, mask) == 0
    both = torch.cat([mask, torch.zeros_like(mask)])
    assert defect_loss(cells.expand(2, 1, 1, 2), both).item() == pytest.approx(
        (math.log(2) + math.log(1 + math.exp(2))) / 2 + of_image, rel=1e-6
    )


def test_the_head_begins_at_one_low_probability_and_takes_the_highest_cell() -> None:
    head = DefectHead(4)
    cells = head(torch.rand(2, 4, 3, 5))
    assert torch.equal(cells, torch.full((2, 1, 3, 5), FIRST_LOGIT))
    cells[1, 0, 2, 4] = 3.0
    assert image_logit(cells).tolist() == [FIRST_LOGIT, 3.0]


def test_logits_are_the_same_with_and_without_the_head() -> None:
    with_head, without = network(defect_gate=False).eval(), network(defect_head=False).eval()
    without.load_state_dict({key: value for key, value in with_head.state_dict().items() if "defect_head" not in key})
    image = torch.randint(0, 256, (2, 3, 40, 70), dtype=torch.uint8)
    logits, cells = with_head.logits_and_cells(image)
    assert cells is not None
    assert cells.shape == (2, 1, 2, 3)
    assert torch.equal(logits, without(image))
    assert without.logits_and_cells(image)[1] is None


def test_test_time_augmentation_takes_the_mean_of_both_views() -> None:
    one = network().eval()
    assert one.defect_head is not None
    torch.nn.init.normal_(one.defect_head.weight)
    image = torch.randint(0, 256, (2, 3, 32, 70), dtype=torch.uint8)
    _, straight = one.logits_and_cells(image)
    _, mirrored = one.logits_and_cells(image.flip(-1))
    logits, both = FlipTTA(one).logits_and_cells(image)
    assert both is not None
    assert straight is not None
    assert mirrored is not None
    torch.testing.assert_close(logits, FlipTTA(one)(image))
    torch.testing.assert_close(image_logit(both), (image_logit(straight) + image_logit(mirrored)) / 2)
    assert not torch.allclose(image_logit(straight), image_logit(mirrored))


def test_a_task_learns_which_images_are_good() -> None:
    settings = {"name": "unet", "encoder": "tu-test_resnet", "encoder_weights": "random"}
    torch.manual_seed(0)
    task = SegmentationTask(PALETTE, network=settings, image_size=64, schedule="constant", learning_rate=3e-3).train()
    optimizer = task.configure_optimizers()
    image = torch.randint(90, 110, (4, 3, 64, 64), dtype=torch.uint8)
    mask = torch.zeros(4, 64, 64, dtype=torch.uint8)
    image[:2, :, 10:20, 10:50] = 250
    mask[:2, 10:20, 10:50] = 1
    for _ in range(30):
        logits, cells = task.logits_and_cells(image)
        assert cells is not None
        loss = task.criterion(logits, mask) + defect_loss(cells, mask)
        optimizer.zero_grad()  # type: ignore[union-attr]  # a constant rate has an optimizer alone
        loss.backward()
        optimizer.step()  # type: ignore[union-attr]
    found = task.train().logits_and_cells(image)[1]
    assert found is not None
    assert (image_logit(found).sigmoid() > 0.5).tolist() == [True, True, False, False]


def test_a_checkpoint_from_before_there_was_the_head_has_none(tmp_path: Path) -> None:
    old = SegmentationTask(PALETTE, network={"name": "unet", "encoder": "tu-test_resnet", "defect_head": False})
    settings = dict(old.hparams)
    settings["network"] = {"name": "unet", "encoder": "tu-test_resnet", "encoder_weights": None}
    del settings["encoder_rate"]
    torch.save({"state_dict": old.state_dict(), "hyper_parameters": settings}, tmp_path / "old.ckpt")
    task = SegmentationTask.from_checkpoint(tmp_path / "old.ckpt")
    assert task.hparams["network"]["defect_head"] is False
    assert task.hparams["encoder_rate"] == 1
    assert "defect_probability" not in task.run_arrays(torch.zeros(1, 32, 32, 3, dtype=torch.uint8).numpy())


def test_dpt_has_no_place_for_it() -> None:
    with pytest.raises(UserError, match="defect_head=true needs features in rows and columns"):
        build_network({"name": "dpt", "encoder": "tu-test_vit", "defect_head": True}, 2, 3)


def test_the_gate_takes_defects_away_where_no_cell_nearby_shows_one() -> None:
    gate = DefectGate(3, cell=2)
    logits = torch.arange(3.0).view(1, 3, 1, 1).expand(1, 3, 2, 10).clone()
    cells = torch.tensor([[[[1.0, -1.0, -0.5, -2.0, -3.0]]]])
    found = gate(logits, cells)
    assert torch.equal(found[:, 0], logits[:, 0]), "the background stays"
    # The highest of a cell and its neighbours: 1, 1, -0.5, -0.5, -2.
    taken = torch.tensor([0.0, 0, 0, 0, 4, 4, 4, 4, 16, 16])
    assert torch.equal((logits - found)[0, 1, 0], taken)
    assert torch.equal((logits - found)[0, 2, 1], taken)


def test_the_gate_of_one_channel_takes_from_it() -> None:
    found = DefectGate(1, cell=2)(torch.zeros(1, 1, 2, 4), torch.tensor([[[[-1.0, -1.0]]]]))
    assert torch.equal(found, torch.full((1, 1, 2, 4), -STEEPNESS))


def test_training_has_no_gate_and_its_weights_stay() -> None:
    one = network()
    assert one.defect_head is not None
    torch.nn.init.constant_(one.defect_head.bias, -1.0)  # type: ignore[arg-type]  # it has one
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    gated = one.eval()(image)
    one.defect_gate = None
    plain = one(image)
    assert torch.equal(gated[:, 0], plain[:, 0])
    torch.testing.assert_close(gated[:, 1], plain[:, 1] - STEEPNESS)
    fresh = network()
    assert fresh.defect_gate is not None
    assert not any(weight.requires_grad for weight in fresh.defect_gate.parameters())


def test_without_the_head_there_is_no_gate() -> None:
    assert network(defect_head=False).defect_gate is None
    assert network(defect_gate=False).defect_gate is None
    with pytest.raises(UserError, match=r"defect_gate=true needs model\.defect_head"):
        network(defect_head=False, defect_gate=True)
