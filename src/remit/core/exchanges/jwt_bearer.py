"""JWT bearer assertions (RFC 7523 §2.1), as service accounts of Google and others use them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from remit.core.exchange import Call, Endpoint, Granted, Steps
from remit.core.exchanges import answers, assertion
from remit.core.injections import fields

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
LASTS_S = 300
"""Of an assertion: it is used at once; services refuse more than an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtBearer:
    """The stored secret is a private key (PEM), or a service account's JSON file (`private_key`, `client_email`).

    `issuer` "" is the file's `client_email`. `audience` "" is the endpoint.
    """

    endpoint: Endpoint
    issuer: str = ""
    subject: str = ""
    audience: str = ""
    scopes: tuple[str, ...] = ()

    def unfit(self, value: bytes) -> str | None:
        found = fields.parts(value)
        if not (self.issuer or found.get("client_email")):
            return "nobody says who issues: the secret is no JSON object with client_email, and issuer is not set"
        return assertion.unfit_key(found.get("private_key", "").encode() or value)

    def steps(self, value: bytes, now: datetime) -> Steps:
        found = fields.parts(value)
        issued = int(now.timestamp())
        claims = {
            "iss": self.issuer or found["client_email"],
            **({"sub": self.subject} if self.subject else {}),
            "aud": self.audience or str(self.endpoint),
            **({"scope": " ".join(self.scopes)} if self.scopes else {}),
            "iat": issued,
            "exp": issued + LASTS_S,
        }
        key = found.get("private_key", "").encode() or value
        token = yield from assertion.signed(key, claims, found.get("private_key_id", ""))
        said = yield Call(
            method="POST",
            endpoint=self.endpoint,
            headers={"content-type": "application/x-www-form-urlencoded", "accept": "application/json"},
            body=urlencode({"grant_type": GRANT, "assertion": token}).encode(),
        )
        content = answers.answered(said, self.endpoint)
        return Granted(value=answers.token(content, self.endpoint, "access_token"), lasts_s=answers.lasts_s(content))
