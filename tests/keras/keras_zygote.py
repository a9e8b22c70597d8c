"""Run a script's main(file, seconds) in a fork for each file named on standard input: for fuzzing hundreds of files.

What the forks write, and how they end, goes to standard output: a line of JSON, [exit code, text], for each file.
"""

import importlib.util
import json
import os
import sys
import tempfile
from types import ModuleType

# A file that makes the HDF5 library loop costs this much computing.
SECONDS = "1"


def load(path: str) -> ModuleType:
    """Import the script at ``path``, which imports h5py, once for all forks."""
    spec = importlib.util.spec_from_file_location("script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer(script: ModuleType, file: str) -> tuple[int, str]:
    """Return exit code and output of the script for ``file``."""
    with tempfile.TemporaryFile("w+") as output:
        process = os.fork()
        if process == 0:
            os.dup2(output.fileno(), sys.stdout.fileno())
            os.close(sys.stderr.fileno())
            script.main(file, SECONDS)
            sys.stdout.flush()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        output.seek(0)
        return code, output.read()


if __name__ == "__main__":
    loaded = load(sys.argv[1])
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(loaded, line.rstrip("\n"))) + "\n")
        sys.stdout.flush()
