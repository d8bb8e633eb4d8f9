"""`secret drill`: a leak drill with a secret of its own, through everything that a real one goes through.

A canary is stored sealed, injected for a task into a request to an upstream that says it again in every way it can,
and then looked for wherever it must not be. Its manifests, its secret and its upstream are gone when it ends.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import secrets
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import httpx
import typer

from remit import settings
from remit.cli import client, options, output
from remit.cli.sinks import Search, Sink, descendants, everybody
from remit.core.errors import RemitError, Unavailable
from remit.settings import Settings

HOST, ADDRESS, LEAF = "drill.remit.internal", "127.0.0.1", "drill.pem"
"""As `boundary.drill_ca` has them."""
PLACEHOLDER = "drill-placeholder-000000000000000000000000"
START_S = 60.0
SHOWN = 5
SCRIPT = """
curl -sS -i -H "Authorization: Bearer $DRILL_KEY" "$1"; echo
curl -sS -i -X DELETE "$1"; echo
env; tr '\\0' '\\n' </proc/self/environ
sh -c 'kill -SEGV $$'
echo drill-ready; read end
"""
ANSWERS: Mapping[str, Mapping[str, object]] = {
    "/v1/status": {},
    "/v1/secrets": {},
    "/v1/tasks": {"all": "true"},
    "/v1/audit": {"limit": 1000},
    "/v1/credentials": {},
    "/v1/capabilities": {},
}
ADMIN = ("/config_dump?include_eds", "/stats", "/clusters", "/listeners", "/certs", "/server_info")
BY_DESIGN = "not searched: the memory of decide and envoy, which use it, of control, which seals it, and of openbao"


def drill(
    prove: Annotated[
        bool, typer.Option("--prove", help="Leak the canary into the cell on purpose: the drill must find it.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Let a task use a canary, then look for it everywhere. Exit code 1 where it was found."""
    config = settings.load()
    name = f"drill-{secrets.token_hex(4)}"
    canary = f"{secrets.token_urlsafe(24)}+/&<~{secrets.token_hex(4)}"
    search = Search(canary.encode())
    began = time.time() - 1
    with client.connected() as api, _upstream(config) as upstream, _planted(api, name, canary, upstream.port):
        with _task(name, upstream.port, canary if prove else "") as said:
            search.data("task output", "what the task was told and wrote", said.encode())
            if canary not in upstream.seen:
                raise Unavailable(
                    f"the drill's request did not carry its secret: {output.safe(said[-300:])}", hint="remit audit list"
                )
            _running(search, config)
        _kept(search, config, api, began)
    _report(search, as_json=as_json)
    if any(sink.found for sink in search.sinks.values()):
        raise typer.Exit(1)


def _running(search: Search, config: Settings) -> None:
    try:
        parts = json.loads(config.supervisor_file.read_bytes())["processes"]
    except (OSError, ValueError, KeyError) as error:
        raise Unavailable(
            "the processes of the node are not known", hint="run the drill where `remit up` ran"
        ) from error
    pids = {part: int(state["pid"]) for part, state in parts.items() if state["pid"]}
    for pid in everybody():
        search.process(pid)
    for pid in descendants(pids["cells"]):
        search.memory("memory of the cell", pid, "process")
        search.tree("files of the cell", Path(f"/proc/{pid}/root/tmp"))
    for part in ("cells", "forward"):
        search.memory("memory of other parts", pids[part], part)
    search.cores({**pids, **{f"process {pid} of the cell": pid for pid in descendants(pids["cells"])}})


def _kept(search: Search, config: Settings, api: client.Client, began: float) -> None:
    trees = {
        "audit log": (config.audit_dir,),
        "control database": (config.control_dir,),
        "logs of the parts": (config.log_dir,),
        "cells: output, workspaces": (config.cells_dir,),
        "snapshot, leases, spool": (config.decide_dir, config.spool.parent),
        "other state": (config.boundary_dir, config.run_dir, config.ca_bundle.parent),
    }
    for sink, roots in trees.items():
        for root in roots:
            search.tree(sink, root)
    search.tree("temporary files", Path(tempfile.gettempdir()), since=began)
    for path, query in ANSWERS.items():
        search.data("API answers", path, json.dumps(api.get(path, **query)).encode())
    transport = httpx.HTTPTransport(uds=str(config.envoy_admin))
    with httpx.Client(transport=transport, base_url="http://envoy", timeout=20) as admin:
        for path in ADMIN:
            try:
                search.data("Envoy's admin", path, admin.get(path).content)
            except httpx.HTTPError as error:
                search.sink("Envoy's admin").unread.append(f"{path}: {type(error).__name__}")


def _report(search: Search, *, as_json: bool) -> None:
    found = sorted(search.sinks.items())
    if as_json:
        for name, sink in found:
            output.line({"sink": name, **asdict(sink), "outcome": _outcome(sink)})
        return
    output.table(
        ("sink", "looked", "outcome", "where"),
        [
            (name, sink.looked, _outcome(sink), ", ".join([*sorted(set(sink.found)), *sink.unread][:SHOWN]))
            for name, sink in found
        ],
    )
    output.say(BY_DESIGN)


def _outcome(sink: Sink) -> str:
    return "failed" if sink.found else "ok" if sink.looked else "not searched"


class _Echo(http.server.BaseHTTPRequestHandler):
    """Says what it was sent again: in a header, a cookie, and the body as it is, in base64, hex, percent and JSON."""

    server: _Server

    def do_GET(self) -> None:
        value = self.headers.get("authorization", "")
        self.server.seen += value
        raw = value.removeprefix("Bearer ").encode()
        forms = (value, base64.b64encode(raw).decode(), raw.hex(), quote(raw, safe=""), json.dumps({"key": value}))
        body = "\n".join(forms).encode()
        self.send_response(200)
        self.send_header("x-echo", value)
        self.send_header("set-cookie", f"key={value.removeprefix('Bearer ')}")
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is written."""


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    seen = ""

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@contextlib.contextmanager
def _upstream(config: Settings) -> Iterator[_Server]:
    leaf = config.root_ca_dir / LEAF
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(leaf)
    except OSError as error:
        raise Unavailable(
            f"the drill's certificate {leaf} cannot be used: {error.strerror}",
            hint="run it as whoever ran remit up",
        ) from error
    server = _Server((ADDRESS, 0), _Echo)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def _planted(api: client.Client, name: str, canary: str, port: int) -> Iterator[None]:
    head = {"apiVersion": "remit.dev/v1alpha1", "metadata": {"name": name}}
    inject = {"header": {"name": "Authorization", "format": "Bearer {secret}"}}
    shown = {"env": "DRILL_KEY", "value": PLACEHOLDER}
    reach = {"hosts": [HOST], "ports": [port], "methods": ["GET"], "addresses": [f"{ADDRESS}/32"], "credential": name}
    documents = [
        {**head, "kind": "Credential", "spec": {"hosts": [HOST], "inject": inject, "placeholder": shown}},
        {**head, "kind": "Capability", "spec": reach},
        {**head, "kind": "Role", "spec": {"capabilities": [name]}},
    ]
    try:
        api.put(f"/v1/secrets/{name}", {"value_base64": base64.b64encode(canary.encode()).decode()})
        api.post("/v1/apply", {"documents": documents})
        yield
    finally:
        for path in (f"roles/{name}", f"capabilities/{name}", f"credentials/{name}", f"secrets/{name}"):
            with contextlib.suppress(RemitError):
                api.delete(f"/v1/{path}")


@contextlib.contextmanager
def _task(role: str, port: int, leaked: str) -> Iterator[str]:
    """A task that has used the secret and still runs; what it wrote."""
    command = [sys.executable, "-m", "remit.cli.main", "run", "--role", role, "--no-tty"]
    command += ["--env", f"LEAKED={leaked}"] if leaked else []
    command += ["--", "sh", "-c", SCRIPT, "drill", f"https://{HOST}:{port}/echo"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        late = threading.Timer(START_S, process.kill)
        late.start()
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                if line == "drill-ready\n":
                    break
                said += line
            else:
                raise Unavailable(f"the drill's task ended early: {output.safe(said[-300:])}", hint="remit doctor")
            yield said
        finally:
            late.cancel()
            process.kill()
