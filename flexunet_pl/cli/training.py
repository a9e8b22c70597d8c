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
    "--trainer.max_epochs": "epochs to train",
    "--trainer.max_time": "longest time to train: DD:HH:MM:SS",
    "--seed_everything": "seed",
}
FOLDS = {"--folds": "train a network for each fold of a data set with folds, and an ensemble of all: --folds 5"}
PREDICT = {
    "--data.predict_dir": "folder of images",
    "--out": "folder for the masks (default with RUN: RUN/predictions)",
    "--tile": "predict at native size in tiles of this side, such as 512",
    "--model.min_region_area": "pixels; smaller regions become background",
}
TTA = {"--model.tta": "average the predictions of an image and its mirror image: true or false"}
FIND = {"--find": "learning_rate or batch_size"}
# For each command what may stand before its options, an example, and its options besides those of CONFIG.
OPTIONS = {
    "fit": ("[DATA]", "dataset/tile --config configs/tile.yaml", FIT | FOLDS),
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
    words = as_options(name, list(with_underscores(everything)))
    if name == "fit" and any(word.partition("=")[0] == "--folds" for word in words):
        from flexunet_pl.training.folds import fit_folds

        fit_folds(words)
    else:
        lightning_cli.run([name, *words])
    return 0


def short_help(name: str) -> list[str]:
    """Return lines with the everyday options of a command."""
    places, example, own = OPTIONS[name]
    summary = COMMANDS[name].partition(":")[0]
    options = CONFIG | own
    width = max(map(len, options))
    lines = [f"usage: {PROGRAM} {name} {places} [options]", "", f"{summary[0].upper()}{summary[1:]}.", ""]
    lines += [f"  {option:<{width}}  {about}" for option, about in options.items()]
    return [*lines, "", f"example: {PROGRAM} {name} {example}", f"All options: {PROGRAM} {name} --help-all"]
