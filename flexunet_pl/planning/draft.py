"""A plan in the making: what is known, and what was chosen so far."""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from flexunet_pl.nn.networks import chosen_network
from flexunet_pl.planning.facts import Facts
from flexunet_pl.planning.machine import Machine


@dataclass(frozen=True)
class Choice:
    """The value of a key, and why.

    Attributes:
        key: Such as ``data.crop_size``.
        value: What stands in the config; None leaves the default.
        reason: A sentence with the figure behind it.
    """

    key: str
    value: Any
    reason: str


@dataclass
class Draft:
    """What is known while keys are chosen one after the other.

    Attributes:
        facts: Of the data.
        machine: Where the training runs.
        given: Keys that the user gives, which stay.
        values: The value of each key chosen so far.
    """

    facts: Facts
    machine: Machine
    given: Mapping[str, Any]
    values: MutableMapping[str, Any] = field(default_factory=dict)

    @cached_property
    def network(self) -> str:
        """The name of the network."""
        chosen = {key.removeprefix("model."): value for key, value in self.given.items() if key.startswith("model.")}
        network = chosen_network(chosen)
        return network if isinstance(network, str) else str(network.get("name"))

    @property
    def scale(self) -> float:
        """Pixels at the working size for each pixel of an image."""
        side, resize = self.values["data.image_size"], self.values["data.resize"]
        if resize == "none" or side is None:
            return 1.0
        return float(np.max(side)) / self.facts.longest_side

    @property
    def training_size(self) -> tuple[int, int]:
        """Height and width of what the network trains on: a crop, or the largest image."""
        crop = self.values["data.crop_size"]
        if isinstance(crop, int):
            return crop, crop
        height, width = max(self.facts.sizes, key=lambda size: size[0] * size[1])
        return max(round(height * self.scale), 1), max(round(width * self.scale), 1)

    @property
    def working_side(self) -> int:
        """The shorter side of an image at the working size."""
        return round(self.facts.shortest_side * self.scale)
