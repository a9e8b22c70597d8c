"""Which folders and palette a command uses: those of the command line, then the data set's own, then the configs'."""

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.yaml_text import load_yaml
from flexunet_pl.data.layout import PALETTE_FILE, SPLITS, find_palette
from flexunet_pl.data.palette import Palette
from flexunet_pl.training.runs import CONFIG

SPLIT_FOLDERS = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "masks")]
PATH_KEYS = ("root", "predict_dir", "palette", *SPLIT_FOLDERS)


def configs_first(arguments: Sequence[str]) -> list[str]:
    """Return a command line with its ``--config FILE`` before all other options, so that these win wherever they stand.

    ``arguments`` begin with the command.
    """
    configs: list[str] = []
    others: list[str] = []
    words = iter(arguments[1:])
    for word in words:
        if word in ("--config", "-c"):
            configs += [word, *([] if (value := next(words, None)) is None else [value])]
        else:
            (configs if word.startswith("--config=") else others).append(word)
    return [*arguments[:1], *configs, *others]


def resolve_data(data: Namespace, files: Sequence[Path], given: Set[str]) -> list[str]:
    """Choose folders and palette, in place, and return a line for each choice that the user may not expect.

    Relative paths of a config file are found next to it, or else in the working directory. A root wins over folders of
    splits that an earlier config gives. The palette of the root wins over the one of a config.

    Args:
        data: The values under ``data``, merged.
        files: The config files, in the order of the command line.
        given: The options of the command line, such as "data.root".
    """
    _find_beside_configs(data, files, given)
    rank = _ranks(files, given)
    return [*_prefer_root(data, rank), *_prefer_palette_of_root(data, rank, given)]


def test_data_of(run: Path) -> dict[str, Any]:
    """Return where the test images of a run are, as :func:`split_data_of`."""
    return split_data_of(run, "test")


def data_settings(run: Path, repair: str) -> dict[str, Any]:
    """Return the keys of ``data`` in the config of a run; paths are relative to its folder.

    Raises:
        UserError: If there are none; the message ends with ``repair``, what to do instead.
    """
    config = run / CONFIG
    try:
        content = load_yaml(config.read_text(encoding="utf-8"))
        return dict(content["data"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{config}: does not say which data it used ({reason}); {repair}") from error


def split_data_of(run: Path, split: str) -> dict[str, Any]:
    """Return where images of a run are: ``data``, or ``images`` and ``masks``, and ``antialiased_masks``.

    Raises:
        UserError: If its config names no data, or cannot be read, or the split is a fold.
    """
    config = run / CONFIG
    split_folders = [f"{split}_{kind}" for kind in ("images", "masks")]
    data = data_settings(run, "name them with --data")
    if split != "test" and data.get("fold") is not None:
        raise UserError(
            f"{config}: this run validates on fold {data['fold']} of its data set, which is no folder of its own; name "
            "another folder with images and masks"
        )
    # Relative paths of a saved config are relative to its folder.
    places = {key: run / data[key] for key in ("root", *split_folders) if isinstance(data.get(key), str)}
    facts = {"antialiased_masks": bool(data.get("antialiased_masks"))}
    if set(split_folders) <= places.keys():
        return {"data": None, "images": places[split_folders[0]], "masks": places[split_folders[1]], **facts}
    if "root" not in places:
        raise UserError(f"{config}: names no {split} images; name data with --data")
    return {"data": Path(os.path.normpath(places["root"])), **facts}


def check_palette_of_root(data: Namespace, checkpoint: Mapping[str, Any], given: Set[str]) -> list[str]:
    """Compare the palette in the root with that of a checkpoint, which wins; return a line if they differ.

    Raises:
        UserError: If a class has another colour there, so that its masks would be misread.
    """
    found = _palette_file(data)
    if found is None or _is_given("palette", given):
        return []
    theirs, ours = Palette.load(found), Palette.from_mapping(checkpoint, "checkpoint")
    color_of = dict(zip(ours.names, ours.colors, strict=True))
    own_names = {color: name for name, color in color_of.items()}
    classes = list(zip(theirs.names, theirs.colors, strict=True))
    if moved := [name for name, color in classes if color_of.get(name, color) != color]:
        name = moved[0]
        raise UserError(
            f"{found}: {name!r} is {list(dict(classes)[name])}, but {list(color_of[name])} in the checkpoint; choose "
            "the data set that the model was trained for, or say what the colours mean with --data.palette FILE"
        )
    renamed = [f"{own_names[color]} is {name}" for name, color in classes if own_names.get(color, name) != name]
    unknown = [f"no class is {name}" for name, color in classes if color not in own_names]
    if not renamed and not unknown:
        return []
    return [f"The checkpoint has other classes than {found}, and wins: {', '.join([*renamed, *unknown])} there."]


def _find_beside_configs(data: Namespace, files: Sequence[Path], given: Set[str]) -> None:
    for key in PATH_KEYS:
        path = data.get(key)
        if not isinstance(path, str) or f"data.{key}" in given:
            continue
        beside = [file.parent / path for file in files if (file.parent / path).exists()]
        if beside:
            is_absolute = Path(path).is_absolute()  # and stays so
            data[key] = path if is_absolute else os.path.relpath(beside[-1])


def _prefer_root(data: Namespace, rank: Mapping[str, int]) -> Iterator[str]:
    """Drop the folders that a source before that of the root gives; they belong to another root."""
    before = [key for key in SPLIT_FOLDERS if data.get(key) is not None and rank.get(key, -1) < rank.get("root", -1)]
    for key in before:
        data[key] = None
    if before:
        yield f"data.root={data.root} wins over {', '.join(before)} of an earlier config."


def _prefer_palette_of_root(data: Namespace, rank: Mapping[str, int], given: Set[str]) -> Iterator[str]:
    """Drop the palette of a config where the root has its own."""
    found = _palette_file(data)
    if found is None or "palette" not in rank or data.palette is None or _is_given("palette", given):
        return
    chosen = Palette.load(found)
    differs = find_palette(_plain(data.palette), None).to_mapping() != chosen.to_mapping()
    data.palette = None
    if not _is_given("nearest_classes", given):
        data.nearest_classes = None
    if differs:
        yield f"{found} wins over data.palette of the config: {', '.join(chosen.names)}."


def _palette_file(data: Namespace) -> Path | None:
    found = None if data.root is None else Path(data.root) / PALETTE_FILE
    return found if found is not None and found.is_file() else None


def _ranks(files: Sequence[Path], given: Set[str]) -> dict[str, int]:
    """Return for each key under ``data`` the number of the last source that gives it; the command line is the last."""
    rank: dict[str, int] = {}
    for number, file in enumerate(files):
        content = load_yaml(file.read_text(encoding="utf-8"))
        section = content.get("data") if isinstance(content, dict) else None
        if isinstance(section, dict):
            rank |= {str(key): number for key, value in section.items() if value is not None}
    return rank | {name.split(".")[1]: len(files) for name in given if name.startswith("data.")}


def _is_given(key: str, given: Set[str]) -> bool:
    return any(name == f"data.{key}" or name.startswith(f"data.{key}.") for name in given)


def _plain(value: Any) -> Any:
    return value.as_dict() if isinstance(value, Namespace) else value
