"""The check of opaque connections: the one decision, asked about a connection instead of a request.

What is on this socket comes from the listener inside Envoy (`tunnels`), never from an agent: its path says what the
connection is. A refusal is answered with 200 as well, and with the header that sends the connection to `refuse`: a
denial that ends in a closed socket explains nothing. A 200 without an address dials nothing.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from remit.boundary import check, check_server, check_wire
from remit.boundary.check_wire import Met, Refuse
from remit.boundary.tunnels import REFUSED, TLS_PATH
from remit.control.decide import Denied, Held, Permitted
from remit.core import flow
from remit.core.capability import Protocol
from remit.core.errors import Invalid
from remit.core.reason import Reason, Refusal
from remit.core.request import Evidence, Opaque

Names = Callable[[int, str, int], tuple[str, ...]]
"""The names that a cell may mean by an address and a port (`node.destinations`)."""


async def serve_tunnel(
    path: Path,
    decide: check_server.Decide,
    refuse: Refuse,
    names: Names,
    most: int,
    met: Met = check_wire.nobody_asks,
    unheard: check_server.Unheard = check_server.untold,
) -> None:
    """Answer Envoy on Unix socket `path` (mode 0600) until cancelled. At most `most` decisions wait at once."""

    async def decided(evidence: Evidence) -> Permitted | Denied:
        answer = await decide(opened(evidence, names))
        if not isinstance(answer, Held):
            return answer
        assert answer.question is not None, "what is carried unread has no credential"
        why = f"a connection that is carried unread cannot wait for a human: {'; '.join(answer.question.reasons)}"
        refusal, asked = Refusal(Reason.APPROVAL_UNAVAILABLE, why), answer.question
        facts: dict[str, object] = {"capability": asked.capability, "scheme": asked.protocol, "host": asked.host}
        return await refuse(refusal, token=evidence.token, flow=evidence.peer, **facts, port=asked.port)

    await check_server.serve_check(path, decided, refuse, most, render, met, unheard)


def opened(evidence: Evidence, names: Names) -> Evidence:
    """The evidence of a connection: what is carried, and by which names its destination may be meant."""
    if evidence.target == TLS_PATH:
        return dataclasses.replace(evidence, opaque=Opaque(protocol=Protocol.TLS))
    address, _, port = evidence.destination.rpartition(":")
    cell = flow.cell_at(evidence.peer)
    meant = names(cell, address.strip("[]"), int(port)) if cell is not None and port.isdigit() else ()
    return dataclasses.replace(evidence, opaque=Opaque(protocol=Protocol.TCP, names=meant))


def render(answer: Permitted | Denied | Held) -> bytes:
    """The answer to Envoy."""
    if not isinstance(answer, Denied):
        return check.render(answer)
    stated = {"reason": answer.refusal.reason.value, "detail": answer.refusal.detail, "record": answer.record}
    said = base64.b64encode(json.dumps(stated).encode())
    return b"HTTP/1.1 200 OK\r\n%b: %b\r\nx-remit-record: %b\r\ncontent-length: 0\r\n\r\n" % (
        REFUSED.encode(),
        said,
        answer.record.encode(),
    )


def read_refusal(text: str) -> Denied:
    """The refusal that `render` wrote. `Invalid`: it is none."""
    try:
        said = json.loads(base64.b64decode(text, validate=True))
        refusal = Refusal(Reason(said["reason"]), str(said["detail"]))
        return Denied(record=str(said["record"]), refusal=refusal)
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid("a refused connection came without its reason") from error
