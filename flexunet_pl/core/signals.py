"""End the program on SIGTERM as on an error: files are put away, and the exit code is 143."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stopped(SystemExit):
    """Raised to end the program after a signal; the exit code is 128 and the signal's number, as in a shell."""

    def __init__(self, signal_number: int) -> None:
        """Exit because of this signal."""
        self.exit_code = 128 + signal_number
        super().__init__(self.exit_code)


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Raise :class:`Stopped` in the block when SIGTERM arrives; only the main thread can do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


GRACE_SECONDS = 20.0


def _stop(signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG001  the signature of a handler
    # Python loses an exception that a handler raises while an object is deleted; then the process ends a little later.
    last = threading.Timer(GRACE_SECONDS, os._exit, [128 + signal_number])
    last.daemon = True
    last.start()
    raise Stopped(signal_number)
