"""The parts of a decision, put together: each must know of the others what it would otherwise let pass.

What the log is to hold is rationed; what a snapshot changes, openings, budgets and policies hear before anything is
decided from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from remit.control.budgets import Budgets, Cut
from remit.control.decide import Decider
from remit.control.hearing import Answers
from remit.control.hidden import Hidden
from remit.control.knowledge import Knowledge
from remit.control.openings import Openings
from remit.control.ports import Clock, Journal, Resolver, Secrets, Verifier
from remit.control.ports_control import CurrentPolicies
from remit.control.rationing import Rationed


@dataclass(frozen=True, slots=True, kw_only=True)
class Deciding:
    """`journal` takes from each cell no more than its share."""

    decider: Decider
    budgets: Budgets
    hidden: Hidden
    journal: Rationed


def over(
    *,
    knowledge: Knowledge,
    clock: Clock,
    monotonic: Callable[[], float],
    journal: Journal,
    openings: Openings,
    cut: Cut,
    verifier: Verifier,
    policies: CurrentPolicies,
    resolver: Resolver,
    secrets: Secrets,
    answer_max_s: float,
) -> Deciding:
    """`answer_max_s`: how long an answer may take, after which nobody looks for secrets in it."""
    budgets = Budgets(clock=clock, journal=journal, cut=cut)
    hidden = Hidden(answer_max_s=answer_max_s, monotonic=monotonic)
    rationed = Rationed(journal, monotonic)
    for listener in (openings.update, budgets.update, policies.update):
        knowledge.on_change(listener)
    decider = Decider(
        knowledge=knowledge,
        verifier=verifier,
        policies=policies,
        resolver=resolver,
        secrets=secrets,
        journal=rationed,
        openings=openings,
        budgets=budgets,
        answers=Answers(clock),
        hidden=hidden,
    )
    return Deciding(decider=decider, budgets=budgets, hidden=hidden, journal=rationed)
