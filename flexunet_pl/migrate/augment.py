"""From the augmentation sections of a train_eval_infer.config to ``data.augment``."""

from collections.abc import Mapping
from typing import Any

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.augment import PRESETS, build_augmentation
from flexunet_pl.migrate.project import Project

SECTIONS = ("generator", "augmentor", "deformation", "distortion", "sharpening", "brightening")
LENSES = ("barrdistortion", "pincdistortion")
# The original makes one picture for each operation; the probabilities are those of the preset flexunet.
DEFAULT_PROBABILITY = 0.2


def build_augment(project: Project) -> dict[str, Any] | None:
    """Return the value of ``data.augment``, None for no augmentation, and note what cannot be taken over."""
    if not (project["model.generator"] and project["generator.augmentation"]):
        return None
    augment = {}
    for name, (switch, options) in _operations(project).items():
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


def _operations(project: Project) -> Mapping[str, tuple[str, dict[str, Any]]]:
    """Return for each transform of ours the key that switches it on, and its options."""

    def lens(section: str) -> tuple[str, dict[str, Any]]:
        options: dict[str, Any] = {key: project[f"{section}.{key}"] for key in ("radius", "amount")}
        return f"augmentor.{section}", options | {"centers": [list(place) for place in project[f"{section}.centers"]]}

    return {
        "hflip": ("augmentor.hflip", {}),
        "vflip": ("augmentor.vflip", {}),
        "rotation": ("augmentor.rotation", {"angles": project["augmentor.angles"]}),
        "shrink": ("augmentor.shrinks", {"shrinks": project["augmentor.shrinks"]}),
        "shear": ("augmentor.shears", {"shears": project["augmentor.shears"]}),
        "barrel": lens("barrdistortion"),
        "pincushion": lens("pincdistortion"),
        "elastic": (
            "augmentor.deformation",
            {"alpha": project["deformation.alpah"], "sigmoids": _sigmoids(project)},
        ),
        "smooth_noise": (
            "augmentor.distortion",
            {
                key: project[f"distortion.{key}"]
                for key in ("gaussian_filter_rsigma", "gaussian_filter_sigma", "distortions")
            },
        ),
        "brightening": (
            "augmentor.brightening",
            {"alpha": project["brightening.alpha"], "beta": project["brightening.beta"]},
        ),
        "sharpen": ("augmentor.sharpening", {"k": project["sharpening.k"]}),
    }


def _sigmoids(project: Project) -> list[float]:
    is_one = "deformation.sigmoid" in project.config.settings and "deformation.sigmoids" not in project.config.settings
    one: float = project["deformation.sigmoid"]
    several: list[float] = project["deformation.sigmoids"]
    return [one] if is_one else several
