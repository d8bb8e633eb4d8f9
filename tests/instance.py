"""A whole Remit of its own for tests: real processes, real cells, upstreams on loopback behind names of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

REMIT = Path(sys.executable).parent / "remit"
COMMAND_TIMEOUT_S = 120


class Instance:
    """`directory` holds everything; `hosts` maps names to addresses; `ca` is the CA of the upstreams. `around`: a command
    that starts the node, with the words of `remit up` behind its own."""

    def __init__(self, *, hosts: dict[str, str], ca: Path | None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rmt-"))
        self.directory.chmod(0o755)
        self.around: tuple[str, ...] = ()
        self.state, self.run_dir = self.directory / "state", self.directory / "run"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("REMIT_")},
            "PATH": f"{REMIT.parent}:{os.environ['PATH']}",
            "REMIT_STATE_DIR": str(self.state),
            "REMIT_RUN_DIR": str(self.run_dir),
            "REMIT_POLICY_TIMEOUT_S": "0.75",  # a busy machine is none of what is tested; below what Envoy waits for a check
            "REMIT_STATIC_HOSTS": ",".join(f"{name}={address}" for name, address in hosts.items()),
            "REMIT_UPSTREAM_CA_FILES": str(ca) if ca else "",
        }

    def cli(
        self, *arguments: str, given: str | None = None, check: bool = True, timeout: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(REMIT), *arguments], input=given, capture_output=True, text=True, timeout=timeout, env=self.environment
        )
        assert not check or done.returncode == 0, f"remit {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    def up(self) -> None:
        argv = [*self.around, str(REMIT), "up", "--detach"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, env=self.environment)
        assert done.returncode == 0, done.stdout + done.stderr

    def down(self) -> None:
        self.cli("down", check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def apply(self, text: str) -> None:
        self.cli("apply", "-f", "-", given=text)

    def secret(self, name: str, value: str) -> None:
        self.cli("secret", "put", name, given=value)

    def run(
        self,
        role: str,
        *argv: str,
        options: Sequence[str] = (),
        check: bool = False,
        timeout: float = COMMAND_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        """`remit run` with pipes; standard input is empty."""
        return self.cli(
            "run", "--role", role, "--no-tty", *options, "--", *argv, given="", check=check, timeout=timeout
        )

    def python(self, role: str, source: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run Python source in a cell; what it prints comes back."""
        return self.run(role, sys.executable, "-c", source, **kwargs)

    @contextlib.contextmanager
    def running(self, role: str, *argv: str, options: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [str(REMIT), "run", "--role", role, "--no-tty", *options, "--", *argv],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def get(self, path: str, **query: str) -> Any:
        """What the API answers; `OSError` where it does not. Without a process, unlike `cli`."""
        with contextlib.closing(_Connection(self.run_dir / "control/control.sock")) as connection:
            connection.request("GET", f"{path}?{urllib.parse.urlencode(query)}")
            answer = connection.getresponse()
            body = answer.read()
        assert answer.status == 200, body
        return json.loads(body)

    def audit(self, **filters: str) -> list[dict[str, Any]]:
        """All that `remit audit list --json` gives with these filters."""
        found: list[dict[str, Any]] = []
        after: str | None = "0"
        while after is not None:
            page = self.get("/v1/audit", **filters, limit="1000", after=after)
            found += page["records"]
            after = page["next"] if len(page["records"]) == 1000 else None
        return found

    def record_of(self, body: str) -> dict[str, Any]:
        """The record that the problem in a denial's body names."""
        record = json.loads(body)["record"]
        found = [item for item in self.audit() if item["id"] == record]
        assert found, f"no record {record}"
        return found[0]

    def pids(self) -> dict[str, int]:
        state = json.loads((self.run_dir / "supervisor.json").read_text())
        return {name: part["pid"] for name, part in state["processes"].items()}

    def newest(self) -> dict[str, Any]:
        """The task that was started last, of those that run."""
        return max((task for task in self.tasks() if task["state"] == "running"), key=lambda task: task["created"])

    def tasks(self, *options: str) -> list[dict[str, Any]]:
        """All that `remit ps --json` gives; the only option is `--all`."""
        found: list[dict[str, Any]] = self.get("/v1/tasks", all="true" if "--all" in options else "false")["items"]
        return found


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=COMMAND_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def refused(instance: Instance, code: int, *said: str, command: str = "up --detach") -> None:
    """`command` fails with that exit code, one error that says all of `said`, and a hint."""
    done = instance.cli(*command.split(), check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "\nhint: " in done.stderr
    assert "Traceback" not in done.stderr
    for text in said:
        assert text in done.stderr


def wait_for(condition: Any, what: str, timeout_s: float = 120.0) -> Any:
    """The first true value of `condition()`; fails with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not in {timeout_s} s: {what}")


ASK = """
import ssl, sys, urllib.request, urllib.error
context = ssl.create_default_context()
for url in sys.stdin:
    try:
        with urllib.request.urlopen(url.strip(), timeout=20, context=context) as answer: print(answer.status, flush=True)
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode().replace("\\n", " "), flush=True)
    except OSError as error:
        print("down", error, flush=True)
"""


class Asking:
    """An agent in a cell that fetches what it is told, one URL after the other."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process, self._url = process, url

    def __call__(self) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(self._url + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@contextlib.contextmanager
def asking(instance: Instance, url: str) -> Iterator[Asking]:
    """The first answer was 200."""
    with instance.running("agent", sys.executable, "-c", ASK) as process:
        ask = Asking(process, url)
        assert ask() == "200\n"
        yield ask
