"""fit, validate, test, predict and tune: LightningCLI with flat keys, run folders and clear errors."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import lightning
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from flexunet_pl.core.arguments import PROGRAM
from flexunet_pl.core.console import count_python_warnings, flush_warnings, is_first_process, say
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import scratch_folder, write_text
from flexunet_pl.core.memory import keep_freed_memory
from flexunet_pl.core.plugins import load_plugins
from flexunet_pl.core.ranges import check_numbers
from flexunet_pl.data.balance import class_weights
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.inference.onnx_infer import DEFAULT_OVERLAP
from flexunet_pl.nn.networks import flat_settings, is_ensemble, nested_settings
from flexunet_pl.training import callbacks, runs
from flexunet_pl.training.checkpoint import read_checkpoint
from flexunet_pl.training.config_files import given_keys, portable, with_saved_config
from flexunet_pl.training.data_paths import check_palette_of_root, configs_first, resolve_data
from flexunet_pl.training.defaults import MONITOR_HELP, PATIENCE_HELP, TRAINER_HELP, DefaultsParser, fill_defaults
from flexunet_pl.training.guard import Guard
from flexunet_pl.training.live import live_callbacks
from flexunet_pl.training.log_filter import quieten_lightning
from flexunet_pl.training.loggers import check_packages
from flexunet_pl.training.parser import MODE, Parser
from flexunet_pl.training.precision import Trainer
from flexunet_pl.training.prediction_writer import OVERLAYS_HELP, PredictionWriter
from flexunet_pl.training.processes import end_with_parent, explain_lost_process, let_the_first_process_report
from flexunet_pl.training.progress import displays
from flexunet_pl.training.step_timer import StepTimer
from flexunet_pl.training.task import SegmentationTask
from flexunet_pl.training.tiled_prediction import task_for
from flexunet_pl.training.trainer_errors import ERRORS, explained, root_of
from flexunet_pl.training.training_size import check_training_size

# What the task needs to know about the data: task parameter -> its key under "data".
SHARED = {key: key for key in ("palette", "image_size", "resize", "sixteen_bit")} | {"in_channels": "channels"}


def run(arguments: list[str], cli: type["TrainerCLI"] | None = None) -> "TrainerCLI":
    """Run one of the five commands, with whose name ``arguments`` begin, and return what ran it.

    Raises:
        UserError: For a mistake that the user can fix.
    """
    quieten_lightning()
    keep_freed_memory()
    if is_first_process():
        let_the_first_process_report()
    else:
        end_with_parent()
    try:
        with ExitStack() as resources, count_python_warnings():
            return (cli or TrainerCLI)(arguments, resources)
    except ERRORS as error:
        if (reason := explain_lost_process(error) or explained(error)) is None:
            raise
        raise reason from error
    finally:
        flush_warnings()


class RunConfig(SaveConfigCallback):
    """Save the whole config in the run folder, once the data are checked."""

    def save_config(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Write ``config.yaml``; Lightning calls this in the first process."""
        if stage == "fit":
            run_dir = Path(trainer.default_root_dir)
            write_text(run_dir / runs.CONFIG, self.parser.dump(portable(self.config, run_dir)))


class TrainerCLI(LightningCLI):
    """LightningCLI for one task and one DataModule."""

    def __init__(self, arguments: list[str], resources: ExitStack) -> None:
        """Parse ``arguments``, beginning with the command, and run it; ``resources`` are given back after it."""
        self.resources = resources
        self.given = given_keys(arguments)
        words, self.plugins = load_plugins(with_saved_config(arguments, self.given))
        self.arguments = configs_first(words)
        options = {"allow_abbrev": False, "parser_mode": MODE, "prog": PROGRAM}
        super().__init__(
            SegmentationTask,
            SegmentationDataModule,
            save_config_callback=RunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_class=Trainer,
            seed_everything_default=0,
            trainer_defaults={"use_distributed_sampler": False, "devices": None},  # fill_defaults chooses devices
            parser_class=DefaultsParser,
            parser_kwargs=options | dict.fromkeys(self.subcommands(), options),
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the commands, which are methods of the Trainer, and those of their parameters that are not options."""
        return LightningCLI.subcommands() | {"tune": {"model", "datamodule"}}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:  # noqa: ARG002  Lightning's signature
        """Parse this object's arguments, not those of the process."""
        self.config = parser.parse_args(self.arguments)
        self.config[self.config.subcommand].plugins = self.plugins

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add trainer, model and data; what the model needs to know about the data is no option of the model."""
        parser.add_lightning_class_args(Trainer, "trainer")
        cast(dict[str, Any], parser.groups)["trainer"].description = TRAINER_HELP
        parser.set_defaults({f"trainer.{key}": value for key, value in self.trainer_defaults.items()})
        cast(Parser, parser).add_task_arguments(skip=set(SHARED))
        parser.add_class_arguments(SegmentationDataModule, "data", instantiate=False)
        plugins = "Your own Python files or modules, which register losses or metrics. Same as --plugin, repeatable."
        parser.add_argument("--plugins", type=list[str], default=[], help=plugins)
        folder = "Folder this run writes to; by default the next free runs/NAME-N, NAME being the config's."
        parser.add_argument("--run_dir", type=str | None, default=None, help=folder)
        parser.add_argument("--monitor", type=str | None, default=None, help=MONITOR_HELP)
        parser.add_argument("--patience", type=int | None, default=None, help=PATIENCE_HELP)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand != "tune":
            # Checkpoints may come from anywhere: never unpickle what is not plain data.
            parser.set_defaults({"weights_only": True})
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})
        if subcommand == "predict":
            parser.set_defaults({"return_predictions": False})
            tile = "Predict at native size in tiles of this side, such as 512."
            overlap = f"How far tiles overlap (default: {DEFAULT_OVERLAP})."
            parser.add_argument("--out", type=str | None, default=None, help="Folder for the predicted masks.")
            parser.add_argument("--tile", type=int | None, default=None, help=tile)
            parser.add_argument("--overlap", type=int | None, default=None, help=overlap)
            parser.add_argument("--overlays", type=str, default="filled", help=OVERLAYS_HELP)
        return parser

    def _parse_ckpt_path(self) -> None:
        """Choose run folder and checkpoint; the checkpoint wins over the config files, the command line over both."""
        command = self.config.subcommand
        config = self.config[command]
        _check_sections(config)
        self.config_files = [Path(str(path)) for path in config.get("config") or []]
        name = runs.run_name(self.config_files[0]) if self.config_files else None
        if command == "tune":
            self.run_dir = self.resources.enter_context(scratch_folder())
            self._resolve_data(config)
            return
        if name is None and command == "fit" and isinstance(config.data, Namespace) and config.data.root:
            name = Path(config.data.root).resolve().name
        choose = runs.run_for_training if command == "fit" else runs.run_for_evaluation
        self.run_dir, checkpoint = choose(config.run_dir, name, config.ckpt_path)
        runs.announce(self.run_dir)
        if command == "fit":
            self.resources.enter_context(runs.reserved(self.run_dir))
        self._resolve_data(config)
        if checkpoint is not None:
            config.ckpt_path = str(checkpoint)
            settings = flat_settings(read_checkpoint(checkpoint)["hyper_parameters"])
            self._take_settings(config, settings)
            if command != "predict":
                for line in check_palette_of_root(config.data, settings["palette"], self.given):
                    _say(line)
        config.run_dir = str(self.run_dir)

    def _resolve_data(self, config: Namespace) -> None:
        if isinstance(config.data, Namespace):
            for line in resolve_data(config.data, self.config_files, self.given):
                _say(line)

    def _take_settings(self, config: Namespace, hyper_parameters: dict[str, Any]) -> None:
        """Overwrite settings of the config files with those of the checkpoint, and print the differences once."""
        defaults = self._parser(self.config.subcommand).get_defaults()
        differences = []
        for key, value in hyper_parameters.items():
            group, name = ("data", SHARED[key]) if key in SHARED else ("model", key)
            place = f"{group}.{name}"
            if name not in config[group]:
                continue
            before = config[group][name]
            if any(given == place or given.startswith(place + ".") for given in self.given):
                if place == "model.optimizer" and before != value and self.config.subcommand == "fit":
                    raise UserError(
                        f"model.optimizer={before!r}, but the checkpoint holds the state of {value!r}, with which a "
                        "run goes on; leave --model.optimizer out, or start a new run"
                    )
                continue
            # Keys of other networks do not matter; a checkpoint has the weights of its encoder and names no file.
            is_choice = value is not None and name != "encoder_weights" and before != defaults[group][name]
            if is_choice and before != value and not _same(before, value) and not is_ensemble(value):
                differences.append(f"  {place}: {before} in the config, {value} in the checkpoint")
            config[group][name] = value
        if differences:
            _say("The checkpoint differs from the config, and wins:", *differences)

    def before_instantiate_classes(self) -> None:
        """Fill in the defaults, and make everything write to the run folder."""
        config = self.config[self.subcommand]
        fill_defaults(config)
        trainer = config.trainer
        earlier, trainer.default_root_dir = trainer.default_root_dir, str(self.run_dir.resolve())
        trainer.use_distributed_sampler = False
        if self.subcommand == "tune":
            # The search ends the training, and does not look at validation images.
            trainer.max_time, trainer.max_epochs, trainer.limit_val_batches = None, 1_000_000, 0
        if self.subcommand != "fit":
            trainer.logger = False
            trainer.enable_checkpointing = False
            trainer.callbacks = [callback for callback in trainer.callbacks if _is_progress_bar(callback)]
            if trainer.precision == "auto" and self.subcommand != "tune":
                trainer.precision = "32-true"  # the scores of exported models
        if trainer.enable_progress_bar is False:  # Lightning would refuse the two together
            trainer.callbacks = [callback for callback in trainer.callbacks if not _is_progress_bar(callback)]
        loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
        check_packages(loggers)
        runs.move_folders([*loggers, *trainer.callbacks], self.run_dir, earlier)

    def instantiate_classes(self) -> None:
        """Build the DataModule, the task that fits its data, and the Trainer."""
        config = self.config[self.subcommand]
        tile, overlap = config.get("tile"), config.get("overlap")
        if tile is not None:
            config.data.resize = "none"
        self.datamodule = SegmentationDataModule(**config.data)
        shared = {parameter: config.data[key] for parameter, key in SHARED.items()}
        shared["palette"] = self.datamodule.palette.to_mapping()
        if isinstance(config.model.class_weights, str):
            counts = self.datamodule.count_training_pixels()
            config.model.class_weights = class_weights(config.model.class_weights, counts)
        self.model = task_for(tile, overlap, shared | nested_settings(config.model.as_dict()))
        if self.subcommand in ("fit", "tune"):
            check_training_size(self.model.size_multiple, self.model.hparams["network"], self.datamodule)
        writers = displays(config.trainer)
        if self.subcommand != "tune":
            writers += [callbacks.ScoreWriter(), StepTimer(), Guard()]
        if self.subcommand == "fit":
            writers += live_callbacks(config.trainer)
        if self.subcommand == "predict":
            if config.out is None:
                raise UserError("--out is not given; name the folder for the predicted masks")
            writers.append(PredictionWriter(Path(config.out), config.overlays))
        self.trainer_defaults["callbacks"] = writers
        self._make_trainer()
        if is_first_process():
            # Before other processes start, so that a faulty data set gives one report and not one per process.
            self.datamodule.prepare(str(self.subcommand))

    def _make_trainer(self) -> None:
        """Instantiate loggers, callbacks and the Trainer; a value that one of them refuses is a UserError."""
        try:
            self.config_init = self.parser.instantiate(self.config)
        except ValueError as error:
            raise UserError(f"a logger or callback of the config cannot be created: {root_of(error)}") from error
        try:
            self.trainer = self.instantiate_trainer()
        except UserError:
            raise
        except (MisconfigurationException, ValueError, TypeError, OverflowError, ImportError) as error:
            raise UserError(f"trainer: {root_of(error)}; all options: {PROGRAM} fit --help-all") from error

    def before_fit(self) -> None:
        """Print the run folder."""
        _say(f"Run folder: {self.run_dir}")

    def after_fit(self) -> None:
        """Print the checkpoint to use."""
        best, last = (runs.checkpoint_file(self.run_dir, which) for which in runs.NAMED_CHECKPOINTS)
        if best.is_file():
            found = f"Best checkpoint: {best}"
        elif last.is_file():
            found = f"Last checkpoint: {last} (no validation took place, so there is no best one)"
        else:
            found = "No checkpoint: the callbacks of this run save none."
        _say(found)

    def after_test(self) -> None:
        """Print the path of the scores, last."""
        _say(str(self.run_dir / "test_scores.json"))

    def tune(self, **options: Any) -> None:
        """Search, and print the result."""
        _say(cast(Trainer, self.trainer).tune(**options))

    def after_predict(self) -> None:
        """Print the folder of the masks."""
        _say(f"Masks: {self.config.predict.out}")


_say = rank_zero_only(say)


def _check_sections(config: Namespace) -> None:
    for section in ("model", "data", "trainer"):
        if not isinstance(config[section], Namespace):
            raise UserError(f"{section}={config[section]!r} must be a map of settings, such as {{key: value}}")
    check_numbers(config.trainer.as_dict(), "trainer")  # the types are Lightning's


def _is_progress_bar(callback: Namespace) -> bool:
    return str(callback.class_path).endswith("ProgressBar")


def _same(one: Any, other: Any) -> bool:
    """Return whether two settings are equal, where 512 is [512, 512], a tuple a list, and a Namespace a dict."""
    plain = [value.as_dict() if isinstance(value, Namespace) else value for value in (one, other)]
    sides = [
        [value, value] if isinstance(value, int) else list(value) if isinstance(value, tuple) else value
        for value in plain
    ]
    return bool(plain[0] == plain[1] or sides[0] == sides[1])
