"""The keys of a train_eval_infer.config: type, the original's default, and the setting each becomes."""

from dataclasses import dataclass

Color = tuple[int, int, int]
DEFAULT_COLORS: tuple[Color, ...] = ((0, 0, 0), (0, 255, 0), (255, 0, 0), (0, 0, 255))


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        kind: Its type, a name in ``values.KINDS``; empty for keys that change nothing here.
        default: What the original takes where it finds nothing readable.
        required: Whether the original has no default and stops; ``default`` is then ours.
        network: The setting of FlexUNet that it becomes, if any.
        no_effect: Why it changes nothing here.
    """

    kind: str
    default: object = None
    required: bool = False
    network: str = ""
    no_effect: str = ""


def _without_effect(reason: str, *names: str) -> dict[str, Key]:
    return {name: Key("", no_effect=reason) for name in names}


_NEVER_READ = "the original never reads it"
_RUN_FOLDER = "everything a run writes goes into one folder of its own, runs/NAME-N or --run_dir"
_SCORES = "metrics only report, they do not train; all scores are always written, dice_coef_multiclass among them"
_OUT = "predict writes to --out DIR"
_TILES = "export the model and segment in tiles: `python -m flexunet_pl infer BUNDLE IMAGES --tile SIDE --overlap N`"
_VOLUMES = "volumes are not read; save their slices as images and predict those"

KEYS: dict[str, Key] = {
    "model.model": Key("text", "TensorFlowFlexUNet"),
    "model.generator": Key("flag", False),
    "model.image_width": Key("count", 512, required=True),
    "model.image_height": Key("count", 512, required=True),
    "model.image_channels": Key("count", 3, required=True, network="in_channels"),
    "model.input_normalize": Key("flag", True, network="input_normalize"),
    "model.normalization": Key("flag", False, network="normalization"),
    "model.num_classes": Key("count", None, required=True),
    "model.base_filters": Key("count", 16, required=True, network="base_filters"),
    "model.base_kernels": Key("pair", (3, 3), network="base_kernel"),
    "model.num_layers": Key("count", 6, network="num_layers"),
    "model.dropout_rate": Key("number", 0.04, required=True, network="dropout"),
    "model.dilation": Key("pair", (1, 1), network="dilation"),
    "model.activation": Key("text", "relu", network="activation"),
    "model.final_activation": Key("text", "sigmoid"),
    "model.optimizer": Key("text", "Adam"),
    "model.learning_rate": Key("number", 1e-4),
    "model.clipvalue": Key("number", 0.2),
    "model.loss": Key("text", "categorical_crossentropy"),
    "train.epochs": Key("count", 100),
    "train.batch_size": Key("count", 4),
    "train.patience": Key("count", 10),
    "train.learning_rate_reducer": Key("flag", False),
    "train.reducer_factor": Key("number", 0.4),
    "train.reducer_patience": Key("count", 4),
    "train.epoch_change_infer": Key("flag", True),
    "train.num_infer_images": Key("count", 6),
    "train.steps_per_epoch": Key("count", 400),
    **{f"{split}.{kind}_dir": Key("path") for split in ("train", "valid", "test") for kind in ("images", "masks")},
    "infer.images_dir": Key("path"),
    "image.color_order": Key("text", "RGB"),
    "mask.rgb_map": Key("colors", DEFAULT_COLORS),
    "generator.augmentation": Key("flag", True),
    **{f"augmentor.{name}": Key("flag", True) for name in ("hflip", "vflip", "rotation")},
    "augmentor.angles": Key("numbers", [90, 180, 270]),
    "augmentor.shrinks": Key("numbers", [0.8]),
    "augmentor.shears": Key("numbers", []),
    **{f"augmentor.{name}": Key("flag", False) for name in ("deformation", "distortion", "sharpening", "brightening")},
    **{f"augmentor.{name}": Key("flag", False) for name in ("barrdistortion", "pincdistortion")},
    "deformation.alpah": Key("number", 1300),
    "deformation.sigmoids": Key("numbers", [8]),
    "deformation.sigmoid": Key("number", 8),
    "distortion.gaussian_filter_rsigma": Key("number", 40),
    "distortion.gaussian_filter_sigma": Key("number", 0.5),
    "distortion.distortions": Key("numbers", [0.02]),
    "sharpening.k": Key("number", 1.0),
    "brightening.alpha": Key("number", 1.2),
    "brightening.beta": Key("number", 10),
    "barrdistortion.radius": Key("number", 0.5),
    "barrdistortion.amount": Key("number", 0.5),
    "barrdistortion.centers": Key("places", [(0.5, 0.5)]),
    "pincdistortion.radius": Key("number", 0.5),
    "pincdistortion.amount": Key("number", -0.5),
    "pincdistortion.centers": Key("places", [(0.5, 0.5)]),
    **_without_effect(_NEVER_READ, "model.show_summary", "train.create_backup"),
    **_without_effect(_NEVER_READ, "train.save_weights_only", "mask.mask_datatype"),
    **_without_effect("every validation image is scored once an epoch", "train.validation_steps"),
    **_without_effect("images are read by their suffix, .npy among them", "image.file_format"),
    **_without_effect("masks are read by their suffix, .png and .npz among them", "mask.mask_file_format"),
    **_without_effect("seed_everything makes dropout and all else repeatable", "model.dropout_seed_fixing"),
    **_without_effect(_SCORES, "model.metrics", "model.hybrid_alpha", "model.hybrid_beta", "train.metrics"),
    **_without_effect("the DataModule reads colour PNG, index PNG and npz masks alike", "dataset.class_name"),
    **_without_effect(_RUN_FOLDER, "train.model_dir", "train.eval_dir", "eval.eval_dir"),
    **_without_effect("evaluation takes data.batch_size, and its scores do not depend on it", "eval.batch_size"),
    **_without_effect("pictures go into epoch_pictures of the run folder", "train.epoch_change_infer_dir"),
    **_without_effect(_TILES, "train.epoch_change_tiled_infer", "train.epoch_change_tiled_infer_dir"),
    **_without_effect(_OUT, "infer.output_dir"),
    **_without_effect("a mask is one picture, whatever the channels of its image", "infer.npy_slice_index"),
    **_without_effect("no slices of the input are written", "infer.npy_slices_dir"),
    **_without_effect(_TILES, "tiledinfer.images_dir", "tiledinfer.output_dir"),
    **_without_effect(_TILES, "tiledinfer.overlapping", "tiledinfer.split_size"),
    **_without_effect(_VOLUMES, "infer3d.images_dir", "infer3d.output_dir", "infer3d.mask_overlay"),
    **_without_effect(_VOLUMES, *(f"infer3d.slice_{name}" for name in ("shape_order", "normalize", "resize"))),
    **_without_effect(_VOLUMES, "infer3d.slice_rotation", "infer3d.video_fileformat"),
    **_without_effect("it only says how much the generator prints and saves", "generator.debug", "generator.verbose"),
}

# Keys whose names begin with these stand for a family of settings.
FAMILIES = {"infer3d.video_": _VOLUMES}

# What people write for what is read.
ALIASES = {"mask.color_map": "mask.rgb_map", "deformation.alpha": "deformation.alpah"}

SECTIONS = tuple(dict.fromkeys(name.split(".")[0] for name in KEYS))


def known_key(name: str) -> Key | None:
    """Return the entry of "section.key", or None if the original has no such key."""
    reasons = [reason for start, reason in FAMILIES.items() if name.startswith(start)]
    return Key("", no_effect=reasons[0]) if reasons and name not in KEYS else KEYS.get(name)


def place_of(name: str) -> str:
    """Return "section.key" as one finds it in the file: ``[section] key``."""
    section, _, key = name.partition(".")
    return f"[{section}] {key}"
