"""From requests to actions: which address does what, who may, and what a client is told when it fails."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from reid_jax import errors
from reid_jax.app import search_page
from reid_jax.app.access import Access
from reid_jax.app.bounded_server import Limits, Response
from reid_jax.app.search_api import SearchApi
from reid_jax.app.web_request import Parameters, RefusedError, Request
from reid_jax.evaluation import web_pages

_Action = Callable[[Parameters, bytes, str], dict[str, Any]]
# A path in a message, but for its last name: "/home/kim/people.gallery".
_FOLDERS = re.compile(r"(?<![\w.:/])~?/(?:[^/\s'\"]+/)+")


class Router:
    """Answers the requests of one server.

    Args:
        api: the actions.
        access: who may.
        limits: of the server.
    """

    def __init__(self, api: SearchApi, access: Access, limits: Limits) -> None:
        self._api, self._access, self._limits = api, access, limits
        page = search_page.page()
        policy = f"{web_pages.policy_of(page)}; frame-ancestors 'none'"
        self._page = Response(page.encode(), "text/html; charset=utf-8", headers={"Content-Security-Policy": policy})
        self._actions: dict[str, _Action] = {
            f"/api/{name}": getattr(api, name) for name in ("search", "explain", "add", "remove")
        }
        self._places = _places(api)

    def __call__(self, request: Request) -> Response:
        """Returns the answer to a request.

        Raises:
            RefusedError: it may not be asked, or its content is wrong.
        """
        try:
            return self._answer(request)
        except RefusedError:
            raise
        except errors.UserError as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, self._without_places(str(error))) from error
        except MemoryError as error:
            text = "there is not enough memory for this request; try again with a smaller image."
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, text, {"Retry-After": "5"}) from error

    def _answer(self, request: Request) -> Response:
        self._access.check_host(request)
        if request.path == "/":
            # Nothing secret is on the page, and a link to it is no harm: any site may lead here.
            _only(request, "GET", "HEAD")
            return self._page
        if request.path == "/favicon.ico":
            return Response(b"", "image/x-icon", HTTPStatus.NO_CONTENT)
        if request.path == "/api/info":
            _only(request, "GET", "HEAD")
            self._access.check_site(request)
            return Response.of_json(self._api.info(self._access.who(request), self._limits.body))
        action = self._actions.get(request.path)
        if action is None:
            known = ", ".join(("/", "/api/info", *self._actions))
            raise RefusedError(HTTPStatus.NOT_FOUND, f"there is nothing at this address; known addresses: {known}.")
        _only(request, "POST")
        self._access.check_site(request)
        given = request.parameters()
        who = self._access.who(request)
        return Response.of_json(action(given, request.read(), who))

    def _without_places(self, text: str) -> str:
        """Returns a message without the folders of this machine, which are nobody's business."""
        for place, name in self._places:
            text = text.replace(place, name)
        return _FOLDERS.sub("", text)


def _only(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise RefusedError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"expected {' or '.join(methods)} at this address; see the documentation of the API.",
            {"Allow": ", ".join(methods)},
        )


def _places(api: SearchApi) -> list[tuple[str, str]]:
    """Returns the files that a message may name, the longest first, and their last names."""
    log = api.gallery.log
    files = [pathlib.PurePath(api.gallery.name), *([log.path] if log is not None else [])]
    pairs = {str(form): file.name for file in files for form in (file, pathlib.Path(file).expanduser().absolute())}
    return sorted(pairs.items(), key=lambda pair: -len(pair[0]))
