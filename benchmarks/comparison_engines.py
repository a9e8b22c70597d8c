"""The engines of compare.py: each trains on the training images of a job and predicts the held-out ones.

A run has a folder with ``training.json``, which tells whether it is finished, and ``masks``. A finished training is not
done again. An interrupted ``fit`` goes on after its last checkpoint; an interrupted competitor begins anew.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from one_source import pairs_of
from PIL import Image
from quality import Run, common_options, environment, fit, fit_command, flexunet, steps_of

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.files import write_json
from flexunet_pl.data.layout import PALETTE_FILE
from flexunet_pl.data.manifest import sha256_of
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.samples import ReadingRules, read_image

HERE = Path(__file__).resolve().parent
CLOCK = "training.json"
DATASET = "Dataset001_comparison"
CHANNEL_NAMES = {1: {"0": "grey"}, 3: {"0": "R", "1": "G", "2": "B"}}


@dataclass(frozen=True)
class Job:
    """One training: a split of a data set, a seed, a time, and a folder.

    Attributes:
        data: Folder with train, valid (held out) and palette.yaml.
        folder: The run's own folder.
        seed: Seed of the engine.
        minutes: Time for start, training and validation; preparation and prediction are not counted.
        reserve: Seconds of it that ``fit`` needs besides training.
        channels: Channels of the images, 1 or 3.
    """

    data: Path
    folder: Path
    seed: int
    minutes: float
    reserve: float = 0.0
    channels: int = 3


@dataclass(frozen=True)
class Training:
    """Steps, seconds from the start of the process to the end of training, and what else the engine says."""

    steps: int
    seconds: float
    facts: dict[str, Any]


class Engine(Protocol):
    """Something that learns segmentation."""

    def settings(self) -> dict[str, Any]:
        """Return what tells this engine from others, for JSON."""

    def train(self, job: Job) -> Training:
        """Train, or return the finished training; UserError if it fails."""

    def predict(self, job: Job, masks: Path) -> None:
        """Write the masks of the held-out images to the new folder ``masks``; UserError if it fails."""


@dataclass(frozen=True)
class Recipe:
    """A recipe of the package: ``fit`` with ``trainer.max_time``, then ``predict`` with the last checkpoint."""

    run: Run

    def of_set(self, data_set: str) -> "Recipe":
        """Return the recipe for a data set by its name."""
        return replace(self, run=replace(self.run, config=self.run.configs.get(data_set, self.run.config)))

    def settings(self) -> dict[str, Any]:
        """Return the config, its content and the changed keys."""
        return {
            "config": self.run.config,
            "sha256": sha256_of(Path(self.run.config)),
            "changes": self.run.changes,
        }

    def timed(self, job: Job) -> Run:
        """Return the run of a job; it trains for as long as start and last validation leave.

        Raises:
            UserError: If they leave nothing.
        """
        seconds = job.minutes * 60 - job.reserve
        if seconds < 1:
            raise UserError(f"--minutes {job.minutes:g}: {job.reserve:g} s go for start and validation; give more")
        return replace(self.run, seed=job.seed, minutes=seconds / 60)

    def commands(self, job: Job, masks: Path) -> list[list[str]]:
        """Return the words of ``fit`` and of ``predict``."""
        run = self.timed(job)
        places = ["--data.predict_dir", str(job.data / "valid" / "images"), "--out", str(masks)]
        predict = ["predict", *common_options(run, job.data, job.folder), "--ckpt_path", "last", *places]
        return [fit_command(run, job.data, job.folder), predict]

    def train(self, job: Job) -> Training:
        """Train or go on; see :class:`Engine`."""
        seconds = fit(self.timed(job), job.data, job.folder)
        return Training(steps_of(job.folder), seconds, {})

    def predict(self, job: Job, masks: Path) -> None:
        """Predict; see :class:`Engine`."""
        flexunet(self.commands(job, masks)[1])


@dataclass(frozen=True)
class Planned:
    """``fit DATA --time``: a recipe that the package plans by itself, then ``predict`` with the last checkpoint."""

    def settings(self) -> dict[str, Any]:
        """Return that nothing is chosen."""
        return {"recipe": "planned"}

    def commands(self, job: Job, masks: Path) -> list[list[str]]:
        """Return the words of ``fit`` and of ``predict``."""
        time_of_run = f"{round(job.minutes * 60)}s"
        fit = ["fit", str(job.data), "--time", time_of_run, "--run_dir", str(job.folder)]
        fit += ["--seed_everything", str(job.seed), "--trainer.enable_progress_bar", "false"]
        run = ["predict", str(job.folder), str(job.data / "valid" / "images"), "--ckpt_path", "last"]
        return [fit, [*run, "--out", str(masks)]]

    def train(self, job: Job) -> Training:
        """Plan and train in one process, both of which the clock sees; see :class:`Engine`."""
        started = time.time()
        if not (job.folder / CLOCK).is_file():
            flexunet(self.commands(job, job.folder)[0])
            training = Training(steps_of(job.folder), time.time() - started, {})
            write_json(job.folder / CLOCK, asdict(training))
        return Training(**json.loads((job.folder / CLOCK).read_text()))

    def predict(self, job: Job, masks: Path) -> None:
        """Predict; see :class:`Engine`."""
        flexunet(self.commands(job, masks)[1])


@dataclass(frozen=True)
class SmpUnet:
    """A U-Net of segmentation-models-pytorch in the loop of its examples, see smp_loop.py."""

    encoder: str
    weights: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return encoder and weights."""
        return asdict(self)

    def command(self, job: Job, deadline: float) -> list[str]:
        """Return the program that trains and predicts."""
        words = [sys.executable, str(HERE / "smp_loop.py"), str(job.data), "--out", str(job.folder)]
        words += ["--encoder", self.encoder, "--deadline", str(deadline), "--seed", str(job.seed)]
        return words if self.weights is None else [*words, "--weights", self.weights]

    def train(self, job: Job) -> Training:
        """Train and predict in one process, of which the clock sees the training; see :class:`Engine`."""
        return trained_once(job, self.command)

    def predict(self, job: Job, masks: Path) -> None:
        """Do nothing: ``train`` has predicted too; see :class:`Engine`."""


@dataclass(frozen=True)
class NnUnet:
    """nnU-Net v2 with its own planner, preprocessing and trainer, see nnunet_trainer.py.

    Attributes:
        python: The interpreter of an environment that has nnunetv2.
        memory_gb: GPU memory that its planner plans for; 8 is its own default.
    """

    python: Path
    memory_gb: float = 0.5

    def settings(self) -> dict[str, Any]:
        """Return the memory; where the environment is does not matter."""
        return {"memory_gb": self.memory_gb}

    def base(self, job: Job) -> Path:
        """Return the folder of the converted data set; engines with other settings or seeds do not share it."""
        return job.data.with_name(f"{job.data.name}-nnunet-{self.memory_gb:g}")

    def variables(self, job: Job, base: Path) -> dict[str, str]:
        """Return the environment of its processes."""
        folders = {"nnUNet_raw": base / "raw", "nnUNet_preprocessed": base / "preprocessed"}
        folders["nnUNet_results"] = job.folder / "results"
        return environment() | {name: str(folder.resolve()) for name, folder in folders.items()}

    def command(self, *words: str) -> list[str]:
        """Return the program with these words."""
        return [str(self.python), str(HERE / "nnunet_trainer.py"), *words]

    def train(self, job: Job) -> Training:
        """Convert, plan and preprocess if that is not done, then train; only the latter counts. See :class:`Engine`."""
        base = self.base(job)
        if not base.is_dir():
            part = base.with_name(f"{base.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            write_nnunet_dataset(job.data, part / "raw" / DATASET, job.channels)
            run_program(self.command("plan", "--memory_gb", f"{self.memory_gb:g}"), self.variables(job, part))
            part.rename(base)

        def command(job: Job, deadline: float) -> list[str]:
            words = ["train", "--deadline", str(deadline), "--seed", str(job.seed), "--out", str(job.folder)]
            return self.command(*words)

        return trained_once(job, command, self.variables(job, base))

    def predict(self, job: Job, masks: Path) -> None:
        """Predict; see :class:`Engine`."""
        base = self.base(job)
        images = base / "raw" / DATASET / "imagesTs"
        words = ("--images", str(images), "--masks", str(masks), "--out", str(job.folder))
        run_program(self.command("predict", *words), self.variables(job, base))


def write_nnunet_dataset(data: Path, target: Path, channels: int) -> None:
    """Write a data set in nnU-Net's layout: ``imagesTr`` and ``labelsTr`` of train, ``imagesTs`` of valid.

    Images become PNG files NAME_0000.png, grey (``channels`` 1) or RGB (3), masks PNG files NAME.png of class indices.

    Raises:
        UserError: If a file cannot be read.
    """
    palette = Palette.load(data / PALETTE_FILE)
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    training = pairs_of(data, "train")
    for folder, pairs in (("imagesTr", training), ("imagesTs", pairs_of(data, "valid"))):
        for pair in pairs:
            image = read_image(pair.image, ReadingRules(channels))
            Image.fromarray(image[..., 0] if channels == 1 else image).save(target / folder / f"{pair.name}_0000.png")
    for pair in training:
        Image.fromarray(read_mask(pair.mask, palette, False)[0]).save(target / "labelsTr" / f"{pair.name}.png")
    write_json(
        target / "dataset.json",
        {
            "channel_names": CHANNEL_NAMES[channels],
            "labels": {name: index for index, name in enumerate(palette.names)},
            "numTraining": len(training),
            "file_ending": ".png",
            "overwrite_image_reader_writer": "NaturalImage2DIO",
        },
    )


def trained_once(
    job: Job, command: Callable[[Job, float], list[str]], variables: dict[str, str] | None = None
) -> Training:
    """Run ``command(job, deadline)`` unless it has finished; what an interrupted one left is removed.

    The program writes ``steps.json`` with ``steps``, ``ended`` (seconds since 1970) and perhaps more.
    """
    clock = job.folder / CLOCK
    if clock.is_file():
        return Training(**json.loads(clock.read_text()))
    for path in job.folder.iterdir():
        if path.name != "job.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    started = time.time()
    run_program(command(job, started + job.minutes * 60), environment() if variables is None else variables)
    facts = json.loads((job.folder / "steps.json").read_text())
    training = Training(facts.pop("steps"), facts.pop("ended") - started, facts)
    write_json(clock, asdict(training))
    return training


def run_program(command: list[str], variables: dict[str, str]) -> None:
    """Run a program; UserError if it fails, after what it said."""
    try:
        code = subprocess.run(command, env=variables, check=False).returncode
    except OSError as error:
        raise UserError(f"{command[0]}: cannot be run ({error}); check the path") from error
    if code != 0:
        raise UserError(f"{' '.join(command)} failed with exit code {code}, as said above")
