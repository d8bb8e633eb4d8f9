"""The opaque half of Envoy's configuration: bytes that Envoy does not read, decided before anything is dialled.

A network filter would ask only after the client's first bytes, and Envoy would have dialled a server-first upstream by
then. So a connection becomes the body of a POST to a listener inside Envoy, whose HTTP check decides like any other;
only then is its body connected to the pinned address. What is refused is connected to `refuse`, which says why.
Agents have no say in the POST: its headers are Envoy's, its body is theirs.
"""

from __future__ import annotations

from typing import Any

from remit.boundary import http_chain, replies
from remit.boundary.http_chain import typed

Json = dict[str, Any]

INNER = "tunnel"
TCP_PATH, TLS_PATH = "/remit/tcp", "/remit/tls"
"""What the connection is, for the check: any bytes, or TLS that is passed through."""
REFUSED = "x-remit-refused"
"""Set by the check where it refuses: the route to `refuse` needs it, and it says why."""
STREAMS: Json = {
    "initial_stream_window_size": http_chain.STREAM_WINDOW_BYTES,
    "initial_connection_window_size": (1 << 31) - 1,
}
"""For both ends of the connections to the listener inside, whose streams belong to different cells: whoever does not
read holds up its own stream and never the connection. A stream's window is also what Envoy keeps of it (16 MiB by
default, and of a whole connection 24)."""
_NONE = "v=-"


def bootstrap_extension() -> Json:
    """What Envoy needs for listeners inside itself."""
    return typed("envoy.bootstrap.internal_listener", "bootstrap.internal_listener.v3.InternalListener")


def entrance(path: str, *, idle_s: float, connection_max_s: float) -> Json:
    """The network filter that carries a connection to the listener inside. `path`: TCP_PATH or TLS_PATH."""
    headers = {
        **{key: f"v={value}" for key, value in http_chain.IDENTITY},
        "x-remit-length": _NONE,
        "x-remit-flow": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "x-remit-to": "%DOWNSTREAM_LOCAL_ADDRESS%",
    }
    return typed(
        "envoy.filters.network.tcp_proxy",
        "filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix="opaque",
        cluster=INNER,
        idle_timeout=f"{idle_s:g}s",
        max_downstream_connection_duration=f"{connection_max_s:g}s",
        max_connect_attempts=1,
        tunneling_config={
            "hostname": "tunnel",
            "use_post": True,
            "post_path": path,
            "headers_to_add": [
                {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
                for key, value in headers.items()
            ],
        },
    )


def inner_listener(*, spool: str, idle_s: float) -> Json:
    """Where the POST arrives: asked about, pinned, dialled; or handed to `refuse`."""
    manager = typed(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="tunnel",
        codec_type="HTTP2",
        http2_protocol_options={"max_concurrent_streams": 1 << 20, **STREAMS},
        access_log=replies.tunnel_log(spool),
        access_log_options={"access_log_flush_interval": f"{replies.INTERIM_S}s"},
        generate_request_id=False,
        stream_idle_timeout=f"{idle_s:g}s",
        upgrade_configs=[{"upgrade_type": "CONNECT"}],
        http_filters=[
            _check(),
            http_chain.pin(),
            typed(
                "envoy.filters.http.dynamic_forward_proxy",
                "filters.http.dynamic_forward_proxy.v3.FilterConfig",
                dns_cache_config=http_chain.dns_cache(),
                allow_dynamic_host_from_filter_state=True,
            ),
            typed("envoy.filters.http.router", "filters.http.router.v3.Router", suppress_envoy_headers=True),
        ],
        route_config={
            "name": "tunnel",
            "virtual_hosts": [{"name": "any", "domains": ["*"], "routes": _routes(idle_s)}],
        },
    )
    return {"name": INNER, "internal_listener": {}, "filter_chains": [{"filters": [manager]}]}


def _check() -> Json:
    """Ask the decision service; the identity is among the headers already. Its word chooses the route."""
    return typed(
        "envoy.filters.http.ext_authz",
        "filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
        validate_mutations=True,
        clear_route_cache=True,
        allowed_headers={"patterns": [{"safe_regex": {"regex": ".*"}}]},
        http_service={
            "server_uri": {"uri": "http://check", "cluster": "check_tunnel", "timeout": http_chain.CHECK_TIMEOUT},
            "authorization_response": {
                "allowed_upstream_headers": {"patterns": [{"exact": REFUSED}]},
                "allowed_client_headers": {"patterns": [{"exact": "content-type"}]},
                "dynamic_metadata_from_headers": {
                    "patterns": [{"exact": name} for name in http_chain.METADATA_HEADERS]
                },
            },
        },
    )


def _routes(idle_s: float) -> list[Json]:
    action: Json = {"timeout": "0s", "idle_timeout": f"{idle_s:g}s"}
    refused = {"name": REFUSED, "present_match": True}
    connected = {"upgrade_type": "CONNECT", "connect_config": {"allow_post": True}}
    return [
        {"match": {"prefix": "/", "headers": [refused]}, "route": {"cluster": "refuse", **action}},
        {"match": {"prefix": "/"}, "route": {"cluster": "raw", **action, "upgrade_configs": [connected]}},
    ]
