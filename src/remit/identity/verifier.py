"""Tokens, verified on the node: a signature once, then a table look-up by exact bytes.

A signature costs 190 µs, a request's whole budget is under a millisecond, and a connection carries the same token for
an hour. A token admits a connection: one that was seen while fresh stays good after its `exp` for as long as a
connection may live, and whether its task may still act is decided elsewhere (`core.decision.standing`). One that is
first seen after its `exp` admits nobody. Nothing that bytes can say raises.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from remit.control.ports import Clock
from remit.core.claims import MAX_TOKEN_BYTES, Claims, parse_subject
from remit.core.reason import Reason, Refusal
from remit.core.task import TASK_ID

CACHE_MAX = 16384
"""Tokens of about 1,300 tasks that renew every five minutes under connections of an hour."""
SKEW_S = 60
"""How far in the future a token may have been issued."""
LIFE_MAX_S = 24 * 3600
"""No issuer of ours makes longer ones, whatever its setting says."""
_COMPACT = re.compile(rb"[A-Za-z0-9_-]{8,128}\.[A-Za-z0-9_-]{8,400}\.[A-Za-z0-9_-]{86}")
_JTI = re.compile(r"[A-Za-z0-9_-]{1,32}")


@dataclass(frozen=True, slots=True)
class _Known:
    claims: Claims
    kid: str
    until: float
    """By the clock that nobody sets: what is known neither dies nor lives longer when the time of day jumps."""


class Verifier:
    """Implements `control.ports.Verifier`. Without keys it admits nobody. Not thread-safe: one event loop uses it."""

    def __init__(self, *, trust_domain: str, clock: Clock, connection_max_s: float) -> None:
        self._trust_domain = trust_domain
        self._clock = clock
        self._connection_max_s = connection_max_s
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._raw: dict[str, bytes] = {}
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    def replace_keys(self, keys: Mapping[str, bytes]) -> None:
        """Believe these raw Ed25519 keys and no other from now on; what a dropped key signed is forgotten."""
        if dict(keys) == self._raw:
            return
        fresh: dict[str, Ed25519PublicKey] = {}
        for kid, raw in keys.items():
            try:
                fresh[kid] = Ed25519PublicKey.from_public_bytes(raw)
            except ValueError:
                continue
        changed = {kid for kid in self._raw if self._raw[kid] != keys.get(kid)}
        self._raw, self._keys = dict(keys), fresh
        for token in [token for token, known in self._known.items() if known.kid in changed]:
            del self._known[token]

    def verify(self, token: bytes) -> Claims | Refusal:
        """See `control.ports.Verifier.verify`."""
        if not token:
            return Refusal(Reason.TOKEN_MISSING, "the connection carries no token")
        if len(token) > MAX_TOKEN_BYTES:
            return _invalid(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
        known = self._known.get(token)
        if known is not None:
            if self._clock.elapsed() >= known.until:
                del self._known[token]
                return _expired()
            self._known.move_to_end(token)
            return known.claims
        return self._first_sight(token, self._clock.now().timestamp())

    def _first_sight(self, token: bytes, now: float) -> Claims | Refusal:
        if not _COMPACT.fullmatch(token):
            return _invalid("the token is not a compact JWS")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            return _invalid("the token's header cannot be read")
        kid = header.get("kid")
        if set(header) != {"alg", "kid"} or header["alg"] != "EdDSA" or not isinstance(kid, str):
            return _invalid("the token's header is not one that this issuer writes")
        key = self._keys.get(kid)
        if key is None:
            return _invalid("the token is signed by a key that this node does not know")
        try:
            payload = jwt.decode(
                token,
                key,
                algorithms=["EdDSA"],
                options={"verify_exp": False, "verify_iat": False, "verify_sub": False, "verify_jti": False},
            )
        except jwt.InvalidSignatureError:
            return _invalid("the token's signature does not verify")
        except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError):
            return _invalid("the token cannot be read")
        claims = self._claims(payload)
        if claims is None:
            return _invalid("the token's claims are not ones that this issuer writes")
        if claims.issued > now + SKEW_S:
            return _invalid("the token was issued in the future; check the clocks")
        if now >= claims.expires:
            return _expired()
        left_s = claims.expires - now + self._connection_max_s
        self._known[token] = _Known(claims, kid, self._clock.elapsed() + left_s)
        if len(self._known) > CACHE_MAX:
            self._known.popitem(last=False)
        return claims

    def _claims(self, payload: Mapping[str, object]) -> Claims | None:
        if not {"sub", "jti", "exp", "iat"} <= set(payload) <= {"sub", "jti", "exp", "iat", "act"}:
            return None
        subject, jti, parent = payload["sub"], payload["jti"], payload.get("act")
        expires, issued = payload["exp"], payload["iat"]
        if not isinstance(subject, str) or not isinstance(jti, str) or not _JTI.fullmatch(jti):
            return None
        if type(expires) is not int or type(issued) is not int or not 0 < expires - issued <= LIFE_MAX_S:
            return None
        if "act" in payload and not (isinstance(parent, str) and TASK_ID.fullmatch(parent)):
            return None
        parts = parse_subject(subject)
        if parts is None or parts[0] != self._trust_domain:
            return None
        return Claims(
            trust_domain=parts[0],
            role=parts[1],
            task=parts[2],
            jti=jti,
            issued=issued,
            expires=expires,
            parent=parent if isinstance(parent, str) else None,
        )


def _invalid(detail: str) -> Refusal:
    return Refusal(Reason.TOKEN_INVALID, detail)


def _expired() -> Refusal:
    return Refusal(Reason.TOKEN_EXPIRED, "the token expired before this connection was first seen with it")
