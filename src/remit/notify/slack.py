"""Slack's incoming webhooks, and what is compatible with them (Mattermost, Discord's `/slack`).

Everything an agent wrote goes into `plain_text` objects, which Slack shows as they are: no links, mentions or markup.
The fallback text that notifications show has nothing of it. The address is a secret: whoever has it can post.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from remit.control.ports_approvals import Ending, Notice
from remit.notify.webhook import post

MAX_FIELD = 500
"""Slack takes 3,000 characters in a text: all lines fit, however long each would be."""
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


class Slack:
    """Implements `control.ports_approvals.Notifier`. `url`: the incoming webhook's."""

    def __init__(self, *, url: str) -> None:
        self._url = url

    async def notify(self, notice: Notice) -> None:
        await self._post(message(notice))

    async def warn(self, ending: Ending) -> None:
        await self._post(ending_message(ending))

    async def _post(self, said: dict[str, Any]) -> None:
        await post(self._url, json.dumps(said).encode(), {"content-type": "application/json"})


def message(notice: Notice) -> dict[str, Any]:
    """One sentence: who wants to do what, where, with which credential, why, and until when."""
    approval, asked = notice.approval, notice.approval.question
    where = f"{asked.method} {asked.protocol}://{asked.host}:{asked.port}{asked.path}"
    lines = {
        "wants": where,
        "task": f"{asked.task} (role {asked.role}): {notice.purpose}",
        "credential": asked.credential or "none",
        "headers": ", ".join(one.partition(":")[0] for one in asked.headers) or "none that may change what it does",
        "body": f"{asked.body_bytes} bytes",
        "why": "; ".join(asked.reasons),
        "until": f"{approval.expires.isoformat(timespec='seconds')}, then it is denied",
        "answer": f"remit approvals show {approval.id}",
    }
    return _message(f"Approval {approval.id} waits for an answer", "An agent asks", lines)


def ending_message(ending: Ending) -> dict[str, Any]:
    """Which secret ends, when, and what uses it."""
    lines = {
        "secret": f"{ending.secret}, version {ending.version}",
        "end": f"{ending.expires.isoformat(timespec='seconds')}; what uses it is denied from then on",
        "used by": ", ".join(ending.credentials) or "no credential",
        "answer": f"remit secret rotate {ending.secret}",
    }
    return _message(f"Secret {ending.secret}: {ending.nearness.value}", "A secret ends", lines)


def _message(fallback: str, title: str, lines: dict[str, str]) -> dict[str, Any]:
    text = "\n".join(f"{name}: {_plain(value)}" for name, value in lines.items())
    return {
        "text": fallback,
        "blocks": [
            {"type": "header", "text": {"type": "plain_text", "text": title, "emoji": False}},
            {"type": "section", "text": {"type": "plain_text", "text": text, "emoji": False}},
        ],
    }


def _plain(text: str) -> str:
    """Without controls, line ends and what reverses or hides text; where it is cut, it says so."""
    shown = "".join(" " if unicodedata.category(c) in _HIDDEN else c for c in text[:MAX_FIELD])
    left = len(text) - len(shown)
    return f"{shown}… ({left} more characters)" if left > 0 else shown
