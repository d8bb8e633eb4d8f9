"""`remit` in this process: what it is called with, what it exits with and what it prints."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from remit.cli import commands

Remit = Callable[..., tuple[int, str, str]]
"""Arguments in; exit code, standard output and standard error out."""


@pytest.fixture
def remit(capsys: pytest.CaptureFixture[str]) -> Remit:
    return calling(capsys)


def calling(capsys: pytest.CaptureFixture[str]) -> Remit:
    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = commands.invoke(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
