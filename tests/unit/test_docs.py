"""What the documentation says is what the code does: reference, examples, manifests in the guide, commands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from remit.cli import commands, run
from remit.cli.examples import EXAMPLES as LINES
from remit.policy import manifests

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.y*ml"))


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """(the line, its words after `remit`) for every use of `remit` in a shell block."""
    for page in PAGES:
        for line in "\n".join(blocks(page, "sh", "shell", "bash", "console")).splitlines():
            command = line.split("#")[0].rpartition("|")[2].strip().removeprefix("$ ")
            if command.startswith("remit "):
                yield line.strip(), shlex.split(command)[1:]


def names(page: Path) -> list[str]:
    """`remit …` in running text."""
    return re.findall(r"`remit ([a-z ]+?)[`A-Z\[(-]", page.read_text())


def known(words: list[str]) -> list[str]:
    """The options of the command that `words` begin with. Fails where there is none."""
    command = get_command(commands.application())
    rest = list(words)
    while hasattr(command, "commands"):
        assert rest and rest[0] in command.commands, f"there is no command: remit {' '.join(words)}"
        command = command.commands[rest.pop(0)]
    if words[0] in run.USAGE:
        return re.findall(r"--[a-z-]+", run.USAGE[words[0]])
    return [name for parameter in command.params for name in parameter.opts]


def test_the_reference_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "reference.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_example_parses(path: Path) -> None:
    text = re.sub(
        r"^(\s*)file: (\S+)$",
        lambda found: f"{found[1]}rego: {(path.parent / found[2]).read_text()!r}",
        path.read_text(),
        flags=re.MULTILINE,
    )
    assert manifests.parse(text, str(path))


def test_a_whole_manifest_in_the_guide_parses() -> None:
    whole = [text for page in PAGES for text in blocks(page, "yaml") if "apiVersion:" in text]
    assert whole
    for text in whole:
        assert manifests.parse(text, "guide")


def test_a_manifest_in_the_guide_can_be_applied_as_it_stands() -> None:
    for page in PAGES:
        for text in blocks(page, "yaml"):
            assert text.count("apiVersion:") == len(re.findall(r"^kind:", text, re.MULTILINE)), text


def test_every_command_in_the_documentation_exists_with_its_options() -> None:
    found = list(command_lines())
    assert len(found) > 20
    for line, words in found:
        options = known(words)
        own = words[: words.index("--")] if "--" in words else words
        for word in own:
            if word.startswith("-"):
                assert word.partition("=")[0] in options, line
    for page in PAGES:
        for name in names(page):
            known(name.split())


def test_every_command_has_an_example_that_it_would_take() -> None:
    def all_of(path: str, command: Any) -> Iterator[tuple[str, Any]]:
        for name, one in getattr(command, "commands", {}).items():
            yield from all_of(f"{path} {name}".strip(), one)
        if not hasattr(command, "commands"):
            yield path, command

    found = dict(all_of("", get_command(commands.application())))
    assert set(LINES) == set(found) - set(run.USAGE)
    for name, examples in LINES.items():
        for example in examples:
            assert f"remit {example}" in found[name].epilog
            words = shlex.split(example.partition(" <")[0])
            assert words[: len(name.split())] == name.split(), example
            found[name].make_context(name, words[len(name.split()) :])


def test_what_a_command_takes_is_explained() -> None:
    unsaid = [line for line in (ROOT / "docs/reference/commands.md").read_text().splitlines() if line.endswith("`: ")]
    assert not unsaid


def test_every_directory_that_is_applied_exists() -> None:
    for line, words in command_lines():
        if words[0] == "apply":
            assert list((ROOT / words[words.index("-f") + 1]).glob("*.y*ml")), line


def test_no_two_decisions_have_one_number_and_titles_say_theirs() -> None:
    numbers = [int(page.name.partition("-")[0]) for page in DECISIONS]
    assert len(set(numbers)) == len(numbers), [page.name for page in DECISIONS]
    for number, page in zip(numbers, DECISIONS, strict=True):
        titled = re.match(r"# (\d+)\. ", page.read_text())
        assert titled is None or int(titled[1]) == number, page.name


def test_every_link_leads_somewhere() -> None:
    for page in (*PAGES, *DECISIONS, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md", ROOT / "bench" / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_within_a_page_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = [
        re.sub(r"[^a-z0-9 -]", "", one.lower()).replace(" ", "-") for one in re.findall(r"^#+ (.*)$", text, re.M)
    ]
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= set(headings)
    numbered = [name for name in headings if name[0].isdigit()]
    assert [name for name in re.findall(r"^\d+\. \[.*?\]\(#([^)]+)\)$", text, re.M)] == numbered
