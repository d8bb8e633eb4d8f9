"""An explanation with its policies evaluated in this very process; the product asks a worker that can be killed."""

import json
from collections.abc import Mapping
from typing import Any

from remit.core.decision import Opinion
from remit.core.names import Address
from remit.core.snapshot import Snapshot
from remit.policy import explain, rego
from remit.policy.given import given


def explained(
    snapshot: Snapshot,
    role: str,
    method: str,
    url: str,
    headers: Mapping[str, str],
    *,
    found: tuple[Address, ...] = (),
    own: frozenset[Address] | None = frozenset(),
) -> dict[str, Any]:
    begun = explain.begin(snapshot, role, method, url, headers)
    if isinstance(begun, explain.Explanation):
        return begun.as_json()
    names = begun.role.policies
    bundle = rego.Bundle(snapshot.rules.policies[name] for name in names)
    opinion = bundle.evaluate(names, json.dumps(given(begun))) if names else Opinion()
    return explain.conclude(snapshot, begun, opinion, found=found, own=own).as_json()
