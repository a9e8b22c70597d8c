"""Parts that look alike by nature stay apart, real leaks are found among them, and prepare passes its own audit."""

import io
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from curation_data import PALETTE, UInt8Array, spot, surface, write_image
from PIL import Image, ImageDraw

from flexunet_pl.cli.main import main
from flexunet_pl.curation.looks import Looks, copy_limit, too_many
from flexunet_pl.curation.prepare import overview
from flexunet_pl.data.manifest import read_manifest


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "draw_overview", lambda *_: None)


def part(seed: int) -> UInt8Array:
    """Draw one of many parts in one pose, uint8 (128, 128, 3): they differ by noise, a small shift and a stain."""
    rng = np.random.default_rng(seed)
    image = Image.new("L", (128, 128), 150)
    draw = ImageDraw.Draw(image)
    for x in range(8, 128, 16):
        for y in range(8, 128, 16):
            draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=60)
    x, y = 64 + rng.normal(0, 1, 2)
    draw.rectangle([x - 24, y - 34, x + 24, y + 6], fill=40)
    draw.ellipse([x - 9, y - 24, x + 9, y - 6], fill=75)
    for leg in (-15, 0, 15):
        draw.line([x + leg, y + 6, x + leg + rng.normal(0, 1), y + 50], fill=210, width=4)
    left, top = rng.uniform(40, 80, 2)
    draw.ellipse([left, top, left + 6, top + 5], fill=110)
    noisy = np.asarray(image) + rng.normal(0, 3, (128, 128))
    return np.repeat(noisy.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _as_jpeg(image: UInt8Array) -> UInt8Array:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=90)
    return np.asarray(Image.open(file))


CHANGES: dict[str, Callable[[UInt8Array], UInt8Array]] = {
    "copy": lambda image: image,
    "flip": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "turn": lambda image: np.ascontiguousarray(np.rot90(image)),
    "jpeg": _as_jpeg,
    "brighter": lambda image: (image * 1.15 + 8).clip(0, 255).astype(np.uint8),
}
SETS: dict[str, Callable[[int], UInt8Array]] = {"parts": part, "tiles": partial(surface, size=(128, 128))}


def write(root: Path, name: str, image: UInt8Array) -> None:
    """Write an image of a crack and its mask below ``root``."""
    mask_index = spot(image.shape[:2]).astype(np.uint8)
    write_image(root / "images" / f"{name}.png", image)
    write_image(root / "masks" / f"{name}.png", PALETTE.decode(mask_index))


def _stem(file: str) -> str:
    return Path(file).stem


@pytest.fixture(params=SETS)
def prepared(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Callable[[int], UInt8Array], Path]:
    """Return what draws a source, and a data set of 21 sources prepared from it."""
    draw = SETS[request.param]
    PALETTE.save(tmp_path / "src" / "palette.yaml")
    for seed in range(21):
        write(tmp_path / "src", f"crack_{seed}", draw(seed))
    assert main(["prepare", "pairs", str(tmp_path / "src"), str(tmp_path / "out")]) == 0
    return draw, tmp_path / "out"


def test_sources_stay_apart_and_the_output_passes_its_audit(
    prepared: tuple[Callable[[int], UInt8Array], Path],
) -> None:
    draw, out = prepared
    looks = Looks.load(out)
    assert looks is not None
    assert len({row.group for row in read_manifest(out)}) == 21
    says = "looks cannot tell 21 images from other sources" if draw is part else "looks tell sources apart"
    assert says in looks.message
    assert main(["audit", str(out)]) == 0
    more = out.parent / "more"
    assert main(["prepare", "augment", str(out), str(more), "--augment", "{hflip: true}"]) == 0
    assert main(["audit", str(more)]) == 0
    # An audit that has to judge by itself comes to the same result.
    (out / "near_duplicates.json").unlink()
    assert main(["audit", str(out)]) == 0


def test_leaks_between_splits_are_found_in_both_kinds_of_sets(
    prepared: tuple[Callable[[int], UInt8Array], Path],
) -> None:
    draw, out = prepared
    training = [row.name for row in read_manifest(out) if row.split == "train"]
    for (name, change), source in zip(CHANGES.items(), training, strict=False):
        write(out / "test", f"new_{name}", change(draw(int(source.removeprefix("crack_")))))
    write(out / "test", "unrelated", draw(99))
    for record in (True, False):
        if not record:
            (out / "near_duplicates.json").unlink()
        assert main(["audit", str(out)]) == 2
        findings = json.loads((out / "audit.json").read_text(encoding="utf-8"))["findings"]
        leaks = {frozenset(map(_stem, one["files"])) for one in findings if one["kind"] == "leak"}
        assert leaks == {frozenset((f"new_{name}", source)) for name, source in zip(CHANGES, training, strict=False)}


def test_copies_in_the_folder_to_prepare_join_their_source(tmp_path: Path) -> None:
    PALETTE.save(tmp_path / "src" / "palette.yaml")
    for seed in range(15):
        for name, change in {"": CHANGES["copy"], **CHANGES}.items():
            write(tmp_path / "src", f"crack{name}_{seed}", change(surface(seed, (96, 96))))
    assert main(["prepare", "pairs", str(tmp_path / "src"), str(tmp_path / "out")]) == 0
    rows = read_manifest(tmp_path / "out")
    group_of = {row.name: row.group for row in rows}
    assert all(group_of[name] == group_of[f"crack_{name.rsplit('_', 1)[1]}"] for name in group_of)
    assert len(set(group_of.values())) == 15
    assert main(["audit", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("near_duplicates", ["join", "off"])
def test_blank_copies_never_leak(near_duplicates: str, tmp_path: Path) -> None:
    PALETTE.save(tmp_path / "src" / "palette.yaml")
    for seed in range(12):
        image = np.full((64, 64, 3), 90, dtype=np.uint8) if seed % 2 else surface(seed)
        write(tmp_path / "src", f"crack_{seed}", image)
    options = ["--near_duplicates", near_duplicates]
    assert main(["prepare", "pairs", str(tmp_path / "src"), str(tmp_path / "out"), *options]) == 0
    assert main(["audit", str(tmp_path / "out")]) == 0


def test_a_source_is_what_prepare_was_told_it_is(tmp_path: Path) -> None:
    """The names look like variants of one source, and the pattern says that they are not."""
    PALETTE.save(tmp_path / "src" / "palette.yaml")
    for seed in range(12):
        write(tmp_path / "src", f"{'hflipped_' * (seed % 2)}crack_{seed // 2}", surface(seed))
    options = ["--source_pattern", "^(.*)$"]
    assert main(["prepare", "pairs", str(tmp_path / "src"), str(tmp_path / "out"), *options]) == 0
    assert len({row.group for row in read_manifest(tmp_path / "out")}) == 12
    assert main(["audit", str(tmp_path / "out")]) == 0


def test_the_limits() -> None:
    assert too_many(25, 1000)
    assert too_many(8, 21)
    assert not too_many(4, 8)
    assert not too_many(7, 21)
    assert copy_limit([]) == 0.95
    assert copy_limit([0.05, 0.06, 0.07] * 20) == 0.45
    # Parts that differ in nothing: only what exceeds their own likeness is a copy.
    assert copy_limit([0.97, 0.98, 0.99] * 20) > 0.97


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    looks = Looks(0.41, True, frozenset({"b", "a"}), 0.5)
    looks.save(tmp_path)
    assert Looks.load(tmp_path) == looks
    assert Looks.load(tmp_path / "none") is None
    assert looks.resembles_others("c")


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "sources", "says"),
    [
        ("screw", 32, "looks cannot tell 36 images"),
        ("wood", 27, "looks tell sources apart"),
        ("tile", 23, "looks tell sources apart"),
    ],
)
def test_real_sources_stay_apart(
    name: str, sources: int, says: str, shared_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src, config = shared_dir / "data" / f"mvtec-{name}-mini", tmp_path / "train_eval_infer.yaml"
    if name == "tile":
        config = Path(__file__).parents[2] / "configs" / "tile.yaml"
    else:
        shutil.copyfile(src / "train_eval_infer.config", tmp_path / "train_eval_infer.config")
        assert main(["migrate", str(tmp_path / "train_eval_infer.config"), str(tmp_path), "--as-run"]) == 0
    words = ["prepare", "pairs", str(src), str(tmp_path / "out"), "--palette", str(config), "--antialiased_masks"]
    assert main(words) == 0
    assert says in capsys.readouterr().out
    assert len({row.group for row in read_manifest(tmp_path / "out")}) == sources
    assert main(["audit", str(tmp_path / "out")]) == 0
