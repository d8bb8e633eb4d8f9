"""Outcomes as JUnit XML, the form that CI systems read (the schema of Ant's JUnit report)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree as tree

from remit.cli import output
from remit.policy.trial import Outcome


def document(suites: Iterable[tuple[Path, Sequence[Outcome]]]) -> bytes:
    """One `testsuite` a directory, one `testcase` a case; a case that went wrong has a `failure`."""
    root = tree.Element("testsuites")
    for directory, outcomes in suites:
        failed = sum(1 for outcome in outcomes if outcome.wrong)
        counts = {"tests": str(len(outcomes)), "failures": str(failed), "errors": "0"}
        suite = tree.SubElement(root, "testsuite", {"name": output.safe(directory), **counts})
        for outcome in outcomes:
            case = outcome.case
            named = {"classname": f"{directory.name}.{Path(case.source).stem}", "name": output.safe(case.sentence)}
            element = tree.SubElement(suite, "testcase", {**named, "file": case.source, "line": str(case.line)})
            if outcome.wrong:
                said = output.safe(outcome.wrong)
                tree.SubElement(element, "failure", {"message": said}).text = f"{case.source}:{case.line}: {said}"
    return bytes(tree.tostring(root, encoding="utf-8", xml_declaration=True))
