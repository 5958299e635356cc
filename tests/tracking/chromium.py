"""A headless Chromium, driven through DevTools over a pair of pipes: no package, no port."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SETTLED_SECONDS = 1.5  # a page that has not changed for so long has drawn what it draws

# MLflow opens its Assistant over a quarter of the page once, on localhost; this is what it remembers that by.
ASSISTANT_SEEN = "try { localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true') } catch {}"

# What each chart draws: a line appears twice, once with its points; a band is one of the shapes behind them.
CURVES = """[...document.querySelectorAll('.js-plotly-plot')].map(plot => ({
  title: plot.closest('[data-testid="experiment-view-compare-runs-card"]')?.innerText.split('\\n')[0] ?? '',
  lines: (plot.data ?? []).filter(one => one.metricKey).map(one => (
    {x: Array.from(one.x ?? []), y: Array.from(one.y ?? [])})),
  bands: (plot.data ?? []).filter(one => one.fill && (one.x ?? []).length > 1).length,
}))"""


def installed() -> str | None:
    """Path of a Chromium; None: there is none here."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Chromium:
    """One page. Use it as a context manager."""

    def __init__(self, width: int = 1500, height: int = 950) -> None:
        self.size = (width, height)
        self._number = 0

    def __enter__(self) -> Self:
        program = installed()
        assert program is not None, "there is no Chromium here"
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        near = [os.pipe(), os.pipe()]
        theirs_in, theirs_out = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (near[0][0], near[1][1]))
        self._out, self._in = near[0][1], near[1][0]
        os.close(near[0][0])
        os.close(near[1][1])
        # Chromium reads from 3 and writes to 4; dash cannot name a descriptor above 9
        command = ["bash", "-c", f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}', program, "--remote-debugging-pipe"]
        command += ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        command += [
            "--no-first-run",
            f"--user-data-dir={self._profile.name}",
            f"--window-size={self.size[0]},{self.size[1]}",
        ]
        with (Path(self._profile.name) / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "about:blank"],
                pass_fds=(theirs_in, theirs_out),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        self._left = b""
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=ASSISTANT_SEEN)
        width, height = self.size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.kill()
        self._process.wait()
        self._profile.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer.get('error')}"
                return answer["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            part = os.read(self._in, 1 << 16)
            assert part, "Chromium has ended"
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def evaluate(self, script: str) -> Any:
        """Value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def wait_for(self, script: str, accept: Callable[[Any], bool] = bool, seconds: float = 90.0) -> Any:
        """Wait until a JavaScript expression has a value that is accepted, and return it."""
        deadline = time.monotonic() + seconds
        while not accept(value := self.evaluate(script)):
            assert time.monotonic() < deadline, f"waited in vain; the page shows: {self.text()[:2000]}"
            time.sleep(0.3)
        return value

    def text(self) -> str:
        return self.evaluate("document.body.innerText")

    def settle(self, seconds: float = 30.0) -> None:
        """Wait until the page's text and number of drawn elements stay the same."""
        deadline, before, since = time.monotonic() + seconds, None, time.monotonic()
        while time.monotonic() < deadline and time.monotonic() - since < SETTLED_SECONDS:
            now = self.evaluate("[document.body.innerText.length, document.querySelectorAll('*').length]")
            if now != before:
                before, since = now, time.monotonic()
            time.sleep(0.2)

    def screenshot(self, path: Path) -> None:
        """Write what is seen as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
