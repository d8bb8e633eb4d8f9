"""Tokens at OpenBao end when the server says, counted from before they were asked for."""

from typing import Any

import pytest

from remit.broker.openbao import login
from remit.broker.openbao.client import Client
from remit.broker.openbao.config import Auth, Config

AUTH = Auth(method="approle", mount="approle", role="r", secret="s")


class Slow(Client):
    """Takes four seconds for an answer, and gives a token for ten."""

    def __init__(self) -> None:
        super().__init__(Config(address="unix:/nowhere", auth=AUTH))
        self.now = 100.0

    async def request(self, method: str, path: str, **_: Any) -> dict[str, Any]:
        self.now += 4
        return {"auth": {"client_token": "t", "lease_duration": 10, "renewable": True}}


@pytest.mark.parametrize("renewed", [False, True])
async def test_a_token_is_not_believed_to_live_longer_than_it_does(renewed: bool) -> None:
    client = Slow()
    held = await login.login(client, AUTH, lambda: client.now)
    assert held.until == 110.0
    if renewed:
        held = await login.renew(client, held, lambda: client.now)
        assert held.until == 114.0
