"""Explain why a file of weights cannot be read."""

import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from flexunet_pl.core.errors import UserError

# What torch's unpickler raises on files that torch.save did not write: it follows whatever their bytes say.
UNREADABLE = (
    *(OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError),
    *(OverflowError, struct.error, pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError),
)


@contextmanager
def reading(file: str, kind: str, repair: str) -> Iterator[None]:
    """Read ``file`` as a ``kind`` in this block.

    Raises:
        UserError: If the file is damaged or of another kind, with the reason and the ``repair``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of odd files before it raises
            yield
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file}: cannot be read as {kind} ({reason}); it may be damaged{repair}") from error
