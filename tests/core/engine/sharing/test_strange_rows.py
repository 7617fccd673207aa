"""What concerns nobody else, what nobody here knows, and what another version or a mishap has written."""

from __future__ import annotations

import json
import logging
import time

from smartfallback import (
    AdminState,
    CircuitScope,
    CircuitState,
    CircuitTarget,
    Disable,
    Drain,
    ErrorCategory,
    OpenCircuit,
    Resume,
)
from smartfallback.model.sharing import Fact, FactRule, FactWrite
from smartfallback.state.redis_store.store import RedisSharedStore
from support.sharers import KEY, both_heard, of_account, sharing, told
from support.waiting import until


async def tell(url: str, prefix: str, *writes: FactWrite) -> None:
    """Tell facts as another program would."""
    store = RedisSharedStore(url, prefix=prefix)
    try:
        await store.start()
        await store.write_facts(writes)
    finally:
        await store.aclose()


def fact(value: object, until_s: float | None = None, **more: object) -> Fact:
    text = value if isinstance(value, str) else json.dumps(value)
    at = time.time()
    return Fact(text, at, "stranger#1", None if until_s is None else at + until_s, **more)


async def test_an_account_on_this_machine_is_this_machines(server):
    async with sharing(server.url) as (one, two):
        here = CircuitTarget(CircuitScope.PROVIDER, "here-api")
        one.do(Drain("gguf", "only here"))
        one.do(OpenCircuit(of_account("gguf"), "only here"))
        one.do(OpenCircuit(here, "only here"))
        await both_heard(one, two)
        assert one.account("gguf").admin is AdminState.DRAINED
        assert two.account("gguf").admin is AdminState.ACTIVE
        assert two.state(of_account("gguf")) is CircuitState.CLOSED
        assert two.state(here) is CircuitState.CLOSED
        assert not [key for key in server.command("KEYS", "*") if "gguf" in key or "here-api" in key]
        # Nor does it hear of one of that name, which may be another's.
        drained = fact({"state": "disabled", "reason": "elsewhere"})
        await tell(server.url, one.prefix, FactWrite("account:gguf", "admin", drained))
        await told(one, two)
        assert two.account("gguf").admin is AdminState.ACTIVE


STRANGE = [
    ("admin", "null"),
    ("admin", {"state": "asleep", "reason": ""}),
    ("admin", {"state": 7}),
    ("admin", [1, 2]),
    ("admin", "[" * 9_000 + "]" * 9_000),
    ("attention", {"message": 5}),
    ("attention", {"message": "x", "credentials": None}),
    ("circuit", {"record": None, "by_operator": True, "confirmed": True}),
    ("circuit", {"record": {"state": "ajar"}, "by_operator": False, "confirmed": True}),
    ("circuit", {"record": {"state": "open", "until": "soon"}, "by_operator": "yes"}),
    ("circuit:", {"record": {"state": "forced_open"}}),
    ("reading", {"account": "a2", "source": "x", "label": "reported", "read_at": 1.0, "windows": []}),
    ("reading", {"account": "a1", "source": "x", "label": "guessed", "read_at": 1.0, "windows": []}),
    ("count", "{}"),
    ("what is to come", {"version": 9}),
]


async def test_what_nobody_here_understands_changes_nothing_and_stops_nothing(url):
    async with sharing(url) as (one, two):
        await told(one, two)
        writes = [FactWrite("account:a1", name, fact(value)) for name, value in STRANGE]
        for write in writes:
            await tell(url, one.prefix, write)
        for_ever = fact({"reason": "x"}, until_s=float("inf"))
        await tell(
            url,
            one.prefix,
            FactWrite("account:a1", "cooldown", for_ever, FactRule.LONGEST),
            FactWrite("account:a1", "rest:some-model", for_ever, FactRule.LONGEST),
            FactWrite("account:nobody", "admin", fact({"state": "drained", "reason": ""})),
            FactWrite("account:cloud-api", "circuit", fact({"record": {"state": "forced_open"}})),
            FactWrite("provider:a1", "circuit", fact({"record": {"state": "forced_open"}})),
            FactWrite("provider:nobody", "circuit", fact({"record": {"state": "forced_open"}})),
            FactWrite("planet:a1", "admin", fact({"state": "drained", "reason": ""})),
        )
        await told(one, two)
        await told(two, one)
        for sharer in (one, two):
            account = sharer.account("a1")
            assert account.admin is AdminState.ACTIVE
            assert account.cooldown_until is None
            assert account.circuit.state is CircuitState.CLOSED
            assert await sharer.answered("a1")
        # And what is told properly afterwards is understood.
        one.do(Disable("a1", "properly"))
        await until(lambda: two.account("a1").admin is AdminState.DISABLED)


async def test_damage_to_one_row_harms_no_other(server):
    async with sharing(server.url) as (one, two):
        one.do(Drain("a1", "for real"))
        await told(one, two)
        (key,) = [key for key in server.command("KEYS", f"{one.prefix}:*") if "account:a1}:facts" in key]
        server.command("DEL", key)
        server.command("LPUSH", key, "no hash")
        one.do(Drain("a2", "for real"))
        await until(lambda: two.account("a2").admin is AdminState.DRAINED)
        one.do(Resume("a1"))
        await until(lambda: two.account("a1").admin is AdminState.ACTIVE)


async def test_what_nobody_foresaw_ends_no_loop(url, monkeypatch, caplog):
    monkeypatch.setattr("smartfallback.engine.sharing.sharing._PAUSE_S", 0.01)
    monkeypatch.setattr("smartfallback.engine.sharing.sharing.REREAD_S", 1)
    caplog.set_level(logging.ERROR, "smartfallback.state")
    async with sharing(url) as (one, two):
        await told(one, two)
        sound = {}

        def fault(name):
            sound[name] = getattr(two.store, name)

            async def fails(*args, **more):
                del two.store.__dict__[name]
                raise KeyError(name)

            two.store.__dict__[name] = fails

        for name in ("read_facts", "write_facts", "report", "heartbeat"):
            fault(name)
        two.do(Drain("a2"))
        one.do(Drain("a1"))
        await until(lambda: two.account("a1").admin is AdminState.DRAINED)
        await until(lambda: one.account("a2").admin is AdminState.DRAINED)
        await until(lambda: not set(sound) & set(two.store.__dict__))
        await both_heard(one, two)
        assert len(two.orchestrator.snapshot().store.instances) == 2
    logged = [record.getMessage() for record in caplog.records]
    assert 0 < len(logged) <= 4


async def test_no_secret_is_told(server):
    async with sharing(server.url) as (one, two):
        said = f"the key {KEY} and sk-0123456789abcdefghij are refused"
        one.do(Drain("a1", said))
        one.do(Resume("a1"))
        await one.fails("a1", ErrorCategory.RATE_LIMIT, retry_after_s=500.0, message=said)
        await one.fails("a2", ErrorCategory.MALFORMED_RESPONSE, times=2, message=said.replace(KEY, "it"))
        await two.fails("a1", ErrorCategory.AUTHENTICATION, message=said)
        one.do(OpenCircuit(of_account("a1"), said))
        one.do(OpenCircuit(CircuitTarget(CircuitScope.PROVIDER, "cloud-api"), said))
        one.do(Disable("a1", said))
        await both_heard(one, two)
        everything = " ".join(
            " ".join(server.command("HVALS", key))
            for key in server.command("KEYS", "*")
            if server.command("TYPE", key) == "hash"
        )
        assert "are refused" in everything
        assert KEY not in everything
        assert "sk-0123456789abcdefghij" not in everything
        assert "***" in two.account("a1").admin_reason
