"""A plan: the choices for a data set and a machine, as text and as a config."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flexunet_pl.core.console import table
from flexunet_pl.core.errors import UserError
from flexunet_pl.data.layout import PALETTE_FILE
from flexunet_pl.data.palette import Palette
from flexunet_pl.nn.networks import network_fields
from flexunet_pl.planning.draft import Choice, Draft
from flexunet_pl.planning.facts import Facts, facts_of
from flexunet_pl.planning.length import Length, trainer_choices
from flexunet_pl.planning.machine import GIBIBYTE, Machine, this_machine
from flexunet_pl.planning.rules import choose
from flexunet_pl.planning.trial import Trial, try_step
from flexunet_pl.training.student import STUDENTS

PLAN_FILE = "plan.yaml"
MOST_SHOWN = 44  # letters of a value in the table


@dataclass(frozen=True)
class Plan:
    """A whole config, and why.

    Attributes:
        facts: Of the data.
        machine: Where the training will run.
        trial: The step that was tried.
        choices: The value of each key, each key once.
    """

    facts: Facts
    machine: Machine
    trial: Trial
    choices: Sequence[Choice]

    def lines(self) -> list[str]:
        """Return the facts, and a table of the choices with their reasons."""
        rows = [[choice.key, _shown(choice.value), choice.reason] for choice in self.choices]
        return [
            *_fact_lines(self.facts),
            _machine_line(self.machine, self.trial),
            "",
            table(["key", "value", "reason"], rows),
        ]

    def text(self, folder: Path, given: Mapping[str, Any]) -> str:
        """Return the config as YAML, each choice with its reason.

        Args:
            folder: Where the file will be, for the relative path of the data.
            given: Further keys of the user's.
        """
        facts = self.facts
        try:
            root = os.path.relpath(facts.root, folder)
        except ValueError:  # another drive
            root = str(facts.root.absolute())
        data = [Choice("data.root", root, "")]
        if not (facts.root / PALETTE_FILE).is_file():
            data.append(Choice("data.palette", facts.palette.to_mapping(), "the colours of the masks"))
        if facts.folds and not facts.images.get("valid"):
            data.append(Choice("data.fold", 0, f"validates; the other {facts.folds - 1} folds train"))
        chosen = {choice.key: choice for choice in [*data, *self.choices] if choice.value is not None}
        chosen |= {key: Choice(key, value, "given") for key, value in given.items()}
        lines = [f"# Planned for {facts.root.name}: flexunet plan says why."]
        sections: dict[str, list[Choice]] = {}
        for choice in chosen.values():
            section, _, _ = choice.key.rpartition(".")
            sections.setdefault(section.partition(".")[0], []).append(choice)
        for section in ("", "trainer", "model", "data"):
            if section and sections.get(section):
                lines.append(f"{section}:")
            for choice in sections.get(section, []):
                name = choice.key.removeprefix(f"{section}.")
                comment = f"  # {choice.reason}" if choice.reason else ""
                lines.append(f"{'  ' * bool(section)}{name}: {_flow(choice.value)}{comment}")
        return "\n".join(lines) + "\n"


def make_plan(root: Path, palette: Palette, length: Length, given: Mapping[str, Any]) -> Plan:
    """Choose every key for a data set and this machine.

    Args:
        root: A prepared data set, or a view of one.
        palette: What class is what.
        length: How long to train.
        given: Keys that the user gives, such as ``data.crop_size``, with their values.

    Raises:
        UserError: If a file of the data set cannot be read, or keys contradict each other.
    """
    trainer = {key.removeprefix("trainer."): value for key, value in given.items() if key.startswith("trainer.")}
    facts, machine = facts_of(root, palette), this_machine(trainer)
    draft = Draft(facts, machine, given)
    choices = choose(draft)
    batch = int(draft.values["data.batch_size"])
    size = draft.training_size
    trial = try_step(_network(draft), len(palette), int(draft.values["data.channels"]), size, batch, machine)
    if trial.halved and "data.batch_size" in given:
        raise UserError(
            f"data.batch_size={batch}: so many crops of {size[0]}x{size[1]} pixels do not fit into the free memory, "
            f"{trial.batch} do; give --data.batch_size {trial.batch} and "
            f"--trainer.accumulate_grad_batches {batch // trial.batch}"
        )
    ends = trainer_choices(draft, length, trial)
    merged = {choice.key: choice for choice in [*choices, *ends]}
    return Plan(facts, machine, trial, list(merged.values()))


def _network(draft: Draft) -> dict[str, Any]:
    """Return name and settings of the network, as far as they are given or planned."""
    fields = network_fields()
    settings = {key: value for key, value in STUDENTS.get(draft.network, {}).items() if key in fields}
    own = {key.removeprefix("model."): value for key, value in draft.given.items() if key.startswith("model.")}
    return {"name": draft.network, **settings, **{key: value for key, value in own.items() if key in fields}}


def _fact_lines(facts: Facts) -> list[str]:
    splits = ", ".join(f"{split} {count}" for split, count in facts.images.items())
    folds = f", in {facts.folds} folds" if facts.folds else ""
    sizes = len(facts.sizes)
    (height, width), _ = max(facts.sizes.items(), key=lambda item: item[1])
    size = f"{width} x {height} pixels" if sizes == 1 else f"{sizes} sizes, most often {width} x {height} pixels"
    rows = []
    for index, name in enumerate(facts.palette.names):
        shapes = facts.shapes.get(index, ())
        if not index:
            continue
        areas = sorted(shape.area for shape in shapes)
        widths = sorted(shape.width for shape in shapes)
        middle = len(shapes) // 2
        typical = [f"{areas[middle]:,}", f"{widths[middle]:.1f}"] if shapes else ["-", "-"]
        rows.append([name, facts.sources.get(index, 0), len(shapes), *typical])
    return [
        f"{facts.root}: {splits}{folds}; {size}; {facts.images['train'] - facts.defective} training images are good",
        "",
        table(["class", "sources", "defects", "typical area", "typical width"], rows),
        "",
    ]


def _machine_line(machine: Machine, trial: Trial) -> str:
    memory = "" if machine.memory is None else f", {machine.memory / GIBIBYTE:.1f} GiB of memory free"
    gpu = "no GPU" if machine.gpu is None else f"{machine.gpu} with {machine.gpu_memory / GIBIBYTE:.1f} GiB free"
    return (
        f"This machine: {machine.cores} cores{memory}, {gpu}; a step of {trial.batch} crops took {trial.seconds:.2f} s "
        f"and {trial.memory / GIBIBYTE:.2f} GiB"
    )


def _shown(value: Any) -> str:
    """Return a value for a column of a table."""
    if value is None:
        return "-"
    text = ", ".join(value) if isinstance(value, dict) and len(_flow(value)) > MOST_SHOWN else _flow(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


def _flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**9, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
