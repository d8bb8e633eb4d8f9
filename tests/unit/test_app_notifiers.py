"""Who is told of approvals: what the settings name, or a start that fails and says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from remit.app import notifiers
from remit.core.errors import Invalid, Unavailable
from remit.notify.slack import Slack
from remit.notify.webhook import Webhook
from remit.settings import Settings
from remit.testing import ManualClock


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
    assert [type(one) for one in notifiers.of(settings, ManualClock())] == [Webhook, Slack]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"approval_webhook": "https://ops.example"}, Unavailable),
        ({"approval_webhook": "https://ops.example", "approval_webhook_key_file": "short"}, Invalid),
        ({"approval_webhook": "http://ops.example", "approval_webhook_key_file": "long"}, Invalid),
        ({"approval_slack_url_file": "nothing-there"}, Unavailable),
        ({"approval_slack_url_file": "long"}, Invalid),
    ],
)
def test_what_is_not_as_it_must_be_is_said(tmp_path: Path, settings: dict[str, str], error: type[Exception]) -> None:
    (tmp_path / "short").write_text("k" * 23)
    (tmp_path / "long").write_text("k" * 32)
    files = {name: str(tmp_path / value) if name.endswith("_file") else value for name, value in settings.items()}
    with pytest.raises(error):
        notifiers.of(replace(Settings(), **files), ManualClock())  # type: ignore[arg-type]
