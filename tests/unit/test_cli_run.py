"""The command line of the fast commands, which read it themselves."""

from __future__ import annotations

from typing import Any

import pytest

from remit.cli import carry, run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `cells` is asked; two tasks run, and no command starts."""
    requests: list[dict[str, Any]] = []

    class Session:
        def __init__(self, request: dict[str, Any]) -> None:
            requests.append(request)

        def event(self) -> dict[str, Any]:
            return {"cells": [{"task": "t-7k3m9qab2c"}, {"task": "t-8k3m9qab2c"}]}

        def started(self) -> dict[str, Any]:
            raise carry.Failed(6, "nothing \u202eis started")

    monkeypatch.setattr(carry, "Session", Session)
    return requests


@pytest.mark.parametrize("task", ["t-7k", "7k", "7k3m9qab2c", "t-7k3m9qab2c"])
def test_a_task_is_named_by_its_first_letters_with_or_without_their_beginning(
    asked: list[dict[str, Any]], task: str
) -> None:
    assert run.main(["exec", task, "--", "true"]) == 6
    assert asked[-1]["task"] == "t-7k3m9qab2c"


@pytest.mark.parametrize(
    ("task", "code", "said"),
    [("9", 4, "no running task begins with 9"), ("t-", 5, "2 tasks begin with t-"), ("", 5, "2 tasks begin with ")],
)
def test_a_task_that_is_none_or_several_is_refused(
    asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], task: str, code: int, said: str
) -> None:
    assert run.main(["exec", task, "--", "true"]) == code
    assert capsys.readouterr().err.splitlines()[0] == f"error: {said}"
    assert [request["op"] for request in asked] == ["list"]


@pytest.mark.parametrize("flag", ["detach", "bind", "json", "no-tty"])
def test_an_option_that_takes_no_value_is_not_given_one(
    asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert run.main(["run", "--role", "devops", f"--{flag}=no", "--", "true"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"error: --{flag} takes no value"
    assert not asked


def test_what_is_told_is_escaped(asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["run", "--role", "devops", "true"]) == 6
    assert capsys.readouterr().err == "error: nothing \\u202eis started\n"
