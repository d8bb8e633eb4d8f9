"""What Envoy says by itself, and what it writes down.

Envoy answers many requests without asking anybody (malformed, oversized, upgrade refused, upstream gone). These answers
are problems (RFC 9457) too, and each is a line in the spool, from which `completions` makes records. The answers of the
decision service are left as they are. Neither queries nor header values are ever written: they hold secrets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remit.core import answers, flow
from remit.core.reason import MEANING, Reason

Json = dict[str, Any]

METADATA = "envoy.filters.http.ext_authz"
_RECORD = f"%DYNAMIC_METADATA({METADATA}:x-remit-record)%"

INTERIM_S = 0.05
"""How often a request whose bytes are counted says how many it has moved: budgets are exact to that."""
METERED, METERED_VALUE = "x-remit-metered", "yes"
"""Header of the check's answer to a request whose bytes are counted."""

TEXT_MAX = 1024
"""Bytes of what an agent wrote: it may write 60 KB, of which a record keeps no more than this."""
METHOD_MAX = 64
"""The same of a method, which HTTP/2 lets be any token."""

_LINE: Json = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "type": "%ACCESS_LOG_TYPE%",
    "record": _RECORD,
    "flow": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "destination": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "sni": "%REQUESTED_SERVER_NAME%",
    "method": f"%REQ(:METHOD):{METHOD_MAX}%",
    "scheme": "%REQ(:SCHEME)%",
    "authority": f"%REQ(:AUTHORITY):{TEXT_MAX}%",
    "path": f"%PATH(NQ:PATH):{TEXT_MAX}%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "bytes_out": "%BYTES_RECEIVED%",
    "bytes_in": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "repeated": "%DYNAMIC_METADATA(remit.answer:found)%",
    "upstream": "%UPSTREAM_HOST%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}
"""`bytes_out` leave the cell (request body), `bytes_in` enter it (response body)."""


SORTING_S = 5
"""How long a connection may take to say what it speaks (TLS, HTTP, neither) before it is closed."""

_HANDSHAKE: Json = {
    "chain": "%FILTER_CHAIN_NAME%",
    "handshake": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    **{name: _LINE[name] for name in ("time", "flow", "destination", "sni", "flags", "bytes_out", "duration_ms")},
}


_TUNNEL: Json = {
    **{name: _LINE[name] for name in ("time", "type", "record", "details", "flags", "bytes_out", "bytes_in")},
    **{name: _LINE[name] for name in ("duration_ms", "upstream")},
    "flow": "%REQ(X-REMIT-FLOW)%",
    "destination": "%REQ(X-REMIT-TO)%",
    "method": "CONNECT",
    "scheme": "tcp",
}


def tunnel_log(spool: str) -> list[Json]:
    """JSON lines to file `spool`, one a connection that was carried unread when it ends; see `access_log`."""
    return _endings_and_meter(spool, _TUNNEL)


def access_log(spool: str) -> list[Json]:
    """JSON lines to file `spool`: one a request when it ends, and one every `INTERIM_S` while it runs where the check
    said that its bytes are counted."""
    return _endings_and_meter(spool, _LINE)


def _endings_and_meter(spool: str, line: Json) -> list[Json]:
    periodic = {"types": ["DownstreamPeriodic"]}
    metered = {
        "matcher": {
            "filter": METADATA,
            "path": [{"key": METERED}],
            "value": {"string_match": {"exact": METERED_VALUE}},
        },
        "match_if_key_not_found": False,
    }
    counted = {"filters": [{"log_type_filter": periodic}, {"metadata_filter": metered}]}
    return [
        {**_file(spool, line), "filter": {"log_type_filter": {**periodic, "exclude": True}}},
        {**_file(spool, line), "filter": {"and_filter": counted}},
    ]


def handshake_log(spool: str) -> Json:
    """JSON lines to file `spool`: an intercepted connection whose TLS failed, before or after it was set up, and one
    that never said enough to be sorted (no filter chain: half a ClientHello, half a request line, or silence)."""
    failed = "xds.filter_chain_name == 'https' && connection.transport_failure_reason != ''"
    return {**_file(spool, _HANDSHAKE), "filter": _expression(f"({failed}) || xds.filter_chain_name == ''")}


def _file(path: str, line: Json) -> Json:
    return {
        "name": "spool",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"json_format": line},
        },
    }


SPOKEN: Mapping[int, int] = {502: 472, 503: 473}
"""Envoy takes a 5xx of the check for its failure and drops the answer, so those are said as unused 4xx on the wire."""


def local_reply() -> Json:
    """A problem for every answer Envoy makes, except where the decision service has already given one."""
    problem = {
        "type": "https://remit.dev/problems/refused_by_boundary",
        "title": "Envoy refused the request",
        "status": "%RESPONSE_CODE%",
        "detail": "%RESPONSE_CODE_DETAILS%",
        "reason": "refused_by_boundary",
        "record": _RECORD,
        "next": "The detail is Envoy's own reason; `remit audit list --reason refused_by_boundary` shows the record.",
    }
    tunnel = {
        **problem,
        "title": "The boundary opens no tunnel for this CONNECT",
        "next": f"Connect without a proxy, or send a plain CONNECT host:port to {flow.PROXY_NAME}:{flow.PROXY_PORT}; "
        "no other proxy leads anywhere.",
    }
    failed = {
        **problem,
        "type": "https://remit.dev/problems/upstream_failed",
        "title": MEANING[Reason.UPSTREAM_FAILED].title,
        "reason": Reason.UPSTREAM_FAILED.value,
        "next": MEANING[Reason.UPSTREAM_FAILED].next,
    }
    unanswered = f"response.code_details.startsWith('{answers.UNANSWERED}')"
    said = f"response.code_details == 'ext_authz_denied' || response.code_details.startsWith('{answers.REFUSED}')"
    refused = f"response.code >= 400 && !({said})"
    meant = "response.code == {said} && response.code_details == 'ext_authz_denied'"
    return {
        "mappers": [
            *(
                {"filter": _expression(meant.format(said=said)), "status_code": status}
                for status, said in SPOKEN.items()
            ),
            *(
                {
                    "filter": _expression(which),
                    "body_format_override": {"json_format": said, "content_type": "application/problem+json"},
                }
                for which, said in (
                    (unanswered, failed),
                    (f"request.method == 'CONNECT' && {refused}", tunnel),
                    (refused, problem),
                )
            ),
        ]
    }


def _expression(text: str) -> Json:
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                "expression": text,
            },
        }
    }
