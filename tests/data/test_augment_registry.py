"""A transform is added in one module, which registers it by name."""

import runpy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.augment import TRANSFORMS, build_augmentation, register_transform
from flexunet_pl.data.augment.kinds import KINDS, Transform
from flexunet_pl.data.datamodule import SegmentationDataModule

INVERT = """
from dataclasses import dataclass

import numpy as np

from flexunet_pl.data.augment import register_transform
from flexunet_pl.data.augment.kinds import FloatArray, Tone
from flexunet_pl.data.augment.options import number


@register_transform("invert")
@dataclass(frozen=True)
class Invert(Tone):
    top: float = number(255, 0, 255)

    def curve(self, levels: FloatArray, mean: float, rng: np.random.Generator) -> FloatArray:
        return self.top - levels
"""
IMAGE = np.array([[[0, 100], [200, 250]]], dtype=np.uint8).repeat(3, axis=0)
MASK = np.array([[0, 1], [1, 255]], dtype=np.uint8)


@pytest.fixture
def invert(tmp_path: Path) -> Iterator[None]:
    before = dict(TRANSFORMS)
    (tmp_path / "invert.py").write_text(INVERT, encoding="utf-8")
    runpy.run_path(str(tmp_path / "invert.py"))
    yield
    TRANSFORMS.clear()
    TRANSFORMS.update(before)


@pytest.mark.usefixtures("invert")
def test_a_transform_of_a_module_outside_the_package_is_used_by_its_name() -> None:
    image, mask = build_augmentation({"invert": {"p": 1, "top": 250}})(IMAGE, MASK, np.random.default_rng(0))
    assert image[0].tolist() == [[250, 150], [50, 0]]
    assert mask.tolist() == MASK.tolist()


@pytest.mark.usefixtures("invert")
def test_its_options_are_checked_and_its_name_is_suggested() -> None:
    with pytest.raises(UserError, match=r"invert\.top=300; it must be a number from 0 to 255; the default is 255"):
        build_augmentation({"invert": {"top": 300}})
    with pytest.raises(UserError, match="did you mean 'invert'"):
        build_augmentation({"invrt": 1})


@pytest.mark.usefixtures("invert")
def test_a_data_module_takes_it_from_its_config() -> None:
    module = SegmentationDataModule(palette={"background": [0, 0, 0], "a": [1, 1, 1]}, augment={"invert": 1})
    assert module.augment is not None
    assert module.augment(IMAGE, MASK, np.random.default_rng(0), lambda: (IMAGE, MASK))[0].max() == 255


@pytest.mark.usefixtures("invert")
def test_transforms_are_ordered_by_kind_then_by_registration() -> None:
    ranks = [next(rank for rank, kind in enumerate(KINDS) if issubclass(one, kind)) for one in TRANSFORMS.values()]
    assert ranks == sorted(ranks)
    names = list(TRANSFORMS)
    assert names.index("gamma") < names.index("invert") < names.index("hue")
    assert names[:5] == ["mosaic", "copy_paste", "rotation", "shrink", "scale"]


def test_a_taken_name_and_a_class_of_no_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="a transform 'hflip' is registered already"):
        register_transform("hflip")(TRANSFORMS["vflip"])
    with pytest.raises(TypeError, match="'odd' must derive from one of Mix, Homography"):
        register_transform("odd")(type("Odd", (Transform,), {}))
