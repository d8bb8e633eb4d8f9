"""Tokens of this node at OpenBao: one for what is read, and one for each task that holds leases.

A lease belongs to the token that asked for it, and ends with it. So each task has a token of its own, written down
(sealed to the node) before the first lease is asked for: whatever happens to this process, revoking that token takes
back everything that the task was given, also what this process never heard of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from remit.broker.openbao import login
from remit.broker.openbao.client import Client, Refused
from remit.broker.openbao.config import Config
from remit.broker.openbao.login import Token
from remit.broker.openbao.store import Ask

OnLogin = Callable[[str], Awaitable[None]]


async def _nothing(token: str) -> None:
    pass


class Session:
    """One token: made at the first request, made anew where the server no longer takes it. For one event loop.

    `on_login` hears every new token before it is used; what it raises keeps the token from being used.
    """

    def __init__(
        self,
        client: Client,
        config: Config,
        monotonic: Callable[[], float],
        on_login: OnLogin = _nothing,
    ) -> None:
        self._client = client
        self._config = config
        self._monotonic = monotonic
        self._on_login = on_login
        self._token: Token | None = None
        self._changing = asyncio.Lock()

    @property
    def until(self) -> float:
        """When the token ends (monotonic seconds); everything asked for with it ends then at the latest."""
        return self._token.until if self._token is not None else float("-inf")

    @property
    def again(self) -> float:
        """When to renew the token: at half of its life; infinity where it cannot be."""
        held = self._token
        return held.until - held.lasts_s / 2 if held is not None and held.renewable else float("inf")

    async def ask(self, ask: Ask) -> dict[str, Any]:
        """The answer's JSON. `Unavailable` (`Refused`) where there is none."""
        held = await self._held()
        try:
            return await self._asked(ask, held)
        except Refused as error:
            if error.status != 403 or await self._alive(held):
                raise
        return await self._asked(ask, await self._held(instead_of=held))

    async def renew(self) -> None:
        """Prolong the token before it ends. `Unavailable` where the server does not."""
        async with self._changing:
            if self._token is not None and self._token.renewable:
                self._token = await login.renew(self._client, self._token, self._monotonic)

    async def _held(self, instead_of: Token | None = None) -> Token:
        async with self._changing:
            held = self._token
            if held is not None and held is not instead_of and self._monotonic() < held.until:
                return held
            fresh = await login.login(self._client, self._config.auth, self._monotonic)
            await self._on_login(fresh.value)
            self._token = fresh
            return fresh

    async def _asked(self, ask: Ask, held: Token) -> dict[str, Any]:
        return await self._client.request(
            ask.method, ask.path, token=held.value, namespace=ask.namespace, body=ask.body
        )

    async def _alive(self, held: Token) -> bool:
        """Whether the server still knows this token: a 403 means either that, or that it may not do this."""
        try:
            await self._client.request("GET", "auth/token/lookup-self", token=held.value)
        except Refused:
            return False
        return True
