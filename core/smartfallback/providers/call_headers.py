"""Request headers whose values can't be printed by accident."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from smartfallback.model.secrets import MASK, Secret


class CallHeaders(httpx.Headers):
    """What is sent with every call of one account. Its ``repr`` names the headers and no value.

    httpx's own masks ``authorization``, but not the names that other APIs give their keys.

    Args:
        plain: Headers as they are; secret ones stay wrapped until they are encoded here.
    """

    def __init__(self, plain: Mapping[str, str | Secret]) -> None:
        super().__init__(
            [(name, value.reveal() if isinstance(value, Secret) else value) for name, value in plain.items()]
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}: {MASK}' for name in self)})"

    __str__ = __repr__


def header_value(key: Secret, scheme: str = "") -> Secret | None:
    """``key`` after ``scheme`` as a header's value; None when no header can carry it."""
    value = Secret(scheme + key.reveal().strip())
    if len(value.reveal()) == len(scheme) or not value.reveal().isascii() or not value.reveal().isprintable():
        return None
    return value
