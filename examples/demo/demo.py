"""The demo: a whole Remit of its own, an upstream in a network namespace of its own, and an agent that tries things.

Prints what the agent tried, what was decided and why, which credential the upstream saw, a live revocation and the
verified audit chain. Every claim is checked; the last line counts them. Leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from rich.console import Console

HERE = Path(__file__).parent
REMIT = Path(sys.executable).parent / "remit"
NAMES = ("api.demo.example", "events.demo.example", "src.git.demo.example", "db.demo.example")
SECRET = "tk_live_" + os.urandom(12).hex()
HOST_SIDE, UPSTREAM_SIDE = "10.231.0.1", "10.231.0.2"

console = Console(highlight=False, width=118)


class Score:
    """Counts what held."""

    def __init__(self) -> None:
        self.held = self.tried = 0

    def check(self, what: str, ok: bool, detail: str = "") -> None:
        self.tried += 1
        self.held += ok
        mark = "[green]held[/]" if ok else "[bold red]FAILED[/]"
        console.print(f"  {mark}  {what}", soft_wrap=True)
        if detail:
            console.print(f"        [dim]{detail}[/]", soft_wrap=True, markup=True)


def main() -> int:
    begun = time.monotonic()
    score = Score()
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="remit-demo-"))
        home.chmod(0o755)
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        heading("An HTTPS service, in a network namespace of its own")
        seen = upstream(home, stack)
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("REMIT_")},
            "PATH": f"{REMIT.parent}:{os.environ['PATH']}",
            "REMIT_STATE_DIR": str(home / "state"),
            "REMIT_RUN_DIR": str(home / "run"),
            "REMIT_STATIC_HOSTS": ",".join(f"{name}={seen.address}" for name in NAMES),
            "REMIT_UPSTREAM_CA_FILES": str(home / "ca.pem"),
        }

        def remit(*arguments: str, given: str | None = None, check: bool = True) -> str:
            done = subprocess.run(
                [str(REMIT), *arguments], env=environment, input=given, text=True, capture_output=True, timeout=90
            )
            if check and done.returncode:
                raise SystemExit(f"remit {' '.join(arguments)} failed:\n{done.stderr}")
            return done.stdout

        heading("remit up")
        stack.callback(remit, "down", check=False)
        remit("up", "--detach")
        remit("apply", "-f", str(HERE / "manifests"))
        remit("secret", "put", "tickets-key", given=SECRET)
        console.print(f"  control plane, decision service and Envoy are up ({time.monotonic() - begun:.1f} s so far)")

        heading("remit run --role demo-agent -- python3 agent.py")
        output = remit(
            "run",
            "--role",
            "demo-agent",
            "--workspace",
            str(HERE / "agent"),
            "--no-tty",
            "--",
            "python3",
            "agent.py",
            given="",
        )
        tries = {one["try"]: one for one in map(json.loads, output.splitlines())}
        records = audit(remit)
        judge(score, tries, records, seen.lines())

        heading("A live revocation")
        revoke(score, environment, remit)

        heading("The audit log")
        verify(score, remit, records, home)
        if os.environ.get("REMIT_DEMO_LIVE") == "1":
            import live

            heading("pip and npm, unmodified, through the boundary")
            live.install(score, remit, environment)
    console.print(f"\n[dim]{time.monotonic() - begun:.1f} s[/]")
    print(f"demo: {score.held} of {score.tried} held")
    return 0 if score.held == score.tried else 1


def judge(score: Score, tries: dict[str, Any], records: list[dict[str, Any]], seen: list[dict[str, Any]]) -> None:
    """Each try against its outcome, its record and what the upstream saw."""

    def allowed(name: str, ok: bool) -> None:
        if tries[name]["outcome"] == "absent":
            console.print(f"  [dim]skip  {name}: {tries[name]['detail']}[/]")
            return
        score.check(f"[cyan]{name}[/]: permitted", ok, "" if ok else str(tries[name]))

    def refused(name: str, reason: str) -> None:
        try:
            problem = json.loads(tries[name]["detail"])
        except ValueError:
            score.check(f"[cyan]{name}[/]: denied", False, str(tries[name]))
            return
        record = next((one for one in records if one["id"] == problem["record"]), None)
        ok = problem["reason"] == reason and record is not None and record["decision"] == "deny"
        score.check(f"[cyan]{name}[/]: denied, {problem['reason']}", ok, f"{problem['detail']} → {problem['next']}")

    allowed("python reads a ticket", tries["python reads a ticket"]["outcome"] == "200")
    allowed("python writes a ticket", tries["python writes a ticket"]["outcome"] == "201")
    allowed("curl reads a ticket", "the build is red" in tries["curl reads a ticket"]["detail"])
    allowed("git clones the team's repository", tries["git clones the team's repository"]["outcome"] == "0")
    allowed("node reads a ticket", "the build is red" in tries["node reads a ticket"]["detail"])
    refused("python closes a ticket", "policy_denied")
    refused("python asks for the admin page", "no_capability")
    refused("python sends the data to a stranger", "no_capability")
    refused("python asks the cloud for its keys", "no_capability")
    refused("curl asks for one host inside another's connection", "name_mismatch")
    database = tries["python opens a database connection"]["outcome"] == "closed"
    opaque = any(one["reason"] == "no_capability" and one.get("scheme") == "tcp" for one in records)
    score.check("[cyan]python opens a database connection[/]: denied, no_capability", database and opaque)
    udp = tries["python sends UDP past the boundary"]["outcome"] == "refused"
    score.check("[cyan]python sends UDP past the boundary[/]: no route out of the cell", udp)

    heading("The credential")
    token = tries["the token in my environment"]["detail"]
    presented = {one["authorization"] for one in seen if one["host"] == "api.demo.example"}
    console.print(f"  the agent saw     TICKETS_TOKEN={token}")
    console.print(f"  the upstream saw  Authorization: {', '.join(sorted(str(one) for one in presented))}")
    score.check("the upstream saw the real credential on every request", presented == {f"Bearer {SECRET}"})
    score.check("the agent never saw it", SECRET not in json.dumps(tries))
    strangers = [one for one in seen if one["path"] in ("/admin", "/drop") or one["path"].endswith("/close")]
    score.check("nothing that was denied reached the upstream", not strangers)


def revoke(score: Score, environment: dict[str, str], remit: Callable[..., str]) -> None:
    """An open stream is cut by `remit revoke task`, and the next request is refused."""
    argv = [
        str(REMIT),
        "run",
        "--role",
        "demo-agent",
        "--workspace",
        str(HERE / "agent"),
        "--no-tty",
        "--",
        "python3",
        "agent.py",
        "stream",
    ]
    with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        watching = json.loads(agent.stdout.readline())
        task = next(json.loads(line)["id"] for line in remit("ps", "--json").splitlines())
        console.print(f"  {watching['try']}: {watching['outcome']}; now: remit revoke task {task}")
        begun = time.monotonic()
        remit("revoke", "task", task)
        cut = json.loads(agent.stdout.readline())
        took = time.monotonic() - begun
        after = json.loads(agent.stdout.readline())
        agent.communicate(timeout=30)
    score.check("the open stream was cut", cut["outcome"] == "cut", f"{took * 1000:.0f} ms after the command was typed")
    score.check("the next request is denied, task_revoked", '"task_revoked"' in after["detail"])


def verify(score: Score, remit: Callable[..., str], records: list[dict[str, Any]], home: Path) -> None:
    """The chain holds, a changed byte shows, and no secret is in it."""
    said = remit("audit", "verify").strip()
    score.check("the chain verifies against its signed head", said.startswith("ok"), said)
    complete = all(one["reason"] and one["time"] and one["hash"] for one in records if one["kind"] == "decision")
    score.check("every decision names its reason and its place in the chain", complete and len(records) > 10)
    log = next(iter(sorted((home / "state/decide/audit").glob("*.log"))))
    content = log.read_bytes()
    score.check("no secret is in the log", SECRET.encode() not in content)
    with log.open("r+b") as file:
        at = content.index(b'"decision":"deny"') + 12
        file.seek(at)
        file.write(b"DENY")
        file.flush()
        broken = subprocess.run([str(REMIT), "audit", "verify"], env=_environment(home), text=True, capture_output=True)
        file.seek(at)
        file.write(content[at : at + 4])
    score.check(
        "one changed word in it is found", broken.returncode != 0, (broken.stderr or broken.stdout).splitlines()[0]
    )
    denied = next(one["id"] for one in records if one["reason"] == "policy_denied")
    heading(f"remit why {denied}")
    console.print(remit("why", denied), markup=False)


def audit(remit: Callable[..., str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in remit("audit", "list", "--json", "--limit", "1000").splitlines()]


class Seen:
    """What the upstream wrote down."""

    def __init__(self, address: str, file: Path) -> None:
        self.address = address
        self._file = file

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._file.read_text().splitlines()] if self._file.exists() else []


def upstream(home: Path, stack: ExitStack) -> Seen:
    """Start it: as root in a namespace behind a veth pair; otherwise on loopback."""
    certificates(home)
    repository = git_repository(home)
    prefix: list[str] = []
    address = "127.0.0.1"
    if os.geteuid() == 0:
        name = f"remit-demo-{os.getpid()}"
        link = f"rd{os.getpid()}"
        ip("netns", "add", name)
        stack.callback(ip, "netns", "del", name)
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("addr", "add", f"{HOST_SIDE}/30", "dev", link)
        ip("link", "set", link, "up")
        ip("-n", name, "addr", "add", f"{UPSTREAM_SIDE}/30", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "link", "set", "lo", "up")
        prefix, address = ["ip", "netns", "exec", name], UPSTREAM_SIDE
    port = "443" if prefix else "8443"
    argv = [
        *prefix,
        sys.executable,
        str(HERE / "upstream.py"),
        str(home / "up.pem"),
        str(home / "up.key"),
        address,
        port,
    ]
    process = subprocess.Popen([*argv, str(home / "seen.jsonl"), str(repository)], stdout=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise SystemExit("the demo's upstream did not start")
    console.print(f"  {', '.join(NAMES[:3])} at {address}:{port}")
    return Seen(address, home / "seen.jsonl")


def certificates(home: Path) -> None:
    import datetime

    now = datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Remit demo upstream")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in NAMES]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    for file in ("ca.pem", "up.pem"):
        (home / file).write_bytes(certificate.public_bytes(pem))
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (home / "up.key").write_bytes(plain)
    (home / "up.key").chmod(0o600)


def git_repository(home: Path) -> Path:
    work, bare = home / "work", home / "tool.git"
    git = ["git", "-c", "user.name=demo", "-c", "user.email=demo@demo.example", "-c", "init.defaultBranch=main"]
    subprocess.run([*git, "init", "-q", str(work)], check=True)
    (work / "README").write_text("The team's tool.\n")
    subprocess.run([*git, "-C", str(work), "add", "."], check=True)
    subprocess.run([*git, "-C", str(work), "commit", "-qm", "The tool"], check=True)
    subprocess.run([*git, "clone", "-q", "--bare", str(work), str(bare)], check=True)
    subprocess.run([*git, "-C", str(bare), "update-server-info"], check=True)
    return bare


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "REMIT_STATE_DIR": str(home / "state"), "REMIT_RUN_DIR": str(home / "run")}


def heading(text: str) -> None:
    console.print(f"\n[bold]{text}[/]")


if __name__ == "__main__":
    sys.exit(main())
