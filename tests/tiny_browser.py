"""Chromium without a window, driven over a pipe by its DevTools protocol: for looking at pages as a reader does."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATH = next((path for path in map(shutil.which, NAMES) if path), None)
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Tab": 9, " ": 32, "Enter": 13}
# Chromium reads from descriptor 3 and writes to 4, whatever numbers the pipes have here.
START = """
import fcntl, os, sys
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(high[0], 3), os.dup2(high[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page of a headless Chromium. Skips the test where there is none, or where it does not start."""

    def __init__(self, profile: Path):
        if PATH is None or os.name == "nt":
            pytest.skip("no Chromium is installed")
        (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
        call = [PATH, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        call += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        call = [sys.executable, "-c", START, str(their_in), str(their_out), *call]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "pass_fds": (their_in, their_out)}
        self.process = subprocess.Popen(call, **pipes)
        os.close(their_in), os.close(their_out)
        self.out, self.into, self.buffer, self.count = our_out, our_in, b"", 0
        self.session: dict[str, str] = {}
        self.events: list[str] = []
        try:
            target = self.send("Target.createTarget", url="about:blank")["targetId"]
        except (OSError, TimeoutError):
            self.close()
            pytest.skip("Chromium does not start here")
        self.session = {"sessionId": self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        self.send("Page.enable"), self.send("Log.enable"), self.send("Runtime.enable")
        self.size(1400, 1000)

    def send(self, method: str, **parameters: Any) -> dict:
        """Call a method of the protocol and return its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters, **self.session}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        return self.wait(lambda answer: answer.get("id") == self.count)["result"]

    def wait(self, wanted: Any, seconds: float = 30) -> dict:
        end = time.monotonic() + seconds
        while True:
            while b"\0" in self.buffer:
                text, self.buffer = self.buffer.split(b"\0", 1)
                answer = json.loads(text)
                if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                    self.events.append(json.dumps(answer["params"]))
                if wanted(answer):
                    assert "error" not in answer, answer
                    return answer
            if not select.select([self.into], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            part = os.read(self.into, 1 << 20)
            if not part:
                raise OSError("Chromium has ended")
            self.buffer += part

    def open(self, page: Path) -> None:
        self.events.clear()
        self.send("Page.navigate", url=page.resolve().as_uri())
        while self.run("document.readyState") != "complete" or self.run("location.protocol") != "file:":
            time.sleep(0.02)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """A key as if a hand had pressed it."""
        known = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        text = {" ": {"text": " "}, "Enter": {"text": "\r"}}.get(key, {})
        self.send("Input.dispatchKeyEvent", type="keyDown", **known, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **known)

    def size(self, width: int, height: int) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, name: str = "", reduced_motion: bool = False) -> None:
        wish = "reduce" if reduced_motion else "no-preference"
        features = [{"name": "prefers-reduced-motion", "value": wish}]
        self.send("Emulation.setEmulatedMedia", media=name, features=features)

    def visible(self, selector: str) -> list[str]:
        """The file names of the pictures that are seen."""
        names = f"[...document.querySelectorAll({json.dumps(selector)})].filter(i => i.checkVisibility())"
        return self.run(f"{names}.map(i => decodeURIComponent(i.getAttribute('src')).slice(2))")

    def close(self) -> None:
        os.close(self.out), os.close(self.into)
        self.process.terminate()
        self.process.wait(timeout=30)
