"""A Chromium without a window, spoken to over two pipes (its DevTools protocol): no port, no further package."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import pathlib
import select
import shutil
import signal
import tempfile
import time
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
_READ, _WRITE = 3, 4  # where the browser expects its pipes
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe", "--disable-sync",
    "--disable-dev-shm-usage", "--no-proxy-server",
)  # fmt: skip


class Browser:
    """A running browser; a context manager."""

    def __init__(self, program: str, *, seconds: float = 60.0) -> None:
        """Starts it.

        Args:
            program: path of a Chromium.
            seconds: that an answer may take.
        """
        self._seconds, self._number, self._rest = seconds, 0, b""
        self._profile = tempfile.TemporaryDirectory()
        # Far from 3 and 4, so that none of them is closed by taking its place.
        commands, self._to = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in _pipe())
        self._from, replies = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in _pipe())
        self._process = os.posix_spawn(
            program,
            [program, *_FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"],
            {**os.environ, "HOME": self._profile.name},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, commands, _READ),
                (os.POSIX_SPAWN_DUP2, replies, _WRITE),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setpgroup=0,
        )
        os.close(commands)
        os.close(replies)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._to)
        os.close(self._from)
        shutil.rmtree(self._profile.name, ignore_errors=True)
        self._profile._finalizer.detach()  # its processes may still be writing for a moment

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Returns the reply to a command of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self._seconds
        while True:
            while b"\0" not in self._rest:
                if not select.select([self._from], [], [], max(0.0, end - time.monotonic()))[0]:
                    raise TimeoutError(f"no answer to {method}")
                part = os.read(self._from, 1 << 20)
                if not part:
                    raise ConnectionError("the browser ended")
                self._rest += part
            line, _, self._rest = self._rest.partition(b"\0")
            reply = json.loads(line)
            if reply.get("id") == self._number:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']}")
                return dict(reply["result"])

    def open(self, url: str) -> Page:
        """Opens an address in a new tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        page.call("Page.enable")
        page.call("Page.navigate", url=url)
        return page


class Page:
    """A tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Returns the reply to a command of the protocol."""
        return self._browser.call(method, self._session, **parameters)

    def run(self, script: str) -> Any:
        """Returns the value of an expression, of a promise what it becomes."""
        reply = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(f"{script}: {reply['exceptionDetails']['exception'].get('description')}")
        return reply["result"].get("value")

    def wait(self, script: str, seconds: float = 30.0) -> Any:
        """Returns the value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(RuntimeError):  # a page that is just being loaded
                if value := self.run(script):
                    return value
            if time.monotonic() > end:
                raise TimeoutError(
                    f"{script} did not become true; the page says: {self.run('document.body.innerText')}"
                )
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """Returns the visible text of an element."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        """Clicks an element with the mouse."""
        find = f"const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
        middle = "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2];"
        script = f"(() => {{ {find} {middle} }})()"
        x, y = self.run(script)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def choose(self, selector: str, path: pathlib.Path) -> None:
        """Chooses a file in a field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Sets the size of the window, and the colors that the user prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: pathlib.Path) -> None:
        """Writes what is seen as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


def _pipe() -> tuple[int, int]:
    return os.pipe()
