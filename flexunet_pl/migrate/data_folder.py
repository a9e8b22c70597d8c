"""Where a TensorFlowFlexUNet project keeps its images, and what its colours mean."""

from pathlib import Path
from typing import NamedTuple

from flexunet_pl.core.errors import UserError
from flexunet_pl.curation.prepare.archives import is_archive, unpacked
from flexunet_pl.migrate.config_parser import read_config
from flexunet_pl.migrate.palette import build_palette
from flexunet_pl.migrate.project import Project

PROJECT_FILE = "train_eval_infer.config"


class ProjectData(NamedTuple):
    """The data of a project.

    Attributes:
        folder: Folder with train and valid, or with images and masks.
        colors: Class names and colours, background first.
    """

    folder: Path
    colors: dict[str, list[int]]


def project_data(path: Path) -> ProjectData | None:
    """Return the data of the project whose folder or config ``path`` is; None if it is no project.

    The data are those in the folder itself, else those that its config names. An archive is unpacked first.

    Raises:
        UserError: If its config cannot be read, or names folders that do not exist.
    """
    if is_archive(path):
        path = unpacked(path)
    file = path if path.name == PROJECT_FILE else path / PROJECT_FILE
    if not file.is_file():
        return None
    project = Project(read_config(file), as_run=False)
    colors = build_palette(project, None, None)
    inside = [file.parent, file.parent / "train"]
    if any((folder / "images").is_dir() for folder in inside):
        return ProjectData(file.parent, colors)
    given = str(project["train.images_dir"] or "")
    images = (file.parent / given.rstrip("*./ ")).resolve()
    folder = next((above for above in images.parents if (above / "train" / "images").is_dir()), None)
    if not given or folder is None:
        raise UserError(
            f"{file}: names the images {given!r}, which are not there; put the data set there, or give its folder"
        )
    return ProjectData(folder, colors)
