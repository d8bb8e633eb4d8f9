"""Which of several credentials a request gets: the one whose placeholder it presents.

An agent presents a placeholder in its own way (git in Basic, an SDK in `Authorization`, a browser in the query), so it
is looked for in every place where servers look for who is asking, decoded where that is Basic. Nothing presented: the
request goes on bare, so that a server can challenge (git and container clients wait for its 401). Anything else there
is refused: it is either a mistake or a token of the agent's own, and neither may decide whose authority is used.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from urllib.parse import unquote_plus

from remit.core.credential import COMPETING, Credential
from remit.core.reason import Reason, Refusal
from remit.core.request import Request

SHORTEST = 8
"""Characters of a placeholder that can choose: a shorter one could stand somewhere by chance."""


def chosen(credentials: Sequence[Credential], request: Request) -> Credential | Refusal | None:
    """One of `credentials`, None where the request presents nothing, a refusal where what it presents is none of them.

    Each has a placeholder, and none holds another (`policy.crosscheck`).
    """
    places = {*COMPETING, *(name for one in credentials for name in one.injection.headers)}
    filled = sorted(places.intersection(request.headers))
    presented = [text for name in filled for text in _texts(request.headers[name])]
    if request.query:
        presented.append(unquote_plus(request.query))
    found = [one for one in credentials if one.placeholder and any(one.placeholder.value in text for text in presented)]
    if len(found) == 1:
        return found[0]
    variables = ", ".join(one.placeholder.variable for one in credentials if one.placeholder)
    if found:
        names = " and ".join(one.name for one in found)
        return Refusal(Reason.CREDENTIAL_UNCHOSEN, f"the request presents the placeholders of credentials {names}")
    if set(filled) <= {"cookie"}:
        return None
    return Refusal(
        Reason.CREDENTIAL_UNCHOSEN, f"header {filled[0]} presents none of the placeholders in variables {variables}"
    )


def _texts(value: str) -> Iterator[str]:
    yield value
    scheme, _, rest = value.partition(" ")
    if scheme.lower() == "basic":
        try:
            yield base64.b64decode(rest.strip(), validate=True).decode()
        except (binascii.Error, ValueError):
            return
