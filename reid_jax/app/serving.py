"""A gallery on an address of this machine, until it is stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import pathlib
import ssl
import threading
from collections.abc import Iterator, Mapping
from http import HTTPStatus

from reid_jax import errors, file_io
from reid_jax.app import access, bounded_server, retention, router, search_api, web_request
from reid_jax.app.image_engine import Engine
from reid_jax.gallery import gallery as gallery_lib

PORT = 8600


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a gallery is served.

    Attributes:
        host: address to listen at.
        port: port; 0 takes a free one.
        user: who asks, for the audit log, where there are no tokens.
        tokens: tokens by name; beyond the own machine one is needed.
        names: further names that the server is reached by.
        read_only: nothing is added or removed.
        require_reason: every action needs a reason.
        certificate: file for https, with the key or beside `key`.
        key: file of the key.
        limits: of each client.
        sweep: seconds between two removals of what has expired.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    user: str = "local user"
    tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)
    names: tuple[str, ...] = ()
    read_only: bool = False
    require_reason: bool = False
    certificate: str | None = None
    key: str | None = None
    limits: bounded_server.Limits = dataclasses.field(default_factory=bounded_server.Limits)
    sweep: float = retention.EVERY


def check(settings: Settings) -> None:
    """Raises the `UserError` of `running` for an address or a certificate, before a model is loaded."""
    _tls(settings)
    with bounded_server.BoundedServer((settings.host, settings.port), _answer_none):
        pass  # it listens for a moment, and answers nobody


def _answer_none(_: web_request.Request) -> bounded_server.Response:
    raise web_request.RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "the server has not started; try again.")


@contextlib.contextmanager
def running(
    gallery: gallery_lib.Gallery, engine: Engine, settings: Settings
) -> Iterator[tuple[bounded_server.BoundedServer, str]]:
    """Serves a gallery while the block runs.

    Yields:
        The server, and its address for a browser.

    Raises:
        UserError: a strange address without a token, an address that cannot be used, a certificate that cannot be
            read, or a gallery whose retention time cannot be kept.
    """
    local = access.is_local(settings.host)
    if not local and not settings.tokens:
        raise errors.UserError(
            f"{settings.host[:100]} is reached from other machines: expected tokens, got none; give a file of them."
        )
    rules = access.Access(
        settings.user,
        access.digests(settings.tokens),
        frozenset(name.lower() for name in (*settings.names, *_name_of(settings.host))),
        local,
    )
    api = search_api.SearchApi(
        gallery,
        engine,
        read_only=settings.read_only,
        require_reason=settings.require_reason,
        turn_seconds=settings.limits.turn_seconds,
    )
    sweeper = retention.Sweeper(gallery, settings.sweep)
    sweeper.start()
    try:
        answer = router.Router(api, rules, settings.limits)
        place = (settings.host, settings.port)
        with bounded_server.BoundedServer(place, answer, settings.limits, _tls(settings)) as server:
            _note(gallery, "serve", settings)
            thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="server", daemon=True)
            thread.start()
            try:
                yield server, _address(settings, server.port)
            finally:
                server.shutdown()
                thread.join()
                _note(gallery, "stop serving", settings)
    finally:
        sweeper.stop()


def _note(gallery: gallery_lib.Gallery, event: str, settings: Settings) -> None:
    """Writes the beginning or the end of the use of the gallery into its log."""
    if gallery.log is not None:
        facts = {"gallery": gallery.store.id, "host": settings.host, "people": sorted(settings.tokens)}
        gallery.log.add(event, settings.user, "", **facts)


def _name_of(host: str) -> tuple[str, ...]:
    """Returns the host where it is a name; addresses need none."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return (host,)
    return ()


def _address(settings: Settings, port: int) -> str:
    host = settings.names[0] if settings.names else settings.host
    if host in ("0.0.0.0", "::"):  # a browser on this machine
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    scheme = "https" if settings.certificate else "http"
    return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with file_io.reading(settings.certificate, "a certificate and its key (PEM)", "give other files"):
        certificate = pathlib.Path(settings.certificate).expanduser()
        key = None if settings.key is None else pathlib.Path(settings.key).expanduser()
        context.load_cert_chain(certificate, key, password=lambda: "")
    return context
