"""The client's end of a running command: one connection to `cells`, the terminal, signals, bytes both ways.

Standard library only, for `cli.run`. The user's terminal never enters the cell; it is put back as it was whatever
happens. A signal is passed on between two frames, and input stops where the command does not read it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
from typing import Any

from remit.cli.escaping import safe

_HEAD = struct.Struct(">cI")
_CREDIT = 256 << 10
"""Input on the way that the command has not read yet."""
_CHUNK = 32 << 10
_MAX_FRAME = 1 << 20
_CODES = {"invalid": 2, "not-found": 4, "conflict": 5, "unavailable": 6}
_FORWARDED = ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2")
_DETACH_KEY = b"\x1d"


class Failed(Exception):
    def __init__(self, code: int, error: str, hint: str = "", cause: str = "") -> None:
        super().__init__(error)
        self.code, self.error, self.hint, self.cause = code, error, hint, cause


def environment() -> dict[str, str]:
    # settings.environment() is the door to it; importing settings costs as much as this whole module.
    return dict(os.environ)  # noqa: TID251


def _socket_path() -> str:
    """`settings.cells_socket`, without the price of `settings` where nothing but the defaults applies."""
    given = environment()
    if "REMIT_CONFIG" not in given and not os.path.exists("/etc/remit/config.toml"):  # noqa: PTH110
        if "REMIT_RUN_DIR" in given:
            return os.path.join(os.path.abspath(given["REMIT_RUN_DIR"]), "cells.sock")  # noqa: PTH100, PTH118
        if os.geteuid() == 0:
            return "/run/remit/cells.sock"
    from remit import settings

    return str(settings.load().cells_socket)


def window() -> tuple[int, int]:
    for number in (1, 0, 2):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(number)
            return size.lines or 24, size.columns or 80
    return 24, 80


class Session:
    """One connection to `cells`."""

    def __init__(self, request: dict[str, Any]) -> None:
        path = _socket_path()
        _stand_in()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffer = bytearray()
        self._waiting = 0
        self.tty = bool(request.get("tty"))
        self.leaves = False
        try:
            self._socket.connect(path)
        except OSError as error:
            raise Failed(6, "the node does not answer", "remit up --detach", f"{path}: {error.strerror}") from error
        self._send(b"J", json.dumps(request).encode())

    def _send(self, kind: bytes, payload: bytes) -> None:
        # `cells` hung up: what it said before that is still to be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(_HEAD.pack(kind, len(payload)) + payload)

    def _frame(self) -> tuple[bytes, bytes] | None:
        """A whole frame that has come already, if there is one."""
        if len(self._buffer) < _HEAD.size:
            return None
        kind, size = _HEAD.unpack_from(self._buffer)
        if size > _MAX_FRAME:
            raise Failed(6, "cells sent a frame that is too large", "remit doctor")
        if len(self._buffer) < _HEAD.size + size:
            return None
        payload = bytes(self._buffer[_HEAD.size : _HEAD.size + size])
        del self._buffer[: _HEAD.size + size]
        return kind, payload

    def _receive(self) -> None:
        try:
            data = self._socket.recv(1 << 17)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Failed(6, "the node ended this task: cells is gone", "remit status")
        self._buffer += data

    def event(self) -> dict[str, Any]:
        """The next JSON message; raises where it is an error."""
        while (frame := self._frame()) is None:
            self._receive()
        return self._event(frame[1])

    def _event(self, payload: bytes) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(payload)
        if message.get("event") == "error":
            code = _CODES.get(str(message.get("kind")), 1)
            raise Failed(code, str(message.get("detail")), str(message.get("hint") or ""))
        return message

    def started(self) -> dict[str, Any]:
        return self.event()

    def carry(self) -> int:
        """Everything both ways until the command ends. Its exit code."""
        wake, woken = os.pipe()
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        numbers = {getattr(signal, f"SIG{name}"): name for name in _FORWARDED}
        for number in (*numbers, signal.SIGWINCH):
            # The handler does nothing: its number comes out of the pipe, between two frames.
            signal.signal(number, lambda *_: None)
        with _raw(self.tty):
            if self.tty:
                self._resize()
            return self._loop(wake, numbers)

    def _loop(self, wake: int, numbers: dict[int, str]) -> int:
        reading = True
        while True:
            while (frame := self._frame()) is not None:
                code = self._handle(*frame)
                if code is not None:
                    return code
            listening: list[Any] = [self._socket, wake]
            if reading and self._waiting < _CREDIT:
                listening.append(0)
            ready, _, _ = select.select(listening, [], [])
            if wake in ready:
                for number in os.read(wake, 64):
                    if number == signal.SIGWINCH:
                        self._resize()
                    elif number in numbers:
                        self._send(b"J", json.dumps({"signal": numbers[number]}).encode())
            if 0 in ready:
                reading = self._input()
                if not reading and self.leaves:
                    return 0
            if self._socket in ready:
                self._receive()

    def _input(self) -> bool:
        """Pass on what was typed; whether there may be more."""
        try:
            data = os.read(0, _CHUNK)
        except OSError:
            data = b""
        if self.leaves and self.tty and _DETACH_KEY in data:
            return False
        if not data and self.leaves:
            # A watcher without input still watches.
            self.leaves = False
            return False
        self._waiting += len(data)
        self._send(b"0", data)
        return bool(data)

    def _resize(self) -> None:
        self._send(b"J", json.dumps({"resize": list(window())}).encode())

    def _handle(self, kind: bytes, payload: bytes) -> int | None:
        if kind in (b"1", b"2"):
            _write(1 if kind == b"1" else 2, payload)
            return None
        message = self._event(payload)
        if message.get("event") == "stdin":
            self._waiting -= int(message["bytes"])
        if message.get("event") != "exit":
            return None
        if message.get("detail"):
            print(f"remit: {safe(message['detail'])}", file=sys.stderr)
        return int(message["code"])


def _write(number: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(number, view) :]
        except BlockingIOError:
            # Somebody made our terminal non-blocking; wait for it.
            select.select([], [number], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            # The task ends with us: its output would be lost from here on.
            where = "standard output" if number == 1 else "standard error"
            cause = error.strerror or str(error)
            raise Failed(6, f"{where} cannot be written, so the task is ended", "remit ps --all", cause) from error


def _stand_in() -> None:
    """Where a standard descriptor was closed, /dev/null takes its number, or our socket would."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextlib.contextmanager
def _raw(wanted: bool) -> Any:
    """The terminal hands every key through, and is put back whatever happens."""
    if not wanted or not os.isatty(0):
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
