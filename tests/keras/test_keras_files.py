"""Hostile and damaged Keras files: a clear error in bounded time and memory, or a correct load; never anything else."""

import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from keras_cases import FILE_NAMES, assert_same_bits, make_network, write

from flexunet_pl.core.errors import UserError
from flexunet_pl.keras import files as keras_files
from flexunet_pl.keras import load_keras, read_keras

Damage = Callable[[h5py.File], None]
SECRET = 12345.678
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return small files of each kind, by name; plain_weights.h5 is what tf-keras' save_weights writes."""
    folder = tmp_path_factory.mktemp("keras")
    network = make_network(normalization=True, input_normalize=True)
    contents = {name: write(folder / name, network, (8, 8)).read_bytes() for name in FILE_NAMES}
    with h5py.File(folder / "model.h5", "a") as file:
        for name in list(file["model_weights"]):
            file.move(f"model_weights/{name}", name)
        file.attrs["layer_names"] = file["model_weights"].attrs["layer_names"]
        del file["model_weights"], file.attrs["model_config"]
    return {**contents, "plain_weights.h5": (folder / "model.h5").read_bytes()}


def damaged(tmp_path: Path, content: bytes, damage: Damage) -> Path:
    path = tmp_path / "damaged.h5"
    path.write_bytes(content)
    with h5py.File(path, "a", libver=("earliest", "latest")) as file:
        damage(file)
    return path


def replace(file: h5py.File, place: str, **dataset: object) -> None:
    del file[place]
    file.create_dataset(place, **dataset)


def test_weights_as_tf_keras_saves_them_are_read(tmp_path: Path, originals: dict[str, bytes]) -> None:
    path = tmp_path / "weights.h5"
    path.write_bytes(originals["plain_weights.h5"])
    model = read_keras(path)
    assert_same_bits(make_network(normalization=True, input_normalize=True), model.state_dict)
    assert model.settings == {
        "num_classes": 3,
        "in_channels": 3,
        "base_filters": 2,
        "base_kernel": 3,
        "num_layers": 2,
        "normalization": True,
    }


KERNEL = "model_weights/conv2d_1/conv2d_1/kernel:0"
VARIABLE = "layers/conv2d_1/vars/0"


def _link_elsewhere(file: h5py.File) -> None:
    secret = Path(file.filename).with_name("secret.h5")
    with h5py.File(secret, "w") as other:
        other["kernel"] = np.full((3, 3, 2, 2), SECRET, np.float32)
    del file[KERNEL]
    file[KERNEL] = h5py.ExternalLink(str(secret), "kernel")


def _link_softly(file: h5py.File) -> None:
    del file[KERNEL]
    file[KERNEL] = h5py.SoftLink("/model_weights/conv2d_3/conv2d_3/kernel:0")


def _link_group_elsewhere(file: h5py.File) -> None:
    del file["model_weights/conv2d_1"]
    file["model_weights/conv2d_1"] = h5py.ExternalLink("/etc/hostname", "/")


def _map_elsewhere(file: h5py.File) -> None:
    secret = Path(file.filename).with_name("secret.h5")
    with h5py.File(secret, "w") as other:
        other["kernel"] = np.full((3, 3, 2, 2), SECRET, np.float32)
    layout = h5py.VirtualLayout((3, 3, 2, 2), np.float32)
    layout[...] = h5py.VirtualSource(secret, "kernel", (3, 3, 2, 2))
    del file[KERNEL]
    file.create_virtual_dataset(KERNEL, layout)


def _store_elsewhere(file: h5py.File) -> None:
    secret = Path(file.filename).with_name("secret.bin")
    secret.write_bytes(np.full(36, SECRET, np.float32).tobytes())
    replace(file, KERNEL, shape=(3, 3, 2, 2), dtype="f4", external=[(str(secret), 0, 144)])


def _share_bytes(file: h5py.File) -> None:
    del file[KERNEL]
    file[KERNEL] = file["model_weights/conv2d_5/conv2d_5/kernel:0"]


def _name_layers(*names: str) -> Damage:
    def damage(file: h5py.File) -> None:
        known = [str(name) for name in file["model_weights"].attrs["layer_names"]]
        file["model_weights"].attrs["layer_names"] = [*known, *names]

    return damage


def _attribute(place: str, name: str, value: object) -> Damage:
    def damage(file: h5py.File) -> None:
        file[place].attrs[name] = value

    return damage


def _reference(file: h5py.File) -> None:
    file["model_weights"].attrs["layer_names"] = file["model_weights"].ref


def _more_weights(file: h5py.File) -> None:
    file["model_weights/dense/dense/kernel:0"] = np.ones((3, 3), np.float32)
    file["model_weights/dense"].attrs["weight_names"] = ["dense/kernel:0"]
    _name_layers("dense")(file)


def _delete(place: str) -> Damage:
    return lambda file: file.__delitem__(place)


def _delete_attribute(place: str, name: str) -> Damage:
    return lambda file: file[place].attrs.__delitem__(name)


def _with(**dataset: object) -> Damage:
    return lambda file: replace(file, KERNEL, **dataset)


HOSTILE = [
    pytest.param(_delete("model_weights/conv2d_1"), "lacks 'conv2d_1'", id="a group is missing"),
    pytest.param(_delete(KERNEL), "lacks 'kernel:0'", id="a weight is missing"),
    pytest.param(_delete_attribute("model_weights", "layer_names"), "no attribute 'layer_names'", id="no order"),
    pytest.param(
        _delete_attribute("model_weights/conv2d", "weight_names"), "no attribute 'weight_names'", id="no names"
    ),
    pytest.param(_link_elsewhere, "'kernel:0' .* is a ExternalLink, which is not followed", id="link to another file"),
    pytest.param(_link_group_elsewhere, "is a ExternalLink, which is not followed", id="link to another file's group"),
    pytest.param(_link_softly, "is a SoftLink, which is not followed", id="soft link"),
    pytest.param(_map_elsewhere, "are in another file, which is not opened", id="virtual dataset"),
    pytest.param(_store_elsewhere, "are in another file, which is not opened", id="external storage"),
    pytest.param(_share_bytes, "claim the same bytes", id="two weights in one place"),
    pytest.param(_name_layers("../../../etc/passwd"), r"'\.\./\.\./\.\./etc/passwd' is no place", id="path upwards"),
    pytest.param(_name_layers("/etc/passwd"), "'/etc/passwd' is no place", id="absolute path"),
    pytest.param(_name_layers(""), "'' is no place", id="empty name"),
    pytest.param(_name_layers("conv2d/conv2d/kernel:0"), "is no group", id="a weight as a layer"),
    pytest.param(_name_layers(*["conv2d"] * 2000), "at most 1000 are read", id="thousands of layers"),
    pytest.param(
        _attribute("model_weights", "layer_names", np.zeros((2, 2))), "texts are needed", id="order of numbers"
    ),
    pytest.param(
        _attribute("model_weights", "layer_names", h5py.Empty("S10")), "texts are needed", id="order of nothing"
    ),
    pytest.param(_attribute("/", "model_config", np.array(["{}", "{}"], "S2")), "holds 2 texts", id="two models"),
    pytest.param(_attribute("/", "model_config", 3), "texts are needed", id="model of numbers"),
    pytest.param(_attribute("/", "model_config", "{" * 10), "is no valid JSON", id="broken JSON"),
    pytest.param(_attribute("/", "model_config", "[" * 100_000), "is no valid JSON", id="deep JSON"),
    pytest.param(_attribute("/", "model_config", " " * 5_000_000), "is longer than", id="endless JSON"),
    pytest.param(_reference, "texts are needed", id="order by reference"),
    pytest.param(_more_weights, "holds 9 layers with a kernel", id="one layer more"),
    pytest.param(_with(shape=(3, 3, 2, 3), dtype="f4"), "not stored in full", id="unwritten"),
    pytest.param(
        _with(data=np.ones((3, 3, 2, 3), "f4")),
        r"layer 'conv2d_1', kernel has the shape \(3, 3, 2, 3\), \(3, 3, 2, 2\) is needed",
        id="wrong shape",
    ),
    pytest.param(_with(data=np.ones((3, 3, 4), "f4")), r"has the shape \(3, 3, 4\)", id="wrong number of axes"),
    pytest.param(_with(data=np.ones((3, 3, 2, 2))), "holds float64, float32 or float16 is needed", id="double"),
    pytest.param(_with(data=np.ones((3, 3, 2, 2), int)), "holds int64, float32", id="whole numbers"),
    pytest.param(_with(data=["text"]), "float32 or float16 is needed", id="texts"),
    pytest.param(_with(data=h5py.Empty("f4")), "float32 or float16 is needed", id="empty dataset"),
    pytest.param(_with(data=np.full((3, 3, 2, 2), np.nan, "f4")), "holds NaN or infinite values", id="NaN"),
    pytest.param(_with(data=np.ones((3, 3, 2, 2), "f4"), compression="gzip"), "is compressed", id="compressed"),
    pytest.param(_with(shape=(2**19, 2**19, 2, 2), dtype="f4", chunks=(64, 64, 2, 2)), "in full", id="four terabytes"),
]


@pytest.mark.parametrize(("damage", "message"), HOSTILE)
def test_hostile_hdf5_is_refused(tmp_path: Path, originals: dict[str, bytes], damage: Damage, message: str) -> None:
    path = damaged(tmp_path, originals["model.h5"], damage)
    with pytest.raises(UserError, match=message) as error:
        load_keras(path)
    assert str(path) in str(error.value)
    assert str(SECRET) not in str(error.value)


def _layers_by_the_thousand(file: h5py.File) -> None:
    for index in range(2000):
        file.create_group(f"layers/conv2d_{index + 10}")


def _dense(file: h5py.File) -> None:
    file["layers/dense/vars/0"] = np.ones((3, 3), np.float32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(_delete("layers/conv2d_1"), "holds 7 layers with a kernel", id="a layer is missing"),
        pytest.param(_delete(VARIABLE), "lacks '0'", id="a weight is missing"),
        pytest.param(_delete("layers"), "neither model_weights, layer_names nor layers", id="no layers"),
        pytest.param(_layers_by_the_thousand, "at most 1000 are read", id="thousands of layers"),
        pytest.param(_dense, "layer 'dense' holds weights and has no place in FlexUNet", id="a foreign layer"),
        pytest.param(
            lambda file: file.move("layers/conv2d_4", "layers/conv2d_9"),
            "lacks layer 'conv2d_4'",
            id="a gap in numbers",
        ),
        pytest.param(
            lambda file: replace(file, "layers/conv2d/vars/0", data=np.ones((5, 3, 3, 2), "f4")),
            r"kernel has the shape \(5, 3, 3, 2\), FlexUNet needs \(k, k, in, out\)",
            id="a kernel that is not square",
        ),
        pytest.param(
            lambda file: replace(file, "layers/conv2d_6/vars/1", data=np.ones(4, "f4")),
            r"layer 'conv2d_6', bias has the shape \(4,\), \(3,\) is needed",
            id="wrong shape",
        ),
    ],
)
def test_hostile_weights_h5_is_refused(
    tmp_path: Path, originals: dict[str, bytes], damage: Damage, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_keras(damaged(tmp_path, originals["model.weights.h5"], damage))


@pytest.mark.parametrize("name", [*FILE_NAMES, "plain_weights.h5"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.999])
def test_a_file_cut_short_is_a_clear_error(tmp_path: Path, originals: dict[str, bytes], name: str, part: float) -> None:
    path = tmp_path / name
    path.write_bytes(originals[name][: int(part * len(originals[name]))])
    with pytest.raises(UserError, match=r"damaged|truncated"):
        load_keras(path)


class Canary:
    """Leave a trace when unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (os.mkdir, ("canary",))


def test_what_is_no_keras_file_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is not a file"):
        read_keras(tmp_path / "absent.h5")
    with pytest.raises(UserError, match="is not a file"):
        read_keras(tmp_path)
    path = tmp_path / "best_model.h5"
    for content in (b"", b"weights", pickle.dumps(Canary()), b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"best_model\.h5.*(damaged|no HDF5 file)"):
            read_keras(path)
    torch.save({"weights": torch.ones(3)}, path)
    with pytest.raises(UserError, match=r"holds 0 members called config\.json"):
        read_keras(path)
    assert [file.name for file in tmp_path.iterdir()] == ["best_model.h5"]


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil", "assets/../../evil.txt", "..\\evil.txt", "C:evil.txt"])
def test_paths_out_of_the_archive_are_refused(tmp_path: Path, originals: dict[str, bytes], name: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    path = pack(folder / "model.keras", [*members_of(originals["model.keras"]).items(), (name, b"evil")])
    with pytest.raises(UserError, match="points out of the archive"):
        read_keras(path)
    assert {file.name for file in tmp_path.rglob("*")} == {"inside", "model.keras"}


def test_other_members_are_neither_needed_nor_unpacked(tmp_path: Path, originals: dict[str, bytes]) -> None:
    members = members_of(originals["model.keras"])
    del members["metadata.json"]
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = 0o120777 << 16
    path = pack(tmp_path / "model.keras", list(members.items()))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert_same_bits(make_network(normalization=True, input_normalize=True), read_keras(path).state_dict)
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]


def test_an_archive_packed_again_is_read(tmp_path: Path, originals: dict[str, bytes]) -> None:
    path = pack(tmp_path / "m.keras", list(members_of(originals["model.keras"]).items()), zipfile.ZIP_DEFLATED)
    assert_same_bits(make_network(normalization=True, input_normalize=True), read_keras(path).state_dict)


def _lie(path: Path, name: bytes, size: int) -> None:
    """Let the archive's directory claim ``size`` bytes for the member ``name``."""
    content = bytearray(path.read_bytes())
    entry = content.rindex(name) - 46
    assert content[entry : entry + 4] == b"PK\x01\x02"
    content[entry + 24 : entry + 28] = struct.pack("<I", size)
    path.write_bytes(content)


def test_bombs_do_not_go_off(tmp_path: Path, originals: dict[str, bytes]) -> None:
    members = members_of(originals["model.keras"])
    bomb = bytes(200 * MEBIBYTE)
    in_config = pack(tmp_path / "a", [("config.json", bomb), ("model.weights.h5", b"")], zipfile.ZIP_DEFLATED)
    in_weights = pack(
        tmp_path / "b", [("config.json", members["config.json"]), ("model.weights.h5", bomb)], zipfile.ZIP_DEFLATED
    )
    lying = tmp_path / "c"
    lying.write_bytes(in_config.read_bytes())
    _lie(lying, b"config.json", 100)
    layers = {"class_name": "Functional", "config": {"layers": [{"name": ""}] * 1_000_000}}
    million = pack(
        tmp_path / "d", [("config.json", json.dumps(layers).encode()), ("model.weights.h5", b"")], zipfile.ZIP_DEFLATED
    )
    packed_otherwise = pack(tmp_path / "e", list(members.items()), zipfile.ZIP_BZIP2)
    del bomb, layers
    cases = {
        in_config: r"config\.json claims to unpack to 209715200 bytes, at most 2097152",
        in_weights: r"model\.weights\.h5 claims to unpack to 209715200 bytes",
        lying: "cannot be read",
        million: r"config\.json claims to unpack to",
        packed_otherwise: "another method than deflate",
    }
    for path, message in cases.items():
        tracemalloc.start()
        started = time.monotonic()
        with pytest.raises(UserError, match=message):
            read_keras(path)
        assert time.monotonic() - started < 10
        assert tracemalloc.get_traced_memory()[1] < 50 * MEBIBYTE
        tracemalloc.stop()


@pytest.mark.parametrize("flaw", ["no config.json", "no model.weights.h5", "two of them", "encrypted"])
def test_an_archive_with_other_members_is_refused(tmp_path: Path, originals: dict[str, bytes], flaw: str) -> None:
    members = list(members_of(originals["model.keras"]).items())
    if flaw.startswith("no "):
        members = [member for member in members if member[0] != flaw.removeprefix("no ")]
    path = tmp_path / "model.keras"
    if flaw == "two of them":
        with pytest.warns(UserWarning, match="Duplicate name"):
            pack(path, [*members, members[-1]])
    else:
        pack(path, members)
    if flaw == "encrypted":
        content = bytearray(path.read_bytes())
        content[content.rindex(b"config.json") - 46 + 8] |= 1
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"encrypted|members called"):
        read_keras(path)


def test_a_hanging_or_crashing_library_is_a_clear_error(
    tmp_path: Path, originals: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.h5"
    path.write_bytes(originals["model.h5"])
    script = tmp_path / "script.py"
    monkeypatch.setattr(keras_files, "LISTING_SCRIPT", script)
    script.write_text("import os\nos.abort()\n")
    with pytest.raises(UserError, match=r"model\.h5 is damaged: the HDF5 library crashes over it"):
        read_keras(path)
    monkeypatch.setattr(keras_files, "TIMEOUT_SECONDS", 0.5)
    script.write_text("while True: pass\n")
    with pytest.raises(UserError, match="the HDF5 library hangs"):
        read_keras(path)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Return ``content`` with one to sixteen flipped, overwritten, moved, dropped or added pieces, or cut short."""
    mutated = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        at, length = rng.randrange(len(mutated)), rng.randrange(1, 64)
        other = rng.randrange(len(mutated))
        kind = rng.randrange(7)
        if kind == 0:
            mutated[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            mutated[at : at + 8] = rng.choice([b"\xff" * 8, bytes(8), struct.pack("<Q", rng.randrange(len(mutated)))])
        elif kind == 2:
            mutated[at : at + length] = rng.randbytes(length)
        elif kind == 3:
            mutated[at : at + length] = mutated[other : other + length]
        elif kind == 4:
            del mutated[at : at + length]
        elif kind == 5:
            mutated[at:at] = rng.randbytes(length)
        elif rng.random() < 0.2:
            del mutated[at:]
    return bytes(mutated)


def fuzz(tmp_path: Path, name: str, content: bytes, seed: int) -> bool:
    """Tell whether a mutated file was loaded; anything but a load or a UserError comes out as it is."""
    path = tmp_path / f"{seed}-{name}"
    path.write_bytes(mutate(content, random.Random(f"{name}{seed}")))
    started = time.monotonic()
    try:
        network, _ = load_keras(path)
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017  a load is as good an outcome
        return False
    finally:
        assert time.monotonic() - started < 60
        path.unlink()
    if name == "model.keras":
        # Archives have checksums: what loads is what was saved.
        assert_same_bits(make_network(normalization=True, input_normalize=True), network.state_dict())
    assert all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())
    return True


class Zygote:
    """List files in forks of one process that has h5py imported; a process of its own for each costs 0.3 s."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("keras_zygote.py")), str(keras_files.LISTING_SCRIPT)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run_listing(self, hdf5: Path) -> subprocess.CompletedProcess[bytes]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{hdf5}\n")
        self.process.stdin.flush()
        code, answer = json.loads(self.process.stdout.readline())
        return subprocess.CompletedProcess([], code, answer.encode(), b"")


@pytest.fixture
def zygote(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    zygote = Zygote()
    monkeypatch.setattr(keras_files, "run_listing", zygote.run_listing)
    yield
    zygote.process.communicate()


@pytest.mark.usefixtures("zygote")
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", [*FILE_NAMES, "plain_weights.h5"])
def test_mutated_files_load_or_are_refused(tmp_path: Path, originals: dict[str, bytes], name: str, count: int) -> None:
    loaded = [fuzz(tmp_path, name, originals[name], seed) for seed in range(count)]
    assert 0 < sum(loaded) < count
