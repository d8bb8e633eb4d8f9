"""Requests that the node itself makes, to token endpoints: others' servers, which see secrets.

The name is resolved and its addresses screened like an agent's; the one that was screened is dialled, and TLS proves
the name. Nothing is followed, no proxy or CA of the environment is used, answers are bounded, and no connection is
shared between names. A call has no time-out of its own: whoever waits for it has one.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx

from remit.control.ports import Resolver
from remit.core import addresses
from remit.core.errors import Unavailable
from remit.core.exchange import Answer, Call, Endpoint
from remit.core.names import Address

ANSWER_MAX = 64 << 10
TIMEOUT_S = 4.0
"""Of one step (connect, one read); all of it is bounded by `cache.FETCH_S`."""


class Dialler:
    """`trust`: a PEM file of the CAs that endpoints may use, read at the first call."""

    def __init__(self, resolver: Resolver, trust: Path) -> None:
        self._resolver = resolver
        self._trust = trust
        self._context: ssl.SSLContext | None = None

    async def __call__(self, call: Call) -> Answer:
        """`Unavailable` with a reason that shows nothing of what was sent."""
        to = call.endpoint
        address = await self._screened(to)
        host = f"[{address}]" if address.version == 6 else str(address)
        named = to.host if to.port == 443 else f"{to.host}:{to.port}"
        headers = {**call.headers, "host": named, "accept-encoding": "identity", "user-agent": "remit"}
        async with httpx.AsyncClient(
            verify=self._verifying(), trust_env=False, follow_redirects=False, timeout=TIMEOUT_S
        ) as client:
            request = client.build_request(
                call.method,
                f"https://{host}:{to.port}{to.target}",
                headers=headers,
                content=call.body or None,
                extensions={"sni_hostname": to.host},
            )
            try:
                return await self._answer(client, request, to)
            except httpx.TimeoutException as error:
                raise Unavailable(f"{to.host} does not answer") from error
            except httpx.HTTPError as error:
                raise Unavailable(f"{to.host} cannot be asked: {_meaning(error)}") from None

    async def _answer(self, client: httpx.AsyncClient, request: httpx.Request, to: Endpoint) -> Answer:
        answer = await client.send(request, stream=True)
        try:
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise Unavailable(f"{to.host} answers in an encoding that was not asked for")
            body = b""
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > ANSWER_MAX:
                    raise Unavailable(f"{to.host} answers with more than {ANSWER_MAX >> 10} KiB")
            return Answer(status=answer.status_code, body=body)
        finally:
            await answer.aclose()

    async def _screened(self, to: Endpoint) -> Address:
        found = await self._resolver.addresses(to.host)
        if not found:
            raise Unavailable(f"{to.host} has no address")
        own = self._resolver.own()
        for address in found:
            why = addresses.refusal(address, to.addresses, own)
            if why is not None:
                raise Unavailable(f"{to.host}: {why}", hint="addresses of the credential allow special-use ranges")
        return found[0]

    def _verifying(self) -> ssl.SSLContext:
        if self._context is None:
            try:
                self._context = ssl.create_default_context(cafile=str(self._trust))
            except (OSError, ssl.SSLError) as error:
                raise Unavailable("the CAs of upstreams cannot be read", hint="remit doctor") from error
        return self._context


def _meaning(error: httpx.HTTPError) -> str:
    """What may be told: never a URL, a header or what a server wrote."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not good: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    return "it refuses connections" if isinstance(error, httpx.ConnectError) else "it speaks no HTTP"
