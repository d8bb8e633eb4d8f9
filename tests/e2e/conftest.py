"""One instance for all whole-system tests of a worker; tests in it share nothing but the upstreams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from governed import SECRET, manifests
from instance import Instance
from upstreams import NAMES, Upstreams


@pytest.fixture(scope="session")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Upstreams:
    return Upstreams(tmp_path_factory.mktemp("upstreams"))


@pytest.fixture(scope="session")
def remit(upstreams: Upstreams) -> Iterator[Instance]:
    instance = Instance(hosts=dict.fromkeys(NAMES, "127.0.0.1"), ca=upstreams.ca)
    try:
        instance.up()
        instance.apply(manifests(upstreams))
        instance.secret("key", SECRET)
        yield instance
    finally:
        instance.down()


@pytest.fixture
def api(upstreams: Upstreams) -> str:
    """The base URL of the governed API."""
    return f"https://api.up.example:{upstreams.https_port}"


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")
