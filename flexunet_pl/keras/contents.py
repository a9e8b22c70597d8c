"""List what a Keras HDF5 file holds, as JSON, in a process of its own: ``python -P contents.py FILE SECONDS``.

The HDF5 library hangs or crashes on some damaged files. Here that ends only a child process, which has limits on time
and memory. Values are not read: the list gives their offsets in the file. Only h5py and the standard library are
imported, so that the process starts quickly.
"""

import contextlib
import json
import math
import sys
from typing import TypeAlias

import h5py

# A FlexUNet of 16 levels has about 250 layers and a configuration of 300 kB.
MAX_LAYERS = 1000
MAX_WEIGHTS_A_LAYER = 4
MAX_TEXT_BYTES = 2 * 2**20
MAX_MEMORY_BYTES = 4 * 2**30

Item: TypeAlias = h5py.Group | h5py.Dataset


class ContentError(Exception):
    """The file has unsupported content; the message says what and where."""


def contents(file: h5py.File) -> dict[str, object]:
    """Return the model's configuration (a text or None), the layout, and the layers that hold weights.

    Layout "names" (.h5) has its layers in topological order. Layout "classes" (.weights.h5 and .keras) names them by
    class and number; ``model_name`` is what the model itself calls such a layer.
    """
    config = read_texts(file, "model_config") if "model_config" in file.attrs else [None]
    if len(config) != 1:
        raise ContentError(f"model_config holds {len(config)} texts, one is needed")
    if "model_weights" in file or "layer_names" in file.attrs:
        root = group_at(file, "model_weights") if "model_weights" in file else file
        return {"config": config[0], "layout": "names", "layers": layers_by_name(root)}
    if "layers" in file:
        return {"config": config[0], "layout": "classes", "layers": layers_by_class(group_at(file, "layers"))}
    raise ContentError("there is neither model_weights, layer_names nor layers: these are no weights of Keras")


def layers_by_name(root: h5py.Group) -> list[dict[str, object]]:
    """Read the layout of .h5: the attribute layer_names lists the layers, weight_names each layer's weights."""
    layers: list[dict[str, object]] = []
    for name in read_texts(root, "layer_names"):
        group = group_at(root, name)
        places = read_texts(group, "weight_names")
        check_count(len(places), name)
        weights = {place.rsplit("/", 1)[-1].removesuffix(":0"): describe(group, place) for place in places}
        if weights:
            layers.append({"name": name, "model_name": name, "weights": weights})
    return layers


def layers_by_class(root: h5py.Group) -> list[dict[str, object]]:
    """Read the layout of .weights.h5 and .keras: CLASS_n/vars/0, 1 .."""
    if len(root) > MAX_LAYERS:
        raise ContentError(f"there are {len(root)} layers, at most {MAX_LAYERS} are read")
    layers: list[dict[str, object]] = []
    for name in root:
        group = group_at(root, name)
        if "vars" not in group:
            continue
        variables = group_at(group, "vars")
        check_count(len(variables), name)
        weights = {str(index): describe(variables, str(index)) for index in range(len(variables))}
        model_name = (read_texts(variables, "name") if "name" in variables.attrs else [None])[0]
        if weights:
            layers.append({"name": name, "model_name": model_name, "weights": weights})
    return layers


def check_count(weights: int, layer: str) -> None:
    """Refuse a layer with more weights than any of FlexUNet's has."""
    if weights > MAX_WEIGHTS_A_LAYER:
        raise ContentError(f"layer {layer!r} holds {weights} weights, at most {MAX_WEIGHTS_A_LAYER} are read")


def describe(group: h5py.Group, place: str) -> dict[str, object]:
    """Return shape, numpy type and byte offset of the dataset at ``place``, which must be contiguous in this file."""
    dataset = item_at(group, place)
    if not isinstance(dataset, h5py.Dataset):
        raise ContentError(f"{dataset.name} is no weight")
    if dataset.dtype.str[1:] not in ("f2", "f4") or dataset.shape is None:
        raise ContentError(f"{dataset.name} holds {dataset.dtype}, float32 or float16 is needed")
    if dataset.is_virtual or dataset.external:
        place = f"the values of {dataset.name} are in another file"
        raise ContentError(f"{place}, which is not opened; save the model again")
    offset, stored = dataset.id.get_offset(), dataset.id.get_storage_size()
    if offset is None or stored != dataset.nbytes:
        raise ContentError(
            f"{dataset.name} is compressed, chunked or not stored in full ({stored} bytes of {dataset.nbytes}); "
            "Keras stores weights contiguously, as h5repack -f NONE -l CONTI does"
        )
    return {"shape": list(map(int, dataset.shape)), "type": dataset.dtype.str, "offset": int(offset)}


def read_texts(item: Item, key: str) -> list[str]:
    """Return the attribute ``key`` of ``item``, a text or a list of texts, as a list of str."""
    if key not in item.attrs:
        raise ContentError(f"{item.name} has no attribute {key!r}; is this a Keras file?")
    attribute = item.attrs.get_id(key)
    # Keras writes an empty list as an empty array of numbers.
    if attribute.shape == (0,):
        return []
    if attribute.shape is None or len(attribute.shape) > 1 or h5py.check_string_dtype(attribute.dtype) is None:
        raise ContentError(f"attribute {key!r} of {item.name} holds {attribute.dtype}, texts are needed")
    count = math.prod(attribute.shape)
    if count > MAX_LAYERS or count * attribute.dtype.itemsize > MAX_TEXT_BYTES:
        raise ContentError(f"attribute {key!r} of {item.name} lists {count} texts, at most {MAX_LAYERS} are read")
    value = item.attrs[key]
    texts = value.tolist() if attribute.shape else [value]
    texts = [text.decode() if isinstance(text, bytes) else str(text) for text in texts]
    if sum(map(len, texts)) > MAX_TEXT_BYTES:
        raise ContentError(f"attribute {key!r} of {item.name} is longer than {MAX_TEXT_BYTES} characters")
    return texts


def group_at(parent: h5py.Group, place: str) -> h5py.Group:
    """Return the group at ``place`` below ``parent``."""
    item = item_at(parent, place)
    if not isinstance(item, h5py.Group):
        raise ContentError(f"{item.name} is no group")
    return item


def item_at(parent: h5py.Group, place: str) -> Item:
    """Return the group or dataset at ``place`` (parts joined by "/") below ``parent``, inside this very file.

    Soft and external links are refused: they may lead to other places and other files.
    """
    item: Item = parent
    for part in place.split("/"):
        if part in ("", ".", "..") or not isinstance(item, h5py.Group):
            raise ContentError(f"{place!r} is no place in {parent.name}")
        link = item.get(part, getlink=True)
        if link is None:
            raise ContentError(f"{item.name} lacks {part!r}")
        if not isinstance(link, h5py.HardLink):
            raise ContentError(f"{part!r} in {item.name} is a {type(link).__name__}, which is not followed")
        item = item[part]
    return item


def limit_process(seconds: int) -> None:
    """Limit this process to ``seconds`` of processor time and to the memory that a list needs."""
    # Windows has no such limits; there only the parent's timeout applies.
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        # A crash is an expected result here and needs no core file.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(path: str, seconds: str) -> None:
    """Write the JSON of the contents of ``path``, or {"error": message}, to standard output."""
    limit_process(int(seconds))
    answer: dict[str, object]
    try:
        with h5py.File(path, "r") as file:
            answer = contents(file)
    except ContentError as error:
        answer = {"error": str(error)}
    except Exception as error:  # noqa: BLE001  h5py raises nearly every kind of exception over damaged bytes
        answer = {"error": f"it is damaged, truncated or no HDF5 file ({type(error).__name__}: {error})"}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
