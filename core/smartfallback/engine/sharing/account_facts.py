"""What all instances should know of an account: read off it, and set on it when another says so."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from smartfallback.clock import Clock
from smartfallback.engine.bus import Bus
from smartfallback.engine.credentials import credentials_mark, without_secrets
from smartfallback.engine.quota_desk import QuotaDesk
from smartfallback.engine.roster import AccountRuntime, Block
from smartfallback.engine.settlement import Settlement
from smartfallback.model.decisions import AdminState
from smartfallback.model.events import Actor, AttentionRaised, CooldownStarted
from smartfallback.model.quota import TruthLabel
from smartfallback.model.sharing import Fact, FactRule
from smartfallback.state.json_fields import Fields, loaded
from smartfallback.state.reading_codec import decode_reading, encode_reading

ADMIN: Final = "admin"
ATTENTION: Final = "attention"
COOLDOWN: Final = "cooldown"
WALL: Final = "wall"
READING: Final = "reading"
COUNT: Final = "count"
"""A count was set: others look at what the store holds of it."""
REST: Final = "rest:"
"""And the model's name."""

NOTHING: Final = "null"
"""The value of a fact that holds no longer."""
_SAME_S: Final = 1.0
_DRAINED: Final = frozenset({AdminState.DRAINING, AdminState.DRAINED})


class Standing(NamedTuple):
    """How one thing stands here.

    Attributes:
        value: As JSON.
        until: When a rest ends, in epoch seconds; None for what doesn't end by itself.
        rule: Which holds if another instance says otherwise.
        at: When it came about, None for when it is noticed.
    """

    value: str
    until: float | None = None
    rule: FactRule = FactRule.LATEST
    at: float | None = None

    def same_as(self, other: Standing | None) -> bool:
        """Whether it says the same; times are reckoned anew each time, so they may differ a little."""
        if other is None or self.value != other.value:
            return False
        if self.until is None or other.until is None:
            return self.until is other.until
        return abs(self.until - other.until) < _SAME_S


def standings(account: AccountRuntime, clock: Clock) -> dict[str, Standing]:
    """What there is to say of an account, by name; nothing of what is as it is at first.

    Of an account in a rehearsal it is what was before.
    """
    now, wall_now = clock.monotonic(), clock.time()
    offset = wall_now - now
    source = account.kept or account
    found: dict[str, Standing] = {}
    if source.admin is not AdminState.ACTIVE or source.admin_at is not None:
        drains = source.admin in _DRAINED
        intent = AdminState.DRAINED if drains else source.admin
        said = {"state": intent.value, "reason": without_secrets(source.admin_reason, account)}
        found[ADMIN] = Standing(_json(said), at=source.admin_at)
    if source.attention:
        message = without_secrets(source.attention, account)
        found[ATTENTION] = Standing(_json({"message": message, "credentials": credentials_mark(account)}))
    if source.cooldown_until is not None and source.cooldown_until > now:
        found[COOLDOWN] = _rest(account, source.cooldown_reason, source.cooldown_until + offset)
    for model, block in source.model_blocks.items():
        if block.until > now:
            found[REST + model] = _rest(account, block.reason, block.until + offset)
    wall = source.ledger.wall()
    if wall is not None and wall.until > wall_now:
        found[WALL] = _rest(account, wall.reason, wall.until)
    rebased_at = source.ledger.rebased_at
    if rebased_at:
        found[COUNT] = Standing(_json({"at": rebased_at}), at=rebased_at)
    reading = account.reading
    if reading is not None and reading.label is TruthLabel.REPORTED and account.kept is None:
        told = replace(reading, note=without_secrets(reading.note, account))
        found[READING] = Standing(encode_reading(told), at=reading.read_at)
    return found


def rests_here(name: str) -> bool:
    """Whether it is a rest that began here and lasts so many seconds; a wall is the provider's date."""
    return name == COOLDOWN or name.startswith(REST)


def rule_of(name: str) -> FactRule:
    """Which of two facts of that name holds."""
    return FactRule.LONGEST if name == WALL or rests_here(name) else FactRule.LATEST


def cut_short(before: Standing, now: Standing) -> bool:
    """Whether a rest ends earlier than it did."""
    return before.until is not None and now.until is not None and now.until < before.until - _SAME_S


def lifted(name: str, before: Standing, wall: float) -> Standing | None:
    """What to say of a thing that stood and does not any more; None for what ended by itself."""
    if name == READING:
        return None  # that a source fails here is no news of the quota
    if before.until is not None and before.until <= wall + _SAME_S:
        return None
    return Standing(NOTHING, None, before.rule)


class AccountFacts:
    """Sets on accounts what other instances say. The caller places the account afterwards.

    Args:
        bus: Told of rests and of accounts that need attention.
        settlement: Changes admin states.
        quota: Takes up readings.
        clock: Set by the store's clock.
    """

    def __init__(self, bus: Bus, settlement: Settlement, quota: QuotaDesk, clock: Clock) -> None:
        self._bus = bus
        self._settlement = settlement
        self._quota = quota
        self._clock = clock

    def adopt(self, account: AccountRuntime, name: str, fact: Fact) -> None:
        """Let the account be as ``fact`` says.

        Raises:
            ValueError: The fact's value is not what an instance of this version writes.
        """
        document = loaded(fact.value)
        fields = None if document is None else Fields(document)
        if name == ADMIN:
            self._adopt_admin(account, fields, fact.at)
        elif name == ATTENTION:
            self._adopt_attention(account, fields)
        elif name == COOLDOWN:
            self._adopt_cooldown(account, fields, fact.until)
        elif name == WALL:
            self._adopt_wall(account, fields, fact)
        elif name.startswith(REST):
            self._adopt_rest(account, name.removeprefix(REST), fields, fact.until)
        elif name == READING and fields is not None:
            reading = decode_reading(fact.value)
            if reading.account == account.id and reading.label is TruthLabel.REPORTED:
                self._quota.hear_from_elsewhere(account, reading)

    def _adopt_admin(self, account: AccountRuntime, fields: Fields | None, at: float) -> None:
        new = AdminState.ACTIVE if fields is None else AdminState(fields.text("state"))
        reason = "" if fields is None else fields.text("reason")
        if new in _DRAINED:
            new = AdminState.DRAINING if account.in_flight else AdminState.DRAINED
        if not (new is account.admin or (new in _DRAINED and account.admin in _DRAINED)):
            self._settlement.set_admin(account, new, reason, Actor.OPERATOR)
        account.admin_reason, account.admin_at = reason, at
        if new is not AdminState.ACTIVE:
            account.pool.normal.forget(account.slot)
            account.pool.reserve.forget(account.slot)

    def _adopt_attention(self, account: AccountRuntime, fields: Fields | None) -> None:
        if fields is None:
            account.attention = ""
        elif fields.text("credentials") == credentials_mark(account):
            message = fields.text("message")
            if not account.attention:
                bus = self._bus
                bus.publish(AttentionRaised(bus.next_seq(), self._clock.time(), account.id, message, ""))
            account.attention = message

    def _adopt_cooldown(self, account: AccountRuntime, fields: Fields | None, until: float | None) -> None:
        if fields is None or until is None:
            account.cooldown_until, account.cooldown_reason = None, ""
            return
        now, known, reason = self._clock.monotonic(), account.cooldown_until, fields.text("reason")
        ends = self._ends(until)
        if ends > now and (known is None or ends > known):
            account.cooldown_until, account.cooldown_reason = ends, reason
            self._tell_rest(account, None, known, until, reason)

    def _adopt_rest(
        self, account: AccountRuntime, model: str, fields: Fields | None, until: float | None
    ) -> None:
        if fields is None or until is None:
            account.model_blocks.pop(model, None)
            return
        now, known, reason = self._clock.monotonic(), account.model_blocks.get(model), fields.text("reason")
        ends = self._ends(until)
        if ends > now and (known is None or ends > known.until):
            account.model_blocks[model] = Block(ends, reason)
            self._tell_rest(account, model, None if known is None else known.until, until, reason)

    def _adopt_wall(self, account: AccountRuntime, fields: Fields | None, fact: Fact) -> None:
        wall = self._clock.time()
        if fields is None or fact.until is None:
            account.ledger.clear_exhausted(wall)
        elif fact.until > wall:
            account.ledger.mark_exhausted(fact.until, wall, reason=fields.text("reason"))

    def _ends(self, until: float) -> float:
        """When a rest ends, in monotonic seconds.

        Raises:
            ValueError: It never does.
        """
        if not math.isfinite(until):
            raise ValueError("a rest without an end")
        return self._clock.monotonic() + until - self._clock.time()

    def _tell_rest(
        self, account: AccountRuntime, model: str | None, known: float | None, until: float, reason: str
    ) -> None:
        """Tell of a rest, but not once more of one that is longer by the time between two answers."""
        if known is not None and self._ends(until) <= known + _SAME_S:
            return
        bus = self._bus
        bus.publish(CooldownStarted(bus.next_seq(), self._clock.time(), account.id, model, until, reason))


def _rest(account: AccountRuntime, reason: str, until: float) -> Standing:
    return Standing(_json({"reason": without_secrets(reason, account)}), until, FactRule.LONGEST)


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=True, allow_nan=False)
