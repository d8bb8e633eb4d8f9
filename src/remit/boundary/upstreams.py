"""Where Envoy may connect: the pinned addresses of upstreams, and the sockets of decision service and control plane.

An upstream is dialled at the address the decision screened, yet must prove the *name* the agent asked for: SNI and the
certificate's names are checked against `:authority`. No session is kept, so a resumed one cannot skip that check.
"""

from __future__ import annotations

from typing import Any

from remit.boundary import scrub_filter, tunnels
from remit.boundary.http_chain import BUFFER_BYTES, dns_cache, typed

Json = dict[str, Any]

MANY = 1 << 20
"""Envoy's own limits of 1,024 let one cell starve the next; what is bounded is bounded by the decision service."""
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HTTP1: Json = {"enable_trailers": True}
_HTTP2: Json = {
    "max_concurrent_streams": 128,
    "initial_stream_window_size": 512 << 10,
    "initial_connection_window_size": 2 << 20,
    "connection_keepalive": {"connection_idle_interval": "10s", "timeout": "5s"},
}
"""A connection that said nothing for a while is asked whether it lives, together with the next request on it: behind a
gateway that forgot it, requests would hang until they are idle for too long, and each would find the same connection.
No pings without requests: servers of gRPC end connections that send too many."""
IDLE_S = 4
"""How long a connection is kept for the next request. Node, uvicorn and Apache end theirs after 5 s without one, and a
request that meets the end on its way must not be sent again by anybody but who asked."""
_PROBED: Json = {"keepalive_time": 60, "keepalive_interval": 15, "keepalive_probes": 4}
"""Seconds: a peer that is gone is noticed, and gateways do not forget a connection that is only quiet (tcp(7))."""


def upstreams(*, ca_file: str, connect_timeout_s: float) -> list[Json]:
    """Clusters for HTTPS and HTTP upstreams; `_http1` ones are for WebSockets, `raw` for what is carried unread."""
    both = {"http_protocol_options": _HTTP1, "http2_protocol_options": _HTTP2}
    only1 = {"explicit_http_config": {"http_protocol_options": _HTTP1}}
    return [
        _dynamic("tls", {"auto_config": both}, connect_timeout_s, ca_file),
        _dynamic("tls_http1", only1, connect_timeout_s, ca_file),
        _dynamic("plain", {"use_downstream_protocol_config": both}, connect_timeout_s, None),
        _dynamic("plain_http1", only1, connect_timeout_s, None),
        _dynamic("raw", only1, connect_timeout_s, None),
    ]


def services(*, check: str, hold: str, tunnel: str, sds: str, refuse: str, scrub: str, delegate: str) -> list[Json]:
    """Clusters for Unix sockets of the decision service and the control plane, and for the listener inside Envoy."""
    check_cluster = _pipe("check", check, _http({"explicit_http_config": {"http_protocol_options": {}}}))
    hold_cluster = _pipe("hold", hold, _http({"explicit_http_config": {"http_protocol_options": {}}}))
    sds_cluster = _pipe("sds", sds, _http({"explicit_http_config": {"http2_protocol_options": {}}}))
    http1: Json = {"explicit_http_config": {"http_protocol_options": {}}}
    tunnel_cluster = _pipe("check_tunnel", tunnel, _http(http1))
    refuse_cluster = _pipe("refuse", refuse, _http(http1))
    # A slow reader holds up its own stream and never the connection, whose window is the largest there is.
    http2: Json = {"initial_stream_window_size": 256 << 10, "initial_connection_window_size": (1 << 31) - 1}
    shown = _http({"explicit_http_config": {"http2_protocol_options": http2}})
    scrub_cluster = _pipe(scrub_filter.CLUSTER, scrub, shown)
    delegate_cluster = _pipe("delegate", delegate, _http(http1))
    decisions = [check_cluster, hold_cluster, tunnel_cluster, sds_cluster, refuse_cluster, scrub_cluster]
    return [*decisions, delegate_cluster, _inner()]


def _inner() -> Json:
    """Each connection of a cell is a stream of few connections: more streams than one cell could take from another."""
    endpoint = {"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": "tunnel"}}}}
    http2: Json = {"max_concurrent_streams": 1024, **tunnels.STREAMS}
    return {
        "name": "tunnel",
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": _many(),
        "load_assignment": {"cluster_name": "tunnel", "endpoints": [{"lb_endpoints": [endpoint]}]},
        **_http({"explicit_http_config": {"http2_protocol_options": http2}}),
    }


def _dynamic(name: str, protocols: Json, connect_timeout_s: float, ca_file: str | None) -> Json:
    options: Json = {
        **protocols,
        "common_http_protocol_options": {"idle_timeout": f"{IDLE_S}s"},
        "upstream_http_protocol_options": {"auto_sni": True, "auto_san_validation": True},
    }
    cluster: Json = {
        "name": name,
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": f"{connect_timeout_s:g}s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "circuit_breakers": _many(),
        "upstream_connection_options": {"tcp_keepalive": _PROBED},
        "cluster_type": typed(
            "envoy.clusters.dynamic_forward_proxy",
            "clusters.dynamic_forward_proxy.v3.ClusterConfig",
            dns_cache_config=dns_cache(),
        ),
    }
    if ca_file is not None:
        context: Json = {
            # Envoy's own most is TLS 1.2 where it is the client.
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            "validation_context": {"trusted_ca": {"filename": ca_file}},
        }
        if "explicit_http_config" in protocols:
            context["alpn_protocols"] = ["http/1.1"]
        cluster["transport_socket"] = typed(
            "envoy.transport_sockets.tls",
            "transport_sockets.tls.v3.UpstreamTlsContext",
            common_tls_context=context,
            max_session_keys=0,
        )
    return {**cluster, **_http(options)}


def _pipe(name: str, path: str, extra: Json) -> Json:
    endpoint = {"endpoint": {"address": {"pipe": {"path": path}}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": _many(),
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        **extra,
    }


def _http(options: Json) -> Json:
    return {
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {"@type": f"type.googleapis.com/{_HTTP_OPTIONS}", **options}
        }
    }


def _many() -> Json:
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), MANY)
    return {"thresholds": [limits]}
