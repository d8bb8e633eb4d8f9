"""YAML that could hide, expand or construct anything is refused with its line; JSON is read as JSON reads it."""

import json
import time
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from remit.policy import text


@pytest.mark.parametrize(
    ("hostile", "line", "said"),
    [
        ("a: &x [1]\nb: *x", 2, "YAML aliases are not allowed"),
        ("a: 1\na: 2", 2, "duplicate key 'a'"),
        ('a: 1\n"a": 2', 2, "duplicate key 'a'"),
        ('{"a": {"b": 1,\n "b": 2}}', 2, "duplicate key 'b'"),
        ("1: a\n'1': b", 2, "duplicate key '1'"),
        ("a: 1\n<<: {a: 2}", 2, "merge keys are not allowed"),
        ("? [a]\n: 1", 1, "a key is not plain text"),
        ("a: !!python/object/apply:os.system [x]", 1, "tag 'tag:yaml.org,2002:python/object/apply:os.system' is not"),
        ("a: !secret x", 1, "the YAML tag '!secret' is not allowed"),
        ("a: !!binary aGk=", 1, "is not allowed"),
        ("a: !!int x", 1, "'x' is no int"),
        ("a:\n  " + "[" * 40 + "]" * 40, 2, "nested more than 32 deep"),
        ("a: [1", 1, "not valid YAML"),
        ("a: \x00", 0, "not valid YAML"),
        ('a: "\\ud800"', 1, "is no str"),
        ("x" * ((1 << 20) + 1), 0, "more than 1048576 bytes"),
        ("é" * (1 << 19) + "x", 0, "more than 1048576 bytes"),
    ],
)
def test_what_json_cannot_say_is_refused(hostile: str, line: int, said: str) -> None:
    with pytest.raises(text.Malformed) as caught:
        text.read(hostile)
    assert said in caught.value.message
    assert caught.value.line == line


def test_a_bomb_is_refused_before_it_grows() -> None:
    bomb = "a: &a [x, x]\n" + "\n".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]" for n in range(20)
    )
    began = time.monotonic()
    with pytest.raises(text.Malformed, match="aliases"):
        text.read(bomb)
    assert time.monotonic() - began < 1


def test_a_deep_text_is_refused_before_anything_recurses() -> None:
    with pytest.raises(text.Malformed, match="nested"):
        text.read("[" * 100_000)


def test_every_value_has_its_line_and_blocks_are_known() -> None:
    (tree,) = text.read("# note\na: 1\nb:\n  - x\n  - y: z\nc: |\n  one\n  two\nd: {e: [f,\n  g]}\n")
    assert tree.value == {"a": 1, "b": ["x", {"y": "z"}], "c": "one\ntwo\n", "d": {"e": ["f", "g"]}}
    assert {path: tree.lines[path] for path in [("a",), ("b",), ("b", 0), ("b", 1, "y"), ("c",), ("d", "e", 1)]} == {
        ("a",): 2, ("b",): 3, ("b", 0): 4, ("b", 1, "y"): 5, ("c",): 6, ("d", "e", 1): 10,
    }  # fmt: skip
    assert tree.blocks == {("c",)}


@pytest.mark.parametrize(
    ("written", "meant"),
    [("no", "no"), ("on", "on"), ("true", True), ("0x1bb", 443), ("1_000", 1000), ("2001-01-01", "2001-01-01"), ("~", None),
     ("", None), ("1e3", 1000.0), ("0o17", 15), ("017", 17), ("12:30:45", "12:30:45"), ("'1'", "1"), ("!!str 1", "1")],
)  # fmt: skip
def test_words_are_read_as_yaml_1_2_reads_them(written: str, meant: object) -> None:
    (tree,) = text.read(f"a: {written}")
    assert tree.value == {"a": meant}
    assert type(tree.value["a"]) is type(meant)


def test_empty_documents_are_left_out() -> None:
    assert text.read("") == []
    assert [tree.value for tree in text.read("---\n---\na: 1\n---\n# only a note\n")] == [{"a": 1}]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text("abc<~", max_size=3), _JSON, max_size=4), st.sampled_from([None, 2]), st.booleans())
def test_json_is_read_as_json_reads_it(value: dict[str, Any], indent: int | None, escaped: bool) -> None:
    written = json.dumps(value, indent=indent, ensure_ascii=escaped)
    assume(not set(written) & set("\x85\u2028\u2029"))  # line breaks to YAML, where they stand unescaped
    try:
        trees = text.read(written)
    except text.Malformed as error:  # YAML knows characters that it does not print raw, and no others
        assert not escaped, error
        return
    assert [tree.value for tree in trees] == [value]


@settings(max_examples=300, deadline=None)
@given(st.text("ab:-[]{}&*!|>'\"#%@,? \n\t<=\\0x1.~", max_size=60))
def test_no_text_raises_anything_else(hostile: str) -> None:
    try:
        trees = text.read(hostile)
    except text.Malformed:
        return
    json.dumps([tree.value for tree in trees])
