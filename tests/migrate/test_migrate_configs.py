"""Every key and every malformation of a train_eval_infer.config, in a table; each result builds model and data."""

import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from original_configs import PLAIN, Case, config_text, line_of, value_in

from flexunet_pl.cli.main import main
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.migrate.augment import LENSES
from flexunet_pl.migrate.augment import SECTIONS as AUGMENT_SECTIONS
from flexunet_pl.migrate.keys import DEFAULT_COLORS, KEYS
from flexunet_pl.migrate.recipe import TARGETS
from flexunet_pl.training.lightning_cli import TrainerCLI
from flexunet_pl.training.task import SegmentationTask

COLORS = "{(0,0,0):0, (0,0,255):1, (255,0,0):2, (0,255,0):3, (255,255,0):4, (0,255,255):5, (255,0,255):6}"
SIX = "{(0,0,0):0, (0,0,255):1, (255,0,0):2, (0,255,0):3, (255,255,0):4, (0,255,255):5}"
BLACK_BLUE_RED = {"background": [0, 0, 0], "class_1": [0, 0, 255], "class_2": [255, 0, 0]}
DEFAULT_PALETTE = {
    name: list(color)
    for name, color in zip(("background", "class_1", "class_2", "class_3"), DEFAULT_COLORS, strict=True)
}


def one(name: str, value: str | None, expected: dict[str, Any], *findings: str, **as_run: Any) -> Case:
    return Case({name: value}, expected, findings, {key.replace("__", "."): other for key, other in as_run.items()})


def edited(old: str, new: str, expected: dict[str, Any], *findings: str, **as_run: Any) -> Case:
    text = config_text()
    assert old in text
    return Case(
        {}, expected, findings, {key.replace("__", "."): v for key, v in as_run.items()}, text.replace(old, new)
    )


AUGMENTING: dict[str, str | None] = {
    "model.generator": "True",
    "train.steps_per_epoch": "200",
    "train.validation_steps": "80",
    "generator.debug": "False",
    "generator.augmentation": "True",
    "augmentor.vflip": "False",
    "augmentor.hflip": "True",
    "augmentor.angles": "[90, 180, 270]",
    "augmentor.shrinks": "[0.8]",
    "augmentor.shears": "[0.2]",
    "augmentor.deformation": "True",
    "augmentor.distortion": "True",
    "augmentor.sharpening": "True",
    "augmentor.brightening": "True",
    "augmentor.barrdistortion": "True",
    "augmentor.pincdistortion": "True",
    "deformation.alpah": "1300",
    "deformation.sigmoids": "[8.0, 10.0]",
    "distortion.gaussian_filter_rsigma": "40",
    "distortion.gaussian_filter_sigma": "0.5",
    "distortion.distortions": "[0.02, 0.03]",
    "sharpening.k": "1.0",
    "brightening.alpha": "1.2",
    "brightening.beta": "10",
    "barrdistortion.radius": "0.3",
    "barrdistortion.amount": "0.3",
    "barrdistortion.centers": "[(0.3, 0.3), (0.7, 0.7)]",
    "pincdistortion.radius": "0.3",
    "pincdistortion.amount": "-0.3",
    "pincdistortion.centers": "[(0.5, 0.5)]",
}
WHOLE_AUGMENT = {
    "hflip": {"p": 0.5},
    "rotation": {"p": 0.5, "angles": [90, 180, 270]},
    "shrink": {"p": 0.2, "shrinks": [0.8]},
    "shear": {"p": 0.2, "shears": [0.2]},
    "barrel": {"p": 0.2, "radius": 0.3, "amount": 0.3, "centers": [[0.3, 0.3], [0.7, 0.7]]},
    "pincushion": {"p": 0.2, "radius": 0.3, "amount": -0.3, "centers": [[0.5, 0.5]]},
    "elastic": {"p": 0.2, "alpha": 1300, "sigmoids": [8.0, 10.0]},
    "smooth_noise": {
        "p": 0.2,
        "gaussian_filter_rsigma": 40,
        "gaussian_filter_sigma": 0.5,
        "distortions": [0.02, 0.03],
    },
    "brightening": {"p": 0.2, "alpha": 1.2, "beta": 10},
    "sharpen": {"p": 0.1, "k": 1.0},
}

# The shapes of the family's projects, by the numbers of reference and published settings.
PROJECTS = {
    "TILE, 6 classes, kernel 9": Case(
        {"model.num_classes": "6", "mask.rgb_map": SIX, "model.input_normalize": "False", "model.dropout_rate": "0.04"},
        {"data.palette.class_5": [0, 255, 255], "model.base_kernel": 9, "model.dropout": 0.04},
    ),
    "GRID, 6 classes, kernel 11": Case(
        {"model.num_classes": "6", "mask.rgb_map": SIX, "model.base_kernels": "(11,11)", "model.clipvalue": "0.4"},
        {"model.base_kernel": 11, "trainer.gradient_clip_val": 0.4, "model.num_layers": 8},
    ),
    "SCREW, color_map instead of rgb_map": Case(
        {"mask.rgb_map": None, "mask.color_map": SIX, "model.num_classes": "6"},
        {"data.palette.class_4": [255, 255, 0]},
        ("[mask] color_map = |took the default of [mask] rgb_map|it was meant to be [mask] rgb_map",),
        {"data.palette.class_1": [0, 255, 0], "data.palette.class_3": [0, 0, 255]},
    ),
    "TRANSISTOR, 5 classes": Case(
        {"model.num_classes": "5", "mask.rgb_map": "{(0,0,0):0,(255,0,0):1,(0,255,0):2,(0,0,255):3,(255,255,0):4}"},
        {"data.palette.class_4": [255, 255, 0]},
    ),
    "CABLE, 9 classes over several lines": Case(
        {
            "model.num_classes": "9",
            "model.base_kernels": "(11,11)",
            "mask.rgb_map": "{(0,0,0):0, (10,10,10):1, \\\n  (20,20,20):2, (30,30,30):3, \\\n  "
            "(40,40,40):4, (50,50,50):5, \\\n  (60,60,60):6, (70,70,70):7, (80,80,80):8}",
        },
        {"data.palette.class_8": [80, 80, 80], "data.palette.class_1": [10, 10, 10]},
    ),
    "METAL-NUT, 5 classes, several lines without backslashes": Case(
        {
            "model.num_classes": "5",
            "mask.rgb_map": "{(0,0,0):0,\n  (255,0,0):1,\n  (0,255,0):2,\n  (0,0,255):3,\n  (255,255,0):4}",
        },
        {"data.palette.class_4": [255, 255, 0], "data.palette.class_1": [255, 0, 0]},
    ),
    "PanNuke, npz masks, dilation 3, 256 pixels": Case(
        {
            "model.num_classes": "6",
            "mask.rgb_map": SIX,
            "mask.mask_file_format": '".npz"',
            "model.dilation": "(3,3)",
            "model.image_width": "256",
            "model.image_height": "256",
        },
        {"model.dilation": 3, "data.image_size": 256},
        ("[mask] mask_file_format: masks are read by their suffix",),
    ),
    "20 classes": Case(
        {
            "model.num_classes": "20",
            "mask.rgb_map": "{" + ", ".join(f"({i * 12},0,{i}):{i}" for i in range(20)) + "}",
            "model.base_kernels": "(7,7)",
        },
        {"data.palette.class_19": [228, 0, 19], "model.base_kernel": 7},
    ),
    "4 channels of NPY": Case(
        {"model.image_channels": "4", "image.file_format": '"NPY"'},
        {"data.channels": 4},
        ("[image] file_format: images are read by their suffix",),
    ),
    "2 classes": Case(
        {"model.num_classes": "2", "mask.rgb_map": "{(0,0,0):0, (255,255,255):1}"},
        {"data.palette": {"background": [0, 0, 0], "class_1": [255, 255, 255]}, "model.num_classes": None},
    ),
}
KEY_CASES = {
    "width and height differ": Case(
        {"model.image_width": "512", "model.image_height": "256"}, {"data.image_size": [256, 512]}
    ),
    "raw input": one("model.input_normalize", "False", {"model.input_normalize": False}),
    "input_normalize by default": one("model.input_normalize", None, {"model.input_normalize": True}),
    "BatchNorm": one("model.normalization", "True", {"model.normalization": True}),
    "base_filters": one("model.base_filters", "32", {"model.base_filters": 32}),
    "kernels 5": one("model.base_kernels", "(5,5)", {"model.base_kernel": 5}),
    "kernels by default": one("model.base_kernels", None, {"model.base_kernel": 3}),
    "a list as kernels": one("model.base_kernels", "[7,7]", {"model.base_kernel": 7}),
    "kernels that differ": one(
        "model.base_kernels", "(9,7)", {"model.base_kernel": 9}, "[model] base_kernels = (9,7)|9, is taken for both"
    ),
    "a dilation that differs": one(
        "model.dilation", "(3,1)", {"model.dilation": 3}, "[model] dilation = (3,1)|crashes|3, is taken for both"
    ),
    "levels by default": one("model.num_layers", None, {"model.num_layers": 6}),
    "dropout .02": one("model.dropout_rate", "0.02", {"model.dropout": 0.02}),
    "dropout .03": one("model.dropout_rate", "0.03", {"model.dropout": 0.03}),
    "a dropout beyond 1 at the bottom": one(
        "model.dropout_rate", "0.2", {"model.dropout": 0.12}, "[model] dropout_rate = 0.2|grows to 1.4|it is 0.12"
    ),
    "mish": one("model.activation", '"mish"', {"model.activation": "mish"}),
    "swish": one("model.activation", '"swish"', {"model.activation": "silu"}),
    "an activation that is not known": one(
        "model.activation", '"selu"', {"model.activation": "relu"}, "[model] activation|it is relu"
    ),
    "final_activation of several classes": one(
        "model.final_activation",
        '"sigmoid"',
        {},
        "[model] final_activation: more than one class always ends in softmax",
    ),
    "dropout_seed_fixing": one("model.dropout_seed_fixing", "True", {}, "[model] dropout_seed_fixing: "),
    "AdamW": one(
        "model.optimizer", '"AdamW"', {"model.optimizer": "adamw", "model.weight_decay": 0.004}, "Keras' 0.004"
    ),
    "another optimizer": one("model.optimizer", '"SGD"', {"model.optimizer": "adam"}, "[model] optimizer|it is adam"),
    "rate 5e-5": one("model.learning_rate", "0.00005", {"model.learning_rate": 5e-5}),
    "rate 1e-4 as people write it": one("model.learning_rate", "1e-4", {"model.learning_rate": 1e-4}),
    "rate by default": one("model.learning_rate", None, {"model.learning_rate": 1e-4}),
    "rate 0": one("model.learning_rate", "0", {"model.learning_rate": 1e-4}, "[model] learning_rate = 0|above 0"),
    "clipvalue by default": one("model.clipvalue", None, {"trainer.gradient_clip_val": 0.2}),
    "clipvalue": one("model.clipvalue", "0.4", {"trainer.gradient_clip_val": 0.4}),
    "focal dice": one("model.loss", '"categorical_focal_dice_loss"', {"model.loss": {"categorical_focal_dice": 1.0}}),
    "a loss that is not known": one(
        "model.loss", '"bce_dice_loss"', {"model.loss": {"cross_entropy": 1.0}}, "[model] loss|it is cross_entropy"
    ),
    "hybrid metrics": Case(
        {
            "model.metrics": '["dice_coef_multiclass", "dice_coef_foreground", "dice_coef_hybrid"]',
            "model.hybrid_alpha": "1.6",
            "model.hybrid_beta": "0.4",
        },
        {},
        ("[model] metrics: ", "[model] hybrid_alpha: ", "[model] hybrid_beta: "),
    ),
    "what the original never reads": Case(
        {"mask.mask_datatype": '"categorized"', "mask.mask_datatyoe": '"categorized"'},
        {},
        (
            "[model] show_summary: the original never reads it",
            "[train] create_backup: the original never reads it",
            "[train] save_weights_only: the original never reads it",
            "[mask] mask_datatype: the original never reads it",
            "[mask] mask_datatyoe = |it does no harm",
        ),
    ),
    "epochs and batch": Case(
        {"train.epochs": "50", "train.batch_size": "4"}, {"trainer.max_epochs": 50, "data.batch_size": 4}
    ),
    "batch by default": one("train.batch_size", None, {"data.batch_size": 4}),
    "patience": one("train.patience", "20", {"patience": 20}),
    "no patience": one("train.patience", "0", {"patience": 0}),
    "reducer": one(
        "train.reducer_patience",
        "5",
        {"model.schedule": "plateau", "model.plateau_factor": 0.5, "model.plateau_patience": 5},
        "[train] reducer_patience = 5|Keras' 10 is in force|it is 5",
        model__plateau_patience=10,
        trainer__precision="32-true",
    ),
    "no reducer": one(
        "train.learning_rate_reducer",
        "False",
        {"model.schedule": "constant", "model.plateau_patience": None},
        "[train] reducer_factor: learning_rate_reducer is False",
    ),
    "reducer by default": one("train.learning_rate_reducer", None, {"model.schedule": "constant"}),
    "no pictures": one("train.epoch_change_infer", "False", {"EpochPictures.count": 0}, "[train] num_infer_images: "),
    "pictures by default": one("train.epoch_change_infer", None, {"EpochPictures.count": 6}),
    "tiled pictures": Case(
        {
            "train.epoch_change_tiled_infer": "True",
            "train.epoch_change_tiled_infer_dir": '"./epoch_change_tiled_infer"',
            "tiledinfer.overlapping": "128",
            "tiledinfer.split_size": "512",
            "tiledinfer.images_dir": '"./mini_test/images"',
            "tiledinfer.output_dir": '"./tiled_output"',
        },
        {},
        (
            "[train] epoch_change_tiled_infer: ",
            "[tiledinfer] overlapping: ",
            "[tiledinfer] split_size: export the model",
        ),
    ),
    "steps without generator": one(
        "train.steps_per_epoch", "200", {"trainer.limit_train_batches": None}, "generator is"
    ),
    "volumes": Case(
        {
            "infer3d.images_dir": '"./volumes"',
            "infer3d.output_dir": '"./out"',
            "infer3d.slice_shape_order": '"hwd"',
            "infer3d.slice_normalize": "True",
            "infer3d.slice_resize": "(512,512)",
            "infer3d.slice_rotation": "cv2.ROTATE_90_CLOCKWISE",
            "infer3d.mask_overlay": "True",
            "infer3d.video_fps": "10",
            "infer3d.video_file_format": '".mp4"',
        },
        {},
        ("[infer3d] slice_rotation: volumes are not read", "[infer3d] video_fps: volumes are not read"),
    ),
    "rare keys": Case(
        {
            **AUGMENTING,
            "augmentor.rotation": "False",
            "deformation.sigmoids": None,
            "deformation.sigmoid": "12",
            "generator.verbose": "False",
            "eval.eval_dir": '"./eval"',
            "eval.batch_size": "4",
            "infer.npy_slice_index": "1",
            "infer.npy_slices_dir": '"./slices"',
            "infer3d.video_fileformat": '".mp4"',
        },
        {"data.augment.elastic.sigmoids": [12], "data.augment.rotation": None},
        ("[eval] eval_dir: ", "[infer] npy_slice_index: ", "[infer3d] video_fileformat: volumes are not read"),
    ),
    "another network": one("model.model", '"TensorFlowUNet3Plus"', {}, "[model] model = |the network is FlexUNet"),
    "another colour order": one("image.color_order", '"BGR"', {}, "[image] color_order|images are RGB"),
    "no rgb_map": one("mask.rgb_map", None, {"data.palette.class_1": [0, 255, 0]}, "rgb_map is not given|black, green"),
    "no test split": Case({"test.images_dir": None, "test.masks_dir": None}, {"data.test_images": None}),
    "augmentation": Case(AUGMENTING, {"data.augment": WHOLE_AUGMENT, "trainer.limit_train_batches": 200}),
    "augmentation without generator": Case(
        {**AUGMENTING, "model.generator": "False"},
        {"data.augment": None, "trainer.limit_train_batches": None},
        ("[augmentor] hflip: generator is False, so nothing is augmented", "[sharpening] k: generator is False"),
    ),
    "augmentation switched off": Case(
        {**AUGMENTING, "generator.augmentation": "False"},
        {"data.augment": None},
        ("[augmentor] shears: [generator] augmentation is False",),
    ),
    "a generator by default": one(
        "model.generator",
        "True",
        {
            "data.augment": {
                "hflip": {"p": 0.5},
                "vflip": {"p": 0.5},
                "rotation": {"p": 0.5, "angles": [90, 180, 270]},
                "shrink": {"p": 0.2, "shrinks": [0.8]},
            },
            "trainer.limit_train_batches": 400,
        },
    ),
    "an augmentation out of range": Case(
        {**AUGMENTING, "augmentor.shrinks": "[1.2]"},
        {"data.augment.shrink": None, "data.augment.hflip": {"p": 0.5}},
        ("[augmentor] shrinks = [1.2]|it is left out: data.augment.shrink.shrinks",),
    ),
    "the right spelling of alpah": Case(
        {**AUGMENTING, "deformation.alpah": None, "deformation.alpha": "900"},
        {"data.augment.elastic.alpha": 900},
        ("[deformation] alpha = 900|took the default of [deformation] alpah",),
        {"data.augment.elastic.alpha": 1300},
    ),
}
CLASS_CASES = {
    "one class": Case(
        {
            "model.num_classes": "1",
            "mask.rgb_map": "{(0,0,0):0, (255,255,255):1}",
            "model.loss": '"binary_crossentropy"',
        },
        {"model.num_classes": 1, "model.loss": {"binary_cross_entropy": 1.0}, "data.palette.class_1": [255, 255, 255]},
    ),
    "one class with the loss of several": Case(
        {"model.num_classes": "1", "mask.rgb_map": "{(0,0,0):0, (255,255,255):1}"},
        {"model.num_classes": 1, "model.loss": {"binary_cross_entropy": 1.0}},
        ("[model] loss = |it is binary_cross_entropy, which fits one class",),
    ),
    "several classes with the loss of one": one(
        "model.loss", '"binary_crossentropy"', {"model.loss": {"cross_entropy": 1.0}}, "[model] loss|fits 3 classes"
    ),
    "one class of three colours": one(
        "model.num_classes",
        "1",
        {"data.palette": {"background": [0, 0, 0], "class_1": [0, 0, 255]}},
        "[mask] rgb_map = |(255, 0, 0) was left out, as the network has 2 classes",
    ),
    "more classes than colours": one(
        "model.num_classes",
        "5",
        {"data.palette.class_2": [255, 0, 0]},
        "[mask] rgb_map = |never compares it with num_classes|class_3, class_4 were added with fresh colours",
    ),
    "more colours than classes": Case(
        {"mask.rgb_map": COLORS, "model.num_classes": "5"},
        {"data.palette.class_4": [255, 255, 0], "data.palette.class_5": None},
        ("[mask] rgb_map = |(0, 255, 255), (255, 0, 255) were left out, as the network has 5 classes",),
    ),
    "no num_classes": one(
        "model.num_classes", None, {"data.palette": BLACK_BLUE_RED}, "[model] num_classes is not given|stops without it"
    ),
    "a colour twice": Case(
        {"mask.rgb_map": "{(0,0,0):0, (255,0,0):1, (255,0,0):2, (0,255,0):3}"},
        {"data.palette": {"background": [0, 0, 0], "class_1": [255, 0, 0], "class_2": [0, 255, 0]}},
        ("[mask] rgb_map = |made one class of entries with the same colour",),
    ),
    "numbers out of order": Case(
        {"mask.rgb_map": "{(0,0,0):0, (255,0,0):2, (0,0,255):1}"},
        {"data.palette": {"background": [0, 0, 0], "class_1": [255, 0, 0], "class_2": [0, 0, 255]}},
        ("[mask] rgb_map = |never reads the numbers",),
    ),
    "background is not black": Case(
        {"mask.rgb_map": "{(255,255,255):0, (255,0,0):1, (0,0,255):2}"},
        {"data.palette.background": [255, 255, 255]},
        ("[mask] rgb_map = |it is the background",),
    ),
}
PATH_CASES = {
    "wildcards": one(
        "train.images_dir",
        '"../data/train/images/*.png"',
        {"data.train_images": "../data/train/images"},
        '[train] images_dir = "../data/train/images/*.png"|the folder ../data/train/images is read as a whole',
    ),
    "a wildcard for a folder": one(
        "train.images_dir", '"../data/tr*/images/"', {"data.train_images": "../data/train/images"}, "is read as a whole"
    ),
    "a folder pattern that fits nothing": one(
        "train.images_dir", '"../data/x*/images/"', {"data.train_images": "../data"}, "is read as a whole"
    ),
    "backslashes": one("train.images_dir", r'"..\data\train\images"', {"data.train_images": "../data/train/images"}),
    "an absolute path": one("train.images_dir", '"/nowhere/images"', {"data.train_images": "/nowhere/images"}),
    "a drive": one("train.images_dir", '"D:/tile/images"', {"data.train_images": "D:/tile/images"}, "has no drives"),
    "a path without quotes": one(
        "train.images_dir", "../data/train/images", {"data.train_images": "../data/train/images"}, "quotes are missing"
    ),
    "spaces and umlauts": one(
        "infer.images_dir", '"./Prüf Bilder/images"', {"data.predict_dir": "../project/Prüf Bilder/images"}
    ),
    "an empty path": one("infer.images_dir", '""', {"data.predict_dir": None}),
}
MALFORMED = {
    "an inline comment": one(
        "model.num_layers",
        "7 ; with the bridge",
        {"model.num_layers": 7},
        "[model] num_layers = 7 ; with the bridge|after a semicolon|took 6, its default|it is 7",
        model__num_layers=6,
    ),
    "an inline comment after quotes": one(
        "model.loss",
        '"categorical_focal_dice_loss" ; newer',
        {"model.loss": {"categorical_focal_dice": 1.0}},
        "[model] loss = |took 'categorical_crossentropy', its default",
        model__loss={"cross_entropy": 1.0},
    ),
    "a hash as inline comment, which Python knows": one("model.num_layers", "7 # all", {"model.num_layers": 7}),
    "a key twice": edited(
        "num_layers = 8",
        "num_layers = 8\nnum_layers = 7",
        {"model.num_layers": 7},
        "[model] num_layers stands on line 12 too|gives up the whole file|the later one wins",
        model__num_layers=6,
        model__base_kernel=3,
        trainer__gradient_clip_val=0.2,
    ),
    "a section twice": edited(
        "[valid]",
        "[model]\nnum_layers = 5\n[valid]",
        {"model.num_layers": 5, "model.base_kernel": 9},
        "[model] stands twice|gives up the whole file|both parts are read",
        model__num_layers=6,
    ),
    "a stray %": edited(
        '"./eval/"',
        '"./eval 50% off/"',
        {"model.num_layers": 8},
        "[train] eval_dir: a stray %|gives up the whole file|a character like any other",
        model__num_layers=6,
    ),
    "a stray % that matters": one(
        "train.images_dir", '"../data/50%/images"', {"data.train_images": "../data/50%/images"}, "a stray %"
    ),
    "a misspelt key": Case(
        {"model.num_layers": None, "model.num_layer": "7"},
        {"model.num_layers": 7},
        ("[model] num_layer = 7|it was meant to be [model] num_layers",),
        {"model.num_layers": 6},
    ),
    "a misspelt section": edited(
        "[model]", "[modle]", {"model.num_layers": 8}, "[modle]|knows no [modle]|it is [model]"
    ),
    "an unknown key": one("train.warmup_epochs", "5", {}, "[train] warmup_epochs = 5|knows no such key|it is left out"),
    "an unknown section": one("export.format", '"onnx"', {}, '[export] format = "onnx"|it is left out'),
    "a map with the wrong bracket": one(
        "mask.rgb_map",
        "{(0,0,0):0, (0,0,255):1, (255,0,0):2]",
        {"data.palette": BLACK_BLUE_RED},
        "a bracket is missing or the wrong one|took the colours black, green, red, blue",
        data__palette={key: DEFAULT_PALETTE[key] for key in ("background", "class_1", "class_2")},
    ),
    "a map without its last bracket": one(
        "mask.rgb_map", "{(0,0,0):0, (0,0,255):1, (255,0,0):2", {"data.palette": BLACK_BLUE_RED}, "a bracket is missing"
    ),
    "a map at the left margin": edited(
        "{(0,0,0):0, (0,0,255):1, (255,0,0):2}",
        "{(0,0,0):0,\n(0,0,255):1,\n(255,0,0):2}",
        {"data.palette": BLACK_BLUE_RED},
        "(0,0,255):1,|this goes on with [mask] rgb_map",
    ),
    "a map with backslashes": edited(
        "{(0,0,0):0, (0,0,255):1, (255,0,0):2}",
        "{(0,0,0):0, \\\n (0,0,255):1, \\\n (255,0,0):2}",
        {"data.palette": BLACK_BLUE_RED},
    ),
    "words without quotes": one(
        "model.optimizer", "AdamW", {"model.optimizer": "adamw"}, "quotes are missing", model__optimizer="adam"
    ),
    "true as other languages write it": one(
        "model.normalization",
        "true",
        {"model.normalization": True},
        "[model] normalization = true",
        model__normalization=False,
    ),
    "a number in quotes": one("model.num_layers", '"7"', {"model.num_layers": 7}, "it is no whole number"),
    "code": one(
        "model.learning_rate", "__import__('os').getpid()", {"model.learning_rate": 1e-4}, "nothing here is executed"
    ),
    "an empty value": one("model.num_layers", "", {"model.num_layers": 6}, "[model] num_layers"),
    "a colon for an equals sign": edited("num_layers = 8", "num_layers: 7", {"model.num_layers": 7}),
    "keys in capitals": edited("num_layers = 8", "NUM_LAYERS = 7", {"model.num_layers": 7}),
    "an indented key": edited(
        "num_layers = 8", "   num_layers = 7", {"model.num_layers": 7}, "num_layers = 7|for more of|it stands by itself"
    ),
    "Windows line ends": Case({}, {"model.num_layers": 8}, (), {}, config_text().replace("\n", "\r\n")),
    "a byte order mark": Case({}, {"model.num_layers": 8}, (), {"model.num_layers": 6}, "\ufeff" + config_text()),
    "tabs": Case({}, {"model.num_layers": 8}, (), {}, config_text().replace(" = ", "\t=\t")),
    "comments of both kinds": edited(
        "num_layers = 8", "; num_layers = 3\n# num_layers = 4\nnum_layers = 8", {"model.num_layers": 8}
    ),
    "sides that cannot be halved": Case(
        {"model.image_width": "500", "model.image_height": "512"},
        {"data.image_size": 512},
        ("[model] image_width = 500|no multiple of 128|it is 512",),
    ),
    "hardly anything": Case(
        {},
        {"model.base_filters": 16, "data.image_size": 512, "data.channels": 3, "data.palette": DEFAULT_PALETTE},
        ("[model] image_width is not given|stops without it", "[model] base_filters is not given|it is 16"),
        {},
        "[model]\nnum_layers = 6\n",
    ),
}
CASES = PROJECTS | KEY_CASES | CLASS_CASES | PATH_CASES | MALFORMED


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder for a config, beside the folders of its data."""
    for split in ("train", "valid", "test"):
        for kind in ("images", "masks"):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


class KeepingCLI(TrainerCLI):
    """TrainerCLI up to where it would read the images; all share one parser, which takes longest to build."""

    kept: ClassVar[dict[str, Any]] = {}

    def setup_parser(self, *arguments: Any) -> None:
        if not self.kept:
            before = set(vars(self))
            super().setup_parser(*arguments)
            self.kept.update({key: value for key, value in vars(self).items() if key not in before})
        vars(self).update(self.kept)

    def _run_subcommand(self, _: str) -> None:
        pass


def parsed(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> TrainerCLI:
    """Build model and DataModule from a YAML as `fit` does."""
    monkeypatch.setattr(SegmentationDataModule, "prepare", lambda *_: None)
    with torch.device("meta"), ExitStack() as resources:
        return KeepingCLI(["fit", "--config", str(path), "--run_dir", str(folder)], resources)


def migrated(project: Path, case: Case, *options: str) -> Path:
    (project / "train_eval_infer.config").write_bytes(case.content.encode())
    out = project.parent / "out"
    assert main(["migrate", *options, str(project / "train_eval_infer.config"), str(out)]) == 0
    assert [path.name for path in out.iterdir()] == ["train_eval_infer.yaml"]
    return out / "train_eval_infer.yaml"


def assert_reported(report: str, finding: str) -> None:
    """Assert that one entry of the report has all parts of ``finding``, which | separates."""
    entries = report.replace("\n  the original", " the original").replace("\n  here", " here").splitlines()
    parts = finding.split("|")
    assert any(all(part in entry for part in parts) for entry in entries), f"{finding}\nis not in\n{report}"


@pytest.mark.parametrize("name", CASES)
def test_a_config_becomes_a_yaml_that_builds_model_and_data(
    project: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    path = migrated(project, case)
    report = capsys.readouterr().out
    for key, value in case.expected.items():
        assert value_in(path, key) == value, key
    for finding in case.findings:
        assert_reported(report, finding)
    cli = parsed(path, project / "run", monkeypatch)
    assert isinstance(cli.model, SegmentationTask)
    assert list(cli.model.palette.names) == list(value_in(path, "data.palette"))
    if case.as_run:
        path = migrated(project, case, "--as-run")
        for key, value in case.as_run.items():
            assert value_in(path, key) == value, f"{key} under --as-run"
        parsed(path, project / "run", monkeypatch)


def test_the_table_is_large_and_covers_every_key() -> None:
    assert len(CASES) >= 60
    written = {name for case in CASES.values() for name, value in case.changes.items() if value is not None}
    never_set = KEYS.keys() - PLAIN.keys() - written
    assert never_set == set()
    means_something = {name for name, key in KEYS.items() if key.kind}
    assert TARGETS.keys() <= means_something
    rest = {name.partition(".")[0] for name in means_something - TARGETS.keys()}
    assert rest == {*AUGMENT_SECTIONS, *LENSES} - {"generator"}, "what else becomes data.augment"


def test_findings_bear_the_number_of_their_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = one("model.num_layers", "7 ; all", {})
    migrated(project, case)
    assert f"line {line_of(case.content, 'num_layers')}: [model] num_layers = 7 ; all" in capsys.readouterr().out


def test_no_key_is_passed_over_in_silence(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = Case({**AUGMENTING, "export.format": '"onnx"', "model.bottleneck": "3"})
    path = migrated(project, case)
    report = capsys.readouterr().out
    for name in {**PLAIN, **case.changes}:
        section, _, key = name.partition(".")
        assert f"[{section}] {key}" in report
    assert "# line" in path.read_text(), "the findings stand in the YAML too"


JUNK = [
    *"[](){};#%=:\"'\\\n\t\ufeffé",
    "\n[model]\n",
    "1e999",
    "None",
    "9" * 400,
    "-1",
    "%(x)s",
    "x" * 300,
    "(" * 200,
    "1j",
]


def mutated(text: str, rng: random.Random) -> str:
    """Return ``text`` with a few characters, values or lines lost, doubled or replaced by junk."""
    for _ in range(rng.randint(1, 6)):
        lines = text.split("\n")
        place, row = rng.randint(0, len(text)), rng.randrange(len(lines))
        match rng.randint(0, 3):
            case 0:
                text = text[:place] + rng.choice(JUNK) + text[place:]
            case 1:
                text = text[:place] + text[place + rng.randint(1, 20) :]
            case 2:
                text = "\n".join(
                    [*lines[:row], f"{lines[row].partition('=')[0]}= {rng.choice(JUNK)}", *lines[row + 1 :]]
                )
            case _:
                text = "\n".join([*lines[:row], rng.choice(lines), *lines[row:]])
    return text


@pytest.mark.parametrize("seed", range(4))
def test_a_mutilated_config_is_a_clear_error_or_a_yaml_that_builds(
    project: Path, seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(seed)
    contents = [case.content for case in CASES.values()]
    for turn in range(10):
        (project / "c.config").write_bytes(mutated(rng.choice(contents), rng).encode())
        out = project / f"out-{turn}"
        code = main(["migrate", str(project / "c.config"), str(out), *(["--as-run"] if turn % 3 == 0 else [])])
        errors = capsys.readouterr().err
        assert code in (0, 2), errors
        assert out.exists() == (code == 0)
        if code == 0:
            parsed(out / "c.yaml", project / "run", monkeypatch)
        else:
            assert errors.startswith("error: ")
