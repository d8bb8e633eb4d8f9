"""The filter that shows Envoy's answers to the decision service, where a credential was injected, and nowhere else.

It stands beside the upstream, so that it sees an answer before anything else does. Whether it is there at all is
decided for each request by what the check said with its permit: other requests pass a comparison and nothing more.
Envoy's own answers (an upstream that is gone) pass through it too where a permit was given, and lose nothing.
"""

from __future__ import annotations

from typing import Any

from remit.boundary import replies

Json = dict[str, Any]

_TYPE = "type.googleapis.com/envoy.extensions."
CLUSTER = "scrub"
PERMIT = "x-remit-scrub"
"""Header of the check's answer where something was injected that must not come back: its record and its reference."""
METADATA = "remit.answer"
"""Where it is noted that an answer told the secret; the access log reads it."""
FOUND = ("found", "yes")
MESSAGE_TIMEOUT = "5s"
"""For the head; what comes later takes as long as it takes, and is bounded by the idle time-outs."""


def scrub() -> Json:
    """The filter, for the place right before the upstream's."""
    condition = {
        "input": _typed(
            "permit",
            "matching.common_inputs.network.v3.DynamicMetadataInput",
            filter=replies.METADATA,
            path=[{"key": PERMIT}],
        ),
        "custom_match": _typed(
            "given", "matching.input_matchers.metadata.v3.Metadata", value={"string_match": {"prefix": "r-"}}
        ),
    }
    action = _typed("scrub", "filters.http.composite.v3.ExecuteFilterAction", typed_config=_processor())
    return _typed(
        "scrub",
        "common.matching.v3.ExtensionWithMatcher",
        extension_config=_typed("composite", "filters.http.composite.v3.Composite"),
        xds_matcher={
            "matcher_list": {
                "matchers": [{"predicate": {"single_predicate": condition}, "on_match": {"action": action}}]
            }
        },
    )


def _processor() -> Json:
    return _typed(
        "envoy.filters.http.ext_proc",
        "filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": CLUSTER}},
        failure_mode_allow=False,
        status_on_error={"code": "BadGateway"},
        message_timeout=MESSAGE_TIMEOUT,
        processing_mode={
            "request_header_mode": "SKIP",
            "response_header_mode": "SEND",
            "response_body_mode": "FULL_DUPLEX_STREAMED",
            "response_trailer_mode": "SEND",
        },
        metadata_options={"receiving_namespaces": {"untyped": [METADATA]}},
        response_attributes=[f"metadata.filter_metadata['{replies.METADATA}']['{PERMIT}']"],
        # A change that Envoy refuses must fail: by default it would be left out, and the secret left in.
        mutation_rules={"allow_all_routing": True, "allow_envoy": True, "disallow_is_error": True},
    )


def _typed(name: str, type_name: str, **fields: Any) -> Json:
    return {"name": name, "typed_config": {"@type": _TYPE + type_name, **fields}}
