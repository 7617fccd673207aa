"""Secrets that can't be printed by accident."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, final

MASK: Final = "***"

# Key shapes of the providers that this project talks to. An upstream may echo a key that is not
# the one in use, so error text is scrubbed of anything that looks like one.
_KEY_SHAPES: Final = re.compile(
    r"AIza[0-9A-Za-z_\-]{20,}"
    r"|\bsk-[0-9A-Za-z_\-]{16,}"
    r"|\bgh[opusr]_[0-9A-Za-z]{20,}"
    r"|\bgithub_pat_[0-9A-Za-z_]{20,}"
    r"|(?<=Bearer )[0-9A-Za-z._\-]{8,}"
    r"|(?<=Basic )[0-9A-Za-z+/=]{8,}"
)


@final
class Secret:
    """A credential. Its value leaves only through :meth:`reveal`, never through ``repr`` or ``str``."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The clear value, for the one place that sends it upstream."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled: pass the reference that it was read from")


def redact(text: str, secrets: Iterable[Secret] = ()) -> str:
    """``text`` without the given secrets and without anything shaped like a provider's key."""
    for secret in secrets:
        value = secret.reveal()
        if value:
            text = text.replace(value, MASK)
    return _KEY_SHAPES.sub(MASK, text)
