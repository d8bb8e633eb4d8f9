"""Installation tokens of a GitHub App: a JWT of the app buys a token of one installation, for an hour."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from remit.core.errors import Unavailable
from remit.core.exchange import Call, Endpoint, Granted, Steps
from remit.core.exchanges import answers, assertion

BACKDATED_S = 60
"""GitHub advises it, for clocks that differ; an app's JWT may last ten minutes."""
LASTS_S = 540


@dataclass(frozen=True, slots=True, kw_only=True)
class GitHubApp:
    """The stored secret is the app's private key (PEM). `repositories` and `permissions` narrow the token; empty: all
    that the installation has."""

    endpoint: Endpoint
    """`/app/installations/ID/access_tokens` of the API."""
    app: str
    repositories: tuple[str, ...] = ()
    permissions: tuple[tuple[str, str], ...] = ()

    def unfit(self, value: bytes) -> str | None:
        return assertion.unfit_key(value)

    def steps(self, value: bytes, now: datetime) -> Steps:
        issued = int(now.timestamp()) - BACKDATED_S
        token = yield from assertion.signed(value, {"iat": issued, "exp": issued + LASTS_S, "iss": self.app})
        wanted = {
            **({"repositories": list(self.repositories)} if self.repositories else {}),
            **({"permissions": dict(self.permissions)} if self.permissions else {}),
        }
        said = yield Call(
            method="POST",
            endpoint=self.endpoint,
            headers={
                "authorization": f"Bearer {token}",
                "accept": "application/vnd.github+json",
                "content-type": "application/json",
                "x-github-api-version": "2022-11-28",
            },
            body=json.dumps(wanted).encode(),
        )
        content = answers.answered(said, self.endpoint)
        ends = _when(content.get("expires_at"), self.endpoint)
        lasts_s = min(max((ends - now).total_seconds(), 0.0), answers.LONGEST_S)
        return Granted(value=answers.token(content, self.endpoint, "token"), lasts_s=lasts_s)


def _when(text: object, endpoint: Endpoint) -> datetime:
    try:
        found = datetime.fromisoformat(text if isinstance(text, str) else "")
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise Unavailable(f"{endpoint.host} does not say when its token ends")
    return found
