"""A secret does not leave by accident."""

import copy
import json
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from remit.core.secret import Secret

VALUE = b"hunter2-hunter2"


@pytest.mark.parametrize("shown", [repr, str, "{}".format, "{!r}".format, "{:>40}".format, lambda s: f"{s}", lambda s: "%s %r" % (s, s), lambda s: repr([s]), lambda s: repr({"a": s}), lambda s: str(dir(s)) + repr(getattr(s, "__dict__", ""))])  # fmt: skip  # noqa: UP031
def test_it_does_not_show(shown: Callable[[Secret], str]) -> None:
    assert "hunter2" not in shown(Secret(VALUE))


@pytest.mark.parametrize(
    "leak", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, bytes, lambda s: b"" + s, len, iter, vars]
)
def test_it_does_not_serialise_or_convert(leak: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError) as caught:
        leak(Secret(VALUE))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_it_is_equal_to_nothing_but_itself() -> None:
    one = Secret(VALUE)
    assert one == one
    assert one != Secret(VALUE)
    assert one != VALUE
    assert hash(one) != hash(VALUE)


def test_it_is_revealed_only_to_a_permit_with_a_credential() -> None:
    class Permit:
        credential = None

    with pytest.raises(PermissionError):
        Secret(VALUE).reveal(Permit())  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        Secret(VALUE).reveal(None)  # type: ignore[arg-type]
