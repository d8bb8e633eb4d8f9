"""A secret that cannot leave by accident.

Logs, tracebacks, JSON encoders, f-strings and equality are how secrets escape from programs. `Secret` refuses all of
them; `reveal` asks for the permit under which the secret is used, so code without a decision cannot be written.
It does not protect against code that means to read it (Python has no such wall), nor does it wipe memory.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NoReturn

from remit.core import credential, expiry

if TYPE_CHECKING:
    from remit.core.decision import Permit


class Secret:
    """An opaque byte string. `reveal(permit)` is the only way to its value."""

    __slots__ = ("__value",)

    def __init__(self, value: bytes) -> None:
        self.__value = value

    def reveal(self, permit: Permit) -> bytes:
        """The value, for the one request that `permit` stands for."""
        if permit.credential is None:
            raise PermissionError("this permit carries no credential")
        return self.__value

    def unfit(self, wanted: credential.Credential) -> str | None:
        """Why it cannot be presented as `wanted` says, or None. Tells nothing else of the value."""
        return wanted.injection.unfit(self.__value) or credential.unhideable(wanted, self.__value)

    def end(self) -> datetime | None:
        """The end that the value itself tells (`core.expiry`)."""
        return expiry.told(self.__value)

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not serialisable")
