"""The first example does what its README says."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from explained import explained

from remit.core.snapshot import Rules, Snapshot
from remit.policy import compile as compiler
from remit.policy import manifests, rego

FOLDER = Path(__file__).parents[2] / "examples/01-first-cell"


@pytest.fixture(scope="module")
def rules() -> Rules:
    documents = [d for path in sorted(FOLDER.glob("*.yaml")) for d in manifests.parse(path.read_text(), path.name)]
    assert compiler.check(documents) == []
    return compiler.rules(documents)


@pytest.mark.parametrize(
    ("role", "method", "url", "reason", "credential"),
    [
        ("devops", "GET", "https://api.github.com/user", "permitted", "github-token"),
        ("devops", "GET", "https://github.com/o/r/info/refs?service=git-upload-pack", "permitted", None),
        ("devops", "POST", "https://github.com/o/r.git/git-upload-pack", "permitted|policy_denied", None),
        ("devops", "POST", "https://github.com/o/r/git-receive-pack", "no_capability", None),
        ("devops", "DELETE", "https://api.github.com/repos/o/r/issues/1", "policy_denied", "github-token"),
        ("devops", "POST", "https://api.github.com/user/repos", "no_capability", None),
        ("devops", "POST", "https://slack.com/api/chat.postMessage", "no_capability", None),
        ("notifier", "POST", "https://slack.com/api/chat.postMessage", "permitted", "chat-token"),
        ("notifier", "GET", "https://api.github.com/user", "no_capability", None),
    ],
)
def test_what_the_readme_says_happens(
    rules: Rules, role: str, method: str, url: str, reason: str, credential: str | None
) -> None:
    sealed = {"github-token": b"x", "chat-token": b"x"}
    told = explained(Snapshot(version="1", rules=rules, sealed=sealed), role, method, url, {})
    assert told["reason"] in reason.split("|")
    assert told["credential"] == credential


@pytest.mark.parametrize(
    ("when", "method", "denied"),
    [
        ("2026-11-23T06:59:59", "POST", True),
        ("2026-11-23T07:00:00", "POST", False),
        ("2026-11-23T18:59:59", "POST", False),
        ("2026-11-23T19:00:00", "POST", True),
        ("2026-11-22T12:00:00", "POST", True),
        ("2026-11-22T12:00:00", "GET", False),
    ],
)
def test_working_hours_are_what_they_say(rules: Rules, when: str, method: str, denied: bool) -> None:
    nanoseconds = int(datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp()) * 10**9
    policy = rules.policies["writes-in-working-hours"]
    module = policy.module.replace("time.now_ns()", str(nanoseconds))
    document: dict[str, Any] = {"request": {"method": method, "path": "/x"}}
    bundle = rego.Bundle([type(policy)(name="p", module=module, package=policy.package)])
    opinion = bundle.evaluate(["p"], json.dumps(document))
    assert opinion.failure is None
    assert bool(opinion.denials) is denied
    assert rego.analysis(policy.module).reads is None, "what asks for the time is never remembered"
