"""One real Remit of its own, one upstream, and a switch between what stands where the boundary stands.

The forwarder connects to a path. Putting another listener behind that path compares like with like: the same cell, the
same interception and the same forwarder, with the boundary, the same Envoy without the check, or mitmproxy behind it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from bench import certificates, configurations
from remit.app.programs import ENVOY_THREADS
from remit.boundary import envoy
from remit.settings import Settings

REMIT = Path(sys.executable).parent / "remit"
SECRET = "bench-secret-4711"
COLD_NAMES = 400
COMMAND_TIMEOUT_S = 60.0
START_TIMEOUT_S = 20.0
MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: bench}}
spec: {{capabilities: [api]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: api}}
spec:
  hosts: ["*.bench.example"]
  ports: [{port}, {streams}]
  methods: [GET]
  paths: [/**]
  credential: key
  addresses: [127.0.0.0/8]
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: key}}
spec:
  hosts: ["*.bench.example"]
  inject: {{header: {{name: Authorization, format: "Bearer {{secret}}"}}}}
  scrub: false
"""
"""Answers are not searched, as mitmproxy's are not: `bench.scrub` measures that."""


class Rig:
    """Everything runs in `directory`, which is removed on `close`. `streams`: port of the bench's own upstream.
    `bodies`: what the other one answers, by path, besides a small body."""

    def __init__(self, *, streams: int, bodies: Mapping[str, Path] | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rmtb-"))
        self.directory.chmod(0o755)
        self.port, self.streams, self.bodies = free_port(), streams, bodies or {}
        self.certificates = certificates.make(self.directory, "*.bench.example", "127.0.0.1")
        self.settings = Settings(state_dir=self.directory / "state", run_dir=self.directory / "run")
        names = ["api", "stream", *(f"c{number}" for number in range(COLD_NAMES))]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("REMIT_")},
            "PATH": f"{REMIT.parent}:{os.environ['PATH']}",
            "REMIT_STATE_DIR": str(self.settings.state_dir),
            "REMIT_RUN_DIR": str(self.settings.run_dir),
            "REMIT_STATIC_HOSTS": ",".join(f"{name}.bench.example=127.0.0.1" for name in names),
            "REMIT_UPSTREAM_CA_FILES": str(self.certificates.ca),
        }
        transport = httpx.HTTPTransport(uds=str(self.settings.control_socket))
        self._api = httpx.Client(transport=transport, base_url="http://remit", timeout=30)
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """The upstream, Remit, and the Envoys that it is compared with."""
        self._envoy("upstream", configurations.upstream(self.port, self.certificates, self.bodies), threads=1)
        wait_until(lambda: connects(("127.0.0.1", self.port)), "the upstream")
        self.remit("up", "--detach")
        self.remit("apply", "-f", "-", given=MANIFESTS.format(port=self.port, streams=self.streams))
        self.remit("secret", "put", "key", given=SECRET)
        self.path("governed").unlink(missing_ok=True)
        self.settings.proxy_socket.rename(self.path("governed"))
        self.switch("governed")
        governed = json.loads(self.settings.envoy_bootstrap.read_text())
        bare = configurations.ungoverned(
            governed, self.path("ungoverned"), self.directory / "ungoverned.log", self.port
        )
        self._envoy("ungoverned", bare, threads=ENVOY_THREADS)
        answers = self.directory / "answers.sock"
        self._envoy("answers", configurations.answers(answers, self.port), threads=1)
        same = configurations.fixed(governed, self.path("fixed"), self.directory / "fixed.log", answers)
        self._envoy("fixed", same, threads=ENVOY_THREADS)
        for variant in ("ungoverned", "fixed"):
            wait_until(partial(connects, str(self.path(variant))), f"the Envoy of variant {variant}")

    def path(self, variant: str) -> Path:
        return self.settings.proxy_socket.with_name(f"{variant}.sock")

    def switch(self, variant: str) -> None:
        """New connections of cells go to `variant` from now on."""
        link = self.settings.proxy_socket.with_name("next")
        link.unlink(missing_ok=True)
        link.symlink_to(self.path(variant).name)
        link.replace(self.settings.proxy_socket)

    def remit(self, *arguments: str, given: str | None = None) -> str:
        """Standard output of a `remit` command. `RuntimeError` where it fails."""
        done = subprocess.run(
            [str(REMIT), *arguments], input=given, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S,
            env=self.environment, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"remit {' '.join(arguments[:4])}: {done.stdout[-500:]}{done.stderr[-2000:]}")
        return done.stdout

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What the API answers. Raises `httpx.HTTPStatusError` where it refuses."""
        answer = self._api.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    def in_cell(self, *argv: str) -> str:
        return self.remit("run", "--role", "bench", "--no-tty", "--", *argv, given="")

    @contextlib.contextmanager
    def running(self, *argv: str) -> Iterator[subprocess.Popen[str]]:
        """A command in a cell of its own; ended on leaving."""
        process = subprocess.Popen(
            [str(REMIT), "run", "--role", "bench", "--no-tty", "--", *argv], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def pids(self) -> dict[str, int]:
        """Of the parts of Remit (and of what the bench started), by name."""
        state = json.loads(self.settings.supervisor_file.read_text())
        parts = {name: int(part["pid"]) for name, part in state["processes"].items() if part.get("pid")}
        return {**parts, **{name: child.pid for name, child in self.children.items()}}

    def supervisor(self) -> int:
        return int(json.loads(self.settings.supervisor_file.read_text())["pid"])

    def spawn(self, name: str, argv: list[str], **options: Any) -> None:
        log = (self.directory / f"{name}.log").open("wb")
        self.children[name] = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options)
        log.close()

    def close(self) -> None:
        self._api.close()
        with contextlib.suppress(Exception):
            self.remit("down")
        for child in self.children.values():
            child.send_signal(signal.SIGTERM)
        for child in self.children.values():
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _envoy(self, name: str, bootstrap: dict[str, Any], *, threads: int) -> None:
        file = self.directory / f"{name}.json"
        file.write_text(json.dumps(bootstrap))
        self.spawn(name, list(envoy.argv(file, concurrency=threads)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connects(address: tuple[str, int] | str) -> bool:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


def wait_until(condition: Any, what: str) -> None:
    """`RuntimeError` where `condition()` does not come true in time."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not start in {START_TIMEOUT_S:g} s")
        time.sleep(0.02)
