"""What the command line prints cannot take a terminal over, and JSON is one object a line."""

import json

import pytest

from remit.cli import errors, output
from remit.core.errors import Conflict, Invalid, NotFound, RemitError, Unavailable


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("a\nb", "a\\x0ab"),
        ("\x9b31m", "\\x9b31m"),
        ("user\u202egpj.exe", "user\\u202egpj.exe"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("line\u2028end", "line\\u2028end"),
        ("\ud800", "\\ud800"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("git\u3164hub", "git\\u3164hub"),
        ("git\u115fhub", "git\\u115fhub"),
        ("git\u2800hub", "git\\u2800hub"),
        ("git\u034fhub", "git\\u034fhub"),
        ("git\ufe0fhub", "git\\ufe0fhub"),
        ("git\U000e0101hub", "git\\U000e0101hub"),
        ("git\u00a0hub", "git\\xa0hub"),
        ("git\ue000hub", "git\\ue000hub"),
        ("plain ü 日本", "plain ü 日本"),
        (None, ""),
    ],
)
def test_control_and_invisible_characters_are_shown_as_escapes(hostile: str | None, shown: str) -> None:
    assert output.safe(hostile) == shown


def test_text_keeps_line_ends_and_tabs_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    output.text("a\tb\n\x1b[2J\r")
    assert capsys.readouterr().out == "a\tb\n\\x1b[2J\\x0d\n"


def test_json_is_one_ascii_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.rows(("name",), [{"name": "a\n\x1b\u202e"}, {"name": "b"}], as_json=True)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["a\n\x1b\u202e", "b"]
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_a_table_is_aligned_and_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("name", "what"), [("a", "x\x1b"), ("longer", None)])
    assert capsys.readouterr().out.splitlines() == ["NAME    WHAT", "a       x\\x1b", "longer"]


def test_on_a_terminal_only_the_last_column_gives_way(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    output.table(("id", "what"), [("r" * 30, "w" * 90), ("r" * 30, "short")])
    assert capsys.readouterr().out.splitlines()[1:] == ["r" * 30 + "  " + "w" * 27 + "…", "r" * 30 + "  short"]


def test_what_a_table_is_read_for_is_wrapped_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    output.table(("step", "why"), [("flow", "because of a reason that is long"), ("audit", "")], wrap=True)
    shown = ["flow   because of a reason that is long", "audit"]
    assert capsys.readouterr().out.splitlines()[1:] == shown
    monkeypatch.setenv("COLUMNS", "34")
    output.table(("step", "why"), [("flow", "because of a reason that is long"), ("audit", "")], wrap=True)
    shown = ["flow   because of a reason that is", "       long", "audit"]
    assert capsys.readouterr().out.splitlines()[1:] == shown


@pytest.mark.parametrize("value", ["", "1"])
def test_colours_are_left_out_where_they_are_not_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", value)
    output.table(("id", "decision"), [("r", "deny")])
    assert ("\x1b[31m" in capsys.readouterr().out) == (not value)


def test_an_empty_table_says_so_on_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("name",), [], empty="nothing here")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "nothing here\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [(Invalid("x"), 2), (NotFound("x"), 4), (Conflict("x"), 5), (Unavailable("x"), 6), (RemitError("x"), 1)],
)
def test_each_kind_of_error_has_its_exit_code(error: RemitError, code: int) -> None:
    assert errors.report(error) == code


def test_an_error_says_what_why_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise Unavailable("it does not answer\x1b[31m", hint="remit up") from OSError("no such file")
    except Unavailable as error:
        errors.report(error)
    assert capsys.readouterr().err == "error: it does not answer\\x1b[31m\ncause: no such file\nhint: remit up\n"


def test_a_moment_is_shown_in_utc_without_fractions() -> None:
    assert output.clock("2026-01-02T03:04:05.123456+00:00") == "2026-01-02 03:04:05Z"
    assert output.clock("not a time") == "not a time"
    assert output.clock(None) == "-"


@pytest.mark.parametrize(("number", "said"), [(0, "0 records"), (1, "1 record"), (2, "2 records")])
def test_what_is_counted_is_one_or_several(number: int, said: str) -> None:
    assert output.counted(number, "record") == said
