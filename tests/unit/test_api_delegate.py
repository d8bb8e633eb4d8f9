"""The door for tasks that ask for tasks: who may come in, what may be asked, how the answer streams and ends."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import control_plane
import pytest
from control_plane import Plane

from remit.api import delegate
from remit.control.ports_delegates import Ended, Said
from remit.core.errors import Conflict

ENVOY = 4711
MANIFESTS = [
    {"apiVersion": "remit.dev/v1alpha1", "kind": "Role", "metadata": {"name": "lead"}, "spec": {"delegates": ["lead"]}}
]
ASKED = {"role": "notifier", "command": ["echo", "hi"]}


class Call:
    """One request to the door, message by message."""

    def __init__(
        self,
        door: delegate.Door,
        body: bytes,
        *,
        headers: list[tuple[bytes, bytes]],
        uid: int = ENVOY,
        path: str = "/v1/tasks",
    ) -> None:
        self.sent: list[dict[str, Any]] = []
        self.said = asyncio.Event()
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        if body != b"(nothing)":
            self.inbox.put_nowait({"type": "http.request", "body": body, "more_body": False})
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "remit.uid": uid}
        self.done = asyncio.ensure_future(door(scope, self.inbox.get, self._send))  # type: ignore[arg-type]

    async def _send(self, message: Any) -> None:
        self.sent.append(message)
        self.said.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.said.clear()
            await self.said.wait()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]


@pytest.fixture
async def plane(tmp_path: Path) -> Plane:
    plane = control_plane.build(tmp_path)
    await plane.services.manifests.apply(MANIFESTS, operator="ann")
    return plane


@pytest.fixture
async def task(plane: Plane) -> str:
    return (await plane.services.tasks.create("lead", ["sh"], operator="ann")).task.id


@pytest.fixture
def door(plane: Plane) -> delegate.Door:
    return delegate.Door(plane.services.delegates, ENVOY)


def told(task: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-remit-task", f"v={task} r-1".encode())]


async def test_what_a_child_says_streams_back(plane: Plane, door: delegate.Door, task: str) -> None:
    plane.children.script = [
        Said(stream="stdout", data=b"hi"),
        Said(stream="stderr", data=b"\xff"),
        Ended(code=7, detail=""),
    ]
    call = Call(door, json.dumps({**ASKED, "stdin": base64.b64encode(b"in").decode()}).encode(), headers=told(task))
    await call.done
    assert call.status == 200
    started, out, err, end = call.lines
    assert started == {"event": "started", "task": plane.children.children[0].task}
    assert (out["event"], base64.b64decode(out["data"])) == ("stdout", b"hi")
    assert (err["event"], base64.b64decode(err["data"])) == ("stderr", b"\xff")
    assert end == {"event": "exit", "code": 7, "detail": "", "truncated": False}
    (parent, record, wanted), = plane.children.started  # fmt: skip
    assert (parent, record, wanted.stdin) == (task, "r-1", b"in")


async def test_output_beyond_the_bound_is_left_out_and_that_is_said(
    plane: Plane, door: delegate.Door, task: str
) -> None:
    part = b"x" * (delegate.MAX_OUTPUT_BYTES // 4 + 1)
    plane.children.script = [*[Said(stream="stdout", data=part)] * 5, Ended(code=0, detail="")]
    call = Call(door, json.dumps(ASKED).encode(), headers=told(task))
    await call.done
    size = sum(len(base64.b64decode(line["data"])) for line in call.lines if line["event"] == "stdout")
    assert size == delegate.MAX_OUTPUT_BYTES
    assert call.lines[-1]["truncated"] is True


async def test_a_child_ends_when_its_connection_does(plane: Plane, door: delegate.Door, task: str) -> None:
    plane.children.script = [None]
    call = Call(door, json.dumps(ASKED).encode(), headers=told(task))
    await call.until(lambda: bool(call.lines[:1]) if call.sent else False)
    assert not plane.children.children[0].ended.is_set()
    call.inbox.put_nowait({"type": "http.disconnect"})
    await call.done
    assert plane.children.children[0].ended.is_set()


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"x-remit-task", b"v=- -")],
        [(b"x-remit-task", b"v=t-aaaaaaaaaa -x")] * 2,
        [(b"x-remit-task", b"t-aaaaaaaaaa r-1")],
        [(b"x-remit-task", b"v=t-aaaaaaaaaa")],
        [(b"x-remit-task", b"v=t-aaaaaaaaaa r-1 ")],
        [(b"x-remit-task", b"v=t-aaaaaaaaaa r-1,v=t-bbbbbbbbbb r-1")],
    ],
)
async def test_without_the_word_of_the_decision_service_nothing_starts(
    plane: Plane, door: delegate.Door, headers: list[tuple[bytes, bytes]]
) -> None:
    call = Call(door, json.dumps(ASKED).encode(), headers=headers)
    await call.done
    assert call.status == 403
    assert plane.children.started == []


async def test_nobody_but_envoy_comes_in(plane: Plane, door: delegate.Door, task: str) -> None:
    call = Call(door, json.dumps(ASKED).encode(), headers=told(task), uid=ENVOY + 1)
    await call.done
    assert call.status == 403
    assert plane.children.started == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"role": "notifier"}',
        b'{"role": "notifier", "command": []}',
        b'{"role": "notifier", "command": "true"}',
        b'{"role": "notifier", "command": ["\\ud800"]}',
        b'{"role": "Not A Role", "command": ["true"]}',
        b'{"role": "notifier\\n", "command": ["true"]}',
        b'{"role": "notifier", "command": ["true"], "stdin": "no base64!"}',
        *(
            json.dumps({**ASKED, name: value}).encode()
            for name, value in {
                "parent": "t-aaaaaaaaaa", "task": "t-aaaaaaaaaa", "operator": "root", "env": {"LD_PRELOAD": "/x"},
                "workspace": {"path": "/", "mode": "bind"}, "cwd": "/", "detach": True, "path": "/x", "request": "r-2",
                "budgets": ["x" * 81], "limits": {},
            }.items()
        ),
        b"[" * 100_000,
        b'"' + b"x" * (delegate.MAX_BODY_BYTES + 1),
        json.dumps({**ASKED, "stdin": base64.b64encode(b"x" * (delegate.MAX_STDIN_BYTES + 1)).decode()}).encode(),
    ],
)  # fmt: skip
async def test_what_may_not_be_said_is_refused_and_recorded(
    plane: Plane, door: delegate.Door, task: str, body: bytes
) -> None:
    call = Call(door, body, headers=told(task))
    await call.done
    assert call.body.endswith(b"}\n")
    problem = json.loads(call.body)
    assert (call.status, problem["reason"]) == (400, "malformed")
    assert problem["detail"].isprintable()
    assert plane.children.started == []
    assert plane.node.records[-1][1]["reason"] == "malformed"
    assert problem["record"]


async def test_requests_under_way_are_bounded_for_each_task(plane: Plane, door: delegate.Door, task: str) -> None:
    slow = [Call(door, b"(nothing)", headers=told(task)) for _ in range(delegate.MAX_WAITING)]
    await asyncio.sleep(0)
    call = Call(door, json.dumps(ASKED).encode(), headers=told(task))
    await call.done
    assert (call.status, json.loads(call.body)["reason"]) == (429, "delegations_exceeded")
    other = (await plane.services.tasks.create("lead", ["sh"], operator="ann")).task.id
    free = Call(door, json.dumps(ASKED).encode(), headers=told(other))
    await free.done
    assert free.status == 200
    for one in slow:
        one.inbox.put_nowait({"type": "http.disconnect"})
        await one.done
    again = Call(door, json.dumps(ASKED).encode(), headers=told(task))
    await again.done
    assert again.status == 200


async def test_a_refusal_is_a_problem_with_its_record(plane: Plane, door: delegate.Door, task: str) -> None:
    plane.children.error = Conflict("wider")
    call = Call(door, json.dumps(ASKED).encode(), headers=told(task))
    await call.done
    problem = json.loads(call.body)
    assert (call.status, problem["reason"], problem["detail"]) == (403, "not_delegated", "wider")
    assert problem["next"]
