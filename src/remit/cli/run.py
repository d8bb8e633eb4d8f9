"""`remit run`, `remit exec` and `remit attach`: a command in a cell, as if it ran here.

The one part of the command line that is started for every command of every agent, so it imports nothing but the
standard library and not all of that (`argparse` alone would cost a quarter of the whole). The terminal of the user and
its descriptors stay here; bytes go back and forth over the socket of `cells`. Whatever happens, the terminal is put
back as it was, and the exit code is the command's.
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
from typing import Any, NoReturn

_HEAD = struct.Struct(">cI")
_CREDIT = 256 << 10
"""Input on the way that the command has not read yet."""
_CHUNK = 32 << 10
_MAX_FRAME = 1 << 20
_CODES = {"invalid": 2, "not-found": 4, "conflict": 5, "unavailable": 6}
_FORWARDED = ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2")

_RUN = """\
usage: remit run --role ROLE [options] -- COMMAND [ARGUMENT…]

Run COMMAND as a task in a cell of its own, under ROLE. The exit code is the command's.

  --role ROLE        what the task may do (required; `remit get roles` lists them)
  --workspace DIR    what it works on: a copy-on-write view, see `remit diff` and `remit merge`
  --bind             let it write into the workspace directly (hooks and editor settings stay read-only)
  --cwd DIR          where to start, relative to the workspace
  --env NAME[=VALUE] pass a variable on; without VALUE the one of this environment (repeatable)
  --detach           print the task's id and leave; `remit attach`, `remit logs -f`
  --tty, --no-tty    with or without a terminal (default: with, if stdin and stdout are terminals)
  --json             print JSON (with --detach)
"""
_EXEC = """\
usage: remit exec [options] TASK -- COMMAND [ARGUMENT…]

Run a further COMMAND in the cell of a running task.

  --env NAME[=VALUE] pass a variable on (repeatable)
  --tty, --no-tty    with or without a terminal (default: with, if stdin and stdout are terminals)
"""
_ATTACH = """\
usage: remit attach TASK

Watch a running task and type to it. Ctrl-] leaves it running.
"""
USAGE = {"run": _RUN, "exec": _EXEC, "attach": _ATTACH}
_DETACH_KEY = b"\x1d"


class _Failed(Exception):
    def __init__(self, code: int, error: str, hint: str = "", cause: str = "") -> None:
        super().__init__(error)
        self.code, self.error, self.hint, self.cause = code, error, hint, cause


def main(argv: list[str]) -> int:
    """`argv`: run, exec or attach, then what follows it. The exit code."""
    try:
        verb = argv[0] if argv else "run"
        if verb == "exec":
            return _exec(argv[1:])
        if verb == "attach":
            return _attach(argv[1:])
        return _run(argv[1:] if verb == "run" else argv)
    except _Failed as failed:
        for name, text in (("error", failed.error), ("cause", failed.cause), ("hint", failed.hint)):
            if text:
                print(f"{name}: {_plain(text)}", file=sys.stderr)
        return failed.code
    except BrokenPipeError:
        return 128 + signal.SIGPIPE


def _plain(text: str) -> str:
    """`text` without what a terminal would act on."""
    return "".join(c if c.isprintable() else " " for c in text)


def _run(argv: list[str]) -> int:
    options, command = _options(
        argv, _RUN, valued=("role", "workspace", "cwd", "env"), flags=("bind", "detach", "tty", "no-tty", "json")
    )
    if "role" not in options:
        raise _Failed(2, "--role is missing", "remit run --role ROLE -- COMMAND")
    if not command:
        raise _Failed(2, "there is no command to run", "remit run --role ROLE -- COMMAND")
    workspace = options.get("workspace")
    if workspace is None and ("bind" in options or "cwd" in options):
        raise _Failed(2, "--bind and --cwd need a --workspace", "remit run --workspace . …")
    detach = "detach" in options
    where = {"path": os.path.abspath(workspace), "mode": "bind" if "bind" in options else "cow"} if workspace else {}  # noqa: PTH100
    request = {
        "op": "run",
        "role": options["role"],
        "workspace": where,
        "cwd": options.get("cwd", ""),
        "detach": detach,
        **_command(options, command, default_tty=not detach),
    }
    session = _Session(request)
    started = session.started()
    for name in started.get("absent", []):
        print(f"warning: this machine cannot hold the limit on {_plain(str(name))}", file=sys.stderr)
    if detach:
        print(json.dumps({"task": started["task"]}) if "json" in options else started["task"])
        return 0
    return session.carry()


def _exec(argv: list[str]) -> int:
    options, command = _options(argv, _EXEC, valued=("env",), flags=("tty", "no-tty"), positional=1)
    if not command:
        raise _Failed(2, "there is no command to run", "remit exec TASK -- COMMAND")
    request = {"op": "exec", "task": _task(options["0"]), **_command(options, command, default_tty=True)}
    session = _Session(request)
    session.started()
    return session.carry()


def _attach(argv: list[str]) -> int:
    options, command = _options(argv, _ATTACH, valued=(), flags=(), positional=1)
    if command:
        raise _Failed(2, "attach takes no command", "remit exec TASK -- COMMAND")
    session = _Session({"op": "attach", "task": _task(options["0"]), "tty": False})
    session.tty = session.started().get("terminal") is True and os.isatty(0)
    session.leaves = True
    return session.carry()


def _options(
    argv: list[str], usage: str, *, valued: tuple[str, ...], flags: tuple[str, ...], positional: int = 0
) -> tuple[dict[str, Any], list[str]]:
    """(options by name, the command after `--`). `env` is a list; positional arguments have their number as name."""
    found: dict[str, Any] = {}
    rest = list(argv)
    while rest:
        item = rest.pop(0)
        if item == "--":
            break
        if item in ("--help", "-h"):
            print(usage, end="")
            raise SystemExit(0)
        if not item.startswith("-"):
            count = sum(1 for name in found if name.isdigit())
            if count >= positional:
                # Like env(1) and sudo(8): the first word that is no option begins the command.
                rest.insert(0, item)
                break
            found[str(count)] = item
            continue
        name, equals, value = item.removeprefix("--").partition("=")
        if not item.startswith("--") or name not in valued + flags:
            raise _Failed(
                2, f"there is no option {item.partition('=')[0]}", usage.splitlines()[0].removeprefix("usage: ")
            )
        if name in flags:
            found[name] = True
            continue
        if not equals:
            if not rest:
                raise _Failed(2, f"--{name} needs a value", usage.splitlines()[0].removeprefix("usage: "))
            value = rest.pop(0)
        if name == "env":
            found.setdefault("env", []).append(value)
        else:
            found[name] = value
    if sum(1 for name in found if name.isdigit()) < positional:
        raise _Failed(2, "the task is missing", usage.splitlines()[0].removeprefix("usage: "))
    return found, rest


def _command(options: dict[str, Any], command: list[str], *, default_tty: bool) -> dict[str, Any]:
    environment: dict[str, str] = {}
    inherited = _environment()
    for item in options.get("env", []):
        name, equals, value = item.partition("=")
        if not equals and name not in inherited:
            raise _Failed(2, f"--env {name}: this environment has no such variable", f"--env {name}=VALUE")
        environment[name] = value if equals else inherited[name]
    tty = default_tty and os.isatty(0) and os.isatty(1)
    tty = "tty" in options or (tty and "no-tty" not in options)
    rows, columns = _window()
    return {
        "argv": command,
        "env": environment,
        "tty": tty,
        "rows": rows,
        "cols": columns,
        "term": inherited.get("TERM", ""),
        "path": inherited.get("PATH", ""),
    }


def _environment() -> dict[str, str]:
    # settings.environment() is the door to it; importing settings costs as much as this whole module.
    return dict(os.environ)  # noqa: TID251


def _task(prefix: str) -> str:
    """The whole id that `prefix` stands for, among the running tasks."""
    if len(prefix) == 12:
        return prefix
    session = _Session({"op": "list"})
    found = [str(cell["task"]) for cell in session.event().get("cells", []) if str(cell["task"]).startswith(prefix)]
    if len(found) != 1:
        problem = f"no running task begins with {prefix}" if not found else f"{len(found)} tasks begin with {prefix}"
        raise _Failed(4 if not found else 5, problem, "remit ps")
    return found[0]


def _socket_path() -> str:
    """`settings.cells_socket`, without the price of `settings` where nothing but the defaults applies."""
    environment = _environment()
    special = any(name in environment for name in ("REMIT_CONFIG", "REMIT_RUN_DIR"))
    if not special and os.geteuid() == 0 and not os.path.exists("/etc/remit/config.toml"):  # noqa: PTH110
        return "/run/remit/cells.sock"
    from remit import settings

    return str(settings.load().cells_socket)


def _window() -> tuple[int, int]:
    for number in (1, 0, 2):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(number)
            return size.lines or 24, size.columns or 80
    return 24, 80


class _Session:
    """One connection to `cells`."""

    def __init__(self, request: dict[str, Any]) -> None:
        path = _socket_path()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffer = bytearray()
        self._waiting = 0
        self.tty = bool(request.get("tty"))
        self.leaves = False
        try:
            self._socket.connect(path)
        except OSError as error:
            raise _Failed(6, "the node does not answer", "remit up --detach", f"{path}: {error.strerror}") from error
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
            raise _Failed(6, "cells sent a frame that is too large", "remit doctor")
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
            raise _Failed(6, "the node ended this task: cells is gone", "remit status")
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
            raise _Failed(code, str(message.get("detail")), str(message.get("hint") or ""))
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
        self._send(b"J", json.dumps({"resize": list(_window())}).encode())

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
            print(f"remit: {_plain(str(message['detail']))}", file=sys.stderr)
        return int(message["code"])


def _write(number: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(number, view) :]
        except BlockingIOError:
            # Somebody made our terminal non-blocking; wait for it.
            select.select([], [number], [])


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


def _program() -> NoReturn:
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    _program()
