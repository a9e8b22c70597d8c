"""Read a train_eval_infer.config twice: as the original found its keys, and as they were meant."""

import configparser
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flexunet_pl.core.errors import UserError
from flexunet_pl.migrate.keys import ALIASES, KEYS, SECTIONS, known_key, place_of

MAX_BYTES = 2**20
ALIKE = 0.8
STOPPED = "gives up the whole file here, so that every key falls to its default"

_COMMENT_STARTS = ("#", ";")
_HEADER = re.compile(r"\[\s*([A-Za-z_]\w*)\s*(?:\]|$)")
_NAMED = re.compile(r"([A-Za-z_]\w*)\s*([=:])")
_BRACKET_STEPS = {**dict.fromkeys("([{", 1), **dict.fromkeys(")]}", -1)}


@dataclass(frozen=True, order=True)
class Finding:
    """Something one should know: line (0: the whole file), what stands there, and what is made of it there and here."""

    line: int
    place: str
    original: str
    here: str

    def __str__(self) -> str:
        """Return the finding as three lines of text."""
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.place}\n  the original {self.original}\n  here {self.here}"


@dataclass(frozen=True)
class Setting:
    """A key of the file: its line, its text as it was meant, and as the original found it (None: not at all)."""

    line: int
    meant: str
    used: str | None


@dataclass(frozen=True)
class OriginalConfig:
    """A file that was read.

    Attributes:
        settings: Its keys, by "section.key".
        gave_up: Whether the original gave up reading it, and could not start.
        findings: What is odd about its form.
    """

    path: Path
    settings: dict[str, Setting]
    gave_up: bool
    findings: list[Finding]


def read_config(path: Path) -> OriginalConfig:
    """Read a train_eval_infer.config, executing nothing; UserError if it does not exist, is no text or no config."""
    text = _read_text(path)
    used, reason = _used_by_original(text)
    lines = _Lines()
    repaired = "\n".join(lines.repair(text.removeprefix("\ufeff").split("\n")))
    if not lines.sections:
        raise UserError(f"{path}: has no section such as [model]; give a train_eval_infer.config")
    parser = configparser.ConfigParser(strict=False)
    try:
        parser.read_string(repaired)
    except configparser.Error as error:
        raise UserError(f"{path}: cannot be read as a configuration ({' '.join(str(error).split())})") from error
    settings = {}
    findings = lines.findings
    for name, line in lines.line_of.items():
        section, _, key = name.partition(".")
        try:
            meant = parser.get(section, key)
        except configparser.InterpolationError:
            meant = parser.get(section, key, raw=True)
            findings.append(Finding(line, f"{place_of(name)}: a stray %", STOPPED, "it is a character like any other"))
        settings[name] = Setting(line, meant, used.get(name))
    if reason is not None and not any(finding.original == STOPPED for finding in findings):
        findings.append(Finding(0, f"the file as a whole ({reason})", STOPPED, "what can be read is taken"))
    return OriginalConfig(path, _rename(settings, findings), reason is not None, findings)


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: this file does not exist; give a train_eval_infer.config")
    content = path.read_bytes()[: MAX_BYTES + 1]
    if b"\0" in content or len(content) > MAX_BYTES:
        raise UserError(f"{path}: is no train_eval_infer.config, but a binary file or one above {MAX_BYTES:,} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # only comments are ever outside ASCII
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _used_by_original(text: str) -> tuple[dict[str, str], str | None]:
    """Return what configparser finds by "section.key", and why it gives up, which leaves nothing."""
    parser = configparser.ConfigParser()
    try:
        parser.read_string(text)
        return {f"{name}.{key}": value for name in parser.sections() for key, value in parser.items(name)}, None
    except configparser.Error as error:
        return {}, " ".join(str(error).split())


@dataclass
class _Lines:
    """Reads the lines of a file as configparser does, repairs them, and records the line of each key."""

    sections: list[str] = field(default_factory=list)
    line_of: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    key: str | None = None
    indent: int = 0
    depth: int = 0

    def repair(self, lines: list[str]) -> Iterator[str]:
        """Yield each line as it was meant."""
        for number, line in enumerate(lines, start=1):
            stripped = line.strip()
            if not stripped or stripped.startswith(_COMMENT_STARTS):
                yield line
                continue
            indent = len(line) - len(line.lstrip())
            # What is indented more than a key goes on with its value.
            is_inside = self.key is not None and indent > self.indent
            header, named = _HEADER.match(stripped), _NAMED.match(stripped)
            starts_key = named is not None and (named[2] == "=" or self.depth <= 0)
            if (is_inside or self.depth > 0) and not header and not starts_key:
                yield self._more(number, stripped, is_inside)
                continue
            if is_inside:
                original = f"took this for more of {place_of(self.key or '')}, since it is indented"
                self._note(number, stripped, original, "it stands by itself")
                indent = 0
            yield self._header(number, stripped, header[1]) if header else self._setting(number, stripped, indent)

    def _note(self, number: int, stripped: str, original: str, here: str) -> None:
        self.findings.append(Finding(number, shortened(stripped), original, here))

    def _more(self, number: int, stripped: str, is_inside: bool) -> str:
        self.depth += _depth(stripped)
        if not is_inside:
            # Without a key on this line configparser gives up; otherwise only the value before is cut off.
            original = "took the value for ended on the line before" if re.search("[=:]", stripped) else STOPPED
            self._note(number, stripped, original, f"this goes on with {place_of(self.key or '')}")
        return " " * (self.indent + 1) + stripped

    def _header(self, number: int, stripped: str, found: str) -> str:
        name = found if found in SECTIONS else _nearest(found, SECTIONS) or found
        if name != found:
            self._note(number, stripped, f"knows no [{found}], and not what stands in it", f"it is [{name}]")
        elif not stripped.startswith(f"[{name}]"):
            self._note(number, stripped, f"did not find [{name}], since it is not written like that", f"it is [{name}]")
        if name in self.sections:
            self._note(number, f"{stripped} stands twice", STOPPED, "both parts are read, the later one wins")
        self.sections.append(name)
        self.key, self.depth = None, 0
        return f"[{name}]"

    def _setting(self, number: int, stripped: str, indent: int) -> str:
        key, *rest = re.split(r"\s*[=:]\s*", stripped, maxsplit=1)
        is_setting = bool(rest and key) and not key.startswith("[")
        if not is_setting or not self.sections:
            lack = "before the first section" if is_setting else "no setting"
            self._note(number, f"{shortened(stripped)}: {lack}", STOPPED, "it is left out")
            return ""
        self.key, self.indent, self.depth = f"{self.sections[-1]}.{key.lower()}", indent, _depth(rest[0])
        if self.key in self.line_of:
            before = self.line_of[self.key]
            self._note(number, f"{place_of(self.key)} stands on line {before} too", STOPPED, "the later one wins")
        self.line_of[self.key] = number
        return " " * indent + stripped


def _rename(settings: dict[str, Setting], findings: list[Finding]) -> dict[str, Setting]:
    """Give misspelt keys the names that were meant, unless those are there too; list the unknown ones."""
    renamed = dict(settings)
    for name, setting in settings.items():
        if known_key(name) is not None:
            continue
        section, _, key = name.partition(".")
        siblings = [known.partition(".")[2] for known in KEYS if known.startswith(f"{section}.")]
        nearest = _nearest(key, siblings)
        meant = ALIASES.get(name, f"{section}.{nearest}" if nearest else name)
        place = f"{place_of(name)} = {shortened(setting.meant)}"
        original = "knows no such key"
        if meant == name:
            here = "it is left out" + _elsewhere(key)
        elif reason := KEYS[meant].no_effect:
            here = f"it does no harm, as for {place_of(meant)}: {reason}"
        elif meant in renamed:
            here = f"it is left out, since {place_of(meant)} is there too"
        else:
            renamed[meant] = Setting(setting.line, setting.meant, None)
            original += f", and took the default of {place_of(meant)}"
            here = f"it was meant to be {place_of(meant)}"
        findings.append(Finding(setting.line, place, original, here))
    return renamed


def _elsewhere(key: str) -> str:
    places = [place_of(name) for name in KEYS if name.partition(".")[2] == key]
    return f"; it belongs in {' or '.join(places)}" if len(places) == 1 else ""


def _nearest(word: str, known: list[str] | tuple[str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(word.lower(), known, n=1, cutoff=ALIKE)), None)


def _depth(text: str) -> int:
    """Return how many brackets ``text`` opens more than it closes, quotes and comments left out."""
    code = re.sub(r""""[^"]*"|'[^']*'|[;#].*""", "", text)
    return sum(_BRACKET_STEPS.get(character, 0) for character in code)


def shortened(text: str) -> str:
    """Return ``text`` on one line of at most 70 characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= 70 else f"{flat[:67]}..."
