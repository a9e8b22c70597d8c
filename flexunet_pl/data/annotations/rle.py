"""Run-length codes: the text of COCO, and the packed bits of Label Studio's brush.

COCO's code is that of ``maskApi.c`` in pycocotools. Label Studio's is rle-pack of thi.ng/umbrella, over the values red,
green, blue and alpha of each pixel.
"""

from collections.abc import Sequence

import numpy as np

from flexunet_pl.data.annotations.shapes import BoolArray, IntArray

FIRST_CHARACTER = 48  # of the 64 that carry 6 bits each
CONTINUES, NEGATIVE, FIVE_BITS = 0x20, 0x10, 0x1F
WORD_BITS = 8
RUN_BITS = (3, 4, 8, 16)  # the lengths of runs that the encoder writes
CHANNELS = 4


def counts_from_text(text: str) -> IntArray:
    """Decode COCO's compressed counts to the lengths of runs, int64 (N,).

    Raises:
        ValueError: If the text is no such code.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - FIRST_CHARACTER
        if not 0 <= code < 64 or shift > 60:
            raise ValueError(f"the character {character!r} is in no run-length code of COCO")
        value |= (code & FIVE_BITS) << shift
        shift += 5
        if code & CONTINUES:
            continue
        if code & NEGATIVE:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        if counts[-1] < 0 or counts[-1] >= 1 << 62:
            raise ValueError("a run has a negative or an endless length")
        value = shift = 0
    if shift:
        raise ValueError("the code ends in the middle of a number")
    return np.array(counts, dtype=np.int64)


def text_from_counts(counts: IntArray) -> str:
    """Encode lengths of runs, int64 (N,), as COCO's compressed counts."""
    lengths = counts.tolist()
    characters = []
    for index, length in enumerate(lengths):
        value = length - lengths[index - 2] if index > 2 else length
        while True:
            code, value = value & FIVE_BITS, value >> 5
            is_last = value == (-1 if code & NEGATIVE else 0)
            characters.append(chr((code if is_last else code | CONTINUES) + FIRST_CHARACTER))
            if is_last:
                break
    return "".join(characters)


def mask_from_brush(code: Sequence[int], height: int, width: int) -> BoolArray:
    """Decode Label Studio's brush to a mask bool (H, W), True where alpha is above 0.

    Args:
        code: The bytes, 0..255 each.
        height: Rows of the image.
        width: Columns of the image.

    Raises:
        ValueError: If the bytes are no such code, or of another size.
    """
    bits = "".join(f"{byte:08b}" for byte in bytes(code))
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise ValueError("the code ends too early")
        return int(bits[place - count : place], 2)

    total, word = read(32), read(5) + 1
    if total != height * width * CHANNELS:
        raise ValueError(
            f"the code is of {total:,} values, but {width} x {height} pixels have {height * width * CHANNELS:,}"
        )
    sizes = [read(4) + 1 for _ in range(4)]
    values = np.zeros(total, dtype=np.bool_)
    index = 0
    while index < total:
        is_run = read(1)
        end = index + 1 + read(sizes[read(2)])
        if end > total:
            raise ValueError("a run goes beyond the image")
        if is_run:
            values[index:end] = read(word) > 0
        else:
            values[index:end] = [read(word) > 0 for _ in range(end - index)]
        index = end
    return values.reshape(height, width, CHANNELS)[..., 3]


def brush_from_mask(mask: BoolArray) -> list[int]:
    """Encode a mask bool (H, W) as Label Studio's brush, bytes of 0..255; marked pixels are 255 in all channels."""
    flat = np.asarray(mask, dtype=np.bool_).reshape(-1)
    ends = np.concatenate([np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    bits = [f"{flat.size * CHANNELS:032b}", f"{WORD_BITS - 1:05b}", *(f"{size - 1:04b}" for size in RUN_BITS)]
    longest = 1 << RUN_BITS[-1]
    start = 0
    for end in ends.tolist():
        word = "1" * WORD_BITS if flat[start] else "0" * WORD_BITS
        left = (end - start) * CHANNELS
        while left:
            length = min(left, longest)
            kind = next(kind for kind, size in enumerate(RUN_BITS) if length <= 1 << size)
            bits.append(f"1{kind:02b}{length - 1:0{RUN_BITS[kind]}b}{word}")
            left -= length
        start = end
    packed = "".join(bits)
    packed += "0" * (-len(packed) % 8)
    return list(int(packed, 2).to_bytes(len(packed) // 8, "big"))
