"""Where the values of a run come from: the command line, config files, and the config that a run saved."""

import copy
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from jsonargparse import Namespace, get_loader

from flexunet_pl.training import runs
from flexunet_pl.training.data_paths import PATH_KEYS
from flexunet_pl.training.parser import MODE


def given_keys(words: Sequence[str]) -> set[str]:
    """Return the keys that the command line gives, those within ``--model '{...}'`` too, as model.NAME."""
    keys = set()
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if match := re.match(r"--([\w.]+)(?:=(.*))?", word, re.DOTALL):
            keys |= {match[1], *_keys_within(match[1], after if match[2] is None else match[2])}
    return keys


def _keys_within(key: str, value: str) -> Iterator[str]:
    if key == "config":
        return
    try:
        content = get_loader(MODE)(Path(value).read_text() if _is_file(value) else value)
    except (yaml.YAMLError, OSError, ValueError):  # the parser says so
        return
    waiting = [(key, content)]
    while waiting:
        place, part = waiting.pop()
        if isinstance(part, dict):
            waiting += [(f"{place}.{name}", inner) for name, inner in part.items()]
        if place != key:
            yield place


def _is_file(value: str) -> bool:
    return value.endswith((".yaml", ".yml", ".json")) and Path(value).is_file()


def with_saved_config(words: list[str], given: set[str]) -> list[str]:
    """Return the words of a command, with the run folder's config.yaml if they name a run folder and no config."""
    folders = [
        word.partition("=")[2] or after
        for word, after in zip(words, [*words[1:], ""], strict=True)
        if word.partition("=")[0] == "--run_dir"
    ]
    config = runs.saved_config(folders[-1]) if folders and "config" not in given else None
    return words if config is None else [words[0], "--config", str(config), *words[1:]]


def portable(config: Namespace, run_dir: Path, folder: Path | None = None) -> Namespace:
    """Return a copy of a config to save in ``folder``, by default ``run_dir``: it names no run and no checkpoint.

    Folders within the run are relative to it, so a new run with this config has its own. Data folders that were given
    relative to the working directory are relative to the config's folder, so the config works from anywhere.
    """
    config = copy.deepcopy(config)
    config.run_dir = config.trainer.default_root_dir = None
    if "ckpt_path" in config:  # tune has none
        config.ckpt_path = None
    loggers = config.trainer.logger if isinstance(config.trainer.logger, list) else [config.trainer.logger]
    runs.relative_folders([*loggers, *(config.trainer.callbacks or [])], run_dir)
    for key in PATH_KEYS:
        path = config.data.get(key)
        if isinstance(path, str) and not Path(path).is_absolute():
            config.data[key] = os.path.relpath(path, run_dir if folder is None else folder)
    return config
