"""One instance for all whole-system tests of a worker; tests in it share nothing but the upstreams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from governed import governed
from instance import Instance
from upstreams import Upstreams


@pytest.fixture(scope="session")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Upstreams:
    return Upstreams(tmp_path_factory.mktemp("upstreams"))


@pytest.fixture(scope="session")
def remit(upstreams: Upstreams) -> Iterator[Instance]:
    with governed(upstreams) as instance:
        yield instance


@pytest.fixture
def api(upstreams: Upstreams) -> str:
    """The base URL of the governed API."""
    return f"https://api.up.example:{upstreams.https_port}"


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")
