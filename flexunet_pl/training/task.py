"""The LightningModule: a network, a loss, an optimizer and scores, one step for all stages."""

import inspect
import os
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from flexunet_pl import __version__
from flexunet_pl.core.errors import UserError
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.sizing import Sizing
from flexunet_pl.inference.onnx_infer import without_small_regions
from flexunet_pl.nn.losses import build_loss
from flexunet_pl.nn.metrics import Scores, ScoreTable, mask_from_logits
from flexunet_pl.nn.networks import build_network, checked_num_classes
from flexunet_pl.nn.tta import FlipTTA
from flexunet_pl.training import optim, schedules
from flexunet_pl.training.checkpoint import read_checkpoint
from flexunet_pl.training.training_size import check_training_size

Stage = Literal["train", "val", "test"]
Batch = dict[str, Any]


class SegmentationTask(lightning.LightningModule):
    """Train and evaluate a network that maps images uint8 (N, C, H, W) to logits (N, K, H, W).

    Attributes:
        network: The network; plain torch, without softmax.
        palette: What class is what.
        sizing: The working size and how images get there.
    """

    def __init__(
        self,
        palette: dict[str, list[int]],
        num_classes: int | None = None,
        network: str = "flexunet",
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 512,
        resize: str = "stretch",
        sixteen_bit: str | None = None,
        base_filters: int | None = None,
        base_kernel: int | None = None,
        num_layers: int | None = None,
        dropout: float | None = None,
        dilation: int | None = None,
        activation: str | None = None,
        normalization: bool | str | None = None,
        input_normalize: bool | None = None,
        encoder: str | None = None,
        encoder_weights: str | None = None,
        loss: dict[str, Any] | None = None,
        class_weights: list[float] | str | None = None,
        optimizer: str = "adam",
        learning_rate: float = 1e-4,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        warmup_steps: float = 0,
        plateau_factor: float = 0.4,
        plateau_patience: int = 4,
        batchnorm_momentum: float | None = None,
        min_region_area: int = 0,
        tta: bool = False,
    ) -> None:
        """Build the network, the loss and the scores.

        Args:
            palette: Class names and colours, background first; the command line takes it from ``data``.
            num_classes: Output channels; by default as the palette says. 1 gives two classes one sigmoid channel.
            network: flexunet, unet, unetplusplus, deeplabv3plus, segformer, upernet, manet, linknet, fpn, pspnet, pan
                or dpt.
            in_channels: Channels of the images; the command line takes it from ``data.channels``.
            image_size: Working size, one side or [height, width]; the command line takes it from ``data``.
            resize: How images get to the working size; the command line takes it from ``data``.
            sixteen_bit: How 16-bit images become 8-bit; the command line takes it from ``data``.
            base_filters: Filters of the top level; they double from level to level. FlexUNet only; default 16.
            base_kernel: Kernel side of the top level; it shrinks by 2 a level down to 3. FlexUNet only; default 9.
            num_layers: Levels, the bridge included. FlexUNet only; default 6.
            dropout: Dropout rate, multiplied by the level. FlexUNet only; default 0.04.
            dilation: Dilation of the top level; it shrinks by 1 a level down to 1. FlexUNet only; default 1.
            activation: One of relu, mish, gelu, silu, elu, leaky_relu. FlexUNet only; default relu.
            normalization: true puts BatchNorm behind each activation, group GroupNorm. FlexUNet only; default False.
            input_normalize: Whether the network divides its input by 255. FlexUNet only; default False.
            encoder: Encoder of a network other than FlexUNet: a name of segmentation-models-pytorch, or tu- and a name
                of timm. Default resnet34, for segformer mit_b0 and for dpt tu-vit_small_patch16_224.
            encoder_weights: File with weights for the encoder, or the name of published ones (imagenet), which are
                fetched. By default none: training begins with random weights.
            loss: Weight of each loss by name, such as {cross_entropy: 1.0, dice: 1.0}. By default cross_entropy alone,
                binary_cross_entropy with one channel.
            class_weights: Weight of each class in cross_entropy, in the order of the palette; on the command line also
                median_frequency or effective_number, which count the training masks.
            optimizer: adam (in Keras' form), adamw or sgd.
            learning_rate: The rate, or its peak.
            weight_decay: Decay of the weights, biases and normalisation excepted.
            schedule: constant, plateau, cosine or one_cycle.
            warmup_steps: Steps in which cosine and one_cycle rise to the learning rate; below 1 a share of the run.
            plateau_factor: What plateau multiplies the rate with.
            plateau_patience: Epochs without a lower validation loss until plateau does so.
            batchnorm_momentum: Share of a batch in running statistics; FlexUNet's own is 0.01, as in Keras.
            min_region_area: Pixels that defects which hang together must have at an image's own size; smaller ones are
                made background by test, predict, infer and report, not in training and validation.
            tta: Whether to predict with the mean of the logits of an image and its mirror image: twice the work.

        Raises:
            UserError: If a value is out of its range; the message names the key, the value, the rule and the repair.
        """
        super().__init__()
        self.palette = Palette.from_mapping(palette)
        num_classes = checked_num_classes(num_classes, len(self.palette))
        if min_region_area < 0:
            raise UserError(
                f"model.min_region_area={min_region_area} must be 0, which keeps all, or a number of pixels"
            )
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.sizing = Sizing(height, width, resize)
        given = {
            "base_filters": base_filters,
            "base_kernel": base_kernel,
            "num_layers": num_layers,
            "dropout": dropout,
            "dilation": dilation,
            "activation": activation,
            "normalization": normalization,
            "input_normalize": input_normalize,
            "encoder": encoder,
            "encoder_weights": encoder_weights,
        }
        self.network, settings = build_network(network, num_classes, in_channels, given)
        optim.set_batchnorm_momentum(self.network, batchnorm_momentum)
        # Convolutions are faster on pixels whose channels lie together, in bf16 twice.
        self.network.to(memory_format=torch.channels_last)
        self.size_multiple = self.network.size_multiple
        schedules.check_schedule(schedule, warmup_steps, plateau_factor, plateau_patience)
        optim.build_optimizer(optimizer, self.network, learning_rate, weight_decay)  # here, not when training begins
        if loss is None:
            loss = {"binary_cross_entropy" if num_classes == 1 else "cross_entropy": 1.0}
        if isinstance(class_weights, str):
            raise UserError(f"model.class_weights={class_weights!r} must be numbers here; the command line counts them")
        self.criterion = build_loss(loss, num_classes, class_weights)
        self.train_scores, self.val_scores, self.test_scores = (Scores(len(self.palette)) for _ in range(3))
        self.tables: dict[Stage, ScoreTable] = {}
        self.save_hyperparameters()
        self.save_hyperparameters(
            settings
            | {
                "palette": self.palette.to_mapping(),
                "num_classes": num_classes,
                "image_size": [height, width],
                "loss": loss,
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
        try:
            given = content["hyper_parameters"] | changes
            task = cls(**{key: value for key, value in given.items() if key in known})
            task.load_state_dict(content["state_dict"])
        except (TypeError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{path}: weights and settings do not fit each other ({reason})") from error
        return task.eval()

    def setup(self, stage: str) -> None:
        """Check before training that the size of the images fits the network."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(datamodule, SegmentationDataModule):
            check_training_size(datamodule, self.hparams, self.size_multiple)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (N, C, H, W), 0..255, to logits (N, K, H, W)."""
        network = self.network if self.training else self.predictor
        return torch.as_tensor(network(image.contiguous(memory_format=torch.channels_last)))

    @property
    def predictor(self) -> nn.Module:
        """The network as it is used to predict, which ``tta`` changes."""
        return FlipTTA(self.network) if self.hparams["tta"] else self.network

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        Dropout is drawn from (seed, epoch, process), so that a resumed run goes on as an uninterrupted one; here and
        not in on_train_epoch_start, which Lightning leaves out in the epoch it resumes with.
        """
        if batch_idx == 0:
            entropy = [int(os.environ.get("PL_GLOBAL_SEED", "0")), self.current_epoch, self.global_rank]
            torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score a batch at the working size."""
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score a batch: masks at their own size, loss and soft coefficients at the working size."""
        self._step(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> list[npt.NDArray[np.uint8]]:
        """Return the class indices uint8 (H, W) of each image at its own size."""
        return self._native_masks(self(batch["image"]), batch)

    def _step(self, batch: Batch, stage: Stage) -> Tensor:
        logits, mask = self(batch["image"]), batch["mask"]
        if stage == "train":
            loss: Tensor = self.criterion(logits, mask)
            self.train_scores.update_masks(mask_from_logits(logits), mask)
            self.log(
                "train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(mask), sync_dist=True
            )
            return loss
        losses = self.criterion.per_image(logits, mask)
        if stage == "val":
            self.val_scores.update(logits, mask, losses)
        else:
            self.test_scores.update_soft(logits, mask, losses)
            for native, predicted in zip(batch["native_mask"], self._native_masks(logits, batch), strict=True):
                height, width = predicted.shape
                self.test_scores.update_masks(torch.from_numpy(predicted).to(native.device), native[:height, :width])
        return losses.mean()

    def _native_masks(self, logits: Tensor, batch: Batch) -> list[npt.NDArray[np.uint8]]:
        masks = mask_from_logits(logits).to(torch.uint8).cpu().numpy()
        native = [self.sizing.restore_mask(mask, size) for mask, size in zip(masks, batch["size"], strict=True)]
        return [without_small_regions(mask, self.hparams["min_region_area"]) for mask in native]

    def on_train_epoch_end(self) -> None:
        """Log the training scores, and lower the learning rate on a plateau.

        The plateau is handled here and not by Lightning so that the checkpoint of this epoch already holds it.
        """
        self._log_scores(self.train_scores, "train")
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau) and "val" in self.tables:
            scheduler.step(self.tables.pop("val").loss or 0.0)

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
        numbers = {
            "mean_foreground_dice": table.mean_foreground_dice,
            "mean_foreground_iou": table.mean_foreground_iou,
            "pixel_accuracy": table.pixel_accuracy,
        }
        if stage != "train":
            numbers |= {"loss": table.loss, "dice_coef_multiclass": table.dice_coef_multiclass}
        for name, one in zip(self.palette.names, table.classes, strict=True):
            numbers[f"dice/{name}"] = one.dice
        for key, value in numbers.items():
            if value is not None:
                self.log(f"{stage}/{key}", value, prog_bar=key == "mean_foreground_dice" and stage == "val")

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step the schedule, but for the plateau, which :meth:`on_train_epoch_end` steps."""
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
        settings = self.hparams
        optimizer = optim.build_optimizer(
            settings["optimizer"], self.network, settings["learning_rate"], settings["weight_decay"]
        )
        return schedules.build_schedule(optimizer, self)
