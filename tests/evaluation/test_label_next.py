"""What to label next: uncertainty of a model, variety of features, and the list that comes of both."""

import csv
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flexunet_pl.cli.main import main
from flexunet_pl.core.errors import UserError
from flexunet_pl.data.samples import ReadingRules, read_image
from flexunet_pl.data.synthetic.dataset import write_dataset
from flexunet_pl.evaluation import label_next
from flexunet_pl.evaluation.label_next import rank_unlabelled
from flexunet_pl.evaluation.uncertainty import Probe, Uncertainty, _deepest_layer, _last_tensor
from flexunet_pl.evaluation.varied_choice import Choice, choose, most_of_source
from flexunet_pl.nn.networks import build_network
from flexunet_pl.training.runs import find_checkpoint
from flexunet_pl.training.task import SegmentationTask

NONE = np.zeros((0, 2), np.float32)
# Two pairs of alike items in opposite directions, and their middle at 0.
CROSS = np.array([[1, 0], [1, 0.01], [-1, 0], [-1, -0.01]], np.float32)


def places(found: list[Choice]) -> list[int]:
    return [one.place for one in found]


def test_the_second_choice_is_uncertain_and_unlike_the_first() -> None:
    found = choose(np.array([0.9, 0.8, 0.5, 0.4]), CROSS, NONE, list("abcd"), 3, most=4)
    assert places(found)[:2] == [0, 2]
    assert found[0].distance is None
    assert found[1].distance == pytest.approx(2)  # opposite
    assert found[1].nearest == 0


def test_what_is_like_a_labelled_item_comes_last() -> None:
    labelled = np.array([[1, 0]], np.float32)
    found = choose(np.array([0.9, 0.8, 0.5, 0.4]), CROSS, labelled, list("abcd"), 4, most=4)
    assert places(found)[0] == 2
    assert found[0].nearest == -1  # the first labelled one


def test_uncertainty_decides_between_items_that_are_equally_far() -> None:
    labelled = np.array([[0, 0]], np.float32)
    found = choose(np.array([0.2, 0.7]), np.array([[1, 0], [-1, 0]], np.float32), labelled, ["a", "b"], 1, most=1)
    assert places(found) == [1]


def test_a_source_has_its_share_until_no_other_is_left() -> None:
    rng = np.random.default_rng(0)
    features, sources = rng.normal(size=(12, 4)).astype(np.float32), ["one"] * 8 + ["two", "two", "three", "four"]
    uncertainty = np.array([0.9] * 8 + [0.1] * 4)
    found = places(choose(uncertainty, features, np.zeros((0, 4), np.float32), sources, 12, most=2))
    assert sorted(found) == list(range(12)), "every item once"
    first = [sources[index] for index in found[:6]]
    assert {name: first.count(name) for name in set(first)} == {"one": 2, "two": 2, "three": 1, "four": 1}
    assert [most_of_source(20, 0.1), most_of_source(5, 0.1), most_of_source(10, 1.0)] == [2, 1, 10]


def test_equal_items_are_chosen_in_their_order() -> None:
    assert places(choose(np.zeros(4), np.zeros((4, 2), np.float32), NONE, list("abcd"), 4, most=4)) == [0, 1, 2, 3]


def test_the_uncertainty_of_an_image_is_the_mean_of_what_is_known() -> None:
    assert Uncertainty(0.6, 0.2, None).total == pytest.approx(0.4)
    assert Uncertainty(0.6, 0.3, 0.0).total == pytest.approx(0.3)


def entropy(probabilities: Any) -> Any:
    return -(probabilities * np.log(probabilities.clip(1e-30))).sum(-1) / math.log(probabilities.shape[-1])


def highest(values: Any) -> float:
    """Return the mean of the highest hundredth: of 32 x 32 pixels, eleven."""
    return float(np.sort(values.reshape(-1))[-11:].mean())


def test_entropy_doubt_and_disagreement_are_those_of_the_probabilities(folds_run: Path, tiny_data: Path) -> None:
    picture = next((tiny_data / "valid" / "images").iterdir())
    image = read_image(picture, ReadingRules())
    parts = [
        SegmentationTask.from_checkpoint(find_checkpoint(folds_run / f"fold-{fold}")).run_arrays(image[None])[
            "probabilities"
        ][0]
        for fold in range(2)
    ]
    mean = (parts[0].astype(np.float64) + parts[1]) / 2
    found, features = Probe(find_checkpoint(folds_run)).ask(picture)
    assert found.entropy == pytest.approx(highest(entropy(mean)), abs=1e-5)
    assert found.disagreement is not None
    of_each = (entropy(parts[0].astype(np.float64)) + entropy(parts[1].astype(np.float64))) / 2
    assert found.disagreement == pytest.approx(highest(entropy(mean) - of_each), abs=1e-5)
    assert found.doubt == pytest.approx(1 - abs(2 * (1 - mean[..., 0]).max() - 1), abs=1e-5)
    assert features.shape == (16,)  # 4 filters, doubled twice

    alone, _ = Probe(find_checkpoint(folds_run / "fold-0")).ask(picture)
    assert alone.disagreement is None


@pytest.mark.parametrize(
    "network",
    [
        {"name": "unet", "encoder": "tu-test_resnet", "encoder_weights": None},
        {"name": "dpt", "encoder": "tu-test_vit", "encoder_weights": None},
        {"name": "flexunet", "base_filters": 2, "base_kernel": 3, "num_layers": 3},
    ],
    ids=lambda network: str(network["name"]),
)
def test_every_kind_of_network_has_features(network: dict[str, Any]) -> None:
    built, _ = build_network(network, 3, 3)
    kept: list[torch.Tensor] = []
    _deepest_layer(built).register_forward_hook(lambda _layer, _in, out: kept.append(_last_tensor(out)))
    with torch.inference_mode():
        built.eval()(torch.zeros(1, 3, 224, 224))
    assert kept[0].ndim in (3, 4)
    assert kept[0].shape[0] == 1


@pytest.fixture
def unlabelled(tmp_path: Path, folded_data: Path) -> Path:
    """Return a folder of 12 new images, a copy of a labelled one under another name, and a damaged file."""
    write_dataset(tmp_path / "new", 12, (32, 32), 99)
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for number, path in enumerate(sorted((tmp_path / "new").rglob("images/*.png"))):
        shutil.copy(path, folder / f"hflipped_part{number // 4}.png" if number % 4 == 0 else folder / path.name)
    labelled = next(iter(sorted((folded_data / "train" / "images").iterdir())))
    shutil.copy(labelled, folder / "copy.png")
    (folder / "damaged.png").write_bytes(b"no image")
    return folder


def test_the_list_is_written_with_copies_and_links(
    folds_run: Path, unlabelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, copies, links = tmp_path / "list.csv", tmp_path / "new" / "copies", tmp_path / "links"
    words = ["select", str(folds_run), str(unlabelled), "--count", "5", "--out", str(out)]
    assert main([*words, "--copy", str(copies), "--link", str(links)]) == 0
    said = capsys.readouterr()
    assert "5 of 12 images to label next" in said.out
    assert "Next: label these images" in said.out
    assert "1 images are left out: they are training images of the run." in said.err
    assert "damaged.png: cannot be read as an image" in said.err
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == list("12345")
    names = {Path(row["image"]).name for row in rows}
    assert len(names) == 5
    assert {path.name for path in copies.iterdir()} == {path.name for path in links.iterdir()} == names
    assert all(path.is_symlink() and path.read_bytes() == (copies / path.name).read_bytes() for path in links.iterdir())
    assert all(row["why"] and 0 <= float(row["uncertainty"]) <= 1 and row["disagreement"] for row in rows)
    first = out.read_bytes()
    assert main(words) == 0
    assert out.read_bytes() == first, "the same list again"


def test_mistakes_are_one_error_and_write_nothing(
    tiny_run: Path, unlabelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "list.csv"
    words = ["select", str(tiny_run), str(unlabelled), "--out", str(out)]
    for extra, message in (
        (["--count", "0"], "--count 0 must be at least 1"),
        (["--source_share", "1.5"], "--source_share 1.5 must be above 0, and at most 1"),
        (["--copy", str(unlabelled)], f"--copy {unlabelled}: is there already; name a new or an empty folder"),
    ):
        assert main([*words, *extra]) == 2
        assert message in capsys.readouterr().err
    assert main(["select", str(tmp_path / "none"), str(unlabelled)]) == 2
    assert "no model there" in capsys.readouterr().err
    assert main(["select", str(tiny_run), str(tmp_path / "none")]) == 2
    assert "this folder does not exist" in capsys.readouterr().err
    assert not out.exists()


def test_a_csv_says_which_part_an_image_shows(
    tiny_run: Path, unlabelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in unlabelled.iterdir())
    lines = [f"{name},{'one part' if number % 2 else 'other part'}" for number, name in enumerate(names)]
    (tmp_path / "groups.csv").write_text("\n".join(["file,group", *lines]))
    (unlabelled / "damaged.png").unlink()
    found = rank_unlabelled(tiny_run, unlabelled, 2, 0.5, groups=tmp_path / "groups.csv")
    assert sorted(one.source for one in found.candidates) == ["one part", "other part"]
    words = ["select", str(tiny_run), str(unlabelled), "--groups", str(tmp_path / "groups.csv")]
    assert main([*words, "--source_pattern", "(.)"]) == 2
    assert "both say the sources; leave one out" in capsys.readouterr().err


def test_images_that_the_run_knows_are_not_worth_a_label(tiny_run: Path, tiny_data: Path) -> None:
    with pytest.raises(UserError, match="the run has trained on all its"):
        rank_unlabelled(tiny_run, tiny_data / "train" / "images", 3, 1.0)


def test_what_is_kept_of_an_image_is_small(tiny_run: Path, unlabelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only features are handed to the choice, and at most 500 labelled images are looked at."""
    seen: dict[str, Any] = {}

    def keep(uncertainty: Any, features: Any, labelled: Any, *others: Any) -> list[Choice]:
        seen.update(features=features, labelled=labelled)
        return choose(uncertainty, features, labelled, *others)

    monkeypatch.setattr(label_next, "choose", keep)
    monkeypatch.setattr(label_next, "MOST_LABELLED", 4)
    found = rank_unlabelled(tiny_run, unlabelled, 20, 1.0)
    assert seen["features"].shape[1] == 16
    assert len(seen["labelled"]) <= 4
    assert any("There are only" in note for note in found.notes)
