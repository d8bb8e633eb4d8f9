"""`policy replay` and `audit export`: what was decided, decided again under other rules, and told to other systems."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import control_plane
import pytest
from command_line import Remit, calling
from control_plane import Plane

IN_FORCE = """
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {name: read}
spec: {hosts: [api.example.com], methods: [GET]}
---
apiVersion: remit.dev/v1alpha1
kind: Policy
metadata: {name: guard}
spec:
  rego: |
    package remit.guard
    import rego.v1
    deny contains {"msg": "no such query"} if input.request.query == "bad"
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: agent}
spec: {capabilities: [read], policies: [guard]}
"""
NARROWER = """
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {name: read}
spec: {hosts: [api.example.com], methods: [GET], paths: [/v1/**]}
"""
NIGHTLY = """
apiVersion: remit.dev/v1alpha1
kind: Policy
metadata: {name: guard}
spec:
  rego: |
    package remit.guard
    import rego.v1
    deny contains {"msg": "not at night"} if time.clock(time.now_ns())[0] < 6
"""


def record(number: int, path: str, **changes: Any) -> dict[str, Any]:
    found = {
        "id": f"r-{number:010d}", "seq": number, "kind": "decision", "time": "2026-01-01T12:00:00.000000Z",
        "task": "t-aaaaaaaaaa", "role": "agent", "decision": "permit", "reason": "permitted", "detail": "",
        "capability": "read", "credential": None, "method": "GET", "scheme": "https", "host": "api.example.com",
        "port": 443, "path": path, "flow": "100.64.0.1:1024", "jti": "j",
    }  # fmt: skip
    return {**found, **changes}


DENIED = {"decision": "deny", "capability": None}
RECORDS = [
    record(1, "/v1/a"),
    record(2, "/v2/b"),
    record(3, "/v2/b"),
    record(4, "/v2/c", time="2026-01-01T03:00:00.000000Z"),
    record(5, "/v1/d", **DENIED, reason="no_capability", method="POST"),
    record(6, "/v1/e", **DENIED, reason="address_refused", detail="10.0.0.1"),
    record(7, "/v2/f", **DENIED, reason="policy_denied", detail="guard: no such query"),
    record(8, "", kind="operator", action="apply", decision=None),
    record(9, "/v1/g", capability="(observed)", method="POST", would_deny="no_capability", would_deny_detail="why"),
]


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    with tempfile.TemporaryDirectory(prefix=f"remit-replay-{os.getpid()}-") as name:
        monkeypatch.setenv("REMIT_RUN_DIR", name)
        monkeypatch.setenv("REMIT_STATE_DIR", f"{name}/state")
        plane = control_plane.build(Path(name))
        plane.audit.records.extend(RECORDS)
        with control_plane.served(plane, Path(name) / "control/control.sock"):
            yield plane


@pytest.fixture
def remit(plane: Plane, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Remit:
    run = calling(capsys)
    (tmp_path / "now.yaml").write_text(IN_FORCE)
    assert run("apply", "-f", str(tmp_path / "now.yaml"))[0] == 0
    return run


def replayed(remit: Remit, directory: Path, text: str) -> tuple[list[dict[str, Any]], str]:
    (directory / "new.yaml").write_text(text)
    code, out, err = remit(
        "policy", "replay", "--since", "2025-12-31T00:00:00Z", "-f", str(directory / "new.yaml"), "--json"
    )
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()], err


def test_what_a_narrower_capability_would_refuse(remit: Remit, tmp_path: Path) -> None:
    changes, err = replayed(remit, tmp_path, NARROWER)
    seen = [(one["url"], one["count"], one["was"], one["now"], one["certain"]) for one in changes]
    assert seen == [
        ("https://api.example.com:443/v2/b", 2, "permit read", "deny no_capability", True),
        ("https://api.example.com:443/v2/c", 1, "permit read", "deny no_capability", True),
        ("https://api.example.com:443/v2/f", 1, "deny policy_denied", "deny no_capability", False),
    ]
    assert changes[0]["record"] == "r-0000000003"
    assert "7 decisions replayed; 1 left out" in err


def test_time_is_that_of_the_record(remit: Remit, tmp_path: Path) -> None:
    changes, _ = replayed(remit, tmp_path, NIGHTLY)
    assert [(one["url"][-5:], one["now"], one["detail"]) for one in changes] == [
        ("/v2/c", "deny policy_denied", "guard: not at night")
    ]


def test_what_is_in_force_changes_nothing(remit: Remit, tmp_path: Path) -> None:
    assert replayed(remit, tmp_path, IN_FORCE)[0] == []
    assert replayed(remit, tmp_path, "\n---\n".join(IN_FORCE.split("---")[:1]))[0] == []


def test_what_would_be_permitted_anew_is_told_and_observed_requests_count_as_refused(
    remit: Remit, tmp_path: Path
) -> None:
    changes, _ = replayed(remit, tmp_path, NARROWER.replace("[GET], paths: [/v1/**]", "[GET, POST]"))
    assert {(one["url"][-5:], one["was"], one["now"]) for one in changes} == {
        ("/v1/d", "deny no_capability", "permit read"),
        ("/v1/g", "deny no_capability", "permit read"),
    }


LEAD = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: lead}
spec: {capabilities: [wide], policies: [guard], delegates: [agent], maxDepth: 2}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {name: wide}
spec: {hosts: [api.example.com]}
"""
TOP, CHILD, NARROW = "t-aaaaaaaaaa", "t-bbbbbbbbbb", "t-cccccccccc"
BELOW = {"task": CHILD, "parent": TOP, "chain": [TOP]}


def created(number: int, task: str, role: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"r-{task[2:]}",
        "seq": number,
        "kind": "operator",
        "action": "task.create",
        "task": task,
        "role": role,
        **more,
    }


@pytest.fixture
def family(plane: Plane, remit: Remit, tmp_path: Path) -> list[Any]:
    """A lead, a child of it, and a task that has no capability of its role. The records."""
    (tmp_path / "lead.yaml").write_text(LEAD)
    assert remit("apply", "-f", str(tmp_path / "lead.yaml"))[0] == 0
    plane.audit.records[:] = [
        created(1, TOP, "lead"),
        created(2, CHILD, "agent", parent=TOP, chain=[TOP]),
        created(3, NARROW, "agent", capabilities=["other"]),
        record(11, "/v1/a", **BELOW),
        record(12, "/v2/b", **BELOW),
        record(13, "/v1/c", **{**BELOW, **DENIED, "chain": None}, reason="no_capability", method="POST"),
        record(14, "/v1/d", **DENIED, task=NARROW, reason="no_capability"),
    ]
    return plane.audit.records


def test_a_parent_that_is_narrowed_narrows_its_children(remit: Remit, family: list[Any], tmp_path: Path) -> None:
    changes, err = replayed(remit, tmp_path, LEAD.replace("[api.example.com]", "[api.example.com], paths: [/v1/**]"))
    assert [(one["url"][-5:], one["role"], one["was"], one["now"], one["certain"]) for one in changes] == [
        ("/v2/b", "agent", "permit read", "deny not_delegated", True)
    ]
    assert f"role lead of task {TOP}, above this one, does not cover the request" in changes[0]["detail"]
    assert "4 decisions replayed; 0 left out" in err


def test_a_role_that_no_longer_delegates_leaves_its_children_nothing(
    remit: Remit, family: list[Any], tmp_path: Path
) -> None:
    changes, _ = replayed(remit, tmp_path, LEAD.replace("delegates: [agent], maxDepth: 2", ""))
    assert {(one["url"][-5:], one["now"]) for one in changes} == {
        (path, "deny not_delegated") for path in ("/v1/a", "/v2/b", "/v1/c")
    }


def test_what_was_not_delegated_and_would_be_is_told(remit: Remit, family: list[Any], tmp_path: Path) -> None:
    family[4] = record(12, "/v2/b", **{**BELOW, **DENIED}, reason="not_delegated")
    assert replayed(remit, tmp_path, LEAD)[0] == []
    narrow = LEAD.replace("[api.example.com]", "[api.example.com], paths: [/v1/**]")
    (tmp_path / "narrow.yaml").write_text(narrow)
    assert remit("apply", "-f", str(tmp_path / "narrow.yaml"))[0] == 0
    changes, _ = replayed(remit, tmp_path, LEAD)
    assert [(one["url"][-5:], one["was"], one["now"], one["certain"]) for one in changes] == [
        ("/v2/b", "deny not_delegated", "permit read", True)
    ]


def test_a_task_that_was_given_a_part_of_its_role_is_decided_with_that_part(
    remit: Remit, family: list[Any], tmp_path: Path
) -> None:
    more = (
        "apiVersion: remit.dev/v1alpha1\nkind: Capability\nmetadata: {name: read}\nspec: {hosts: [api.example.com]}\n"
    )
    changes, _ = replayed(remit, tmp_path, more)
    assert [one["url"][-5:] for one in changes] == ["/v1/c"], "and not /v1/d, which its task was not given"


def test_a_policy_is_told_the_parent(remit: Remit, family: list[Any], tmp_path: Path) -> None:
    rule = f'deny contains {{"msg": "not below"}} if input.identity.parent == "{TOP}"'
    changes, _ = replayed(
        remit,
        tmp_path,
        NIGHTLY.replace('deny contains {"msg": "not at night"} if time.clock(time.now_ns())[0] < 6', rule),
    )
    assert {(one["url"][-5:], one["now"]) for one in changes} == {
        ("/v1/a", "deny policy_denied"), ("/v2/b", "deny policy_denied"),
    }  # fmt: skip


def test_records_of_a_task_whose_parents_nothing_tells_of_are_left_out_and_counted(
    remit: Remit, family: list[Any], tmp_path: Path
) -> None:
    del family[0]
    changes, err = replayed(remit, tmp_path, NARROWER)
    assert changes == []
    assert "1 decision replayed; 3 left out" in err
    assert "3 of them are of tasks whose parents are in no record any more" in err


def test_a_set_that_could_not_be_applied_is_not_replayed(remit: Remit, tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text(NARROWER.replace("paths", "credential: nobody, paths"))
    code, out, err = remit("policy", "replay", "-f", str(tmp_path / "new.yaml"))
    assert (code, out) == (2, "")
    assert "Credential" in err


def test_decisions_in_the_shape_of_opa(remit: Remit) -> None:
    code, out, _ = remit("audit", "export", "--format", "opa-decision-log")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [one["decision_id"] for one in events] == [r["id"] for r in RECORDS if r["kind"] == "decision"]
    assert set(events[0]) == {"labels", "decision_id", "path", "input", "result", "timestamp"}
    assert events[0]["input"]["request"]["path"] == "/v1/a"
    assert events[0]["result"] == {"allow": True, "reason": "permitted", "capability": "read"}
    assert events[5]["result"] == {"allow": False, "reason": "address_refused", "detail": "10.0.0.1"}
    assert events[-1]["result"]["would_deny"] == "no_capability"


def test_records_as_they_are_and_no_other_format(remit: Remit) -> None:
    code, out, _ = remit("audit", "export", "--since", "2025-12-31T00:00:00Z")
    assert (code, [json.loads(line)["seq"] for line in out.splitlines()]) == (0, [r["seq"] for r in RECORDS])
    assert remit("audit", "export", "--format", "xml")[0] == 2


WIDER = IN_FORCE.replace("methods: [GET]", "methods: [GET, POST]").replace("no such query", "no such thing")
TABLE = """
role: agent
cases:
  reading is what it is for: {request: GET https://api.example.com/v1/a, permit: read}
  writing is not: {request: POST https://api.example.com/v1/a, deny: no_capability}
  a budget that neither has: {request: GET https://api.example.com/v1/a, used: {role/agent/none: 3}, permit: read}
"""


def pack(directory: Path, text: str, table: str = "") -> str:
    directory.mkdir()
    (directory / "all.yaml").write_text(text)
    if table:
        (directory / "tests").mkdir()
        (directory / "tests" / "t.yaml").write_text(table)
    return str(directory)


def test_two_sets_of_manifests_differ_in_what_they_decide_of_cases(remit: Remit, tmp_path: Path) -> None:
    old, new = pack(tmp_path / "old", IN_FORCE, TABLE), pack(tmp_path / "new", WIDER, TABLE)
    code, out, err = remit("policy", "diff", old, new, "--json")
    assert code == 1
    (change,) = map(json.loads, out.splitlines())
    assert (change["case"], change["was"], change["now"]) == ("writing is not", "deny no_capability", "permit read")
    assert "2 cases decided by both; 1 left out" in err
    code, out, _ = remit("policy", "diff", old, new)
    assert (code, out.split()[0], "writing is not" in out) == (1, "CASE", True)
    assert remit("policy", "diff", old, old)[:2] == (0, "")
    assert remit("policy", "diff", "live", old)[0] == 0
    assert remit("policy", "diff", "live", new)[0] == 1
    assert remit("policy", "diff", old, new, "--role", "another")[0] == 0


def test_two_sets_of_manifests_differ_in_what_was_recorded(remit: Remit, tmp_path: Path) -> None:
    old, new = pack(tmp_path / "old", IN_FORCE), pack(tmp_path / "new", WIDER)
    code, out, err = remit("policy", "diff", old, new, "--since", "2025-12-31T00:00:00Z", "--json")
    assert code == 1
    assert {(c["method"], c["was"], c["now"], c["count"]) for c in map(json.loads, out.splitlines())} == {
        ("POST", "deny no_capability", "permit read", 1)
    }
    assert "7 recorded decisions decided by both" in err
    assert remit("policy", "diff", old, old, "--since", "2025-12-31T00:00:00Z")[0] == 0


def test_a_difference_needs_something_to_decide_and_manifests_that_fit(remit: Remit, tmp_path: Path) -> None:
    old = pack(tmp_path / "old", IN_FORCE)
    code, _, err = remit("policy", "diff", old, old)
    assert (code, "--since" in err) == (2, True)
    broken = pack(tmp_path / "broken", IN_FORCE.replace("capabilities: [read]", "capabilities: [none]"), TABLE)
    assert remit("policy", "diff", old, broken)[0] == 2
