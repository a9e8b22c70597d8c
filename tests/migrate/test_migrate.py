"""migrate with weights: what the checkpoint answers, what wins, what is refused, and that all commands run on it."""

import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from doc_commands import commands_in
from keras_cases import FILE_NAMES, assert_same_bits, make_network, probabilities, write
from original_configs import Changes, config_text, value_in

from flexunet_pl.cli.main import main
from flexunet_pl.core.yaml_text import with_text_keys
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.synthetic.dataset import TILE_PALETTE, write_dataset
from flexunet_pl.nn.flexunet import FlexUNet
from flexunet_pl.training.checkpoint import read_checkpoint
from flexunet_pl.training.task import SegmentationTask

COLORS = ", ".join(f"{tuple(color)}:{index}" for index, color in enumerate(TILE_PALETTE.values()))
SMALL: Changes = {
    "model.image_width": "32",
    "model.image_height": "32",
    "model.num_classes": "6",
    "model.base_filters": "2",
    "model.base_kernels": "(5,5)",
    "model.num_layers": "3",
    "train.epochs": "1",
    "mask.rgb_map": f"{{{COLORS}}}",
}
NETWORK: dict[str, Any] = {
    "num_classes": 6,
    "num_layers": 3,
    "base_kernel": 5,
    "dropout": 0.05,
    "input_normalize": True,
}
GOLDEN_FILES = [
    f"{letter}{end}" for letter in "AB" for end in ("_model.h5", "_weights.h5", "_k3.keras", "_k3.weights.h5")
]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a clone of a project of the original: config, weights and data where the family has them."""
    project = tmp_path / "clone" / "projects" / "TensorFlowFlexUNet" / "TILE"
    data = {
        f"{split}.{kind}_dir": f'"../../../dataset/TILE/{split}/{kind}/"'
        for split in ("train", "valid", "test")
        for kind in ("images", "masks")
    }
    (project / "models").mkdir(parents=True)
    text = config_text({**SMALL, **data, "infer.images_dir": '"./mini_test/images/"'})
    (project / "train_eval_infer.config").write_text(text)
    write(project / "models" / "best_model.h5", make_network(**NETWORK), (32, 32))
    write_dataset(tmp_path / "clone" / "dataset" / "TILE", 27, (32, 32), 0)
    shutil.copytree(tmp_path / "clone" / "dataset" / "TILE" / "test" / "images", project / "mini_test" / "images")
    return tmp_path / "clone"


def small_config(folder: Path, changes: Changes | None = None) -> Path:
    path = folder / "train_eval_infer.config"
    path.write_text(config_text({**SMALL, **({} if changes is None else changes)}))
    return path


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden_projects_answer_as_the_original(shared_dir: Path, tmp_path: Path, name: str) -> None:
    golden = shared_dir / "golden"
    assert main(["migrate", str(golden / f"{name[0]}.config"), "--weights", str(golden / name), str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name[0]}.ckpt", f"{name[0]}.yaml"]
    task = SegmentationTask.from_checkpoint(tmp_path / f"{name[0]}.ckpt")
    images = torch.from_numpy(np.load(golden / f"{name[0]}_input.npz")["images"]).permute(0, 3, 1, 2)
    found = probabilities(cast(FlexUNet, task.network), images).numpy()
    expected = np.load(golden / f"{name[0]}_output.npz")["probs"]
    assert np.abs(found - expected).max() <= 5e-6
    assert (found.argmax(-1) == expected.argmax(-1)).all()


@pytest.mark.parametrize(
    "arguments",
    ["CONFIG OUT --weights W", "--weights W CONFIG OUT", "CONFIG --weights=W OUT", "CONFIG --as-run --weights W OUT"],
)
def test_arguments_come_in_any_order(tmp_path: Path, arguments: str) -> None:
    weights = write(tmp_path / "best_model.h5", make_network(**NETWORK), (32, 32))
    places = {"CONFIG": str(small_config(tmp_path)), "W": str(weights), "OUT": str(tmp_path / "new" / "out")}
    words = [places.get(word, word.replace("=W", f"={weights}")) for word in arguments.split()]
    assert main(["migrate", *words]) == 0
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == [
        "train_eval_infer.ckpt",
        "train_eval_infer.yaml",
    ]


@pytest.mark.parametrize("name", FILE_NAMES)
def test_the_checkpoint_holds_the_weights_and_all_it_takes_to_use_them(tmp_path: Path, name: str) -> None:
    network = make_network(**NETWORK)
    weights = write(tmp_path / name, network, (32, 32))
    assert main(["migrate", str(small_config(tmp_path)), str(tmp_path), "--weights", str(weights)]) == 0
    content = read_checkpoint(tmp_path / "train_eval_infer.ckpt")
    prefix = "network."
    assert_same_bits(network, {key.removeprefix(prefix): tensor for key, tensor in content["state_dict"].items()})
    facts = content["hyper_parameters"]
    settings = facts["network"] | {key: facts[key] for key in ("num_classes", "in_channels")}
    assert settings == {**network.arguments, "in_channels": 3, "name": "flexunet"}
    palette = {name: list(color) for name, color in zip(facts["palette"], TILE_PALETTE.values(), strict=True)}
    assert facts["palette"] == palette
    assert (facts["image_size"], facts["resize"], facts["learning_rate"]) == ([32, 32], "stretch", 7e-5)
    assert facts["version"]


@pytest.mark.parametrize(
    ("classes", "found", "palette"),
    [
        pytest.param(4, "(255, 255, 0), (0, 255, 255) were left out", 4, id="surplus colours"),
        pytest.param(8, "class_6, class_7 were added with fresh colours", 8, id="missing colours"),
        pytest.param(1, "were left out", 2, id="one sigmoid"),
    ],
)
def test_the_class_count_of_the_weights_wins(
    tmp_path: Path, classes: int, found: str, palette: int, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write(tmp_path / "w.weights.h5", make_network(**{**NETWORK, "num_classes": classes}))
    rgb_map = "{(0,0,0):0, (0,0,255):1, (255,0,0):2, (0,255,0):3, (255,255,0):4, (0,255,255):5}"
    config = small_config(tmp_path, {"mask.rgb_map": rgb_map})
    assert main(["migrate", str(config), str(tmp_path), "--weights", str(weights)]) == 0
    report = capsys.readouterr().out
    assert found in report
    assert f"[model] num_classes = 6\n  the original made weights of another number\n  here it is {classes}" in report
    colors = value_in(tmp_path / "train_eval_infer.yaml", "data.palette")
    assert len({tuple(color) for color in colors.values()}) == len(colors) == palette
    facts = read_checkpoint(tmp_path / "train_eval_infer.ckpt")["hyper_parameters"]
    assert (facts["num_classes"], len(facts["palette"])) == (classes, palette)


@pytest.mark.parametrize("name", ["w.h5", "w.weights.h5"])
def test_weights_are_what_the_original_made_not_what_was_meant(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # The comments made the original take its defaults: dilation 1, input_normalize True.
    changes: Changes = {"model.dilation": "(3,3) ; wide", "model.input_normalize": "False ; raw"}
    weights = write(tmp_path / name, make_network(**NETWORK), (32, 32))
    assert main(["migrate", str(small_config(tmp_path, changes)), str(tmp_path), "--weights", str(weights)]) == 0
    facts = read_checkpoint(tmp_path / "train_eval_infer.ckpt")["hyper_parameters"]
    assert (facts["network"]["dilation"], facts["network"]["input_normalize"]) == (1, True)
    assert value_in(tmp_path / "train_eval_infer.yaml", "model.dilation") == 1
    assert f"it is (1, 1), since {weights}" in capsys.readouterr().out


def test_a_config_that_was_mended_after_training_fits_too(tmp_path: Path) -> None:
    config = small_config(tmp_path, {"model.num_layers": "3 ; was read as 6"})
    weights = write(tmp_path / "w.h5", make_network(**NETWORK), (32, 32))
    assert main(["migrate", str(config), str(tmp_path), "--weights", str(weights)]) == 0
    assert value_in(tmp_path / "train_eval_infer.yaml", "model.num_layers") == 3


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        pytest.param({"model.num_layers": "4"}, ["--weights", "W"], "num_layers is 3 in the file and 4", id="levels"),
        pytest.param({"model.dropout_rate": "0.2"}, ["--weights", "W"], "dropout is 0.05 in the file", id="dropout"),
        pytest.param({}, ["--weights", "absent.h5"], "absent.h5", id="no such weights"),
        pytest.param({}, ["--weights", "C"], "train_eval_infer.config", id="weights that are none"),
        pytest.param({}, ["--names", "a,b"], "2 names, but the network has 6 classes", id="too few names"),
        pytest.param({}, ["--names", "a,b,c,d,e,a"], "the same name twice", id="a name twice"),
        pytest.param({}, ["--names", "a,b,c,d,e,ignore"], "stands for pixels of no class", id="ignore"),
    ],
)
def test_what_cannot_be_migrated_leaves_nothing(
    tmp_path: Path, changes: Changes, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(tmp_path, changes)
    weights = write(tmp_path / "best_model.h5", make_network(**NETWORK), (32, 32))
    words = [{"W": str(weights), "C": str(config)}.get(word, word) for word in options]
    assert main(["migrate", str(config), str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no section\n", b"\0\1\2", b"[model]\n" + b"x" * 2**21],
    ids=["absent", "empty", "text", "binary", "large"],
)
def test_an_unreadable_config_ends_with_2(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "c.config").write_bytes(content)
    assert main(["migrate", str(tmp_path / "c.config"), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'c.config'}")
    assert not (tmp_path / "out").exists()


def test_only_own_files_are_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = small_config(tmp_path), tmp_path / "out"
    assert main(["migrate", str(config), str(out)]) == 0
    assert main(["migrate", str(config), str(out), "--names", "good,a,b,c,d,e"]) == 0
    assert next(iter(value_in(out / "train_eval_infer.yaml", "data.palette"))) == "good"
    (out / "train_eval_infer.yaml").write_text("mine: true\n")
    assert main(["migrate", str(config), str(out)]) == 2
    assert "was not written by migrate" in capsys.readouterr().err
    assert (out / "train_eval_infer.yaml").read_text() == "mine: true\n"
    assert main(["migrate", str(config), str(config)]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err


def test_missing_folders_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", str(small_config(tmp_path)), str(tmp_path / "out")]) == 0
    assert "warning: [valid] masks_dir: the folder" in capsys.readouterr().err


def test_paths_hold_where_a_folder_on_the_way_is_a_link(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "deep")
    config = clone / "projects" / "TensorFlowFlexUNet" / "TILE" / "train_eval_infer.config"
    out = tmp_path / "link" / "out"
    assert main(["migrate", str(config), str(out)]) == 0
    for key in ("train_images", "predict_dir"):
        given = value_in(out / "train_eval_infer.yaml", f"data.{key}")
        assert not Path(given).is_absolute()
        assert (out / given).is_dir()


def test_folders_beside_the_yaml_win_over_those_of_the_working_directory(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = clone / "projects" / "TensorFlowFlexUNet" / "TILE" / "train_eval_infer.config"
    assert main(["migrate", str(config), str(clone / "ours")]) == 0
    given = value_in(clone / "ours" / "train_eval_infer.yaml", "data.test_images")
    there = tmp_path / "a" / "b"
    (there / given).mkdir(parents=True)  # an empty folder of the same relative path
    monkeypatch.chdir(there)
    yaml_file = str(clone / "ours" / "train_eval_infer.yaml")
    weights = clone / "projects" / "TensorFlowFlexUNet" / "TILE" / "models" / "best_model.h5"
    assert main(["migrate", str(config), str(clone / "ours"), "--weights", str(weights)]) == 0
    assert main(["test", "--config", yaml_file, "--ckpt_path", yaml_file.replace(".yaml", ".ckpt")]) == 0


@pytest.mark.filterwarnings("ignore:.*bf16.*")
def test_commands_of_the_migrating_page_run(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in commands_in(ROOT / "docs" / "migrating.md"):
        if words[1:3] == ["-m", "flexunet_pl"]:
            assert main(words[3:]) == 0, " ".join(words)
    assert sorted(path.name for path in (tmp_path / "tile").iterdir()) == [
        "train_eval_infer.ckpt",
        "train_eval_infer.yaml",
    ]
    masks = {path.stem for path in (tmp_path / "masks").glob("*.png")}
    assert masks == {path.stem for path in (clone / "dataset" / "TILE" / "test" / "images").iterdir()}
    assert {path.name for path in (tmp_path / "exports" / "tile").iterdir()} >= {
        "model.keras",
        "model.weights.h5",
        "model.h5",
    }
    # Training went on from the weights of the original, not from random ones.
    before = read_checkpoint(tmp_path / "tile" / "train_eval_infer.ckpt")["state_dict"]
    after = read_checkpoint(tmp_path / "runs" / "finer" / "checkpoints" / "last.ckpt")
    assert after["epoch"] == 0
    moved = max(float((before[key] - after["state_dict"][key]).abs().max()) for key in before)
    assert 0 < moved < 0.01


def test_the_yaml_of_the_page_is_the_one_shown(clone: Path, tmp_path: Path) -> None:
    config = clone / "projects" / "TensorFlowFlexUNet" / "TILE" / "train_eval_infer.config"
    assert main(["migrate", str(config), str(tmp_path / "tile")]) == 0
    recipe = yaml.safe_load((tmp_path / "tile" / "train_eval_infer.yaml").read_text())
    assert recipe["data"]["train_images"] == "../clone/dataset/TILE/train/images"
    assert recipe["data"]["predict_dir"] == "../clone/projects/TensorFlowFlexUNet/TILE/mini_test/images"


def test_names_that_yaml_misreads_are_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    names = ["no", "on", "1e3", "null", "2024-01-01", "off"]
    assert main(["migrate", str(small_config(tmp_path)), str(out), "--names", ",".join(names)]) == 0
    assert list(Palette.load(out / "train_eval_infer.yaml").names) == names
    given = "{no: [0, 0, 0], yes: [0, 0, 9], 1e3: [0, 0, 8], ~: [0, 0, 7], off: [0, 0, 6], 1: [0, 0, 5]}"
    for palette, expected in (([], names), (["--data.palette", given], ["no", "yes", "1e3", "~", "off", "1"])):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(out / "train_eval_infer.yaml"), *palette, "--print_config"])
        printed = yaml.safe_load(with_text_keys(capsys.readouterr().out))
        assert list(printed["data"]["palette"]) == expected
