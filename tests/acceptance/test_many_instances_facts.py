"""What one process learns, or its operator orders, holds for all: at once, and over a kill."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from support.instance_setup import PROVIDER, Account, Setup
from support.instances import Instance, running, several
from support.redis_servers import RedisServer
from support.upstream_journal import Entry, Step, most_at_once, read_journal, spent

CIRCUIT = {"failure_threshold": 3, "recovery_timeout_s": 300.0, "on_rate_limit": "ignore"}
FREE = tuple(Account(f"a-{number}", None) for number in range(1, 7))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis server of the test's own."""
    with RedisServer() as running_server:
        yield running_server


async def seen_at(instance: Instance, kind: str, *, limit_s: float = 5.0, **fields: Any) -> float:
    """When an instance took over what another did: the time of the event that tells of it."""
    deadline = time.monotonic() + limit_s
    heard: list[Any] = []
    while time.monotonic() < deadline:
        for event in (await instance.ask("events"))["events"]:
            heard.append(event)
            if event["kind"] == kind and all(event[name] == value for name, value in fields.items()):
                at: float = event["at"]
                return at
        await asyncio.sleep(0.01)
    raise TimeoutError(f"{instance.name} never told of {kind} {fields}, but of {heard}")


async def fail(instance: Instance, account: str, category: str, times: int = 1, **fields: Any) -> None:
    """Let an account fail so many requests at one instance."""
    await instance.ask("fail", account=account, category=category, times=times, **fields)
    for _ in range(times):
        await instance.ask("ask", pin=account)
    await instance.ask("heal", account=account)


async def test_a_drain_a_circuit_and_a_rest_are_seen_by_the_others_without_being_asked_for(tmp_path, server):
    setup = Setup(
        str(tmp_path / "journal"), redis=server.url, accounts=FREE, account_circuit=CIRCUIT, timeout_s=3.0
    )
    took: list[float] = []
    async with running(*several(setup, 3)) as instances:
        one, *others = instances
        for number in range(5):
            account = f"a-{number + 1}"
            await asyncio.sleep(0.03 * number)  # so that no common beat hides a poll
            at = await one.command("drain", account=account, reason="by hand")
            for other in others:
                took.append(await seen_at(other, "AdminChanged", account=account, reason="by hand") - at)
            at = await one.command("open", account=account, reason="a bad feeling")
            for other in others:
                target = f"account {account}"
                changed = await seen_at(other, "CircuitChanged", target=target, new="forced_open")
                took.append(changed - at)
            assert (await others[0].account(account))["admin"] == "drained"
        at = time.time()
        await fail(one, "a-6", "RATE_LIMIT", retry_after_s=600.0)
        for other in others:
            took.append(await seen_at(other, "CooldownStarted", account="a-6") - at)
            rest = (await other.account("a-6"))["cooldown_until"]
            assert rest == pytest.approx((await one.account("a-6"))["cooldown_until"], abs=0.5)
        # All accounts are out, at every instance.
        for instance in instances:
            assert "error" in await instance.ask("ask")
        await others[1].command("resume", account="a-2")
        await seen_at(one, "AdminChanged", account="a-2", new="active")
        for instance in instances:
            await instance.quit()
    # Generous on a busy machine, and yet no polling would keep it.
    assert max(took) < 2.0
    assert median(took) < 0.2


async def test_quota_readings_and_corrections_reach_the_others(tmp_path, server):
    setup = Setup(str(tmp_path / "journal"), redis=server.url, accounts=(Account("a-1"), Account("a-2")))
    async with running(*several(setup, 2)) as (one, two):
        await one.ask("ask", pin="a-1", units=15)
        await one.command("correct", account="a-1", percent_used=60.0)
        await two.until(lambda view: view["accounts"]["a-1"]["windows"][0]["used"] == 6_000.0, limit_s=5.0)
        await two.ask("ask", pin="a-1", units=15)
        for instance in (one, two):
            view = await instance.until(
                lambda view: view["accounts"]["a-1"]["windows"][0]["used"] == 6_015.0, limit_s=5.0
            )
            assert view["accounts"]["a-1"]["windows"][0]["label"] == "reported"
        await fail(one, "a-2", "QUOTA_EXHAUSTED", retry_after_s=600.0)
        view = await two.until(lambda view: view["accounts"]["a-2"]["exhausted_until"] is not None)
        assert view["accounts"]["a-2"]["exhausted_until"] == pytest.approx(time.time() + 600.0, abs=30.0)
        for instance in (one, two):
            await instance.quit()


class Known:
    """What all instances should know, whoever is killed."""

    def __init__(self) -> None:
        self.drained = False
        self.rest_until = 0.0
        self.used = 0.0
        self.killed_at = 0.0

    def used_is_known(self, view: Any) -> bool:
        used: float = view["accounts"]["a-5"]["windows"][0]["used"]
        return used >= self.used

    def drain_is_known(self, view: Any) -> bool:
        return (view["accounts"]["a-1"]["admin"] == "drained") is self.drained


async def be_killed(victim: Instance, number: int, known: Known, rng: random.Random) -> None:
    """Change something, spend, and be killed in the middle of it."""
    if number == 0:
        await victim.command("open", account="a-2", reason="until further notice")
        await fail(victim, "a-3", "RATE_LIMIT", retry_after_s=900.0)
        known.rest_until = (await victim.account("a-3"))["cooldown_until"]
    else:
        view = await victim.until(known.used_is_known)
        assert known.drain_is_known(view)
        assert view["accounts"]["a-2"]["circuit"]["state"] == "forced_open"
        assert view["accounts"]["a-3"]["cooldown_until"] == pytest.approx(known.rest_until, abs=1.0)
    if known.drained:
        await victim.command("resume", account="a-1")
    else:
        await victim.command("drain", account="a-1", reason=f"round {number}")
    known.drained = not known.drained
    burst = victim.begin("burst", callers=5, seconds=10.0, pin="a-5", cancel_share=0.1, refusals=1)
    await asyncio.sleep(1.1 + rng.random() * 0.6)
    await victim.kill()
    await asyncio.gather(burst, return_exceptions=True)
    known.killed_at = victim.killed_at or 0.0


@pytest.mark.parametrize("keeps", [True, False], ids=["with its file", "without a file"])
async def test_an_instance_killed_at_any_moment_starts_with_what_all_know(tmp_path, server, keeps):
    rng, known = random.Random(keeps), Known()
    setup = Setup(
        str(tmp_path / "journal"),
        redis=server.url,
        sqlite=str(tmp_path / "state.db") if keeps else None,
        accounts=(*FREE[:4], Account("a-5", 1_000_000.0)),
        account_circuit=CIRCUIT,
        timeout_s=3.0,
    )
    first, second = several(setup, 2)
    async with running(replace(second, sqlite=None)) as (witness,):
        for number in range(4):
            async with running(replace(first, number=10 + number)) as (victim,):
                await be_killed(victim, number, known, rng)
            await witness.until(known.drain_is_known, limit_s=5.0)
            # What is older than a second was told before it died.
            told = [e for e in read_journal(tmp_path / "journal") if e.at < known.killed_at - 1.0]
            known.used = sum(spent(told, account=4).values())
            assert known.used > 0
            await witness.until(known.used_is_known, limit_s=5.0)
        await witness.quit()


# -- one probe between all ------------------------------------------------------------------

PROBED = {
    "failure_threshold": 3,
    "recovery_timeout_s": 1.0,
    "recovery_jitter": 0.0,
    "on_rate_limit": "ignore",
    "probe_lease_s": 2.0,
}


async def loads(instances: Sequence[Instance], **fields: Any) -> list[asyncio.Task[Any]]:
    return [instance.begin("load", **fields) for instance in instances]


def calls_after(entries: Sequence[Entry], at: float) -> list[Entry]:
    """The steps of calls of the first account that began after a moment."""
    skipped: dict[int, int] = {}
    found = []
    for entry in entries:
        if entry.account:
            continue
        if entry.at < at:
            change = {Step.ASKED: 1, Step.ENDED: -1}.get(entry.step, 0)
            skipped[entry.instance] = skipped.get(entry.instance, 0) + change
        elif entry.step is Step.ENDED and skipped.get(entry.instance, 0) > 0:
            skipped[entry.instance] -= 1
        else:
            found.append(entry)
    return found


async def first_call(journal: Path, instance: int, after: float) -> float:
    """When an instance asked the first account next; waits for it."""
    async with asyncio.timeout(10.0):
        while True:
            for entry in calls_after(read_journal(journal), after):
                if entry.instance == instance:
                    return entry.at
            await asyncio.sleep(0.02)


async def test_one_probe_between_four_instances_under_load(tmp_path, server):
    setup = Setup(
        str(tmp_path / "journal"),
        redis=server.url,
        accounts=FREE[:2],
        account_circuit=PROBED,
        strategy="round_robin",
        timeout_s=10.0,
    )
    async with running(*several(setup, 4)) as instances:
        await asyncio.gather(
            *(instance.ask("fail", account="a-1", category="MALFORMED_RESPONSE") for instance in instances)
        )
        under_way = await loads(instances, rate=40.0)
        for instance in instances:
            await instance.until(lambda view: view["accounts"]["a-1"]["circuit"]["state"] == "open")
        settled = time.monotonic()
        # The upstream is well again, and thinks so long that many requests come meanwhile.
        for instance in instances:
            await instance.ask("heal", account="a-1")
            await instance.ask("slow", account="a-1", first_s=0.4)
        for instance in instances:
            await instance.until(lambda view: view["accounts"]["a-1"]["circuit"]["state"] == "closed")
        closed = time.monotonic()
        for instance in instances:
            await instance.ask("stop_load")
        told = await asyncio.gather(*under_way)
    entries = calls_after(read_journal(tmp_path / "journal"), settled)
    answered = min(entry.at for entry in entries if entry.step is Step.ANSWERED)
    assert settled < answered < closed
    assert most_at_once([entry for entry in entries if entry.at <= answered]) == 1
    for result in told:
        assert result.get("failed", 0) == 0, result["reasons"]


async def test_a_probe_that_dies_with_its_instance_frees_its_place_by_its_lease(tmp_path, server):
    setup = Setup(
        str(tmp_path / "journal"),
        redis=server.url,
        accounts=FREE[:2],
        account_circuit=PROBED,
        timeout_s=60.0,
    )
    async with running(*several(setup, 3)) as instances:
        one, *others = instances
        await fail(one, "a-1", "MALFORMED_RESPONSE", times=3)
        opened = time.monotonic()
        for other in others:
            await other.ask("slow", account="a-1", first_s=0.05)
        # The first to probe will never answer.
        await one.ask("slow", account="a-1", first_s=600.0)
        await one.until(lambda view: view["accounts"]["a-1"]["circuit"]["state"] != "closed")
        probing = one.begin("load", rate=20.0)
        journal = tmp_path / "journal"
        begun = await first_call(journal, 1, opened)
        under_way = await loads(others, rate=20.0)
        await asyncio.sleep(0.5)
        await one.kill()
        for other in others:
            await other.until(lambda view: view["accounts"]["a-1"]["circuit"]["state"] == "closed")
            await other.ask("stop_load")
        await asyncio.gather(*under_way)
        await asyncio.gather(probing, return_exceptions=True)
    entries = calls_after(read_journal(journal), opened)
    heir = min(entry.at for entry in entries if entry.instance != 1 and entry.step is Step.ASKED)
    assert heir - begun > 1.5  # not before the dead one's lease had ended
    up_to_heir = [entry for entry in entries if entry.at <= heir + 0.05]
    assert most_at_once(up_to_heir, killed={1: one.killed_at or 0.0}) == 1


async def test_what_is_hard_is_adopted_and_what_is_soft_raises_suspicion(tmp_path, server):
    setup = Setup(
        str(tmp_path / "journal"), redis=server.url, accounts=FREE[:3], account_circuit=CIRCUIT, timeout_s=3.0
    )
    async with running(*several(setup, 2)) as (one, two):
        # A refused key is a fact.
        await fail(one, "a-1", "AUTHENTICATION")
        await two.until(lambda view: view["accounts"]["a-1"]["attention"] != "", limit_s=5.0)
        # Failures as another saw them are a suspicion, which one test of one's own settles.
        await fail(one, "a-2", "MALFORMED_RESPONSE", times=3)
        assert (await one.account("a-2"))["circuit"]["state"] == "open"
        await two.until(lambda view: view["accounts"]["a-2"]["circuit"]["state"] != "closed", limit_s=5.0)
        for instance in (one, two):
            await instance.quit()


async def test_a_provider_that_is_down_is_known_to_be_down_everywhere(tmp_path, server):
    setup = Setup(
        str(tmp_path / "journal"),
        redis=server.url,
        accounts=FREE,
        provider_circuit={"failure_threshold": 3, "recovery_timeout_s": 300.0},
        timeout_s=3.0,
    )
    async with running(*several(setup, 2)) as (one, two):
        await one.command("open", reason="their status page says so")
        changed = await seen_at(two, "CircuitChanged", target=f"provider {PROVIDER}", new="forced_open")
        assert changed > 0
        assert "error" in await two.ask("ask")
        await two.command("close", reason="it is back")
        await seen_at(one, "CircuitChanged", target=f"provider {PROVIDER}", new="closed")
        assert (await one.ask("ask"))["account"]
        for instance in (one, two):
            await instance.quit()
