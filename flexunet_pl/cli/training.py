"""fit, tune, validate, test and predict; a short help that needs no torch."""

from collections.abc import Sequence

from flexunet_pl.cli.main import COMMANDS
from flexunet_pl.core.arguments import PROGRAM, with_underscores
from flexunet_pl.core.console import say

CONFIG = {
    "--config": "YAML file of choices; may be given several times, later ones win",
    "--run_dir": "folder of the run (default: the next free runs/NAME-N, NAME being the config's)",
    "--ckpt_path": "checkpoint: a file, best or last",
    "--data.root": "data set: a folder with train, valid and test, each with images and masks",
    "--trainer.accelerator": "cpu, gpu or auto",
    "--trainer.devices": "number of devices; with several, add --trainer.strategy ddp",
}
NETWORK = {
    "--model.network": "flexunet (default), unet, deeplabv3plus, segformer, ...",
    "--model.base_filters": "filters of FlexUNet's top level; they double from level to level",
    "--model.num_layers": "levels of FlexUNet, the bridge included",
    "--model.encoder": "encoder of the other networks, such as resnet34",
}
LENGTH = {"--time": "how long to train: 90s, 12m, 1.5h", "--epochs": "epochs to train"}
FIT = {
    **NETWORK,
    "--model.loss": "weight of each loss: '{cross_entropy: 1.0, dice: 1.0}'",
    "--model.learning_rate": "the rate, or its peak",
    "--model.schedule": "constant, plateau, cosine or one_cycle",
    "--data.image_size": "working size: one side, or [height, width]",
    "--data.resize": "stretch, letterbox or none",
    "--data.crop_size": "side of random training crops",
    "--data.batch_size": "images in a step",
    "--data.augment": "probability or settings of each transform: '{hflip: 0.5}'",
    "--seed_everything": "seed",
}
FOLDS = {"--folds": "train a network for each fold of a data set with folds, and an ensemble of all: --folds 5"}
PREDICT = {
    "--data.predict_dir": "folder of images",
    "--out": "folder for the masks (default with RUN: RUN/predictions)",
    "--format": "also write annotations: coco, labelme, cvat, labelstudio, yolo or voc",
    "--tile": "predict at native size in tiles of this side, such as 512",
    "--model.min_region_area": "pixels; smaller regions become background",
}
TTA = {"--model.tta": "average the predictions of an image and its mirror image: true or false"}
FIND = {"--find": "learning_rate or batch_size"}
# For each command what may stand before its options, an example, and its options besides those of CONFIG.
OPTIONS = {
    "fit": ("[DATA]", "dataset/tile --time 12m", LENGTH | FIT | FOLDS),
    "tune": ("[DATA]", "--config configs/tile.yaml --find learning_rate", FIND | FIT),
    "validate": ("[RUN]", "runs/tile-1", {}),
    "test": ("[RUN]", "latest", TTA),
    "predict": ("[RUN IMAGES]", "runs/tile-1 photos --out masks", PREDICT),
}


def run(words: Sequence[str]) -> int:
    """Run the command ``words[0]``."""
    name, *options = words
    if not {"-h", "--help"}.isdisjoint(options):
        say(*short_help(name))
        return 0
    from flexunet_pl.training import lightning_cli
    from flexunet_pl.training.places import as_options

    everything = ["--help" if word in ("--help-all", "--help=all") else word for word in options]
    spelled = list(with_underscores(everything))
    if name == "fit" and "--help" not in spelled:
        _fit(spelled)
    else:
        lightning_cli.run([name, *as_options(name, spelled)])
    return 0


def _fit(words: Sequence[str]) -> None:
    """Train by a config, or by a plan for a folder; for one split or for each fold."""
    from flexunet_pl.planning.fit import fit_planned, fit_planned_folds
    from flexunet_pl.planning.request import read_request, without_length
    from flexunet_pl.training import lightning_cli
    from flexunet_pl.training.folds import fit_folds
    from flexunet_pl.training.places import as_options

    if (request := read_request(words)) is not None:
        from flexunet_pl.migrate.data_folder import project_data

        train = fit_planned_folds if "folds" in request.others else fit_planned
        train(request, project_data(request.data))
        return
    options = as_options("fit", without_length(words))
    if any(word.partition("=")[0] == "--folds" for word in options):
        fit_folds(options)
    else:
        lightning_cli.run(["fit", *options])


def short_help(name: str) -> list[str]:
    """Return lines with the everyday options of a command."""
    places, example, own = OPTIONS[name]
    summary = COMMANDS[name].partition(":")[0]
    options = CONFIG | own
    width = max(map(len, options))
    lines = [f"usage: {PROGRAM} {name} {places} [options]", "", f"{summary[0].upper()}{summary[1:]}.", ""]
    lines += [f"  {option:<{width}}  {about}" for option, about in options.items()]
    return [*lines, "", f"example: {PROGRAM} {name} {example}", f"All options: {PROGRAM} {name} --help-all"]
