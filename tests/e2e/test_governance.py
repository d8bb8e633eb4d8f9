"""What is refused, why, and what is recorded; revocation; the life of a task."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from governed import SECRET
from instance import Instance, wait_for
from upstreams import Upstreams

pytestmark = pytest.mark.xdist_group("instance")

FETCH = """
import sys, urllib.request, urllib.error
def fetch(url, method="GET", headers={}):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers), timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
"""


def denied(remit: Instance, url: str, method: str = "GET", role: str = "agent") -> dict[str, object]:
    done = remit.python(role, FETCH + f"print(fetch({url!r}, {method!r})[1])")
    problem: dict[str, object] = json.loads(done.stdout)
    return problem


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        ("GET", "/admin", "no_capability"),
        ("DELETE", "/v1/x", "no_capability"),
        ("GET", "/v1/../admin", "path_ambiguous"),
        ("GET", "/v1/%2e%2e/admin", "path_ambiguous"),
        ("GET", "/v1//x", "no_capability"),
        ("GET", "/v1/frozen/x", "policy_denied"),
    ],
)
def test_a_denial_says_why_and_the_record_says_the_same(
    remit: Instance, upstreams: Upstreams, api: str, method: str, path: str, reason: str
) -> None:
    before = len(upstreams.seen)
    problem = denied(remit, api + path, method)
    assert problem["reason"] == reason
    assert set(problem) == {"type", "title", "status", "detail", "reason", "record", "next"}
    record = remit.record_of(json.dumps(problem))
    assert (record["decision"], record["reason"], record["method"]) == ("deny", reason, method)
    assert len(upstreams.seen) == before


def test_a_permit_is_recorded_with_its_completion(remit: Instance, api: str) -> None:
    remit.run("agent", "curl", "-sS", "-m", "20", f"{api}/v1/recorded?secret=query", check=True)

    def complete() -> dict[str, object] | None:
        found = [record for record in remit.audit() if record["path"] == "/v1/recorded"]
        return found[0] if found and found[0]["status"] else None

    record = wait_for(complete, "a completion")
    assert (record["decision"], record["status"], record["credential"]) == ("permit", 200, "key")
    assert record["bytes_in"] > 0
    assert "secret=query" not in json.dumps(remit.audit())


def test_obligations_of_a_policy_stand_in_the_record(remit: Instance, api: str) -> None:
    remit.run("agent", "curl", "-sS", "-m", "20", f"{api}/v1/noted", check=True)
    (record,) = [record for record in remit.audit() if record["path"] == "/v1/noted"]
    assert record["notes"] == {"change": "C-1"}


def test_a_refused_name_is_recorded_and_explained(remit: Instance) -> None:
    problem = denied(remit, "https://nowhere.test.example/x")
    assert problem["reason"] == "no_capability"
    wait_for(lambda: [r for r in remit.audit(kind="dns") if r["host"] == "nowhere.test.example"], "a dns record")


def test_why_and_explain_agree_with_the_decision(remit: Instance, api: str) -> None:
    problem = denied(remit, f"{api}/v1/frozen/y")
    why = remit.cli("why", str(problem["record"])).stdout
    assert "frozen things stay" in why
    told = json.loads(remit.cli("explain", "--role", "agent", "GET", f"{api}/v1/frozen/y", "--json").stdout)
    assert (told["decision"], told["reason"]) == ("deny", "policy_denied")


def test_a_revoked_task_is_refused_at_once_and_its_open_streams_are_cut(remit: Instance, api: str) -> None:
    source = (
        FETCH
        + f"""
answer = urllib.request.urlopen("{api}/stream", timeout=30)
print("watching", answer.readline(), flush=True)
try:
    while answer.readline(): pass
    print("ended", flush=True)
except OSError as error:
    print("cut", flush=True)
print(fetch("{api}/v1/after")[1], flush=True)
"""
    )
    with remit.running("agent", sys.executable, "-c", source) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("watching")
        task = remit.newest()
        remit.cli("revoke", "task", task["id"])
        begun = time.monotonic()
        assert process.stdout.readline().strip() in ("cut", "ended")
        assert time.monotonic() - begun < 20, "the stream ends by itself after a minute"
        assert json.loads(process.stdout.readline())["reason"] == "task_revoked"


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [("capability", "api", "capability_revoked"), ("credential", "key", "credential_revoked")],
)
def test_a_revoked_capability_or_credential_is_refused_until_restored(
    remit: Instance, upstreams: Upstreams, api: str, kind: str, name: str, reason: str
) -> None:
    remit.cli("revoke", kind, name)
    try:
        assert denied(remit, f"{api}/v1/revoked-{kind}")["reason"] == reason
    finally:
        remit.cli("restore", kind, name)
    assert not upstreams.reached(f"/v1/revoked-{kind}")
    remit.run("agent", "curl", "-sS", "-f", "-m", "20", f"{api}/v1/restored", check=True)


def test_the_exit_code_the_streams_and_standard_input_are_the_commands(remit: Instance) -> None:
    done = remit.cli(
        "run", "--role", "nothing", "--no-tty", "--", "sh", "-c", "cat; echo err >&2; exit 7", given="in", check=False
    )
    assert (done.returncode, done.stdout) == (7, "in")
    assert "err" in done.stderr


def test_a_signal_reaches_the_command_and_a_dead_client_ends_the_task(remit: Instance) -> None:
    with remit.running(
        "nothing", "sh", "-c", "trap 'echo caught; exit 3' TERM; echo up; while :; do sleep 0.1; done"
    ) as p:
        assert p.stdout is not None
        assert p.stdout.readline() == "up\n"
        p.send_signal(signal.SIGTERM)
        assert p.stdout.readline() == "caught\n"
        assert p.wait(60) == 3
    with remit.running("nothing", "sh", "-c", "echo up; exec sleep 1000") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.wait()
        wait_for(lambda: not [t for t in remit.tasks() if t["state"] == "running"], "the task to end")


def test_a_task_dies_whole(remit: Instance) -> None:
    marker = "987654321.25"
    remit.run(
        "nothing", "sh", "-c", f"setsid nohup sleep {marker} >/dev/null 2>&1 & sleep 0.2; (sleep {marker} &) ; exit 0"
    )
    alive = subprocess.run(["pgrep", "-f", f"sleep {marker}"], capture_output=True, text=True)
    wait_for(
        lambda: subprocess.run(["pgrep", "-f", f"sleep {marker}"], capture_output=True).returncode == 1,
        f"no orphan: {alive.stdout}",
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "--role", "agnt", "--", "true"], 4, "agnt"),
        (["run", "--role", "agent", "--workspace", "/nowhere/at/all", "--", "true"], 4, "/nowhere/at/all"),
        (["apply", "-f", "/nowhere.yaml"], 4, "nowhere.yaml"),
        (["up"], 5, "already up"),
        (["why", "r-nothing"], 4, "r-nothing"),
        (["stop", "t-nothing"], 4, "t-nothing"),
    ],
)
def test_a_mistake_gets_one_clear_error_with_a_hint(
    remit: Instance, arguments: list[str], code: int, said: str
) -> None:
    done = remit.cli(*arguments, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error:")
    assert said in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_chain_verifies_and_holds_no_secret(remit: Instance) -> None:
    assert remit.cli("audit", "verify").stdout.startswith("ok")
    kept = b"".join(file.read_bytes() for file in (remit.state / "decide" / "audit").glob("*.log"))
    assert SECRET.encode() not in kept
    for log in (remit.state / "log").glob("*.log"):
        assert SECRET.encode() not in log.read_bytes()
