"""A headless Chromium, driven through the pipe it offers: pages are opened, looked at, clicked on, photographed."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
WAIT = 60.0


def find_browser() -> str | None:
    """Return the path of a Chromium, or None where there is none."""
    return next((path for program in PROGRAMS if (path := shutil.which(program))), None)


class Page:
    """One tab.

    Attributes:
        complaints: Everything the console showed as warning or error, uncaught errors, and requests to the network.
    """

    def __init__(self, browser: "Browser", session: str) -> None:
        self.browser, self.session = browser, session
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, path: Path, width: int, dark: bool = False) -> None:
        """Open a file in a window of this width, and wait until it is loaded."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", {"features": scheme})
        self._call("Page.navigate", {"url": path.resolve().as_uri()})
        until = time.monotonic() + WAIT
        while self.run("document.readyState") != "complete":
            assert time.monotonic() < until, f"{path} does not finish loading"
            time.sleep(0.05)

    def run(self, script: str, wait: bool = False) -> Any:
        """Return the value of an expression in JavaScript; ``wait`` if it is a promise."""
        answer = self._call("Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": wait})
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def photograph(self, path: Path) -> None:
        """Write a picture of the whole page as PNG."""
        self.run("for (const image of document.images) image.loading = 'eager'")
        self.run("Promise.all([...document.images].map((image) => image.decode()))", wait=True)
        size = self.run("[innerWidth, document.documentElement.scrollHeight]")
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
        self._call("Emulation.setDeviceMetricsOverride", metrics)
        answer = self._call("Page.captureScreenshot", {"format": "png"})
        path.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        return self.browser.call(method, parameters, self.session, self._hear)

    def _hear(self, event: dict[str, Any]) -> None:
        method, facts = event["method"], event["params"]
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(facts["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(facts["args"]))
        elif method == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(facts["entry"]))
        elif method == "Network.requestWillBeSent" and not facts["request"]["url"].startswith(("file:", "data:")):
            self.complaints.append(f"asks the network for {facts['request']['url']}")


class Browser:
    """The program, which reads commands from one pipe and writes answers and events to another."""

    def __init__(self, program: str, profile: str) -> None:
        command_out, self._commands = os.pipe()
        self._answers, answer_in = os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --remote-debugging-pipe"
        line = f'exec "$0" {flags} --user-data-dir="$1" 3<&{command_out} 4>&{answer_in}'
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", line, program, profile],
            pass_fds=(command_out, answer_in),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_out)
        os.close(answer_in)
        self._number, self._rest = 0, b""

    def page(self) -> Page:
        """Return a new tab."""
        target = self.call("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        return Page(self, self.call("Target.attachToTarget", {"targetId": target, "flatten": True}, None)["sessionId"])

    def call(
        self, method: str, parameters: dict[str, Any] | None, session: str | None, hear: Any = lambda _: None
    ) -> dict[str, Any]:
        """Give a command, hear the events until its answer, and return the answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters or {}}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            if "method" in answer:
                hear(answer)

    def close(self) -> None:
        """End the program."""
        self._process.terminate()
        self._process.wait(WAIT)
        os.close(self._commands)
        os.close(self._answers)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], WAIT)[0], "the browser does not answer"
            part = os.read(self._answers, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        line, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def open_browser(program: str) -> Iterator[Browser]:
    """Yield a browser with a profile of its own, and end it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            yield browser
        finally:
            browser.close()
