"""Several credentials on one host: a request gets the one whose placeholder it presents, or none, or is refused."""

from __future__ import annotations

import base64
import re

import pytest
from permits import asked

from remit.core import choice, placeholders
from remit.core.credential import Credential, Injection, Placeholder
from remit.core.injections.basic import BasicInjection
from remit.core.injections.header import HeaderInjection
from remit.core.injections.query import QueryInjection
from remit.core.reason import Reason, Refusal

READ, WRITE = "ghp_reader00000000", "ghp_writer00000000"


def named(name: str, placeholder: str, injection: Injection) -> Credential:
    shown = (Placeholder(variable=f"{name.upper()}_TOKEN", value=placeholder),)
    return Credential(name=name, secret=name, injection=injection, hosts=("h",), placeholders=shown)


BEARER = HeaderInjection(header="authorization", template="Bearer {secret}")
BOTH = (named("reader", READ, BEARER), named("writer", WRITE, BasicInjection(username="x-access-token")))


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ({"authorization": f"Bearer {READ}"}, "reader"),
        ({"authorization": f"token {READ}"}, "reader"),
        ({"authorization": basic("x-access-token", WRITE)}, "writer"),
        ({"authorization": basic(READ, "x-oauth-basic")}, "reader"),
        ({"private_token": WRITE}, "writer"),
        ({"authorization": f"Bearer {WRITE}", "x_other": READ}, "writer"),
    ],
)
def test_the_placeholder_chooses_wherever_it_is_presented(sent: dict[str, str], name: str) -> None:
    found = choice.chosen(BOTH, asked(**sent))
    assert isinstance(found, Credential)
    assert found.name == name


def test_a_placeholder_in_the_query_chooses() -> None:
    both = (named("a", READ, QueryInjection(parameter="key")), named("b", WRITE, QueryInjection(parameter="key")))
    found = choice.chosen(both, asked(f"/x?a=1&key={WRITE.replace('_', '%5F')}"))
    assert isinstance(found, Credential)
    assert found.name == "b"


@pytest.mark.parametrize("sent", [{}, {"cookie": "a=1"}, {"x_other": "ghp_mine000000000"}])
def test_what_presents_nothing_goes_on_bare_so_that_a_server_can_challenge(sent: dict[str, str]) -> None:
    assert choice.chosen(BOTH, asked(**sent)) is None


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"authorization": "Bearer ghp_mine000000000000"}, "header authorization presents none of the placeholders"),
        ({"authorization": f"Bearer {READ[:-1]}"}, "READER_TOKEN, WRITER_TOKEN"),
        ({"authorization": "Basic !!!"}, "presents none"),
        ({"x_api_key": "mine"}, "header x-api-key presents none"),
        ({"authorization": f"Bearer {READ}", "private_token": WRITE}, "of credentials reader and writer"),
        ({"authorization": f"Bearer {READ},Bearer {WRITE}"}, "of credentials reader and writer"),
    ],
)
def test_anything_else_is_refused_and_the_reason_shows_no_value(sent: dict[str, str], said: str) -> None:
    found = choice.chosen(BOTH, asked(**sent))
    assert isinstance(found, Refusal)
    assert found.reason is Reason.CREDENTIAL_UNCHOSEN
    assert said in found.detail
    assert "mine" not in found.detail


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("GITHUB_TOKEN", r"ghp_[0-9A-Za-z]{36}"),
        ("ANTHROPIC_API_KEY", r"sk-ant-api03-[\w-]{93}AA"),
        ("OPENAI_API_KEY", r"sk-proj-[0-9A-Za-z]{48}"),
        ("AWS_ACCESS_KEY_ID", r"AKIA[A-Z2-7]{16}"),
        ("AWS_SECRET_ACCESS_KEY", r"[0-9A-Za-z+/]{40}"),
        ("SLACK_BOT_TOKEN", r"xoxb-\d{24}"),
        ("NPM_TOKEN", r"npm_[0-9A-Za-z]{36}"),
    ],
)
def test_a_placeholder_has_the_shape_that_is_usual_in_its_variable(variable: str, expected: str) -> None:
    made = placeholders.shaped(placeholders.USUAL[variable], "key A")
    assert re.fullmatch(expected, made)
    assert made == placeholders.shaped(placeholders.USUAL[variable], "key A")
    assert made != placeholders.shaped(placeholders.USUAL[variable], "key B")


def test_every_usual_variable_has_a_shape_that_exists() -> None:
    assert set(placeholders.USUAL.values()) <= set(placeholders.SHAPES)
