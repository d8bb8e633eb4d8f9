"""Decision tables: what a set of manifests is meant to decide, written down as cases, each under a sentence.

A case is a request of a role, with what was used of its budgets and the time where that matters, and what is expected:
`permit: CAPABILITY`, or `deny: REASON`. The reason is part of what is expected, because a request that is refused for
another reason than the one that was meant is refused by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from remit.core.reason import Reason
from remit.core.task import Task
from remit.policy import manifests, specs, text, validation
from remit.policy.fields import Model, fault
from remit.policy.text import Path

MAX_CASES = 2000
NOON = "2026-01-05T12:00:00Z"
"""When a case happens that says nothing of time: a Monday, so that a table reads the same on every day."""


def _moment(value: str) -> str:
    try:
        found = datetime.fromisoformat(value)
    except ValueError as error:
        raise fault("expected a time such as 2026-01-05T12:00:00Z (RFC 3339)") from error
    if found.tzinfo is None:
        raise fault("expected a time with its zone", f"{value}Z")
    return value


def _reason(value: str) -> str:
    if value not in set(Reason) - {Reason.PERMITTED}:
        near = manifests.nearest(value, [reason.value for reason in Reason])
        raise fault(f"expected a reason of a denial, as in docs/reference/reasons.md{near}")
    return value


def _request(value: str) -> str:
    if len(value.split(" ")) != 2:
        raise fault("expected a method and a URL, such as GET https://api.example.com/path")
    return value


Moment = Annotated[str, AfterValidator(_moment)]
Sentence = Annotated[str, Field(min_length=3, max_length=200)]


class CaseSpec(Model):
    """One row. Exactly one of `permit` and `deny`."""

    role: specs.Name | None = None
    request: Annotated[str, AfterValidator(_request), Field(max_length=8192)]
    headers: dict[str, str] = Field(default_factory=dict, max_length=64)
    at: Moment | None = None
    used: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict, max_length=64)
    permit: specs.Name | None = None
    deny: Annotated[str, AfterValidator(_reason)] | None = None
    detail: Annotated[str, Field(max_length=400)] | None = None
    credential: specs.Name | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.permit is None) == (self.deny is None):
            raise fault("expected exactly one of permit: CAPABILITY and deny: REASON")
        if self.permit is not None and self.detail is not None:
            raise fault("expected no detail together with permit: only a denial has one")
        return self


class CasesSpec(Model):
    """A file of cases. `role` and `at` are for the cases that name none of their own."""

    role: specs.Name | None = None
    at: Moment | None = None
    cases: dict[Sentence, CaseSpec] = Field(min_length=1, max_length=MAX_CASES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`used`: by account of a budget. Expected is `permit` (a capability) or `deny` (a reason); `detail` is part of the
    denial's own, `credential` the one that a permit carries; None is not looked at."""

    sentence: str
    role: str
    method: str
    url: str
    at: datetime
    headers: Mapping[str, str] = field(default_factory=dict)
    used: Mapping[str, int] = field(default_factory=dict)
    permit: str | None = None
    deny: Reason | None = None
    detail: str | None = None
    credential: str | None = None
    kin: tuple[Task, ...] = ()
    """The task that asks, and those above it, its parent first; empty: a new task that stands alone."""
    source: str = ""
    line: int = 0


def parse(table: str, source: str) -> list[Case]:
    """The cases of a YAML text. Raises `ManifestError` with every mistake in it."""
    try:
        trees = text.read(table)
    except text.Malformed as error:
        raise manifests.ManifestError(
            [manifests.Problem(file=source, line=error.line, expected=error.message)]
        ) from error
    found: list[Case] = []
    problems: list[manifests.Problem] = []
    for tree in trees:
        spec = _spec(tree, source, problems)
        if spec is None:
            continue
        for sentence, case in spec.cases.items():
            line = tree.lines.get(("cases", sentence), 0)
            role = case.role or spec.role
            if role is None:
                expected = "expected a role, here or for the whole file"
                problems.append(manifests.Problem(file=source, line=line, field=sentence, expected=expected))
            else:
                found.append(_case(sentence, case, role, case.at or spec.at or NOON, source, line))
    if problems:
        raise manifests.ManifestError(problems)
    return found


def _spec(tree: text.Tree, source: str, problems: list[manifests.Problem]) -> CasesSpec | None:
    def wrong(path: Path, mistake: validation.Mistake) -> None:
        problems.append(manifests.located(mistake, path, source, tree.lines))

    return validation.validated(CasesSpec, tree.value, (), wrong)


def _case(sentence: str, spec: CaseSpec, role: str, at: str, source: str, line: int) -> Case:
    method, url = spec.request.split(" ")
    return Case(
        sentence=sentence,
        role=role,
        method=method,
        url=url,
        at=datetime.fromisoformat(at).astimezone(UTC),
        headers=spec.headers,
        used=spec.used,
        permit=spec.permit,
        deny=Reason(spec.deny) if spec.deny is not None else None,
        detail=spec.detail,
        credential=spec.credential,
        source=source,
        line=line,
    )
