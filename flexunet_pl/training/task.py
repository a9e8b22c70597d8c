"""The LightningModule: a network, its loss, optimizer and scores, with one step for all stages."""

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric

from flexunet_pl import __version__
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.ranges import Channels, Range, Side, checked
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.sizing import Sizing
from flexunet_pl.inference.onnx_infer import without_small_regions
from flexunet_pl.nn.background import BackgroundCounter
from flexunet_pl.nn.defect_head import defect_loss, logits_and_cells
from flexunet_pl.nn.ensemble import flipped
from flexunet_pl.nn.losses import LOSSES, build_loss
from flexunet_pl.nn.metric_registry import PRIMARY
from flexunet_pl.nn.metrics import Scores, ScoreTable, mask_from_logits
from flexunet_pl.nn.networks import DEFAULT_NETWORK, build_network, checked_num_classes
from flexunet_pl.training import optim, schedules
from flexunet_pl.training.checkpoint import read_checkpoint
from flexunet_pl.training.metric_states import restore_states, saved_states
from flexunet_pl.training.predicted_image import (
    PredictedImage,
    defect_probabilities,
    output_arrays,
    predicted_image,
)
from flexunet_pl.training.recipes import fill_model
from flexunet_pl.training.training_size import check_training_size

Stage = Literal["train", "val", "test"]
Batch = dict[str, Any]
MEASURED, MEASURED_BY = "measured", ("train_loss", "train_scores")  # a key of checkpoints, and the metrics it holds


class SegmentationTask(lightning.LightningModule):
    """Train and evaluate a network that maps images uint8 (N, C, H, W) to logits (N, K, H, W).

    Attributes:
        network: The network; plain torch, without softmax.
        palette: The classes and their colours.
        sizing: The working size and how images get there.

    Args:
        palette: Class names and colours, background first; the command line takes it from ``data``.
        num_classes: Output channels; by default as the palette says. 1 gives two classes one sigmoid channel.
        network: A name in ``nn.networks``, or a map of ``name`` and settings, which the command line builds.
        in_channels: Channels of the images; the command line takes it from ``data.channels``.
        image_size: Working size, one side or [height, width]; the command line takes it from ``data``.
        resize: How images get to the working size; the command line takes it from ``data``.
        sixteen_bit: How 16-bit images become 8-bit; the command line takes it from ``data``.
        loss: Weight of each loss by name, such as {cross_entropy: 1.0, dice: 1.0}; one channel needs
            binary_cross_entropy. The network's recipe (training.recipes) says what this is by default, and all that
            is None below.
        class_weights: Weight of each class in cross_entropy, in the order of the palette; on the command line also
            median_frequency or effective_number, which count the training masks.
        optimizer: adam (in Keras' form), adamw or sgd.
        learning_rate: The rate, or its peak.
        weight_decay: Decay of the weights, except biases and normalisation.
        encoder_rate: Share of the learning rate with which a pretrained encoder trains.
        defect_loss: Weight of the loss of the network's head for whole images, if it has one.
        schedule: constant, plateau, cosine or one_cycle.
        warmup_steps: Steps in which cosine and one_cycle rise to the learning rate; below 1 a share of the run.
        plateau_factor: plateau multiplies the rate by this.
        plateau_patience: Epochs without a lower validation loss before plateau does so.
        batchnorm_momentum: Share of a batch in running statistics; FlexUNet's own is 0.01, as in Keras.
        min_region_area: Smallest defect in pixels, at an image's own size. Test, predict, infer and report make smaller
            ones background; training and validation keep them.
        tta: Test-time augmentation: predict with the mean logits of an image and its mirror image, twice the work.

    Raises:
        UserError: If a value is out of its range; the message names the key, the value, the rule and the repair.
    """

    @checked("model.")
    def __init__(
        self,
        palette: dict[str, list[int]],
        num_classes: int | None = None,
        network: dict[str, Any] | str = DEFAULT_NETWORK,
        in_channels: Channels = 3,
        image_size: Side | tuple[Side, Side] = 512,
        resize: str = "stretch",
        sixteen_bit: str | None = None,
        loss: dict[str, Any] | None = None,
        class_weights: list[float] | str | None = None,
        optimizer: str | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        encoder_rate: float | None = None,
        defect_loss: Annotated[float, Range(0)] = 0.2,
        schedule: str | None = None,
        warmup_steps: Annotated[float, Range(0)] | None = None,
        plateau_factor: float = 0.4,
        plateau_patience: int = 4,
        batchnorm_momentum: float | None = None,
        min_region_area: Annotated[int, Range(0)] = 0,
        tta: bool | None = None,
    ) -> None:
        """Build the network, the loss and the scores; see the class for the arguments."""
        super().__init__()
        self.palette = Palette.from_mapping(palette)
        num_classes = checked_num_classes(num_classes, len(self.palette))
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.sizing = Sizing(height, width, resize)
        self.network, settings = build_network(network, num_classes, in_channels)
        optim.set_batchnorm_momentum(self.network, batchnorm_momentum)
        # Convolutions are faster in channels_last: twice as fast in bf16.
        self.network.to(memory_format=torch.channels_last)
        self.size_multiple = self.network.size_multiple
        self.save_hyperparameters()
        filled = dict(self.hparams)
        fill_model(filled, settings["name"], num_classes)
        self.save_hyperparameters(filled)
        schedule, warmup_steps = filled["schedule"], filled["warmup_steps"]
        schedules.check_schedule(schedule, warmup_steps, plateau_factor, plateau_patience)
        self._new_optimizer()  # a wrong value fails here
        if isinstance(class_weights, str):
            raise UserError(f"model.class_weights={class_weights!r} must be numbers here; the command line counts them")
        self.criterion = build_loss(filled["loss"], num_classes, class_weights)
        self.train_scores, self.val_scores, self.test_scores = (Scores(len(self.palette)) for _ in range(3))
        # Not reduced by Lightning: it reduces when a value is read, and the progress bar reads in one process only.
        self.train_loss = MeanMetric(nan_strategy="ignore")
        self.tables: dict[Stage, ScoreTable] = {}
        self.background = BackgroundCounter()  # of the masks of test and predict
        self.save_hyperparameters(
            {
                "network": settings,
                "palette": self.palette.to_mapping(),
                "num_classes": num_classes,
                "image_size": [height, width],
                "version": __version__,
            }
        )

    @classmethod
    def from_checkpoint(cls, path: Path, **changes: Any) -> "SegmentationTask":
        """Return the task of a checkpoint in evaluation mode, on the CPU; no code in the file is run.

        ``changes`` are settings in place of the checkpoint's. UserError if the file is no usable checkpoint.
        """
        content = read_checkpoint(path)
        known = inspect.signature(cls).parameters.keys()
        given = {key: value for key, value in (content["hyper_parameters"] | changes).items() if key in known}
        loss = given.get("loss")
        if isinstance(loss, Mapping) and not loss.keys() <= LOSSES.keys():
            # The loss of a plugin, which predicting does not need.
            given |= {"loss": None, "class_weights": None}
        try:
            task = cls(**given)
            task.load_state_dict(content["state_dict"])
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except (TypeError, AttributeError, RuntimeError, ValueError, LookupError, OverflowError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{path}: weights and settings do not fit each other ({reason})") from error
        return task.eval()

    def setup(self, stage: str) -> None:
        """Check before training that the size of the images fits the network."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(datamodule, SegmentationDataModule):
            check_training_size(self.size_multiple, self.hparams["network"], datamodule)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (N, C, H, W), 0..255, to logits (N, K, H, W)."""
        return self.logits_and_cells(image)[0]

    def logits_and_cells(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map an image (N, C, H, W), 0..255, to logits (N, K, H, W) and the cells of the head for whole images."""
        network = self.network if self.training else self.predictor
        return logits_and_cells(network, image.contiguous(memory_format=torch.channels_last))

    @property
    def predictor(self) -> nn.Module:
        """The network that predicts: with ``tta`` it also looks at the mirror image."""
        return flipped(self.network) if self.hparams["tta"] else self.network

    @torch.inference_mode()
    def run_arrays(self, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """Map images uint8 (N, H, W, C) to what exported models return (export.onnx.OUTPUTS)."""
        return output_arrays(*self.logits_and_cells(torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        Dropout is seeded by (seed, epoch, process, step), so that a resumed run equals an uninterrupted one.
        """
        entropy = [int(os.environ.get("PL_GLOBAL_SEED", "0")), self.current_epoch, self.global_rank, batch_idx]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        (logits, cells), mask = self.logits_and_cells(batch["image"]), batch["mask"]
        loss: Tensor = self.criterion(logits, mask)
        if cells is not None:
            loss = loss + self.hparams["defect_loss"] * defect_loss(cells, mask)
        self.train_scores.update_masks(mask_from_logits(logits), mask)
        self.train_loss.update(loss.detach(), len(mask))
        self.log("loss", loss, on_step=True, on_epoch=False, prog_bar=True, logger=False)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Score a batch at the working size.

        Returns:
            For callbacks: ``predicted``, class indices (N, H, W), and ``confusions`` (N, K, K), of each image.
        """
        logits, mask = self(batch["image"]), batch["mask"]
        self.val_scores.update_soft(logits, mask, self.criterion.per_image(logits, mask))
        predicted = mask_from_logits(logits)
        return {"predicted": predicted, "confusions": self.val_scores.update_masks(predicted, mask)}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score a batch: masks at their own size, loss and soft coefficients at the working size."""
        logits, mask = self(batch["image"]), batch["mask"]
        self.test_scores.update_soft(logits, mask, self.criterion.per_image(logits, mask))
        for native, predicted in zip(batch["native_mask"], self._native_masks(logits, batch), strict=True):
            height, width = predicted.shape
            self.test_scores.update_masks(torch.from_numpy(predicted).to(native.device), native[:height, :width])

    def predict_step(self, batch: Batch, batch_idx: int) -> list[PredictedImage]:
        """Return the mask of each image at its own size, and how sure the network is."""
        outputs = output_arrays(*self.logits_and_cells(batch["image"]))
        masks = [self.finished_mask(mask) for mask in map(self.sizing.restore_mask, outputs["mask"], batch["size"])]
        sizes = [self.sizing.content_size(*size) for size in batch["size"]]  # without padding
        seen = [one[:height, :width] for one, (height, width) in zip(outputs["probabilities"], sizes, strict=True)]
        return list(map(predicted_image, masks, seen, defect_probabilities(outputs)))

    def _native_masks(self, logits: Tensor, batch: Batch) -> list[npt.NDArray[np.uint8]]:
        masks = mask_from_logits(logits).to(torch.uint8).cpu().numpy()
        return [self.finished_mask(mask) for mask in map(self.sizing.restore_mask, masks, batch["size"])]

    def finished_mask(self, mask_index: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Make small regions of a mask uint8 (H, W) background, and count whether it is all background."""
        finished = without_small_regions(mask_index, self.hparams["min_region_area"])
        self.background.update(bool(mask_index.any()), bool(finished.any()))
        return finished

    def on_train_epoch_end(self) -> None:
        """Log the training scores, and lower the learning rate on a plateau.

        The plateau is handled here and not by Lightning so that the checkpoint of this epoch already holds it.
        """
        self.log("train/loss", self.train_loss.compute())
        self.train_loss.reset()
        self._log_scores(self.train_scores, "train")
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau) and "val" in self.tables:
            scheduler.step(self.tables.pop("val")["loss"] or 0.0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what the epoch in progress has measured so far in all processes."""
        checkpoint[MEASURED] = saved_states({name: getattr(self, name) for name in MEASURED_BY})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with what the epoch has measured, in the first process; the others begin at 0.

        The learning rate is this task's, at the position in the schedule where the checkpoint was.
        """
        before = checkpoint["hyper_parameters"].get("learning_rate")
        if isinstance(before, float) and before > 0:
            optim.scale_rates(checkpoint, self.hparams["learning_rate"] / before)
        if self.global_rank == 0:
            restore_states({name: getattr(self, name) for name in MEASURED_BY}, checkpoint.get(MEASURED, {}))

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation images."""
        if self.trainer.sanity_checking:
            self.val_scores.reset()
        else:
            self._log_scores(self.val_scores, "val")

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test images."""
        self._log_scores(self.test_scores, "test")

    def _log_scores(self, scores: Scores, stage: Stage) -> None:
        table = self.tables[stage] = scores.compute()
        scores.reset()
        for key, value in table.to_log(self.palette.names).items():
            self.log(f"{stage}/{key}", value, prog_bar=key == PRIMARY and stage == "val")

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step the schedule, except the plateau, which :meth:`on_train_epoch_end` steps."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            schedules.step_schedule(scheduler, self.trainer)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradients as the Trainer says; by value in one pass over them, where torch takes two."""
        if gradient_clip_algorithm == "value" and gradient_clip_val is not None:
            optim.clip_by_value(optimizer, gradient_clip_val)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and its schedule.

        Raises:
            UserError: If a schedule needs to know how long the run is and the Trainer has no end.
        """
        return schedules.build_schedule(self._new_optimizer(), self)

    def _new_optimizer(self) -> Optimizer:
        keys = "learning_rate", "weight_decay", "encoder_rate"
        return optim.build_optimizer(self.hparams["optimizer"], self.network, *(self.hparams[key] for key in keys))
