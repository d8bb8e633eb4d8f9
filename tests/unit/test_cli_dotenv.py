"""`.env` files are read as every reader reads them, or refused with the line and without the value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.cli import dotenv
from remit.core.errors import Invalid


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("\ufeffexport A = x y # comment\r\n\r\n# B=2\n", {"A": "x y"}),
        ("A='a $b ${c} # d'\n", {"A": "a $b ${c} # d"}),
        ('A="x\\ny\\"z\\\\"  # c\n', {"A": 'x\ny"z\\'}),
        ("A='-----BEGIN\nKEY-----'\nB=2\n", {"A": "-----BEGIN\nKEY-----", "B": "2"}),
        ("A=pa$$word#1=x\n", {"A": "pa$$word#1=x"}),
        ("A=\nB=''\nC=# c\n", {"A": "", "B": "", "C": ""}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("", {}),
        (" \t", {}),
    ],
)
def test_what_is_read(text: str, found: dict[str, str]) -> None:
    assert dotenv.parse(text, ".env") == found


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("A=1\nnot a line s3cret\n", 2),
        ("A='s3cret\n\nB=1\n", 1),
        ('\n\nA="s3cret\n', 3),
        ("A='1's3cret\n", 1),
        ("A=${s3cret}\n", 1),
        ('A="$(s3cret)"\n', 1),
        ("A=`s3cret`\n", 1),
        ("9A=s3cret\n", 1),
        ("A\x1b=s3cret\n", 1),
    ],
)
def test_what_readers_do_not_agree_on_is_refused_with_its_line_and_without_its_value(text: str, line: int) -> None:
    with pytest.raises(Invalid) as caught:
        dotenv.parse(text, ".env")
    assert caught.value.detail.startswith(f".env:{line}: ")
    assert "s3cret" not in f"{caught.value.detail} {caught.value.hint}"


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        dotenv.parse(text, "f")
    except Invalid:
        pass


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="'\r"), max_size=40))
def test_single_quotes_keep_everything(value: str) -> None:
    assert dotenv.parse(f"A='{value}'\nB=1", "f") == {"A": value, "B": "1"}
