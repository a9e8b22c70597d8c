"""From an rgb_map to a palette with names, as many classes as the network has."""

import re
from itertools import islice

from flexunet_pl.core.errors import UserError
from flexunet_pl.data.distinct_colors import distinct_colors
from flexunet_pl.data.palette import IGNORE_NAME
from flexunet_pl.migrate.keys import Color
from flexunet_pl.migrate.project import Project

MAP = "mask.rgb_map"
_ENTRY = re.compile(r"[(\[]\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,?\s*[)\]]\s*:\s*(\d+)")


def build_palette(project: Project, num_classes: int | None, names: str | None) -> dict[str, list[int]]:
    """Return the palette as plain data, and note what does not fit.

    Args:
        project: The project whose rgb_map it is.
        num_classes: Output channels of the network; 1 stands for two classes. None: as many as the map has colours.
        names: Names of the classes, separated by commas, background first; None for background, class_1 ...

    Raises:
        UserError: If the names do not fit the classes.
    """
    _note_oddities(project)
    colors: list[Color] = list(project[MAP])
    classes = max(len(colors) if num_classes is None else num_classes, 2)
    plain = ["background", *(f"class_{index}" for index in range(1, classes))]
    original, reason = "never compares it with num_classes", f"as the network has {classes} classes"
    if surplus := colors[classes:]:
        project.note(MAP, original, f"{_listed(surplus)} left out, {reason}; masks that hold them are refused")
    del colors[classes:]
    if fresh := plain[len(colors) :]:
        colors += islice(distinct_colors([*colors]), len(fresh))
        project.note(MAP, original, f"{_listed(fresh)} added with fresh colours, {reason}")
    chosen = plain if names is None else _split(names, plain)
    return {name: list(color) for name, color in zip(chosen, colors, strict=True)}


def _note_oddities(project: Project) -> None:
    if MAP not in project.config.settings:
        project.note(MAP, "took the colours black, green, red, blue", "they are taken; give your own in data.palette")
        return
    entries = [tuple(map(int, found)) for found in _ENTRY.findall(project.config.settings[MAP].meant)]
    if len({entry[:3] for entry in entries}) < len(entries):
        project.note(MAP, "made one class of entries with the same colour", "so it is here; later classes move up")
    elif [entry[3] for entry in entries] != list(range(len(entries))):
        project.note(MAP, "never reads the numbers; a class is the position of its colour", "the position counts too")
    first = project[MAP][0]
    if first != (0, 0, 0):
        project.note(MAP, f"took the first colour, {first}, as class 0", "it is the background")


def _listed(things: list[str] | list[Color]) -> str:
    return f"{', '.join(map(str, things))} {'was' if len(things) == 1 else 'were'}"


def _split(names: str, plain: list[str]) -> list[str]:
    classes = len(plain)
    chosen = [name.strip(" \t\"'") for name in names.strip().strip("[]").split(",")]
    for problem, is_there in (
        (f"{len(chosen)} names, but the network has {classes} classes", len(chosen) != classes),
        ("the same name twice", len(set(chosen)) < len(chosen)),
        ("an empty name", "" in chosen),
        (f"{IGNORE_NAME!r}, which stands for pixels of no class", IGNORE_NAME in chosen),
        ("characters that cannot be printed", not "".join(chosen).isprintable()),
    ):
        if is_there:
            give = f"give {classes} names, background first, such as --names {','.join(plain)}"
            raise UserError(f"--names {names}: {problem}; {give}")
    return chosen
