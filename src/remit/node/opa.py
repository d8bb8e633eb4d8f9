"""Policies, evaluated by an Open Policy Agent beside the node, over its REST API.

An answer counts only when it says that it was given from the very policies that are in force (`provenance`): OPA
fetches its bundles when it likes, so right after a change it answers from what it had, and an answer from older
policies is no answer. Whatever else is not a whole, defined document in time is a failure too, and so a denial. The
same memo as before the in-process engine keeps most requests from being asked at all.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from remit.control.ports import Policies
from remit.core.decision import Candidate, Opinion
from remit.core.snapshot import Policy, Snapshot
from remit.node import policy_places
from remit.policy import bundle, rego, verdict
from remit.policy.given import given
from remit.policy.memo import Memo

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 32
MAX_ANSWER = 1 << 20
KEEP_ALIVE_S = 60.0
_ASKING = "strict-builtin-errors=true&provenance=true"
"""Without the first, a builtin that fails makes a rule undefined, and a `deny` that is undefined denies nothing."""


class _Failed(Exception):
    """Why there is no answer that counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edition:
    policies: Mapping[str, Policy]
    revision: str
    broken: Mapping[str, str]
    memo: Memo


class Opa:
    """`control.ports.Policies` by the server at `url` (`http://…`, or `unix:/path` of its socket).

    `timeout_s` bounds an evaluation whole, connecting and waiting for a connection included.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        limits = httpx.Limits(
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE_S,
        )
        path = url.removeprefix("unix:") if url.startswith("unix:") else None
        self._http = httpx.AsyncClient(
            base_url="http://localhost" if path is not None else url,
            transport=httpx.AsyncHTTPTransport(uds=path, limits=limits),
            timeout=timeout_s,
            headers={"accept-encoding": "identity"},
            follow_redirects=False,
            trust_env=False,
        )
        self._edition = _edition({})
        self._places = policy_places.Places()

    def update(self, snapshot: Snapshot) -> None:
        """Take only answers from the policies of `snapshot` from now on."""
        if snapshot.rules.policies != self._edition.policies:
            self._edition = _edition(snapshot.rules.policies)

    async def judge(self, candidate: Candidate) -> Opinion:
        names = candidate.role.policies
        if not names:
            return Opinion()
        document, edition = given(candidate), self._edition
        key = edition.memo.key(names, document)
        known = edition.memo.get(key) if key is not None else None
        if known is not None:
            return known
        for name in names:
            if name not in edition.policies:
                return Opinion(failure=f"{name}: the policy does not exist")
            if name in edition.broken:
                return Opinion(failure=f"{name}: cannot be used: {edition.broken[name]}")
        text = json.dumps({"input": document})
        if len(text) > rego.MAX_INPUT:
            return Opinion(failure=f"the input of the policies is over {rego.MAX_INPUT} bytes")
        # A task of its own: whoever decides may run without one, and neither time-outs nor the client can.
        opinion = await asyncio.ensure_future(self._bounded(candidate.task.id, edition, names, text.encode()))
        if key is not None and edition is self._edition:
            edition.memo.put(key, opinion)
        return opinion

    async def close(self) -> None:
        await self._http.aclose()

    async def _bounded(self, task: str, edition: _Edition, names: tuple[str, ...], body: bytes) -> Opinion:
        if not self._places.free(task):
            return Opinion(failure=policy_places.FULL)
        self._places.take(task)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._opinion(edition, names, body)
        except _Failed as failed:
            return Opinion(failure=verdict.printable(str(failed)))
        except TimeoutError:
            return Opinion(failure=f"{', '.join(names)}: OPA took longer than {self._timeout_s:g} s")
        except Exception as error:
            log.warning("OPA could not be asked: %r", error)
            return Opinion(failure=f"OPA could not be asked: {type(error).__name__}")
        finally:
            self._places.leave(task)

    async def _opinion(self, edition: _Edition, names: tuple[str, ...], body: bytes) -> Opinion:
        said = verdict.Verdict()
        for name in names:
            document = await self._document(edition, name, body)
            failure = said.hear(name, document)
            if failure is not None:
                raise _Failed(f"{name}: {failure}")
        return said.opinion()

    async def _document(self, edition: _Edition, name: str, body: bytes) -> Mapping[str, Any]:
        path = edition.policies[name].package.replace(".", "/")
        headers = {"content-type": "application/json"}
        async with self._http.stream("POST", f"/v1/data/{path}?{_ASKING}", content=body, headers=headers) as response:
            text = await _bounded_body(response)
        if response.status_code != 200:
            raise _Failed(f"{name}: cannot be evaluated: OPA answered {response.status_code}{_said(text)}")
        answer = _object(text)
        if answer is None:
            raise _Failed(f"{name}: OPA gave an answer that is none")
        if edition.revision not in _revisions(answer):
            raise _Failed(f"{name}: OPA does not have the policies in force yet (bundle {edition.revision[:12]})")
        found = answer.get("result")
        if not isinstance(found, dict):
            raise _Failed(f"{name}: its document is undefined")
        return found


def _edition(policies: Mapping[str, Policy]) -> _Edition:
    broken = {name: why for name, policy in policies.items() if (why := bundle.flaw(policy))}
    reads = {name: rego.analysis(policy.module).reads for name, policy in policies.items() if name not in broken}
    return _Edition(policies=dict(policies), revision=bundle.revision(policies), broken=broken, memo=Memo(reads))


async def _bounded_body(response: httpx.Response) -> bytes:
    parts = bytearray()
    async for part in response.aiter_raw():
        parts += part
        if len(parts) > MAX_ANSWER:
            raise _Failed("OPA gave an answer without end")
    return bytes(parts)


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _revisions(answer: Mapping[str, Any]) -> set[str]:
    """The revisions of the bundles that an answer was given from (OPA's REST API, "Provenance")."""
    provenance = answer.get("provenance")
    bundles = provenance.get("bundles") if isinstance(provenance, dict) else None
    if not isinstance(bundles, dict):
        return set()
    return {str(one.get("revision")) for one in bundles.values() if isinstance(one, dict)}


def _said(text: bytes) -> str:
    answer = _object(text) or {}
    errors = answer.get("errors")
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else answer
    message = first.get("message")
    return f": {message}" if isinstance(message, str) else ""


_: type[Policies] = Opa
