"""What a run has unless its config says otherwise: Trainer values, loggers, checkpoints, curves, pictures."""

from typing import Any, cast

from jsonargparse import Namespace

from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.nn.metric_registry import metrics_of
from flexunet_pl.nn.networks import DEFAULT_NETWORK, chosen_network
from flexunet_pl.training.parser import Parser
from flexunet_pl.training.recipes import FLEXUNET, PRETRAINED, Recipe, fill_data, fill_model, recipe_of

# Used where a config leaves the key out or sets it to null.
TRAINER_VALUES: dict[str, Any] = {"devices": 1, "precision": "auto", "num_sanity_val_steps": 0, "log_every_n_steps": 10}
MAX_EPOCHS = 100  # where neither max_steps nor max_time ends the run
LOGGERS = {
    "lightning.pytorch.loggers.TensorBoardLogger": {"save_dir": ".", "name": "tensorboard", "version": ""},
    "lightning.pytorch.loggers.CSVLogger": {"save_dir": ".", "name": "csv"},
}
CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"
EARLY_STOPPING = "lightning.pytorch.callbacks.EarlyStopping"
CURVES = "flexunet_pl.training.callbacks.Curves"
EPOCH_PICTURES = "flexunet_pl.training.callbacks.EpochPictures"
MONITOR_HELP = (
    f"Score that chooses best.ckpt and stops early (default: {PRETRAINED.monitor}, {FLEXUNET.monitor} for flexunet); "
    "wins over trainer.callbacks."
)
PATIENCE_HELP = (
    f"Epochs without a better score until training stops (default: {PRETRAINED.patience}, {FLEXUNET.patience} for "
    "flexunet); 0 never stops early."
)
VALUES_HELP = ", ".join(f"{key} {value}" for key, value in TRAINER_VALUES.items())
TRAINER_HELP = f"""Defaults: {VALUES_HELP}, max_epochs {MAX_EPOCHS} (without max_steps and max_time); TensorBoard and
CSV loggers; the callbacks ModelCheckpoint (best and last), Curves, EpochPictures, with flexunet EarlyStopping, with
other networks EMAWeightAveraging. An entry of
trainer.callbacks replaces the default of its class (ModelCheckpoint: of its filename), or is added; [] is none.
trainer.logger replaces both loggers; false switches them off. A list with checkpoints named best and last, as in the
config.yaml of a run, is complete: nothing is added."""


class DefaultsParser(Parser):
    """A parser that prints and saves a config with the defaults filled in."""

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Return the config as text, as it would run."""
        config = namespace.clone()
        if "trainer" in config:
            fill_defaults(config)
        return str(super().dump(config, *args, **kwargs))


def fill_defaults(config: Namespace) -> None:
    """Fill in, in place, what ``config`` (the keys of a command) leaves open; a second call changes nothing.

    Raises:
        UserError: If ``monitor`` or ``patience`` is no valid value.
    """
    trainer = config.trainer
    recipe = recipe_of(DEFAULT_NETWORK)
    if isinstance(config.get("model"), Namespace) and isinstance(config.get("data"), Namespace):
        recipe = _fill_recipe(config)
    given = trainer.callbacks
    callbacks = list(given) if isinstance(given, list) else [] if given is None else [given]
    if trainer.barebones or {"best", "last"} <= {_checkpoint_name(callback) for callback in callbacks}:
        if trainer.devices is None:
            trainer.devices = "auto"  # Lightning's own
    else:
        _fill_trainer(trainer)
        if given != []:
            names = {_identity(callback) for callback in callbacks}
            callbacks += [one for one in _default_callbacks(trainer, recipe) if _identity(one) not in names]
    trainer.callbacks = _monitored(callbacks, config.get("monitor"), config.get("patience"), recipe)


def _fill_recipe(config: Namespace) -> Recipe:
    """Fill in, in place, the network and what its recipe says about model and data; return the recipe."""
    model, data = config.model, config.data
    model.network = chosen_network(model.as_dict())
    name = model.network if isinstance(model.network, str) else str(model.network.get("name"))
    fill_model(model, name, 1 if model.get("num_classes") == 1 else 2)
    fill_data(data, name)
    return recipe_of(name)


def _fill_trainer(trainer: Namespace) -> None:
    for key, value in TRAINER_VALUES.items():
        if trainer[key] is None:
            trainer[key] = value
    if trainer.max_epochs is None and trainer.max_steps == -1 and trainer.max_time is None:
        trainer.max_epochs = MAX_EPOCHS
    if trainer.logger is None:
        trainer.logger = [_part(path, **options) for path, options in LOGGERS.items()]


def _default_callbacks(trainer: Namespace, recipe: Recipe) -> list[Namespace]:
    monitor = recipe.monitor
    others = [_part(path, **options) for path, options in recipe.callbacks.items()]
    if recipe.patience:
        others.append(_part(EARLY_STOPPING, monitor=monitor, mode=_mode(monitor), patience=recipe.patience))
    pictures = _part(EPOCH_PICTURES)
    if trainer.enable_checkpointing is False:  # Lightning refuses checkpoint callbacks then, and Curves is one
        return [*others, pictures]
    common = {"dirpath": "checkpoints", "enable_version_counter": False}
    return [
        *others,
        _part(CHECKPOINT, filename="best", monitor=monitor, mode=_mode(monitor), **common),
        _part(CHECKPOINT, filename="last", every_n_epochs=1, save_on_train_epoch_end=True, **common),
        _part(CURVES),
        pictures,
    ]


def _monitored(
    callbacks: list[Namespace], monitor: str | None, patience: int | None, recipe: Recipe
) -> list[Namespace]:
    """Return the callbacks with another score to monitor and another patience, where these are given."""
    if patience is not None and patience < 0:
        raise UserError(f"patience={patience} must be a number of epochs, or 0 to never stop early")
    best = [callback for callback in callbacks if _checkpoint_name(callback) == "best"]
    stopping = [callback for callback in callbacks if _is(callback, EARLY_STOPPING)]
    if patience == 0:
        return _monitored([callback for callback in callbacks if callback not in stopping], monitor, None, recipe)
    if patience is not None and not stopping:
        rules = [(one.init_args.get("monitor"), one.init_args.get("mode")) for one in best]
        score, mode = next((rule for rule in rules if rule[0] is not None), (recipe.monitor, _mode(recipe.monitor)))
        stopping = [_part(EARLY_STOPPING, monitor=score, mode=mode)]
        callbacks = [*callbacks, *stopping]
    for callback in stopping if patience is not None else []:
        callback.init_args.patience = patience
    for callback in [*best, *stopping] if monitor is not None else []:
        callback.init_args.monitor, callback.init_args.mode = monitor, _mode(str(monitor))
    return callbacks


def _mode(monitor: str) -> str:
    """Return "min" or "max", whichever is better for a score that validation logs: val/KEY, or val/KEY/CLASS."""
    scores = {f"val/{metric.key}": metric for metric in metrics_of(per_class=False)}
    of_class = {f"val/{metric.key}": metric for metric in metrics_of(per_class=True) if metric.main}
    metric = scores.get(monitor) or of_class.get("/".join(monitor.split("/")[:2]) if monitor.count("/") > 1 else "")
    if metric is None:
        known = [*scores, *(f"{key}/CLASS" for key in of_class)]
        raise UserError(f"monitor={monitor!r}; choose from {', '.join(known)}{suggestion(monitor, known)}")
    return "max" if metric.higher_is_better else "min"


def _part(class_path: str, **init_args: Any) -> Namespace:
    new: type[Any] = Namespace  # jsonargparse gives it no types
    return cast(Namespace, new(class_path=class_path, init_args=new(**init_args)))


def _identity(callback: Namespace) -> tuple[str, str | None]:
    return callback.class_path.rpartition(".")[2], _checkpoint_name(callback)


def _checkpoint_name(callback: Namespace) -> str | None:
    return cast(str | None, callback.get("init_args.filename")) if _is(callback, CHECKPOINT) else None


def _is(callback: Namespace, class_path: str) -> bool:
    return bool(callback.class_path.rpartition(".")[2] == class_path.rpartition(".")[2])
