"""Follow tensors of no content through a network: what each depends on, where it is from, how many are alive at once.

The network and its input lie on torch's meta device, where tensors have shapes only; so any size is free.
"""

import weakref
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten

# For each column of a tensor (..., W) what it depends on: (2, W), the first column of the image negated, and the last;
# so of what depends on both of two, the reach is their maximum. One column stands for what is the same everywhere.
Reach = npt.NDArray[np.int64]
NOWHERE = -(1 << 40)  # less than any column, for what depends on nothing


def everywhere(reach: Reach) -> Reach:
    """Return the reach (2, 1) of what depends on all columns."""
    reached: Reach = reach.max(axis=1, keepdims=True)
    return reached


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own carries no types
    """Follows what is computed while it is active.

    Attributes:
        unknown: Operations that were not understood; if there are any, the reach is unknown.
        peak_bytes: The most bytes of results that were alive at once.
    """

    def __init__(self, image: Tensor) -> None:
        """Follow ``image`` (N, C, H, W) on the meta device."""
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own carries no types
        width = np.arange(image.shape[-1])
        self.unknown: set[str] = set()
        self.peak_bytes = 0
        self._reach = WeakTensorKeyDictionary()
        self._sources = WeakTensorKeyDictionary()
        self._inputs: dict[int, frozenset[int]] = {}
        self._alive: dict[int, int] = {}  # bytes of each storage
        self._reach[image] = np.stack([-width, width])
        self._sources[image] = frozenset()

    def reach(self, tensor: Tensor) -> Reach | None:
        """Return what a tensor depends on, None where that is not known."""
        found: Reach | None = self._reach.get(tensor)  # type: ignore[no-untyped-call]
        return found

    def sources(self, tensor: Tensor) -> frozenset[int]:
        """Return the marks of the tensors that a tensor was computed from since :meth:`mark` was called on them."""
        found: frozenset[int] = self._sources.get(tensor, frozenset())  # type: ignore[no-untyped-call]
        return found

    def mark(self, tensor: Tensor, number: int, inputs: frozenset[int]) -> None:
        """Say that what is computed from this tensor comes from ``number``, which itself comes from ``inputs``."""
        self._sources[tensor] = frozenset([number])
        self._inputs[number] = inputs

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        followed = [one for one in inputs if one in self._reach]
        outputs = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        if followed and outputs:
            self._follow(func, args, followed, outputs[0])  # further ones are statistics or indices
            for output in outputs:
                self._count(output)
        return result

    def _follow(self, func: Any, args: tuple[Any, ...], followed: list[Tensor], output: Tensor) -> None:
        sources = frozenset[int]().union(*(self.sources(one) for one in followed))
        if func.overloadpacket in (aten.add, aten.add_):  # what a residual block adds is no path of its own
            sources -= frozenset[int]().union(*(self._inputs.get(number, frozenset()) for number in sources))
        self._sources[output] = sources
        rule, own = RULES.get(func.overloadpacket), self._reach[followed[0]]
        if rule is None or own.shape[1] == 1:
            reach = self._elementwise(followed, output)
        else:
            reach = rule(own, args, followed[0], output)
        if reach is None:
            self.unknown.add(str(func))
            reach = everywhere(own)
        self._reach[output] = reach

    def _elementwise(self, followed: list[Tensor], output: Tensor) -> Reach | None:
        """Return the reach of what is computed column by column; None if the shapes say that it is not."""
        for one in followed:
            is_global = self._reach[one].shape[1] == 1
            if not is_global and (output.ndim == 0 or one.shape[-1:] != output.shape[-1:]):
                return None
        joined: Reach = reduce(np.maximum, (self._reach[one] for one in followed))
        return joined

    def _count(self, output: Tensor) -> None:
        storage = output.untyped_storage()
        if storage._cdata in self._alive:
            return
        self._alive[storage._cdata] = storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, sum(self._alive.values()))
        weakref.finalize(storage, self._alive.pop, storage._cdata)


def _convolved(reach: Reach, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Reach:
    """A convolution, transposed or not: args are input, weight, bias, stride, padding, dilation, transposed, ..."""
    stride, padding, dilation = (sides[-1] for sides in args[3:6])
    return _windowed(reach, source, output, (args[1].shape[-1], stride, padding, dilation), transposed=args[6])


def _pooled(reach: Reach, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Reach:
    """Pooling: args are input, kernel, stride, padding, dilation (of the largest only)."""
    kernel = args[1][-1]
    stride = args[2][-1] if len(args) > 2 and args[2] else kernel
    return _windowed(reach, source, output, (kernel, stride, args[3][-1] if len(args) > 3 else 0, 1))


def _windowed(
    reach: Reach, source: Tensor, output: Tensor, window: tuple[int, int, int, int], transposed: bool = False
) -> Reach:
    kernel, stride, padding, dilation = window
    wide, narrow = (output, source) if transposed else (source, output)
    column = np.arange(narrow.shape[-1])
    found = np.full((2, output.shape[-1]), NOWHERE)
    for tap in range(kernel):
        place = column * stride - padding + tap * dilation
        inside = (place >= 0) & (place < wide.shape[-1])
        to, origin = (place[inside], column[inside]) if transposed else (column[inside], place[inside])
        found[:, to] = np.maximum(found[:, to], reach[:, origin])
    return found


def _padded(reach: Reach, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Reach:
    """Padding, of which the left one comes first in args[1]; whatever its kind, the nearest column stands for it."""
    place = (np.arange(output.shape[-1]) - int(args[1][0])).clip(0, source.shape[-1] - 1)
    return reach[:, place]


def _resized(reach: Reach, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Reach:  # noqa: ARG001
    """Interpolation between the two nearest columns (the nearest alone is one of them)."""
    scale = source.shape[-1] / output.shape[-1]
    place = (np.arange(output.shape[-1]) + 0.5) * scale - 0.5
    low = np.floor(place).astype(np.int64).clip(0, source.shape[-1] - 1)
    high = np.ceil(place).astype(np.int64).clip(0, source.shape[-1] - 1)
    return np.maximum(reach[:, low], reach[:, high])


def _copied(reach: Reach, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Reach:  # noqa: ARG001
    """The nearest column."""
    place = ((np.arange(output.shape[-1]) + 0.5) * source.shape[-1] / output.shape[-1]).astype(np.int64)
    return reach[:, place]


def _sliced(reach: Reach, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Reach:
    """A slice: args are input, dimension, start, end, step."""
    dimension = args[1] if len(args) > 1 else 0
    if dimension % source.ndim != source.ndim - 1:
        return reach
    start = args[2] if len(args) > 2 and args[2] is not None else 0
    step = args[4] if len(args) > 4 else 1
    place = start % source.shape[-1] + step * np.arange(output.shape[-1])
    return reach[:, place]


def _averaged(reach: Reach, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Reach | None:  # noqa: ARG001
    """A mean over whole rows and columns, as in squeeze-and-excitation."""
    return everywhere(reach) if output.ndim == source.ndim and output.shape[-1] == 1 else None


Rule = Callable[[Reach, tuple[Any, ...], Tensor, Tensor], Reach | None]
RULES: dict[Any, Rule] = {
    aten.convolution: _convolved,
    aten.max_pool2d_with_indices: _pooled,
    aten.max_pool2d: _pooled,
    aten.avg_pool2d: _pooled,
    aten.replication_pad2d: _padded,
    aten.reflection_pad2d: _padded,
    aten.constant_pad_nd: _padded,
    aten.upsample_bilinear2d: _resized,
    aten.upsample_nearest2d: _copied,
    aten.slice: _sliced,
    aten.mean: _averaged,
    aten._adaptive_avg_pool2d: _averaged,
    aten.adaptive_avg_pool2d: _averaged,
}
