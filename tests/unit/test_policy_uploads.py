"""What an OPA uploads: unpacked up to a bound, kept up to a bound, and held against what our engine decides."""

import asyncio
import contextlib
import gzip
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import control_plane
import httpx
import pytest
from command_line import Remit, calling
from control_plane import Plane

from remit.core.errors import Invalid
from remit.policy import bundle, uploads
from remit.store.decisions import DecisionFiles

GUARD = """
apiVersion: remit.dev/v1alpha1
kind: Policy
metadata: {name: guard}
spec:
  rego: |
    package remit.guard
    import rego.v1
    deny contains {"msg": "no deletes"} if input.request.method == "DELETE"
    obligations := {"audit": {"change": "CHG-1"}} if input.request.method == "POST"
"""
ZIPPED = {"content-encoding": "gzip", "content-type": "application/json"}


def event(method: str, result: Any, revision: str, **changes: Any) -> dict[str, Any]:
    return {
        "labels": {"id": "x", "version": "1.20.0"}, "decision_id": f"d-{method}", "path": "remit/guard",
        "bundles": {"remit": {"revision": revision}}, "input": {"request": {"method": method}}, "result": result,
        "timestamp": "2026-01-05T12:00:00.123456789Z", "metrics": {"timer_rego_query_eval_ns": 1}, **changes,
    }  # fmt: skip


NO_UPLOADS: dict[str, tuple[bytes, str, str]] = {
    "a bomb": (gzip.compress(bytes(uploads.MAX_UNPACKED + 1)), "gzip", "unpacks to over"),
    "a bomb in a bomb": (gzip.compress(gzip.compress(bytes(64 << 20))), "gzip", "is a JSON array"),
    "cut off": (gzip.compress(b"[]")[:-4], "gzip", "one whole gzip member"),
    "two members": (gzip.compress(b"[") + gzip.compress(b"]"), "gzip", "one whole gzip member"),
    "not gzip": (b"[]", "gzip", "is not gzip"),
    "another encoding": (b"[]", "br", "gzipped or plain"),
    "no array": (b"{}", "", "is a JSON array"),
    "too deep": (b"[" * 100_000, "", "is a JSON array"),
    "no text": (b"\xff", "identity", "is a JSON array"),
    "no object": (json.dumps([1]).encode(), "", "is an object"),
    "no id": (json.dumps([{}]).encode(), "", "has an id"),
    "an id that is no text": (json.dumps([{"decision_id": 5}]).encode(), "", "decision_id"),
    "a long path": (json.dumps([{"decision_id": "x", "path": "p" * 300}]).encode(), "", "path"),
    "lists of nothing": (gzip.compress(b"[" + b"[]," * 600_000 + b"[]]"), "gzip", "at most 1048576 values"),
    "too many": (json.dumps([{"decision_id": "x"}] * (uploads.MAX_EVENTS + 1)).encode(), "", "at most"),
}


@pytest.mark.parametrize("what", NO_UPLOADS)
def test_what_is_no_upload_or_too_large_is_refused(what: str) -> None:
    body, encoding, why = NO_UPLOADS[what]
    with pytest.raises(Invalid, match=why):
        uploads.read(body, encoding)


def test_an_event_is_cut_to_what_is_kept() -> None:
    (kept,) = uploads.read(gzip.compress(json.dumps([event("GET", {}, "r")]).encode()), "gzip")
    assert set(kept) == {"decision_id", "path", "timestamp", "labels", "bundles", "input", "result"}
    large = event("GET", {}, "r", input={"x": "y" * uploads.MAX_EVENT})
    (kept,) = uploads.read(json.dumps([large]).encode(), "")
    assert kept == {"decision_id": "d-GET", "path": "remit/guard", "timestamp": large["timestamp"], "cut": True}


def test_the_oldest_go_where_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remit.store.decisions.FILE_BYTES", 1000)
    kept = DecisionFiles(tmp_path / "opa.jsonl")
    assert kept.latest(5) == []
    for number in range(100):
        kept.add([{"decision_id": str(number)}])
    assert [one["decision_id"] for one in kept.latest(3)] == ["97", "98", "99"]
    assert 20 < len(kept.latest(1000)) < 100
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2000
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    with (tmp_path / "opa.jsonl").open("ab") as torn:
        torn.write(b'{"decision_id": "to')
    assert DecisionFiles(tmp_path / "opa.jsonl").latest(1)[0]["decision_id"] == "99"


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    with tempfile.TemporaryDirectory(prefix=f"remit-uploads-{os.getpid()}-") as name:
        monkeypatch.setenv("REMIT_RUN_DIR", name)
        monkeypatch.setenv("REMIT_STATE_DIR", f"{name}/state")
        plane = control_plane.build(Path(name))
        with control_plane.served(plane, Path(name) / "control/control.sock"):
            yield plane


@pytest.fixture
def remit(plane: Plane, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Remit:
    run = calling(capsys)
    (tmp_path / "guard.yaml").write_text(GUARD)
    assert run("apply", "-f", str(tmp_path / "guard.yaml"))[0] == 0
    return run


@pytest.fixture
def opa(plane: Plane) -> Iterator[httpx.Client]:
    """As OPA sends: to the service's URL and `/logs`."""
    transport = httpx.HTTPTransport(uds=f"{os.environ['REMIT_RUN_DIR']}/control/control.sock")
    with httpx.Client(timeout=60, transport=transport, base_url="http://localhost") as client:
        yield client


def test_uploaded_decisions_are_listed_and_compared(plane: Plane, remit: Remit, opa: httpx.Client) -> None:
    now = bundle.revision(plane.services.manifests.policies())
    sent = [
        event("GET", {"deny": []}, now),
        event("DELETE", {"deny": [{"msg": "no deletes"}]}, now),
        event("POST", {"deny": [], "obligations": {"audit": {"change": "CHG-1"}}}, now),
        event("PUT", {"deny": []}, "another"),
        event("PATCH", {"deny": []}, now, path="remit/none"),
        event("HEAD", None, now, error={"code": "eval"}),
    ]
    for path in ("/logs", "/logs/a-partition"):
        answer = opa.post(path, content=gzip.compress(json.dumps(sent).encode()), headers=ZIPPED)
        assert (answer.status_code, answer.json()) == (200, {"kept": 6})
    code, out, _ = remit("policy", "decisions", "--json")
    assert (code, len(out.splitlines())) == (0, 12)
    assert "no deletes" in remit("policy", "decisions")[1]
    code, out, err = remit("policy", "decisions", "--compare")
    assert (code, out) == (0, "")
    assert "6 agrees, 0 differs, 6 left out" in err

    lies = [event("DELETE", {"deny": []}, now), event("GET", {"deny": [], "obligations": {"x": {}}}, now)]
    assert opa.post("/logs", content=json.dumps(lies).encode(), headers=ZIPPED | {"content-encoding": ""}).is_success
    code, out, err = remit("policy", "decisions", "--compare")
    assert (code, "here: denies (no deletes); OPA: no objection" in out, "2 differs" in err) == (1, True, True)


def test_the_loop_that_serves_the_api_waits_for_no_file_of_decisions(
    opa: httpx.Client, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def noted(what: str) -> None:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            what += " in the loop"
        seen.append(what)

    class Event(dict[str, Any]):
        def items(self) -> Any:
            noted("written")
            return super().items()

    def latest(limit: int) -> Any:
        noted("read")
        return [Event(decision_id="d")]

    monkeypatch.setattr(plane.services.decisions, "add", lambda events: noted("kept"))
    monkeypatch.setattr(plane.services.decisions, "latest", latest)
    sent = json.dumps([event("GET", {}, "r")]).encode()
    assert opa.post("/logs", content=gzip.compress(sent), headers=ZIPPED).json() == {"kept": 1}
    assert opa.get("/v1/decisions").json() == {"items": [{"decision_id": "d"}]}
    assert seen == ["kept", "read", "written"]


def test_what_cannot_be_taken_is_a_problem(opa: httpx.Client, plane: Plane) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    answer = opa.post("/logs", content=bomb, headers=ZIPPED)
    assert (answer.status_code, "unpacks to over" in answer.json()["detail"]) == (422, True)
    assert opa.post("/logs", content=bytes(2 << 20), headers=ZIPPED).status_code == 413
    assert opa.post("/logs", content=b"[]", headers={"content-type": "text/plain"}).status_code == 415
    assert opa.post("/logs", content=b"[]", headers={**ZIPPED, "authorization": "Bearer wrong"}).status_code == 401
    assert plane.services.decisions.latest(5) == []


def test_uploads_are_read_one_after_the_other(opa: httpx.Client, plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may take a while and much memory: whoever may only read must not stop who takes authority away."""
    both, met, read = threading.Barrier(2), [], uploads.read

    def reading(body: bytes, encoding: str) -> list[dict[str, Any]]:
        with contextlib.suppress(threading.BrokenBarrierError):
            met.append(both.wait(0.5))
        return read(body, encoding)

    monkeypatch.setattr(uploads, "read", reading)
    with ThreadPoolExecutor(2) as two:
        sent = [two.submit(opa.post, "/logs", content=gzip.compress(b"[]"), headers=ZIPPED) for _ in range(2)]
        assert [one.result().status_code for one in sent] == [200, 200]
    assert met == []
