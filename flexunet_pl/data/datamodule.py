"""The LightningDataModule: from the keys under ``data`` in a config to batches."""

import logging
import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import lightning
from torch.utils.data import DataLoader

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.ranges import Channels, Range, Side, checked
from flexunet_pl.core.types import Pair, Problem, collected, raise_problems
from flexunet_pl.data.augment import build_augmentation
from flexunet_pl.data.balance import Counts, count_masks, counts_in_manifest, image_weights
from flexunet_pl.data.dataset import Augment, ImageDataset, Sample, SegmentationDataset, collate
from flexunet_pl.data.image_files import DEFAULT_MAX_PIXELS
from flexunet_pl.data.layout import Layout, find_palette
from flexunet_pl.data.manifest import fold_members
from flexunet_pl.data.samples import ReadingRules, by_stem, check_pairs, find_images, find_pairs
from flexunet_pl.data.samples import image_size as file_size
from flexunet_pl.data.sampling import EpochBatches, ShardedBatches
from flexunet_pl.data.sizing import Sizing
from flexunet_pl.data.synthetic.dataset import write_dataset

logger = logging.getLogger(__name__)

DEFAULT_BATCH_SIZE = 2
NO_CROP = "none"  # as a value of crop_size
SAMPLERS = ("uniform", "class_balanced")
SPLITS_OF_STAGE = {
    "fit": ("train", "valid"),
    "tune": ("train", "valid"),
    "validate": ("valid",),
    "test": ("test",),
    "predict": (),
}


class SegmentationDataModule(lightning.LightningDataModule):
    """Images and masks in folders as batches for training, validation, testing and prediction.

    A batch is ``image`` uint8 (N, C, H, W), ``mask`` uint8 (N, H, W) with 255 = ignore, and ``name``, ``path`` and
    ``size`` (own height and width), lists of N. Test batches also have ``native_mask`` uint8 (N, H', W').

    Args:
        root: Folder with {train,valid,test}/{images,masks} and perhaps palette.yaml.
        train_images: Folder of the training images, instead of the one in root.
        train_masks: Folder of the training masks, instead of the one in root.
        valid_images: Folder of the validation images, instead of the one in root.
        valid_masks: Folder of the validation masks, instead of the one in root.
        test_images: Folder of the test images, instead of the one in root.
        test_masks: Folder of the test masks, instead of the one in root.
        predict_dir: Folder of the images to predict.
        palette: Class names and mask colours as an ordered map, background first, with an optional "ignore"; or the
            path of a YAML file with this map, or of a config that has it. By default root/palette.yaml.
        image_size: Working size in pixels, one side of a square or [height, width].
        resize: How an image gets there: stretch (aspect ignored), letterbox (longest side, then padded), none.
        crop_size: Side of the random square crop taken in training, after resizing; none for the whole image.
        channels: Channels of the images: 1 (grey), 3 (RGB), 4 (RGBA), or any number with .npy images.
        sixteen_bit: How 16-bit images become 8-bit: full_range or min_max; without it they are refused.
        antialiased_masks: Whether blended mask colours are moved to the nearest neighbouring class.
        nearest_classes: Classes of which the nearest takes mask pixels whose colour is in no class; by default such a
            pixel is an error.
        max_pixels: The most pixels of an image or mask file; larger ones are refused before they are decoded.
        batch_size: Images in a batch and process; 2 where the network's recipe does not say.
        num_workers: Processes that read and augment; 0 reads in the training process.
        augment: Joint random changes of training images and masks, from name to options.
        synthetic_images: If above 0, root is filled with that many made-up tiles unless it holds them already.
        fold: Which fold of a data set prepared with folds validates; the others train.
        sampler: uniform draws each training image once an epoch, class_balanced draws every class equally often.
        samples_per_epoch: Training images in an epoch; by default one for each file; more repeats files.
        min_samples_per_epoch: Without samples_per_epoch, files are repeated until an epoch has this many.
    """

    @checked("data.")
    def __init__(
        self,
        root: str | None = None,
        train_images: str | None = None,
        train_masks: str | None = None,
        valid_images: str | None = None,
        valid_masks: str | None = None,
        test_images: str | None = None,
        test_masks: str | None = None,
        predict_dir: str | None = None,
        palette: dict[str, Any] | str | None = None,
        image_size: Side | tuple[Side, Side] = 512,
        resize: str = "stretch",
        crop_size: Side | str | None = None,
        channels: Channels = 3,
        sixteen_bit: str | None = None,
        antialiased_masks: bool = False,
        nearest_classes: list[str] | None = None,
        max_pixels: Annotated[int, Range(1)] = DEFAULT_MAX_PIXELS,
        batch_size: Annotated[int, Range(1, 65_536)] | None = None,
        num_workers: Annotated[int, Range(0, 256)] = 2,
        augment: dict[str, Any] | None = None,
        synthetic_images: Annotated[int, Range(0, 100_000)] = 0,
        fold: int | None = None,
        sampler: str | None = None,
        samples_per_epoch: Annotated[int, Range(1, 10_000_000)] | None = None,
        min_samples_per_epoch: Annotated[int, Range(0, 10_000_000)] | None = None,
    ) -> None:
        """Check the settings; nothing is read yet. A value out of its range raises UserError."""
        super().__init__()
        sampler = SAMPLERS[0] if sampler is None else sampler
        _check_together(root, synthetic_images, fold, sampler)
        given = {
            "train_images": train_images,
            "train_masks": train_masks,
            "valid_images": valid_images,
            "valid_masks": valid_masks,
            "test_images": test_images,
            "test_masks": test_masks,
        }
        self.layout = Layout(
            root=None if root is None else Path(root),
            folders={key: Path(folder) for key, folder in given.items() if folder is not None},
        )
        self.palette = find_palette(palette, root, synthetic_images)
        if nearest_classes is not None:
            self.palette = replace(self.palette, nearest=tuple(nearest_classes))
        self.rules = ReadingRules(channels, sixteen_bit, antialiased_masks, max_pixels)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.sizing = Sizing(height, width, resize)
        if isinstance(crop_size, str) and crop_size != NO_CROP:
            raise UserError(f"data.crop_size={crop_size!r} must be a number of pixels, or {NO_CROP}")
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else None
        self.predict_dir = None if predict_dir is None else Path(predict_dir)
        self.batch_size = DEFAULT_BATCH_SIZE if batch_size is None else batch_size
        self.num_workers = num_workers
        self.augment: Augment | None = build_augmentation(augment, self.crop_size)
        self.synthetic_images = synthetic_images
        self.fold = fold
        self.sampler = sampler
        self.samples_per_epoch = samples_per_epoch
        self.min_samples_per_epoch = min_samples_per_epoch or 0
        self.is_prepared = False
        self._resumed = (-1, 0)  # see EpochBatches

    @property
    def training_size(self) -> tuple[int, int] | None:
        """The (height, width) of a training image, None where it is the file's own."""
        if self.crop_size is not None:
            return self.crop_size
        return None if self.sizing.rule == "none" else (self.sizing.height, self.sizing.width)

    @cached_property
    def seed(self) -> int:
        """The seed that Lightning's seed_everything was given, 0 without one."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0"))

    def prepare_data(self) -> None:
        """Do what :meth:`prepare` does unless it was called before; Lightning calls this in one process a machine."""
        if not self.is_prepared:
            self.prepare(self._stage())

    def prepare(self, stage: str) -> None:
        """Write the synthetic images if asked for, and check every file of fit, tune, validate, test or predict.

        Raises:
            UserError: One report of all problems of the data set.
        """
        self.is_prepared = True
        if self.synthetic_images and self.layout.root is not None:
            size = (self.sizing.height, self.sizing.width)
            write_dataset(self.layout.root, self.synthetic_images, size, self.seed)
        splits = SPLITS_OF_STAGE[stage]
        problems: list[Problem] = []
        moved: dict[str, int] = {}
        for split in splits:
            with collected(problems):
                pairs, found = self._find(split)
                checked, moved_here = check_pairs(pairs, self.palette, self.rules)
                problems += found + checked
                moved |= moved_here
                if not pairs:
                    problems.append(Problem(f"no image of the {split} split has a mask", self.layout.split(split)[0]))
        # A root that does not exist is one problem, not one for each split.
        raise_problems(list(dict.fromkeys(problems)), after=" in the data set")
        if moved:
            nearest = self.palette.nearest
            why = "Colours of no class" if nearest else "Anti-aliased masks"
            where = f"the nearest of {', '.join(nearest)}" if nearest else "the nearest neighbouring class"
            logger.info("%s: %d pixels in %d files were moved to %s.", why, sum(moved.values()), len(moved), where)

    def pairs(self, split: str) -> list[Pair]:
        """Return the pairs of a split, sorted by name; raise UserError if a folder does not exist or holds no image."""
        return self._find(split)[0]

    def dataset(self, pairs: list[Pair], **options: Any) -> SegmentationDataset:
        """Return these pairs as a data set that reads and resizes as this module does."""
        return SegmentationDataset(pairs, self.palette, self.rules, self.sizing, **options)

    def image_dataset(self, images: list[Path]) -> ImageDataset:
        """Return images without masks as a data set that reads and resizes as this module does."""
        return ImageDataset(images, self.rules, self.sizing)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return augmented batches in an order drawn from (seed, epoch)."""
        dataset = self.dataset(self.pairs("train"), augment=self.augment, seed=self.seed)
        self._check_sizes(dataset)
        rank, world_size = self._processes()
        weights = image_weights(self.count_training_pixels()) if self.sampler == "class_balanced" else None
        batches = EpochBatches(
            len(dataset),
            self.batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            weights=weights,
            length=max(len(dataset), self.min_samples_per_epoch)
            if self.samples_per_epoch is None
            else self.samples_per_epoch,
        )
        batches.resumed = self._resumed
        return self._loader(dataset, batches)

    def state_dict(self) -> dict[str, Any]:
        """Return the batches that are done of the epoch in progress, so that a resumed run begins with the next."""
        loop = None if self.trainer is None else self.trainer.fit_loop.epoch_loop
        return (
            {} if loop is None else {"epoch": loop.trainer.current_epoch, "batches": loop.batch_progress.current.ready}
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Leave out the batches that an interrupted run did."""
        self._resumed = (int(state_dict.get("epoch", -1)), int(state_dict.get("batches", 0)))

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return the validation batches, masks at the working size."""
        return self._evaluation_loader(self.dataset(self.pairs("valid")))

    def test_dataloader(self) -> DataLoader[Sample]:
        """Return the test batches, with masks at their own size too."""
        return self._evaluation_loader(self.dataset(self.pairs("test"), keep_native_mask=True))

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Return the images of ``predict_dir`` without truth."""
        if self.predict_dir is None:
            raise UserError("data.predict_dir is not given; name the folder with the images to predict")
        images = find_images(self.predict_dir)
        problems: list[Problem] = []
        by_stem(images, problems)
        raise_problems(problems, f"{self.predict_dir}: ", ", masks of one stem would overwrite each other")
        return self._evaluation_loader(self.image_dataset(images))

    def count_training_pixels(self) -> Counts:
        """Return the pixels of each class in each training mask, int64 (N, K), in the order of the pairs.

        They come from the data set's manifest if it lists all training images, else every mask is read.
        """
        pairs = self.pairs("train")
        if self.layout.root is not None:
            listed = counts_in_manifest(self.layout.root, [pair.image for pair in pairs], self.palette)
            if listed is not None:
                return listed
        return count_masks(
            [pair.mask for pair in pairs], self.palette, self.rules.antialiased_masks, self.rules.max_pixels
        )

    def _find(self, split: str) -> tuple[list[Pair], list[Problem]]:
        if self.fold is None or self.layout.root is None or split == "test":
            return find_pairs(*self.layout.split(split))
        pairs, problems = find_pairs(*self.layout.split("train"))
        chosen = set(fold_members(self.layout.root, self.fold)[("train", "valid").index(split)])
        return [pair for pair in pairs if f"train/images/{pair.image.name}" in chosen], problems

    def _stage(self) -> str:
        return "fit" if self.trainer is None or self.trainer.state.fn is None else self.trainer.state.fn.value

    def _processes(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _check_sizes(self, dataset: SegmentationDataset) -> None:
        if self.training_size is None and self.batch_size > 1:
            sizes = {file_size(pair.image, self.rules.max_pixels) for pair in dataset.pairs}
            if len(sizes) > 1:
                raise UserError(
                    f"data.resize=none with images of {len(sizes)} sizes cannot make batches of {self.batch_size}; set "
                    "data.crop_size, data.batch_size=1 or another data.resize"
                )

    def _evaluation_loader(self, dataset: ImageDataset) -> DataLoader[Sample]:
        rank, world_size = self._processes()
        if len(dataset) < world_size:
            raise UserError(
                f"{len(dataset)} images for {world_size} processes; run with --trainer.devices {len(dataset)} or fewer"
            )
        # Native sizes differ from image to image.
        batch_size = 1 if self.sizing.rule == "none" else self.batch_size
        return self._loader(dataset, ShardedBatches(len(dataset), batch_size, rank=rank, world_size=world_size))

    def _loader(self, dataset: ImageDataset, batches: EpochBatches | ShardedBatches) -> DataLoader[Sample]:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


def _check_together(root: str | None, synthetic_images: int, fold: int | None, sampler: str) -> None:
    if sampler not in SAMPLERS:
        raise UserError(f"data.sampler={sampler!r}; choose from {', '.join(SAMPLERS)}{suggestion(sampler, SAMPLERS)}")
    if fold is not None and root is None:
        raise UserError(f"data.fold={fold} needs data.root, a data set prepared with --folds")
    if synthetic_images and root is None:
        raise UserError("data.root is not given; name the folder that data.synthetic_images are written to")
