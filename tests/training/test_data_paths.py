"""Which folders and palette a command uses: the command line wins, then the data set's own, then the config's."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY

from flexunet_pl.cli.main import main
from flexunet_pl.data.palette import Palette
from flexunet_pl.data.synthetic.dataset import TILE_PALETTE
from flexunet_pl.training.data_paths import configs_first
from flexunet_pl.training.lightning_cli import TrainerCLI

FOLDERS = [f"{split}_{kind}" for split in ("train", "valid", "test") for kind in ("images", "masks")]
# The same colours in another order, as a shipped config has other classes than a prepared folder.
OTHER = {"background": [0, 0, 0], "scratch": [0, 0, 255], "hole": [255, 0, 0]}


class Parsed(TrainerCLI):
    """Parses, and neither builds nor trains anything."""

    def instantiate_classes(self) -> None:
        raise StopIteration


def data_of(*arguments: object, folder: Path) -> dict[str, Any]:
    """Return the values under ``data`` with which fit would run."""
    cli = Parsed.__new__(Parsed)
    with pytest.raises(StopIteration), ExitStack() as resources:
        cli.__init__(["fit", *map(str, arguments), "--run_dir", str(folder / "run")], resources)  # type: ignore[misc]  # keeps the half-built object
    return dict(cli.config.fit.data.as_dict())


def config(path: Path, **data: object) -> Path:
    path.write_text(yaml.safe_dump({**TINY, "data": {**TINY["data"], **data}}))  # type: ignore[dict-item]  # TINY is plain YAML
    return path


@pytest.fixture
def migrated(tmp_path: Path) -> Path:
    """Return a config with the six folders of another root, as migrate writes it."""
    folders = {key: f"elsewhere/{key.replace('_', '/')}" for key in FOLDERS}
    return config(tmp_path / "migrated.yaml", palette=TILE_PALETTE, **folders)


def test_a_root_of_the_command_line_wins_over_folders_of_a_config(
    migrated: Path, tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["test", "--config", str(migrated), "--data.root", str(tiny_data), "--ckpt_path", str(tiny_checkpoint)]
    assert main([*arguments, "--run_dir", str(tmp_path / "run")]) == 0
    line = f"data.root={tiny_data} wins over {', '.join(FOLDERS)} of an earlier config."
    assert line in capsys.readouterr().out


def test_a_folder_of_the_command_line_wins_over_every_root(migrated: Path, tiny_data: Path, tmp_path: Path) -> None:
    given = ["--data.root", tiny_data, "--data.test_images", "mine/images"]
    data = data_of("--config", migrated, *given, folder=tmp_path)
    assert data["root"] == str(tiny_data)
    assert {key: data[key] for key in FOLDERS} == {**dict.fromkeys(FOLDERS), "test_images": "mine/images"}


def test_the_root_of_a_later_config_wins_and_that_of_an_earlier_one_does_not(migrated: Path, tmp_path: Path) -> None:
    rooted = config(tmp_path / "rooted.yaml", root="new")
    later = data_of("--config", migrated, "--config", rooted, folder=tmp_path)
    assert {later[key] for key in FOLDERS} == {None}
    earlier = data_of("--config", rooted, "--config", migrated, folder=tmp_path)
    assert earlier["train_images"] == "elsewhere/train/images"


def test_a_config_may_replace_single_folders_of_its_own_root(tmp_path: Path) -> None:
    path = config(tmp_path / "c.yaml", root="new", valid_images="other/images", valid_masks="other/masks")
    data = data_of("--config", path, folder=tmp_path)
    assert (data["root"], data["valid_images"], data["train_images"]) == ("new", "other/images", None)


def test_options_win_over_a_config_that_follows_them(tmp_path: Path) -> None:
    path = config(tmp_path / "c.yaml", root="old")
    assert data_of("--data.root", "new", "--config", path, folder=tmp_path)["root"] == "new"
    words = ["fit", "--data.root", "new", "--config=a.yaml", "--run_dir", "r", "--config", "b.yaml"]
    expected = ["fit", "--config=a.yaml", "--config", "b.yaml", "--data.root", "new", "--run_dir", "r"]
    assert configs_first(words) == expected


@pytest.fixture
def rooted(tmp_path: Path) -> Path:
    """Return a config with a palette of its own, and a folder "new" with another one beside it."""
    (tmp_path / "new").mkdir()
    Palette.from_mapping(OTHER).save(tmp_path / "new" / "palette.yaml")
    return config(tmp_path / "tile.yaml", root="old", palette=TILE_PALETTE)


def test_the_palette_of_a_root_wins_over_that_of_a_config(
    rooted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_of("--config", rooted, "--data.root", tmp_path / "new", folder=tmp_path)
    assert data["palette"] is None
    file = tmp_path / "new" / "palette.yaml"
    assert f"{file} wins over data.palette of the config: background, scratch, hole." in capsys.readouterr().out


def test_the_palette_of_the_command_line_wins_over_that_of_the_root(
    rooted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    Palette.from_mapping(TILE_PALETTE).save(file)
    given = ["--data.root", tmp_path / "new", "--data.palette", file]
    assert data_of("--config", rooted, *given, folder=tmp_path)["palette"] == str(file)
    assert "wins over" not in capsys.readouterr().out


def test_the_same_palette_twice_is_not_worth_a_line(
    rooted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Palette.from_mapping(TILE_PALETTE).save(tmp_path / "new" / "palette.yaml")
    data_of("--config", rooted, "--data.root", tmp_path / "new", folder=tmp_path)
    assert "wins over" not in capsys.readouterr().out


def test_a_palette_may_be_a_config_beside_the_config(tmp_path: Path) -> None:
    config(tmp_path / "migrated.yaml", palette=OTHER)
    path = config(tmp_path / "c.yaml", root="old", palette="migrated.yaml")
    assert Path(data_of("--config", path, folder=tmp_path)["palette"]).resolve() == tmp_path / "migrated.yaml"


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        pytest.param({}, 0, "", id="the same"),
        pytest.param({"crack": "scratch"}, 0, "crack is scratch there", id="another name"),
        pytest.param({"crack": "oil", "oil": "crack"}, 2, "but [255, 255, 0] in the checkpoint", id="colours swapped"),
    ],
)
def test_a_checkpoint_is_compared_with_the_palette_of_the_root(
    changes: dict[str, str],
    code: int,
    message: str,
    tiny_data: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for split in ("train", "valid", "test"):
        (root / split).symlink_to(tiny_data / split)
    mapping = {changes.get(name, name): color for name, color in TILE_PALETTE.items()}
    Palette.from_mapping(mapping).save(root / "palette.yaml")
    path = config(tmp_path / "c.yaml", root=str(root))
    arguments = ["test", "--config", str(path), "--ckpt_path", str(tiny_checkpoint), "--run_dir", str(tmp_path / "run")]
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert message in shown.out + shown.err
    assert ("has other classes than" in shown.out) is (code == 0 and bool(message))
