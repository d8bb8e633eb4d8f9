"""What a decision knows of grants: little on the fast path, everything while a request is held.

The fast check has no time to ask and does not see a body, so it goes by standing grants alone. A held request may use
any grant; a use is taken by the control plane before the permit is recorded, so that two nodes, two requests or a
restart never use one twice. What was taken and then not used is gone.
"""

from __future__ import annotations

from collections.abc import Iterable

from remit.control.ports import Clock
from remit.control.ports_approvals import ApprovalDesk
from remit.core.credential import Credential, Seen
from remit.core.errors import Unavailable
from remit.core.grant import NO_BODY, Body, Grant, Question
from remit.core.reason import Reason, Refusal


class Answers:
    """For the fast check: grants that stand for themselves."""

    body = NO_BODY
    shown: str | None = None
    """The body's digest where one has been looked for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def covering(self, grants: Iterable[Grant], asked: Question) -> Grant | None:
        now = self._clock.now()
        return next((grant for grant in grants if grant.standing and grant.covers(asked, now)), None)

    def undecided(self, grants: Iterable[Grant], asked: Question) -> bool:
        """Whether there is a grant that may cover `asked` and that only a held request can use."""
        return any(not grant.standing and grant.question.method == asked.method for grant in grants)

    def seen(self, credential: Credential) -> Seen:
        """What `credential` is presented by, besides the request."""
        return Seen(now=self._clock.now(), body=self.shown, stand_in=credential.stand_in)

    async def take(self, grant: Grant) -> Refusal | None:
        """Standing grants have no uses to take."""
        return None


class Hearing(Answers):
    """For one held request, with the body that it was shown with."""

    def __init__(self, clock: Clock, desk: ApprovalDesk, body: Body) -> None:
        super().__init__(clock)
        self._desk = desk
        self.body, self.shown = body, body.digest
        self._taken: Grant | None = None
        self._useless: set[str] = set()

    def covering(self, grants: Iterable[Grant], asked: Question) -> Grant | None:
        now = self._clock.now()
        for grant in (self._taken, *grants):  # the last use may be the one that was taken: no snapshot has it then
            if grant is not None and grant.id not in self._useless and grant.covers(asked, now):
                return grant
        return None

    def undecided(self, grants: Iterable[Grant], asked: Question) -> bool:
        return False

    async def take(self, grant: Grant) -> Refusal | None:
        """None where one use is ours now, or none had to be taken."""
        if grant.uses is None:
            return None
        # What is taken already may have been taken back since: the snapshot tells a grant that is used up from a
        # revoked one no more than from any other that it does not have.
        had = self._desk.stands if grant is self._taken else self._desk.use
        try:
            if await had(grant.id):
                self._taken = grant
                return None
        except Unavailable as error:
            return Refusal(Reason.APPROVAL_UNAVAILABLE, error.detail)
        self._useless.add(grant.id)
        return Refusal(Reason.APPROVAL_REQUIRED, f"grant {grant.id} has no use left")
