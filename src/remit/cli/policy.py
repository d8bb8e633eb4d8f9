"""`policy test`: manifests held against tables of what they are meant to decide, without anything running.
`policy replay`: a changed set of manifests held against what was decided, as the audit log tells it.
`policy diff`: two sets of manifests held against each other, by their tables and by what was decided.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from remit.cli import audit, client, junit, lineages, manifests, narrowing, options, output
from remit.core.errors import Invalid, NotFound
from remit.core.snapshot import Rules
from remit.policy import cases, crosscheck, trial
from remit.policy import compile as compiler
from remit.policy import manifests as parsing
from remit.policy import replay as replaying
from remit.policy.cases import Case
from remit.policy.manifests import ManifestError
from remit.policy.trial import Outcome

TABLES = "tests"
"""The directory beside manifests that holds their tables; `apply` does not look into it."""
FAILED = 1
LIVE = "live"
"""Stands for the manifests in force."""

app = typer.Typer(no_args_is_help=True, help="Try policies before they are in force.")


@app.callback()
def policy() -> None:
    """Try policies before they are in force."""


@app.command("test")
def test_(
    path: Annotated[Path, typer.Argument(help="A directory of manifests with tests/*.yaml, or a directory of such.")],
    junit_file: Annotated[Path | None, typer.Option("--junit", help="Also write the results as JUnit XML.")] = None,
    as_json: options.Json = False,
) -> None:
    """Hold manifests against their decision tables. Exit code 1 where a case is not decided as expected."""
    suites = [(directory, list(_tried(directory))) for directory in _packs(path)]
    outcomes = [outcome for _, found in suites for outcome in found]
    if junit_file is not None:
        try:
            junit_file.write_bytes(junit.document(suites))
        except OSError as error:
            raise Invalid(f"{junit_file} cannot be written: {error.strerror}") from error
    if as_json:
        for outcome in outcomes:
            output.line(outcome.as_json())
    else:
        _show(suites)
    failed = sum(1 for outcome in outcomes if outcome.wrong)
    output.say(f"{len(outcomes) - failed} of {len(outcomes)} cases are decided as expected")
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def replay(
    files: Annotated[list[str], typer.Option("--file", "-f", help="Changed manifests, as for apply. Repeatable.")],
    since: narrowing.Moment = "1h",
    until: narrowing.Moment = None,
    role: narrowing.Role = None,
    as_json: options.Json = False,
) -> None:
    """Decide recorded requests again, with changed manifests, and show what would be otherwise. Nothing is changed."""
    fresh = manifests.read(files)
    replaced = {(document.kind, document.name) for document in fresh}
    query: dict[str, object] = {"kind": "decision", "role": role}
    query |= {"since": narrowing.moment(since), "until": narrowing.moment(until)}
    with client.connected() as api:
        current = in_force(api)
        changed = [document for document in current if (document.kind, document.name) not in replaced] + fresh
        problems = crosscheck.check(changed)
        if problems:
            raise ManifestError(problems)
        found = replaying.replay(
            audit.pages(api, query),
            before=compiler.rules(current),
            after=compiler.rules(changed),
            known=lineages.known(api, query),
        )
    _told(found.changes, as_json=as_json)
    output.say(
        f"{output.counted(found.replayed, 'decision')} replayed; {found.left_out} left out, which rules alone did not "
        "decide"
    )
    _orphaned(found)
    if any(not change.certain for change in found.changes):
        output.say("(?): the record lacks what mattered (query, headers, budgets), or the rules have changed since")


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help="A file or directory of manifests; `live`: those in force.")],
    new: Annotated[str, typer.Argument(help="Likewise.")],
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Also decide again what was recorded since then: 1h, 2d.")
    ] = None,
    until: narrowing.Moment = None,
    role: narrowing.Role = None,
    as_json: options.Json = False,
) -> None:
    """Show which decisions differ between two sets of manifests: of the cases in their tests/, and of recorded ones.

    Exit code 1 where any differs, 0 where none does. Nothing is changed.
    """
    before, after = _rules(old), _rules(new)
    listed = {_essence(case): case for path in (new, old) for case in _cases(path)}
    if not listed and since is None:
        raise Invalid("there is nothing to decide: neither has tests/, and no time is given", hint="--since 1h")
    of_role = [case for case in listed.values() if role in (None, case.role)]
    tabled = replaying.cases(of_role, before=before, after=after)
    changes, counted = list(tabled.changes), output.counted(tabled.replayed, "case")
    left_out = tabled.left_out
    if since is not None:
        query: dict[str, object] = {"kind": "decision", "role": role}
        query |= {"since": narrowing.moment(since), "until": narrowing.moment(until)}
        with client.connected() as api:
            recorded = replaying.replay(
                audit.pages(api, query), before=before, after=after, known=lineages.known(api, query)
            )
        changes += recorded.changes
        counted += f" and {output.counted(recorded.replayed, 'recorded decision')}"
        left_out += recorded.left_out
        _orphaned(recorded)
    _told(changes, as_json=as_json)
    output.say(f"{counted} decided by both; {left_out} left out, which rules alone do not decide")
    if changes:
        raise typer.Exit(FAILED)


def _rules(path: str) -> Rules:
    """The rules of manifests; what does not fit together is a `ManifestError`."""
    if path == LIVE:
        with client.connected() as api:
            return compiler.rules(in_force(api))
    documents = manifests.read([path])
    problems = crosscheck.check(documents)
    if problems:
        raise ManifestError(problems)
    return compiler.rules(documents)


def _cases(path: str) -> list[Case]:
    directory = Path(path) / TABLES
    if path == LIVE or not directory.is_dir():
        return []
    tables = sorted(one for one in directory.iterdir() if one.suffix in manifests.SUFFIXES)
    return [case for table in tables for case in cases.parse(manifests.text_of(table), str(table))]


def _essence(case: Case) -> str:
    """What makes two cases one, whatever they expect."""
    return repr((case.role, case.method, case.url, case.at, sorted(case.headers.items()), sorted(case.used.items())))


def in_force(api: client.Client) -> list[parsing.Document]:
    """The manifests in force; broken ones among them refuse."""
    stored = [item for plural in manifests.PLURALS.values() for item in api.get(f"/v1/{plural}")["items"]]
    return parsing.lenient(stored)


def _told(changes: list[replaying.Change], *, as_json: bool) -> None:
    if as_json:
        for change in changes:
            output.line(change.as_json())
        return
    columns = ("case" if any(one.sentence for one in changes) else "times", "role", "request", "was", "now", "why")
    rows = [
        (
            one.sentence or (output.counted(one.count, "record") if columns[0] == "case" else one.count),
            one.role,
            f"{one.method} {one.url}",
            one.was,
            f"{one.now}{'' if one.certain else ' (?)'}",
            one.now.detail,
        )
        for one in changes
    ]
    output.table(columns, rows, empty="nothing would be otherwise", wrap=True)


def _orphaned(found: replaying.Result) -> None:
    if found.orphans:
        output.say(f"{found.orphans} of them are of tasks whose parents are in no record any more")


def _packs(path: Path) -> list[Path]:
    if not path.is_dir():
        raise NotFound(f"there is no directory {path}", hint="give a directory of manifests that has tests/*.yaml")
    if (path / TABLES).is_dir():
        return [path]
    found = sorted(below for below in path.iterdir() if (below / TABLES).is_dir())
    if not found:
        raise NotFound(f"there is no {TABLES}/ in {path} or one level below", hint="docs/guide/policies.md shows one")
    return found


def _tried(directory: Path) -> Iterator[Outcome]:
    documents = manifests.read([str(directory)])
    problems = crosscheck.check(documents)
    if problems:
        raise ManifestError(problems)
    tables = sorted(path for path in (directory / TABLES).iterdir() if path.suffix in manifests.SUFFIXES)
    if not tables:
        raise NotFound(f"there is no table in {directory / TABLES}")
    listed = [case for table in tables for case in cases.parse(manifests.text_of(table), str(table))]
    rules = compiler.rules(documents)
    return trial.run(rules, listed, trial.Regorus(rules))


def _show(suites: list[tuple[Path, list[Outcome]]]) -> None:
    for directory, outcomes in suites:
        output.text(f"{directory}\n")
        for outcome in outcomes:
            output.text(f"  {'fail' if outcome.wrong else 'ok  '}  {output.safe(outcome.case.sentence)}\n")
            if outcome.wrong:
                output.text(f"        {outcome.case.source}:{outcome.case.line}: {output.safe(outcome.wrong)}\n")
