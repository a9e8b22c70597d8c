"""Classify the code inside a Lambda layer without running it or passing it to ``marshal``.

The original divides its input by 255 in a Lambda layer, which Keras saves as Python byte code (``marshal``, base64).
Running it would run a stranger's program, and ``marshal.loads`` itself may crash on forged bytes. So constants and
names are parsed from the bytes here. The layer counts as the division when its code uses no name, has 255 as its only
number and a division among its instructions (or 1/255 and a multiplication). Odd programs such as 255 / x pass too;
hence the reader notes that it took the layer for the division.
"""

import base64
import binascii
import enum
import io
import struct

MAX_CODE_CHARACTERS = 10_000
REFERENCE_FLAG = 0x80
# Pairs of operation and argument that divide or multiply. Python 3.6 to 3.10 have operations of their own (argument
# unused), later ones a common operation (122 in 3.11 and 3.12, 45 in 3.13, 44 in 3.14) whose argument selects one.
DIVISIONS = frozenset({(27, 0), (122, 11), (45, 11), (44, 11)})
MULTIPLICATIONS = frozenset({(20, 0), (122, 5), (45, 5), (44, 5)})


class Verdict(enum.Enum):
    """What the code of a Lambda layer does, from its byte code."""

    DIVIDES_BY_255 = "divides by 255"
    OTHER = "does something else than dividing by 255"
    UNREADABLE = "cannot be classified without running it"


def classify_lambda(function: object) -> Verdict:
    """Classify the ``function`` entry of a Lambda layer's configuration, of tf-keras (a list) or Keras 3 (a dict)."""
    code = function
    if isinstance(function, dict):
        inner = function.get("config")
        code = inner.get("code") if isinstance(inner, dict) else None
    elif isinstance(function, list) and function:
        code = function[0]
    if not isinstance(code, str) or len(code) > MAX_CODE_CHARACTERS:
        return Verdict.UNREADABLE
    try:
        instructions, constants, names = _read_code(io.BytesIO(base64.b64decode(code)))
    except (binascii.Error, ValueError, IndexError, RecursionError, struct.error):
        return Verdict.UNREADABLE
    pairs = set(zip(instructions[::2], instructions[1::2], strict=False))
    numbers = [value for value in constants if value is not None]
    if names or len(numbers) > 1:
        return Verdict.OTHER
    if not numbers:
        # Python 3.14 puts small numbers among the instructions.
        return Verdict.UNREADABLE
    divides = numbers == [255] and pairs & DIVISIONS
    multiplies = numbers == [1 / 255] and pairs & MULTIPLICATIONS
    return Verdict.DIVIDES_BY_255 if divides or multiplies else Verdict.OTHER


def _read_code(stream: io.BytesIO) -> tuple[bytes, list[object], list[object]]:
    """Return a marshalled function's instructions, constants and names.

    Raises:
        ValueError: If this is no function whose parts are plain values.
        IndexError, RecursionError, struct.error: If the bytes end early or nest too deep.
    """
    if _kind(stream) != b"c":
        raise ValueError("not a code object")
    # 4 to 6 counters, depending on Python's version, stand before the instructions; each has a zero as its last byte,
    # the letter of the instructions has not.
    for _ in range(6):
        start = stream.read(4)
        if len(start) < 4 or start[3]:
            raise ValueError("counters are out of range")
        place = stream.tell()
        is_last = _kind(stream) == b"s"
        stream.seek(place)
        if is_last:
            break
    instructions, constants, names = (_value(stream) for _ in range(3))
    if not (isinstance(instructions, bytes) and isinstance(constants, list) and isinstance(names, list)):
        raise ValueError("parts are missing")
    return instructions, constants, names


def _kind(stream: io.BytesIO) -> bytes:
    """Read the type letter, without the flag for values that are referred to later."""
    letter = stream.read(1)
    return bytes([letter[0] & ~REFERENCE_FLAG]) if letter else b""


def _value(stream: io.BytesIO) -> object:
    """Read one plain value: None, a number, bytes, a text (as bytes) or a tuple (as a list) of such values."""
    kind = _kind(stream)
    if kind == b"N":
        return None
    if kind == b"i":
        return struct.unpack("<i", stream.read(4))[0]
    if kind == b"g":
        return struct.unpack("<d", stream.read(8))[0]
    if kind in (b"s", b"a", b"A", b"u", b"t"):
        return stream.read(struct.unpack("<I", stream.read(4))[0])
    if kind in (b"z", b"Z"):
        return stream.read(stream.read(1)[0])
    if kind == b")":
        return [_value(stream) for _ in range(stream.read(1)[0])]
    raise ValueError(f"{kind!r} is no plain value")
