import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remit.boundary import completions, spool
from remit.boundary.spool import Spool

LINE = {
    "record": "r-abc",
    "flow": "100.64.0.7:40000",
    "destination": "198.18.1.2:443",
    "sni": "api.test",
    "method": "GET",
    "scheme": "https",
    "authority": "api.test",
    "path": "/x",
    "protocol": "HTTP/2",
    "status": 200,
    "details": "via_upstream",
    "flags": "-",
    "bytes_out": 3,
    "bytes_in": 5,
    "duration_ms": 7,
    "upstream": "192.0.2.1:443",
    "upstream_failure": None,
}


def encoded(**changes: object) -> bytes:
    return json.dumps({**LINE, **changes}).encode()


def test_an_ending_says_nothing_of_what_the_decision_said() -> None:
    parsed = completions.parse(encoded())
    assert parsed is not None
    record, fields = parsed
    assert record == "r-abc"
    assert fields == {
        "status": 200, "bytes_out": 3, "bytes_in": 5, "duration_ms": 7, "protocol": "HTTP/2", "flags": None,
        "ending": "via_upstream", "upstream": "192.0.2.1:443",
    }  # fmt: skip


def test_an_answer_that_said_the_credential_again_is_noted() -> None:
    parsed = completions.parse(encoded(repeated="yes"))
    assert parsed is not None
    assert parsed[1]["repeated"] is True


def test_a_request_that_runs_on_says_only_how_much_it_moved() -> None:
    parsed = completions.parse(encoded(type="DownstreamPeriodic", status=0))
    assert parsed is not None
    assert parsed[0] == "r-abc"
    assert parsed[1]["interim"] is True
    assert (parsed[1]["bytes_out"], parsed[1]["bytes_in"], parsed[1]["flow"]) == (3, 5, "100.64.0.7:40000")
    assert completions.parse(encoded(type="DownstreamPeriodic", record="-")) is None, "Envoy refused nothing yet"


@pytest.mark.parametrize("record", [None, "-", "", "x", "r-" + "a" * 100, 7])
def test_without_a_record_it_is_envoys_own_refusal(record: object) -> None:
    parsed = completions.parse(encoded(record=record, status=400, details="http1.codec_error"))
    assert parsed is not None and parsed[0] is None
    assert parsed[1]["detail"] == "http1.codec_error"
    assert (parsed[1]["host"], parsed[1]["port"], parsed[1]["flow"]) == ("api.test", 443, "100.64.0.7:40000")


def test_what_an_agent_wrote_is_cut_and_printable() -> None:
    parsed = completions.parse(encoded(record=None, path="/\x1b[2J" + "é" * 5000, authority="a\n" * 500))
    assert parsed is not None
    for name, limit in (("path", completions.PATH_MAX), ("host", completions.HOST_MAX)):
        text = parsed[1][name]
        assert len(text) <= limit and text.isprintable() and text.isascii()


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_line_makes_it_fail(line: bytes) -> None:
    completions.parse(line)


VALUES = st.none() | st.integers() | st.text() | st.floats() | st.booleans()


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(LINE)), VALUES))
def test_no_values_make_it_fail(values: dict[str, Any]) -> None:
    parsed = completions.parse(json.dumps(values).encode())
    assert parsed is not None
    json.dumps(parsed[1], allow_nan=False)


REJECTED = "TLS_error:|268435589:SSL_routines:OPENSSL_internal:CONNECTION_REJECTED:TLS_error_end"


@pytest.mark.parametrize(("why", "detail"), [(REJECTED, completions.NO_LEAF), ("TLS_error|x", "TLS_error|x")])
def test_a_handshake_that_failed_is_a_refusal_with_its_reason(why: str, detail: str) -> None:
    line = {name: LINE[name] for name in ("flow", "destination", "sni", "flags", "duration_ms")}
    parsed = completions.parse(json.dumps({**line, "handshake": why, "bytes_out": 0}).encode())
    assert parsed is not None and parsed[0] is None
    assert parsed[1]["detail"] == f"the TLS handshake failed: {detail}"
    assert (parsed[1]["host"], parsed[1]["port"], parsed[1]["flow"]) == ("api.test", 443, "100.64.0.7:40000")


def test_a_connection_that_failed_after_its_requests_is_none() -> None:
    assert completions.parse(json.dumps({"handshake": "TLS_error|x", "bytes_out": 34}).encode()) is None


@pytest.mark.parametrize(("duration_ms", "recorded"), [(5002, True), (4999, True), (30, False)])
def test_a_connection_that_said_too_little_is_recorded_unless_its_client_dropped_it(
    duration_ms: int, recorded: bool
) -> None:
    line = {"chain": None, "handshake": None, "flow": "100.64.0.7:40000", "destination": "198.18.0.9:443"}
    parsed = completions.parse(json.dumps({**line, "bytes_out": 0, "duration_ms": duration_ms}).encode())
    assert (parsed[1]["detail"] if parsed else None) == (completions.UNSORTED if recorded else None)


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "access.log", tmp_path / "mark"


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_lines_are_read_once_and_halves_wait_for_their_end(paths: tuple[Path, Path]) -> None:
    reader = Spool(*paths)
    assert reader.read() == []
    append(paths[0], b"one\ntw")
    assert reader.read() == [b"one"]
    append(paths[0], b"o\n")
    assert reader.read() == [b"two"]
    assert reader.read() == []


def test_a_restart_goes_on_after_what_was_saved(paths: tuple[Path, Path]) -> None:
    append(paths[0], b"one\ntwo\nthr")
    reader = Spool(*paths)
    assert reader.read() == [b"one", b"two"]
    reader.save()
    append(paths[0], b"ee\n")
    reader.close()
    assert Spool(*paths).read() == [b"three"]


def test_what_was_not_saved_is_read_again(paths: tuple[Path, Path]) -> None:
    append(paths[0], b"one\n")
    Spool(*paths).read()
    assert Spool(*paths).read() == [b"one"]


def test_a_file_made_anew_is_read_from_its_start(paths: tuple[Path, Path]) -> None:
    append(paths[0], b"one\n")
    reader = Spool(*paths)
    reader.read()
    reader.save()
    paths[0].rename(paths[0].with_name("elsewhere"))
    append(paths[0], b"two\n")
    assert reader.read() == []
    assert reader.read() == [b"two"]


def test_a_file_that_was_cut_is_read_from_its_start(paths: tuple[Path, Path]) -> None:
    append(paths[0], b"one\ntwo\n")
    reader = Spool(*paths)
    reader.read()
    os.truncate(paths[0], 0)
    append(paths[0], b"x\n")
    assert reader.read() == [b"x"]


def test_rotation_loses_no_line(paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "ROTATE_BYTES", 4)
    append(paths[0], b"one\ntwo\n")
    reader = Spool(*paths)
    reader.read()
    with paths[0].open("ab") as envoy:  # Envoy still has the old file open
        assert reader.rotate()
        assert reader.rotate(), "Envoy has not opened it anew yet"
        envoy.write(b"three\n")
        envoy.flush()
        assert reader.read() == [b"three"]
        reader.save()
    restarted = Spool(*paths)
    assert restarted.read() == [] and restarted.rotate(), "nobody told Envoy before the restart"
    append(paths[0], b"four\n")
    assert not restarted.rotate()
    assert restarted.read() == []
    assert restarted.read() == [b"four"]
    assert list(paths[0].parent.glob("*.old")) == []


def test_what_is_written_to_the_old_file_until_there_is_a_new_one_is_read(
    paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "ROTATE_BYTES", 4)
    append(paths[0], b"one\n")
    reader, pread = Spool(*paths), os.pread
    reader.read()
    reader.rotate()

    def at_the_end_and_then_written(*args: int) -> bytes:
        data = pread(*args)
        monkeypatch.undo()
        append(paths[0].with_name("access.log.old"), b"two\n")
        append(paths[0], b"three\n")
        return data

    monkeypatch.setattr(os, "pread", at_the_end_and_then_written)
    assert [reader.read() for _ in range(4)] == [[], [b"two"], [], [b"three"]]


async def test_envoy_is_told_to_open_its_log_anew_until_it_has(
    paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "ROTATE_BYTES", 4)
    monkeypatch.setattr(completions, "REOPEN_S", 0.0)
    seen: asyncio.Queue[str | None] = asyncio.Queue()
    told = 0

    async def ended(record: str | None, fields: Mapping[str, Any]) -> None:
        seen.put_nowait(record)

    async def reopen() -> None:
        nonlocal told
        told += 1
        if told < 3:
            raise TimeoutError
        append(paths[0], encoded(record="r-new") + b"\n")

    append(paths[0], encoded() + b"\n")
    follower = asyncio.ensure_future(completions.follow(*paths, ended, reopen))
    assert [await asyncio.wait_for(seen.get(), 5) for _ in range(2)] == ["r-abc", "r-new"]
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)


def test_an_endless_line_is_dropped(paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "LINE_MAX", 10)
    append(paths[0], b"x" * 100)
    reader = Spool(*paths)
    assert reader.read() == []
    append(paths[0], b"rest\nnext\n")
    assert reader.read() == [b"rest", b"next"]


async def test_lines_are_handed_on_as_they_come_and_a_failing_handler_stops_nothing(paths: tuple[Path, Path]) -> None:
    seen: asyncio.Queue[str | None] = asyncio.Queue()

    async def ended(record: str | None, fields: Mapping[str, Any]) -> None:
        if record == "r-bad":
            raise RuntimeError("a fault")
        seen.put_nowait(record)

    async def reopen() -> None:
        raise AssertionError("nothing to open anew")

    append(paths[0], encoded(record="r-bad") + b"\nrubbish\n" + encoded() + b"\n")
    follower = asyncio.ensure_future(completions.follow(*paths, ended, reopen))
    assert await asyncio.wait_for(seen.get(), 5) == "r-abc"
    append(paths[0], encoded(record=None) + b"\n")
    assert await asyncio.wait_for(seen.get(), 5) is None
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
