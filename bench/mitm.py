"""mitmproxy in the boundary's place: what a user would otherwise reach for. In an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from bench.rig import SECRET, Rig, connects, free_port, wait_until

VERSION = "11.0.2"
"""The last that runs on Python 3.11."""
INSTALL_TIMEOUT_S = 300.0
ADDON = f"""
from mitmproxy import http

def request(flow: http.HTTPFlow) -> None:
    if flow.request.method != "GET" or not flow.request.pretty_host.endswith(".bench.example"):
        flow.response = http.Response.make(403)
        return
    flow.request.headers["authorization"] = "Bearer {SECRET}"
"""


def installed() -> Path:
    """The `mitmdump` command, put into a cache directory on first use. `RuntimeError` where it cannot be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "remit-bench"
    home = cache / f"mitmproxy-{VERSION}-py{sys.version_info.major}.{sys.version_info.minor}"
    command = home / "bin" / "mitmdump"
    if command.exists():
        return command
    sys.stderr.write(f"bench: installing mitmproxy {VERSION} into {home}\n")
    venv.create(home, with_pip=True, clear=True)
    done = subprocess.run(
        [home / "bin" / "pip", "install", "-q", "--disable-pip-version-check", f"mitmproxy=={VERSION}"],
        capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"mitmproxy could not be installed: {done.stderr[-300:]}")
    return command


def start(rig: Rig, command: Path) -> None:
    """Variant `mitmproxy` of the rig: the adapter, and mitmdump, which intercepts, injects, and dials the upstream."""
    addon, port = rig.directory / "addon.py", free_port()
    addon.write_text(ADDON)
    options = {
        "confdir": rig.directory / "mitmproxy",
        "ssl_verify_upstream_trusted_ca": rig.certificates.ca,
        "keep_host_header": "true",
        "termlog_verbosity": "error",
        "flow_detail": "0",
    }
    settings = [part for name, value in options.items() for part in ("--set", f"{name}={value}")]
    mode = f"reverse:https://127.0.0.1:{rig.port}"
    argv = [str(command), "--mode", mode, "--listen-host", "127.0.0.1", "--listen-port", str(port)]
    rig.spawn("mitmproxy", [*argv, *settings, "--scripts", str(addon)], env={**os.environ, "LANG": "C.UTF-8"})
    wait_until(lambda: connects(("127.0.0.1", port)), "mitmproxy")
    root = Path(__file__).parents[1]
    rig.spawn("adapter", [sys.executable, "-m", "bench.adapter", str(rig.path("mitmproxy")), str(port)], cwd=root)
    wait_until(lambda: connects(str(rig.path("mitmproxy"))), "the adapter of mitmproxy")
