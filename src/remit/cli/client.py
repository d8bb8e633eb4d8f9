"""The API's client: HTTP over the control plane's Unix socket.

A problem (RFC 9457) comes back as the error that it was on the other side, so a command fails with the same words
and the same exit code wherever the mistake was found.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx

from remit import __version__
from remit import settings as configuration
from remit.cli import output
from remit.core.errors import Conflict, Invalid, NotFound, RemitError, Unavailable
from remit.settings import Settings

TIMEOUT_S = 30.0
"""Longer than the control plane waits for its node and for cells (5 s each)."""
SILENCE_S = 45.0
"""A stream says something every 15 s (`api.events`)."""
DOWN_HINT = "remit up --detach"
_BY_STATUS: Mapping[int, type[RemitError]] = {
    400: Invalid,
    404: NotFound,
    409: Conflict,
    413: Invalid,
    415: Invalid,
    422: Invalid,
    503: Unavailable,
}


class Event(NamedTuple):
    """Of a stream: the last id that was said, and a JSON object; either may be missing."""

    id: str | None
    data: dict[str, Any] | None


class Client:
    """Synchronous. Raises the four errors of `core.errors`. `talks`: warn where the node is of another version."""

    def __init__(self, settings: Settings, *, talks: bool = True) -> None:
        self._socket = settings.control_socket
        _probe(self._socket)
        # No TLS on this socket: a context that trusts nobody spares reading all of the system's CAs.
        transport = httpx.HTTPTransport(uds=str(self._socket), verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        token = configuration.environment().get("REMIT_TOKEN")
        if token and not (token.isascii() and token.isprintable()):
            raise Invalid("REMIT_TOKEN is not a token", hint="remit operator token NAME prints one on standard output")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            transport=transport,
            base_url="http://localhost",
            timeout=TIMEOUT_S,
            trust_env=False,
            headers=headers,
            event_hooks={"response": [_compare] if talks else []},
        )

    def get(self, path: str, **query: object) -> Any:
        return self._asked("GET", path, params=_present(query))

    def post(self, path: str, body: Mapping[str, Any] | None = None, *, patient: bool = False) -> Any:
        """`patient`: however long it takes."""
        timeout = httpx.Timeout(TIMEOUT_S, read=None) if patient else httpx.USE_CLIENT_DEFAULT
        return self._asked("POST", path, json=dict(body or {}), timeout=timeout)

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._asked("PUT", path, json=dict(body))

    def delete(self, path: str) -> Any:
        return self._asked("DELETE", path)

    def follow(
        self,
        path: str,
        query: Mapping[str, object] | None = None,
        *,
        behind: str | None = None,
        begun: Callable[[], None] | None = None,
    ) -> Iterator[Event]:
        """Server-sent events (WHATWG HTML, 9.2.6) until the server ends the stream; those behind the one with id
        `behind` first. `begun` is called once there is a stream. `Unavailable`: it broke off, or has been silent for
        `SILENCE_S`."""
        headers = {"last-event-id": behind} if behind is not None else {}
        with self._translated():
            timeout = httpx.Timeout(TIMEOUT_S, read=SILENCE_S)
            params = _present(query or {})
            with self._http.stream("GET", path, params=params, headers=headers, timeout=timeout) as response:
                if response.is_error:
                    response.read()
                    _raise(response)
                if begun is not None:
                    begun()
                number, data = behind, None
                for text in response.iter_lines():
                    if text.startswith("id:"):
                        number = text[3:].strip()
                    elif text.startswith("data:"):
                        data = json.loads(text[5:])
                    elif not text:
                        yield Event(number, data)
                        data = None

    def lines(
        self, path: str, query: Mapping[str, object] | None = None, silence_s: float | None = None
    ) -> Iterator[bytes]:
        """The lines of an answer that may be longer than memory, until the server ends it. `silence_s`: how long it may
        say nothing; None: as long as it likes."""
        with self._translated():
            timeout = httpx.Timeout(TIMEOUT_S, read=silence_s)
            with self._http.stream("GET", path, params=_present(query or {}), timeout=timeout) as response:
                if response.is_error:
                    response.read()
                    _raise(response)
                rest = b""
                for chunk in response.iter_bytes():
                    *whole, rest = (rest + chunk).split(b"\n")
                    yield from whole

    def close(self) -> None:
        self._http.close()

    def _asked(self, method: str, path: str, **arguments: Any) -> Any:
        with self._translated():
            response = self._http.request(method, path, **arguments)
            if response.is_error:
                _raise(response)
            return response.json() if response.content else None

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise Unavailable("the control plane did not answer in time", hint="remit status") from error
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable("the control plane's answer cannot be read", hint="remit status") from error


@contextlib.contextmanager
def connected(*, talks: bool = True) -> Iterator[Client]:
    """A client of the control plane that the settings name."""
    client = Client(configuration.load(), talks=talks)
    try:
        yield client
    finally:
        client.close()


def _probe(path: Path) -> None:
    """Fail here where nobody listens: httpcore 1.0 leaks its socket when a connection to a Unix socket fails."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(path))
        except PermissionError as error:
            raise Unavailable(f"you may not use the control plane on {path}", hint="use its user, or sudo") from error
        except OSError as error:
            raise Unavailable(f"the control plane does not answer on {path}", hint=DOWN_HINT) from error


def part(text: str) -> str:
    """`text` as one segment of a path."""
    if text in ("", ".", ".."):
        raise Invalid(f"{text!r} is not a name")
    return quote(text, safe="")


def _compare(response: httpx.Response) -> None:
    node = response.headers.get("remit-version", __version__)
    if node != __version__:
        _differing(node)


@functools.cache
def _differing(node: str) -> None:
    """Said once, however many requests a command makes."""
    output.say(f"warning: the node runs remit {node[:40]}, and this is remit {__version__}")
    output.say("hint: remit down, then remit up --detach, with the one that is meant")


def _present(query: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in query.items() if value is not None}


def _raise(response: httpx.Response) -> None:
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    detail = str(problem.get("detail") or problem.get("title") or f"the control plane answered {response.status_code}")
    kind = _BY_STATUS.get(response.status_code, RemitError)
    raise kind(detail, hint=str(problem.get("hint") or ""))
