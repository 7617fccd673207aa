"""What the refresher asks of a quota source."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from smartfallback.model.quota import QuotaReading, WindowKind
from smartfallback.model.specs import AccountSpec


class QuotaFault(StrEnum):
    """Why a source could not answer."""

    MISSING = "missing"
    """There is nothing to ask: the deployment has no such endpoint, the tool is not installed."""
    UNAUTHORIZED = "unauthorized"
    """The account's credentials are not accepted, or nobody is logged in."""
    UNAVAILABLE = "unavailable"
    """No connection, or an error of the upstream."""
    MALFORMED = "malformed"
    """An answer that can't be read as a quota."""
    TIMEOUT = "timeout"
    """No answer in time."""


class QuotaSourceError(Exception):
    """A source could not answer; the message says why, on one line and without secrets.

    Attributes:
        kind: Why, for the next try.
    """

    def __init__(self, message: str, kind: QuotaFault) -> None:
        super().__init__(message)
        self.kind = kind


class QuotaSource(Protocol):
    """One way to learn the quota of accounts; one instance serves the accounts of a pool.

    Attributes:
        name: Who is asked, in words for the operator.
        ttl_s: Seconds for which an answer holds.
        missing_retry_s: Seconds until a source that is missing is looked for again.
        estimates_when_missing: Whether a missing source leaves the account assumed to be 80 % used
            (true), or to its own count (false, where missing is the normal case).
        assumed_kind: The span of the assumed window of an account that has none configured.
    """

    name: str
    ttl_s: float
    missing_retry_s: float
    estimates_when_missing: bool
    assumed_kind: WindowKind

    async def read(self, account: AccountSpec) -> QuotaReading:
        """Ask for ``account``'s quota. Cancelling it ends the call and what it started.

        Raises:
            QuotaSourceError: No usable answer.
        """
        ...

    async def aclose(self) -> None:
        """Release connections and child processes. Safe to call twice."""
        ...
