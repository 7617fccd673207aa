"""Processes that live until they are killed: ``python -m support.kept_program``.

Reads ``start FILE LOG``, forks a process that works on that state file and writes what it announces to
the log, and answers with its number; ``reap NUMBER`` waits for the end of one. A fork spares the second
that an interpreter takes to start. Each announcement is a line of JSON, on its way out of the process
before the next step.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path

from smartfallback import (
    AccountSpec,
    AdminState,
    CircuitScope,
    CircuitSettings,
    CircuitTarget,
    Drain,
    ErrorCategory,
    OpenCircuit,
    Orchestrator,
    QuotaUnit,
    RequestError,
    SqliteStateStore,
    WindowKind,
    WindowSpec,
)
from support.scripted import Pause, ScriptedUpstream, ask, failure, pool, system

STEP_S = 0.08
EACH = 250
"""Accounts of each kind: more than are drained, rested or broken in the lives of one file."""
HOLD_S = 5.0
"""The deadline of the requests that never end."""
WEEK = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 100_000_000)
SPEC = system(
    pool("main", AccountSpec("quota", quota=(WEEK,)), AccountSpec("held", quota=(WEEK,), max_concurrency=99)),
    pool("drains", *(f"drain-{number}" for number in range(EACH))),
    pool("rests", *(f"rest-{number}" for number in range(EACH))),
    pool(
        "breaks",
        *(f"break-{number}" for number in range(EACH)),
        account_circuit=CircuitSettings(failure_threshold=1, recovery_timeout_s=3_600.0),
    ),
)


class Life:
    """One process's work; each step changes one thing of each kind, and announces it."""

    def __init__(self, log: int, orchestrator: Orchestrator, upstream: ScriptedUpstream) -> None:
        self._log = log
        self._orchestrator = orchestrator
        self._upstream = upstream

    def announce(self, **said: object) -> None:
        os.write(self._log, (json.dumps({"at": time.time(), **said}) + "\n").encode())

    def announce_writes(self) -> None:
        """Say, whenever the state has been written, when it was looked at for that."""
        persistence = self._orchestrator._persistence
        assert persistence is not None
        write = persistence._save_changes

        async def write_and_tell() -> None:
            begun_at = time.time()
            await write()
            self.announce(written=begun_at)

        persistence._save_changes = write_and_tell  # type: ignore[method-assign]  # nothing else tells

    async def run(self) -> None:
        self.announce_writes()
        snapshot = self._orchestrator.snapshot()
        held, quota = snapshot.account("held"), snapshot.account("quota")
        assert held is not None
        assert quota is not None
        self.announce(held=held.quota.windows[0].held, used=quota.quota.windows[0].used)
        fresh = {
            kind: [
                name
                for name in (f"{kind}-{number}" for number in range(EACH))
                if (account := snapshot.account(name)) is not None
                and account.admin is AdminState.ACTIVE
                and account.cooldown_until is None
                and account.circuit.since <= snapshot.at
                and account.skip is None
            ]
            for kind in ("drain", "rest", "break")
        }
        for step in range(10_000):
            self._orchestrator.execute(Drain(fresh["drain"][step % len(fresh["drain"])], "maintenance"))
            self.announce(drained=fresh["drain"][step % len(fresh["drain"])])
            await self._orchestrator.chat(ask(pin="quota"))
            quota = self._orchestrator.snapshot().account("quota")
            assert quota is not None
            self.announce(used=quota.quota.windows[0].used)
            if step % 3 == 0:
                await self._fail(fresh["rest"].pop(0), ErrorCategory.RATE_LIMIT, retry_after_s=3_000.0)
                await self._fail(fresh["break"].pop(0), ErrorCategory.MALFORMED_RESPONSE)
            if step % 7 == 0:
                name = fresh["break"].pop(0)
                self._orchestrator.execute(OpenCircuit(CircuitTarget(CircuitScope.ACCOUNT, name), "incident"))
                self.announce(forced=name)
            if step == 0:
                await self._hold()
            await asyncio.sleep(STEP_S)

    async def _fail(self, name: str, category: ErrorCategory, **fields: object) -> None:
        self._upstream.always(name, [failure(category, **fields)])
        with contextlib.suppress(RequestError):
            await self._orchestrator.chat(ask(pin=name, timeout_s=20.0))
        account = self._orchestrator.snapshot().account(name)
        assert account is not None
        if category is ErrorCategory.RATE_LIMIT:
            self.announce(rested=name, until=account.cooldown_until)
        else:
            self.announce(broken=name, until=account.circuit.until)

    async def _hold(self) -> None:
        pause = Pause()
        self._upstream.queue("held", [pause])
        self._asking = asyncio.create_task(self._orchestrator.chat(ask(pin="held", timeout_s=HOLD_S)))
        until = time.time() + HOLD_S
        await pause.reached.wait()
        held = self._orchestrator.snapshot().account("held")
        assert held is not None
        self.announce(hold=held.quota.windows[0].held, until=until)


async def live(path: Path, log: int) -> None:
    upstream = ScriptedUpstream()
    store = SqliteStateStore(path)
    async with Orchestrator(SPEC, provider_factory=upstream.provider, store=store) as orchestrator:
        await Life(log, orchestrator, upstream).run()


def fork(path: Path, log_path: Path) -> int:
    child = os.fork()
    if child:
        return child
    try:
        log = os.open(log_path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        asyncio.run(live(path, log))
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
    finally:
        os._exit(1)  # it is to be killed, not to end


def reap(child: int) -> int:
    return os.waitpid(child, 0)[1]


def serve() -> None:
    # All that is loaded on first use is loaded before the first fork.
    Orchestrator(SPEC, provider_factory=ScriptedUpstream().provider, store=SqliteStateStore(Path("unused")))
    for line in sys.stdin:
        order, *words = json.loads(line)
        answer = fork(Path(words[0]), Path(words[1])) if order == "start" else reap(words[0])
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
