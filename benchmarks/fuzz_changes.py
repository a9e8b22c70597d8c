"""Seeded damage to valid files of each kind that the package reads, for fuzz.py: bytes, containers, values, names."""

import copy
import io
import json
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

SIDE = 32
CANARY = "flexunet-fuzz-canary"
PAYLOAD = f"__import__('os').system('touch {CANARY}')"
HUGE = (2**31 - 1, 2**32 - 1, 2**40, 10**9)
ODD_NUMBERS = (
    *(0, 1, -1, 7, 100, 1000, 10**5, 10**9, 2**31, 2**63, 10**20, -(10**20), 10**400),
    *(0.5, -0.5, 1.5, 1e-320, 1e20, 1e308, float("inf"), float("-inf"), float("nan")),
)
ODD_WORDS = (
    *("", " ", "x", "null", "no", "1e3", "1e400", "auto", "best", "-1", "0x10", "1_000", "\u0661", "x" * 5000, "%s"),
    *(
        "../../x",
        "/",
        "/dev/zero",
        "/etc/passwd",
        "file:///etc/passwd",
        "~",
        "*",
        "[",
        "{",
        "\x00",
        "é\u202e",
        "\ud800",
    ),
    *(
        PAYLOAD,
        "${HOME}",
        "$(touch x)",
        "!!python/object/apply:os.system",
        "<script>alert(1)</script>",
        "javascript:alert(1)",
    ),
)
ODD: tuple[Any, ...] = (
    *(None, True, False, *ODD_NUMBERS, *ODD_WORDS),
    *([], {}, [[]], [None], [1, 2, 3], [0.5, 0.5], {"x": 1}, {"": {}}, [10**9, 10**9], [-1, 1]),
    {"class_path": "os.system", "init_args": {"command": PAYLOAD}},
    {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", CANARY]}},
)
# File names that mean something to HTML, CSV, globs, formats, shells or terminals.
NAME_PARTS = (
    *(
        "<img src=x onerror=alert(1)>",
        "<script>alert(1)<",
        "<svg onload=alert(1)>",
        '"onmouseover="alert(1)',
        "'onload='x",
    ),
    *("javascript:alert(1)", "</title><b>", "&lt;b&gt;", "&amp;", '"', "'", "`", "<!--", "]]>", "{{7*7}}", "{%if%}"),
    *(
        "[a-z]",
        "{0}",
        "%s",
        "=1+1",
        "@x",
        "é",
        "\u202e",
        " ",
        "\n",
        "\t",
        ",",
        ";",
        "-",
        "--",
        "..",
        "#",
        "?",
        "*",
        "$(x)",
    ),
    *("a" * 100, "\x1b[31m", "\udcff", "CON", "name"),
)


YAML_TAILS = (
    *(f"!!python/object/apply:os.system ['touch {CANARY}']", "&a [*a]", "a: &a {b: *a}", "\t", "? [", "--- 1\n---"),
    f"x: !!python/object/apply:os.system ['touch {CANARY}']",
    "a: &a [x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{new}: &{new} [{','.join(8 * [f'*{old}'])}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "model: {<<: [&m {<<: *m}]}",
)


class Hanging:
    """What unpickling runs as a payload."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Ask the unpickler to run a command."""
        return os.system, (f"touch {CANARY}",)


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return ``content`` after 1 to 4 random edits: flipped, cut, repeated, inserted or extreme bytes."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1) if rng.random() < 0.5 else rng.randrange(min(len(data) + 1, 256))
        size = rng.choice([1, 2, 4, 8, 64, 1024])
        edit = rng.randrange(6)
        if edit == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif edit == 1:
            del data[at : at + size]
        elif edit == 2:
            data[at:at] = data[at : at + size] * rng.choice([1, 1, 100])
        elif edit == 3:
            data[at:at] = rng.randbytes(size)
        elif edit == 4:
            extreme = rng.choice([b"\x00", b"\xff", b"\x7f", b"\x80"]) * min(size, 8)
            data[at : at + len(extreme)] = extreme
        else:
            del data[at:]
    return bytes(data)


def nested_json(rng: random.Random) -> str:
    """Return JSON nested so deeply that a recursive reader fails."""
    depth = rng.choice([500, 10_000, 200_000])
    return "[" * depth + "]" * depth if rng.random() < 0.5 else '{"a":' * depth + "1" + "}" * depth


def bytes_of(path: Path, rng: random.Random) -> bytes:
    """Change the bytes of any file."""
    return changed_bytes(path.read_bytes(), rng)


def zip_of(path: Path, rng: random.Random) -> bytes:
    """Change a member of a zip archive and pack it anew with a right checksum; one in four changes the bytes."""
    if rng.random() < 0.25:
        return bytes_of(path, rng)
    target = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        chosen = rng.choice(source.namelist())
        for name in source.namelist():
            content = source.read(name)
            if name == chosen:
                kind = rng.randrange(6)
                if kind == 0:
                    continue
                if kind == 1:
                    content = bytes(200_000_000)  # a bomb: 200 MB that pack into 200 kB
                elif kind == 2 and content[:1] in (b"{", b"["):
                    content = json.dumps(changed_tree(json.loads(content), rng)).encode()
                else:
                    content = changed_bytes(content, rng)
            archive.writestr(name if rng.random() < 0.98 else "../" + name, content)
    return target.getvalue()


def png_of(path: Path, rng: random.Random) -> bytes:
    """Change one chunk of a PNG and mend its checksum, often its header with the size; a TIFF or others by bytes."""
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG") or rng.random() < 0.3:
        return changed_bytes(content, rng)
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    index = 0 if rng.random() < 0.5 else rng.randrange(len(chunks))
    name, body = chunks[index]
    if name == b"IHDR" and rng.random() < 0.7:
        sides = [rng.choice([0, 1, SIDE, 20_000, 90_000_000, 2**31 - 1, 2**32 - 1]) for _ in range(2)]
        body = struct.pack(">II", *sides) + body[8:]
    else:
        body = changed_bytes(body, rng)
    chunks[index] = (name, body)
    packed = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
    return content[:8] + b"".join(packed)


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of every value in nested dicts and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from places(value)


def changed_tree(tree: Any, rng: random.Random) -> Any:
    """Return nested plain data with 1 to 3 odd values, missing or unknown keys."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.randint(1, 3)):
        found = list(places(tree))
        if not found:
            return copy.deepcopy(rng.choice(ODD))
        container, key = rng.choice(found)
        kind = rng.random()
        if kind < 0.7:
            container[key] = copy.deepcopy(rng.choice(ODD))
        elif kind < 0.8:
            del container[key]
        elif kind < 0.9 and isinstance(container, dict):
            container[str(key) + rng.choice(["x", "", ".y", "s"])] = container.pop(key)
        else:
            container[key] = [container[key], copy.deepcopy(rng.choice(ODD))]
    return tree


def yaml_of(path: Path, rng: random.Random) -> bytes:
    """Change the values of a YAML file, or its text."""
    text = path.read_text()
    if rng.random() < 0.2:
        extra = rng.choice([*YAML_TAILS, "x: " + "[" * 5000, "x: " + nested_json(rng)])
        return (text + extra if rng.random() < 0.5 else changed_bytes(text.encode(), rng).decode("latin1")).encode()
    return yaml.safe_dump(changed_tree(yaml.safe_load(text), rng), allow_unicode=True, sort_keys=False).encode(
        errors="surrogatepass"
    )


def text_of(path: Path, rng: random.Random) -> bytes:
    """Change words of a text file: odd values in place of some, lines cut, repeated or swapped."""
    lines = path.read_text().splitlines()
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(lines))
        parts = lines[at].replace(",", " , ").replace("=", " = ").split(" ")
        kind = rng.randrange(4)
        if kind < 2:
            parts[rng.randrange(len(parts))] = str(rng.choice(ODD))
            lines[at] = "".join(parts)
        elif kind == 2:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        else:
            del lines[at]
        lines = lines or [""]
    content = "\n".join(lines).encode(errors="replace")
    return changed_bytes(content, rng) if rng.random() < 0.2 else content


def checkpoint_of(path: Path, rng: random.Random) -> bytes:
    """Change the settings or weights of a checkpoint, put a payload into it, or change its bytes."""
    import torch

    if rng.random() < 0.3:
        return zip_of(path, rng)
    content = torch.load(path, weights_only=True)
    kind = rng.random()
    if kind < 0.7:
        content["hyper_parameters"] = changed_tree(content["hyper_parameters"], rng)
    elif kind < 0.8:
        content[rng.choice(list(content))] = rng.choice([*ODD, Hanging()])
    else:
        name = rng.choice(list(content["state_dict"]))
        content["state_dict"][name] = rng.choice([*ODD, torch.zeros(1), torch.full((2, 2), float("nan")), Hanging()])
    target = io.BytesIO()
    torch.save(content, target)
    return target.getvalue()


def onnx_of(path: Path, rng: random.Random) -> bytes:
    """Change an ONNX file: the labels in its metadata, where its weights are, its shapes and nodes, or its bytes."""
    import onnx

    kind = rng.randrange(5)
    if kind == 0:
        return bytes_of(path, rng)
    model = onnx.load(path)
    if kind <= 2:
        for entry in model.metadata_props:
            if entry.value.startswith("{"):
                changed = json.dumps(changed_tree(json.loads(entry.value), rng))
                entry.value = nested_json(rng) if rng.random() < 0.1 else changed
    elif kind == 3:
        weight = rng.choice(model.graph.initializer)
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        places = ["../../../../etc/passwd", "/etc/passwd", "/dev/zero", "/dev/stdin", "x", "", "a/../../b", "."]
        facts = {"location": rng.choice(places), "offset": rng.choice(["0", "-1", "4096", str(2**62)])}
        for key, value in (facts | {"length": rng.choice(["4", "0", str(2**40), "-4"])}).items():
            weight.external_data.add(key=key, value=value)
    else:
        weight = rng.choice(model.graph.initializer)
        if weight.dims:
            weight.dims[rng.randrange(len(weight.dims))] = rng.choice([0, -1, *HUGE])
        node = rng.choice(model.graph.node)
        node.op_type = rng.choice([node.op_type, "If", "Loop", "Nothing", "PyOp", "ConstantOfShape"])
        if node.input and rng.random() < 0.5:
            node.input[0] = rng.choice(["", node.output[0], "image", "nowhere"])
    return bytes(model.SerializeToString())


def safetensors_of(path: Path, rng: random.Random) -> bytes:
    """Change the JSON header of a safetensors file, its length, or its bytes."""
    content = path.read_bytes()
    kind = rng.random()
    if kind < 0.3:
        return changed_bytes(content, rng)
    (size,) = struct.unpack("<Q", content[:8])
    if kind < 0.4:
        return struct.pack("<Q", rng.choice([0, 2**63, 2**64 - 1, *HUGE])) + content[8:]
    if kind < 0.5:
        header = nested_json(rng).encode()
    else:
        header = json.dumps(changed_tree(json.loads(content[8 : 8 + size]), rng)).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


TIFF_TAGS = (256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330, 338, 339, 34665)
TIFF_VALUES = (0, 1, 2, 3, 5, 6, 7, 8, 32773, 34712, 65535, 20_000, 2**31 - 1, 2**32 - 1)


def tiff_of(path: Path, rng: random.Random) -> bytes:
    """Change entries of the first directory of a TIFF (tag, type, count or value), or its bytes."""
    data = bytearray(path.read_bytes())
    order = "<" if data[:2] == b"II" else ">"
    is_big = struct.unpack(order + "H", data[2:4])[0] == 43
    if rng.random() < 0.3:
        return changed_bytes(bytes(data), rng)
    word, number, step = ("Q", "Q", 20) if is_big else ("I", "H", 12)
    (start,) = struct.unpack_from(order + word, data, 8 if is_big else 4)
    (entries,) = struct.unpack_from(order + number, data, start)
    first = start + struct.calcsize(number)
    for _ in range(rng.randint(1, 3)):
        place = first + step * rng.randrange(entries)
        field = rng.randrange(4)
        if field == 0:
            struct.pack_into(order + "H", data, place, rng.choice(TIFF_TAGS))
        elif field == 1:
            struct.pack_into(order + "H", data, place + 2, rng.choice([0, 1, 2, 3, 4, 5, 12, 13, 16, 99]))
        else:
            struct.pack_into(
                order + word, data, place + (4 if field == 2 else step - struct.calcsize(word)), rng.choice(TIFF_VALUES)
            )
    if rng.random() < 0.1:  # a directory that follows itself
        struct.pack_into(order + word, data, first + step * entries, start)
    return bytes(data)


def hdf5_of(path: Path, rng: random.Random) -> bytes:
    """Change an HDF5 file as a hostile writer would: links, declared shapes, compression, attributes; or its bytes."""
    import h5py
    import numpy as np

    if rng.random() < 0.4:
        return bytes_of(path, rng)
    target = io.BytesIO(path.read_bytes())
    with h5py.File(target, "r+") as file:
        sets: list[str] = []
        file.visititems(lambda name, item: sets.append(name) if isinstance(item, h5py.Dataset) else None)
        name = rng.choice(sets)
        values = file[name][()]
        del file[name]
        kind = rng.randrange(7)
        if kind == 0:
            file[name] = h5py.ExternalLink(rng.choice(["/etc/passwd", "../x.h5", "/dev/zero"]), "/x")
        elif kind == 1:
            file[name] = h5py.SoftLink(rng.choice(["/", name, "/nowhere"]))
        elif kind == 2:
            file.create_dataset(name, (2**40,), "f4", chunks=(2**20,), compression="gzip")
        elif kind == 3:
            file.create_dataset(name, values.shape, "f4", external=[("/etc/passwd", 0, values.nbytes)])
        elif kind == 4:
            file.create_dataset(name, data=np.full(values.shape, np.nan, np.float32))
        elif kind == 5:
            file.create_dataset(name, data=values.ravel() if rng.random() < 0.5 else values[..., None])
        else:
            file[name] = values
        for key in list(file.attrs) if rng.random() < 0.5 else []:
            text = file.attrs[key]
            if isinstance(text, str) and text.startswith("{"):
                changed = json.dumps(changed_tree(json.loads(text), rng))
                file.attrs[key] = nested_json(rng)[:60_000] if rng.random() < 0.2 else changed[:60_000]
    return target.getvalue()


def npz_of(path: Path, rng: random.Random) -> bytes:
    """Change an npz: declare another shape or type, hide objects or a bomb in it, or change it as a zip."""
    import numpy as np

    kind = rng.randrange(4)
    if kind == 0:
        return zip_of(path, rng)
    target = io.BytesIO()
    if kind == 1:
        objects = np.empty(2, dtype=object)
        objects[:] = Hanging()
        np.savez_compressed(target, mask=objects)
        return target.getvalue()
    side = rng.choice([0, 1, SIDE, 65_536, *HUGE])
    type_name = rng.choice(["|u1", "<f8", "|O", "|V2147483647", "<U9", "|b1", ">i8", "<M8[s]"])
    header = f"{{'descr': '{type_name}', 'fortran_order': False, 'shape': ({side}, {rng.choice([SIDE, side])}), }}"
    head = header.encode().ljust(118) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(rng.choice([0, 1024, 300_000_000]))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(rng.choice(["mask.npy", "../mask.npy", "/tmp/mask.npy"]), content)
    return target.getvalue()


def hostile_name(rng: random.Random) -> str:
    """Return a name for a file that means something to HTML, CSV, globs, formats or terminals."""
    return "".join(rng.choice(NAME_PARTS) for _ in range(rng.randint(1, 3))).replace("/", "")


def nothing(path: Path, rng: random.Random) -> bytes:
    """Return the file as it is, with a mark that names the case; what is odd is drawn when it is used."""
    return path.read_bytes() + str(rng.randrange(2**32)).encode()
