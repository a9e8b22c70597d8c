"""Feed damaged and hostile files to everything that reads one, and count what happens.

    python benchmarks/fuzz.py --cases 10000 [--seed 0] [--only checkpoint,onnx] [--jobs 2]

Each case runs in a process of its own: a seeded random change to a valid file, then the code that reads it. A case is
``accepted`` (it was still valid), ``refused`` (one clear error), or a fault: ``traceback``, ``hang`` (more than 60
seconds), ``memory`` (more than 4 GiB), ``executed`` (a payload ran, or a connection was opened) or ``crash``.
The exit code is 1 if there is a fault; each is printed with the seed that repeats it.
"""

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

NAMES = (
    *("config", "words", "names", "palette", "mask", "npz", "image", "infer_image", "onnx", "checkpoint", "weights"),
    *("pth", "keras", "manifest", "original"),
)
SECONDS = 60
GIBIBYTES = 4
OUTCOMES = ("accepted", "refused", "traceback", "hang", "memory", "executed", "crash")
SIDE = 32
CANARY = "flexunet-fuzz-canary"
PAYLOAD = f"__import__('os').system('touch {CANARY}')"
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**20, -(10**20), 0.5, -0.5, 1e308, float("inf"), float("nan")),
    *(
        "",
        " ",
        "x",
        "null",
        "no",
        "1e3",
        "1e400",
        "../../x",
        "/",
        "auto",
        "x" * 5000,
        "\x00",
        "é\u202e",
        "[",
        "{",
        "%s",
    ),
    *([], {}, [[]], [None], [1, 2, 3], {"x": 1}, {"class_path": "os.system", "init_args": {"command": PAYLOAD}}),
    *(
        PAYLOAD,
        "${HOME}",
        "!!python/object/apply:os.system",
        "<script>alert(1)</script>",
        "-1",
        "0x10",
        "1_000",
        "\u0661",
    ),
)


class Hanging:
    """What unpickling runs as a payload."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Ask the unpickler to run a command."""
        return os.system, (f"touch {CANARY}",)


@dataclass(frozen=True)
class Target:
    """Something that reads files: the valid ``files`` to change, how to ``change`` one, and what to ``use`` it with."""

    files: Sequence[Path]
    change: Callable[[Path, random.Random], bytes]
    use: Callable[[Path], Any]


# --- changes -----------------------------------------------------------------------------------------------------


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
            return rng.choice(ODD)
        container, key = rng.choice(found)
        kind = rng.random()
        if kind < 0.7:
            container[key] = rng.choice(ODD)
        elif kind < 0.8:
            del container[key]
        elif kind < 0.9 and isinstance(container, dict):
            container[str(key) + rng.choice(["x", "", ".y", "s"])] = container.pop(key)
        else:
            container[key] = [container[key], rng.choice(ODD)]
    return tree


def yaml_of(path: Path, rng: random.Random) -> bytes:
    """Change the values of a YAML file, or its text."""
    text = path.read_text()
    if rng.random() < 0.2:
        extra = rng.choice(
            [
                f"!!python/object/apply:os.system ['touch {CANARY}']",
                "&a [*a]",
                "a: &a {b: *a}",
                "\t",
                "? [",
                "--- 1\n---",
            ]
        )
        return (text + extra if rng.random() < 0.5 else changed_bytes(text.encode(), rng).decode("latin1")).encode()
    return yaml.safe_dump(changed_tree(yaml.safe_load(text), rng), allow_unicode=True, sort_keys=False).encode()


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
    """Change the labels in the metadata of an ONNX file, or its bytes."""
    import onnx

    if rng.random() < 0.5:
        return bytes_of(path, rng)
    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.value.startswith("{"):
            entry.value = json.dumps(changed_tree(json.loads(entry.value), rng))
    return bytes(model.SerializeToString())


def safetensors_of(path: Path, rng: random.Random) -> bytes:
    """Change the JSON header of a safetensors file, or its bytes."""
    content = path.read_bytes()
    if rng.random() < 0.4:
        return changed_bytes(content, rng)
    (size,) = struct.unpack("<Q", content[:8])
    header = json.dumps(changed_tree(json.loads(content[8 : 8 + size]), rng)).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def nothing(path: Path, rng: random.Random) -> bytes:
    """Return the file as it is, with a mark that names the case; what is odd is drawn when it is used."""
    return path.read_bytes() + str(rng.randrange(2**32)).encode()


# --- what reads them ---------------------------------------------------------------------------------------------


def make_targets(folder: Path) -> dict[str, Target]:
    """Write a valid file of each kind into ``folder`` and return what may be done to it."""
    import torch

    from flexunet_pl.cli.main import main
    from flexunet_pl.data.manifest import read_manifest
    from flexunet_pl.data.masks import read_mask
    from flexunet_pl.data.palette import Palette
    from flexunet_pl.data.samples import ReadingRules, read_image
    from flexunet_pl.data.synthetic.dataset import TILE_PALETTE, write_dataset
    from flexunet_pl.inference.onnx_infer import Model
    from flexunet_pl.inference.onnx_infer import read_image as infer_image
    from flexunet_pl.keras.reader import load_keras
    from flexunet_pl.nn.encoder_weights import read_weights
    from flexunet_pl.training.task import SegmentationTask

    root, bundle, run = folder / "data", folder / "bundle", folder / "run"
    write_dataset(root, 27, (SIDE, SIDE), 0)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG | {"data": CONFIG["data"] | {"root": str(root)}}))
    main(["fit", "--config", str(config), "--run_dir", str(run)])
    checkpoint = run / "checkpoints" / "last.ckpt"
    main(["export", str(checkpoint), str(bundle), "--formats", "onnx,keras,weights.h5,h5"])
    palette = Palette.from_mapping(TILE_PALETTE)
    palette.save(folder / "palette.yaml")
    image, mask = (next((root / "train" / kind).iterdir()) for kind in ("images", "masks"))
    images, masks = written_images(folder, image, mask)
    model = Model(bundle / "model.onnx")
    weights = folder / "weights.safetensors"
    torch.save(torch.load(checkpoint, weights_only=True)["state_dict"], folder / "weights.pth")
    write_safetensors(weights)
    prepared = folder / "prepared"
    main(["prepare", "synthetic", str(prepared), "--images", "12", "--size", str(SIDE)])
    manifests = list(prepared.glob("manifest.csv"))
    original = folder / "train_eval_infer.config"
    original.write_text(ORIGINAL)
    small = ["--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.enable_progress_bar=false"]

    def words(path: Path) -> int:
        rng = random.Random(path.read_bytes())
        keys = [*TRAINER_KEYS, *(f"model.{key}" for key in MODEL_KEYS), *(f"data.{key}" for key in DATA_KEYS)]
        options = [f"--{rng.choice(keys)}={rng.choice(ODD)}" for _ in range(rng.randint(1, 2))]
        return main(["fit", "--config", str(config), "--run_dir", "words", *small, *options])

    def names(path: Path) -> int:
        rng = random.Random(path.read_bytes())
        place = Path("named") / "test"
        for kind in ("images", "masks"):
            (place / kind).mkdir(parents=True)
        for number in range(3):
            name = hostile_name(rng) or str(number)
            shutil.copy(image, place / "images" / f"{name}.png")
            shutil.copy(mask, place / "masks" / f"{name}.png")
        palette.save(Path("named/palette.yaml"))
        code = main(["report", str(run), "named", "--out", "page"])
        page = Path("page/report.html")
        if code == 0 and "<script>alert" in page.read_text(errors="replace"):
            os.system(f"touch {CANARY}")
        return code

    def keras(path: Path) -> None:
        load_keras(path)

    rules = [ReadingRules(), ReadingRules(sixteen_bit="full_range"), ReadingRules(sixteen_bit="min_max", channels=1)]

    def read(path: Path) -> None:
        rng = random.Random(path.read_bytes())
        read_image(path, rng.choice(rules))

    def use_model(path: Path) -> None:
        Model(path).predict(image)

    def use_checkpoint(path: Path) -> None:
        task = SegmentationTask.from_checkpoint(path)
        with torch.no_grad():
            task(torch.zeros(1, task.hparams["in_channels"], SIDE, SIDE, dtype=torch.uint8))

    keras_files = sorted(path for path in bundle.iterdir() if path.suffix in (".keras", ".h5"))
    small_run = ["--run_dir", "fuzzed", *small]
    return {
        "config": Target([config], yaml_of, lambda path: main(["fit", "--config", str(path), *small_run])),
        "words": Target([image], nothing, words),
        "names": Target([image], nothing, names),
        "palette": Target([folder / "palette.yaml"], yaml_of, lambda path: Palette.load(path) and None),
        "mask": Target(masks, png_of, lambda path: read_mask(path, palette, antialiased=True) and None),
        "npz": Target([folder / "mask.npz"], zip_of, lambda path: read_mask(path, palette, antialiased=False) and None),
        "image": Target(images, png_of, read),
        "infer_image": Target(images, png_of, lambda path: infer_image(path, model.labels) is None or None),
        "onnx": Target([bundle / "model.onnx"], onnx_of, use_model),
        "checkpoint": Target([checkpoint], checkpoint_of, use_checkpoint),
        "weights": Target([weights], safetensors_of, lambda path: read_weights(path) and None),
        "pth": Target([folder / "weights.pth"], zip_of, lambda path: read_weights(path) and None),
        "keras": Target(keras_files, lambda p, r: zip_of(p, r) if p.suffix == ".keras" else bytes_of(p, r), keras),
        "manifest": Target(manifests, text_of, lambda path: read_manifest(path.parent) and None),
        "original": Target([original], text_of, lambda path: main(["migrate", str(path), "migrated"])),
    }


def written_images(folder: Path, image: Path, mask: Path) -> tuple[list[Path], list[Path]]:
    """Write the image and the mask in the file formats that are read; return the paths of both."""
    import numpy as np
    from PIL import Image

    images = [folder / f"image.{ending}" for ending in ("png", "tif", "bmp", "jpg", "webp")]
    masks = [folder / f"mask.{ending}" for ending in ("png", "tif", "bmp")]
    for paths, source in ((images, image), (masks, mask)):
        for path in paths:
            Image.open(source).convert("RGB").save(path)
    grey = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 64
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(grey).save(folder / name)
        images.append(folder / name)
    Image.fromarray(grey.astype(np.uint8)).convert("CMYK").save(folder / "cmyk.tif")
    np.save(folder / "array.npy", np.zeros((SIDE, SIDE, 3), np.uint8))
    np.savez_compressed(folder / "mask.npz", mask=np.zeros((SIDE, SIDE), np.uint8))
    Image.new("P", (SIDE, SIDE)).save(folder / "index.png")
    return [*images, folder / "cmyk.tif", folder / "array.npy"], [*masks, folder / "index.png"]


def write_safetensors(path: Path) -> None:
    """Write two small tensors."""
    import torch
    from safetensors.torch import save_file

    save_file({"conv1.weight": torch.zeros(4, 3, 3, 3), "conv1.bias": torch.zeros(4)}, path)


def hostile_name(rng: random.Random) -> str:
    """Return a name for a file that means something to HTML, CSV, globs, formats or terminals."""
    pieces = [
        "<script>alert(1)<",
        "[a-z]",
        "{0}",
        "%s",
        "=1+1",
        "@x",
        '"',
        "'",
        "&amp;",
        "é",
        "\u202e",
        " ",
        "\n",
        ",",
        "-",
    ]
    pieces += [
        "..",
        "#",
        "?",
        "*",
        "a" * 100,
        "\x1b[31m",
        "{{7*7}}",
        "<img src=x onerror=alert(1)>".replace("/", ""),
        "\udcff",
    ]
    return "".join(rng.choice(pieces) for _ in range(rng.randint(1, 3))).replace("/", "")


SAVE_LAST = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"dirpath": "checkpoints", "filename": "last", "enable_version_counter": False},
}
CONFIG: dict[str, Any] = {
    "seed_everything": 1,
    "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "enable_progress_bar": False, "logger": False}
    | {"callbacks": [SAVE_LAST]},
    "model": {
        "base_filters": 4,
        "base_kernel": 3,
        "num_layers": 3,
        "dropout": 0.1,
        "learning_rate": 0.003,
        "loss": {"cross_entropy": 1.0, "dice": 1.0},
        "schedule": "one_cycle",
    },
    "data": {
        "image_size": SIDE,
        "batch_size": 4,
        "num_workers": 0,
        "resize": "stretch",
        "crop_size": None,
        "augment": {"hflip": 0.5, "brightness": 0.5, "elastic": {"p": 0.5}},
    },
}
TRAINER_KEYS = [
    *("accelerator", "devices", "num_nodes", "precision", "max_epochs", "min_epochs", "max_steps", "max_time"),
    *("limit_train_batches", "limit_val_batches", "val_check_interval", "check_val_every_n_epoch", "log_every_n_steps"),
    *("gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches", "strategy", "logger", "callbacks"),
    *("num_sanity_val_steps", "overfit_batches", "deterministic", "benchmark", "fast_dev_run", "detect_anomaly"),
]
TRAINER_KEYS = [*(f"trainer.{key}" for key in TRAINER_KEYS), "seed_everything", "ckpt_path"]
MODEL_KEYS = [
    *("network", "base_filters", "base_kernel", "num_layers", "dropout", "dilation", "activation", "normalization"),
    *("input_normalize", "encoder", "encoder_weights", "loss", "class_weights", "optimizer", "learning_rate"),
    *("weight_decay", "schedule", "warmup_steps", "batchnorm_momentum", "min_region_area", "tta", "num_classes"),
]
DATA_KEYS = [
    *("root", "palette", "antialiased_masks", "image_size", "resize", "sixteen_bit", "channels", "crop_size"),
    *("batch_size", "num_workers", "augment", "sampler", "samples_per_epoch", "predict_dir", "train_images"),
]
ORIGINAL = f"""; the configuration of a TensorFlowFlexUNet project
[model]
model         = "TensorFlowFlexUNet"
generator     = False
image_width   = {SIDE}
image_height  = {SIDE}
image_channels = 3
num_classes   = 3
base_filters  = 4
base_kernels  = (3,3)
num_layers    = 3
dropout_rate  = 0.04
dilation      = (1,1)
loss          = "categorical_crossentropy"
metrics       = ["dice_coef_multiclass"]
optimizer     = "Adam"
learning_rate = 0.00007
activation    = "relu"
[train]
epochs        = 3
batch_size    = 2
image_datapath = "./data/train/images/"
mask_datapath  = "./data/train/masks/"
learning_rate_reducer = True
reducer_patience = 4
[mask]
mask_file_format = ".png"
rgb_map = {{(0,0,0):0, (255,0,0):1, (0,255,0):2}}
"""


# --- running cases -----------------------------------------------------------------------------------------------


def run_case(name: str, target: Target, number: int, seed: int, folder: Path) -> tuple[str, str]:
    """Run one case in a child process; return its outcome and one line about it."""
    if not target.files:
        raise ValueError(f"no valid file of {name} to change")
    rng = random.Random(f"{seed} {name} {number}")
    source = rng.choice(target.files)
    place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))
    file = place / source.name
    file.write_bytes(target.change(source, rng))
    report = place / "outcome.json"
    child = os.fork()
    if child == 0:
        _child(target, file, report)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        time.sleep(0.005)
    else:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "hang", str(place)
    if (place / CANARY).exists():
        return "executed", str(place)
    if not report.exists():
        return "crash", str(place)
    outcome, line = json.loads(report.read_text())
    if outcome in ("accepted", "refused"):
        shutil.rmtree(place)
    return outcome, line


def _child(target: Target, file: Path, report: Path) -> None:
    """Use the file and write what came of it; never returns."""
    os.setpgid(0, 0)
    os.chdir(file.parent)
    sys.addaudithook(_watch)
    limit = _virtual_bytes() + GIBIBYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    outcome, line, said = "accepted", "", io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            code = target.use(file)
        if code:
            outcome, line = "refused", said.getvalue().strip()[-300:]
            if "Traceback" in said.getvalue() or "error" not in said.getvalue():
                outcome = "traceback"
    except MemoryError:
        outcome = "memory"
    except SystemExit as error:
        line = f"SystemExit {error.code}: {said.getvalue()[-300:]}"
        outcome = "refused" if said.getvalue().lstrip().startswith("error: ") else "traceback"
    except BaseException as error:  # noqa: BLE001  whatever comes out is what is counted
        names = {one.__name__ for one in type(error).__mro__}
        outcome = "refused" if names & {"UserError", "InferenceError"} else "traceback"
        line = f"{type(error).__name__}: {error}"[:300]
        if outcome == "traceback":
            line += " @ " + " < ".join(
                f"{frame.filename[-40:]}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-3:]
            )
            if "bad_alloc" in line or "allocate" in line:
                outcome = "memory"
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > (GIBIBYTES + 1) * 2**20:
        outcome = "memory"
    report.write_text(json.dumps([outcome, line]))
    os._exit(0)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Leave a mark where a command is run or a connection opened."""
    is_local = event == "socket.connect" and isinstance(arguments[1], str)  # of a worker process
    if event in ("os.system", "socket.connect") and not is_local and not Path(CANARY).exists():
        Path(CANARY).write_text(f"{event} {arguments!r}")


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def fuzz(
    cases: int, seed: int, only: Sequence[str] = (), jobs: int = 1, first: int = 0
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Run ``cases`` cases spread over the targets; return the outcomes of each, and a line for each fault."""
    folder = Path(tempfile.mkdtemp(prefix="flexunet-fuzz-"))
    (folder / "cases").mkdir()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        targets = make_targets(folder)  # what it prints would only be that of a training
    targets = {name: target for name, target in targets.items() if not only or name in only}
    counts: dict[str, Counter[str]] = {name: Counter() for name in targets}
    faults = []
    work = [(name, number) for number in range(first, first + -(-cases // len(targets))) for name in targets][:cases]
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(lambda item: run_case(item[0], targets[item[0]], item[1], seed, folder / "cases"), work)
        for (name, number), (outcome, line) in zip(work, results, strict=True):
            counts[name][outcome] += 1
            if outcome not in ("accepted", "refused"):
                faults.append(f"{name} {number}: {outcome} {line}")
    if not faults:
        shutil.rmtree(folder)
    return counts, faults


def main_fuzz(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 if anything was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each target")
    parser.add_argument("--only", default="", help="names of targets, separated by commas")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args(argv)
    only = [name for name in options.only.split(",") if name]
    counts, faults = fuzz(options.cases, options.seed, only, options.jobs, options.first)
    print("| input | " + " | ".join(OUTCOMES) + " |\n|---|" + "---|" * len(OUTCOMES))
    for name, counted in counts.items():
        print(f"| {name} | " + " | ".join(f"{counted[outcome]:,}" for outcome in OUTCOMES) + " |")
    total = sum(counts.values(), Counter[str]())
    print("| **all** | " + " | ".join(f"{total[outcome]:,}" for outcome in OUTCOMES) + " |")
    print(*faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main_fuzz())
