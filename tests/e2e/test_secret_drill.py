"""The leak drill on a whole instance: it finds nothing, and what is leaked on purpose it does find."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from instance import Instance

from remit.cli import sinks
from remit.cli.sinks import CHUNK, PAGE, Search

pytestmark = pytest.mark.xdist_group("secret-drill")
CANARY = b"canary-1+/&<~77-of-a-test"


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    found = Instance(hosts={}, ca=None)
    try:
        found.up()
        yield found
    finally:
        found.down()


def drilled(instance: Instance, *options: str) -> tuple[int, dict[str, dict[str, object]], str]:
    """Its exit code, what it says of each sink, and its last word."""
    done = instance.cli("secret", "drill", "--json", *options, check=False, timeout=180)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows, done.stderr
    return done.returncode, {row["sink"]: row for row in rows}, done.stderr


def test_a_drill_finds_nothing_and_leaves_nothing(instance: Instance) -> None:
    code, rows, said = drilled(instance)
    assert said.startswith("the drill passed: the canary was nowhere in "), said
    assert {name: row["found"] for name, row in rows.items() if row["found"]} == {}
    assert code == 0
    for sink in (
        "API answers", "Envoy's admin", "audit log", "cells: output, workspaces", "control database", "core dumps", "errors",
        "files of the cell", "logs of the parts", "memory of other parts", "memory of the cell", "other state", "process environments",
        "process list", "snapshot, leases, spool", "task output", "temporary files",
    ):  # fmt: skip
        assert rows[sink]["looked"], sink
    for part in ("decide", "envoy", "control"):
        assert rows[f"memory of {part}"]["outcome"] == "by design" and rows[f"memory of {part}"]["by_design"]
    assert instance.cli("secret", "list", "--json").stdout == ""
    assert "drill" not in instance.cli("get", "roles").stdout


def test_a_leak_on_purpose_is_found_where_it_is(instance: Instance) -> None:
    code, rows, said = drilled(instance, "--prove")
    assert said.startswith("the drill failed, as it must where it is leaked on purpose (--prove): "), said
    assert code == 1
    for sink in (
        "task output",
        "process list",
        "process environments",
        "memory of the cell",
        "files of the cell",
        "cells: output, workspaces",
    ):
        assert rows[sink]["found"], sink
    for sink in ("audit log", "control database", "API answers", "Envoy's admin", "logs of the parts", "errors"):
        assert not rows[sink]["found"], sink


def test_a_leak_in_a_file_is_found_in_each_spelling(tmp_path: Path) -> None:
    spelled = {
        "raw": CANARY,
        "base64": base64.b64encode(b"x" + CANARY),
        "hex": CANARY.hex().encode(),
        "percent": "".join(f"%{byte:02x}" for byte in CANARY).encode(),
        "json": CANARY.replace(b"/", b"\\/"),
    }
    for name, text in spelled.items():
        (tmp_path / name).write_bytes(b"." * (CHUNK - 9) + text + b"." * 99)
    (tmp_path / "clean").write_bytes(b"canary-1" * CHUNK)
    search = Search(CANARY)
    search.tree("files", tmp_path)
    assert {Path(found).name for found in search.sinks["files"].found} == set(spelled)


@pytest.mark.parametrize("before", [0, 1, PAGE - 3, PAGE, 3 * PAGE - 1, CHUNK - 2])
@pytest.mark.parametrize("spelled", [CANARY, CANARY.decode().encode("utf-32-be"), CANARY.decode().encode("utf-32-le")])
def test_a_leak_among_zeros_is_found(tmp_path: Path, spelled: bytes, before: int) -> None:
    (tmp_path / "file").write_bytes(bytes(before) + spelled + bytes(2 * PAGE))
    search = Search(CANARY)
    search.tree("files", tmp_path)
    search.data("data", "here", (tmp_path / "file").read_bytes())
    assert search.sinks["files"].found == [str(tmp_path / "file")]
    assert search.sinks["data"].found == ["here"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount of its own needs root")
def test_the_temporary_files_of_a_process_are_looked_at_once_and_this_machines_are_not() -> None:
    command = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /tmp && echo ready && read end"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        found = sinks.roots([os.getpid(), process.pid, process.pid])
        process.communicate(b"\n")
    assert found == [Path(f"/proc/{process.pid}/root/tmp")]


def test_what_a_crash_leaves_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = tmp_path / "core_pattern"
    pattern.write_text(f"{tmp_path}/%u/core.%e.%p\n")
    monkeypatch.setattr(sinks, "CORE_PATTERN", pattern)
    monkeypatch.setattr(sinks, "COLLECTED", ())
    (tmp_path / "0").mkdir()
    left, clean = tmp_path / "0/core.sh.17.x", tmp_path / "0/core.sh.18"
    left.write_bytes(b"\0" * CHUNK + CANARY)
    clean.write_bytes(b"\0" * CHUNK)
    search = Search(CANARY)
    search.core_files(left.stat().st_mtime)
    assert (search.sinks["core dumps"].looked, search.sinks["core dumps"].found) == (2, [str(left)])


def test_a_leak_in_a_process_is_found() -> None:
    process = subprocess.Popen(
        ["sh", "-c", "x=$(printf '%s' \"$LEAK\" | rev); read end"], stdin=subprocess.PIPE,
        env={**os.environ, "LEAK": CANARY.decode()},
    )  # fmt: skip
    search = Search(CANARY)
    try:
        search.process(process.pid)
        search.memory("memory", process.pid, "sh")
        search.cores({"sh": process.pid})
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert search.sinks["process environments"].found and search.sinks["memory"].found
