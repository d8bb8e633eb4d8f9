"""A webhook, signed as Standard Webhooks 1.0 says, so that its receiver can tell who sent it, and when.

`webhook-signature: v1,<base64 of HMAC-SHA256 over "<id>.<timestamp>.<body>">`; the receiver refuses a timestamp that is
minutes old, and an id it has seen. Redirects are not followed: the signed text goes where the operator said.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from typing import Any

import httpx

from remit.control.ports import Clock
from remit.control.ports_approvals import Ending, Notice
from remit.core import grant as granting
from remit.core.errors import Unavailable
from remit.core.expiry import Nearness

TIMEOUT_S = 5.0
"""Of one step, and of all of it: a receiver that answers a byte at a time would hold the place of other notices."""


class Webhook:
    """Implements `control.ports_approvals.Notifier`. `key`: the secret shared with the receiver."""

    def __init__(self, *, url: str, key: bytes, clock: Clock) -> None:
        self._url = url
        self._key = key
        self._clock = clock

    async def notify(self, notice: Notice) -> None:
        await self._post(notice.approval.id, document(notice))

    async def warn(self, ending: Ending) -> None:
        await self._post(ending.record, ending_document(ending))

    async def _post(self, identity: str, said: dict[str, Any]) -> None:
        body = json.dumps(said, separators=(",", ":")).encode()
        stamp = str(int(self._clock.now().timestamp()))
        headers = {
            "content-type": "application/json",
            "webhook-id": identity,
            "webhook-timestamp": stamp,
            "webhook-signature": f"v1,{signature(self._key, identity, stamp, body)}",
        }
        await post(self._url, body, headers)


def signature(key: bytes, identity: str, stamp: str, body: bytes) -> str:
    """Base64 of the HMAC-SHA256 (Standard Webhooks 1.0, "Symmetric signatures")."""
    signed = f"{identity}.{stamp}.".encode() + body
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def document(notice: Notice) -> dict[str, Any]:
    """The message: all that an answer would be bound to but the query, the values of headers and the body, which may
    hold what must not be sent on."""
    approval = notice.approval
    question = granting.question_json(approval.question)
    del question["target"], question["body_text"]
    question["headers"] = [one.partition(":")[0] for one in approval.question.headers]
    return {
        "type": "approval.requested",
        "approval": approval.id,
        "expires": approval.expires.isoformat(),
        "question": question,
        "purpose": notice.purpose,
        "record": notice.record,
        "answer": f"remit approvals show {approval.id}",
    }


def ending_document(ending: Ending) -> dict[str, Any]:
    return {
        "type": "secret.expired" if ending.nearness is Nearness.OVER else "secret.expiring",
        "secret": ending.secret,
        "version": ending.version,
        "expires": ending.expires.isoformat(),
        "nearness": ending.nearness.value,
        "credentials": list(ending.credentials),
        "record": ending.record,
        "answer": f"remit secret rotate {ending.secret}",
    }


async def post(url: str, body: bytes, headers: dict[str, str]) -> None:
    """One attempt. `Unavailable` where it was not taken; the address is not in the error, since it may be a secret."""
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False) as client,
            client.stream("POST", url, content=body, headers=headers) as answer,
        ):
            pass  # what else it says is not read
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        raise Unavailable(f"a notification was not delivered ({type(error).__name__})") from None
    if not answer.is_success:
        raise Unavailable(f"a notification was not taken: it was answered with {answer.status_code}")
