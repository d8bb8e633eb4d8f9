"""The list of attacks is complete and true: what it names exists, what exists is named, what is open gets less."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parents[1]
LIST = TESTS / "attacks" / "COVERAGE.md"
OPEN = 0
"""Rows that nothing tries yet. May only shrink: lower it with every attack that gets its test."""

TABLE = ("| attack | tried by |", "| --- | --- |")
NAMED = re.compile(r"`((?:\w+/)?test_\w+\.py)::(test_\w+)`")
WORDS = re.compile(r"(open|cannot apply): \S.+")


class Row(NamedTuple):
    section: str
    attack: str
    by: str

    @property
    def named(self) -> list[str]:
        """`directory/file::test` for each test that it names."""
        return [f"{file if '/' in file else f'attacks/{file}'}::{test}" for file, test in NAMED.findall(self.by)]


def rows() -> Iterator[Row]:
    section = ""
    for line in LIST.read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("|") and line not in TABLE:
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert len(cells) == 2, line
            yield Row(section, *cells)


def named_in(file: Path) -> set[str]:
    """The test functions of a module, by its text: importing it would need what it attacks."""
    found = (
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return {node.name for node in found if node.name.startswith("test_")}


ROWS = list(rows())


def test_every_attack_test_stands_in_the_list() -> None:
    exist = {
        f"attacks/{file.name}::{test}" for file in (TESTS / "attacks").glob("test_*.py") for test in named_in(file)
    }
    assert exist - {name for row in ROWS for name in row.named} == set()


def test_every_test_in_the_list_exists() -> None:
    wrong = []
    for name in {name for row in ROWS for name in row.named}:
        file, _, test = name.partition("::")
        if not (TESTS / file).is_file() or test not in named_in(TESTS / file):
            wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.section}: {row.attack}")
def test_an_attack_has_tests_or_one_sentence(row: Row) -> None:
    assert row.section and row.attack
    assert len(set(row.named)) == len(row.named), "a test twice"
    if not WORDS.fullmatch(row.by):
        assert row.named, "neither tests nor a reason"
        assert NAMED.sub("", row.by).strip(", ") == "", "more than names of tests"


def test_no_attack_stands_there_twice() -> None:
    said = [(row.section, row.attack.lower()) for row in ROWS]
    assert len(said) == len(set(said)) > 100


def test_what_is_open_gets_less() -> None:
    count = sum(row.by.startswith("open:") for row in ROWS)
    assert count <= OPEN, "an attack was left open: write its test"
    assert count == OPEN, f"less is open now: set OPEN to {count}"
