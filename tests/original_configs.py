"""Small train_eval_infer.config files of our own making, and what migrate makes of them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Changes = dict[str, str | None]

PLAIN: dict[str, str] = {
    "model.model": '"TensorFlowFlexUNet"',
    "model.generator": "False",
    "model.image_width": "512",
    "model.image_height": "512",
    "model.image_channels": "3",
    "model.input_normalize": "True",
    "model.normalization": "False",
    "model.num_classes": "3",
    "model.base_filters": "16",
    "model.base_kernels": "(9,9)",
    "model.num_layers": "8",
    "model.dropout_rate": "0.05",
    "model.dilation": "(1,1)",
    "model.optimizer": '"Adam"',
    "model.learning_rate": "0.00007",
    "model.clipvalue": "0.5",
    "model.loss": '"categorical_crossentropy"',
    "model.metrics": '["dice_coef_multiclass"]',
    "model.show_summary": "False",
    "dataset.class_name": '"ImageCategorizedMaskDataset"',
    "train.epochs": "100",
    "train.batch_size": "2",
    "train.patience": "10",
    "train.metrics": '["dice_coef_multiclass", "val_dice_coef_multiclass"]',
    "train.model_dir": '"./models/"',
    "train.eval_dir": '"./eval/"',
    "train.images_dir": '"../data/train/images/"',
    "train.masks_dir": '"../data/train/masks/"',
    "train.create_backup": "False",
    "train.learning_rate_reducer": "True",
    "train.reducer_factor": "0.5",
    "train.reducer_patience": "4",
    "train.epoch_change_infer": "True",
    "train.epoch_change_infer_dir": '"./epoch_change_infer"',
    "train.num_infer_images": "6",
    "train.save_weights_only": "True",
    "valid.images_dir": '"../data/valid/images/"',
    "valid.masks_dir": '"../data/valid/masks/"',
    "test.images_dir": '"../data/test/images/"',
    "test.masks_dir": '"../data/test/masks/"',
    "infer.images_dir": '"./mini_test/images/"',
    "infer.output_dir": '"./mini_test_output/"',
    "image.color_order": '"RGB"',
    "mask.mask_file_format": '".png"',
    "mask.rgb_map": "{(0,0,0):0, (0,0,255):1, (255,0,0):2}",
}


def config_text(changes: Changes | None = None) -> str:
    """Return PLAIN with ``changes`` by "section.key" (None: left out) as the text of a config, a line a key."""
    values = {**PLAIN, **({} if changes is None else changes)}
    lines: list[str] = []
    for section in dict.fromkeys(name.partition(".")[0] for name in values):
        lines.append(f"[{section}]")
        for name, value in values.items():
            if name.partition(".")[0] == section and value is not None:
                lines.append(f"{name.partition('.')[2]} = {value}")
    return "\n".join([*lines, ""])


def line_of(text: str, start: str) -> int:
    """Return the number of the first line of ``text`` that begins with ``start``."""
    return next(number for number, line in enumerate(text.splitlines(), start=1) if line.strip().startswith(start))


@dataclass(frozen=True)
class Case:
    """A config and what is expected of it.

    Attributes:
        changes: What differs from PLAIN.
        expected: Values in the YAML by dotted key; a callback's options begin with its name, None is absence.
        findings: Parts of the report, each with what must stand in the same finding.
        as_run: Expected values under --as-run that differ from ``expected``.
        text: The whole text, where changes of values are not enough.
    """

    changes: Changes = field(default_factory=dict)
    expected: dict[str, Any] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    as_run: dict[str, Any] = field(default_factory=dict)
    text: str | None = None

    @property
    def content(self) -> str:
        return config_text(self.changes) if self.text is None else self.text


def value_in(path: Path, key: str) -> Any:
    """Return the value of a dotted key of a YAML that migrate wrote, None if it is not there."""
    value: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    callbacks = {
        part["class_path"].rpartition(".")[2]: part.get("init_args", {}) for part in value["trainer"]["callbacks"]
    }
    value |= callbacks
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
