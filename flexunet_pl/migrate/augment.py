"""From the augmentation sections of a train_eval_infer.config to ``data.augment``."""

from typing import Any

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.augment import PRESETS, build_augmentation
from flexunet_pl.migrate.project import Project

SECTIONS = ("generator", "augmentor", "deformation", "distortion", "sharpening", "brightening")
LENSES = ("barrdistortion", "pincdistortion")
# The original makes one picture for each operation; the probabilities are those of the preset flexunet.
DEFAULT_PROBABILITY = 0.2


def _switched(section: str, *options: str) -> tuple[str, dict[str, str]]:
    return f"augmentor.{section}", {option: f"{section}.{option}" for option in options}


# For each transform of ours the key that switches it on, and the keys of its options.
OPERATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "hflip": ("augmentor.hflip", {}),
    "vflip": ("augmentor.vflip", {}),
    "rotation": ("augmentor.rotation", {"angles": "augmentor.angles"}),
    "shrink": ("augmentor.shrinks", {"shrinks": "augmentor.shrinks"}),
    "shear": ("augmentor.shears", {"shears": "augmentor.shears"}),
    "barrel": _switched("barrdistortion", "radius", "amount", "centers"),
    "pincushion": _switched("pincdistortion", "radius", "amount", "centers"),
    "elastic": ("augmentor.deformation", {"alpha": "deformation.alpah", "sigmoids": "deformation.sigmoids"}),
    "smooth_noise": _switched("distortion", "gaussian_filter_rsigma", "gaussian_filter_sigma", "distortions"),
    "brightening": _switched("brightening", "alpha", "beta"),
    "sharpen": _switched("sharpening", "k"),
}


def build_augment(project: Project) -> dict[str, Any] | None:
    """Return the value of ``data.augment``, None for no augmentation, and note what cannot be taken over."""
    if not (project["model.generator"] and project["generator.augmentation"]):
        return None
    augment = {}
    for name, (switch, keys) in OPERATIONS.items():
        options = {option: _plain(project, key) for option, key in keys.items()}
        if not project[switch] or any(value == [] for value in options.values()):
            continue
        entry = {"p": PRESETS["flexunet"][name]["p"] or DEFAULT_PROBABILITY, **options}
        try:
            build_augmentation({name: entry})
        except UserError as error:
            project.note(switch, "took it as it is", f"it is left out: {error}")
        else:
            augment[name] = entry
    return augment or None


def _plain(project: Project, key: str) -> Any:
    """Return the value of an option as plain data: pairs as lists, and sigmoid where it stands for sigmoids."""
    given = project.config.settings
    if key == "deformation.sigmoids" and key not in given and "deformation.sigmoid" in given:
        return [project["deformation.sigmoid"]]
    value = project[key]
    return [list(place) for place in value] if key.endswith(".centers") else value
