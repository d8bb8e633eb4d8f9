"""What was injected and must not come back, for as long as an answer may still be on its way.

The boundary names it by a reference that says nothing: the secret itself stands in no metadata and in no log. A
reference stands for the secrets of a credential, not for a request, so that what is made of them is made once.
"""

from __future__ import annotations

import secrets as randomness
from collections.abc import Callable
from dataclasses import dataclass

from remit.core import spellings
from remit.core.answers import Answer
from remit.core.scrubber import GUESSES, Forms

KEPT_MARGIN_S = 60.0
SWEEP_S = 60.0
MOST = 10_000
"""References at once; the one that was used longest ago makes room, and its answers are refused."""

Secrets = tuple[tuple[bytes, bytes], ...]
"""Each with what the agent sees in its place (`core.credential.Injected.secrets`)."""


@dataclass(slots=True)
class _Kept:
    reference: str
    secrets: Secrets
    until: float
    forms: tuple[Forms, Forms] | None = None

    @property
    def guessed(self) -> bool:
        """Whether somebody may be guessing: whoever waits until it is forgotten could go on."""
        return self.forms is not None and any(forms.guesses < GUESSES for forms in self.forms)


class Hidden:
    """For one event loop. `answer_max_s`: how long after its permit an answer may begin. `monotonic`: seconds."""

    def __init__(self, *, answer_max_s: float, monotonic: Callable[[], float]) -> None:
        self._kept_s = answer_max_s + KEPT_MARGIN_S
        self._monotonic = monotonic
        self._by_secrets: dict[Secrets, _Kept] = {}
        self._by_reference: dict[str, _Kept] = {}
        self._swept = monotonic()

    def __len__(self) -> int:
        return len(self._by_reference)

    def reference(self, secrets: Secrets) -> str:
        """Name `secrets` in a permit. Never empty."""
        now = self._monotonic()
        kept = self._by_secrets.get(secrets)
        if kept is None:
            self._make_room(now)
            kept = _Kept(reference=randomness.token_hex(16), secrets=secrets, until=0.0)
            self._by_secrets[secrets] = self._by_reference[kept.reference] = kept
        kept.until = now + self._kept_s
        return kept.reference

    def answer(self, reference: str) -> Answer | None:
        """The answer to a request whose permit named `reference`; None: it is not known, so nothing may pass."""
        kept = self._by_reference.get(reference)
        if kept is None:
            return None
        if kept.forms is None:
            tables = (spellings.table(kept.secrets, level=level) for level in (False, True))
            kept.forms = Forms(next(tables)), Forms(next(tables))
        return Answer(*kept.forms)

    def _make_room(self, now: float) -> None:
        if now - self._swept > SWEEP_S:
            self._swept = now
            for kept in [kept for kept in self._by_reference.values() if kept.until < now and not kept.guessed]:
                self._forget(kept)
        if len(self._by_reference) >= MOST:
            self._forget(min(self._by_reference.values(), key=lambda kept: kept.until))

    def _forget(self, kept: _Kept) -> None:
        del self._by_reference[kept.reference], self._by_secrets[kept.secrets]
