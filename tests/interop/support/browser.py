"""A headless Chromium, driven over its debugging protocol through a pipe: no port, no further package.

https://chromedevtools.github.io/devtools-protocol/ describes the calls.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

# Time limit of a call; the first one includes the start of the browser.
ANSWER_S = 60.0

# Debian's name for the small build without windows first.
PROGRAMS = ("chromium-headless-shell", "chromium")

FLAGS = (
    "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync",
    "--no-first-run", "--no-default-browser-check", "--hide-scrollbars", "--mute-audio",
)  # fmt: skip


def program() -> str:
    for name in PROGRAMS:
        if found := shutil.which(name):
            return found
    raise RuntimeError(f"none of {', '.join(PROGRAMS)} is on PATH (scripts/interop installs one)")


class Browser:
    """One browser with one tab. Use as a context manager."""

    def __init__(self) -> None:
        self.profile = tempfile.mkdtemp(prefix="larder-browser-")
        self.events: list[dict[str, Any]] = []
        self._buffer = b""
        self._serial = 0
        self._session: str | None = None

    def __enter__(self) -> Browser:
        commands_out, self._commands = os.pipe()
        self._answers, answers_in = os.pipe()
        os.set_blocking(self._answers, False)
        # The browser reads commands from descriptor 3 and answers on 4. (sh knows no descriptor above 9.)
        script = f'exec "$@" 3<&{commands_out} 4>&{answers_in}'
        command = ["bash", "-c", script, "bash", program(), *FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        self._log = open(Path(self.profile) / "log", "wb")
        self._process = subprocess.Popen(
            command, pass_fds=(commands_out, answers_in), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        os.close(commands_out)
        os.close(answers_in)
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._commands)
        os.close(self._answers)
        self._log.close()
        shutil.rmtree(self.profile, ignore_errors=True)

    # -- the protocol -----------------------------------------------------
    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call; the events that come before its answer are kept in ``events``."""
        self._serial += 1
        message: dict[str, Any] = {"id": self._serial, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_S
        while True:
            answer = self._receive(deadline, method)
            if answer.get("id") == self._serial:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _receive(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert self._process.poll() is None, f"{method}: the browser ended with {self._process.returncode}"
            assert time.monotonic() < deadline, f"{method}: no answer within {ANSWER_S:.0f} s"
            try:
                self._buffer += os.read(self._answers, 1 << 16)
            except BlockingIOError:
                time.sleep(0.005)
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    # -- actions ------------------------------------------------
    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def text(self, selector: str) -> str | None:
        """The text of the first element that ``selector`` finds; None without one."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? null")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def prefer(self, scheme: str) -> None:
        """``light`` or ``dark``."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def screenshot(self, path: Path) -> None:
        """The whole page, including what is below the window."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    # -- what was recorded --------------------------------------------------------
    def complaints(self) -> list[str]:
        """Errors and warnings in the console, exceptions, and what a security policy has blocked."""
        found = []
        for event in self.events:
            match event.get("method"), event.get("params"):
                case "Runtime.exceptionThrown", parameters:
                    found.append(str(parameters["exceptionDetails"]))
                case "Runtime.consoleAPICalled", parameters if parameters["type"] in ("error", "warning", "assert"):
                    found.append(str(parameters["args"]))
                case "Log.entryAdded", parameters if parameters["entry"]["level"] in ("error", "warning"):
                    found.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
        return found

    def requested(self) -> list[str]:
        """Every requested address."""
        sent = [e["params"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [parameters["request"]["url"] for parameters in sent]
