"""Who is told of approvals, as the settings say. What they name must be there at the start, or nothing starts.

The files that the settings name belong to whoever runs `remit up`; the control plane, a user of its own, reads copies
(0600) in the run directory.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

from remit.app.identities import Identities
from remit.app.store_files import give
from remit.control.ports import Clock
from remit.control.ports_approvals import Notifier
from remit.core.errors import Invalid, Unavailable
from remit.notify.slack import Slack
from remit.notify.webhook import Webhook
from remit.settings import Settings

KEY_MIN_BYTES = 24
"""Standard Webhooks 1.0: 24 to 64 bytes."""
ENCODED = b"whsec_"
"""Begins a key that is written in Base64 (the same)."""
_KEY, _ADDRESS = "webhook.key", "slack.url"


def hand_over(settings: Settings, who: Identities | None) -> None:
    """Give the control plane what is set, take away what is not set any more. `Unavailable` where it cannot be read."""
    given = {}
    if settings.approval_webhook:
        given[_KEY] = _read(settings.approval_webhook_key_file, "approval_webhook_key_file")
    if settings.approval_slack_url_file:
        given[_ADDRESS] = _read(settings.approval_slack_url_file, "approval_slack_url_file")
    for name in (_KEY, _ADDRESS):
        (settings.notify_dir / name).unlink(missing_ok=True)
    for name, content in given.items():
        give(settings.notify_dir / name, content, who.control if who else None)


def of(settings: Settings, clock: Clock) -> Sequence[Notifier]:
    """After `hand_over`. `Invalid` where a setting does not name what it should."""
    found: list[Notifier] = []
    if settings.approval_webhook:
        key = _key((settings.notify_dir / _KEY).read_bytes())
        if len(key) < KEY_MIN_BYTES:
            raise Invalid(f"the key of approval_webhook has fewer than {KEY_MIN_BYTES} bytes")
        found.append(Webhook(url=_url(settings.approval_webhook), key=key, clock=clock))
    if settings.approval_slack_url_file:
        address = (settings.notify_dir / _ADDRESS).read_bytes().decode("utf-8", "replace")
        found.append(Slack(url=_url(address)))
    return found


def _read(file: str, setting: str) -> bytes:
    try:
        return Path(file).read_bytes().strip()
    except OSError as error:
        raise Unavailable(f"setting {setting}: {file or 'no file'} cannot be read: {error.strerror}") from error


def _key(written: bytes) -> bytes:
    if not written.startswith(ENCODED):
        return written
    try:
        return base64.b64decode(written.removeprefix(ENCODED), validate=True)
    except binascii.Error as error:
        raise Invalid("the key of approval_webhook begins with whsec_ and goes on in no Base64") from error


def _url(text: str) -> str:
    if not text.startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
        raise Invalid("a webhook's address is https, or on this machine")
    return text
