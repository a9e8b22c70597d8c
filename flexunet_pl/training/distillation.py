"""Knowledge distillation: train a network on the masks and on what a trained network, the teacher, says of each pixel.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015), for every pixel.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.ranges import Range, checked
from flexunet_pl.core.types import Problem, raise_problems
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.dataset import Sample
from flexunet_pl.data.palette import IGNORE_INDEX
from flexunet_pl.data.samples import by_stem, find_images
from flexunet_pl.training.task import Batch, SegmentationTask

NAME = "trainer.callbacks.Distillation"
IMAGES_STREAM = 1  # keeps the random numbers of images without masks apart from those of the data set


class Distillation(Callback):
    """Add a teacher's opinion to the training loss: ``weight`` times :func:`softened_divergence`.

    The teacher sees the augmented crops that the network sees, in evaluation mode and the precision of the run. Images
    without masks join each batch with a mask that is ignored everywhere, so that the teacher alone speaks of them.
    Which image it is and how it is changed follow from seed, epoch, process and step: a resumed run equals an
    uninterrupted one. Validation and its loss do not know the teacher.
    """

    @checked("")
    def __init__(
        self,
        teacher: str,
        weight: Annotated[float, Range(0, 1000)] = 1.0,
        temperature: Annotated[float, Range(0.1, 100)] = 2.0,
        images: str | None = None,
        images_per_step: Annotated[int, Range(1, 4096)] = 2,
    ) -> None:
        """Keep the settings; nothing is read yet.

        Args:
            teacher: Checkpoint of the trained network.
            weight: Weight of the teacher's part of the loss, beside the weights in ``model.loss``.
            temperature: What logits of both networks are divided by; above 1, the less probable classes count more.
            images: Folder of images without masks.
            images_per_step: How many of them join each batch.
        """
        super().__init__()
        self.teacher_path = Path(teacher)
        self.weight = weight
        self.temperature = temperature
        self.images = None if images is None else Path(images)
        self.numbers = range(images_per_step)
        self.teacher: SegmentationTask | None = None
        self.unlabelled: Any = None
        self.augment: Any = None
        self.opinion: Tensor | None = None  # the teacher's logits of the batch in progress
        self.hook: Any = None

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Load the teacher and find the images; UserError if either does not fit the run."""
        if stage != "fit" or not isinstance(pl_module, SegmentationTask):
            return
        # Its mirror image would take the teacher twice as long.
        self.teacher = SegmentationTask.from_checkpoint(self.teacher_path, tta=False).requires_grad_(False)
        check_teacher(self.teacher, pl_module, self.teacher_path)
        datamodule = getattr(trainer, "datamodule", None)
        if self.images is not None and isinstance(datamodule, SegmentationDataModule):
            files, problems = find_images(self.images), list[Problem]()
            by_stem(files, problems)
            raise_problems(problems, f"{self.images}: ")
            if datamodule.training_size is None:
                raise UserError(
                    f"{NAME}.images={self.images}: images of any size cannot join a batch; set data.crop_size, or "
                    "another data.resize than none"
                )
            self.unlabelled, self.augment = datamodule.image_dataset(files), datamodule.augment

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take part in the loss; only now, when callbacks that copy the task have done so."""
        if self.teacher is not None and isinstance(pl_module, SegmentationTask):
            self.teacher.to(pl_module.device)
            self.hook = pl_module.criterion.register_forward_hook(self._add_opinion)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Let images without masks join the batch, and ask the teacher."""
        if self.teacher is None:
            return
        if self.unlabelled is not None:
            self._join(batch, [trainer.current_epoch, trainer.global_rank, batch_idx])
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            self.opinion = self.teacher(batch["image"]).float()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Forget the batch, so that the loss of validation is that of the masks."""
        self.opinion = None

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Leave the loss as it was."""
        if self.hook is not None:
            self.hook.remove()
        self.hook = self.teacher = self.opinion = None

    def _add_opinion(self, criterion: nn.Module, inputs: tuple[Tensor, ...], loss: Tensor) -> Tensor | None:
        """Return the loss with the teacher's part; None leaves it as it is."""
        if self.opinion is None:
            return None
        return loss + self.weight * softened_divergence(inputs[0], self.opinion, self.temperature)

    def _join(self, batch: Batch, position: list[int]) -> None:
        """Append images without masks to a batch, in place."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        drawn = [self._draw(np.random.default_rng([seed, IMAGES_STREAM, *position, n])) for n in self.numbers]
        image = torch.stack([sample["image"] for sample in drawn]).to(batch["image"].device)
        ignored = torch.full_like(image[:, 0], IGNORE_INDEX)
        batch["image"], batch["mask"] = torch.cat([batch["image"], image]), torch.cat([batch["mask"], ignored])
        for key in ("name", "path", "size"):
            batch[key] = [*batch[key], *(sample[key] for sample in drawn)]

    def _draw(self, rng: np.random.Generator) -> Sample:
        """Return an augmented image without mask."""
        sample: Sample = self.unlabelled[0, int(rng.integers(len(self.unlabelled)))]
        if self.augment is not None:
            plain = (sample["image"].numpy(), np.full(sample["image"].shape[1:], IGNORE_INDEX, dtype=np.uint8))
            planes, _ = self.augment(*plain, rng, lambda: plain)  # a transform that mixes images finds the same one
            sample["image"] = torch.from_numpy(np.ascontiguousarray(planes))
        return sample


def softened_divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return the mean over pixels of KL(teacher || network) of probabilities at a temperature, times its square.

    The square keeps the gradients as large as those of a temperature of 1. One channel is a probability of two classes.

    Args:
        logits: The network's, (N, K, H, W).
        teacher_logits: The teacher's, of the same shape.
        temperature: What both are divided by.
    """
    ours, theirs = (
        (torch.cat([torch.zeros_like(one), one], 1) if one.shape[1] == 1 else one).float() / temperature
        for one in (logits, teacher_logits)
    )
    divergence = functional.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction="none", log_target=True)
    return divergence.sum(1).mean() * temperature**2


def check_teacher(teacher: SegmentationTask, task: SegmentationTask, path: Path) -> None:
    """Raise a UserError if the teacher has other classes or channels than the network that it teaches."""
    theirs, ours = teacher.palette.names, task.palette.names
    if theirs != ours:
        raise UserError(
            f"{path}: the teacher's classes are {', '.join(theirs)}, but those of the data are {', '.join(ours)}; "
            "train a teacher on this data, or choose the data set that it was trained on"
        )
    for key, name in {"num_classes": "model.num_classes", "in_channels": "data.channels"}.items():
        if teacher.hparams[key] != task.hparams[key]:
            raise UserError(
                f"{path}: the teacher has {name}={teacher.hparams[key]}, this run {task.hparams[key]}; set --{name} "
                f"{teacher.hparams[key]}"
            )
