"""Labels to check: confident learning on pixels, kinds of contradictions, scores, and whose prediction counts."""

import csv
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.core.types import Pair
from flexunet_pl.data.manifest import read_manifest
from flexunet_pl.data.masks import read_mask
from flexunet_pl.data.palette import Palette, UInt8Array
from flexunet_pl.evaluation import label_errors
from flexunet_pl.evaluation.held_out import HeldOut, find_held_out
from flexunet_pl.evaluation.label_errors import Typical, score_of
from flexunet_pl.evaluation.label_pixels import (
    LabelledPixels,
    SelfConfidence,
    as_levels,
    confident_joint,
    mask_quality,
    suggested_classes,
)
from flexunet_pl.evaluation.label_regions import (
    INVENTED,
    LOOSE_EDGE,
    MISSING,
    WRONG_CLASS,
    Contradiction,
    contradictions,
)
from flexunet_pl.evaluation.models import ImagePrediction
from flexunet_pl.report.label_review import label_studio_tasks
from flexunet_pl.training.runs import find_checkpoint

SURE, THRESHOLDS = 0.9, np.array([0.8, 0.7, 0.7])
TRUTH = np.zeros((60, 60), np.uint8)
TRUTH[10:22, 10:22] = 1
TRUTH[40:52, 36:48] = 2
SPACE = slice(40, 52), slice(6, 18)  # nothing is there


def pixels_of(labelled: UInt8Array, truth: UInt8Array, classes: int = 3, sure: float = SURE) -> LabelledPixels:
    """Return a network that is ``sure`` of the truth at every pixel."""
    rest = (1 - sure) / (classes - 1)
    probabilities = np.where(truth[..., None] == np.arange(classes), sure, rest).astype(np.float32)
    return LabelledPixels(labelled, as_levels(probabilities), (labelled.shape[0], labelled.shape[1]))


def kinds_in(labelled: UInt8Array, truth: UInt8Array = TRUTH) -> list[Contradiction]:
    pixels = pixels_of(labelled, truth)
    return contradictions(pixels, suggested_classes(pixels, THRESHOLDS))


def test_thresholds_are_mean_probabilities_of_the_label() -> None:
    confidence = SelfConfidence(3)
    levels = np.array([[[255, 0, 0], [153, 102, 0], [51, 204, 0], [0, 51, 204]]], np.uint8)
    confidence.add(LabelledPixels(np.array([[0, 0, 1, 255]], np.uint8), levels, (1, 4)))
    # Class 0: (1 + 0.6) / 2; class 1: 0.8; class 2 has an ignored pixel only, so no pixel can be confidently of it.
    assert confidence.thresholds.tolist() == pytest.approx([0.8, 0.8, 1.0])


def test_a_confident_class_is_the_most_probable_above_its_own_threshold() -> None:
    probabilities = np.array([[[0.5, 0.45, 0.05], [0.85, 0.1, 0.05], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]]], np.float32)
    labelled = np.array([[2, 1, 1, 255]], np.uint8)
    pixels = LabelledPixels(labelled, as_levels(probabilities), (1, 4))
    # Class 1 is confident of the first pixel though class 0 is more probable: it is seldom as sure.
    found = suggested_classes(pixels, np.array([0.8, 0.4, 0.9]))
    assert found.tolist() == [[1, 0, 1, 255]]
    assert confident_joint(labelled, found, 3).tolist() == [[0, 0, 0], [1, 1, 0], [0, 1, 0]]


def test_the_quality_of_a_mask_is_the_soft_minimum_of_its_probabilities() -> None:
    levels = np.array([[[255, 0], [0, 255], [255, 0]]], np.uint8)
    labelled = np.array([[0, 0, 255]], np.uint8)
    # Probabilities 1 and 0, weights exp(0 / 0.1) and exp(1 / 0.1); the third pixel is ignored.
    assert mask_quality(LabelledPixels(labelled, levels, (1, 3))) == pytest.approx(1 / (1 + math.exp(10)))
    assert mask_quality(LabelledPixels(np.full((1, 3), 255, np.uint8), levels, (1, 3))) == 1


def test_a_label_that_is_right_is_not_contradicted() -> None:
    assert kinds_in(TRUTH) == []


def test_each_planted_error_has_its_kind_box_and_margin() -> None:
    labelled = TRUTH.copy()
    labelled[10:22, 10:22] = 0  # deleted
    labelled[40:52, 36:48] = 1  # of the other class
    labelled[SPACE] = 2  # invented
    found = {one.kind: one for one in kinds_in(labelled)}
    assert found.keys() == {MISSING, WRONG_CLASS, INVENTED}
    # 0.9 and 0.05 are 230 and 13 of 255.
    assert [one.margin for one in found.values()] == pytest.approx([(230 - 13) / 255] * 3)
    assert found[MISSING].box == (10, 10, 22, 22)
    assert (found[MISSING].labelled, found[MISSING].suggested) == (0, 1)
    assert found[WRONG_CLASS].box == (36, 40, 48, 52)
    assert (found[WRONG_CLASS].labelled, found[WRONG_CLASS].suggested) == (1, 2)
    assert found[INVENTED].box == (6, 40, 18, 52)
    assert (found[INVENTED].labelled, found[INVENTED].suggested) == (2, 0)
    assert all(one.area == 144 for one in found.values())


@pytest.mark.parametrize("grown", [2, 4], ids=["2 pixels", "4 pixels"])
def test_a_grown_edge_is_loose_by_as_many_pixels(grown: int) -> None:
    labelled = TRUTH.copy()
    labelled[10 - grown : 22 + grown, 10 - grown : 22 + grown] = 1
    (found,) = kinds_in(labelled)
    assert (found.kind, found.labelled, found.suggested) == (LOOSE_EDGE, 1, 1)
    assert found.area == (12 + 2 * grown) ** 2 - 144
    # Corners of the outer square are farther from the inner one than its sides.
    assert grown <= found.distance < 1.2 * grown
    assert found.box == (10 - grown, 10 - grown, 22 + grown, 22 + grown)


def test_a_thin_rim_around_a_defect_is_its_edge_and_a_far_tail_is_missing() -> None:
    labelled = TRUTH.copy()
    labelled[10:22, 10:22] = 0
    labelled[12:20, 12:20] = 1
    assert [one.kind for one in kinds_in(labelled)] == [LOOSE_EDGE]
    truth = TRUTH.copy()
    truth[14:18, 22:50] = 1  # a tail that the label lacks, 28 pixels long
    assert MISSING in [one.kind for one in kinds_in(TRUTH, truth)]


@pytest.mark.parametrize(("rows", "kind"), [(1, INVENTED), (2, LOOSE_EDGE)], ids=["a twelfth", "a sixth"])
def test_a_speck_seen_within_an_invented_defect_does_not_make_it_real(rows: int, kind: str) -> None:
    labelled, truth = TRUTH.copy(), TRUTH.copy()
    labelled[SPACE] = 2
    truth[40 : 40 + rows, 6:18] = 1
    assert [one.kind for one in kinds_in(labelled, truth)] == [kind]


def test_ignored_pixels_and_doubtful_predictions_contradict_nothing() -> None:
    labelled = np.where(TRUTH > 0, 255, 0).astype(np.uint8)
    assert kinds_in(labelled) == []
    pixels = pixels_of(np.zeros_like(TRUTH), TRUTH, sure=0.6)  # below the thresholds
    assert contradictions(pixels, suggested_classes(pixels, THRESHOLDS)) == []


def test_scores_are_worked_numbers() -> None:
    typical = Typical()
    typical.add_areas(1, [40.0, 80.0, 120.0, 160.0, 200.0])
    for distance in (1.0, 1.0, 2.0, 3.0, 9.0):
        typical.add_distance(1, distance)
    box = (0, 0, 9, 9)
    assert score_of(Contradiction(MISSING, 0, 1, box, 20, 0.8), typical) == pytest.approx(0.8 * math.sqrt(20 / 80))
    assert score_of(Contradiction(INVENTED, 1, 0, box, 500, 0.8), typical) == pytest.approx(0.8)
    assert score_of(Contradiction(LOOSE_EDGE, 1, 1, box, 9, 0.6, 8.0), typical) == pytest.approx(0.6 * (1 - 2 / 8))
    assert score_of(Contradiction(LOOSE_EDGE, 1, 1, box, 9, 0.6, 1.5), typical) == 0
    # A class with fewer than five regions takes those of all classes.
    assert typical.small_area(2) == 80


def test_each_image_is_judged_by_the_network_that_has_not_trained_on_it(folds_run: Path, folded_data: Path) -> None:
    found = find_held_out(folds_run, folded_data)
    network_of = {pair.name: part.checkpoint for part in found.parts for pair in part.pairs}
    rows = read_manifest(folded_data)
    assert network_of.keys() == {row.name for row in rows}
    for row in rows:
        run = folds_run if row.fold is None else folds_run / f"fold-{row.fold}"
        assert network_of[row.name] == find_checkpoint(run), row.file
    assert found.note == ""


def test_a_run_without_folds_is_asked_about_what_it_did_not_train_on(tiny_run: Path, tiny_data: Path) -> None:
    found = find_held_out(tiny_run, tiny_data)
    names = {path.stem for split in ("valid", "test") for path in (tiny_data / split / "images").iterdir()}
    assert {pair.name for pair in found.pairs} == names
    assert f"{len(names)} of 27 images are checked" in found.note
    assert "fit DATA --folds 5" in found.note


def test_a_run_of_one_fold_is_asked_about_that_fold(folds_run: Path, folded_data: Path) -> None:
    found = find_held_out(folds_run / "fold-1", folded_data)
    expected = {row.name for row in read_manifest(folded_data) if row.fold in (1, None)}
    assert {pair.name for pair in found.pairs} == expected


def test_an_unsuitable_run_is_one_error_before_any_work(
    folds_run: Path, tiny_run: Path, folded_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["audit", str(folded_data), "--out", str(tmp_path / "out"), "--labels"]
    assert main([*words, str(tiny_run)]) == 2
    assert f"not on {folded_data}, so which of these images it knows is unclear" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "none")]) == 2
    assert "is no run folder" in capsys.readouterr().err
    unfinished = tmp_path / "unfinished"
    shutil.copytree(folds_run, unfinished)
    shutil.rmtree(unfinished / "checkpoints")
    config = (unfinished / "config.yaml").read_text().replace("../", f"{folds_run.parent.parent}/", 1)
    (unfinished / "config.yaml").write_text(config)
    with pytest.raises(UserError):
        find_held_out(unfinished, folded_data)
    assert not (tmp_path / "out").exists()


def test_the_review_is_written_beside_the_audit(
    folds_run: Path, folded_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(folded_data), "--labels", str(folds_run), "--out", str(tmp_path)]) in (0, 2)
    said = capsys.readouterr().out
    assert "labels: 27 masks compared with networks that have not trained on them" in said
    names = {"audit.html", "audit.json", *(f"label_review{end}" for end in (".html", ".json", ".csv", "_tasks.json"))}
    assert {path.name for path in tmp_path.iterdir()} == names
    content = json.loads((tmp_path / "label_review.json").read_text())
    assert len(content["images"]) == 27
    assert sum(map(sum, content["confident_joint"])) == 27 * 32 * 32
    scores = [one["score"] for one in content["findings"]]
    assert scores == sorted(scores, reverse=True)
    with (tmp_path / "label_review.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [one["image"] for one in content["findings"]]


def perfect(held_out: HeldOut, palette: Palette, clean: Path) -> Iterator[tuple[Pair, ImagePrediction]]:
    """Predict what the masks in ``clean`` say."""
    for pair in held_out.pairs:
        truth, _ = read_mask(clean / pair.mask.name, palette, antialiased=False)
        probabilities = pixels_of(truth, truth, len(palette)).levels.astype(np.float32) / np.float32(255)
        yield pair, ImagePrediction(np.zeros((*truth.shape, 3), np.uint8), truth, probabilities)


def test_errors_planted_into_masks_come_first(
    folds_run: Path, folded_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a network that knows the truth, the two wrong masks of 27 lead both lists, in pixels of the image."""
    data, clean = tmp_path / "tiles", folded_data / "train" / "masks"
    shutil.copytree(folded_data, data)
    palette = Palette.load(data / "palette.yaml")
    defective = []
    for path in sorted((data / "train" / "masks").iterdir()):
        mask_index, _ = read_mask(path, palette, antialiased=False)
        if (mask_index > 0).sum() > 40:
            defective.append((path, mask_index))
    deleted, (swapped, mask_index) = defective[0][0], defective[1]
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(deleted)
    wrong = np.where(mask_index > 0, mask_index % 5 + 1, 0).astype(np.uint8)
    Image.fromarray(palette.decode(wrong)).save(swapped)
    held_out = find_held_out(folds_run, folded_data)
    images, masks = data / "train" / "images", data / "train" / "masks"
    moved = [
        part._replace(pairs=[Pair(one.name, images / one.image.name, masks / one.mask.name) for one in part.pairs])
        for part in held_out.parts
        if "train" in str(part.pairs[0].image)
    ]
    monkeypatch.setattr(label_errors, "predictions", lambda held, colors: perfect(held, colors, clean))
    (tmp_path / "scratch").mkdir()
    found = label_errors.check_labels(HeldOut(moved, 0, ""), data, palette, tmp_path / "scratch")
    assert {one.kind for one in found.findings} <= {MISSING, WRONG_CLASS}
    assert {one.mask for one in found.findings} == {f"train/masks/{path.name}" for path in (deleted, swapped)}
    assert {Path(one.image).stem for one in found.images[:2]} == {deleted.stem, swapped.stem}
    assert found.images[0].quality < 0.5 < found.images[-1].quality
    for task in label_studio_tasks(found):
        for rectangle in task["predictions"][0]["result"]:
            value = rectangle["value"]
            assert 0 <= value["x"] < value["x"] + value["width"] <= 100
            assert 0 <= value["y"] < value["y"] + value["height"] <= 100
            assert value["rectanglelabels"][0] in palette.names


def test_a_network_with_one_channel_has_two_classes() -> None:
    levels = as_levels(torch.tensor([[[0.2]]]).numpy())
    assert levels.tolist() == [[[204, 51]]]
