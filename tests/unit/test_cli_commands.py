"""Whole command lines against a real API on a Unix socket: what they print, what they change, how they fail."""

import asyncio
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import control_plane
import pytest
from command_line import Remit
from command_line import remit as remit
from control_plane import CAPABILITY, CREDENTIAL, MANIFESTS, ROLE, Plane

from remit import __version__
from remit.cell import daemon
from remit.cli import cells, commands, completion, lifecycle, output, tasks
from remit.control.ports_audit import AUDIT_FILTERS, KINDS, AuditFilter
from remit.core.errors import Unavailable

RECORD = {
    "id": "r-0000000001",
    "seq": 1,
    "kind": "decision",
    "time": "2026-01-01T00:00:00.000000+00:00",
    "task": None,
    "role": "devops",
    "decision": "deny",
    "reason": "no_capability",
    "detail": "role devops has no capability for host evil.example",
    "method": "GET",
    "scheme": "https",
    "host": "evil.example",
    "port": 8443,
    "path": "/\x1b[31m",
}


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    with tempfile.TemporaryDirectory(prefix=f"remit-cli-{os.getpid()}-") as name:
        directory = Path(name)
        monkeypatch.setenv("REMIT_RUN_DIR", name)
        monkeypatch.setenv("REMIT_STATE_DIR", str(directory / "state"))
        plane = control_plane.build(directory)
        with control_plane.served(plane, directory / "control/control.sock"):
            yield plane


@pytest.fixture
def applied(plane: Plane, remit: Remit, tmp_path: Path) -> Path:
    path = tmp_path / "all.json"
    path.write_text("\n---\n".join(json.dumps(manifest) for manifest in MANIFESTS))
    code, _, err = remit("apply", "-f", str(path))
    assert code == 0, err
    return path


def records(out: str) -> list[Any]:
    return [json.loads(line) for line in out.splitlines()]


def test_apply_tells_each_change_and_the_next_one_changes_nothing(applied: Path, remit: Remit, plane: Plane) -> None:
    code, out, _ = remit("apply", "-f", str(applied), "--json")
    assert code == 0
    assert {change["change"] for change in records(out)[0]["applied"]} == {"unchanged"}
    assert plane.node.acked_epoch > 0


def test_a_dry_run_changes_nothing(plane: Plane, remit: Remit, tmp_path: Path) -> None:
    path = tmp_path / "role.json"
    path.write_text(json.dumps({**ROLE, "spec": {}}))
    code, out, err = remit("apply", "--dry-run", "-f", str(path))
    assert (code, out.split()) == (0, ["KIND", "NAME", "CHANGE", "Role", "devops", "created"])
    assert "nothing was changed" in err
    assert remit("get", "roles")[1] == ""


def test_a_role_that_names_what_does_not_exist_is_refused_whole(plane: Plane, remit: Remit, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(json.dumps(ROLE) + "\n---\n" + json.dumps(CREDENTIAL))
    code, out, err = remit("apply", "-f", str(path))
    assert (code, out) == (2, "")
    assert "expected the name of a Capability that exists" in err
    assert err.splitlines()[-1].startswith("hint: ")
    assert remit("get", "credentials", "--json")[1] == ""


def test_get_shows_a_manifest_as_it_was_applied(applied: Path, remit: Remit) -> None:
    assert records(remit("get", "capability", "github", "--json")[1]) == [CAPABILITY]
    code, out, _ = remit("get", "capabilities", "github")
    assert code == 0
    assert "- api.github.com" in out


def test_a_name_that_is_not_there_has_exit_code_4(applied: Path, remit: Remit) -> None:
    code, _, err = remit("get", "roles", "devop")
    assert code == 4
    assert "did you mean devops?" in err


def test_what_is_named_by_another_manifest_is_not_removed(applied: Path, remit: Remit) -> None:
    code, _, err = remit("remove", "credential", "github-token")
    assert (code, err.splitlines()[0]) == (5, "error: Credential github-token is named by github")
    assert remit("remove", "role", "devops")[0] == 0


def test_a_name_cannot_climb_out_of_its_path(plane: Plane, remit: Remit) -> None:
    assert remit("get", "roles", "..")[0] == 2
    assert remit("get", "roles", "../status")[0] == 4


def test_a_secret_comes_from_stdin_and_is_listed_without_its_value(
    applied: Path, remit: Remit, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"s3cr3t-value\n")))
    code, out, err = remit("secret", "put", "github-token")
    assert (code, out) == (0, "")
    with plane.store.unit() as unit:
        assert [secret.blob for secret in unit.secrets.all()] == [b"sealed:" + b"s3cr3t-value"[::-1]]
    code, out, _ = remit("secret", "list", "--json")
    assert records(out)[0]["credentials"] == ["github-token"]
    assert "s3cr3t" not in out + err
    assert remit("secret", "rm", "github-token")[0] == 0
    assert remit("secret", "rm", "github-token")[0] == 4


def test_an_empty_secret_is_refused_before_anything_is_sent(
    plane: Plane, remit: Remit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    code, _, err = remit("secret", "put", "x")
    assert code == 2
    assert err.startswith("error: the secret is empty")
    assert not plane.node.records


def test_revoking_a_capability_cuts_and_restoring_gives_it_back(applied: Path, remit: Remit) -> None:
    code, out, _ = remit("revoke", "capability", "github", "--json")
    assert code == 0
    assert {"kind": "capability", "name": "github", "flows_closed": 0}.items() <= records(out)[0].items()
    assert [item["name"] for item in records(remit("revocations", "--json")[1])] == ["github"]
    assert remit("restore", "capability", "github")[0] == 0
    assert remit("revocations", "--json")[1] == ""
    assert remit("restore", "capability", "github")[0] == 4


def test_revoking_what_is_no_kind_is_refused_here(plane: Plane, remit: Remit) -> None:
    code, _, err = remit("revoke", "everything", "x")
    assert code == 2
    assert "one of: task, role, capability, credential" in err


def test_a_node_that_is_away_makes_a_revocation_fail_aloud(applied: Path, remit: Remit, plane: Plane) -> None:
    plane.node.connected = False
    code, _, err = remit("revoke", "credential", "github-token")
    assert code == 6
    assert "stored, but not yet in force" in err
    assert "hint: remit status" in err


def test_explain_shows_each_step_and_what_would_be_decided(applied: Path, remit: Remit) -> None:
    code, out, _ = remit("explain", "--role", "devops", "POST", "https://api.github.com/x")
    assert code == 0
    assert "capability  stop" in out
    assert "reason    no_capability" in out
    code, out, _ = remit("explain", "--role", "devops", "POST", "https://api.github.com/x", "--json")
    assert records(out)[0]["decision"] == "deny"


def test_explain_says_what_an_observing_role_does_with_a_denial(applied: Path, remit: Remit, tmp_path: Path) -> None:
    path = tmp_path / "role.json"
    path.write_text(json.dumps({**ROLE, "spec": {**ROLE["spec"], "mode": "observe"}}))
    assert remit("apply", "-f", str(path))[0] == 0
    out = remit("explain", "--role", "devops", "GET", "https://other.example/")[1]
    shown = dict(line.split(maxsplit=1) for line in out.splitlines()[-6:])
    assert shown["decision"] == "deny"
    assert shown["observed"].startswith("it passes without a credential")


def test_explaining_for_an_unknown_role_has_exit_code_4(applied: Path, remit: Remit) -> None:
    assert remit("explain", "--role", "devop", "GET", "https://api.github.com/")[0] == 4


def test_audit_records_are_listed_without_control_characters(plane: Plane, remit: Remit) -> None:
    plane.audit.records.append(RECORD)
    code, out, _ = remit("audit", "list")
    assert code == 0
    assert "GET https://evil.example:8443/\\x1b[31m" in out
    assert records(remit("audit", "list", "--json", "--decision", "deny")[1]) == [RECORD]
    assert remit("audit", "list", "--json", "--decision", "permit")[1] == ""
    for command in ("list", "tail"):
        code, out, problem = remit("audit", command, "--kind", "desicion")
        assert (code, out) == (2, "")
        assert "'desicion' is no kind of a record (did you mean decision?)" in problem


def test_what_an_operator_did_is_listed_with_who_it_was(plane: Plane, remit: Remit) -> None:
    did = {"kind": "operator", "action": "refused", "operator": "ann", "detail": "POST /v1/apply refused"}
    plane.audit.records += [{"id": "r-1", "seq": 1, **did}, {"id": "r-2", "seq": 2, **did, "operator": ""}]
    answered = {"kind": "approval", "action": "approval.approve", "method": "GET", "scheme": "https", "host": "a.com"}
    plane.audit.records.append({"id": "r-3", "seq": 3, **answered, "operator": "bob", "path": "/x"})
    listed = remit("audit", "list")[1].splitlines()
    assert listed[1].endswith("  ann: POST /v1/apply refused")
    assert listed[2].endswith("  POST /v1/apply refused")
    assert listed[3].endswith("  bob: GET https://a.com/x")


def test_json_lists_every_record_and_a_limit_the_latest(plane: Plane, remit: Remit) -> None:
    plane.audit.records += [{**RECORD, "id": f"r-{n:010d}", "seq": n} for n in range(1, 2051)]
    assert [r["seq"] for r in records(remit("audit", "list", "--json")[1])] == list(range(1, 2051))
    assert [r["seq"] for r in records(remit("audit", "list", "--json", "--limit", "2")[1])] == [2049, 2050]
    assert len(records(remit("audit", "list", "--json", "--limit", "1500")[1])) == 1500
    assert len(remit("audit", "list")[1].splitlines()) == 101


@pytest.mark.parametrize("since", ["90m", "2026-01-01T00:00:00Z", "2026-01-01"])
def test_a_time_may_be_a_moment_or_how_long_ago(plane: Plane, remit: Remit, since: str) -> None:
    assert remit("audit", "list", "--since", since)[0] == 0


def test_what_is_no_time_is_refused(plane: Plane, remit: Remit) -> None:
    code, _, err = remit("audit", "list", "--since", "yesterday")
    assert code == 2
    assert "'yesterday' is not a time" in err


def test_why_tells_the_story_of_a_record_or_of_the_last_denial(plane: Plane, remit: Remit) -> None:
    assert remit("why")[0] == 4
    plane.audit.records.append(RECORD)
    code, told, _ = remit("why", "r-00000")
    assert code == 0
    assert "no_capability" in told
    assert "\x1b" not in told
    assert remit("why")[1] == told
    assert records(remit("why", "--json")[1])[0]["record"] == RECORD


@pytest.mark.parametrize(
    ("option", "value", "meant"), [("--decision", "denied", "deny"), ("--reason", "no_capabilty", "no_capability")]
)
def test_a_filter_that_no_record_can_have_is_a_mistake(
    plane: Plane, remit: Remit, option: str, value: str, meant: str
) -> None:
    code, out, said = remit("audit", "list", option, value)
    assert (code, out) == (2, "")
    assert f"did you mean {meant}?" in said and "hint: one of: " in said


def test_why_prefers_a_refused_request_to_the_refused_lookup_of_its_name(plane: Plane, remit: Remit) -> None:
    lookup = {**RECORD, "id": "r-0000000002", "seq": 2, "kind": "dns"}
    plane.audit.records.append(lookup)
    assert records(remit("why", "--json")[1])[0]["record"] == lookup
    plane.audit.records.insert(0, RECORD)
    assert records(remit("why", "--json")[1])[0]["record"] == RECORD


def test_verify_says_what_was_read(plane: Plane, remit: Remit) -> None:
    assert remit("audit", "verify") == (0, "ok: 0 records in 1 segment, unbroken\n", "")


def test_a_log_that_was_tampered_with_fails_verify(plane: Plane, remit: Remit, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(heads: object, keys: object) -> AsyncIterator[dict[str, Any]]:
        yield {"ok": False, "records": 3, "segments": 1, "problem": {"kind": "altered", "segment": 1, "line": 4}}

    monkeypatch.setattr(plane.audit, "verify", broken)
    code, out, err = remit("audit", "verify")
    assert (code, out) == (1, "")
    assert "kind altered, segment 1, line 4" in err
    code, out, _ = remit("audit", "verify", "--json")
    assert (code, records(out)[0]["problem"]["line"]) == (1, 4)


def test_a_verification_without_its_report_has_verified_nothing(
    plane: Plane, remit: Remit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(heads: object, keys: object) -> AsyncIterator[dict[str, Any]]:
        yield {"checked": 5, "of": 10}
        raise Unavailable("the audit log cannot be read: no such device", hint="check the disk")

    async def breaking(heads: object, keys: object) -> AsyncIterator[dict[str, Any]]:
        yield {"checked": 5, "of": 10}

    monkeypatch.setattr(plane.audit, "verify", failing)
    code, out, err = remit("audit", "verify")
    assert (code, out) == (6, "")
    assert "error: the audit log cannot be read: no such device\n" in err
    monkeypatch.setattr(plane.audit, "verify", breaking)
    code, out, err = remit("audit", "verify", "--json")
    assert (code, out) == (6, "")
    assert "broke off" in err


def test_ps_lists_tasks_and_stop_takes_a_short_id(
    applied: Path, remit: Remit, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    transport = httpx.HTTPTransport(uds=str(Path(os.environ["REMIT_RUN_DIR"]) / "control/control.sock"))
    with httpx.Client(timeout=60, transport=transport, base_url="http://localhost") as http:
        body = {"role": "devops", "command": ["sh", "-c", "echo \x1b[2J"], "operator": "root"}
        task = http.post("/v1/tasks", json=body).json()["task"]
    assert [item["id"] for item in records(remit("ps", "--json")[1])] == [task]
    assert "sh -c echo \\x1b[2J" in remit("ps")[1]
    asked: list[Any] = []

    def answer(request: Any, **_: Any) -> dict[str, Any]:
        asked.append(request)
        return {"event": "done"}

    monkeypatch.setattr(cells, "ask", answer)
    assert remit("stop", task[2:6])[0] == 0
    assert asked == [{"op": "stop", "task": task, "grace_s": tasks.STOP_GRACE_S}]


def test_a_refused_merge_names_each_file_and_has_exit_code_5(
    plane: Plane, remit: Remit, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"event": "merged", "paths": ["a"], "refused": [{"path": ".git/hooks/x\x1b", "why": "runs later"}]}
    monkeypatch.setattr(tasks, "full_id", lambda prefix: prefix)
    monkeypatch.setattr(cells, "ask", lambda request, **_: answer)
    code, out, err = remit("merge", "t-aaaaaaaaaa")
    assert code == 5
    assert "remit merge --force t-aaaaaaaaaa PATH" in err
    assert ".git/hooks/x\\x1b  refused: runs later" in out


def test_logs_go_to_the_stream_they_came_from(plane: Plane, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> None:
    frames = [(b"1", b"out\x1b[0m\n"), (b"2", b"err\n"), (b"J", b'{"event":"end"}'), (b"1", b"never")]
    monkeypatch.setattr(tasks, "full_id", lambda prefix: prefix)
    monkeypatch.setattr(cells, "exchange", lambda request, **_: iter(frames))
    assert commands.invoke(["logs", "t-aaaaaaaaaa"]) == 0
    assert capfdbinary.readouterr() == (b"out\x1b[0m\n", b"err\n")


def test_status_is_ok_while_the_node_has_the_latest_change(applied: Path, remit: Remit, plane: Plane) -> None:
    code, out, _ = remit("status")
    assert code == 0
    assert "up to date" in out
    plane.node.connected = False
    code, out, _ = remit("status", "--json")
    assert (code, records(out)[0]["ok"]) == (6, False)


def test_status_says_that_everything_is_revoked(plane: Plane, remit: Remit) -> None:
    assert remit("panic", "--reason", "leak")[0] == 0
    code, out, err = remit("status")
    assert code == 0
    assert "revocations   everything (remit panic)" in out
    assert 'remit panic --lift --reason "WHY"' in err


def test_status_is_not_ok_where_nothing_can_be_written(
    applied: Path, remit: Remit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMIT_STATE_DIR", "/")
    monkeypatch.setattr(lifecycle, "FULL_BYTES", 1 << 62)
    code, out, err = remit("status")
    assert (code, out.split()[:3]) == (6, ["status", "not", "ok"])
    assert "up to date" in out
    assert "the disk is full" in err and "hint: free some below" in err


def test_what_is_no_token_is_refused_and_not_shown(plane: Plane, remit: Remit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMIT_TOKEN", "remit_op_secret\ntoken of alice, good until tomorrow")
    code, out, err = remit("whoami")
    assert (code, out) == (2, "")
    assert err.startswith("error: REMIT_TOKEN is not a token\nhint: ")
    assert "secret" not in err


def test_without_a_control_plane_the_hint_says_how_to_start(
    remit: Remit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REMIT_RUN_DIR", str(tmp_path))
    code, out, err = remit("ps")
    assert (code, out) == (6, "")
    assert err.splitlines()[0] == f"error: the control plane does not answer on {tmp_path}/control/control.sock"
    assert err.splitlines()[-1] == "hint: remit up --detach"


def test_tail_prints_what_matches_as_it_is_written_until_interrupted(
    plane: Plane, remit: Remit, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed: list[Any] = []

    async def follow(wanted: AuditFilter) -> AsyncIterator[Any]:
        for role in ("finops", "devops"):
            if role == wanted.role:
                yield {**RECORD, "role": role}
        await asyncio.Event().wait()

    def interrupted(record: Any) -> None:
        printed.append(record)
        raise KeyboardInterrupt

    monkeypatch.setattr(plane.audit, "follow", follow)
    monkeypatch.setattr(output, "line", interrupted)
    assert remit("audit", "tail", "--role", "devops", "--json")[0] == 130
    assert printed == [RECORD]


def test_tail_goes_on_behind_what_it_printed_when_the_stream_breaks_off(
    plane: Plane, remit: Remit, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []
    printed: list[Any] = []

    async def follow(wanted: AuditFilter) -> AsyncIterator[Any]:
        asked.append(wanted.after)
        yield {**RECORD, "seq": 7 + len(asked)}
        raise Unavailable("the disk refuses")

    def twice(record: Any) -> None:
        printed.append(record["seq"])
        if len(printed) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(plane.audit, "follow", follow)
    monkeypatch.setattr(output, "line", twice)
    code, _, err = remit("audit", "tail", "--json")
    assert (code, asked, printed) == (130, ["0", "8"], [8, 9])
    assert err == "the control plane has gone; waiting for it\nthe control plane is back\n"


@pytest.mark.parametrize(("needed", "code"), [(True, 1), (False, 0)])
def test_doctor_fails_only_for_what_is_needed(
    remit: Remit, monkeypatch: pytest.MonkeyPatch, needed: bool, code: int
) -> None:
    check = {"check": "bubblewrap", "ok": False, "detail": "not found", "hint": "install it", "needed": needed}
    monkeypatch.setattr("remit.app.doctor.doctor", lambda settings: [check])
    assert remit("doctor")[0] == code
    assert records(remit("doctor", "--json")[1]) == [check]


@pytest.mark.parametrize("arguments", [["bogus"], ["get"], ["stop", "x", "--grace", "-1"], ["ps", "--nope"]])
def test_a_command_line_that_makes_no_sense_has_exit_code_2(remit: Remit, arguments: list[str]) -> None:
    code, out, err = remit(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.splitlines()[-1].endswith("--help")


def test_a_broken_setting_is_an_error_and_no_traceback(remit: Remit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMIT_API_PORT", "many")
    code, _, err = remit("ps")
    assert code == 2
    assert err.startswith("error: setting api_port")


@pytest.mark.parametrize("kind", ["role", "Capability", "credentials", "policy"])
def test_each_kind_has_a_schema(remit: Remit, kind: str) -> None:
    code, out, _ = remit("schema", kind)
    assert code == 0
    assert json.loads(out)["$schema"].startswith("https://json-schema.org/")


def test_rotating_the_issuer_names_the_new_key(plane: Plane, remit: Remit) -> None:
    code, out, _ = remit("issuer", "rotate", "--json")
    assert code == 0
    assert records(out)[0]["kid"] in plane.issuer.public_keys()


USED = {
    "budget": "role/devops/requests/1h", "scope": "role", "task": None, "quantity": "requests", "per": "1h",
    "window": "sliding", "limit": 100, "raised": 0, "used": 40, "left": 60, "returns": None,
}  # fmt: skip


def test_budgets_are_shown_and_raised_with_a_reason(remit: Remit, plane: Plane) -> None:
    plane.node.budgets = [
        USED,
        {**USED, "budget": "task/t-aaaaaaaaaa/requests", "scope": "task", "task": "t-aaaaaaaaaa"},
    ]
    code, out, _ = remit("budget", "show", "role/devops", "--json")
    assert (code, [json.loads(line)["budget"] for line in out.splitlines()]) == (0, [USED["budget"]])
    assert "t-aaaaaaaaaa" in remit("budget", "show", "t-aaaaaaaaaa")[1]
    assert "t-aaaaaaaaaa" in remit("budget", "show", "task/t-aaaaaaaaaa/")[1]
    assert remit("budget", "raise", USED["budget"], "--by", "10")[0] == 2
    code, out, _ = remit("budget", "raise", USED["budget"], "--by", "10", "--reason", "a reason", "--json")
    assert (code, json.loads(out)["budget"]["budget"]) == (0, USED["budget"])
    kind, fields = plane.node.records[-1]
    assert (kind, fields["action"], fields["by"], fields["why"]) == ("operator", "budget.raise", 10, "a reason")
    for arguments, said in (
        (("role/devops/requests", "--by", "10", "--reason", "x"), "did you mean role/devops/requests/1h"),
        ((USED["budget"], "--by", "lots", "--reason", "x"), "expected a number of requests"),
        ((USED["budget"], "--by", "10", "--reason", " "), "needs a reason"),
    ):
        code, _, problem = remit("budget", "raise", *arguments)
        assert code != 0
        assert said in problem


def test_budgets_of_nothing_that_exists_are_an_error_and_of_what_has_none_are_none(
    applied: Path, remit: Remit, plane: Plane
) -> None:
    task = asyncio.run(plane.services.tasks.create("devops", ["agent"], operator="bob")).task.id
    for name in ("role/devops", "capability/github", task, task[:7], f"task/{task[:7]}", ""):
        assert remit("budget", "show", name, "--json")[:2] == (0, "")
    for name, said in (
        ("role/devop", "did you mean devops"),
        ("capability/githob", "did you mean github"),
        ("t-zzzzzzzzzz", "no task"),
        ("role/devops/nonsense", "no budget"),
        ("roles/devops", "no budget"),
    ):
        code, _, problem = remit("budget", "show", name)
        assert (code, said in problem) == (4, True), problem
    plane.node.budgets = [{**USED, "budget": f"task/{task}/requests", "scope": "task", "task": task}]
    assert task in remit("budget", "show", task[:7])[1]
    assert task in remit("budget", "show", f"task/{task[:7]}")[1]


def test_budgets_of_a_node_that_is_away_are_not_known(remit: Remit, plane: Plane) -> None:
    plane.node.connected = False
    code, _, problem = remit("budget", "show")
    assert code == 6
    assert "no node is connected" in problem


def test_a_node_of_another_version_is_told_of_once_and_never_into_a_half_typed_line(
    plane: Plane, remit: Remit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert remit("ps")[2] == "no task runs\n"
    monkeypatch.setattr("remit.cli.client.__version__", "9.9.9")
    assert completion.tasks("t") == []
    assert capsys.readouterr().err == ""
    code, out, err = remit("operator", "list", "--json")
    assert (code, out) == (0, "")
    assert err == (
        f"warning: the node runs remit {__version__}, and this is remit 9.9.9\n"
        "hint: remit down, then remit up --detach, with the one that is meant\n"
    )
    assert remit("operator", "list", "--json")[2] == ""


@pytest.mark.parametrize("command", ["audit list", "audit tail", "audit export"])
def test_whatever_lists_records_is_narrowed_alike_and_names_every_kind(remit: Remit, command: str) -> None:
    code, out, _ = remit(*command.split(), "--help")
    options = set(re.findall(r"--[a-z]+", out))
    assert (code, {f"--{name}" for name in (*AUDIT_FILTERS, "tree")} - options) == (0, set())
    assert {"--since", "--until"} <= options or command == "audit tail"
    assert not [kind for kind in KINDS if kind not in out]


def test_records_are_narrowed_by_what_the_options_say(plane: Plane, remit: Remit) -> None:
    for number in (1, 2):
        record = {**RECORD, "id": f"r-000000000{number}", "seq": number, "host": f"h{number}.example"}
        asyncio.run(plane.audit.add(record))
    assert [one["seq"] for one in records(remit("audit", "list", "--host", "h2.example", "--json")[1])] == [2]
    assert [one["seq"] for one in records(remit("audit", "export", "--host", "h1.example")[1])] == [1]
    assert len(records(remit("audit", "list", "--since", "999999d", "--json")[1])) == 2, "before all time is the start"
    code, _, err = remit("audit", "list", "--until", "later")
    assert (code, err.splitlines()[0]) == (2, "error: 'later' is not a time")


def test_uses_of_a_secret_are_narrowed_as_records_are(applied: Path, remit: Remit) -> None:
    assert remit("secret", "usage", "github-token", "--since", "2h")[0] == 0
    assert remit("secret", "usage", "github-token", "--since", "soon")[0] == 2


def test_secrets_that_credentials_need_are_named(applied: Path, remit: Remit, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, err = remit("secret", "list")
    assert (out, err.splitlines()) == (
        "",
        [
            "no secret is stored",
            "credentials need, and nobody has stored: github-token",
            "hint: remit secret put github-token",
        ],
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"value")))
    assert remit("secret", "put", "github-token")[0] == 0
    assert remit("secret", "list")[2] == ""


@pytest.mark.parametrize(
    "command", ["prune --older-than soon", "operator token ann --ttl soon", "approvals approve a-1 --for soon"]
)
def test_a_duration_that_is_none_is_told_in_one_way(plane: Plane, remit: Remit, command: str) -> None:
    code, out, err = remit(*command.split())
    option = command.split()[-2]
    assert (code, out, err) == (2, "", f"error: {option} 'soon': expected a duration such as 90s, 30m or 1h30m\n")


@pytest.mark.parametrize(
    ("command", "option"),
    [("stop t-7k3m9qab2c --grace", str(daemon.MAX_GRACE_S + 1)), ("approvals approve a-1 --uses", "0")],
)
def test_a_number_out_of_bounds_is_told_with_its_option_before_anything_is_asked(
    remit: Remit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, option: str
) -> None:
    monkeypatch.setenv("REMIT_RUN_DIR", str(tmp_path))
    code, out, err = remit(*command.split(), option)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: Invalid value for '{command.split()[-1]}'"), err
    assert remit(*command.split(), str(daemon.MAX_GRACE_S).partition(".")[0])[0] == 6, "nobody answers"
