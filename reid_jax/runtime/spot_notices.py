"""Notices of clouds that a machine is about to be taken away, turned into SIGTERM of this process.

Schedulers and Kubernetes send SIGTERM themselves. A spot machine alone is only told through its cloud's metadata
server, which a thread asks every `INTERVAL` seconds:

| source | what is asked | notice |
|---|---|---|
| `gce` | `instance/preempted`, `instance/maintenance-event` | `TRUE`; any event but `NONE` |
| `aws` | `spot/instance-action`, with a session token | an answer at all |
| `azure` | `scheduledevents` | an event of the type Preempt, Terminate, Redeploy or Reboot |
| a file | whether it exists | it does |

References: the clouds' documentation of metadata servers (Compute Engine; EC2 IMDSv2; Azure Scheduled Events,
2020-07-01).
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

from reid_jax.errors import UserError

LOG = logging.getLogger(__name__)

INTERVAL = 5.0  # the shortest notice is that of Compute Engine, 30 seconds
TIMEOUT = 2.0
GCE = "http://metadata.google.internal/computeMetadata/v1/instance/"
AWS = "http://169.254.169.254/latest/"
AZURE = "http://169.254.169.254/metadata/scheduledevents?api-version=2020-07-01"
_ENDING = ("Preempt", "Terminate", "Redeploy", "Reboot")
# Metadata servers are on the machine itself: no proxy.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def watch(source: str, interval: float = INTERVAL) -> None:
    """Starts the thread that asks; on a notice it logs it and sends SIGTERM to this process.

    Args:
        source: "gce", "aws", "azure", or the path of a file that a script of one's own creates.
        interval: seconds between two questions.

    Raises:
        UserError: no notice would arrive: the cloud's metadata server does not answer, or the name is neither a
            cloud's nor that of a file that a script can create; or the file is there already.
    """
    if source not in SOURCES:
        _check_file(source)
    ask = SOURCES.get(source) or (lambda: _file(source))
    try:
        ask()
    except OSError as error:
        raise UserError(
            f"expected the metadata server of {source} with --preemption_notice {source}, it does not answer "
            f"({error}); leave the flag out on other machines."
        ) from error

    def loop() -> None:
        pause = threading.Event()
        while not pause.wait(interval):
            try:
                notice = ask()
            except OSError as error:
                LOG.debug("the metadata server did not answer: %s", error)
                continue
            if notice:
                LOG.warning("notice of %s: %s; saving and stopping", source, notice)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=loop, name="spot notices", daemon=True).start()


def _check_file(source: str) -> None:
    place = pathlib.Path(source)
    if os.sep not in source and not place.suffix:  # a misspelled cloud would be waited for in vain
        raise UserError(
            f"expected {', '.join(SOURCES)} or the path of a file (such as ./notice) as --preemption_notice, got "
            f"{source[:80]!r}; correct it."
        )
    if not place.parent.is_dir():
        raise UserError(
            f"expected a folder for the file of --preemption_notice, there is none at {str(place.parent)[:200]!r}; "
            "make it, or name another file."
        )
    if place.exists():
        raise UserError(
            f"the file of --preemption_notice exists already: {str(place)[:200]!r}; remove it, or the run "
            "stops at once."
        )


def _get(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> str | None:
    """Returns the answer to a request, None for "not found"; raises an `OSError` where nobody answers."""
    request = urllib.request.Request(url, headers=headers or {}, method=method)
    try:
        with _opener.open(request, timeout=TIMEOUT) as answer:
            text: str = answer.read(65_536).decode("utf-8", "replace").strip()
            return text
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def _gce() -> str | None:
    flavor = {"Metadata-Flavor": "Google"}
    if _get(f"{GCE}preempted", flavor) == "TRUE":
        return "preempted"
    event = _get(f"{GCE}maintenance-event", flavor)
    return None if event in (None, "", "NONE") else event


def _aws() -> str | None:
    token = _get(f"{AWS}api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT") or ""
    return _get(f"{AWS}meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})


def _azure() -> str | None:
    try:
        events = json.loads(_get(AZURE, {"Metadata": "true"}) or "{}").get("Events", [])
        found = [str(event["EventType"]) for event in events if event.get("EventType") in _ENDING]
    except (ValueError, AttributeError, TypeError) as error:
        raise OSError(f"an answer of another form: {error}") from error
    return found[0] if found else None


def _file(path: str) -> str | None:
    return f"the file {path} exists" if pathlib.Path(path).exists() else None


SOURCES: dict[str, Callable[[], str | None]] = {"gce": _gce, "aws": _aws, "azure": _azure}
