"""The quota of accounts on a Redis server: what all instances have used, leased and held together."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from typing import Any, Final, Protocol

from smartfallback.model.sharing import AccountReport, HoldRequest, QuotaReply
from smartfallback.state.redis_store.keys import Keys
from smartfallback.state.redis_store.link import BACKGROUND_LIMIT_S, REQUEST_LIMIT_S
from smartfallback.state.redis_store.quota_codec import Turn, decode_reply, encode_hold, encode_report
from smartfallback.state.redis_store.replies import text
from smartfallback.state.redis_store.scripts import Script, script
from smartfallback.state.shared import StoreLostError

# An instance is a process, so its messages are counted through the process.
_TURNS: Final = itertools.count(1)


class ScriptRunner(Protocol):
    """The part of :class:`RedisLink` that is needed here."""

    async def run(
        self, script: Script, keys: Sequence[str], args: Sequence[str | bytes], *, limit_s: float
    ) -> Any:
        """Run a script and return what it returns."""
        ...

    async def run_many(
        self, calls: Sequence[tuple[Script, Sequence[str], Sequence[str | bytes]]], *, limit_s: float
    ) -> list[Any]:
        """Run scripts in one pipeline and return their replies in order."""
        ...


class QuotaScripts:
    """Runs the scripts about quotas. For one event loop.

    Messages are numbered. So the server knows a report that comes after a later one, as from a socket
    that was frozen; and an instance whose last answered report the server doesn't know has found that
    the server has gone back to old data, whatever others have written there since.

    Args:
        link: The way to the server.
        keys: The names of keys.
        report: The script for reports.
        reserve: The script for reservations.
    """

    def __init__(
        self, link: ScriptRunner, keys: Keys, *, report: Script | None = None, reserve: Script | None = None
    ) -> None:
        self._link = link
        self._keys = keys
        self._report = report or script("report", after="quota")
        self._reserve = reserve or script("reserve", after="quota")
        self._answered: dict[tuple[str, str], int] = {}
        self._seen_at: dict[tuple[str, str], float] = {}

    async def reserve(self, instance: str, hold: HoldRequest) -> QuotaReply:
        """Make a reservation in all windows, or in none.

        Raises:
            StoreLostError: The server can't be asked now, or not within the request budget. It may
                have been made: report it as ended.
            ValueError: A number in ``hold`` is none.
        """
        argument = encode_hold(instance, hold, self._turn(instance, hold.account))
        keys = self._keys.quota(hold.account)
        answer = await self._link.run(self._reserve, keys, [argument], limit_s=REQUEST_LIMIT_S)
        return self._decoded(instance, hold.account, answer)

    async def report(
        self, instance: str, reports: Sequence[AccountReport], *, lease_s: float
    ) -> Sequence[QuotaReply]:
        """Report what was spent, end reservations, lease slices for ``lease_s``; replies in order.

        Raises:
            StoreLostError: The server can't be asked now. Any of it may have been taken in: report again.
            ValueError: A number in ``reports`` is none.
        """
        turns = [self._turn(instance, report.account) for report in reports]
        calls: list[tuple[Script, Sequence[str], Sequence[str | bytes]]] = [
            (
                self._report,
                self._keys.quota(report.account),
                [encode_report(instance, report, turn, lease_s)],
            )
            for report, turn in zip(reports, turns, strict=True)
        ]
        answers = await self._link.run_many(calls, limit_s=BACKGROUND_LIMIT_S)
        replies = []
        for report, turn, answer in zip(reports, turns, answers, strict=True):
            reply = self._decoded(instance, report.account, answer)
            if not reply.lost:
                place = (instance, report.account)
                self._answered[place] = max(turn.number, self._answered.get(place, 0))
            replies.append(reply)
        return replies

    def _turn(self, instance: str, account: str) -> Turn:
        place = (instance, account)
        return Turn(
            number=next(_TURNS),
            answered=self._answered.get(place, 0),
            seen_at=self._seen_at.get(place, 0.0),
            nonce=secrets.token_hex(8),
        )

    def _decoded(self, instance: str, account: str, answer: object) -> QuotaReply:
        try:
            reply = decode_reply(account, text(answer))
        except ValueError as error:
            raise StoreLostError(f"the store's answer on a quota can't be read: {error}") from error
        if not reply.lost:
            self._seen_at[(instance, account)] = reply.at
        return reply
