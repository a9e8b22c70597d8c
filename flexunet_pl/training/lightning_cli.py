"""fit, validate, test, predict and tune: LightningCLI with flat keys, run folders, and errors that tell the repair."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import lightning
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_text
from flexunet_pl.data.balance import class_weights
from flexunet_pl.data.datamodule import SegmentationDataModule
from flexunet_pl.inference.onnx_infer import DEFAULT_OVERLAP
from flexunet_pl.training import callbacks, runs
from flexunet_pl.training.checkpoint import read_checkpoint
from flexunet_pl.training.data_wait import DataWait
from flexunet_pl.training.log_filter import quieten_lightning
from flexunet_pl.training.loggers import Speed, check_packages
from flexunet_pl.training.parser import Parser
from flexunet_pl.training.precision import Trainer
from flexunet_pl.training.task import SegmentationTask
from flexunet_pl.training.tiled_prediction import task_for
from flexunet_pl.training.training_size import check_training_size

# What the task has to know of the data: task parameter -> key under "data" that it comes from.
SHARED = {
    "palette": "palette",
    "in_channels": "channels",
    "image_size": "image_size",
    "resize": "resize",
    "sixteen_bit": "sixteen_bit",
}
PATH_KEYS = (
    "root",
    "predict_dir",
    *(f"{split}_{kind}" for split in ("train", "valid", "test") for kind in ("images", "masks")),
)


def run(arguments: list[str]) -> int:
    """Run one of the five commands; ``arguments`` begin with its name.

    Returns:
        The exit code 0.

    Raises:
        UserError: For a mistake the user can mend.
    """
    quieten_lightning()
    try:
        with TemporaryDirectory(prefix="flexunet_pl-") as scratch:
            TrainerCLI(arguments, Path(scratch))
    except RuntimeError as error:
        if "Error(s) in loading state_dict" not in str(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the checkpoint does not fit the network that the keys under model describe ({reason})"
        ) from error
    return 0


class RunConfig(SaveConfigCallback):
    """Keep the whole config in the run folder, once the data are known to be sound."""

    def save_config(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Write ``config.yaml``; Lightning calls this in the first process."""
        if stage == "fit":
            text = self.parser.dump(self.config)
            write_text(Path(trainer.default_root_dir) / "config.yaml", text)


class TrainerCLI(LightningCLI):
    """LightningCLI for one task and one DataModule."""

    def __init__(self, arguments: list[str], scratch: Path) -> None:
        """Parse ``arguments``, beginning with the command, and run it; ``scratch`` is for what shall not stay."""
        self.arguments, self.scratch = arguments, scratch
        self.given = {match[1] for word in arguments if (match := re.match(r"--([\w.]+)", word))}
        super().__init__(
            SegmentationTask,
            SegmentationDataModule,
            save_config_callback=RunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_class=Trainer,
            seed_everything_default=0,
            trainer_defaults={"use_distributed_sampler": False},
            parser_class=Parser,
            parser_kwargs={"allow_abbrev": False}
            | {command: {"allow_abbrev": False} for command in self.subcommands()},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the commands, which are methods of the Trainer, and their parameters that are no options."""
        return LightningCLI.subcommands() | {"tune": {"model", "datamodule"}}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:  # noqa: ARG002  Lightning's signature
        """Parse this object's arguments, not those of the process."""
        self.config = parser.parse_args(self.arguments)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add trainer, model and data; what the model has to know of the data is not asked for twice."""
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({f"trainer.{key}": value for key, value in self.trainer_defaults.items()})
        parser.add_class_arguments(SegmentationTask, "model", skip=set(SHARED), instantiate=False)
        parser.add_class_arguments(SegmentationDataModule, "data", instantiate=False)

        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder this run writes to; by default the next free runs/NAME-N, NAME being the config's.",
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand != "tune":
            # Checkpoints may come from anywhere: never unpickle what is not plain data.
            parser.set_defaults({"weights_only": True})
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})
        if subcommand == "predict":
            parser.set_defaults({"return_predictions": False})
            parser.add_argument("--out", type=str | None, default=None, help="Folder for the predicted masks.")
            parser.add_argument(
                "--tile",
                type=int | None,
                default=None,
                help="Predict at native size in tiles of this side, such as 512.",
            )
            parser.add_argument(
                "--overlap", type=int | None, default=None, help=f"How far tiles overlap (default: {DEFAULT_OVERLAP})."
            )
        return parser

    def _parse_ckpt_path(self) -> None:
        """Choose run folder and checkpoint; the checkpoint wins over the config files, the command line over both."""
        command = self.config.subcommand
        config = self.config[command]
        self.config_files = [Path(str(path)) for path in config.get("config") or []]
        name = self.config_files[0].stem if self.config_files else None
        if command == "tune":
            self.run_dir = self.scratch
            self._resolve_paths(config)
            return
        choose = runs.run_for_training if command == "fit" else runs.run_for_evaluation
        self.run_dir, checkpoint = choose(config.run_dir, name, config.ckpt_path)
        runs.announce(self.run_dir)
        self._resolve_paths(config)
        if checkpoint is not None:
            config.ckpt_path = str(checkpoint)
            self._take_settings(config, read_checkpoint(checkpoint)["hyper_parameters"])
        config.run_dir = str(self.run_dir)

    def _resolve_paths(self, config: Namespace) -> None:
        """Find relative data paths of a config file beside it, or else in the working directory."""
        for key in PATH_KEYS:
            path = config.data.get(key)
            if path is None or f"data.{key}" in self.given:
                continue
            beside = [file.parent / path for file in self.config_files if (file.parent / path).exists()]
            if beside:
                config.data[key] = str(beside[-1])

    def _take_settings(self, config: Namespace, hyper_parameters: dict[str, Any]) -> None:
        """Overwrite what the config files say by what the checkpoint says, and tell what differed, once."""
        defaults = self._parser(self.config.subcommand).get_defaults()
        differences = []
        for key, value in hyper_parameters.items():
            group, name = ("data", SHARED[key]) if key in SHARED else ("model", key)
            place = f"{group}.{name}"
            if name not in config[group] or any(
                given == place or given.startswith(place + ".") for given in self.given
            ):
                continue
            before = config[group][name]
            # A checkpoint has the weights of its encoder; no file of others is read, and none is named.
            if name != "encoder_weights" and before not in (value, defaults[group][name]) and not _same(before, value):
                differences.append(f"  {place}: {before} in the config, {value} in the checkpoint")
            config[group][name] = value
        if differences:
            self._tell("The checkpoint differs from the config, and wins:", *differences)

    def before_instantiate_classes(self) -> None:
        """Point everything that writes to the run folder."""
        config = self.config[self.subcommand]
        trainer = config.trainer
        trainer.default_root_dir = str(self.run_dir)
        trainer.use_distributed_sampler = False
        if self.subcommand == "tune":
            # The search ends the training, and does not look at validation images.
            trainer.max_time, trainer.max_epochs, trainer.limit_val_batches = None, 1_000_000, 0
        if self.subcommand != "fit":
            trainer.logger = False
            trainer.enable_checkpointing = False
            trainer.callbacks = [callback for callback in trainer.callbacks or [] if _is_progress_bar(callback)]
            if trainer.precision == "auto" and self.subcommand != "tune":
                trainer.precision = "32-true"  # the scores of exported models
        if trainer.enable_progress_bar is False:  # Lightning would refuse the two together
            trainer.callbacks = [callback for callback in trainer.callbacks or [] if not _is_progress_bar(callback)]
        loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
        check_packages(loggers)
        for part, key in [
            *((part, "save_dir") for part in loggers),
            *((part, "dirpath") for part in trainer.callbacks or []),
        ]:
            place = part.get("init_args", {}).get(key) if isinstance(part, Namespace) else None
            if place is not None:
                part.init_args[key] = str((self.run_dir / place).resolve())

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
        self.model = task_for(tile, overlap, shared | config.model.as_dict())
        if self.subcommand in ("fit", "tune"):
            check_training_size(self.datamodule, self.model.hparams, self.model.size_multiple)
        writers: list[lightning.Callback] = []
        if self.subcommand != "tune":
            writers += [callbacks.ScoreWriter(), DataWait(), Speed()]
        if self.subcommand == "predict":
            if config.out is None:
                raise UserError("--out is not given; name the folder for the predicted masks")
            writers.append(callbacks.PredictionWriter(Path(config.out)))
        self.trainer_defaults["callbacks"] = writers
        try:
            self.config_init = self.parser.instantiate(self.config)
        except ValueError as error:
            raise UserError(f"a logger or callback of the config cannot be made: {_root_of(error)}") from error
        self.trainer = self.instantiate_trainer()
        if not runs.is_started_by_lightning():
            # Before other processes are started: a faulty data set shall end them all with one report.
            self.datamodule.prepare(str(self.subcommand))

    def before_fit(self) -> None:
        """Say where the results will be."""
        self._tell(f"Run folder: {self.run_dir}")

    def after_fit(self) -> None:
        """Say where the results are."""
        self._tell(f"Run folder: {self.run_dir}", f"Best checkpoint: {runs.checkpoint_file(self.run_dir, 'best')}")

    def after_test(self) -> None:
        """Print the path of the scores, last."""
        self._tell(str(self.run_dir / "test_scores.json"))

    def tune(self, **options: Any) -> None:
        """Search, and say what was found."""
        self._tell(cast(Trainer, self.trainer).tune(**options))

    def after_predict(self) -> None:
        """Say where the masks are."""
        self._tell(f"Masks: {self.config.predict.out}")

    @staticmethod
    @rank_zero_only
    def _tell(*lines: str) -> None:
        print("\n".join(lines), flush=True)


def _root_of(error: BaseException) -> str:
    """Return in one line what an error comes from in the end, such as a package that is not installed."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return " ".join(str(error).split()) or type(error).__name__


def _is_progress_bar(callback: Namespace) -> bool:
    return str(callback.class_path).endswith("ProgressBar")


def _same(one: Any, other: Any) -> bool:
    """Return whether two settings mean the same: 512 is [512, 512], a tuple is a list, Namespaces are maps."""
    plain = [value.as_dict() if isinstance(value, Namespace) else value for value in (one, other)]
    sides = [
        [value, value] if isinstance(value, int) else list(value) if isinstance(value, tuple) else value
        for value in plain
    ]
    return bool(plain[0] == plain[1] or sides[0] == sides[1])
