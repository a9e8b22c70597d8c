"""Write predicted masks, and the images with them laid over."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.files import atomic_path
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.data.samples import read_image
from flexunet_pl.training.callbacks import warn_of_background
from flexunet_pl.training.task import SegmentationTask
from flexunet_pl.visualization.layers import Draw, overlay_picture
from flexunet_pl.visualization.pictures import outlines, overlay, save_picture

OVERLAYS: dict[str, Sequence[Draw]] = {
    "filled": [overlay],
    "outlines": [outlines],
    "both": [overlay, outlines],
    "none": [],
}
OVERLAYS_HELP = (
    "How predicted regions are drawn over the images: filled, as outlines, both side by side, or not at all."
)


class PredictionWriter(BasePredictionWriter):
    """Write each predicted mask as an index PNG with the palette, and its overlay into the subfolder ``overlays/``.

    Tiny regions have a ring in the overlay, and the first of them are enlarged below it.
    """

    def __init__(self, out: Path, overlays: str = "filled") -> None:
        """Write into the folder ``out``, creating it if needed; existing masks of the same name are replaced.

        Raises:
            UserError: If ``overlays`` is none of OVERLAYS.
        """
        if overlays not in OVERLAYS:
            raise UserError(f"--overlays {overlays}: choose from {', '.join(OVERLAYS)}{suggestion(overlays, OVERLAYS)}")
        super().__init__(write_interval="batch")
        self.out = out
        self.overlays = overlays

    def write_on_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the masks of one batch; each process writes its own."""
        palette = cast(SegmentationTask, pl_module).palette
        rules = cast(SegmentationDataModule, trainer.datamodule).rules  # type: ignore[attr-defined]  # not declared
        for name, path, mask_index in zip(batch["name"], batch["path"], prediction, strict=True):
            picture = Image.fromarray(mask_index)
            picture.putpalette(palette.flat())
            with atomic_path(self.out / f"{name}.png") as temporary:
                picture.save(temporary)
            if draws := OVERLAYS[self.overlays]:
                drawn = overlay_picture(read_image(Path(path), rules), mask_index, palette.colors, draws)
                save_picture(self.out / "overlays" / f"{name}.png", drawn)

    def on_predict_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Warn if no mask of any process has a defect."""
        warn_of_background(cast(SegmentationTask, pl_module))
