"""Clients that have a proxy wired in, in a real cell: they name the cell's own and are governed like the others."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from governed import injected
from instance import Instance
from upstreams import Upstreams

pytestmark = pytest.mark.xdist_group("instance")

PROXY = "http://proxy.remit.alt:3128"
BY_ENVIRONMENT = ("--env", f"HTTPS_PROXY={PROXY}", "--env", f"HTTP_PROXY={PROXY}", "--env", f"http_proxy={PROXY}")
NPM = Path("/usr/lib/node_modules/npm/node_modules")

PYTHON = {
    "urllib": "import urllib.request as r; print(r.urlopen('{url}', timeout=20).read().decode())",
    "requests": "import requests; print(requests.get('{url}', timeout=20).text)",
    "httpx": "import httpx; print(httpx.get('{url}', timeout=20).text)",
    "aiohttp": (
        "import aiohttp, asyncio\n"
        "async def main():\n"
        "    async with aiohttp.ClientSession(trust_env=True) as s, s.get('{url}') as a: print(await a.text())\n"
        "asyncio.run(main())"
    ),
    "requests, told": (
        "import requests; p = '{proxy}'; print(requests.get('{url}', proxies=dict(http=p, https=p), timeout=20).text)"
    ),
    "httpx, told": "import httpx; print(httpx.Client(proxy='{proxy}').get('{url}', timeout=20).text)",
}


@pytest.fixture
def plain(upstreams: Upstreams) -> str:
    return f"http://api.up.example:{upstreams.http_port}"


@pytest.mark.parametrize("name", PYTHON)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_python_clients(remit: Instance, upstreams: Upstreams, api: str, plain: str, scheme: str, name: str) -> None:
    url = f"{api if scheme == 'https' else plain}/v1/{scheme}-proxy"
    options = () if "told" in name else BY_ENVIRONMENT
    done = remit.python("agent", PYTHON[name].format(url=url, proxy=PROXY), options=options)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["path"] == f"/v1/{scheme}-proxy"
    if scheme == "https":
        injected(upstreams, "/v1/https-proxy", done.stdout)
    else:
        assert "authorization" not in seen["headers"]


def test_curl_and_a_refusal_that_it_prints(remit: Instance, api: str, plain: str) -> None:
    script = (
        f"curl -sS -m 20 -x {PROXY} {api}/v1/a; echo; curl -sS -m 20 -x {PROXY} {plain}/v1/b {plain}/v1/c; echo; "
        f"curl -sS -m 20 -p -x {PROXY} {plain}/v1/d; echo; "
        f"curl -sS -m 20 -U me:mine -x {PROXY} {api}/elsewhere; echo; curl -sS -m 20 -x {PROXY} {plain}/elsewhere"
    )
    done = remit.run("agent", "sh", "-c", script)
    found = [json.loads(text) for text in done.stdout.replace("}{", "}\n{").split("\n") if text]
    assert [one.get("path", one.get("reason")) for one in found] == [
        *("/v1/a", "/v1/b", "/v1/c", "/v1/d"),
        *("no_capability", "no_capability"),
    ], done.stderr
    assert remit.record_of(json.dumps(found[-1]))["host"] == "api.up.example"


NODE_CONNECT = """
const http = require("http"), https = require("https"), url = new URL(process.argv[1]);
const asked = http.request({host: "proxy.remit.alt", port: 3128, method: "CONNECT", path: url.host});
asked.on("connect", (answer, socket) => https.get(
  {host: url.hostname, port: url.port, path: url.pathname, socket, agent: false, servername: url.hostname},
  found => { found.setEncoding("utf8"); found.on("data", text => process.stdout.write(text)); }));
asked.end();
"""
NODE_AGENT = f"""
const {{HttpsProxyAgent}} = require("{NPM}/https-proxy-agent");
const agent = new HttpsProxyAgent("{PROXY}");
require("https").get(process.argv[1], {{agent}},
  found => {{ found.setEncoding("utf8"); found.on("data", text => process.stdout.write(text)); }});
"""


@pytest.mark.skipif(not shutil.which("node"), reason="no node on this machine")
@pytest.mark.parametrize("source", [NODE_CONNECT, NODE_AGENT], ids=["by hand", "https-proxy-agent"])
def test_node(remit: Instance, upstreams: Upstreams, api: str, source: str) -> None:
    if source == NODE_AGENT and not (NPM / "https-proxy-agent").is_dir():
        pytest.skip("npm is not where Debian puts it")
    done = remit.run("agent", "node", "-e", source, f"{api}/v1/node")
    assert done.returncode == 0, done.stderr
    injected(upstreams, "/v1/node", done.stdout)


def test_git_clones_and_pushes(remit: Instance, upstreams: Upstreams) -> None:
    url = f"https://git.up.example:{upstreams.https_port}/tool.git"
    git = f"git -c http.proxy={PROXY} -c user.name=a -c user.email=a@a.example"
    script = (
        f"set -e; {git} clone -q {url} /tmp/tool; cd /tmp/tool; {git} checkout -qb proxied; echo more >> README; "
        f"{git} commit -qam more; {git} push -q origin proxied; {git} ls-remote origin proxied"
    )
    done = remit.run("agent", "sh", "-c", script)
    assert "refs/heads/proxied" in done.stdout, done.stderr


def test_pip_asks_its_index(remit: Instance, upstreams: Upstreams, api: str) -> None:
    """The index is no index, so nothing is found there; the request arrived."""
    arguments = ("download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--retries", "0")
    remit.run("agent", sys.executable, "-m", "pip", *arguments, "--proxy", PROXY, "-i", f"{api}/v1/simple", "thing")
    assert [one["host"] for one in upstreams.reached("/v1/simple/thing/")] == [api.removeprefix("https://")]


def test_a_go_program(remit: Instance, upstreams: Upstreams, api: str) -> None:
    remit.run("agent", "bao", "status", f"-address={api}/v1/go", options=BY_ENVIRONMENT)
    assert upstreams.reached("/v1/go/v1/sys/seal-status")


def test_a_websocket(remit: Instance, upstreams: Upstreams) -> None:
    source = f"""
import websockets.sync.client as ws
with ws.connect("wss://ws.up.example:{upstreams.ws_port}/chat", open_timeout=20, proxy="{PROXY}") as c:
    c.send("ping"); print(c.recv(timeout=20))
"""
    done = remit.python("agent", source)
    assert done.stdout == "ping\n", done.stderr


def test_grpc(remit: Instance, upstreams: Upstreams) -> None:
    source = f"""
import grpc, os
roots = open(os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"], "rb").read()
channel = grpc.secure_channel("grpc.up.example:{upstreams.grpc_port}", grpc.ssl_channel_credentials(roots))
print(channel.unary_unary("/test.Echo/Unary")(b"hello", timeout=20).decode())
"""
    done = remit.python("agent", source, options=("--env", f"grpc_proxy={PROXY}"))
    assert done.stdout == "hello\n", done.stderr
