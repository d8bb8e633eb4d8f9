"""The optional part of the demo (REMIT_DEMO_LIVE=1): unmodified pip and npm, through the boundary.

The registries are those that this machine is configured for. Where their names lead to special-use addresses (a
mirror on a private network), the capability has to name them; the manifest is made accordingly and shown.
"""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin, urlsplit

PYTHON_PACKAGE, NODE_PACKAGE = "six", "is-number"

MANIFEST = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: installer}}
spec: {{capabilities: [registries], limits: {{memory: 2Gi}}}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: registries}}
spec:
  hosts: {hosts}
  methods: [GET, HEAD]
  addresses: {addresses}
"""


def install(score: Any, remit: Callable[..., str], environment: dict[str, str]) -> None:
    """Install one small package with each, in a cell, and check that the audit log knows every request."""
    index = _said("pip", "config", "get", "global.index-url") or "https://pypi.org/simple"
    page = f"{index.rstrip('/')}/{PYTHON_PACKAGE}/"
    hosts = {urlsplit(page).hostname, *_hosts_in(page)}
    npm = shutil.which("npm") is not None
    if npm:
        registry = _said("npm", "config", "get", "registry") or "https://registry.npmjs.org/"
        described = json.loads(_fetch(f"{registry.rstrip('/')}/{NODE_PACKAGE}"))
        newest = described["versions"][described["dist-tags"]["latest"]]
        hosts |= {urlsplit(registry).hostname, urlsplit(newest["dist"]["tarball"]).hostname}
    names = sorted(host for host in hosts if host)
    addresses = sorted({special for host in names for special in _special(host)})
    manifest = MANIFEST.format(hosts=json.dumps(names), addresses=json.dumps(addresses))
    remit("apply", "-f", "-", given=manifest)
    script = f"python3 -m venv /tmp/v && /tmp/v/bin/pip install -q --no-cache-dir --index-url {index} {PYTHON_PACKAGE}"
    script += f" && /tmp/v/bin/python -c 'import {PYTHON_PACKAGE}; print({PYTHON_PACKAGE}.__version__)'"
    _run(score, remit, "pip", script)
    if npm:
        script = f"cd ~ && npm install --silent --no-audit --no-fund --registry {registry} {NODE_PACKAGE} && "
        script += f"node -e 'console.log(require(\"{NODE_PACKAGE}\")(5))'"
        _run(score, remit, "npm", script)
    records = [json.loads(line) for line in remit("audit", "list", "--json", "--role", "installer").splitlines()]
    permitted = [one for one in records if one["decision"] == "permit"]
    score.check(f"{len(permitted)} requests to the registries, each with its record", len(permitted) >= 2)


def _run(score: Any, remit: Callable[..., str], name: str, script: str) -> None:
    output = remit("run", "--role", "installer", "--no-tty", "--", "sh", "-c", script, given="", check=False).strip()
    score.check(
        f"[cyan]{name}[/] installs and the package works", bool(output), output.splitlines()[-1] if output else ""
    )


def _said(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() != "undefined" else ""


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def _hosts_in(page: str) -> set[str | None]:
    """The hosts that the files of an index page are on."""
    links = re.findall(r'href="([^"#]+)', _fetch(page).decode())
    return {urlsplit(urljoin(page, link)).hostname for link in links}


def _special(host: str) -> set[str]:
    """The special-use addresses of a host, as ranges of one address."""
    found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)}
    return {str(ipaddress.ip_network(one)) for one in found if not ipaddress.ip_address(one).is_global}
