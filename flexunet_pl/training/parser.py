"""The parser of the five Trainer commands: flat keys for networks, older names, and hints for typos."""

import inspect
from typing import Any, NoReturn, get_type_hints

import lightning
import yaml
from docstring_parser import parse
from jsonargparse import get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from flexunet_pl.core.arguments import fail, hinted, parser_keys
from flexunet_pl.core.renamed import current_config
from flexunet_pl.core.yaml_text import load_yaml
from flexunet_pl.nn.networks import DEFAULT_NETWORK, NETWORKS, network_fields
from flexunet_pl.training import callbacks
from flexunet_pl.training.task import SegmentationTask

MODE = "flexunet"  # the parser mode that knows older names of keys in configs


class Parser(LightningArgumentParser):
    """A parser whose errors are one line that suggests the nearest key for a typo."""

    def add_task_arguments(self, skip: set[str]) -> None:
        """Add the settings of the task, and those of all networks as flat keys beside them."""
        self.add_class_arguments(SegmentationTask, "model", skip={*skip, "network"}, instantiate=False)
        names = f"{', '.join(NETWORKS)} (default: {DEFAULT_NETWORK}, flexunet if a setting of it is given)"
        # An ensemble, which comes from a checkpoint only, is a map.
        self.add_argument("--model.network", type=str | dict[str, Any] | None, default=None, help=names)
        for name, (kind, field) in network_fields().items():
            self.add_argument(
                f"--model.{name}", type=get_type_hints(kind)[name] | None, default=None, help=_help(kind, field.name)
            )

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002  jsonargparse's signature
        """Print the message and exit with 2."""
        keys = parser_keys(self)
        fail(hinted(message, lambda key: keys if "." in key else {*keys, *_callback_keys()}))


def _help(kind: type[Any], name: str) -> str:
    """Return the description of a field from the docstring of its dataclass, or of those it inherits from."""
    documented = [one for base in kind.__mro__ for one in parse(base.__doc__ or "").params]
    descriptions = {one.arg_name: one.description or "" for one in documented}
    return " ".join(descriptions.get(name, "").split())


def _load_config(text: str) -> Any:
    return current_config(load_yaml(text, get_loader("yaml")))


set_loader(MODE, _load_config, exceptions=(yaml.YAMLError,))


def _callback_keys() -> set[str]:
    """Return the names of the options of all callbacks and loggers a config may hold, to suggest from."""
    modules = (lightning.pytorch.callbacks, lightning.pytorch.loggers, callbacks)
    kinds = (lightning.Callback, lightning.pytorch.loggers.Logger)
    classes = [
        one for module in modules for one in vars(module).values() if inspect.isclass(one) and issubclass(one, kinds)
    ]
    return {key for one in classes for key in inspect.signature(one).parameters}
