"""The config with which the network of a run teaches another one."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml

from flexunet_pl.core.durations import days_of, seconds_of
from flexunet_pl.core.errors import UserError, suggestion
from flexunet_pl.core.files import write_text
from flexunet_pl.core.ranges import Range, check_fields
from flexunet_pl.core.renamed import current_config
from flexunet_pl.core.yaml_text import load_yaml
from flexunet_pl.nn.networks import NETWORKS, network_fields
from flexunet_pl.training import runs
from flexunet_pl.training.data_paths import PATH_KEYS

CALLBACK = "flexunet_pl.training.distillation.Distillation"
# Keys under ``model`` that a student has instead of its network's defaults and of the teacher's. FlexUNet's are those
# of configs/tile_flexunet.yaml.
STUDENTS: dict[str, dict[str, Any]] = {
    "flexunet": {
        "base_kernel": 5,
        "dropout": 0.02,
        "normalization": True,
        "input_normalize": True,
        "batchnorm_momentum": 0.1,
        "learning_rate": 2.0e-3,
    }
}


@dataclass(frozen=True)
class Lesson:
    """How a run teaches; the options of the command ``distill``.

    Attributes:
        network: The network that learns, a key of ``NETWORKS``.
        time: How long it trains, such as 12m; by default as long as the run did.
        weight: Weight of the teacher's part of the loss.
        temperature: What the logits of both networks are divided by.
        images: Folder of images without masks, which the teacher alone speaks of.
        images_per_step: How many of them join each batch.
    """

    network: str = "flexunet"
    time: str | None = None
    weight: Annotated[float, Range(0, 1000)] = 1.0
    temperature: Annotated[float, Range(0.1, 100)] = 2.0
    images: str | None = None
    images_per_step: Annotated[int, Range(1, 4096)] = 2

    def __post_init__(self) -> None:
        """Check the values; UserError if one is out of its range."""
        check_fields(self, "--")
        if self.network not in NETWORKS:
            hint = suggestion(self.network, NETWORKS)
            raise UserError(f"--network {self.network}: choose from {', '.join(NETWORKS)}{hint}")


def write_student_config(run: Path, lesson: Lesson, folder: Path) -> Path:
    """Write the config of a student into ``folder`` and return its path, after which the new run is named.

    It is the config of the run, with another network and a callback that asks the run's best checkpoint, or else its
    last. All paths are absolute.

    Raises:
        UserError: If ``run`` is no run folder, or its config cannot be read.
    """
    run = runs.named_run(run)
    path = runs.saved_config(str(run))
    if path is None:
        raise UserError(
            f"{run}: is no run folder ({runs.CONFIG} is missing); give the folder of a training, such as runs/tile-1"
        )
    teacher = runs.find_checkpoint(run)
    try:
        config = current_config(load_yaml(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    sections = ("model", "data", "trainer")
    if not isinstance(config, dict) or not all(isinstance(config.get(section), dict) for section in sections):
        raise UserError(f"{path}: lacks one of the sections {', '.join(sections)}; train the run again")
    config["model"] = _student_model(config["model"], lesson.network)
    _make_paths_absolute(config["data"], path.parent)
    options = {key: value for key, value in asdict(lesson).items() if key not in ("network", "time")}
    options["images"] = None if lesson.images is None else str(Path(lesson.images).absolute())
    callbacks = [one for one in config["trainer"].get("callbacks") or [] if one.get("class_path") != CALLBACK]
    callback = {"class_path": CALLBACK, "init_args": {"teacher": str(teacher.absolute()), **options}}
    config["trainer"]["callbacks"] = [*callbacks, callback]
    if lesson.time is not None:
        config["trainer"] |= {"max_time": days_of(seconds_of(lesson.time, "--time")), "max_steps": -1, "max_epochs": -1}
    student = folder / f"{runs.run_name(path)}-{lesson.network}.yaml"
    write_text(student, yaml.safe_dump(config, sort_keys=False))
    return student


def _student_model(model: dict[str, Any], network: str) -> dict[str, Any]:
    """Return the keys under ``model`` without those of the teacher's network, with the student's."""
    own = {key: value for key, value in model.items() if key not in network_fields()}
    return own | {"network": network} | STUDENTS.get(network, {})


def _make_paths_absolute(data: dict[str, Any], folder: Path) -> None:
    """Make the paths under ``data``, which a run's config has relative to its folder, absolute in place."""
    for key in PATH_KEYS:
        if isinstance(path := data.get(key), str):
            beside = folder / path
            data[key] = str((beside if beside.exists() else Path(path)).absolute())
