"""An instance of its own: these tests kill its parts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from governed import SECRET, manifests
from instance import Instance
from upstreams import NAMES, Upstreams


@pytest.fixture(scope="module")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Upstreams:
    return Upstreams(tmp_path_factory.mktemp("upstreams"))


@pytest.fixture(scope="module")
def remit(upstreams: Upstreams) -> Iterator[Instance]:
    instance = Instance(hosts=dict.fromkeys(NAMES, "127.0.0.1"), ca=upstreams.ca)
    try:
        instance.up()
        instance.apply(manifests(upstreams))
        instance.secret("key", SECRET)
        yield instance
    finally:
        instance.down()
