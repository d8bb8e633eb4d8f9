"""Paths and headers that servers read differently: what a real cell sends reaches its upstream as decided or not at all."""

from __future__ import annotations

import pytest
from attacked import Attacker, Whole, request
from governed import SECRET

pytestmark = pytest.mark.xdist_group("attacks-whole")

API = "api.up.example"
AMBIGUOUS, UNCOVERED, ENVOY = "path_ambiguous", "no_capability", "refused_by_boundary"

PATHS = {
    "a dot segment": ("/v1/../admin", AMBIGUOUS),
    "a dot segment at the end": ("/v1/..", AMBIGUOUS),
    "a single dot": ("/v1/./admin", AMBIGUOUS),
    "an encoded dot segment": ("/v1/%2e%2e/admin", AMBIGUOUS),
    "a half-encoded dot segment": ("/v1/.%2E/admin", AMBIGUOUS),
    "a dot segment with parameters": ("/v1/..;/admin", AMBIGUOUS),
    "a dot segment with encoded parameters": ("/v1/..%3b/admin", AMBIGUOUS),
    "a dot segment behind an encoded slash": ("/v1/..%2fadmin", AMBIGUOUS),
    "a dot segment behind a backslash": ("/v1/..\\admin", AMBIGUOUS),
    "a dot segment behind an encoded backslash": ("/v1/..%5cadmin", AMBIGUOUS),
    "a backslash": ("/v1\\admin", AMBIGUOUS),
    "an encoded slash": ("/v1/x%2fadmin", UNCOVERED),
    "an encoded slash in capitals": ("/v1%2Fadmin", UNCOVERED),
    "double encoding": ("/v1/%252e%252e/admin", (AMBIGUOUS, UNCOVERED)),
    "double slashes": ("/v1//admin", UNCOVERED),
    "slashes first": ("//admin/v1/x", UNCOVERED),
    "slashes that look like a host": ("//evil.up.example/v1/x", UNCOVERED),
    "parameters": ("/v1;x=1/admin", UNCOVERED),
    "a fragment": ("/v1/x#/../admin", (AMBIGUOUS, ENVOY)),
    "an encoded NUL": ("/v1/x%00/admin", (AMBIGUOUS, ENVOY)),
    "an encoded line end": ("/v1/x%0d%0aHost:%20evil", AMBIGUOUS),
    "an escape that is none": ("/v1/%zz", AMBIGUOUS),
    "an overlong dot": ("/v1/%c0%ae%c0%ae/admin", AMBIGUOUS),
    "another case": ("/V1/x", UNCOVERED),
    "a prefix that only looks like it": ("/v1x/admin", UNCOVERED),
    "an encoded letter of a frozen path": ("/v1/%66rozen/x", "policy_denied"),
    "an encoded letter of a frozen path in capitals": ("/v1/fro%7Aen/x", "policy_denied"),
    "a frozen path behind an empty segment": ("/v1//frozen/x", UNCOVERED),
    "raw bytes over 127": ("/v1/\xe4", (AMBIGUOUS, ENVOY)),
    "a path without an end": ("/v1/" + "a" * 9000, (AMBIGUOUS, ENVOY)),
}


@pytest.mark.parametrize("sentence", PATHS)
def test_a_path_that_servers_read_differently_is_not_forwarded(whole: Whole, cell: Attacker, sentence: str) -> None:
    path, reasons = PATHS[sentence]
    port = whole.upstreams.https_port
    data = request(API, port, path)
    whole.refused(lambda: cell.ask(API, port, data), *((reasons,) if isinstance(reasons, str) else reasons))


def test_a_query_arrives_as_it_was_sent_and_chooses_nothing(whole: Whole, cell: Attacker) -> None:
    port, before = whole.upstreams.https_port, len(whole.upstreams.seen)
    targets = ["/v1/x?a=1&a=2&b=/../admin", "/v1/x?%2e%2e/", "/v1/x??path=/admin", "/v1/x?a=1;b=2"]
    for target in targets:
        assert cell.ask(API, port, request(API, port, target))["status"] == 200
    assert [seen["path"] for seen in whole.upstreams.seen[before:]] == targets


ARRIVE = {"host", "authorization", "accept-encoding"}
"""With a credential an answer is searched for it, so it must come as it is (RFC 9110 §12.5.3: identity)."""
FORGED = {
    "identity": "x-remit-connection: v=forged",
    "identity in capitals": "X-REMIT-PEER: v=100.64.0.9:1",
    "a pin": "x-remit-pin: 169.254.169.254",
    "a pin's port": "x-remit-pin-port: 1",
    "a path": "x-remit-path: /admin",
    "a pool": "x-remit-pool: other",
    "a record": "x-remit-record: r-forged",
    "a forwarded peer": "x-forwarded-for: 100.64.0.9",
    "a forwarded host": "x-forwarded-host: evil.up.example",
    "a forwarded scheme": "x-forwarded-proto: http",
    "a client certificate": "x-forwarded-client-cert: By=spiffe://remit/role/admin",
    "the standard's own": "forwarded: for=100.64.0.9;host=evil.up.example",
    "an original path": "x-envoy-original-path: /v1/x",
    "retries": "x-envoy-retry-on: 5xx",
    "an external address": "x-envoy-external-address: 100.64.0.9",
    "a timeout": "x-envoy-upstream-rq-timeout-ms: 1",
    "a decoration": "x-envoy-decorator-operation: x",
}


@pytest.mark.parametrize("sentence", FORGED)
def test_a_header_of_the_boundarys_own_is_taken_off_and_changes_nothing(
    whole: Whole, cell: Attacker, sentence: str
) -> None:
    port, before = whole.upstreams.https_port, len(whole.upstreams.seen)
    line = FORGED[sentence]
    answer = cell.ask(API, port, request(API, port, "/v1/forged", line, line))
    assert answer["status"] == 200, answer
    (seen,) = whole.upstreams.seen[before:]
    assert seen["headers"].keys() == ARRIVE
    assert (seen["path"], seen["headers"]["authorization"]) == ("/v1/forged", f"Bearer {SECRET}")
    assert not [name for name in answer["headers"] if name.startswith(("x-remit-", "x-envoy-"))]
    assert "forged" not in {record["id"] for record in whole.audit(host=API)}


REFUSED = {
    "another method in a header": (("x-http-method-override: DELETE",), ("header_invalid",)),
    "another method in another header": (("X-HTTP-Method: DELETE",), ("header_invalid",)),
    "another method in a third header": (("x-method-override: DELETE",), ("header_invalid",)),
    "another path in a header": (("x-original-url: /admin",), ("header_invalid",)),
    "another path in another header": (("X-Rewrite-URL: /admin",), ("header_invalid",)),
    "an override after an allowed one": (
        ("x-http-method-override: GET", "x-http-method-override: DELETE"),
        ("header_invalid",),
    ),
    "a body shown in part": (("x-envoy-auth-partial-body: true",), ()),
    "an underscore": (("x_forwarded_for: 1",), (ENVOY,)),
    "an underscore for a dash": (("x-remit_token: v=1",), (ENVOY,)),
    "65 KB in one header": (("x-a: " + "y" * 70_000,), (ENVOY,)),
    "200 headers": (tuple(f"x-{n}: 1" for n in range(200)), (ENVOY,)),
    "a header without a name": ((": 1",), (ENVOY,)),
    "a header with a space before its colon": (("x-a : 1",), (ENVOY,)),
    "a NUL in a header": (("x-a: 1\0",), (ENVOY,)),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_header_that_servers_read_differently_is_not_forwarded(whole: Whole, cell: Attacker, sentence: str) -> None:
    lines, reasons = REFUSED[sentence]
    port, before = whole.upstreams.https_port, len(whole.upstreams.seen)
    data = request(API, port, "/v1/x", *lines)
    if not reasons:  # taken off with the rest of its prefix
        assert cell.ask(API, port, data)["status"] == 200
        assert whole.upstreams.seen[before]["headers"].keys() == ARRIVE
        return
    whole.refused(lambda: cell.ask(API, port, data), *reasons)


def test_paths_without_end_are_each_decided_and_the_next_cell_is_answered(
    whole: Whole, cell: Attacker, neighbour: Attacker
) -> None:
    """Whatever is remembered of a path, a thousand that nobody saw before are decided one by one."""
    port, before = whole.upstreams.https_port, len(whole.upstreams.seen)
    source = """
from concurrent.futures import ThreadPoolExecutor
import secrets
def one(number):
    with connect(host, port) as sock:
        paths = [f"/{first}/{secrets.token_hex(16)}" for _ in range(50) for first in ("v1", "closed")]
        return [send(sock, f"GET {path} HTTP/1.1\\r\\nhost: {host}:{port}\\r\\n\\r\\n".encode())["status"] for path in paths]
with ThreadPoolExecutor(5) as pool:
    found = [status for some in pool.map(one, range(10)) for status in some]
result = [found.count(200), found.count(403), len(found)]
"""
    cell.start(source, host=API, port=port)
    calm = [neighbour.ask(API, port, request(API, port, f"/v1/calm-path-{number}"))["status"] for number in range(5)]
    assert (cell.finish(), calm) == ([500, 500, 1000], [200] * 5)
    arrived = [seen["path"] for seen in whole.upstreams.seen[before:]]
    assert len(arrived) == 505 and all(path.startswith("/v1/") for path in arrived)


def test_an_ordinary_request_still_arrives(whole: Whole, cell: Attacker) -> None:
    whole.still_works(cell)
