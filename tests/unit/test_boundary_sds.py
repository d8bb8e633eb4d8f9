from datetime import UTC, datetime, timedelta

import pytest

from remit.boundary.ca import LEAF_LIFE, Leaf
from remit.boundary.leaf_ration import Allowance, Ration, nobody
from remit.boundary.sds import Answer, Desk, Stream

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


class FakeMinter:
    """Mints at once, remembers every name, and renews what has less than half its life left."""

    def __init__(self) -> None:
        self.leaves: dict[str, Leaf] = {}

    def knows(self, name: str) -> bool:
        return name in self.leaves

    def leaf(self, name: str, now: datetime) -> Leaf:
        kept = self.leaves.get(name)
        if kept is None or not kept.good(now):
            serial = kept.serial + 1 if kept else 1
            kept = Leaf(name=name, chain=b"", key=b"", serial=serial, begins=now, expires=now + LEAF_LIFE)
            self.leaves[name] = kept
        return kept


def names(answer: Answer | None) -> tuple[list[str], list[str]]:
    assert answer is not None
    return [leaf.name for leaf in answer.leaves], list(answer.removed)


def test_a_canonical_name_gets_its_leaf() -> None:
    assert names(Stream(Desk(FakeMinter(), Ration(nobody))).receive(["api.test"], [], NOW)) == (["api.test"], [])


@pytest.mark.parametrize("name", ["API.test", "api.test.", "*.test", "", "a b", "x" * 300, "a\nb", "0x7f.1"])
def test_any_other_spelling_is_answered_as_removed(name: str) -> None:
    minter = FakeMinter()
    assert names(Stream(Desk(minter, Ration(nobody))).receive([name], [], NOW)) == ([], [name])
    assert minter.leaves == {}


def test_an_acknowledgement_is_not_answered() -> None:
    stream = Stream(Desk(FakeMinter(), Ration(nobody)))
    stream.receive(["api.test"], [], NOW)
    assert stream.receive([], [], NOW) is None


def test_new_names_are_rationed_and_known_ones_are_not() -> None:
    desk = Desk(FakeMinter(), Ration(nobody, unasked=2))
    stream = Stream(desk)
    assert names(stream.receive(["a.test", "b.test", "c.test"], [], NOW)) == (["a.test", "b.test"], ["c.test"])
    assert desk.refused == 1
    assert names(Stream(desk).receive(["a.test"], [], NOW)) == (["a.test"], [])
    assert names(stream.receive(["c.test"], [], NOW + timedelta(seconds=30))) == (["c.test"], [])


def test_a_clock_that_steps_back_grants_nothing() -> None:
    allowance = Allowance(1)
    assert allowance.take(NOW)
    assert not allowance.take(NOW - timedelta(hours=1))
    assert not allowance.take(NOW - timedelta(hours=1))


def test_a_leaf_is_renewed_before_it_expires_without_being_asked() -> None:
    stream = Stream(Desk(FakeMinter(), Ration(nobody)))
    stream.receive(["api.test"], [], NOW)
    assert stream.due(NOW + LEAF_LIFE / 3) is None
    renewed = stream.due(NOW + LEAF_LIFE / 2)
    assert renewed is not None and [leaf.serial for leaf in renewed.leaves] == [2]
    assert stream.due(NOW + LEAF_LIFE / 2) is None


def test_the_oldest_name_is_taken_back_where_there_are_too_many() -> None:
    desk = Desk(FakeMinter(), Ration(nobody), names_max=2)
    streams = {name: Stream(desk) for name in ("a.test", "b.test", "c.test")}
    for name, stream in streams.items():
        stream.receive([name], [], NOW)
    assert names(streams["a.test"].due(NOW)) == ([], ["a.test"])
    assert streams["a.test"].due(NOW) is None
    assert streams["b.test"].due(NOW) is None


def test_a_name_given_up_leaves_room_for_another() -> None:
    desk = Desk(FakeMinter(), Ration(nobody), names_max=1)
    first, second = Stream(desk), Stream(desk)
    first.receive(["a.test"], [], NOW)
    first.receive([], ["a.test"], NOW)
    second.receive(["b.test"], [], NOW)
    assert first.due(NOW) is None
    second.close()
    third = Stream(desk)
    third.receive(["c.test"], [], NOW)
    assert second.due(NOW) is None


def test_a_name_taken_back_can_be_asked_for_again() -> None:
    desk = Desk(FakeMinter(), Ration(nobody), names_max=1)
    first = Stream(desk)
    first.receive(["a.test"], [], NOW)
    first.receive(["b.test"], [], NOW)
    assert names(first.due(NOW)) == ([], ["a.test"])
    assert names(first.receive(["a.test"], [], NOW)) == (["a.test"], [])


def test_what_envoy_already_holds_is_no_new_name_after_a_restart() -> None:
    desk = Desk(FakeMinter(), Ration(nobody, unasked=1))
    assert Stream(desk).receive(["new.test"], [], NOW) is not None
    assert names(Stream(desk).receive(["held.test"], [], NOW, {"held.test"})) == (["held.test"], [])
    assert names(Stream(desk).receive(["API.test"], [], NOW, {"API.test"})) == ([], ["API.test"])
    assert names(Stream(desk).receive(["another.test"], [], NOW)) == ([], ["another.test"])


def test_a_cell_pays_for_the_names_it_asked_for_and_takes_from_nobody_else() -> None:
    asked = {"one.test": [1], "two.test": [1], "three.test": [1], "other.test": [2], "both.test": [1, 2]}
    ration = Ration(lambda name: asked.get(name, []), per_cell=2, unasked=1)
    assert [ration.take(name, NOW) for name in ("one.test", "two.test", "three.test")] == [True, True, False]
    assert ration.take("never-asked.test", NOW), "what nobody asked for has an allowance of its own"
    assert not ration.take("nor-this.test", NOW)
    assert ration.take("other.test", NOW), "another cell does not notice"
    assert ration.take("both.test", NOW), "of several that asked, any may pay"
