"""The HTTP half of Envoy's configuration: from a connection of a cell to a request that may be dialled.

Order of the filters is the law: strip what an agent may not say, ask, pin the address, dial. What each line prevents
was reproduced against Envoy; tests/attacks/test_boundary_*.py try it again. Header values of our own start with `v=`,
because Envoy omits a header whose value formats empty, and an agent's header of that name would take its place.
"""

from __future__ import annotations

from typing import Any

from remit.boundary import header_names, replies, scrub_filter
from remit.boundary.hold_server import BODY_MAX_BYTES
from remit.core import doorway

Json = dict[str, Any]

TYPE = "type.googleapis.com/envoy.extensions."
CHECK_TIMEOUT = "1s"
HOLD_MARGIN_S = 5.0
"""The decision service ends a hold itself, with a reason; Envoy only when that did not happen."""
MAX_REQUEST_HEADERS_KB = 60
MAX_HEADERS = 100
MAX_CONCURRENT_STREAMS = 128
STREAM_WINDOW_BYTES = 64 << 10
CONNECTION_WINDOW_BYTES = 1 << 20
BUFFER_BYTES = 32 << 10
"""What a connection may keep in Envoy, on either side: with as many as a cell may have, whoever does not read must not
take all of Envoy's memory. All three are what Envoy advises for clients that are not trusted."""
POOL = "remit.pool"
METADATA = replies.METADATA

_TOKEN = "%FILTER_STATE(envoy.network.proxy_protocol.tlv:FIELD:token)%"  # noqa: S105 - a format, not a password
IDENTITY = (
    (
        "x-remit-connection",
        "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS%"
        f" %DOWNSTREAM_TLS_VERSION% %REQUESTED_SERVER_NAME% {_TOKEN}",
    ),
    ("x-remit-length", "%REQ(CONTENT-LENGTH)%"),
)
"""One header for what is the same on a whole connection: the decision service reads it once. `check.parse` reads it."""
METADATA_HEADERS = (
    "x-remit-record",
    "x-remit-pin",
    "x-remit-pin-port",
    "x-remit-pool",
    "x-remit-hold",
    header_names.TASK,
    replies.METERED,
    scrub_filter.PERMIT,
)

_SET_TARGET = f"""
function envoy_on_request(handle)
  local headers = handle:headers()
  local target = headers:get("{header_names.TARGET}")
  if target then
    headers:replace(":path", target)
  end
end
"""
"""A header the check sets cannot be `:path`, and a route's rewrite keeps the agent's query: this replaces all of it.

Only a request whose target changes carries the header (an agent's own is taken off before the check, this one after).
"""


def typed(name: str, type_name: str, **fields: Any) -> Json:
    """An extension: its registered name and its configuration of type `envoy.extensions.<type_name>`."""
    return {"name": name, "typed_config": {"@type": TYPE + type_name, **fields}}


def manager(*, tls: bool, spool: str, connection_max_s: float, idle_s: float, hold_s: float) -> Json:
    """The network filter that speaks HTTP/1.1 and HTTP/2 with a cell. `tls`: whether the connection was intercepted."""
    chain = "https" if tls else "http"
    return typed(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=chain,
        codec_type="AUTO",
        local_reply_config=replies.local_reply(),
        access_log=replies.access_log(spool),
        access_log_options={"access_log_flush_interval": f"{replies.INTERIM_S}s"},
        **_who_is_asking(chain),
        **_limits(connection_max_s, idle_s),
        upgrade_configs=[{"upgrade_type": "websocket"}],
        http_filters=_filters(hold_s),
        route_config={
            "name": chain,
            "virtual_hosts": [
                {"name": "any", "domains": ["*"], "routes": _routes(tls)},
                *([] if tls else [_delegate()]),
            ],
        },
    )


def _who_is_asking(scheme: str) -> Json:
    """An agent's own forwarding, tracing and scheme headers count for nothing; what it sends is otherwise untouched."""
    return {
        "use_remote_address": True,
        "skip_xff_append": True,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        "generate_request_id": False,
        "preserve_external_request_id": True,
        "scheme_header_transformation": {"scheme_to_overwrite": scheme},
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": False,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "early_header_mutation_extensions": [
            typed(
                "envoy.http.early_header_mutation.header_mutation",
                "http.early_header_mutation.header_mutation.v3.HeaderMutation",
                mutations=_removed(header_names.FORGEABLE, *header_names.ENDS_HERE),
            )
        ],
    }


def _limits(connection_max_s: float, idle_s: float) -> Json:
    return {
        "max_request_headers_kb": MAX_REQUEST_HEADERS_KB,
        "common_http_protocol_options": {
            "max_headers_count": MAX_HEADERS,
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_connection_duration": f"{connection_max_s:g}s",
            # The former only lets nothing new begin; a WebSocket or an answer without end would stay for ever.
            "max_stream_duration": f"{connection_max_s:g}s",
            "idle_timeout": f"{idle_s:g}s",
        },
        "http_protocol_options": {"accept_http_10": False, "enable_trailers": True},
        "http2_protocol_options": {
            "max_concurrent_streams": MAX_CONCURRENT_STREAMS,
            "initial_stream_window_size": STREAM_WINDOW_BYTES,
            "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
        },
        "request_headers_timeout": "10s",
        "stream_idle_timeout": f"{idle_s:g}s",
        "drain_timeout": "5s",
        "delayed_close_timeout": "0.2s",
    }


def _filters(hold_s: float) -> list[Json]:
    own = _removed(header_names.OURS)
    return [
        _mutation(
            "cell",
            request_mutations=own,
            request_trailers_mutations=_EVERY,
            response_mutations=[_length(), *own],
            response_trailers_mutations=own,
        ),
        _check("check", CHECK_TIMEOUT, stat_prefix="check"),
        _check("hold", f"{hold_s + HOLD_MARGIN_S:g}s", **_only_held()),
        typed("envoy.filters.http.lua", "filters.http.lua.v3.Lua", default_source_code={"inline_string": _SET_TARGET}),
        pin(),
        # Only now: a route is not found without x-forwarded-proto, which Envoy itself has set.
        scrub_filter.scrub(),
        _mutation("upstream", request_mutations=_removed(header_names.FORGEABLE), response_mutations=own),
        typed(
            "envoy.filters.http.dynamic_forward_proxy",
            "filters.http.dynamic_forward_proxy.v3.FilterConfig",
            dns_cache_config=dns_cache(),
            allow_dynamic_host_from_filter_state=True,
        ),
        typed("envoy.filters.http.router", "filters.http.router.v3.Router", suppress_envoy_headers=True),
    ]


_EVERY: list[Json] = [{"remove_on_match": {"key_matcher": {"safe_regex": {"regex": ".*"}}}}]
"""Trailers of a request come after its decision, which cannot know them; some servers take them for headers (RFC 9110
§6.5.1). No client is known that needs them: gRPC's are in answers, S3's within the body."""


def _mutation(name: str, **mutations: list[Json]) -> Json:
    return typed(name, "filters.http.header_mutation.v3.HeaderMutation", mutations=mutations)


def _removed(prefixes: tuple[str, ...], *names: str) -> list[Json]:
    return [{"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in prefixes] + [
        {"remove": name} for name in names
    ]


def _length() -> Json:
    """Envoy takes the length off what it shows to `scrub`, which keeps it true. An upstream's own header of the name is
    taken off before; where there is none, nothing is written."""
    line = {"key": "content-length", "value": f"%RESP({header_names.LENGTH})%"}
    return {"append": {"header": line, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}


def _only_held() -> Json:
    """Ask a second time only where the fast check said `hold`; with the body, so that an approval can be bound to it.

    A request that was neither permitted nor held goes on without an address, and so nowhere.
    """
    held = {"filter": METADATA, "path": [{"key": "x-remit-hold"}], "value": {"string_match": {"exact": "hold"}}}
    return {
        "stat_prefix": "hold",
        "filter_enabled_metadata": held,
        "with_request_body": {"max_request_bytes": BODY_MAX_BYTES, "allow_partial_message": False},
    }


def _check(cluster: str, timeout: str, **more: Any) -> Json:
    """Ask the decision service; anything but its 200 in time is a denial."""
    return typed(
        "envoy.filters.http.ext_authz" if cluster == "check" else cluster,
        "filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
        validate_mutations=True,
        clear_route_cache=False,
        allowed_headers={"patterns": [{"safe_regex": {"regex": ".*"}}]},
        decoder_header_mutation_rules={
            "disallow_expression": {"regex": header_names.disallowed()},
        },
        http_service={
            "server_uri": {"uri": f"http://{cluster}", "cluster": cluster, "timeout": timeout},
            "authorization_request": {
                "headers_to_add": [{"key": key, "value": f"v={value}"} for key, value in IDENTITY]
            },
            "authorization_response": {
                "allowed_upstream_headers": {"patterns": [{"safe_regex": {"regex": ".*"}}]},
                "allowed_client_headers": {"patterns": [{"exact": "content-type"}, {"exact": "retry-after"}]},
                "dynamic_metadata_from_headers": {"patterns": [{"exact": name} for name in METADATA_HEADERS]},
            },
        },
        **more,
    )


def pin() -> Json:
    """The address the decision screened is the one that is dialled; a missing one is `-`, which is no address."""

    def state(key: str, header: str, **extra: Any) -> Json:
        text = {"text_format_source": {"inline_string": f"%DYNAMIC_METADATA({METADATA}:{header})%"}}
        return {"object_key": key, "format_string": text, **extra}

    return typed(
        "envoy.filters.http.set_filter_state",
        "filters.http.set_filter_state.v3.Config",
        on_request_headers=[
            state("envoy.upstream.dynamic_host", "x-remit-pin"),
            state("envoy.upstream.dynamic_port", "x-remit-pin-port"),
            state(POOL, "x-remit-pool", factory_key="envoy.hashable_string", shared_with_upstream="ONCE"),
        ],
    )


def dns_cache() -> Json:
    """Pins are literals, so nothing is ever looked up; a resolver that cannot be reached makes sure of it."""
    nowhere = {"socket_address": {"address": "127.0.0.1", "port_value": 1}}
    return {
        "name": "pins",
        "dns_lookup_family": "ALL",
        "max_hosts": 65536,
        "host_ttl": "120s",
        "typed_dns_resolver_config": typed(
            "envoy.network.dns_resolver.cares",
            "network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            resolvers=[nowhere],
            use_resolvers_as_fallback=False,
            dns_resolver_options={"no_default_search_domain": True},
        ),
    }


def _routes(tls: bool) -> list[Json]:
    """A WebSocket goes upstream over HTTP/1.1: few servers speak RFC 8441. Time-outs are the idle ones above."""
    action = {"timeout": "0s"}
    websocket = {"name": "upgrade", "string_match": {"exact": "websocket", "ignore_case": True}}
    return [
        {
            "match": {"prefix": "/", "headers": [websocket]},
            "route": {"cluster": "tls_http1" if tls else "plain_http1", **action},
        },
        {"match": {"prefix": "/"}, "route": {"cluster": "tls" if tls else "plain", **action}},
    ]


def _delegate() -> Json:
    """Where a task asks for one of its own. Without a permit for exactly that, the header names no task."""
    said = " ".join(f"%DYNAMIC_METADATA({METADATA}:{name})%" for name in (header_names.TASK, "x-remit-record"))
    header: Json = {"header": {"key": header_names.TASK, "value": f"v={said}"}}
    return {
        "name": "delegate",
        "domains": [doorway.HOST, f"{doorway.HOST}:80"],
        "request_headers_to_add": [{**header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "delegate", "timeout": "0s"}}],
    }
