"""Who is told of approvals, as the settings say. What they name must be there at the start, or nothing starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from remit.control.ports import Clock
from remit.control.ports_approvals import Notifier
from remit.core.errors import Invalid, Unavailable
from remit.notify.slack import Slack
from remit.notify.webhook import Webhook
from remit.settings import Settings

KEY_MIN_BYTES = 24
"""Standard Webhooks 1.0: 24 to 64 bytes."""


def of(settings: Settings, clock: Clock) -> Sequence[Notifier]:
    """`Invalid` or `Unavailable` where a setting does not name what it should."""
    found: list[Notifier] = []
    if settings.approval_webhook:
        key = _read(settings.approval_webhook_key_file, "approval_webhook_key_file")
        if len(key) < KEY_MIN_BYTES:
            raise Invalid(f"the key of approval_webhook has fewer than {KEY_MIN_BYTES} bytes")
        found.append(Webhook(url=_url(settings.approval_webhook), key=key, clock=clock))
    if settings.approval_slack_url_file:
        address = _read(settings.approval_slack_url_file, "approval_slack_url_file").decode("utf-8", "replace")
        found.append(Slack(url=_url(address)))
    return found


def _read(file: str, setting: str) -> bytes:
    try:
        return Path(file).read_bytes().strip()
    except OSError as error:
        raise Unavailable(f"setting {setting}: {file or 'no file'} cannot be read: {error.strerror}") from error


def _url(text: str) -> str:
    if not text.startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
        raise Invalid("a webhook's address is https, or on this machine")
    return text
