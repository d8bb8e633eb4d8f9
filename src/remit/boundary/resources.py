"""Envoy's whole configuration as one value: `bootstrap(layout)` is a pure function, written to a file as JSON.

Listeners are static, since an update would drain every stream; what changes comes through SDS and the check's answers.
A cell's connections come in by three doors. Behind the first TLS is intercepted, plain HTTP read, and everything else
carried unread (`tunnels`), as is what comes in by the other two. A PROXY v2 header is mandatory at all of them: without
it, or with another version of it, a connection is closed unread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from remit.boundary import http_chain, opaque, replies, tunnels, upstreams
from remit.boundary.http_chain import typed

Json = dict[str, Any]

TOKEN_TLV = 0xE0
NO_SNI = "no-sni.invalid"
"""The name asked of SDS for a handshake without SNI: clients of `https://<address>/` see a certificate for it."""
_TRACKED_POWER = 15
"""HTTP/2 streams that hold 32 KiB or more may be ended for it; of HTTP/1, buffers are small."""
STALL_S = 5.0
"""A worker thread that stood still for this long ends Envoy, which is then started anew. The main thread is asked by
the supervisor."""

_RUNTIME = {"re2.max_program_size.error_level": 1000, "re2.max_program_size.warn_level": 1000}
"""The list of header names the check may not set compiles to more than Envoy's 100 instructions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Absolute paths of sockets and files, and limits. Seconds and bytes as named."""

    proxy_socket: str
    check_socket: str
    hold_socket: str
    sds_socket: str
    tunnel_socket: str
    """The check of opaque connections."""
    refuse_socket: str
    scrub_socket: str
    """Where answers go to requests that carried a credential."""
    delegate_socket: str
    """Where the control plane answers tasks that delegate."""
    tcp_socket: str
    """The door for connections to be carried unread: nothing is inspected, so servers may speak first."""
    tls_socket: str
    """The door for TLS to be passed through."""
    admin_socket: str | None
    spool: str
    upstream_ca_file: str
    proxy_socket_mode: int = 0o660
    """The forwarder, another uid, connects: the directory's group decides who else can."""
    connection_max_s: float = 3600.0
    idle_s: float = 600.0
    hold_s: float = 60.0
    connect_timeout_s: float = 5.0
    connections_max: int = 50_000
    heap_bytes: int = 1 << 30


def bootstrap(layout: Layout) -> Json:
    """The bootstrap document. Envoy reads it as JSON."""
    return {
        "node": {"id": "local", "cluster": "remit"},
        **_admin(layout.admin_socket),
        "bootstrap_extensions": [tunnels.bootstrap_extension()],
        "static_resources": {
            "listeners": [
                _listener(layout),
                _unread(layout, "tcp", layout.tcp_socket),
                _unread(layout, "tls", layout.tls_socket),
                tunnels.inner_listener(spool=layout.spool, idle_s=layout.idle_s),
            ],
            "clusters": [
                *upstreams.upstreams(ca_file=layout.upstream_ca_file, connect_timeout_s=layout.connect_timeout_s),
                *upstreams.services(
                    check=layout.check_socket,
                    tunnel=layout.tunnel_socket,
                    hold=layout.hold_socket,
                    sds=layout.sds_socket,
                    refuse=layout.refuse_socket,
                    scrub=layout.scrub_socket,
                    delegate=layout.delegate_socket,
                ),
            ],
        },
        "overload_manager": _overload(layout),
        "watchdogs": {"worker_watchdog": {"kill_timeout": f"{STALL_S:g}s"}},
        "layered_runtime": {"layers": [{"name": "fixed", "static_layer": _RUNTIME}]},
        "stats_config": {
            # Statistics per secret and per cluster member would grow with every name an agent tries.
            "stats_matcher": {"exclusion_list": {"patterns": [{"prefix": "sds."}, {"contains": ".on_demand_secret."}]}}
        },
    }


def _admin(socket: str | None) -> Json:
    return {"admin": {"address": {"pipe": {"path": socket, "mode": 0o660}}}} if socket else {}


def _listener(layout: Layout) -> Json:
    def http(tls: bool) -> Json:
        return http_chain.manager(
            tls=tls,
            spool=layout.spool,
            connection_max_s=layout.connection_max_s,
            idle_s=layout.idle_s,
            hold_s=layout.hold_s,
        )

    raw = {"transport_protocol": "raw_buffer"}
    return {
        "name": "cells",
        "address": {"pipe": {"path": layout.proxy_socket, "mode": layout.proxy_socket_mode}},
        "per_connection_buffer_limit_bytes": http_chain.BUFFER_BYTES,
        "access_log": [replies.handshake_log(layout.spool)],
        "listener_filters_timeout": f"{replies.SORTING_S}s",
        "continue_on_listener_filters_timeout": False,
        "listener_filters": [
            _proxy_protocol(),
            _inspector("tls_inspector", "TlsInspector"),
            _inspector("http_inspector", "HttpInspector"),
        ],
        "filter_chains": [
            {
                "name": "https",
                "filter_chain_match": {"transport_protocol": "tls"},
                "transport_socket": _interception(),
                "transport_socket_connect_timeout": "5s",
                "filters": [http(True)],
            },
            {
                "name": "http",
                "filter_chain_match": {**raw, "application_protocols": ["http/1.0", "http/1.1", "h2c"]},
                "filters": [http(False)],
            },
            {
                "name": "opaque",
                "filter_chain_match": raw,
                "filters": [_entrance(layout, tunnels.TCP_PATH)],
            },
        ],
    }


def _unread(layout: Layout, name: str, socket: str) -> Json:
    """A door without interception. Behind `tls`, the name in the handshake is read, and nothing else."""
    chains: list[Json] = [{"name": f"{name}-opaque", "filters": [_entrance(layout, tunnels.TCP_PATH)]}]
    filters = [_proxy_protocol()]
    if name == "tls":
        filters.append(typed("envoy.filters.listener.tls_inspector", "filters.listener.tls_inspector.v3.TlsInspector"))
        chains[0]["filter_chain_match"] = {"transport_protocol": "raw_buffer"}
        passed = {"transport_protocol": "tls"}
        chains.append(
            {"name": "passed", "filter_chain_match": passed, "filters": [_entrance(layout, tunnels.TLS_PATH)]}
        )
    return {
        "name": name,
        "address": {"pipe": {"path": socket, "mode": layout.proxy_socket_mode}},
        "per_connection_buffer_limit_bytes": http_chain.BUFFER_BYTES,
        "listener_filters_timeout": "5s",
        "continue_on_listener_filters_timeout": False,
        "listener_filters": filters,
        "filter_chains": chains,
    }


def _entrance(layout: Layout, path: str) -> Json:
    return tunnels.entrance(path, idle_s=layout.idle_s, connection_max_s=layout.connection_max_s)


def _proxy_protocol() -> Json:
    rule = {"tlv_type": TOKEN_TLV, "on_tlv_present": {"metadata_namespace": "remit", "key": "token"}}
    return typed(
        "envoy.filters.listener.proxy_protocol",
        "filters.listener.proxy_protocol.v3.ProxyProtocol",
        rules=[rule],
        tlv_location="FILTER_STATE",
        pass_through_tlvs={"match_type": "INCLUDE", "tlv_type": [TOKEN_TLV]},
        disallowed_versions=["V1"],
        allow_requests_without_proxy_protocol=False,
    )


def _inspector(name: str, type_name: str) -> Json:
    ports = [{"destination_port_range": {"start": port, "end": port + 1}} for port in opaque.NOT_INSPECTED_PORTS]
    filter_ = typed(f"envoy.filters.listener.{name}", f"filters.listener.{name}.v3.{type_name}")
    return {**filter_, "filter_disabled": {"or_match": {"rules": ports}}}


def _interception() -> Json:
    """TLS with a leaf by SNI, asked of SDS when first needed. Resumption would skip the question, so it is off."""
    sds = {
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "sds"}}],
        },
    }
    selector = typed(
        "envoy.tls.certificate_selectors.on_demand_secret",
        "transport_sockets.tls.cert_selectors.on_demand_secret.v3.Config",
        config_source=sds,
        certificate_mapper=typed("sni", "transport_sockets.tls.cert_mappers.sni.v3.SNI", default_value=NO_SNI),
    )
    return typed(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.DownstreamTlsContext",
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
        common_tls_context={
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "alpn_protocols": ["h2", "http/1.1"],
            "custom_tls_certificate_selector": selector,
        },
    )


def _between(first: float, last: float) -> Json:
    """The more, the fuller it is."""
    scaled = {"scaling_threshold": first, "saturation_threshold": last}
    return {"name": "envoy.resource_monitors.fixed_heap", "scaled": scaled}


def _overload(layout: Layout) -> Json:
    """Streams that hold most are ended first: a cell that lets answers pile up, before anybody is refused."""

    def at(value: float) -> Json:
        return {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": value}}

    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            typed(
                "envoy.resource_monitors.fixed_heap",
                "resource_monitors.fixed_heap.v3.FixedHeapConfig",
                max_heap_size_bytes=layout.heap_bytes,
            ),
            typed(
                "envoy.resource_monitors.global_downstream_max_connections",
                "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                max_active_downstream_connections=layout.connections_max,
            ),
        ],
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": _TRACKED_POWER},
        "actions": [
            {"name": "envoy.overload_actions.reset_high_memory_stream", "triggers": [_between(0.8, 0.93)]},
            {"name": "envoy.overload_actions.shrink_heap", "triggers": [at(0.9)]},
            {"name": "envoy.overload_actions.stop_accepting_requests", "triggers": [at(0.95)]},
            {"name": "envoy.overload_actions.stop_accepting_connections", "triggers": [at(0.98)]},
        ],
    }
