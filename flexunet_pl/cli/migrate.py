"""migrate: a TensorFlowFlexUNet project as a config, a palette and a checkpoint."""

from pathlib import Path

from flexunet_pl.core.console import say


def migrate(
    config_file: str, out: str, weights: str | None = None, as_run: bool = False, names: str | None = None
) -> int:
    """Convert a train_eval_infer.config, and the weights that were trained with it.

    Writes OUT/NAME.yaml, which fit, test and predict read, and with weights OUT/NAME.ckpt; NAME is the config's. Prints
    where every key went, and what the original really did where the file is faulty.

    Args:
        config_file: The train_eval_infer.config; nothing in it is executed.
        out: Folder to write to; created if needed.
        weights: A Keras file: best_model.h5, or any other .h5, .weights.h5 or .keras.
        as_run: Keep what the original really worked with, such as defaults for unreadable values and a reducer patience
            of 10, instead of what was meant.
        names: Names of the classes, separated by commas, background first; by default background, class_1 ...

    Returns:
        The exit code 0, whatever was found in the file.
    """
    from flexunet_pl.migrate.writer import migrate_project

    weights_file = None if weights is None else Path(weights)
    say(*migrate_project(Path(config_file), Path(out), weights_file, as_run, names))
    return 0
