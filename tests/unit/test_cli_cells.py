"""The commands' end of the cells protocol, against a server that says whatever a test wants."""

import json
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remit.cli import cells
from remit.core.errors import Conflict, NotFound, RemitError, Unavailable

Serve = Callable[[bytes], list[dict[str, object]]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Answers one connection with these bytes; the requests it saw are in the list."""
    with tempfile.TemporaryDirectory(prefix=f"remit-cells-{os.getpid()}-") as run_dir:
        monkeypatch.setenv("REMIT_RUN_DIR", run_dir)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        threads: list[threading.Thread] = []

        def start(answer: bytes) -> list[dict[str, object]]:
            seen: list[dict[str, object]] = []
            listener.bind(str(Path(run_dir) / "cells.sock"))
            listener.listen(1)

            def run() -> None:
                connection, _ = listener.accept()
                with connection:
                    kind, size = struct.unpack(">cI", connection.recv(5, socket.MSG_WAITALL))
                    assert kind == b"J"
                    seen.append(json.loads(connection.recv(size, socket.MSG_WAITALL)))
                    connection.sendall(answer)

            threads.append(threading.Thread(target=run, daemon=True))
            threads[0].start()
            return seen

        yield start
        for thread in threads:
            thread.join(5)
        listener.close()


def framed(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">cI", kind, len(payload)) + payload


def event(**fields: object) -> bytes:
    return framed(b"J", json.dumps(fields).encode())


def test_a_request_is_answered_by_the_first_event(serve: Serve) -> None:
    seen = serve(event(event="done", closed=3))
    assert cells.ask({"op": "stop", "task": "t-aaaaaaaaaa"})["closed"] == 3
    assert seen == [{"op": "stop", "task": "t-aaaaaaaaaa"}]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("not-found", NotFound), ("conflict", Conflict), ("unavailable", Unavailable), ("strange", RemitError)],
)
def test_an_error_comes_back_as_what_it_was(serve: Serve, kind: str, expected: type[RemitError]) -> None:
    serve(event(event="error", kind=kind, detail="no such task", hint="remit ps"))
    with pytest.raises(expected) as caught:
        cells.ask({"op": "stop"})
    assert (caught.value.detail, caught.value.hint) == ("no such task", "remit ps")


def test_output_comes_frame_by_frame_until_the_other_side_closes(serve: Serve) -> None:
    serve(framed(b"1", b"out") + framed(b"2", b"") + framed(b"1", b"x" * 65536))
    frames = list(cells.exchange({"op": "logs"}, timeout_s=5))
    assert [(kind, len(payload)) for kind, payload in frames] == [(b"1", 3), (b"2", 0), (b"1", 65536)]


@pytest.mark.parametrize(
    "answer",
    [
        struct.pack(">cI", b"1", 65537),
        struct.pack(">cI", b"J", (1 << 20) + 1),
        framed(b"J", b"{not json"),
        framed(b"J", b"[]"),
        framed(b"J", b"{}")[:6],
        b"",
    ],
    ids=["data too large", "json too large", "not json", "not an object", "cut short", "closed at once"],
)
def test_an_answer_that_makes_no_sense_is_unavailable(serve: Serve, answer: bytes) -> None:
    serve(answer)
    with pytest.raises(Unavailable):
        cells.ask({"op": "list"})


def test_a_missing_socket_says_how_to_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REMIT_RUN_DIR", str(tmp_path))
    with pytest.raises(Unavailable) as caught:
        cells.ask({"op": "list"})
    assert caught.value.hint == "remit up --detach"
