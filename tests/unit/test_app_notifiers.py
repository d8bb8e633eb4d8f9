"""Who is told of approvals: what the settings name, or a start that fails and says why."""

from __future__ import annotations

import base64
import hmac
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remit.app import notifiers
from remit.control.ports_approvals import Ending, Notifier
from remit.core.errors import Invalid, Unavailable
from remit.core.expiry import Nearness
from remit.notify import webhook
from remit.notify.slack import Slack
from remit.notify.webhook import Webhook
from remit.settings import Settings
from remit.testing import ManualClock


def of(settings: Settings, directory: Path) -> Sequence[Notifier]:
    """As `up` and then the control plane do it."""
    settings = replace(settings, run_dir=directory / "run")
    settings.notify_dir.mkdir(parents=True, exist_ok=True)
    notifiers.hand_over(settings, None)
    return notifiers.of(settings, ManualClock())


def test_nobody_is_told_unless_somebody_is_named() -> None:
    assert notifiers.of(Settings(), ManualClock()) == []


def test_both_are_told_when_both_are_named(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"k" * 32 + b"\n")
    (tmp_path / "slack").write_text("https://hooks.example/x\n")
    settings = replace(
        Settings(),
        approval_webhook="https://ops.example/hook",
        approval_webhook_key_file=str(tmp_path / "key"),
        approval_slack_url_file=str(tmp_path / "slack"),
    )
    assert [type(one) for one in of(settings, tmp_path)] == [Webhook, Slack]
    assert [stat.S_IMODE(one.stat().st_mode) for one in (tmp_path / "run/notify").iterdir()] == [0o600] * 2
    assert of(Settings(), tmp_path) == []
    assert list((tmp_path / "run/notify").iterdir()) == []


async def test_a_key_in_base64_signs_as_the_receivers_library_expects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vector of the specification's reference libraries."""
    (tmp_path / "key").write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    settings = replace(
        Settings(), approval_webhook="https://ops.example", approval_webhook_key_file=str(tmp_path / "key")
    )
    (made,) = of(settings, tmp_path)
    sent: list[tuple[str, bytes, dict[str, str]]] = []

    async def post(*call: Any) -> None:
        sent.append(call)

    monkeypatch.setattr(webhook, "post", post)
    await made.warn(
        Ending(secret="s", version=1, expires=ManualClock().now(), nearness=Nearness.OVER, credentials=(), record="r-1")
    )
    ((_, body, headers),) = sent
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert headers["webhook-signature"] == "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"approval_webhook": "https://ops.example"}, Unavailable),
        ({"approval_webhook": "https://ops.example", "approval_webhook_key_file": "short"}, Invalid),
        ({"approval_webhook": "https://ops.example", "approval_webhook_key_file": "odd"}, Invalid),
        ({"approval_webhook": "http://ops.example", "approval_webhook_key_file": "long"}, Invalid),
        ({"approval_slack_url_file": "nothing-there"}, Unavailable),
        ({"approval_slack_url_file": "long"}, Invalid),
    ],
)
def test_what_is_not_as_it_must_be_is_said(tmp_path: Path, settings: dict[str, str], error: type[Exception]) -> None:
    (tmp_path / "short").write_text("k" * 23)
    (tmp_path / "odd").write_text("whsec_" + "!" * 32)
    (tmp_path / "long").write_text("k" * 32)
    files = {name: str(tmp_path / value) if name.endswith("_file") else value for name, value in settings.items()}
    with pytest.raises(error):
        of(replace(Settings(), **files), tmp_path)  # type: ignore[arg-type]
