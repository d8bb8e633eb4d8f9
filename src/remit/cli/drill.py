"""`secret drill`: a leak drill with a secret of its own, through everything that a real one goes through.

A canary is stored, injected for a task into requests to an upstream that says it again in every way it can, sent to the
API in ways that fail, and then looked for wherever it must not be: in the cell, in logs, in the audit log, in what the
API answers (which is all that a console could show), in errors, in what a crash leaves, in memory. Its manifests, its
secret and its upstream are gone when it ends.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import httpx
import typer

from remit import settings
from remit.cli import client, drill_upstream, options, output
from remit.cli.drill_upstream import ERRORS
from remit.cli.sinks import Search, Sink, descendants, everybody, roots
from remit.core.drill import ADDRESS, HOST
from remit.core.errors import RemitError, Unavailable
from remit.settings import Settings

PLACEHOLDER = "drill-placeholder-000000000000000000000000"
START_S = 60.0
SHOWN = 5
SCRIPT = f"""
curl -sS -i -H "Authorization: Bearer $DRILL_KEY" "$1/echo" | tee /tmp/answer; echo
env | tee /tmp/environment; tr '\\0' '\\n' </proc/self/environ
sh -c 'kill -SEGV $$'
echo drill-errors
curl -sS -i -X DELETE "$1/echo"; echo
for path in {" ".join(ERRORS)}; do curl -sS -i "$1$path"; echo; done
echo drill-ready; read end
"""
ANSWERS: Mapping[str, Mapping[str, object]] = {
    "/v1/status": {},
    "/v1/secrets": {},
    "/v1/tasks": {"all": "true"},
    "/v1/audit": {"limit": 1000},
    "/v1/credentials": {},
    "/v1/capabilities": {},
    "/v1/roles": {},
    "/v1/approvals": {},
    "/v1/budgets": {},
}
ADMIN = ("/config_dump?include_eds", "/stats", "/clusters", "/listeners", "/certs", "/server_info")
HOLDERS = {
    "decide": "opens it for a permit",
    "envoy": "sends it to the upstream",
    "control": "seals what it is given",
    "openbao": "keeps it",
}
"""Parts whose memory is not searched, and why: to find it there would say nothing."""


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
    with (
        client.connected() as api,
        drill_upstream.serving(config) as upstream,
        _planted(api, name, canary, upstream.port),
    ):
        with _task(name, upstream.port, canary if prove else "") as said:
            answers, _, errors = said.partition("drill-errors\n")
            search.data("task output", "what the task was told and wrote", answers.encode())
            search.data("errors", "what the task was told", errors.encode())
            missed = [path for path in ("/echo", *ERRORS) if canary not in upstream.seen.get(path, "")]
            if missed:
                raise Unavailable(
                    f"the drill's request to {missed[0]} did not carry its secret: {output.safe(said[-300:])}",
                    hint="remit audit list",
                )
            _mistaken(search, api, name, canary)
            _running(search, config)
        _kept(search, config, api, began)
    _report(search, as_json=as_json)
    found, said = verdict(search.sinks, proving=prove)
    output.say(said)
    if found:
        raise typer.Exit(1)


def _mistaken(search: Search, api: client.Client, name: str, canary: str) -> None:
    """What an operator is told who gives the canary in a way that is refused."""
    path = f"/v1/secrets/{name}"
    for body in ({"value_base64": canary}, {"value": canary}, {"value_base64": canary, canary: ""}):
        try:
            api.put(path, body)
        except RemitError as error:
            search.data("errors", f"PUT {path}", f"{error.detail} {error.hint}".encode())
        else:
            raise Unavailable("the API took what is no secret", hint="remit doctor")
    command = [sys.executable, "-m", "remit.cli.main", "secret", "put", "No Name"]
    done = subprocess.run(command, input=canary, capture_output=True, text=True, timeout=START_S, check=False)
    search.data("errors", "remit secret put", (done.stdout + done.stderr).encode())


def _running(search: Search, config: Settings) -> None:
    try:
        state = json.loads(config.supervisor_file.read_bytes())
        pids = {part: int(said["pid"]) for part, said in state["processes"].items() if said["pid"]}
    except (OSError, ValueError, KeyError) as error:
        raise Unavailable(
            "the processes of the node are not known", hint="run the drill where `remit up` ran"
        ) from error
    for pid in everybody():
        search.process(pid)
    cell = descendants(pids["cells"])
    for pid in cell:
        search.memory("memory of the cell", pid, "process")
    for root in roots(cell):
        search.tree("files of the cell", root)
    for part, why in HOLDERS.items():
        if part in pids:
            search.sink(f"memory of {part}").by_design = why
    others = {"supervisor": int(state["pid"]), **{part: pid for part, pid in pids.items() if part not in HOLDERS}}
    others |= {f"child {pid} of decide": pid for pid in descendants(pids["decide"])}  # evaluates policies
    others |= {f"client {pid}": pid for pid in descendants(os.getpid())}
    for shown, pid in others.items():
        search.memory("memory of other parts", pid, shown)
    below = {f"process {pid} of {part}": pid for part in pids for pid in descendants(pids[part])}
    search.cores({**pids, **below})


def _kept(search: Search, config: Settings, api: client.Client, began: float) -> None:
    trees = {
        "audit log": (config.audit_dir,),
        "control database": (config.control_dir,),
        "logs of the parts": (config.log_dir,),
        "cells: output, workspaces": (config.cells_dir,),
        "snapshot, leases, spool": (config.decide_dir, config.spool.parent),
        "other state": (config.boundary_dir, config.run_dir, config.ca_bundle.parent),
    }
    for sink, below in trees.items():
        for root in below:
            search.tree(sink, root)
    search.tree("temporary files", Path(tempfile.gettempdir()), since=began)
    search.core_files(began)
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
            (
                name,
                sink.looked,
                _outcome(sink),
                ", ".join([*sorted(set(sink.found)), *sink.unread][:SHOWN]) or sink.by_design,
            )
            for name, sink in found
        ],
    )


def verdict(sinks: Mapping[str, Sink], *, proving: bool) -> tuple[bool, str]:
    """(whether the canary was found, that in words)"""
    found = sorted(name for name, sink in sinks.items() if sink.found)
    looked = output.counted(sum(sink.looked for sink in sinks.values()), "place")
    if found:
        meant = ", as it must where it is leaked on purpose (--prove)" if proving else ""
        return True, f"the drill failed{meant}: the canary was found in {', '.join(found)}"
    if proving:
        return False, "the drill is worth nothing here: it did not find a canary that was leaked on purpose"
    unread = sum(len(sink.unread) for sink in sinks.values())
    but = f"; {output.counted(unread, 'place')} could not be searched" if unread else ""
    return False, f"the drill passed: the canary was nowhere in {looked} searched{but}"


def _outcome(sink: Sink) -> str:
    if sink.by_design:
        return "by design"
    return "failed" if sink.found else "ok" if sink.looked else "not searched"


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
    command += ["--", "sh", "-c", SCRIPT, "drill", f"https://{HOST}:{port}"]
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
