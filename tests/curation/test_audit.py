"""The audit finds every planted fault and nothing else, sees leaks whatever the name, and says so in its exit code."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import find_browser, open_browser
from curation_data import PALETTE, exposed, spot, surface, write_image, write_magnets, write_pair
from jsonargparse import auto_cli
from PIL import Image, ImageDraw
from scipy.cluster.hierarchy import DisjointSet

from flexunet_pl.cli.audit import audit
from flexunet_pl.cli.prepare import prepare_folders, prepare_synthetic
from flexunet_pl.core.errors import UserError
from flexunet_pl.curation.appearance import appearance_of, likeness, orientations
from flexunet_pl.curation.duplicates import Gallery, NearDuplicates, name_of_joined
from flexunet_pl.data.palette import Palette, UInt8Array

TILE = {
    "background": [0, 0, 0],
    "crack": [0, 0, 255],
    "glue_strip": [255, 0, 0],
    "gray_stroke": [0, 255, 0],
    "oil": [255, 255, 0],
    "rough": [0, 255, 255],
}


def report(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "audit.json").read_text(encoding="utf-8"))
    return content


def found(root: Path) -> set[tuple[str, str, str]]:
    """Return (severity, kind, first file) of every finding of the last audit."""
    return {(one["severity"], one["kind"], (one["files"] or [""])[0]) for one in report(root)["findings"]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A clean data set of 5 sources a class, 3 to train and 1 each to validate and test, and a good one each."""
    root = tmp_path / "data"
    split_of = ("train", "train", "train", "valid", "test")
    for number in range(5):
        for label, name in ((1, "crack"), (2, "oil"), (0, "good")):
            write_pair(root, split_of[number], f"{name}_{number}", 10 * number + label, label)
    PALETTE.save(root / "palette.yaml")
    return root


# Each fault: what plants it, and what the audit must say of it: severity, kind and first file.
Fault = tuple[Callable[[Path], object], tuple[str, str, str]]


def _masks(root: Path, split: str = "train") -> Path:
    return root / split / "masks"


def _images(root: Path, split: str = "train") -> Path:
    return root / split / "images"


def _pair_of(
    seed: int, name: str, split: str = "train", change: Callable[[UInt8Array], UInt8Array] | None = None
) -> Callable[[Path], object]:
    """Plant a pair that shows the crack surface of ``seed``, perhaps changed."""
    image = surface(seed) if change is None else change(surface(seed))
    return lambda root: write_pair(root, split, name, seed, 1, np.ascontiguousarray(image))


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _paint(root: Path, file: str, rows: slice, columns: slice, color: tuple[int, int, int]) -> None:
    with Image.open(root / file) as opened:
        mask_rgb = np.array(opened)
    mask_rgb[rows, columns] = color
    Image.fromarray(mask_rgb).save(root / file)


def _paint_blended_edge(root: Path, file: str) -> None:
    _paint(root, file, slice(40, 60), slice(50, 51), (255, 255, 0))
    _paint(root, file, slice(40, 60), slice(51, 52), (100, 100, 0))


FAULTS: dict[str, Fault] = {
    "image without mask": (
        lambda root: write_image(_images(root) / "crack_90.png", surface(90)),
        ("error", "pairing", "train/images/crack_90.png"),
    ),
    "mask without image": (
        lambda root: write_image(_masks(root) / "crack_91.png", PALETTE.decode(spot().astype(np.uint8))),
        ("error", "pairing", "train/masks/crack_91.png"),
    ),
    "a split of another name": (
        lambda root: write_pair(root, "val", "crack_96", 96, 1),
        ("warning", "pairing", "val"),
    ),
    "mask in a lossy format": (
        lambda root: (_masks(root, "valid") / "oil_3.png").rename(_masks(root, "valid") / "oil_3.jpg"),
        ("error", "pairing", "valid/masks/oil_3.jpg"),
    ),
    "truncated image": (
        lambda root: _half(_images(root) / "good_0.png"),
        ("error", "unreadable", "train/images/good_0.png"),
    ),
    "text called mask": (
        lambda root: (_masks(root) / "crack_1.png").write_text("text"),
        ("error", "unreadable", "train/masks/crack_1.png"),
    ),
    "sizes that differ": (
        lambda root: write_image(_images(root) / "crack_2.png", np.ascontiguousarray(surface(21)[:, :60])),
        ("error", "size", "train/images/crack_2.png"),
    ),
    "a colour of no class": (
        lambda root: _paint(root, "train/masks/oil_0.png", slice(50, 56), slice(40, 50), (255, 0, 255)),
        ("error", "off-palette", "train/masks/oil_0.png"),
    ),
    "a blended edge": (
        lambda root: _paint_blended_edge(root, "train/masks/oil_1.png"),
        ("warning", "blended", "train/masks/oil_1.png"),
    ),
    "an index of no class": (
        lambda root: write_image(_masks(root) / "oil_2.png", np.full((64, 64), 7, dtype=np.uint8)),
        ("error", "off-palette", "train/masks/oil_2.png"),
    ),
    "an empty mask of a crack": (
        lambda root: write_image(_masks(root, "valid") / "crack_3.png", np.zeros((64, 64, 3), dtype=np.uint8)),
        ("warning", "empty", "valid/masks/crack_3.png"),
    ),
    "a copy within a split": (
        _pair_of(1, "crack_92"),
        ("warning", "duplicate", "train/images/crack_0.png"),
    ),
    "a variant in another split": (
        _pair_of(777, "hflipped_crack_4"),
        ("error", "leak", "train/images/hflipped_crack_4.png"),
    ),
    "a copy in another split under another name": (
        _pair_of(11, "crack_93", "test"),
        ("error", "leak", "train/images/crack_1.png"),
    ),
    "a darker picture of the same in another split": (
        _pair_of(21, "crack_94", "test", lambda image: exposed(image, 0.6, 1)),
        ("error", "leak", "train/images/crack_2.png"),
    ),
    "a mirrored picture of the same in another split": (
        _pair_of(21, "crack_95", "test", lambda image: image[:, ::-1]),
        ("error", "leak", "train/images/crack_2.png"),
    ),
}


def _said(root: Path) -> set[tuple[str, str, str]]:
    """Return what was found, but for the good images' empty masks."""
    return {one for one in found(root) if one[:2] != ("note", "empty")}


def test_a_clean_data_set_is_clean(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(data, strict=True) == 0
    assert _said(data) == set()
    assert [(one["message"], len(one["files"])) for one in report(data)["findings"]] == [
        ("5 masks mark nothing, as names say", 5)
    ]
    text = capsys.readouterr().out
    assert "no leak: no source, copy or near-duplicate is in two splits" in text
    assert "clean: nothing to fix" in text


@pytest.mark.parametrize("fault", FAULTS)
def test_every_planted_fault_is_found_and_nothing_else(fault: str, data: Path) -> None:
    plant, expected = FAULTS[fault]
    plant(data)
    assert audit(data) == (2 if expected[0] == "error" else 0)
    said = _said(data)
    assert expected in said
    # What the fault makes true besides: the class is gone from the split.
    assert {one for one in said if one[1] != "balance"} == {expected}


def test_all_faults_together_are_all_found(data: Path) -> None:
    for plant, _ in FAULTS.values():
        plant(data)
    assert audit(data) == 2
    files = {file for one in report(data)["findings"] if one["severity"] != "note" for file in one["files"]}
    planted = {expected[2] for _, expected in FAULTS.values()}
    strangers = ("train/images/crack_92", "test/images/crack_93", "test/images/crack_94", "test/images/crack_95")
    assert planted | {f"{name}.png" for name in strangers} <= files
    text = (data / "audit.html").read_text(encoding="utf-8")
    assert text.count("data:image/") >= 10


def test_warnings_count_with_strict_alone(data: Path) -> None:
    FAULTS["an empty mask of a crack"][0](data)
    arguments: list[Any] = [str(data)]
    assert auto_cli(audit, args=arguments, as_positional=True) == 0
    assert auto_cli(audit, args=[*arguments, "--strict", "true"], as_positional=True) == 1
    assert report(data)["exit_code"] == 1


def test_the_share_of_the_test_set_that_leaks(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _pair_of(777, "hflipped_crack_4")(data)
    assert audit(data) == 2
    assert "test: 1 of 3 images (33%) have a relative in train" in capsys.readouterr().out
    assert report(data)["leaks"]["test"] == {"images": 3, "with_relatives_in": {"train": 1, "valid": 0}}


def test_classes_are_counted_in_images_pixels_and_regions(data: Path) -> None:
    mask_index = np.zeros((64, 64), dtype=np.uint8)
    mask_index[2:4, 2:5] = 1
    mask_index[4, 5] = 1
    mask_index[20:30, 20:30] = 1
    write_image(_masks(data) / "crack_0.png", PALETTE.decode(mask_index))
    assert audit(data) == 0
    # The pixel at (4, 5) touches the first region at a corner: regions of 7 and 100, and 81 in each other mask.
    assert report(data)["classes"]["train"]["crack"] == {"images": 3, "pixels": 107 + 2 * 81, "regions": 4}
    regions = report(data)["regions"]["crack"]
    assert {key: regions[key] for key in ("regions", "smallest", "median", "largest")} == {
        "regions": 6,
        "smallest": 7,
        "median": 81.0,
        "largest": 100,
    }
    assert regions["median_diameter"] == pytest.approx(2 * (81 / np.pi) ** 0.5, abs=0.05)


def test_missing_classes_are_warned_of_where_they_could_be(data: Path) -> None:
    for part in ("images", "masks"):
        (data / "valid" / part / "oil_3.png").unlink()
        for number in range(3):
            shutil.move(data / "train" / part / f"crack_{number}.png", data / "test" / part)
    assert audit(data) == 0
    messages = {one["message"] for one in report(data)["findings"] if one["kind"] == "balance"}
    assert messages == {
        "class 'oil' has no pixel in valid, though it has 4 sources",
        "class 'crack' has no pixel in train, so it cannot be learned",
    }


def test_a_manifest_that_differs_is_told(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    prepare_synthetic(root, images=27, size=32)
    assert audit(root, strict=True) == 0
    names = sorted(path.name for path in (root / "train" / "images").iterdir())
    Image.fromarray(surface(1, (32, 32))).save(root / "train" / "images" / names[0])
    for part in ("images", "masks"):
        shutil.move(root / "train" / part / names[1], tmp_path / f"{part}.png")
        shutil.copy(root / "train" / part / names[2], root / "train" / part / f"hflipped_{names[2]}")
    assert audit(root, strict=True) == 1
    manifest = {file for severity, kind, file in found(root) if kind == "manifest" and severity == "warning"}
    assert manifest == {f"train/images/{name}" for name in (names[0], names[1], f"hflipped_{names[2]}")}


def test_folds_that_share_a_source_leak(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number in range(6):
        write_pair(root, "train", f"crack_{number}", number, 1)
    PALETTE.save(root / "palette.yaml")
    header = "file,source,group,classes,split,fold,sha256,pixels_background,pixels_crack,pixels_oil"
    lines = [
        f"train/images/crack_{number}.png,s{number},g{number // 2},crack,train,{number % 3},x,4015,81,0"
        for number in range(6)
    ]
    (root / "manifest.csv").write_text("\n".join([header, *lines]), encoding="utf-8")
    assert audit(root) == 2
    leaks = [one["message"] for one in report(root)["findings"] if one["kind"] == "leak"]
    assert len(leaks) == 3
    assert "fold 0 of train" in leaks[0]


def test_without_a_palette_areas_of_colour_are_classes(data: Path) -> None:
    (data / "palette.yaml").unlink()
    assert audit(data) == 0
    assert report(data)["palette"] == {"background": [0, 0, 0], "class_1": [0, 0, 255], "class_2": [255, 255, 0]}
    assert ("note", "palette", "") in found(data)


def test_images_and_masks_without_splits_are_audited(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "train", tmp_path / "flat")
    PALETTE.save(tmp_path / "palette.yaml")
    assert audit(tmp_path / "flat", palette=tmp_path / "palette.yaml", strict=True) == 0
    assert report(tmp_path / "flat")["images"] == {"all": 9}


def test_the_report_goes_elsewhere_if_asked(data: Path, tmp_path: Path) -> None:
    before = set(data.rglob("*"))
    assert audit(data, out=tmp_path / "deep" / "report") == 0
    assert {path.name for path in (tmp_path / "deep" / "report").iterdir()} == {"audit.json", "audit.html"}
    assert set(data.rglob("*")) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written there"):
        audit(data, out=tmp_path / "file")


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither train/images"):
        audit(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        audit(tmp_path / "none")


# The page


def test_the_page_needs_nothing_from_elsewhere(data: Path) -> None:
    FAULTS["a variant in another split"][0](data)
    audit(data)
    text = (data / "audit.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", text)
    assert "url(" not in text
    assert "<script" not in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert "source &#39;crack_4&#39; is in test and train" in text


def test_the_page_fits_narrow_and_wide_windows_light_and_dark(data: Path, tmp_path: Path) -> None:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on this machine; .ci/run installs it with apt-get")
    write_pair(data, "train", "crack_" + "long_name_" * 15, 300, 1)
    for fault in ("a blended edge", "a variant in another split", "a colour of no class", "an empty mask of a crack"):
        FAULTS[fault][0](data)
    audit(data)
    with open_browser(program) as browser:
        page = browser.page()
        for width, dark in ((1280, False), (400, True)):
            page.open(data / "audit.html", width, dark)
            assert page.run("document.documentElement.scrollWidth") <= width, "wider than the window"
            background = page.run("getComputedStyle(document.body).backgroundColor")
            assert (sum(int(part) for part in background[4:-1].split(",")) < 200) is dark
            page.photograph(tmp_path / "page.png")
            assert page.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
            assert page.run("document.images.length") >= 8
            names = "[...document.querySelector('table').tBodies[0].rows].map(r => r.cells[0].textContent)"
            assert page.run(names) == list(PALETTE.names), "in the order of the palette"
            assert page.run("document.querySelector('table').tBodies[0].querySelectorAll('.swatch').length") == len(
                PALETTE
            )
            if width == 1280:
                cut = "[...document.querySelectorAll('.scroll')].filter(b => b.scrollWidth > b.clientWidth).length"
                assert page.run(cut) == 0, "no column is cut off"
        assert page.complaints == []


def test_class_and_file_names_cannot_become_html(tmp_path: Path) -> None:
    name = "<script>alert(1)<"  # a file system allows all but the slash
    for split in ("train", "valid", "test"):
        for number in range(2):
            write_pair(tmp_path, split, f"{name}{split}{number}", 300 + number, 1)
    Palette(("background", "<script>alert(1)</script>", "oil"), ((0, 0, 0), (0, 0, 255), (255, 255, 0))).save(
        tmp_path / "palette.yaml"
    )
    audit(tmp_path)
    text = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&lt;script&gt;alert(1)&lt;train0" in text


# Near-duplicates


def _compared(pictures: Sequence[UInt8Array | None]) -> NearDuplicates:
    """Search pictures of as many groups for near-duplicates; None is one that cannot be read."""
    names = [str(number) for number in range(len(pictures))]
    with Gallery() as gallery:
        for picture in pictures:
            if picture is None:
                gallery.add(None, list)  # type: ignore[arg-type]  # never read
            else:
                gallery.add(appearance_of(picture), partial(np.asarray, picture))
        return gallery.near_duplicates(names, names)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: exposed(image, 0.5, 2), id="darker, other crop"),
        pytest.param(lambda image: exposed(image, 1.6, 1), id="overexposed"),
        pytest.param(lambda image: image[::-1], id="upside down"),
        pytest.param(lambda image: np.rot90(image), id="turned"),
        pytest.param(lambda image: np.asarray(Image.fromarray(image).resize((150, 100))), id="resized, other aspect"),
    ],
)
def test_a_changed_picture_is_still_the_same(change: Callable[[UInt8Array], UInt8Array]) -> None:
    pictures = [surface(seed, (120, 120)) for seed in range(6)]
    result = _compared([*pictures, np.ascontiguousarray(change(pictures[3]))])
    assert [pair[:2] for pair in result.pairs] == [(3, 6)]
    assert result.looks.look_alikes == frozenset()


def test_pictures_that_cannot_be_read_or_are_blank_resemble_nothing() -> None:
    assert _compared([np.full((50, 50, 3), 77, dtype=np.uint8)] * 4 + [None]).pairs == []


def test_the_eight_orientations() -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    turned = [one.tolist() for one in orientations(array)]
    assert turned[0] == array.tolist()
    assert np.rot90(array).tolist() in turned[4:]
    assert np.rot90(array, 2).tolist() in turned[:4]
    assert len({str(one) for one in turned}) == 8
    one = appearance_of(surface(1, (90, 60)))
    other = appearance_of(np.ascontiguousarray(np.rot90(surface(1, (90, 60)))))
    values = [likeness(one, other, orientation) for orientation in range(8)]
    assert max(values) > 0.99
    assert sorted(values)[-2] < 0.5


def _ring(seed: int) -> UInt8Array:
    """Draw one of many parts that look the same but for noise, a small shift and a stain."""
    rng = np.random.default_rng(seed)
    image = Image.new("L", (256, 256), 200)
    draw = ImageDraw.Draw(image)
    x, y = 128 + rng.normal(0, 0.8, 2)
    for radius, level in ((110, 60), (95, 150), (82, 40), (62, 20), (50, 110)):
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=level)
    left, top = rng.uniform(70, 180, 2)
    draw.ellipse([left, top, left + 12, top + 9], fill=90)
    noisy = np.asarray(image) + rng.normal(0, 3, (256, 256))
    return np.repeat(noisy.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_parts_in_one_pose_are_not_taken_for_one_part() -> None:
    """Thirty different parts that look alike, one of them twice."""
    rings = [_ring(seed) for seed in range(30)]
    result = _compared([*rings, (rings[4] // 2 * 2).astype(np.uint8)])
    assert len(result.looks.look_alikes) == 31
    assert [pair[:2] for pair in result.pairs] == [(4, 30)]


def test_joined_groups_have_the_first_name() -> None:
    joined = DisjointSet("dcab")
    joined.merge("d", "c")
    joined.merge("b", "d")
    assert name_of_joined(joined) == {"a": "a", "b": "b", "c": "b", "d": "b"}


def test_exposures_split_by_chance_leak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_magnets(tmp_path / "src", {"MT_Break": 4, "MT_Free": 4})
    out = tmp_path / "out"
    prepare_folders(tmp_path / "src", out, defect_free="MT_Free", near_duplicates="off")
    assert audit(out) == 2
    assert "have a relative in train" in capsys.readouterr().out
    prepare_folders(tmp_path / "src", tmp_path / "joined", defect_free="MT_Free")
    assert audit(tmp_path / "joined", strict=True) == 0


# Real data


def _tiles(shared_dir: Path, root: Path) -> Path:
    shutil.copytree(shared_dir / "data" / "mvtec-tile-mini", root, copy_function=shutil.copyfile)
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)
    Palette.from_mapping(TILE).save(root / "palette.yaml")
    return root


def test_real_tiles_have_blended_masks_and_no_leak(
    shared_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _tiles(shared_dir, tmp_path / "tiles")
    assert audit(root) == 0
    assert {(severity, kind) for severity, kind, _ in found(root)} == {("warning", "blended"), ("note", "balance")}
    assert report(root)["blended_pixels"] == 26929
    assert "no leak" in capsys.readouterr().out
    assert audit(root, strict=True, near_duplicates=False) == 1
    for part in ("images", "masks"):
        (root / "valid" / part / "hflipped_crack_5.png").write_bytes(
            (root / "train" / part / "barrdistorted_1001_0.3_0.3_crack_5.png").read_bytes()
        )
    assert audit(root) == 2
    leaks = [one for one in report(root)["findings"] if one["kind"] == "leak"]
    assert len(leaks) == 1
    assert leaks[0]["files"] == [
        "train/images/barrdistorted_1001_0.3_0.3_crack_5.png",
        "valid/images/hflipped_crack_5.png",
    ]


# Speed and memory


def _write_many(root: Path, count: int) -> None:
    """Write pairs of 512x512 quickly: a surface, rolled and brightened, is another picture to any hash."""
    rng = np.random.default_rng(0)
    base = [surface(seed, (512, 512)) for seed in range(8)]
    for number in range(count):
        image = np.roll(base[number % 8], rng.integers(40, 470, 2), axis=(0, 1)) // 2
        image += np.roll(base[(number + 1 + number // 8) % 8], rng.integers(40, 470, 2), axis=(0, 1)) // 2
        write_pair(root, "train" if number % 5 else "valid", f"crack_{number}", number, 1, image.astype(np.uint8))
        mask_index = spot((512, 512), top=int(rng.integers(400)), left=int(rng.integers(400)), side=60).astype(np.uint8)
        split = "train" if number % 5 else "valid"
        write_image(root / split / "masks" / f"crack_{number}.png", PALETTE.decode(mask_index))
    PALETTE.save(root / "palette.yaml")


@pytest.mark.full
def test_a_thousand_images_take_less_than_a_minute_on_two_cores_and_no_more_memory(tmp_path: Path) -> None:
    code = (
        "import resource, sys, time\n"
        "from pathlib import Path\n"
        "from flexunet_pl.cli.audit import audit\n"
        "start = time.process_time()\n"
        "code = audit(Path(sys.argv[1]))\n"
        "print(code, time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = {}
    for count in (100, 1000):
        root = tmp_path / str(count)
        _write_many(root, count)
        result = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True)
        exit_code, seconds, kilobytes = result.stdout.splitlines()[-1].split()
        assert exit_code == "0", result.stdout
        peaks[count] = int(kilobytes)
    # Processor seconds, so that a busy machine does not fail the test: 60 s on two cores are 120.
    assert float(seconds) < 110
    assert peaks[1000] - peaks[100] < 60_000
