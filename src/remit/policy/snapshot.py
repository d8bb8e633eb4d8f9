"""A snapshot on its way from the control plane to a node, as JSON: whole, and named by the hash of its content.

A node keeps the rules it has compiled as long as the documents are the same, since most changes are a task that came
or went. Broken documents arrive as rules that refuse; a snapshot that is broken itself is not taken at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from remit.core import budget, flow, grant
from remit.core.claims import ROLE_NAME
from remit.core.errors import Invalid
from remit.core.grant import Grant
from remit.core.snapshot import Revoked, Snapshot
from remit.core.task import TASK_ID, State, Task
from remit.policy import compile as compiler
from remit.policy import manifests

MAX_COMMAND = 8, 200
"""Arguments, and characters of each, that a node is told of a task's command: it only ever shows them, and a snapshot
that outgrew its frame could not carry a revocation."""
KEY_BYTES = 32
"""Raw Ed25519 public key (RFC 8032 §5.1.5)."""


def dump(
    *,
    epoch: int,
    documents: Sequence[Mapping[str, Any]],
    tasks: Iterable[Task],
    revoked: Revoked,
    keys: Mapping[str, bytes],
    sealed: Mapping[str, bytes],
    grants: Sequence[Grant] = (),
    expires: Mapping[str, datetime] | None = None,
) -> dict[str, Any]:
    """The JSON form. `documents` are manifests as JSON values, in any order."""
    body: dict[str, Any] = {
        "epoch": epoch,
        "documents": list(documents),
        "digest": compiler.raw_digest(documents),
        "tasks": [_task(task) for task in tasks],
        "revoked": {
            "capabilities": sorted(revoked.capabilities),
            "credentials": sorted(revoked.credentials),
            "roles": sorted(revoked.roles),
            "everything": revoked.everything,
        },
        "keys": {kid: base64.b64encode(key).decode() for kid, key in keys.items()},
        "sealed": {name: base64.b64encode(blob).decode() for name, blob in sealed.items()},
        "grants": [grant.as_json(one) for one in grants],
        "expires": {name: end.astimezone(UTC).isoformat() for name, end in (expires or {}).items()},
    }
    return {"version": _version(body), **body}


def load(document: Mapping[str, Any], previous: Snapshot | None) -> Snapshot:
    """The snapshot that `dump` made. Compiled rules of `previous` are kept where the documents are the same.

    Raises `Invalid` where the content does not have the hashes it names or is not of the shape above.
    """
    try:
        body = {key: value for key, value in document.items() if key != "version"}
        version = _version(body)
        if document.get("version") != version:
            raise Invalid("the snapshot does not have the hash that it names")
        digest = compiler.raw_digest(body["documents"])
        if body["digest"] != digest:
            raise Invalid("the documents of the snapshot do not have the digest that it names")
        if previous is not None and previous.version and previous.rules.digest == digest:
            rules = previous.rules
        else:
            rules = compiler.rules(manifests.lenient(body["documents"]))
        return Snapshot(
            version=version,
            epoch=_count(body["epoch"]),
            rules=rules,
            tasks={task.id: task for task in map(_read_task, body["tasks"])},
            revoked=Revoked(
                capabilities=_names(body["revoked"]["capabilities"]),
                credentials=_names(body["revoked"]["credentials"]),
                roles=_names(body["revoked"]["roles"]),
                everything=body["revoked"]["everything"] is not False,
            ),
            keys={kid: _key(text) for kid, text in body["keys"].items()},
            sealed={name: base64.b64decode(blob, validate=True) for name, blob in body["sealed"].items()},
            grants=_grants(body["grants"]),
            expires={name: _instant(text) for name, text in body.get("expires", {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise Invalid(f"the snapshot is malformed: {ascii(repr(error))[:200]}") from error


def _grants(items: Iterable[Mapping[str, Any]]) -> Mapping[str, tuple[Grant, ...]]:
    found: dict[str, tuple[Grant, ...]] = {}
    for one in map(grant.from_json, items):
        found[one.task] = (*found.get(one.task, ()), one)
    return found


def _version(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _task(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "role": task.role,
        "state": task.state.value,
        "cell": task.cell,
        "created": task.created.astimezone(UTC).isoformat(),
        "command": [part[: MAX_COMMAND[1]] for part in task.command[: MAX_COMMAND[0]]],
        "parent": task.parent,
        "operator": task.operator,
        "budgets": [dict(budget.as_json(one)) for one in task.budgets],
        **({"capabilities": sorted(task.capabilities)} if task.capabilities is not None else {}),
    }


def _read_task(item: Mapping[str, Any]) -> Task:
    created = _instant(item["created"])
    parent = item["parent"]
    if not TASK_ID.fullmatch(item["id"]) or not (parent is None or TASK_ID.fullmatch(parent)):
        raise ValueError("a task without a valid id")
    if not ROLE_NAME.fullmatch(item["role"]) or not 0 < _count(item["cell"]) <= flow.MAX_CELL:
        raise ValueError("a task without a valid role or cell")
    return Task(
        id=item["id"],
        role=item["role"],
        state=State(item["state"]),
        cell=item["cell"],
        created=created,
        command=tuple(str(part) for part in item["command"]),
        parent=parent,
        operator=str(item["operator"]),
        budgets=tuple(budget.from_json(one) for one in item.get("budgets", ())),
        capabilities=_names(item["capabilities"]) if "capabilities" in item else None,
    )


def _instant(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time without its zone")
    return found


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a number that is no count")
    return value


def _names(value: object) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("a list of names that is none")
    return frozenset(value)


def _key(text: str) -> bytes:
    key = base64.b64decode(text, validate=True)
    if len(key) != KEY_BYTES:
        raise ValueError("a public key of the wrong length")
    return key
