"""A process that rehearses an outage until it is killed: ``python -m support.rehearsing FILE``.

Says ``before`` once what was before is saved, ``inside`` once the rehearsal is under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path

from smartfallback import (
    AccountSpec,
    AdminState,
    CircuitScope,
    CircuitTarget,
    CorrectQuota,
    Disable,
    Drain,
    ErrorCategory,
    OpenCircuit,
    Orchestrator,
    QuotaUnit,
    RequestError,
    Resume,
    SqliteStateStore,
    WindowKind,
    WindowSpec,
)
from support.scripted import ANSWER, ScriptedUpstream, ask, failure, pool, system

WEEK = WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 1_000_000)
SPEC = system(
    pool("main", *(AccountSpec(f"a-{number}", quota=(WEEK,)) for number in range(1, 5))),
    pool("other", "b-1"),
)
HELD = ("a-1", "a-2", "a-3", "a-4")


async def fail(
    orchestrator: Orchestrator, upstream: ScriptedUpstream, account: str, **fields: object
) -> None:
    category = fields.pop("category")
    upstream.always(account, [failure(category, **fields)])  # type: ignore[arg-type]
    with contextlib.suppress(RequestError):
        await orchestrator.chat(ask(pin=account, timeout_s=0.2))
    upstream.always(account, ANSWER)


async def saved(path: Path, account: str, requests: int) -> None:
    """Wait until the file knows of so many requests of the account."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        store = SqliteStateStore(path)
        state = (await store.load(HELD, ())).accounts.get(account)
        await store.aclose()
        if state is not None and state.requests >= requests:
            return
        await asyncio.sleep(0.1)
    raise TimeoutError(f"{account} was not saved")


async def main(path: Path) -> None:
    upstream = ScriptedUpstream()
    store = SqliteStateStore(path)
    async with Orchestrator(SPEC, provider_factory=upstream.provider, store=store) as orchestrator:
        await orchestrator.chat(ask(pin="a-1"))
        await fail(orchestrator, upstream, "a-2", category=ErrorCategory.RATE_LIMIT, retry_after_s=3_000.0)
        orchestrator.execute(Drain("a-3", "by hand, before"))
        await orchestrator.chat(ask(pin="a-4"))
        await saved(path, "a-4", 1)
        print("before", flush=True)  # noqa: T201 - the parent waits for it
        await asyncio.to_thread(sys.stdin.readline)
        with orchestrator.rehearsal(HELD) as rehearsal:
            await fail(orchestrator, upstream, "a-1", category=ErrorCategory.AUTHENTICATION)
            await fail(
                orchestrator, upstream, "a-4", category=ErrorCategory.QUOTA_EXHAUSTED, retry_after_s=9e3
            )
            provider = CircuitTarget(CircuitScope.PROVIDER, "main-api")
            for command in (
                Resume("a-3"),
                Disable("a-2"),
                CorrectQuota("a-3", 99.0),
                OpenCircuit(provider, ""),
            ):
                if not rehearsal.execute(command).ok:
                    raise RuntimeError(str(command))
            orchestrator.execute(Drain("a-4", "by hand, inside"))
            await orchestrator.chat(ask(pin="b-1"))
            account = orchestrator.snapshot().account("a-3")
            if account is None or account.admin is not AdminState.ACTIVE:
                raise RuntimeError("the rehearsal does nothing")
            await saved(path, "b-1", 1)
            await asyncio.sleep(1.0)  # another write or two
            print("inside", flush=True)  # noqa: T201 - the parent waits for it
            await asyncio.sleep(600.0)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
