"""Requests to OpenBao's HTTP API, and what its refusals mean in plain words.

TLS trusts the pinned CA file alone where there is one. Proxies and CAs of the environment are never used. No error
carries a body or a token: only the server's own `errors`, made printable and cut.
"""

from __future__ import annotations

import json
import ssl
from typing import Any

import httpx

from remit.broker.openbao.config import Config
from remit.core.errors import Unavailable

TIMEOUT_S = 5.0
"""Of one request: longer than a decision waits, so that the next one finds what this one asked for."""
CONNECTIONS = 16
SHOWN = 200


class Refused(Unavailable):
    """The server answered no. `status` is its HTTP status; 403 may mean that the token has ended."""

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail, hint="docs/guide, OpenBao")
        self.status = status


class Client:
    """For one event loop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._http: httpx.AsyncClient | None = None

    async def request(
        self, method: str, path: str, *, token: str = "", namespace: str = "", body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The answer's JSON ({} where it has none). `path` is below /v1/; `namespace` below the configured one.

        Raises `Refused` where the server says no, `Unavailable` where it cannot be asked.
        """
        headers = {"x-vault-request": "true"}
        below = "/".join(filter(None, (self._config.namespace, namespace)))
        if below:
            headers["x-vault-namespace"] = below
        if token:
            headers["x-vault-token"] = token
        try:
            answer = await self._connected().request(method, f"/v1/{path}", headers=headers, json=body)
        except httpx.TimeoutException as error:
            raise Unavailable(f"{self._shown} does not answer") from error
        except httpx.TransportError as error:
            raise Unavailable(f"{self._shown} cannot be reached: {_printable(str(error))}") from error
        if answer.is_success:
            return _object(answer.content)
        raise Refused(f"{self._shown} {_meaning(answer.status_code, path, answer.content)}", answer.status_code)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    @property
    def _shown(self) -> str:
        return f"OpenBao at {self._config.address}"

    def _connected(self) -> httpx.AsyncClient:
        if self._http is None:
            address = self._config.address
            socket = address.removeprefix("unix:") if address.startswith("unix:") else None
            limits = httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=30)
            self._http = httpx.AsyncClient(
                base_url="http://openbao" if socket else address,
                transport=httpx.AsyncHTTPTransport(verify=self._trust(), uds=socket, limits=limits, trust_env=False),
                timeout=TIMEOUT_S,
                trust_env=False,
                follow_redirects=False,
            )
        return self._http

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=str(self._config.ca_file) if self._config.ca_file else None)
        except (OSError, ssl.SSLError) as error:
            raise Unavailable(f"the CA file {self._config.ca_file} of OpenBao cannot be used") from error


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content) if content else {}
    except ValueError:
        raise Unavailable("OpenBao's answer is not JSON") from None
    return found if isinstance(found, dict) else {}


def _meaning(status: int, path: str, content: bytes) -> str:
    try:
        errors = json.loads(content).get("errors") or []
        said = _printable("; ".join(str(error) for error in errors))
    except (ValueError, AttributeError, TypeError):
        said = ""
    if status == 503 or "is sealed" in said:
        return "is sealed" if "sealed" in said or not said else f"is not ready: {said}"
    if status == 403:
        return f"does not let this node use {path}"
    if status == 404:
        return f"has nothing at {path}" + (f": {said}" if said else "")
    return f"answers {status} for {path}" + (f": {said}" if said else "")


def _printable(text: str) -> str:
    return ascii(text[:SHOWN])[1:-1]
