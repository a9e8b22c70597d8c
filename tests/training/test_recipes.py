"""The keys that came with the recipe for pretrained networks: the encoder's rate, the least epoch, no crop."""

from pathlib import Path

import pytest

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.nn.networks import build_network
from flexunet_pl.training.optim import build_optimizer


def test_the_encoder_trains_at_its_share_of_the_rate() -> None:
    network, _ = build_network({"name": "unet", "encoder": "tu-test_resnet"}, 2, 3)
    encoder = {id(parameter) for parameter in network.model.get_submodule("encoder").parameters()}  # type: ignore[union-attr]
    optimizer = build_optimizer("adamw", network, 0.1, 0.5, encoder_rate=0.2)
    rate_of = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert rate_of.keys() == {id(parameter) for parameter in network.parameters()}
    assert all(rate == pytest.approx(0.02 if key in encoder else 0.1) for key, rate in rate_of.items())
    decays = {weight.ndim > 1: group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    assert decays == {True: 0.5, False: 0.0}


def test_an_encoder_rate_that_cannot_be_is_refused() -> None:
    network, _ = build_network({"name": "flexunet", "num_layers": 1}, 2, 3)
    with pytest.raises(UserError, match="this network has no encoder"):
        build_optimizer("adamw", network, 0.1, 0.0, encoder_rate=0.2)
    with pytest.raises(UserError, match=r"encoder_rate=1\.5 must be above 0 and at most 1"):
        build_optimizer("adamw", network, 0.1, 0.0, encoder_rate=1.5)


@pytest.mark.parametrize(("least", "samples", "length"), [(50, None, 50), (0, None, None), (50, 5, 5)])
def test_files_are_repeated_until_an_epoch_is_long_enough(
    least: int, samples: int | None, length: int | None, tiny_data: Path
) -> None:
    options = {"samples_per_epoch": samples, "min_samples_per_epoch": least, "batch_size": 1, "num_workers": 0}
    module = SegmentationDataModule(str(tiny_data), image_size=32, **options)  # type: ignore[arg-type]  # a mixed map
    files = len(module.pairs("train"))
    assert len(module.train_dataloader()) == (files if length is None else length)


def test_no_crop_is_said_in_words(tiny_data: Path) -> None:
    assert SegmentationDataModule(str(tiny_data), crop_size="none").training_size == (512, 512)
    with pytest.raises(UserError, match="crop_size='whole' must be a number of pixels, or none"):
        SegmentationDataModule(str(tiny_data), crop_size="whole")
