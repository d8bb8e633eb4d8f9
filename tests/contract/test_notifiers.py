"""What every notifier must keep to: the in-memory one, the signed webhook and Slack's."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from remit.control.ports_approvals import Ending, Notice, Notifier
from remit.control.telling import Telling
from remit.core.approval import Approval, State
from remit.core.errors import Unavailable
from remit.core.expiry import Nearness
from remit.core.grant import Question
from remit.notify import webhook
from remit.notify.slack import Slack, message
from remit.notify.webhook import Webhook
from remit.testing import ManualClock, MemoryNotifier

NOW = datetime(2026, 1, 2, tzinfo=UTC)
KEY = b"k" * 32
QUESTION = Question(
    task="t-aaaaaaaaaa", role="finops", method="POST", protocol="https", host="api.bank.com", port=443,
    path="/pay/<!channel>*x*\u202e\x1b[2J", target="/pay?key=in-the-query", websocket=False, body="ab" * 32,
    body_bytes=9, capability="pay", credential="bank", reasons=("policy large: <http://evil|click>",),
)  # fmt: skip
NOTICE = Notice(
    approval=Approval(
        id="a-aaaaaaaaaa", question=QUESTION, state=State.PENDING, created=NOW, expires=NOW + timedelta(minutes=15)
    ),
    purpose="sh -c @here",
    record="r-1",
)


ENDING = Ending(
    secret="key", version=3, expires=NOW, nearness=Nearness.OVER, credentials=("bank",), record="r-2",
)  # fmt: skip


class Receiver:
    """An HTTP server that keeps what it is sent and answers with `status`."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.status = b"200 OK"
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        self.received.append((headers, await reader.readexactly(int(headers["content-length"]))))
        writer.write(b"HTTP/1.1 %b\r\nlocation: %b\r\ncontent-length: 0\r\n\r\n" % (self.status, self.url.encode()))
        writer.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook/secret-part"
    async with server:
        yield made


@pytest.fixture(params=["memory", "webhook", "slack"])
def notifier(request: pytest.FixtureRequest, receiver: Receiver) -> Notifier:
    if request.param == "memory":
        return MemoryNotifier()
    if request.param == "slack":
        return Slack(url=receiver.url)
    return Webhook(url=receiver.url, key=KEY, clock=ManualClock(NOW))


def broken(notifier: Notifier, receiver: Receiver, status: bytes) -> None:
    receiver.status = status
    if isinstance(notifier, MemoryNotifier):
        notifier.available = False


async def test_a_notice_arrives_once(notifier: Notifier, receiver: Receiver) -> None:
    await notifier.notify(NOTICE)
    assert len(notifier.notices if isinstance(notifier, MemoryNotifier) else receiver.received) == 1


@pytest.mark.parametrize("status", [b"500 No", b"403 No", b"302 Elsewhere"])
async def test_what_is_not_taken_is_unavailable_and_tells_nothing_secret(
    notifier: Notifier, receiver: Receiver, status: bytes
) -> None:
    broken(notifier, receiver, status)
    with pytest.raises(Unavailable) as caught:
        await notifier.notify(NOTICE)
    assert "secret-part" not in str(caught.value)
    assert len(receiver.received) <= 1  # a redirect is not followed


async def test_a_receiver_that_is_not_there_is_unavailable_and_tells_nothing_secret(receiver: Receiver) -> None:
    gone = receiver.url.replace("127.0.0.1:", "127.0.0.1:1")[:20] + "/secret-part"
    for made in (Slack(url="http://127.0.0.1:1/secret-part"), Webhook(url=gone, key=KEY, clock=ManualClock(NOW))):
        with pytest.raises(Unavailable) as caught:
            await made.notify(NOTICE)
        assert "secret-part" not in str(caught.value)
        assert caught.value.__suppress_context__


async def test_the_webhook_can_be_verified_and_dated(receiver: Receiver) -> None:
    await Webhook(url=receiver.url, key=KEY, clock=ManualClock(NOW)).notify(NOTICE)
    ((headers, body),) = receiver.received
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert int(headers["webhook-timestamp"]) == int(NOW.timestamp())
    said: dict[str, Any] = json.loads(body)
    assert (said["approval"], said["question"]["path"]) == ("a-aaaaaaaaaa", QUESTION.path)
    assert body.isascii()


async def test_no_query_leaves(receiver: Receiver) -> None:
    await Webhook(url=receiver.url, key=KEY, clock=ManualClock(NOW)).notify(NOTICE)
    await Slack(url=receiver.url).notify(NOTICE)
    assert b"in-the-query" not in b"".join(body for _, body in receiver.received)


def test_slack_shows_what_an_agent_wrote_as_plain_text() -> None:
    said = message(NOTICE)
    for block in said["blocks"]:
        assert block["text"]["type"] == "plain_text"
    assert "channel" not in said["text"]
    shown = said["blocks"][1]["text"]["text"]
    assert "\x1b" not in shown and "\u202e" not in shown
    long = replace(NOTICE, approval=replace(NOTICE.approval, question=replace(QUESTION, path="/" + "x" * 9000)))
    shown = message(long)["blocks"][1]["text"]["text"]
    assert len(shown) <= 3000
    # Whoever pads a path must not have its end, or what stands below it, taken for nothing.
    assert "more characters)" in shown.splitlines()[0]
    assert shown.splitlines()[-1] == f"answer: remit approvals show {NOTICE.approval.id}"


async def test_one_that_fails_does_not_keep_the_next_from_being_told() -> None:
    dead, alive = MemoryNotifier(), MemoryNotifier()
    dead.available = False
    telling = Telling([dead, alive])
    await telling.tell(NOTICE)
    await telling.idle()
    assert alive.notices == [NOTICE]


async def test_the_end_of_a_secret_arrives_once_or_is_unavailable(notifier: Notifier, receiver: Receiver) -> None:
    await notifier.warn(ENDING)
    if isinstance(notifier, MemoryNotifier):
        assert notifier.endings == [ENDING]
    else:
        ((_, body),) = receiver.received
        assert b"remit secret rotate key" in body and b"expired" in body
    broken(notifier, receiver, b"500 No")
    with pytest.raises(Unavailable) as caught:
        await notifier.warn(ENDING)
    assert "secret-part" not in str(caught.value)


async def test_the_end_of_a_secret_can_be_verified(receiver: Receiver) -> None:
    await Webhook(url=receiver.url, key=KEY, clock=ManualClock(NOW)).warn(ENDING)
    ((headers, body),) = receiver.received
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert (headers["webhook-id"], headers["webhook-signature"]) == ("r-2", f"v1,{expected}")
    assert json.loads(body)["type"] == "secret.expired"


@pytest.mark.parametrize(("begins", "taken"), [(b"HTTP/1.1 200 OK\r\nx: ", False), (b"HTTP/1.1 200 OK\r\n\r\n", True)])
async def test_a_receiver_whose_answer_does_not_end_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, begins: bytes, taken: bool
) -> None:
    """A byte at a time, for ever: so few notices may be under way that such a receiver would stop all of them."""

    hung_up = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begins)
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        hung_up.set()

    monkeypatch.setattr(webhook, "TIMEOUT_S", 20.0 if taken else 0.3)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with asyncio.timeout(60), server:
        sending = Slack(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/").notify(NOTICE)
        if taken:
            await sending
        else:
            with pytest.raises(Unavailable, match="not delivered"):
                await sending
        await hung_up.wait()
