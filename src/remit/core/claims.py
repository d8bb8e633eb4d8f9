"""What a task's token says. `sub` = spiffe://<trust domain>/role/<role>/task/<id> (SPIFFE-ID §2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from remit.core.task import TASK_ID

MAX_TOKEN_BYTES = 400
"""Some PROXY v2 parsers cap the whole block at 512 bytes."""

ROLE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SUBJECT = re.compile(
    rf"spiffe://(?P<domain>[a-z0-9.-]{{1,100}})/role/(?P<role>{ROLE_NAME.pattern})/task/(?P<task>{TASK_ID.pattern})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Times are Unix seconds. `parent` is the id of the delegating task (`act`)."""

    trust_domain: str
    role: str
    task: str
    jti: str
    issued: int
    expires: int
    parent: str | None = None

    @property
    def subject(self) -> str:
        return f"spiffe://{self.trust_domain}/role/{self.role}/task/{self.task}"


def parse_subject(subject: str) -> tuple[str, str, str] | None:
    """(trust domain, role, task), or None where `subject` is not of exactly that shape."""
    found = _SUBJECT.fullmatch(subject)
    return (found["domain"], found["role"], found["task"]) if found else None
