"""One instance as a process: ``python -m support.instance_program``, told and asked in JSON lines.

The first line on standard input is its setup (:mod:`support.instance_setup`); it says ``{"ready": …}``
once it runs. Each further line is a wish, ``{"id": 7, "do": "drain", …}``, and is answered by one line,
``{"id": 7, "result": …}`` or ``{"id": 7, "error": …}``, as soon as it is fulfilled; several may be under
way at once. The end of standard input ends it, as ``quit`` does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import random
import sys
import time
from enum import Enum
from pathlib import Path
from typing import Any

from smartfallback import (
    CircuitScope,
    CircuitTarget,
    CloseCircuit,
    Command,
    CorrectQuota,
    Disable,
    Drain,
    Enable,
    Event,
    OpenCircuit,
    Orchestrator,
    RequestError,
    ResetCircuit,
    Resume,
    SqliteStateStore,
    SystemClock,
)
from smartfallback.model.sharing import SharingMode, SharingSpec
from support.instance_setup import PROVIDER, Setup
from support.instance_traffic import Burst, Load, asking
from support.instance_upstream import PLAN, Plan, PlannedUpstream
from support.upstream_journal import Journal

STATE_LOG = "smartfallback.state"
_BACKLOG = 100_000


def shared_arguments(setup: Setup) -> dict[str, Any]:
    """What an orchestrator gets besides, to share its state."""
    if setup.redis is None:
        return {}
    from smartfallback.state.redis_store.store import RedisSharedStore

    return {
        "shared": RedisSharedStore(setup.redis, clock=SystemClock()),
        "sharing": SharingSpec(SharingMode(setup.mode), setup.name),
    }


class Lines(logging.Handler):
    """Keeps what is logged: about the state, and what nobody should have to read (complaints)."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.state: list[dict[str, Any]] = []
        self.complaints: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(STATE_LOG):
            self.state.append({"at": record.created, "level": record.levelname, "text": record.getMessage()})
        elif record.levelno >= logging.WARNING:
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
            self.complaints.append(f"{record.name}: {text}")


class Instance:
    """Fulfils wishes."""

    def __init__(self, setup: Setup, orchestrator: Orchestrator, upstream: PlannedUpstream) -> None:
        self._setup = setup
        self._orchestrator = orchestrator
        self._upstream = upstream
        self._events = orchestrator.subscribe(_BACKLOG)
        self._load: Load | None = None
        self.lines = Lines()
        self.over = asyncio.Event()

    async def fulfil(self, wish: dict[str, Any]) -> Any:
        """Do what is wished; the name of the method is its ``do``."""
        fields = {name: value for name, value in wish.items() if name not in ("id", "do")}
        return await getattr(self, f"do_{wish['do']}")(**fields)

    async def do_burst(self, **fields: Any) -> Any:
        return await Burst(**fields).run(self._orchestrator)

    async def do_load(self, **fields: Any) -> Any:
        self._load = load = Load(**fields)
        return await load.run(self._orchestrator)

    async def do_stop_load(self) -> Any:
        if self._load is not None:
            self._load.stopped.set()

    async def do_ask(self, reserve: int = 25, pin: str | None = None, **plan: Any) -> Any:
        """One request; how it ended, and when it was asked."""
        planned = Plan(**plan)
        PLAN.set(planned)
        begun = time.perf_counter()
        try:
            reply = await self._orchestrator.chat(asking(reserve, pin))
        except RequestError as error:
            return {"error": str(error), "skipped": list(error.skipped), "attempts": len(error.attempts)}
        asked_s = None if planned.asked_at is None else planned.asked_at - begun
        return {"account": reply.account, "attempts": len(reply.attempts), "asked_s": asked_s}

    async def do_fail(self, **fields: Any) -> Any:
        self._upstream.fail(**fields)

    async def do_slow(self, **fields: Any) -> Any:
        self._upstream.slow(**fields)

    async def do_heal(self, account: str) -> Any:
        self._upstream.heal(account)

    async def do_command(self, name: str, **fields: Any) -> Any:
        """An operator's command; ``at`` is when it was given, in epoch seconds."""
        command = _COMMANDS[name](**fields)
        at = time.time()
        ok, message = self._orchestrator.execute(command)
        return {"at": at, "ok": ok, "message": message}

    async def do_snapshot(self) -> Any:
        view = self._orchestrator.snapshot()
        pool = view.pools[0]
        return {
            "at": view.at,
            "store": _plain(view.store),
            "in_flight": view.traffic.in_flight,
            "provider_circuit": _plain(pool.provider_circuit),
            "accounts": {
                account.id: {
                    "admin": account.admin.value,
                    "admin_reason": account.admin_reason,
                    "attention": account.attention,
                    "circuit": _plain(account.circuit),
                    "cooldown_until": account.cooldown_until,
                    "exhausted_until": account.quota.exhausted_until,
                    "in_flight": account.in_flight,
                    "windows": [_plain(window) for window in account.quota.windows],
                    "skip": None if account.skip is None else str(account.skip),
                }
                for account in pool.accounts
            },
        }

    async def do_events(self, kinds: list[str] | None = None) -> Any:
        """What happened since the last call."""
        events, dropped = self._events.drain()
        told = [_event(event) for event in events if kinds is None or type(event).__name__ in kinds]
        return {"events": told, "dropped": dropped}

    async def do_lines(self) -> Any:
        return {"state": self.lines.state, "complaints": self.lines.complaints}

    async def do_quit(self) -> Any:
        self.over.set()


def _target(scope: str, name: str) -> CircuitTarget:
    return CircuitTarget(CircuitScope(scope), name)


def _circuit_of(account: str | None) -> CircuitTarget:
    return _target("provider", PROVIDER) if account is None else _target("account", account)


def _open(account: str | None = None, reason: str = "by hand", duration_s: float | None = None) -> Command:
    return OpenCircuit(_circuit_of(account), reason, duration_s)


def _close(account: str | None = None, reason: str = "by hand") -> Command:
    return CloseCircuit(_circuit_of(account), reason)


def _reset(account: str | None = None, reason: str = "by hand") -> Command:
    return ResetCircuit(_circuit_of(account), reason)


_COMMANDS: dict[str, Any] = {
    "drain": Drain,
    "resume": Resume,
    "disable": Disable,
    "enable": Enable,
    "correct": CorrectQuota,
    "open": _open,
    "close": _close,
    "reset": _reset,
}


def _plain(value: Any) -> Any:
    """A value as JSON has it; what JSON has no word for is left out."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, CircuitTarget):
        return str(value)
    if dataclasses.is_dataclass(value):
        fields = ((entry.name, getattr(value, entry.name)) for entry in dataclasses.fields(value))
        return {name: _plain(inner) for name, inner in fields}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _event(event: Event) -> dict[str, Any]:
    simple = (str, int, float, bool, Enum, CircuitTarget, type(None))
    fields = ((entry.name, getattr(event, entry.name)) for entry in dataclasses.fields(event))
    return {
        "kind": type(event).__name__,
        **{name: _plain(value) for name, value in fields if isinstance(value, simple)},
    }


def say(word: dict[str, Any]) -> None:
    """Tell the parent."""
    sys.stdout.write(json.dumps(word) + "\n")
    sys.stdout.flush()


async def answer(instance: Instance, wish: dict[str, Any]) -> None:
    """Fulfil a wish and tell the parent what came of it."""
    try:
        result = await instance.fulfil(wish)
    except Exception as error:
        say({"id": wish["id"], "error": f"{type(error).__name__}: {error}"})
    else:
        say({"id": wish["id"], "result": result})


async def main() -> None:
    """Run until the parent has had enough."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    setup = Setup.from_json((await reader.readline()).decode())
    journal = Journal(setup.journal_path, setup.number)
    upstream = PlannedUpstream(journal, [account.id for account in setup.accounts])
    orchestrator = Orchestrator(
        setup.system(),
        rng=random.Random(setup.seed),
        provider_factory=upstream.provider,
        store=None if setup.sqlite is None else SqliteStateStore(Path(setup.sqlite)),
        **shared_arguments(setup),
    )
    instance = Instance(setup, orchestrator, upstream)
    logging.getLogger().addHandler(instance.lines)
    logging.getLogger(STATE_LOG).setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    tasks: set[asyncio.Task[None]] = set()
    async with orchestrator:
        say({"ready": setup.name})
        over = asyncio.ensure_future(instance.over.wait())
        while True:
            line = asyncio.ensure_future(reader.readline())
            await asyncio.wait((line, over), return_when=asyncio.FIRST_COMPLETED)
            if over.done() or not line.result():
                break
            task = asyncio.ensure_future(answer(instance, json.loads(line.result())))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        line.cancel()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    journal.close()


if __name__ == "__main__":
    asyncio.run(main())
