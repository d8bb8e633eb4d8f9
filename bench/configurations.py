"""Configurations of Envoy's that the product does not have: a cheap upstream, and a boundary that asks nobody."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.certificates import Files
from remit.boundary.http_chain import typed

Json = dict[str, Any]
BODY = json.dumps({"ok": True, "padding": "x" * 200})
GOVERNANCE = ("envoy.filters.http.ext_authz", "envoy.filters.http.lua", "scrub")
"""The filters that ask for a decision and carry it out."""


def upstream(port: int, files: Files, bodies: Mapping[str, Path]) -> Json:
    """HTTPS on loopback; every request is answered with the same small body by Envoy itself, but for those `bodies`."""
    routes = [
        {"match": {"path": path}, "direct_response": {"status": 200, "body": {"filename": str(body)}}}
        for path, body in bodies.items()
    ]
    manager = typed(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="up",
        http_filters=[typed("envoy.filters.http.router", "filters.http.router.v3.Router")],
        route_config={
            "max_direct_response_body_size_bytes": 1 << 24,
            "virtual_hosts": [
                {
                    "name": "any",
                    "domains": ["*"],
                    "routes": [
                        *routes,
                        {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": BODY}}},
                    ],
                }
            ],
        },
    )
    secret = {"certificate_chain": {"filename": str(files.certificate)}, "private_key": {"filename": str(files.key)}}
    tls = typed(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context={"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [secret]},
    )
    chain = {"transport_socket": tls, "filters": [manager]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"static_resources": {"listeners": [{"name": "up", "address": address, "filter_chains": [chain]}]}}


def ungoverned(governed: Json, socket: Path, spool: Path, port: int) -> Json:
    """The boundary's own configuration without its check: what it would pin is written into it."""
    bare: Json = copy.deepcopy(governed)
    bare.pop("admin", None)
    # Only the door where requests are read: the others' sockets, and what lies behind them, are the boundary's own.
    del bare["static_resources"]["listeners"][1:]
    listener = bare["static_resources"]["listeners"][0]
    listener["address"]["pipe"] = {"path": str(socket), "mode": 0o666}
    for chain in listener["filter_chains"]:
        for filter_ in chain["filters"]:
            manager = filter_["typed_config"]
            if "http_filters" in manager:
                kept = [one for one in manager["http_filters"] if one["name"] not in GOVERNANCE]
                manager["http_filters"] = [_pinned(one, port) for one in kept]
    for log in _logs(bare):
        log["path"] = str(spool)
    return bare


def fixed(governed: Json, socket: Path, spool: Path, answers: Path) -> Json:
    """The boundary's own configuration, governance included, asking `answers` instead of the decision service."""
    same: Json = copy.deepcopy(governed)
    same.pop("admin", None)
    del same["static_resources"]["listeners"][1:]
    same["static_resources"]["listeners"][0]["address"]["pipe"] = {"path": str(socket), "mode": 0o666}
    check = next(one for one in same["static_resources"]["clusters"] if one["name"] == "check")
    check["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["pipe"]["path"] = str(answers)
    for log in _logs(same):
        log["path"] = str(spool)
    return same


def answers(socket: Path, port: int) -> Json:
    """What answers every check at once with the permit that the decision service would give, and knows nothing."""
    permit = {
        "x-remit-record": "r-aaaaaaaaaaaaaaaaaaaaaa",
        "x-remit-pin": "127.0.0.1",
        "x-remit-pin-port": str(port),
        "x-remit-pool": "bench",
        "authorization": "Bearer bench-secret-4711",
    }
    manager = typed(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="answers",
        http_filters=[typed("envoy.filters.http.router", "filters.http.router.v3.Router", suppress_envoy_headers=True)],
        route_config={
            "response_headers_to_add": [{"header": {"key": key, "value": value}} for key, value in permit.items()],
            "virtual_hosts": [
                {
                    "name": "any",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ],
        },
    )
    address = {"pipe": {"path": str(socket), "mode": 0o666}}
    listener = {"name": "answers", "address": address, "filter_chains": [{"filters": [manager]}]}
    return {"static_resources": {"listeners": [listener]}}


def _pinned(filter_: Json, port: int) -> Json:
    if filter_["name"] == "envoy.filters.http.set_filter_state":
        for state, text in zip(
            filter_["typed_config"]["on_request_headers"], ("127.0.0.1", str(port), "bench"), strict=True
        ):
            state["format_string"] = {"text_format_source": {"inline_string": text}}
    return filter_


def _logs(node: Any) -> list[Json]:
    """The configuration of every access log below `node`."""
    if isinstance(node, list):
        return [log for one in node for log in _logs(one)]
    if not isinstance(node, dict):
        return []
    own = [one["typed_config"] for one in node.get("access_log", []) if "path" in one.get("typed_config", {})]
    return own + [log for one in node.values() for log in _logs(one)]
