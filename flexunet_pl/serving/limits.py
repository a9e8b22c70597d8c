"""What a service allows a request, and the bounded queue of its work."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, TypeVar

from flexunet_pl.core.ranges import Range, check_fields
from flexunet_pl.inference.onnx_infer import DEFAULT_MAX_PIXELS, WORKERS

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What a request may cost.

    Attributes:
        max_bytes: Most bytes of a body.
        max_pixels: Most pixels of an image.
        seconds: Longest time that a request may take, sending its body included.
        queue: How many requests may wait while others are computed; the next one is told to come back (503).
        batch: Most images in one request.
    """

    max_bytes: Annotated[int, Range(1, 1 << 40)] = 64_000_000
    max_pixels: Annotated[int, Range(1, 1 << 40)] = DEFAULT_MAX_PIXELS
    seconds: Annotated[float, Range(0.01, 86_400)] = 30.0
    queue: Annotated[int, Range(0, 100_000)] = 32
    batch: Annotated[int, Range(1, 10_000)] = 64

    def __post_init__(self) -> None:
        """Check the values; UserError if one is out of its range."""
        check_fields(self, "--")


class BusyError(Exception):
    """All places are taken."""


class TooLargeError(Exception):
    """A body has more bytes than allowed."""


class Workers:
    """Threads that do the work of requests, and a fixed number of places for those that wait.

    A few threads decode and encode beside the network, which computes one image at a time on all cores.
    """

    def __init__(self, queue: int, threads: int = WORKERS) -> None:
        """Start ``threads`` threads, with ``queue`` places to wait."""
        self.places = queue + threads
        self.taken = 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="segment")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place while the block runs; raises BusyError if there is none."""
        if self.taken >= self.places:
            raise BusyError
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread and return its result.

        A cancelled caller withdraws work that has not begun; work that has takes a place until it ends.
        """
        future: Future[T] = self._threads.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.cancel():
                self.taken += 1
                loop = asyncio.get_running_loop()
                future.add_done_callback(lambda _future: loop.call_soon_threadsafe(self._give_back))
            raise

    def _give_back(self) -> None:
        self.taken -= 1

    def close(self) -> None:
        """End the threads once they are done."""
        self._threads.shutdown()
