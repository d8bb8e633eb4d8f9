"""An instance of its own: these tests kill its parts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from governed import governed
from instance import Instance
from upstreams import Upstreams


@pytest.fixture(scope="module")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Upstreams:
    return Upstreams(tmp_path_factory.mktemp("upstreams"))


@pytest.fixture(scope="module")
def remit(upstreams: Upstreams) -> Iterator[Instance]:
    with governed(upstreams) as instance:
        yield instance
