"""Feed damaged and hostile files to everything that reads one, and count what happens.

    python benchmarks/fuzz.py --cases 10000 [--seed 0] [--only checkpoint,onnx] [--jobs 2]

Each case runs in a process of its own: a seeded random change to a valid file, then the code that reads it. A case is
``accepted`` (it was still valid), ``refused`` (one clear error), or a fault: ``traceback``, ``hang`` (more than 60
seconds), ``memory`` (more than 4 GiB), ``executed`` (a payload ran, a program was started, a connection was opened,
or a name became markup) or ``crash``. The exit code is 1 if there is a fault; each is printed with the number that
repeats it: ``--only TARGET --first NUMBER --cases 1``.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import fuzz_changes as changes
import yaml
from fuzz_changes import CANARY, ODD, SIDE, hostile_name

SECONDS = 60
GIBIBYTES = 4
OUTCOMES = ("accepted", "refused", "traceback", "hang", "memory", "executed", "crash")
FAULTS = OUTCOMES[2:]


@dataclass(frozen=True)
class Target:
    """Something that reads files: the valid ``files`` to change, how to ``change`` one, and what to ``use`` it with.

    ``use`` gets the changed file in a folder of its own, which is the working directory, and a random generator. What
    it returns is the exit code of a command, or None. ``share`` is how many cases it gets for one of a slow target.
    """

    files: Sequence[Path]
    change: Callable[[Path, random.Random], bytes]
    use: Callable[[Path, random.Random], int | None]
    share: int = 8


class Outcome(NamedTuple):
    """What came of a case: one of ``OUTCOMES``, and a line about it."""

    kind: str
    line: str


# --- valid files -------------------------------------------------------------------------------------------------

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


def make_files(folder: Path) -> None:
    """Write a valid file of each kind into ``folder``."""
    import torch
    from safetensors.torch import save_file

    from flexunet_pl.cli.main import main
    from flexunet_pl.data.palette import Palette
    from flexunet_pl.data.synthetic.dataset import TILE_PALETTE, write_dataset

    root, run = folder / "data", folder / "run"
    write_dataset(root, 27, (SIDE, SIDE), 0)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG | {"data": CONFIG["data"] | {"root": str(root)}}))
    main(["fit", "--config", str(config), "--run_dir", str(run)])
    checkpoint = run / "checkpoints" / "last.ckpt"
    main(["export", str(checkpoint), str(folder / "bundle"), "--formats", "onnx,keras,weights.h5,h5"])
    Palette.from_mapping(TILE_PALETTE).save(folder / "palette.yaml")
    torch.save(torch.load(checkpoint, weights_only=True)["state_dict"], folder / "weights.pth")
    save_file({"conv1.weight": torch.zeros(4, 3, 3, 3), "conv1.bias": torch.zeros(4)}, folder / "weights.safetensors")
    main(["prepare", "synthetic", str(folder / "prepared"), "--images", "12", "--size", str(SIDE)])
    (folder / "train_eval_infer.config").write_text(ORIGINAL)
    image, mask = (next((root / "train" / kind).iterdir()) for kind in ("images", "masks"))
    for name in ("images", "masks", "tiffs"):
        (folder / name).mkdir()
    write_images(folder, image, mask)
    write_tiffs(folder / "tiffs")


def write_images(folder: Path, image: Path, mask: Path) -> None:
    """Write the image and the mask in the file formats that are read, TIFF apart."""
    import numpy as np
    from PIL import Image

    for kind, source, endings in (("images", image, ("png", "bmp", "jpg", "webp")), ("masks", mask, ("png", "bmp"))):
        for ending in endings:
            Image.open(source).convert("RGB").save(folder / kind / f"{kind}.{ending}")
    grey = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 64
    Image.fromarray(grey).save(folder / "images" / "deep.png")
    np.save(folder / "images" / "array.npy", np.zeros((SIDE, SIDE, 3), np.uint8))
    Image.new("P", (SIDE, SIDE)).save(folder / "masks" / "index.png")
    np.savez_compressed(folder / "mask.npz", mask=np.zeros((SIDE, SIDE), np.uint8))


def write_tiffs(folder: Path) -> None:
    """Write TIFF of all the kinds that differ in how they are read."""
    import numpy as np
    import tifffile
    from PIL import Image

    colour = np.zeros((SIDE, SIDE, 3), np.uint8)
    deep = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 64
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "plain": (colour, {}),
        "zlib": (colour, {"compression": "zlib"}),
        "big": (colour, {"bigtiff": True}),
        "big_endian": (deep, {"byteorder": ">"}),
        "deep": (deep, {"compression": "zlib"}),
        "tiled": (colour, {"tile": (16, 16)}),
        "tiled_zlib": (deep, {"tile": (16, 16), "compression": "zlib", "bigtiff": True}),
        "turned": (colour, {"extratags": [(274, 3, 1, 6, True)]}),
        "planes": (colour.transpose(2, 0, 1), {"planarconfig": "separate", "photometric": "rgb"}),
        "sub_directories": (colour, {"subifds": 1}),
        "pages": (np.stack([colour, colour]), {"photometric": "rgb"}),
        "float": (deep.astype(np.float32), {}),
    }
    for name, (values, options) in kinds.items():
        rgb: dict[str, Any] = {"photometric": "rgb"} if values.ndim == 3 and values.shape[-1] == 3 else {}
        with tifffile.TiffWriter(
            folder / f"{name}.tif", bigtiff=options.pop("bigtiff", False), byteorder=options.pop("byteorder", "<")
        ) as writer:
            writer.write(values, **(rgb | options))
            if "subifds" in options:
                writer.write(values, **rgb)
    Image.fromarray(colour).convert("CMYK").save(folder / "cmyk.tif")
    for name in ("jpeg", "tiff_lzw", "packbits"):
        Image.fromarray(colour).save(folder / f"{name}.tif", compression=name)
    Image.fromarray(colour[..., 0]).convert("1").save(folder / "fax.tif", compression="group4")


# --- what reads them ---------------------------------------------------------------------------------------------


class Markup(HTMLParser):
    """Looks for markup in a page that only a file name can have put there."""

    def __init__(self) -> None:
        """Start with nothing found."""
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note handlers of events and addresses that run code."""
        for name, value in attrs:
            is_address = name in ("href", "src", "action", "formaction", "xlink:href", "data", "style")
            if name.startswith("on") or (is_address and str(value).strip().lower().startswith("javascript:")):
                self.found.append(f"<{tag} {name}={value}>")

    def handle_data(self, data: str) -> None:
        """Note scripts that a name has opened."""
        if self.lasttag == "script" and data.startswith("alert(1)"):
            self.found.append(data[:50])


def check_page(page: Path) -> None:
    """Leave a mark if a file name became markup in a page."""
    parser = Markup()
    parser.feed(page.read_text(encoding="utf-8"))
    if parser.found:
        Path(CANARY).write_text(f"{page}: {parser.found}")


class Uses:
    """What is done with changed files; ``folder`` is the one of :func:`make_files`."""

    def __init__(self, folder: Path) -> None:
        """Import everything first, so that a forked process starts quickly; nothing computes here."""
        from flexunet_pl.cli.main import main
        from flexunet_pl.data import manifest, masks, samples
        from flexunet_pl.data.palette import Palette
        from flexunet_pl.inference import onnx_infer

        for name in ("keras.reader", "training.lightning_cli", "report.writer", "export.bundle", "curation.audit.page"):
            __import__(f"flexunet_pl.{name}")
        self.folder, self.main, self.palettes = folder, main, Palette
        self.manifest, self.masks, self.samples, self.infer = manifest, masks, samples, onnx_infer
        self.palette = Palette.load(folder / "palette.yaml")
        facts = (folder / "bundle" / "labels.json").read_text()
        self.labels = onnx_infer.Labels.from_metadata({onnx_infer.METADATA_KEY: facts}, "labels.json")
        self.run, self.config, self.data = folder / "run", str(folder / "config.yaml"), folder / "data"
        self.checkpoint = self.run / "checkpoints" / "last.ckpt"
        self.photo, self.truth = (next((self.data / "train" / kind).iterdir()) for kind in ("images", "masks"))

    def fit_config(self, path: Path, _: random.Random) -> int:
        """Train one step with a changed config."""
        return self.main(["fit", "--config", str(path), "--run_dir", "fuzzed", *ONE_STEP])

    def fit_words(self, _: Path, rng: random.Random) -> int:
        """Train one step with odd values on the command line."""
        import inspect

        from flexunet_pl.data.datamodule import SegmentationDataModule
        from flexunet_pl.nn.networks import network_fields
        from flexunet_pl.training.precision import Trainer
        from flexunet_pl.training.task import SegmentationTask

        owners = {"trainer": lightning_trainer(Trainer), "model": SegmentationTask, "data": SegmentationDataModule}
        keys = [f"{group}.{key}" for group, owner in owners.items() for key in inspect.signature(owner).parameters]
        keys += [*(f"model.{key}" for key in network_fields()), "seed_everything", "ckpt_path", "monitor", "patience"]
        options = [f"--{rng.choice(keys)}={rng.choice(ODD)}" for _ in range(rng.randint(1, 2))]
        return self.main(["fit", "--config", self.config, "--run_dir", "words", *ONE_STEP, *options])

    def command(self, _: Path, rng: random.Random) -> int:
        """Run another command with one or two odd values."""
        words, options = rng.choice(COMMANDS)
        places: dict[str, Any] = {
            "RUN": self.run,
            "DATA": self.data,
            "PHOTO": self.photo,
            "MODEL": self.folder / "bundle",
        }
        places |= {"CKPT": self.checkpoint, "CONFIG": self.config}
        given = [str(places.get(word, word)) for word in words.split()]
        extra = [f"--{rng.choice(options.split())}={rng.choice(ODD)}" for _ in range(rng.randint(1, 2))]
        return self.main([*given, *extra])

    def names(self, _: Path, rng: random.Random) -> int:
        """Report on and audit images with hostile names, and look at the pages."""
        place = Path("named") / "test"
        for kind in ("images", "masks"):
            (place / kind).mkdir(parents=True)
        for number in range(3):
            name = hostile_name(rng)[:60] or str(number)
            shutil.copy(self.photo, place / "images" / f"{name}.png")
            shutil.copy(self.truth, place / "masks" / f"{name}.png")
        self.palette.save(Path("named/palette.yaml"))
        if rng.random() < 0.5:
            code = self.main(["report", str(self.run), "named", "--out", "page"])
            pages = list(Path("page").glob("*.html"))
        else:
            code = min(self.main(["audit", "named", "--out", "page"]), 0)  # what it finds is no fault
            pages = list(Path("page").glob("*.html"))
        for page in pages:
            check_page(page)
        return code

    def load_palette(self, path: Path, _: random.Random) -> None:
        """Load a palette."""
        self.palettes.load(path)

    def read_mask(self, path: Path, rng: random.Random) -> None:
        """Read a mask."""
        self.masks.read_mask(path, self.palette, antialiased=rng.random() < 0.5)

    def read_image(self, path: Path, rng: random.Random) -> None:
        """Read an image for training."""
        rules = self.samples.ReadingRules
        choices = [rules(), rules(sixteen_bit="full_range"), rules(sixteen_bit="min_max", channels=1)]
        self.samples.read_image(path, rng.choice(choices))

    def infer_image(self, path: Path, _: random.Random) -> None:
        """Read an image for inference."""
        self.infer.read_image(path, self.labels)

    def read_tiff(self, path: Path, rng: random.Random) -> int | None:
        """Read a TIFF as an image, as a mask, or in bands as infer --tile does."""
        use = rng.choice([self.read_image, self.read_mask, self.infer_image, self.infer_tiled])
        return use(path, rng)

    def infer_tiled(self, path: Path, _: random.Random) -> int:
        """Segment a TIFF in tiles."""
        return self.main(["infer", str(self.folder / "bundle"), str(path), "--out", "masks", "--tile", "16"])

    def predict(self, path: Path, _: random.Random) -> int:
        """Segment an image with a changed ONNX file."""
        return self.main(["infer", str(path), str(self.photo), "--out", "masks", "--threads", "1"])

    def load_checkpoint(self, path: Path, _: random.Random) -> None:
        """Load a checkpoint and run it."""
        import torch

        from flexunet_pl.training.task import SegmentationTask

        task = SegmentationTask.from_checkpoint(path)
        with torch.no_grad():
            task(torch.zeros(1, task.hparams["in_channels"], SIDE, SIDE, dtype=torch.uint8))

    def resume(self, path: Path, rng: random.Random) -> int:
        """Go on training from a checkpoint, or test it."""
        resumed = ["fit", "--config", self.config, "--run_dir", "resumed", *ONE_STEP]
        tested = ["test", "--config", self.config, "--run_dir", "tested"]
        return self.main([*(resumed if rng.random() < 0.5 else tested), "--ckpt_path", str(path)])

    def read_weights(self, path: Path, _: random.Random) -> None:
        """Read the weights of an encoder."""
        from flexunet_pl.nn.encoder_weights import read_weights

        read_weights(path)

    def load_keras(self, path: Path, _: random.Random) -> None:
        """Read a Keras file."""
        from flexunet_pl.keras.reader import load_keras

        load_keras(path)

    def read_manifest(self, path: Path, _: random.Random) -> None:
        """Read the manifest of a data set."""
        self.manifest.read_manifest(path.parent)

    def migrate(self, path: Path, _: random.Random) -> int:
        """Convert an original config."""
        return self.main(["migrate", str(path), "migrated"])


def lightning_trainer(own: Any) -> Any:
    """Return the class whose signature lists what a Trainer takes."""
    return own.__mro__[1]


ONE_STEP = [
    *("--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.max_epochs=1"),
    *("--trainer.max_time=00:00:00:20", "--trainer.enable_progress_bar=false"),
]
# Commands, and the options that get odd values.
COMMANDS = (
    ("infer MODEL PHOTO --out masks", "threads tile overlap min-region-area max-pixels precision providers engine"),
    (
        "predict --config CONFIG --ckpt_path CKPT --data.predict_dir DATA/test/images --out m",
        "tile overlap trainer.precision",
    ),
    ("prepare synthetic made --images 4 --size 32", "images size seed"),
    (
        "prepare pairs DATA made",
        "seed valid test folds groups source_pattern near_duplicates resize size mask_suffix palette",
    ),
    ("audit DATA --out page", "strict palette source_pattern near_duplicates"),
    ("export CKPT bundle", "formats calibration min_region_area force int8"),
    ("report RUN DATA --out page --draws 10", "split draws seed palette images masks predictions"),
    ("tune-min-area RUN DATA", "split antialiased_masks"),
    ("summary CONFIG", "size batch_size out"),
    ("tune --config CONFIG --steps 20", "find steps largest_batch"),
    ("test --config CONFIG --ckpt_path CKPT", "verbose weights_only trainer.devices data.batch_size model.tta"),
)


def make_targets(folder: Path) -> dict[str, Target]:
    """Return what may be done to the files of :func:`make_files`."""
    uses = Uses(folder)

    def listed(name: str) -> list[Path]:
        return sorted((folder / name).iterdir())

    config, photo, checkpoint = folder / "config.yaml", uses.photo, uses.checkpoint
    bundle = folder / "bundle"
    hdf5_files = sorted(path for path in bundle.iterdir() if path.suffix == ".h5")
    return {
        "config": Target([config], changes.yaml_of, uses.fit_config, share=1),
        "words": Target([photo], changes.nothing, uses.fit_words, share=1),
        "commands": Target([photo], changes.nothing, uses.command, share=1),
        "names": Target([photo], changes.nothing, uses.names, share=1),
        "resume": Target([checkpoint], changes.checkpoint_of, uses.resume, share=1),
        "palette": Target([folder / "palette.yaml"], changes.yaml_of, uses.load_palette),
        "mask": Target(listed("masks"), changes.png_of, uses.read_mask),
        "npz": Target([folder / "mask.npz"], changes.npz_of, uses.read_mask),
        "image": Target(listed("images"), changes.png_of, uses.read_image),
        "infer_image": Target(listed("images"), changes.png_of, uses.infer_image),
        "tiff": Target(listed("tiffs"), changes.tiff_of, uses.read_tiff),
        "onnx": Target([bundle / "model.onnx"], changes.onnx_of, uses.predict),
        "checkpoint": Target([checkpoint], changes.checkpoint_of, uses.load_checkpoint),
        "safetensors": Target([folder / "weights.safetensors"], changes.safetensors_of, uses.read_weights),
        "pth": Target([folder / "weights.pth"], changes.zip_of, uses.read_weights),
        "keras": Target([bundle / "model.keras"], changes.zip_of, uses.load_keras),
        "hdf5": Target(hdf5_files, changes.hdf5_of, uses.load_keras),
        "manifest": Target([folder / "prepared" / "manifest.csv"], changes.text_of, uses.read_manifest),
        "original": Target([folder / "train_eval_infer.config"], changes.text_of, uses.migrate),
    }


# --- running cases -----------------------------------------------------------------------------------------------


def run_case(targets: Mapping[str, Target], seed: int, folder: Path, case: tuple[str, int]) -> Outcome:
    """Run one case, a target and a number, in a child process."""
    name, number = case
    place = Path(tempfile.mkdtemp(prefix=f"{name}-{number}-", dir=folder))
    report = place / "outcome.json"
    child = os.fork()
    if child == 0:
        _child(targets[name], random.Random(f"{seed} {name} {number}"), place, report)
    with contextlib.suppress(PermissionError, ProcessLookupError):  # it has ended, or did so itself
        os.setpgid(child, child)
    deadline = time.monotonic() + SECONDS
    ended = False
    while not (ended := os.waitpid(child, os.WNOHANG)[0] != 0) and time.monotonic() < deadline:
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # with what it started
    if not ended:
        os.waitpid(child, 0)
        return Outcome("hang", str(place))
    if (place / CANARY).exists():
        return Outcome("executed", f"{place} {(place / CANARY).read_text()[:300]}")
    if not report.exists():
        return Outcome("crash", str(place))
    outcome = Outcome(*json.loads(report.read_text()))
    if outcome.kind not in FAULTS:
        shutil.rmtree(place)
    return outcome


def _child(target: Target, rng: random.Random, place: Path, report: Path) -> None:
    """Change a file, use it, and write what came of it; never returns."""
    os.setpgid(0, 0)
    os.chdir(place)
    os.environ["TMPDIR"] = tempfile.tempdir = str(place)
    with Path(os.devnull).open("w") as nowhere:
        for stream in (1, 2):  # what libraries print past sys.stdout and sys.stderr
            os.dup2(nowhere.fileno(), stream)
    said = io.StringIO()
    try:
        source = rng.choice(target.files)
        file = place / source.name
        file.write_bytes(target.change(source, rng))
        sys.addaudithook(_watch)
        limit = _virtual_bytes() + GIBIBYTES * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = target.use(file, rng)
        outcome = _of_code(code, said.getvalue())
    except SystemExit as error:
        outcome = _of_code(error.code, said.getvalue())
    except BaseException as error:  # noqa: BLE001  whatever comes out is what is counted
        outcome = _of_error(error)
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > GIBIBYTES * 2**20:
        outcome = Outcome("memory", outcome.line)
    report.write_text(json.dumps(outcome))
    os._exit(0)


def _of_code(code: Any, said: str) -> Outcome:
    if not code:
        return Outcome("accepted", "")
    is_clear = "Traceback" not in said and "error: " in said
    return Outcome("refused" if is_clear else "traceback", said.strip()[-300:])


def _of_error(error: BaseException) -> Outcome:
    line = f"{type(error).__name__}: {error}"[:300]
    if {"UserError", "InferenceError"} & {one.__name__ for one in type(error).__mro__}:
        return Outcome("refused", line)
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    line += " @ " + " < ".join(f"{frame.filename[-40:]}:{frame.lineno}" for frame in reversed(frames))
    is_memory = isinstance(error, MemoryError) or "bad_alloc" in line or "allocate" in line
    return Outcome("memory" if is_memory else "traceback", line)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Leave a mark where a program is started or a connection opened."""
    if event not in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect"):
        return
    is_local = event == "socket.connect" and isinstance(arguments[1], str)  # of a worker process
    is_own = event == "subprocess.Popen" and arguments[0] == sys.executable
    if not (is_local or is_own or Path(CANARY).exists()):
        Path(CANARY).write_text(f"{event} {arguments!r}"[:1000])


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def fuzz(
    cases: int, seed: int, only: Sequence[str] = (), jobs: int = 1, first: int = 0
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Run ``cases`` cases spread over the targets; return the outcomes of each, and a line for each fault."""
    folder = Path(tempfile.mkdtemp(prefix="flexunet-fuzz-"))
    (folder / "cases").mkdir()
    # In another process: one that has computed has threads, and must not fork.
    command = [sys.executable, __file__, "--make", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(made.stderr)
    targets = {name: target for name, target in make_targets(folder).items() if not only or name in only}
    counts: dict[str, Counter[str]] = {name: Counter() for name in targets}
    faults = []
    work = spread(cases, {name: target.share for name, target in targets.items()}, first)
    run = partial(run_case, targets, seed, folder / "cases")
    results = forked_map(run, work, jobs, folder)
    for (name, number), outcome in zip(work, results, strict=True):
        counts[name][outcome.kind] += 1
        if outcome.kind in FAULTS:
            faults.append(f"{name} {number}: {outcome.kind} {outcome.line}")
    if not faults:
        shutil.rmtree(folder)
    return counts, faults


def spread(cases: int, shares: Mapping[str, int], first: int) -> list[tuple[str, int]]:
    """Return ``cases`` pairs of target and number, from the number ``first`` on, as many of each as its share says."""
    whole = sum(shares.values())
    counts = {name: cases * share // whole for name, share in shares.items()}
    for name in list(counts)[: cases - sum(counts.values())]:
        counts[name] += 1
    pairs = [(name, number) for name, count in counts.items() for number in range(first, first + count)]
    return random.Random(0).sample(pairs, len(pairs))


def forked_map(
    run: Callable[[tuple[str, int]], Outcome], work: Sequence[tuple[str, int]], jobs: int, folder: Path
) -> list[Outcome]:
    """Return ``run`` of each item, computed in ``jobs`` processes without threads."""

    def worker(job: int) -> None:
        with (folder / f"{job}.jsonl").open("w") as stream:
            for item in work[job::jobs]:
                stream.write(json.dumps([*item, *run(item)]) + "\n")
                stream.flush()

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=worker, args=(job,)) for job in range(jobs)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = [line for job in range(jobs) for line in (folder / f"{job}.jsonl").read_text().splitlines()]
    outcomes = {(name, number): Outcome(*found) for name, number, *found in map(json.loads, lines)}
    return [outcomes[item] for item in work]


def table(counts: Mapping[str, Counter[str]]) -> str:
    """Return the outcomes of each target as a Markdown table."""
    rows = [*counts.items(), ("**all**", sum(counts.values(), Counter[str]()))]
    lines = [f"| input | cases | {' | '.join(OUTCOMES)} |", "|---|" + "---:|" * (1 + len(OUTCOMES))]
    for name, counted in rows:
        numbers = [counted.total(), *(counted[outcome] for outcome in OUTCOMES)]
        lines.append(f"| {name} | " + " | ".join(f"{number:,}" for number in numbers) + " |")
    return "\n".join(lines)


def main_fuzz(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 if anything was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each target")
    parser.add_argument("--only", default="", help="names of targets, separated by commas")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.make is not None:
        make_files(options.make)
        return 0
    only = [name for name in options.only.split(",") if name]
    counts, faults = fuzz(options.cases, options.seed, only, options.jobs, options.first)
    print(*sorted(faults), "", table(counts), sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main_fuzz())
