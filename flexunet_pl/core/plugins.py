"""Import the user's own modules, which register losses, metrics, transforms or exporters."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from flexunet_pl.core.errors import UserError
from flexunet_pl.core.yaml_text import load_yaml


def load_plugins(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Import the plugins that a command line and its config files give.

    Args:
        arguments: The words of the command line. ``--plugin NAME`` is repeatable; a config lists its plugins under
            ``plugins``. NAME is a file that ends in .py, or a module; a file of a config is looked for beside it first.

    Returns:
        The other words, and the plugins: modules by name, files by absolute path.

    Raises:
        UserError: If a plugin does not exist or cannot be imported.
    """
    rest: list[str] = []
    names: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option not in ("--plugin", "--config", "-c"):
            rest.append(word)
            continue
        found = value if equals else next(words, None)
        if option != "--plugin":
            rest += [word] if equals or found is None else [word, found]
            names += [] if found is None else _plugins_of(Path(found))
        elif not found:
            raise UserError("--plugin needs a value: a file that ends in .py, or the name of a module")
        else:
            names.append(_located(found))
    names = list(dict.fromkeys(names))
    for name in names:
        _import(name)
    return rest, names


def _plugins_of(config: Path) -> list[str]:
    try:
        content = load_yaml(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []  # the parser reads the file next, and reports what is wrong with it
    plugins = content.get("plugins") if isinstance(content, dict) else None
    if plugins is None:
        return []
    if not isinstance(plugins, list) or not all(isinstance(name, str) for name in plugins):
        raise UserError(f"{config}: plugins={plugins!r} must be a list of files or modules, such as [my_losses.py]")
    return [_located(name, config.parent) for name in plugins]


def _located(name: str, folder: Path = Path()) -> str:
    if not name.endswith(".py"):
        return name
    return str(next((path for path in (folder / name, Path(name)) if path.is_file()), Path(name)).resolve())


def _import(name: str) -> None:
    path = Path(name)
    is_file = name.endswith(".py")
    module_name = f"flexunet_plugin_{path.stem}" if is_file else name
    if is_file and getattr(sys.modules.get(module_name), "__file__", None) == name:
        return
    try:
        if not is_file:
            importlib.import_module(name)
            return
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise ImportError("it is no Python module")
        sys.modules[module_name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    except Exception as error:  # a plugin fails in its own way
        raise UserError(
            f"plugin {name}: cannot be imported ({type(error).__name__}: {error}); check the path, or fix the file"
        ) from error
