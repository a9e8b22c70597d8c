"""SIGTERM ends a command, even where Python loses the exception."""

import signal
import subprocess
import sys
import time


def end_of(body: str) -> int:
    """Return the exit code of a program that gets SIGTERM a moment after it says that it is ready."""
    program = f"""
import time
from flexunet_pl.core import signals
from flexunet_pl.cli import main as cli
signals.GRACE_SECONDS = 0.5

class Swallowing:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(3)

def run(words):
{body}
    return 0

cli._run = run
raise SystemExit(cli.main([]))
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        return process.wait(20)


def test_sigterm_ends_a_command_with_143() -> None:
    assert end_of('    print("ready", flush=True)\n    time.sleep(30)') == 143


def test_an_exception_that_python_loses_delays_the_end_only() -> None:
    assert end_of("    Swallowing()\n    time.sleep(30)") == 143
