"""Delegation attacked from inside: no agent chooses a parent, widens a child, outlives its authority or floods the node."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attacked import Attacker, Whole
from instance import wait_for

ROLES = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: chief}
spec: {capabilities: [api, api-plain], policies: [careful], delegates: [deputy, chief], maxDepth: 2}
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: deputy}
spec: {capabilities: [api], policies: [careful]}
"""
HOST = "delegate.remit.alt"
SLEEP = {"role": "deputy", "command": ["sleep", "1000"]}
POST = """
def post(asked, *extra, host="delegate.remit.alt", to=None, path="/v1/tasks", length=None, target="delegate.remit.alt"):
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    sock = connect(target, 80, tls=False, to=to)
    head = [f"POST {path} HTTP/1.1", f"host: {host}", "content-type: application/json", f"content-length: {len(body) if length is None else length}", *extra, "", ""]
    sock.sendall("\\r\\n".join(head).encode("latin-1") + body)
    return sock

def answer(sock):
    got = http.client.HTTPResponse(sock, method="POST")
    got.begin()
    return got

def whole(sock):
    try:
        got = answer(sock)
        return {"status": got.status, "body": got.read().decode()}
    finally:
        sock.close()
"""


@pytest.fixture(scope="module", autouse=True)
def roles(whole: Whole) -> None:
    whole.remit.apply(ROLES)


@pytest.fixture
def chief(whole: Whole) -> Any:
    with whole.attacker("chief") as attacker:
        yield attacker


def me(whole: Whole) -> str:
    """The task that was started last."""
    return str(whole.remit.newest()["id"])


def children(whole: Whole) -> list[dict[str, Any]]:
    return [one for one in whole.remit.tasks() if one["parent"]]


def post(cell: Attacker, asked: Any, *extra: str, **options: Any) -> dict[str, Any]:
    source = POST + "result = whole(post(asked, *extra, **options))"
    answer: dict[str, Any] = cell.do(source, asked=asked, extra=list(extra), options=options)
    return answer


def problem(answer: dict[str, Any]) -> tuple[int, str]:
    return answer["status"], json.loads(answer["body"])["reason"]


def refused(whole: Whole, answer: dict[str, Any]) -> dict[str, Any]:
    """The record that a refusal of the control plane names."""
    found = whole.api.get(f"/v1/audit/{json.loads(answer['body'])['record']}").raise_for_status().json()["record"]
    assert found["action"] == "task.refuse"
    return dict(found)


def test_a_parent_is_never_said_by_the_request(whole: Whole, chief: Attacker) -> None:
    mine = me(whole)
    with whole.attacker("chief"):
        other = me(whole)
        forged = (f"x-remit-task: v={other} r-1", f"x-remit-connection: v={other}", f"X-Remit-Task: {other}")
        done = post(chief, {"role": "deputy", "command": ["true"]}, *forged)
        assert done["status"] == 200, done
        child = json.loads(done["body"].splitlines()[0])["task"]
        assert [one["parent"] for one in whole.remit.tasks("--all") if one["id"] == child] == [mine]
        for name in ("parent", "task"):
            assert problem(post(chief, {"role": "deputy", "command": ["true"], name: other})) == (400, "malformed")


@pytest.mark.parametrize(
    "more",
    [
        {"env": {"LD_PRELOAD": "/x"}}, {"workspace": {"path": "/", "mode": "bind"}}, {"operator": "root"}, {"detach": True},
        {"command": ["a\0b"]}, {"command": [""]}, {"command": ["x" * 200_000]}, {"budgets": ["requests=-1"]}, {"budgets": ["nonsense"]},
    ],
)  # fmt: skip
def test_nothing_is_smuggled_into_a_child(whole: Whole, chief: Attacker, more: dict[str, Any]) -> None:
    mine = me(whole)
    answer = post(chief, {"role": "deputy", "command": ["true"], **more})
    assert problem(answer) == (400, "malformed")
    record = refused(whole, answer)
    assert (record["reason"], record["task"], record["operator"]) == ("malformed", mine, f"task {mine}")
    assert record["request"] in {one["id"] for one in whole.audit(task=mine, decision="permit")}
    assert [one for one in whole.remit.tasks("--all") if one["parent"] == mine] == []


def test_what_an_agent_calls_a_command_is_plain_text_where_it_is_shown(whole: Whole, chief: Attacker) -> None:
    done = post(chief, {"role": "deputy", "command": ["echo", "\x1b]0;owned\x07\x1b[2J\r\u202eevil"]})
    assert done["status"] == 200
    shown = whole.remit.cli("ps", "--all").stdout
    assert "owned" in shown
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(shown)


def test_a_task_under_a_revoked_one_is_not_started(whole: Whole, chief: Attacker) -> None:
    mine = me(whole)
    whole.remit.cli("revoke", "task", mine)
    answer = post(chief, SLEEP)
    assert problem(answer) == (403, "task_revoked")
    assert children(whole) == []


def test_a_revoked_task_takes_its_children_with_it(whole: Whole, chief: Attacker) -> None:
    mine = me(whole)
    assert chief.do(POST + "kept = answer(post(asked)); result = kept.readline().decode()", asked=SLEEP)
    (child,) = children(whole)
    assert child["parent"] == mine
    whole.remit.cli("revoke", "task", mine)
    wait_for(lambda: children(whole) == [], "the child to have ended")


def test_a_child_reaches_no_further_down_than_its_role(whole: Whole, chief: Attacker) -> None:
    """A deputy delegates to nobody; a chief below a chief may have one more level, and that one none."""
    ask = "curl -s http://delegate.remit.alt/v1/tasks -H 'content-type: application/json' -d"
    for role, asked, reason in (
        ("deputy", {"role": "deputy", "command": ["true"]}, "no_capability"),
        ("chief", {"role": "chief", "command": ["sh", "-c", f"{ask} '{json.dumps({'role': 'chief', 'command': ['true']})}'"]}, "not_delegated"),
    ):  # fmt: skip
        body = json.dumps(asked).replace("'", "'\\''")
        done = post(chief, {"role": role, "command": ["sh", "-c", f"{ask} '{body}'"]})
        assert done["status"] == 200
        assert reason in _said(done["body"]), done


def _said(body: str) -> str:
    """All output, of children of children too."""
    import base64

    text = ""
    for line in body.splitlines():
        event = json.loads(line)
        if event["event"] == "stdout":
            text += base64.b64decode(event["data"]).decode()
    inner = [line for line in text.splitlines() if line.startswith("{")]
    return text + "".join(_said(line) for line in inner if json.loads(line).get("event") == "stdout")


def test_the_name_leads_nowhere_else(whole: Whole, chief: Attacker, neighbour: Attacker) -> None:
    """Another path, method, host or port; and a role that delegates to nobody."""
    assert problem(post(chief, SLEEP, path="/v1/tasks/x")) == (403, "no_capability")
    assert problem(post(chief, SLEEP, path="/v1/../v1/tasks"))[1] in ("path_ambiguous", "refused_by_boundary")
    assert problem(post(chief, SLEEP, path="/v1//tasks")) == (403, "no_capability")
    assert problem(post(neighbour, SLEEP)) == (403, "no_capability")
    assert problem(post(chief, SLEEP, host=f"{HOST}.")) == (403, "name_invalid")
    assert problem(post(chief, SLEEP, host=HOST, target="api.up.example"))[1] == "destination_mismatch"
    assert problem(post(chief, SLEEP, host="api.up.example"))[1] == "destination_mismatch"
    upper = post(chief, {"role": "deputy", "command": ["true"]}, host=HOST.upper())
    assert upper["status"] == 200, "one host in another spelling"
    assert children(whole) == []


def test_huge_and_slow_bodies_take_nothing_from_others(whole: Whole, chief: Attacker) -> None:
    huge = post(chief, b"x" * (2 << 20))
    assert problem(huge) == (400, "malformed")
    with whole.attacker("chief") as other:
        chief.start(
            POST + "slow = [post(b'{', length=1000) for _ in range(40)]\n"
            "result = sorted(json.loads(one['body'])['reason'] for one in map(whole, slow))"
        )
        done = post(other, {"role": "deputy", "command": ["true"]})
        assert done["status"] == 200, "another task is answered meanwhile"
        reasons = chief.finish()
    assert set(reasons) == {"malformed", "delegations_exceeded"}
    assert reasons.count("malformed") <= 16, "those that were waited for"


def test_a_flood_ends_at_the_bound(whole: Whole, chief: Attacker) -> None:
    source = """
import concurrent.futures
def one(_):
    got = answer(post(asked))
    kept.append(got)
    return {"status": got.status, "body": got.read().decode() if got.status != 200 else ""}
kept = []
with concurrent.futures.ThreadPoolExecutor(24) as pool:
    result = list(pool.map(one, range(24)))
opened = kept
"""
    answers = chief.do(POST + source, asked=SLEEP)
    others = [one for one in answers if one["status"] != 200]
    assert len(others) == 16, answers
    assert {problem(one) for one in others} == {(429, "delegations_exceeded")}
    assert {refused(whole, one)["reason"] for one in others} == {"delegations_exceeded"}
    assert len(children(whole)) == 8


def test_delegating_while_being_ended_leaves_nobody(whole: Whole) -> None:
    with whole.attacker("chief") as chief:
        mine = me(whole)
        chief.start(
            POST + "import itertools\nfor _ in itertools.count():\n    got = answer(post(asked)); got.read(20)",
            asked=SLEEP,
        )
        wait_for(lambda: children(whole), "the first child")
        whole.remit.cli("stop", mine)
    wait_for(
        lambda: [one for one in whole.remit.tasks() if one["parent"] == mine] == [], "the last child to have ended"
    )


def test_an_output_without_end_is_cut(whole: Whole, chief: Attacker) -> None:
    source = """
got, size, first, end = answer(post(asked)), 0, None, None
for line in got:
    size += len(line)
    first, end = first or line, line
result = size, json.loads(first)["task"], json.loads(end)
"""
    asked = {"role": "deputy", "command": ["sh", "-c", "head -c 40000000 /dev/zero"]}
    size, task, end = chief.do(POST + source, asked=asked)
    assert (16 << 20) < size < (24 << 20), "Base64 of 16 MiB"
    assert (end["event"], end["code"], end["truncated"]) == ("exit", 0, True)
    kept = sum(log.stat().st_size for log in whole.remit.state.glob(f"cells/{task}/output.log*"))
    assert 0 < kept <= 1 << 20, "many of them must not fill the node's disk"


def test_the_node_is_as_before(whole: Whole, cell: Attacker) -> None:
    wait_for(lambda: children(whole) == [], "no child to be left")
    whole.still_works(cell)
    whole.remit.cli("audit", "verify")
