"""The report as a person meets it: the command, the files, the page in a browser."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from browser import Browser, Page, find_browser, open_browser
from conftest import ROOT
from doc_commands import commands_in
from onnx_models import PALETTE, write_model
from PIL import Image
from report_data import Numbers, look_up, write_case, write_cases

from flexunet_pl.cli.main import main
from flexunet_pl.cli.report import parse
from flexunet_pl.data.manifest import Row, write_manifest
from flexunet_pl.data.palette import Palette


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data in ``data`` and two models, one of which mixes up two classes."""
    folder = tmp_path_factory.mktemp("report")
    write_cases(folder / "data")
    write_model(folder / "good.onnx")
    weight = np.eye(3)[[0, 2, 1]][:, :, None, None] * 0.1
    write_model(folder / "bad.onnx", weight)
    return folder


@pytest.fixture(scope="module")
def one_report(cases: Path) -> Path:
    out = cases / "one"
    assert main(["report", str(cases / "good.onnx"), str(cases / "data"), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def two_report(cases: Path) -> Path:
    out = cases / "two"
    models = [str(cases / "good.onnx"), str(cases / "bad.onnx")]
    assert main(["report", "--data", str(cases / "data"), *models, "--out", str(out)]) == 0
    return out


def scores_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "scores.json").read_text())
    return content


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_scores_are_what_numpy_counts(one_report: Path, cases: Path) -> None:
    found = scores_of(one_report)
    hit, true, predicted = np.zeros(3), np.zeros(3), np.zeros(3)
    for path in sorted((cases / "data" / "test" / "masks").iterdir()):
        truth = np.asarray(Image.open(path))
        shown = np.asarray(Image.open(cases / "data" / "test" / "images" / path.name)).argmax(axis=2)
        for index in range(3):
            hit[index] += ((truth == index) & (shown == index)).sum()
            true[index] += (truth == index).sum()
            predicted[index] += (shown == index).sum()
    dice = 2 * hit / (true + predicted)
    for index, name in enumerate(PALETTE.names):
        assert found["classes"][name]["dice"] == pytest.approx(dice[index], abs=1e-12)
        assert found["classes"][name]["support"] == true[index]
    assert found["mean_foreground_dice"] == pytest.approx(dice[1:].mean(), abs=1e-12)
    low, high = found["intervals"]["mean_foreground_dice"]
    assert low < found["mean_foreground_dice"] < high
    assert found["detection"]["regions"] == 6
    assert found["detection"]["hit_iou_0.5"] == 1.0
    assert 0.8 < found["detection"]["pixel_auroc"] < 1
    assert found["dice_coef_multiclass_of_background"] == pytest.approx(
        np.mean([(2 * (480 - row["defect"]) + 1) / 961 for row in found["per_image"]]), abs=1e-6
    )
    with (one_report / "scores.csv").open() as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert float(rows["crack"]["dice"]) == found["classes"]["crack"]["dice"]
    assert float(rows["all"]["mean_foreground_dice_low"]) == low
    with (one_report / "images.csv").open() as file:
        assert [int(row["missed"]) for row in csv.DictReader(file)] == [row["missed"] for row in found["per_image"]]


@pytest.mark.parametrize("which", ["one_report", "two_report"])
def test_every_number_on_the_page_is_the_one_in_the_file(which: str, request: pytest.FixtureRequest) -> None:
    out = request.getfixturevalue(which)
    page, scores = Numbers((out / "report.html").read_text()), scores_of(out)
    assert page.loose == [], "numbers that say not where they are from"
    assert len(page.by_key) > 90
    for key, text in page.by_key.items():
        value = look_up(scores, key)
        if value is None:
            assert text == "n/a", key
        elif isinstance(value, int):
            assert int(text.replace(",", "")) == value, key
        else:
            assert float(text) == pytest.approx(value, abs=5.001e-5), key


def test_a_number_that_strays_is_noticed(one_report: Path) -> None:
    html = (one_report / "report.html").read_text()
    assert Numbers(html.replace("</tbody>", '<tr><td class="number">0.5</td></tr></tbody>', 1)).loose == ["0.5"]


def test_the_page_is_self_contained_and_every_row_leads_to_its_picture(one_report: Path) -> None:
    html = (one_report / "report.html").read_text()
    assert "http:" not in html
    assert "https:" not in html
    assert 'src="data:image/jpeg;base64,' in html
    for row in scores_of(one_report)["per_image"]:
        assert f'href="report_pictures/{row["name"]}.jpg"' in html
        with Image.open(one_report / "report_pictures" / f"{row['name']}.jpg") as picture:
            assert picture.width > 4 * 150


def test_the_report_says_how_it_was_made(one_report: Path) -> None:
    made = scores_of(one_report)["made"]
    assert made["command"].startswith("flexunet report ")
    assert made["models"][0]["kind"] == "exported model"
    assert len(made["models"][0]["sha256"]) == 64
    assert made["data"]["split"] == "test"
    assert made["versions"].keys() >= {"flexunet_pl", "torch", "numpy"}


def test_class_and_file_names_cannot_become_html(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    data, masks = tmp_path / "data", tmp_path / "masks"
    write_cases(data, count=3)
    for kind in ("images", "masks"):
        path = data / "test" / kind / "part1.png"
        path.rename(path.with_name("<script>alert(2)<.png"))  # a file system allows all but the slash
    Palette(("background", evil, "oil"), PALETTE.colors).save(data / "palette.yaml")
    shutil.copytree(data / "test" / "masks", masks)
    for models in ([masks], [masks, masks]):
        options = [word for model in models for word in ("--predictions", str(model))]
        assert main(["report", *options, str(data), "--out", str(tmp_path / "out")]) == 0
        html = (tmp_path / "out" / "report.html").read_text()
        assert html.count("<script") == 1, "only the page's own"
        assert "alert(1)</script>" not in html
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
        assert "&lt;script&gt;alert(2)&lt;" in html
        assert 'href="report_pictures/%3Cscript%3Ealert%282%29%3C.jpg"' in html


def test_two_models_are_compared_on_the_same_images(two_report: Path) -> None:
    scores = scores_of(two_report)
    good, bad = scores["models"]["A"], scores["models"]["B"]
    compared = scores["comparison"]
    assert bad["mean_foreground_dice"] == 0
    assert compared["mean_foreground_dice"]["difference"] == pytest.approx(-good["mean_foreground_dice"])
    assert compared["mean_foreground_dice"]["interval"][1] < 0
    assert compared["mean_foreground_dice"]["share_of_draws_with_b_ahead"] == 0
    for row, one, other in zip(compared["per_image"], good["per_image"], bad["per_image"], strict=True):
        assert (row["dice_a"], row["dice_b"]) == (one["dice"], other["dice"])
    html = (two_report / "report.html").read_text()
    assert "<b>A is ahead</b>" in html
    assert "Where A does better" in html
    assert "Where B does better" not in html


def test_a_model_compared_with_itself_does_not_differ(cases: Path, tmp_path: Path) -> None:
    model = str(cases / "good.onnx")
    assert main(["report", model, model, str(cases / "data"), "--out", str(tmp_path)]) == 0
    compared = scores_of(tmp_path)["comparison"]
    assert compared["mean_foreground_dice"] == {
        "difference": 0,
        "interval": [0, 0],
        "share_of_draws_with_b_ahead": 0,
    }
    assert "<b>No significant difference</b>" in (tmp_path / "report.html").read_text()


def test_intervals_of_one_image_are_not_available(cases: Path, tmp_path: Path) -> None:
    model, out = str(cases / "good.onnx"), tmp_path / "out"
    data = tmp_path / "data"
    write_cases(data, count=4)  # crack is in one of them, oil in two
    assert main(["report", model, str(data), "--out", str(out)]) == 0
    intervals, page = scores_of(out)["intervals"]["classes"], Numbers((out / "report.html").read_text()).by_key
    assert intervals["crack"]["dice"] is None
    assert page["/intervals/classes/crack/dice"] == "n/a"
    assert intervals["oil"]["dice"] is not None
    for kind in ("images", "masks"):
        for number in (0, 1, 3):
            (data / "test" / kind / f"part{number}.png").unlink()
    assert main(["report", model, str(data), "--out", str(out)]) == 0
    page = Numbers((out / "report.html").read_text()).by_key
    shown = {text for key, text in page.items() if key.startswith("/intervals/") and not key.endswith("/draws")}
    assert (shown, "/intervals/mean_foreground_dice" in page) == ({"n/a"}, True)
    assert main(["report", model, model, str(data), "--out", str(out)]) == 0
    compared = scores_of(out)["comparison"]["mean_foreground_dice"]
    assert compared == {"difference": 0, "interval": None, "share_of_draws_with_b_ahead": None}
    assert Numbers((out / "report.html").read_text()).by_key["/comparison/mean_foreground_dice/interval"] == "n/a"


def test_predictions_of_a_bundle_and_its_masks_are_scored_alike(cases: Path, tmp_path: Path) -> None:
    data, masks = cases / "data", tmp_path / "masks"
    infer = ["infer", str(cases / "good.onnx"), str(data / "test" / "images"), "--out", str(masks)]
    assert main(infer) == 0
    for start in (["--predictions", str(masks)], [str(masks)]):
        assert main(["report", *start, str(data), "--out", str(tmp_path / "out")]) == 0
        by_masks = scores_of(tmp_path / "out")
        by_model = scores_of(cases / "one") if (cases / "one").is_dir() else None
        assert by_masks["detection"]["pixel_auroc"] is None
        if by_model is not None:
            assert by_masks["confusion"] == by_model["confusion"]
            assert by_masks["mean_foreground_dice"] == by_model["mean_foreground_dice"]


@pytest.mark.parametrize(
    ("split", "exact"),
    [
        pytest.param("train", True, id="train", marks=pytest.mark.full),
        pytest.param("valid", True, id="valid"),
        # The report looks at the neighbours of a blended pixel, the few lines only at its colour.
        pytest.param("valid", False, id="valid, as blended as it is"),
    ],
)
def test_the_published_predictions_are_scored_as_a_few_lines_of_numpy_do(
    split: str, exact: bool, shared_dir: Path, tmp_path: Path
) -> None:
    data = shared_dir / "data" / "mvtec-tile-mini" / split
    colors = yaml.safe_load((ROOT / "configs" / "tile.yaml").read_text())["data"]["palette"]
    table = np.array(list(colors.values()), dtype=int)
    counts = np.zeros((len(colors), 3))
    (tmp_path / "masks").mkdir()
    for path in (data / "reference_predictions").iterdir():
        truth, predicted = (
            np.abs(np.asarray(Image.open(file).convert("RGB")).astype(int)[:, :, None] - table).sum(3).argmin(2)
            for file in (data / "masks" / path.name, path)
        )
        for k in range(len(colors)):
            counts[k] += ((truth == k) & (predicted == k)).sum(), (truth == k).sum(), (predicted == k).sum()
        Image.fromarray(table[truth].astype(np.uint8)).save(tmp_path / "masks" / path.name)
    masks = tmp_path / "masks" if exact else data / "masks"
    arguments = ["--images", str(data / "images"), "--masks", str(masks), "--out", str(tmp_path / "out")]
    arguments += ["--palette", str(ROOT / "configs" / "tile.yaml"), *([] if exact else ["--antialiased_masks"])]
    assert main(["report", "--predictions", str(data / "reference_predictions"), *arguments]) == 0
    found = scores_of(tmp_path / "out")["classes"]
    for (hit, true, given), name in zip(counts, colors, strict=True):
        expected = 2 * hit / (true + given) if true else None
        assert found[name]["dice"] == pytest.approx(expected, abs=1e-12 if exact else 0.002), name


def test_a_checkpoint_is_scored_as_test_scores_it(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    assert main(["report", str(tiny_checkpoint), str(tiny_data), "--out", str(tmp_path / "out")]) == 0
    config = {"data": {"root": str(tiny_data), "num_workers": 0}, "trainer": {"accelerator": "cpu", "logger": False}}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(config))
    arguments = ["--ckpt_path", str(tiny_checkpoint), "--run_dir", str(tmp_path / "run")]
    assert main(["test", "--config", str(tmp_path / "test.yaml"), *arguments]) == 0
    tested = json.loads((tmp_path / "run" / "test_scores.json").read_text())
    reported = scores_of(tmp_path / "out")
    for key in ("mean_foreground_dice", "mean_foreground_iou", "pixel_accuracy", "mean_image_dice", "images"):
        assert reported[key] == pytest.approx(tested[key], abs=1e-12), key
    assert reported["dice_coef_multiclass"] == pytest.approx(tested["dice_coef_multiclass"], abs=2e-5)
    for name, scores in tested["classes"].items():
        assert reported["classes"][name]["dice"] == scores["dice"]


def test_a_run_folder_stands_for_its_best_checkpoint(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_run), str(tiny_data), "--split", "valid", "--out", str(tmp_path), "--draws", "0"]
    assert main(["report", *arguments]) == 0
    scores = scores_of(tmp_path)
    assert scores["made"]["models"][0]["path"] == str(tiny_run / "checkpoints" / "best.ckpt")
    assert scores["intervals"] is None


def test_groups_of_the_manifest_are_drawn_together(cases: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(cases / "data", data)
    rows = [Row(f"test/images/part{n}.png", f"s{n}", f"group{n // 4}", {}, "test", "") for n in range(8)]
    write_manifest(data, rows)
    assert main(["report", str(cases / "good.onnx"), str(data), "--out", str(tmp_path / "out")]) == 0
    scores = scores_of(tmp_path / "out")
    assert (scores["has_groups"], scores["groups"]) == (True, 2)
    assert [row["group"] for row in scores["per_image"]] == ["group0"] * 4 + ["group1"] * 4
    assert len(scores["made"]["data"]["manifest_sha256"]) == 64
    assert "groups of images" in (tmp_path / "out" / "report.html").read_text()


def test_variants_of_a_source_without_a_manifest_are_reported(cases: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(cases / "data", data)
    for kind in ("images", "masks"):
        shutil.copy(data / "test" / kind / "part1.png", data / "test" / kind / "hflipped_part1.png")
    model = str(cases / "good.onnx")
    for models in ([model], [model, model]):
        assert main(["report", *models, "--data", str(data), "--out", str(tmp_path / "out")]) == 0
        html = (tmp_path / "out" / "report.html").read_text()
        assert (
            '<span data-key="/made/data/sources">8</span> sources, and no manifest says which belong together' in html
        )
        assert main(["report", *models, "--data", str(cases / "data"), "--out", str(tmp_path / "out")]) == 0
        assert "no manifest" not in (tmp_path / "out" / "report.html").read_text()


def test_leaks_are_reported_by_name_or_by_the_audit(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(cases / "data", data)
    shutil.copytree(data / "test", data / "train")
    for kind in ("images", "masks"):
        for path in sorted((data / "train" / kind).iterdir())[3:]:
            path.unlink()
        path = data / "train" / kind / "part0.png"
        path.rename(path.with_name("hflipped_part0.png"))
    arguments = ["report", str(cases / "good.onnx"), str(data), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "warning: 3 of 8 images have a relative in train, by file names" in capsys.readouterr().out
    assert "3 of 8 images have a relative in train" in (tmp_path / "out" / "report.html").read_text()
    leaks = {"leaks": {"test": {"images": 8, "with_relatives_in": {"train": 5}}}}
    (data / "audit.json").write_text(json.dumps(leaks))
    assert main(arguments) == 0
    assert scores_of(tmp_path / "out")["made"]["leaks"] == [
        "5 of 8 images have a relative in train, by the audit of this data set: the scores are better than for images "
        "of other sources."
    ]
    assert main([*arguments, "--split", "train"]) == 0
    assert "These are training images" in scores_of(tmp_path / "out")["made"]["leaks"][0]


def test_one_sigmoid_channel_and_ignored_pixels(tmp_path: Path) -> None:
    palette = Palette(("background", "hole"), ((0, 0, 0), (255, 0, 0)), ignore=(9, 9, 9))
    facts: dict[str, Any] = {
        "classes": [{"name": "background", "color": [0, 0, 0]}, {"name": "hole", "color": [255, 0, 0]}],
        "num_classes": 1,
        "ignore": [9, 9, 9],
    }
    write_model(tmp_path / "model.onnx", np.array([[-0.05, 0.05, 0]])[:, :, None, None], **facts)
    truth = np.zeros((20, 30), dtype=np.uint8)
    truth[2:6, 2:6] = 1
    shown = truth.copy()
    truth[15:, :] = 255
    shown[16:, 3:] = 1  # all of it where nobody knows
    write_case(tmp_path / "data" / "test", "a", truth, shown)
    palette.save(tmp_path / "data" / "palette.yaml")
    out = tmp_path / "out"
    assert main(["report", str(tmp_path / "model.onnx"), str(tmp_path / "data"), "--out", str(out)]) == 0
    scores = scores_of(out)
    assert scores["confusion"] == [[450 - 16, 0], [0, 16]]
    assert scores["mean_foreground_dice"] == 1.0
    assert scores["detection"]["pixel_auroc"] == 1.0
    assert scores["detection"]["false_alarm_regions"] == 0
    assert scores["classes"]["hole"]["boundary_f"] == 1.0
    assert scores["dice_coef_multiclass_of_background"] == pytest.approx(1 / 17, abs=1e-6)


def test_false_alarms_of_classes_that_do_not_occur_are_reported(tmp_path: Path) -> None:
    truth = np.zeros((20, 30), dtype=np.uint8)
    truth[2:6, 2:6] = 1
    predicted = truth.copy()
    predicted[10:12, 10:13] = 2
    write_case(tmp_path / "data" / "test", "a", truth, predicted)
    PALETTE.save(tmp_path / "data" / "palette.yaml")
    write_model(tmp_path / "model.onnx")
    assert main(["report", str(tmp_path / "model.onnx"), str(tmp_path / "data"), "--out", str(tmp_path)]) == 0
    html = " ".join((tmp_path / "report.html").read_text().split())
    assert 'not occur in these images: oil <span data-key="/false_alarms/oil">6</span> pixels.</p>' in html
    assert scores_of(tmp_path)["mean_foreground_dice"] == 1


def test_folders_of_images_and_masks_will_do(cases: Path, tmp_path: Path) -> None:
    test = cases / "data" / "test"
    out = ["--out", str(tmp_path / "out")]
    assert main(["report", str(cases / "good.onnx"), str(test), *out]) == 0
    named = ["--images", str(test / "images"), "--masks", str(test / "masks")]
    assert main(["report", *named, str(cases / "good.onnx"), *out]) == 0
    assert scores_of(tmp_path / "out")["made"]["data"]["split"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "--out DIR is not given", id="nothing"),
        pytest.param(["--out", "o"], "no data given", id="no paths"),
        pytest.param(["DATA", "--out", "o"], "not 0 (none), and DATA taken for the data", id="no model"),
        pytest.param(["a", "b", "c", "DATA", "--out", "o"], "not 3 (a, b, c), and DATA taken", id="three models"),
        pytest.param(["absent.ckpt", "DATA", "--out", "o"], "absent.ckpt: no model there", id="absent model"),
        pytest.param(["MODEL", "absent", "--out", "o"], "absent: this folder does not exist", id="absent data"),
        pytest.param(["MODEL", "DATA", "--split", "tset", "--out", "o"], "did you mean 'test'?", id="split"),
        pytest.param(["MODEL", "DATA", "--outt", "o"], "did you mean 'out'?", id="option"),
        pytest.param(["MODEL", "DATA", "--draws", "-1", "--out", "o"], "must be at least 0", id="draws"),
        pytest.param(["MODEL", "DATA", "--masks", "x", "--out", "o"], "belong together", id="masks alone"),
        pytest.param(["DATA", "DATA", "--out", "o"], "no model there", id="data as model"),
        pytest.param(["DATA/palette.yaml", "DATA", "--out", "o"], "cannot be read as a checkpoint", id="no checkpoint"),
        pytest.param(["MODEL", "DATA", "--out", "DATA/palette.yaml"], "cannot be written to", id="out is a file"),
        pytest.param(["--predictions", "absent", "DATA", "--out", "o"], "--predictions absent", id="predictions"),
        pytest.param(
            ["MODEL", "DATA", "--palette", "OTHER", "--out", "o"],
            "the model knows the classes background, crack, oil, the data background, scratch",
            id="other classes",
        ),
    ],
)
def test_mistakes_give_one_message(
    arguments: list[str], message: str, cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.yaml").write_text("{background: [0, 0, 0], scratch: [1, 2, 3]}")
    places = {"MODEL": cases / "good.onnx", "DATA": cases / "data", "OTHER": tmp_path / "other.yaml"}

    def real(word: str) -> str:
        for name, place in places.items():
            word = word.replace(name, str(place))
        return str(tmp_path / "out") if word == "o" else word

    assert real(message) in failure([real(word) for word in arguments], capsys)
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda test: (test / "masks" / "part1.png").unlink(), "no mask with the stem 'part1'", id="truth"),
        pytest.param(lambda test: shutil.rmtree(test / "masks"), "a report needs the truth of every image", id="masks"),
        pytest.param(
            lambda test: Image.new("RGB", (20, 24), (1, 2, 3)).save(test / "masks" / "part2.png"),
            "--antialiased_masks",
            id="colour",
        ),
        pytest.param(
            lambda test: Image.new("L", (5, 5)).save(test / "masks" / "part3.png"), "differ in size", id="size"
        ),
    ],
)
def test_faulty_truth_is_reported_before_the_work(
    spoil: Any, message: str, cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(cases / "data", data)
    spoil(data / "test")
    assert message in failure([str(cases / "good.onnx"), str(data), "--out", str(tmp_path / "out")], capsys)


def test_faulty_predictions_are_reported(cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = tmp_path / "masks"
    shutil.copytree(cases / "data" / "test" / "masks", masks)
    arguments = ["--predictions", str(masks), str(cases / "data"), "--out", str(tmp_path / "out")]
    Image.new("L", (5, 5)).save(masks / "part4.png")
    assert "differ in size (height x width: 5 x 5 and 24 x 20)" in failure(arguments, capsys)
    Image.new("L", (20, 24), 255).save(masks / "part4.png")
    palette = Palette(PALETTE.names, PALETTE.colors, ignore=(9, 9, 9))
    palette.save(masks / "palette.yaml")
    assert "predicts ignored pixels" in failure(arguments, capsys)
    (masks / "part4.png").unlink()
    assert "1 of 8 images have no predicted mask, first: part4" in failure(arguments, capsys)
    shutil.rmtree(masks)
    masks.mkdir()
    assert "no mask (" in failure(arguments, capsys)


def test_a_model_that_has_diverged_is_reported(cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "nan.onnx", np.full((3, 3, 1, 1), np.nan))
    error = failure([str(tmp_path / "nan.onnx"), str(cases / "data"), "--out", str(tmp_path / "out")], capsys)
    assert "probabilities that are no numbers" in error


def test_options_and_paths_may_stand_in_any_order() -> None:
    plain = parse(["a", "b", "--data", "d", "--out", "o", "--antialiased_masks"])
    for words in (
        ["--out", "o", "a", "--antialiased-masks", "b", "--data=d"],
        ["--antialiased_masks", "true", "a", "--out=o", "--data", "d", "b"],
    ):
        assert parse(words).models == plain.models == (Path("a"), Path("b"))
        assert parse(words).antialiased
    both = parse(["--predictions", "p", "a", "d", "--out", "o"])
    assert (both.models, both.predictions, both.data) == ((Path("a"), Path("p")), (Path("p"),), Path("d"))


@pytest.fixture(scope="module")
def browser() -> Any:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on this machine; .ci/run installs it with apt-get")
    with open_browser(program) as opened:
        yield opened


def names_shown(page: Page) -> list[str]:
    script = (
        "[...document.querySelectorAll('.sortable tbody tr:not([hidden]) td:nth-child(2)')].map(c => c.textContent)"
    )
    return [str(name) for name in page.run(script)]


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_works_in_a_browser(
    width: int, dark: bool, one_report: Path, two_report: Path, browser: Browser, tmp_path: Path
) -> None:
    page = browser.page()
    for out in (one_report, two_report):
        page.open(out / "report.html", width, dark)
        assert page.run("document.documentElement.scrollWidth") <= width, "wider than the window"
        background = page.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in background[4:-1].split(",")) < 200) is dark
        page.photograph(tmp_path / "page.png")
        assert page.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert len(names_shown(page)) == 8
        if width == 1280:
            cut = "[...document.querySelectorAll('.scroll')].filter(b => b.scrollWidth > b.clientWidth).length"
            assert page.run(cut) == 0, "no column is cut off"
        click = "[...document.querySelectorAll('.sortable th button')].find(b => b.textContent === '{}').click()"
        page.run(click.format("image"))
        assert names_shown(page) == [f"part{number}" for number in range(8)]
        page.run(click.format("image"))
        assert names_shown(page) == [f"part{number}" for number in reversed(range(8))]
        page.run(click.format("Dice" if out == one_report else "Dice A"))
        assert set(names_shown(page)[-2:]) == {"part0", "part4"}, "images without a value come last"
        page.run(
            "{const box = document.querySelector('[name=words]'); box.value = 'PART3'; "
            "box.dispatchEvent(new Event('input', {bubbles: true}))}"
        )
        assert names_shown(page) == ["part3"]
        assert page.run("document.querySelector('output').textContent") == "1 of 8 images"
        page.run(
            "{document.querySelector('[name=words]').value = ''; const kind = document.querySelector('[name=kind]'); "
            "kind.value = 'crack'; kind.dispatchEvent(new Event('input', {bubbles: true}))}"
        )
        assert sorted(names_shown(page)) == ["part2", "part6"]
    assert page.complaints == []


def test_the_browser_hears_complaints(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        "<script>console.error('oh')</script><script>null.x</script><img src='http://127.0.0.1:9/x.png'>"
    )
    page = browser.page()
    page.open(tmp_path / "bad.html", 400)
    page.run("0")
    heard = " ".join(page.complaints)
    assert "oh" in heard
    assert "null" in heard
    assert "http://127.0.0.1:9/x.png" in heard


def test_commands_of_the_page_run(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_data, tmp_path / "dataset" / "tile")
    for name in ("tile-1", "tile-2"):
        shutil.copytree(tiny_run, tmp_path / "runs" / name)
    shutil.copytree(tiny_data / "valid" / "masks", tmp_path / "masks")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    commands = commands_in(ROOT / "docs" / "report.md")
    for words in commands:
        assert words[1:3] == ["-m", "flexunet_pl"]
        assert main(words[3:]) == 0, " ".join(words)
    assert {path.name for path in (tmp_path / "reports").iterdir()} == {"tile", "published", "compared", "network"}
    assert scores_of(tmp_path / "reports" / "published")["mean_foreground_dice"] == 1.0
    assert len(commands) == 4


def check_in_browser(out: Path, images: int, browser: Browser, tmp_path: Path, charts: int = 6) -> None:
    page = browser.page()
    for width in (1280, 400):
        page.open(out / "report.html", width)
        page.photograph(tmp_path / "page.png")
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.run("document.querySelectorAll('figure.chart').length") == charts
        assert len(names_shown(page)) == images
    assert page.complaints == []


def test_the_report_of_a_demo_model_works_in_a_browser(
    tiny_run: Path, tiny_data: Path, browser: Browser, tmp_path: Path
) -> None:
    assert main(["report", str(tiny_run), str(tiny_data), "--split", "valid", "--out", str(tmp_path / "out")]) == 0
    check_in_browser(tmp_path / "out", 6, browser, tmp_path)


@pytest.mark.full
def test_the_report_of_a_model_of_real_tiles_works_in_a_browser(
    shared_dir: Path, browser: Browser, tmp_path: Path
) -> None:
    data = shared_dir / "data" / "mvtec-tile-mini"
    config = yaml.safe_load((ROOT / "configs" / "tile.yaml").read_text())
    config["trainer"] |= {"accelerator": "cpu", "max_epochs": 2, "logger": False, "enable_progress_bar": False}
    config["model"] |= {"base_filters": 4, "base_kernel": 5, "num_layers": 4, "learning_rate": 1e-3}
    config["data"] |= {"root": str(data), "image_size": 128, "num_workers": 0}
    (tmp_path / "mini.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(tmp_path / "mini.yaml"), "--run_dir", str(tmp_path / "run")]) == 0
    arguments = ["--split", "valid", "--antialiased_masks", "--out", str(tmp_path / "out")]
    assert main(["report", str(tmp_path / "run"), str(data), *arguments]) == 0
    check_in_browser(tmp_path / "out", 9, browser, tmp_path, charts=5)  # no good image, no curve of decisions
