"""Unmodified clients in a real cell, through the real boundary, to real upstreams."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from governed import PLACEHOLDER, SECRET, injected
from instance import Instance
from upstreams import Upstreams

pytestmark = pytest.mark.xdist_group("instance")

CLIENTS = {
    "urllib": "import urllib.request as r; print(r.urlopen('{url}', timeout=20).read().decode())",
    "requests": "import requests; print(requests.get('{url}', timeout=20).text)",
    "httpx": "import httpx; print(httpx.get('{url}', timeout=20).text)",
    "aiohttp": (
        "import aiohttp, asyncio\n"
        "async def main():\n"
        "    async with aiohttp.ClientSession(trust_env=True) as s, s.get('{url}') as a: print(await a.text())\n"
        "asyncio.run(main())"
    ),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_python_clients_reach_what_they_may(remit: Instance, upstreams: Upstreams, api: str, name: str) -> None:
    done = remit.python("agent", CLIENTS[name].format(url=f"{api}/v1/{name}"))
    assert done.returncode == 0, done.stderr
    injected(upstreams, f"/v1/{name}", done.stdout)


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_reaches_what_it_may_over_both_versions(remit: Instance, api: str, version: str) -> None:
    done = remit.run("agent", "curl", "-sS", "-m", "20", version, f"{api}/v1/curl")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == "/v1/curl"


@pytest.mark.skipif(not shutil.which("node"), reason="no node on this machine")
def test_node_fetch_reaches_what_it_may(remit: Instance, api: str) -> None:
    source = (
        f"fetch('{api}/v1/node').then(a => a.text()).then(console.log, e => {{ console.error(e); process.exit(1) }})"
    )
    done = remit.run("agent", "node", "-e", source)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == "/v1/node"


JAVA = """
import java.net.URI;
import java.net.http.*;
public class Ask {
  public static void main(String[] a) throws Exception {
    var request = HttpRequest.newBuilder(URI.create(a[0])).build();
    System.out.println(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
  }
}
"""


@pytest.mark.skipif(not shutil.which("javac"), reason="no JDK on this machine")
def test_java_reaches_what_it_may(remit: Instance, upstreams: Upstreams, api: str) -> None:
    """The JDK's own client, which trusts nothing but its trust store (JAVA_TOOL_OPTIONS names ours)."""
    script = f"cd && cat > Ask.java <<'END'\n{JAVA}\nEND\njava Ask.java {api}/v1/java"
    done = remit.run("agent", "sh", "-c", script, timeout=120)
    assert done.returncode == 0, done.stderr
    injected(upstreams, "/v1/java", done.stdout)


def test_a_go_program_reaches_what_it_may_and_trusts_nothing_else(remit: Instance, api: str) -> None:
    """OpenBao's command line is a Go binary that asks over HTTPS; crypto/x509 reads SSL_CERT_FILE."""
    script = "bao status -format=json -address=%s; echo code $?"
    done = remit.run("agent", "sh", "-c", script % api)
    assert "x509" not in done.stderr, done.stderr
    assert "code 0" in done.stdout or "code 2" in done.stdout, done.stdout + done.stderr
    seen = [one for one in remit.audit(task=_task_of(remit)) if one["path"] == "/v1/sys/seal-status"]
    assert [one["decision"] for one in seen] == ["permit"]
    without = remit.run("agent", "sh", "-c", "SSL_CERT_FILE=/dev/null SSL_CERT_DIR=/nowhere " + script % api)
    assert "x509" in without.stderr, "it really looked at the certificate"


def _task_of(remit: Instance) -> str:
    return str(max(remit.tasks("--all"), key=lambda task: task["created"])["id"])


def test_git_clones_and_pushes(remit: Instance, upstreams: Upstreams) -> None:
    url = f"https://git.up.example:{upstreams.https_port}/tool.git"
    script = (
        f"set -e; git clone -q {url} /tmp/tool; cd /tmp/tool; cat README; git checkout -qb topic; echo more >> README; "
        "git -c user.name=a -c user.email=a@a.example commit -qam more; git push -q origin topic; git ls-remote origin topic"
    )
    done = remit.run("agent", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tool\n")
    assert "refs/heads/topic" in done.stdout


def test_grpc_calls_streams_and_trailers_pass(remit: Instance, upstreams: Upstreams) -> None:
    source = f"""
import grpc, os
roots = open(os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"], "rb").read()
channel = grpc.secure_channel("grpc.up.example:{upstreams.grpc_port}", grpc.ssl_channel_credentials(roots))
call = channel.unary_unary("/test.Echo/Unary")
answer, done = call.with_call(b"hello", timeout=20)
print(answer.decode(), dict(done.trailing_metadata())["x-trailer"])
print(len(list(channel.unary_stream("/test.Echo/Stream")(b"x", timeout=20))))
try:
    channel.unary_unary("/other.Service/Call")(b"x", timeout=20)
except grpc.RpcError as error:
    print(error.code().name, error.details())
"""
    done = remit.python("agent", source)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["hello there", "3"]
    assert lines[2].startswith("PERMISSION_DENIED")


def test_websockets_pass_where_a_capability_says_so(remit: Instance, upstreams: Upstreams) -> None:
    source = f"""
import ssl, websockets.sync.client as ws
with ws.connect("wss://ws.up.example:{upstreams.ws_port}/chat", open_timeout=20) as c:
    c.send("ping"); print(c.recv(timeout=20))
try:
    ws.connect("wss://api.up.example:{upstreams.https_port}/v1/chat", open_timeout=20)
except Exception as error:
    print(error.response.status_code)
"""
    done = remit.python("agent", source)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ping", "403"]


def test_server_sent_events_arrive_as_they_are_sent(remit: Instance, api: str) -> None:
    source = f"""
import urllib.request
with urllib.request.urlopen("{api}/stream", timeout=20) as answer:
    print([answer.readline() for _ in range(3)][0].decode())
"""
    done = remit.python("agent", source)
    assert done.stdout.strip() == "data: 1", done.stderr


@pytest.mark.skipif(not shutil.which("psql"), reason="set-up installs psql where it can")
def test_psql_is_refused_and_prints_why(remit: Instance) -> None:
    done = remit.run(
        "agent", "psql", "-w", "postgresql://u@api.up.example:5432/db?connect_timeout=10", "-c", "select 1"
    )
    assert done.returncode != 0
    assert "No capability of this role covers the request" in done.stderr
    assert any(
        (record["reason"], record["scheme"]) == ("no_capability", "tcp") for record in remit.audit(decision="deny")
    )


def test_the_agent_sees_the_placeholder_and_the_upstream_the_secret(
    remit: Instance, upstreams: Upstreams, api: str
) -> None:
    source = f"""
import os, urllib.request
print(os.environ["API_KEY"])
request = urllib.request.Request("{api}/v1/placeholder", headers={{"Authorization": "Bearer " + os.environ["API_KEY"]}})
urllib.request.urlopen(request, timeout=20).read()
"""
    done = remit.python("agent", source)
    assert done.stdout.strip() == PLACEHOLDER, done.stderr
    (seen,) = upstreams.reached("/v1/placeholder")
    assert seen["headers"]["authorization"] == f"Bearer {SECRET}"


def test_basic_and_query_credentials_are_presented(remit: Instance, upstreams: Upstreams, api: str) -> None:
    remit.run("agent", "curl", "-sS", "-m", "20", f"{api}/basic/x", f"{api}/query/x?a=1&key=mine&b=2", check=True)
    (basic,), (query,) = upstreams.reached("/basic/x"), upstreams.reached("/query/x")
    assert basic["headers"]["authorization"].startswith("Basic ")
    assert query["path"] == f"/query/x?a=1&b=2&key={SECRET}"
    assert SECRET not in json.dumps(remit.audit())


def test_plain_http_is_governed_alike(remit: Instance, upstreams: Upstreams) -> None:
    url = f"http://api.up.example:{upstreams.http_port}"
    done = remit.run("agent", "curl", "-sS", "-m", "20", f"{url}/v1/plain", f"{url}/other")
    assert '"/v1/plain"' in done.stdout
    assert "no_capability" in done.stdout
    assert not upstreams.reached("/other")


def test_a_machine_as_agents_expect_it(remit: Instance, workspace: Path) -> None:
    (workspace / "input.txt").write_text("given\n")
    script = (
        "set -e; whoami; echo ~ | grep -q . && touch ~/file /tmp/file; cat input.txt; echo made > output.txt; "
        f"{sys.executable} -c 'import ssl, threading, multiprocessing, sqlite3; print(1)'; getent hosts api.up.example"
    )
    done = remit.run("agent", "bash", "-c", script, options=["--workspace", str(workspace)])
    assert done.returncode == 0, done.stderr
    assert "given" in done.stdout
    assert not (workspace / "output.txt").exists()
