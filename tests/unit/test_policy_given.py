"""What policies are told of a request."""

from __future__ import annotations

from dataclasses import replace

import permits
import pytest

from remit.policy import given


@pytest.mark.parametrize("name", ["destination", "x-amz-copy-source", "x-goog-copy-source", "x-ms-copy-source"])
def test_a_second_path_that_no_capability_has_looked_at_is_told(name: str) -> None:
    request = permits.asked("/public/x", **{name: "/private/x", "authorization": "secret"})
    asked = replace(permits.permit(None).candidate, request=request)
    assert given.given(asked)["request"]["headers"] == {name: "/private/x"}
