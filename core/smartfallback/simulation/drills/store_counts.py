"""What an instance has told the shared store of its use, and what the store says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from smartfallback.model.sharing import AccountReport, QuotaReply, SharedWindow, WindowReport

SLOTS: Final = "slots"
"""The key of an account's places, of which nothing is ever used up."""
_NOTHING: Final = SharedWindow(0.0, 0.0)


class Count(NamedTuple):
    """What one instance has settled in one quota window.

    Attributes:
        account: The account's id.
        key: The window's, as in a report.
        started_at: When the window began there, in epoch seconds.
        told: What the instance last said, whether or not it got through.
        held: What the store last said that it has of it.
    """

    account: str
    key: str
    started_at: float
    told: float
    held: float


class StoreCounts:
    """Follows what is reported. Nothing of it is asked for, so that looking at it costs nothing."""

    def __init__(self) -> None:
        self._instance = ""
        self._told: dict[str, tuple[WindowReport, ...]] = {}
        self._heard: dict[str, QuotaReply] = {}

    def told(self, instance: str, reports: Sequence[AccountReport]) -> None:
        """``instance`` is about to report this."""
        self._instance = instance
        for report in reports:
            self._told[report.account] = report.windows

    def heard(self, replies: Sequence[QuotaReply]) -> None:
        """The store has replied this."""
        for reply in replies:
            if not reply.lost:
                self._heard[reply.account] = reply

    def all(self) -> tuple[Count, ...]:
        """The counts of all accounts of which anything was told; of quotas only, not of places."""
        return tuple(
            Count(account, window.key, theirs.started_at, window.spent, theirs.spent.get(self._instance, 0.0))
            for account, windows in self._told.items()
            for window in windows
            if window.key != SLOTS
            for theirs in (self._window(account, window.key),)
        )

    def _window(self, account: str, key: str) -> SharedWindow:
        reply = self._heard.get(account)
        return _NOTHING if reply is None else reply.windows.get(key, _NOTHING)
