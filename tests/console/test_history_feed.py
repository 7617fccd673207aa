"""Requests from before a start in the routing feed: what is told of them, and what they never hold up."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from textual.events import Paste
from textual.pilot import Pilot

from smartfallback import (
    AccountSpec,
    ChainSpec,
    Orchestrator,
    PastRequest,
    PoolSpec,
    ProviderKind,
    SqliteStateStore,
    SystemSpec,
)
from smartfallback.clock import SystemClock
from smartfallback.engine import historian
from smartfallback.simulation.lab import Lab
from smartfallback.simulation.upstreams import DialectName
from smartfallback.state.sqlite import default_state_path
from smartfallback_console import bridge
from smartfallback_console.app import ConsoleApp
from smartfallback_console.bridge import LOOK_BACK, CoreThread
from smartfallback_console.chat.pane import ChatPane
from smartfallback_console.configured import configured_system
from smartfallback_console.course import Outcome
from smartfallback_console.dialogs.details import DetailsDialog
from smartfallback_console.routing import CAPACITY, RequestEntry, RoutingLog, StartEntry
from smartfallback_console.screens.dashboard import Dashboard
from smartfallback_console.system import System, SystemFactory
from smartfallback_console.widgets.accounts import AccountsTable
from smartfallback_console.widgets.recovery import RecoveryLog
from smartfallback_console.widgets.routing_feed import RoutingFeed
from support import console_data
from support.console import Console, Opener, press, settle
from support.console_source import ScriptedSource
from support.past_requests import START, attempt, earlier, failed, of_every_kind, past, switched
from support.quota_scene import OPENAI, upstream, upstream_account
from support.scripted import ScriptedUpstream, pool, system

RULE = "before this start, 11:59:00"
PATIENCE_S = 60.0


def remembering(*requests: PastRequest) -> ScriptedSource:
    source = ScriptedSource()
    source.past = earlier(*requests)
    return source


def lines_of(running: Console) -> list[str]:
    """The lines of the routing feed that are in sight."""
    feed = running.dashboard.query_one(RoutingFeed)
    inside = feed.content_region
    lines = running.screen_text().splitlines()[inside.y : inside.bottom]
    return [line[inside.x : inside.right].strip() for line in lines]


async def zoomed(running: Console) -> list[str]:
    await running.press("3", "z")
    return lines_of(running)


def at(lines: list[str], *words: str) -> int:
    """Where the only line that holds all of the words stands."""
    (found,) = [index for index, line in enumerate(lines) if all(word in line for word in words)]
    return found


async def test_they_stand_above_a_rule_and_the_live_ones_below_in_the_order_they_came(
    console: Opener,
) -> None:
    async with console(remembering()) as running:
        lines = await zoomed(running)
        rule = at(lines, RULE)
        told = [
            at(lines, "02-28", "chat", "ag-1 ✓", "antigravity · gemini-3-pro", "0.82s", "812 tok"),
            at(lines, "03-01", "api", "ag-6 ✗authentication", "failed"),
            at(lines, "11:58:29", "◷ 3m 20s → ag-6 ✗network → ag-2 ✓"),
            at(lines, "11:58:34", "ag-8 ✗rate limit → cache ✓ 4m old", "▽ cached"),
            at(lines, "11:58:39", "ag-1 outrun ∥ ag-2 ✓"),
            at(lines, "11:58:43", "ag-8 ✗rate limit → copilot-work ✓", "▽ degraded", "1.24s"),
            at(lines, "11:58:49", "ag-5 ∅ cancelled"),
            at(lines, "11:58:54", "✗ no account", "failed"),
        ]
        assert told == list(range(8))
        assert rule == 8
        assert at(lines, "ag-8 ✗429 → ag-6 ✗500 → copilot-work ✓") > rule


async def test_they_are_dimmed_and_the_live_ones_are_not(console: Opener) -> None:
    async with console(remembering(), size=(120, 40)) as running:
        await zoomed(running)
        feed = running.dashboard.query_one(RoutingFeed)
        tones = [
            {part.style for part in feed.compose_line(line, 110, feed.ink) if part.text.strip()}
            for line in range(feed.line_count())
        ]
        assert all(tone == {feed.ink.muted} for tone in tones[:9])
        assert any(feed.ink.ok in tone for tone in tones[9:])


async def test_without_anything_kept_there_is_no_rule(console: Opener) -> None:
    source = ScriptedSource()
    source.past = bridge.Earlier(START, ())
    async with console(source) as running:
        assert "before this start" not in "\n".join(await zoomed(running))
        assert "ag-8 ✗429" in running.screen_text()


async def test_nothing_but_the_past_is_shown_as_such(console: Opener) -> None:
    source = ScriptedSource(events=())
    source.past = earlier()
    async with console(source) as running:
        feed = running.dashboard.query_one(RoutingFeed)
        lines = await zoomed(running)
        assert at(lines, RULE) == 8
        assert "Nothing routed yet." not in "\n".join(lines)
        await running.press("up")
        assert "before this start" in str(feed.border_subtitle)


async def test_what_comes_later_than_the_first_events_still_stands_above_them(console: Opener) -> None:
    source = ScriptedSource()
    async with console(source) as running:
        lines = await zoomed(running)
        first = lines[0]
        source.past = earlier()
        await running.look()
        lines = lines_of(running)
        assert lines[at(lines, RULE) + 1] == first
        source.past = earlier(past(99, attempt("ag-7")))
        await running.look()
        assert lines_of(running) == lines, "it is looked at once"


async def test_more_than_there_is_room_for_at_once_ends_at_the_rule(console: Opener) -> None:
    source = ScriptedSource(events=())
    async with console(source) as running:
        source.past = earlier(*(past(number, attempt("ag-1"), ago=number) for number in range(LOOK_BACK)))
        await running.look()
        feed = running.dashboard.query_one(RoutingFeed)
        assert feed.scroll_offset.y == feed.max_scroll_y > 0
        assert "before this start" in lines_of(running)[-1]


async def test_enter_tells_what_is_known_and_says_what_is_not(console: Opener) -> None:
    async with console(remembering()) as running:
        await zoomed(running)
        await running.press("home", *["down"] * 5, "enter")
        assert isinstance(running.app.screen, DetailsDialog)
        text = running.screen_text()
        for words in (
            "answered  chat, chain default, 2026-03-02 11:58:43",
            "latency 1.24s · first token 0.20s · 812 tokens · $0.0042",
            "▽ degraded: less than what was asked for",
            "Attempt 1  ag-8  antigravity · gemini-3-pro  ✗ rate_limit: its words were not kept",
            "Attempt 2  copilot-work  copilot · gemini-3-pro  ✓ answered",
            "Recovery  retry, switch provider in 0.70s",
            "From before this start. Not kept of it:",
            "why each account was chosen: the rule, the scores of all candidates, who was skipped",
            "what was said about each failed attempt",
            "in what way the answer was less than what was asked for",
        ):
            assert words in text
        await running.press("escape", "home", "down", "enter")
        text = running.screen_text()
        assert "✗ authentication 401: the key was refused" in text
        assert "2026-03-01" in text
        assert "in what way" not in text
        await running.press("escape", "home", "enter")
        assert "what was said" not in running.screen_text()
        await running.press("escape", *["down"] * 8, "enter")
        assert "8 requests above the rule" in running.screen_text()


async def test_the_filter_finds_them_and_keeps_the_rule_between(console: Opener) -> None:
    async with console(remembering()) as running:
        await zoomed(running)
        await running.command("filter copilot-work")
        shown = [line for line in lines_of(running) if line]
        assert at(shown, RULE) == 1
        assert len(shown) == 3
        await running.command("filter cancelled")
        assert at(lines_of(running), RULE) == 1
        await running.command("filter circuit closed")
        shown = [line for line in lines_of(running) if line]
        assert len(shown) == 1
        assert "before this start" not in shown[0]


async def test_paused_at_the_start_they_come_when_it_goes_on(console: Opener) -> None:
    async with console(ScriptedSource(events=())) as running:
        await zoomed(running)
        await running.press("p")
        running.source.past = earlier()
        await running.look()
        assert "before this start" not in running.screen_text()
        await running.press("p")
        assert RULE in running.screen_text()


async def test_a_reader_stays_where_he_is_and_dropped_events_are_counted(console: Opener) -> None:
    async with console(remembering()) as running:
        feed = running.dashboard.query_one(RoutingFeed)
        await zoomed(running)
        await running.press("home", "down")
        running.source.dropped = 7
        script = console_data.Script()
        for index in range(60):
            script.request(f"new-{index}", console_data.NOW + index, (("ag-1", "antigravity", None),))
        running.source.move(1.0, *script.events)
        await running.look()
        assert feed.scroll_offset.y == 0
        assert feed.cursor == 1
        assert "newer" in str(feed.border_subtitle)
        assert "7 events dropped" in str(feed.border_subtitle)
        assert "ag-6 ✗authentication" in lines_of(running)[1]


def test_they_are_the_first_to_go_and_the_rule_goes_with_the_last_of_them() -> None:
    log = RoutingLog()
    log.look_back(earlier(*(past(number, attempt("ag-1"), ago=number) for number in range(200, 0, -1))))
    script = console_data.Script()
    for index in range(CAPACITY + 200):
        script.request(f"r{index}", START + index, (("ag-1", "antigravity", None),))
    log.apply(script.events)
    assert len(log.entries) <= CAPACITY * 1.1
    assert not any(isinstance(entry, StartEntry) for entry in log.entries)
    assert not any(isinstance(entry, RequestEntry) and entry.before_start for entry in log.entries)


def test_a_full_log_takes_none_in() -> None:
    log = RoutingLog(capacity=10)
    script = console_data.Script()
    for index in range(10):
        script.request(f"r{index}", START + index, (("ag-1", "antigravity", None),))
    log.apply(script.events)
    log.look_back(earlier())
    assert [entry.before_start for entry in log.entries if isinstance(entry, RequestEntry)] == [False] * 10


def test_a_name_that_was_used_before_the_start_too_is_told_apart() -> None:
    log = RoutingLog()
    log.look_back(earlier(switched()))
    assert log.find("r6") is None
    script = console_data.Script()
    script.request("r6", START + 1, (("ag-1", "antigravity", None),), latency_s=0.5)
    log.apply(script.events)
    now = log.find("r6")
    assert now is not None
    assert not now.before_start
    assert log.find("r6", START + 1.5) is now
    before = log.find("r6", START - 15.0)
    assert before is not None
    assert [hop.account for hop in before.hops] == ["ag-8", "copilot-work"]


async def test_a_recovery_from_before_the_start_opens_its_own_request(console: Opener) -> None:
    script = console_data.Script()
    script.request("r6", START + 1, (("ag-1", "antigravity", None),))
    base = console_data.snapshot()
    record = switched().recovery
    assert record is not None
    view = replace(base, recovery=replace(base.recovery, recent=(record,)))
    source = ScriptedSource(view, tuple(script.events))
    source.past = earlier()
    async with console(source) as running:
        await running.press("v")
        log = running.app.screen.query_one(RecoveryLog)
        assert log.chosen == "r6"
        before = log.cursor
        newer = record._replace(at=START + 1.82, final_account="ag-1")
        recovery = replace(base.recovery, recent=(newer, record))
        running.source.snapshot = replace(base, version=2, recovery=recovery)
        await running.look()
        assert log.cursor == before + 1
        await running.press("enter")
        assert "copilot-work  copilot · gemini-3-pro  ✓ answered" in running.screen_text()


async def test_an_account_tells_of_its_failures_before_the_start(console: Opener) -> None:
    async with console(remembering()) as running:
        running.dashboard.query_one(AccountsTable).select_account("ag-6")
        await running.press("enter", "end")
        text = running.screen_text()
        assert "attempt failed before this start: network" in text
        assert "attempt failed before this start (03-01): authentication" in text


HOSTILE = ("[/bold][@click=app.quit]x[/]", "ctrl\x1b[2J\x07\x00\nnew", "حساب\u202eevil", "n" * 300, "👩‍💻")


@pytest.mark.parametrize("size", [(20, 8), (120, 40)], ids=str)
async def test_names_from_a_file_do_no_harm_at_any_size(console: Opener, size: tuple[int, int]) -> None:
    strange = [
        replace(past(number, failed(name), attempt(name, pool=name), error=name), chain=name, account=name)
        for number, name in enumerate(HOSTILE)
    ]
    endless = replace(past(9, attempt("ag-1")), at=-1e300, latency_s=1e300)
    async with console(remembering(*strange, endless, *of_every_kind()), size=size) as running:
        running.dashboard.show_pane("routing")
        await running.press("home")
        for _ in range(3 + len(strange)):  # the three older ones come first
            await running.press("enter")
            text = running.screen_text()
            assert not {"\x1b", "\x07", "\u202e", "\x00"} & set(text)
            await running.press("escape", "down")


# With a core of its own


@dataclass
class Scripted:
    orchestrator: Orchestrator
    simulator: None = None


class Real:
    """A console over a core that runs."""

    def __init__(self, app: ConsoleApp, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    async def until(self, *texts: str) -> None:
        """Wait for another thread, with a bound."""
        async with asyncio.timeout(PATIENCE_S):
            while not all(text in self.screen for text in texts):
                await asyncio.sleep(0.02)
                self.dashboard.look()
                await settle(self.pilot)

    async def ask(self, text: str) -> None:
        """Ask, and wait until both the chat and the feed have the whole answer."""
        answered = len(self.answered) + 1
        chat = self.dashboard.query_one(ChatPane)
        self.app.post_message(Paste(text))
        await press(self.pilot, "enter")
        async with asyncio.timeout(PATIENCE_S):
            while chat.running or len(self.answered) < answered:
                await asyncio.sleep(0.02)
                self.dashboard.look()
                await settle(self.pilot)

    @property
    def dashboard(self) -> Dashboard:
        return next(screen for screen in self.app.screen_stack if isinstance(screen, Dashboard))

    @property
    def requests(self) -> list[RequestEntry]:
        return [entry for entry in self.dashboard.routing.entries if isinstance(entry, RequestEntry)]

    @property
    def answered(self) -> list[RequestEntry]:
        return [entry for entry in self.requests if entry.outcome is Outcome.ANSWERED]

    @property
    def screen(self) -> str:
        return "\n".join(strip.text for strip in self.app.screen._compositor.render_strips())


@asynccontextmanager
async def running_console(factory: SystemFactory) -> AsyncIterator[Real]:
    """The console from its start to the end of its core."""
    core = CoreThread(factory)
    core.start()
    try:
        app = ConsoleApp(core)
        async with app.run_test(size=(120, 40)) as pilot:
            await settle(pilot)
            yield Real(app, pilot)
    finally:
        assert await asyncio.to_thread(core.stop, 20)
        assert core.failure == ""


SEAT = upstream_account("seat-1")


def configured(url: str) -> Callable[[], AbstractAsyncContextManager[System]]:
    account = AccountSpec(SEAT.id, SEAT.api_key)
    one = PoolSpec("one", ProviderKind.OPENAI, "one", (account,), model="gpt-4.1", base_url=url)
    return lambda: configured_system(SystemSpec((one,), (ChainSpec("default", ("one",)),)))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    # However busy the machine is: what is told of requests that are kept is not a matter of its speed.
    monkeypatch.setattr(historian, "READ_WAIT_S", PATIENCE_S)
    monkeypatch.setattr(bridge, "LOOK_BACK_LIMIT_S", PATIENCE_S)
    return tmp_path


async def test_two_chats_stand_in_the_feed_after_a_restart(folders: Path) -> None:
    lab = Lab(SystemClock(), random.Random(1), [upstream(DialectName.OPENAI, SEAT)])
    async with lab:
        factory = configured(lab.base_url(OPENAI))
        async with running_console(factory) as at_first:
            await at_first.until("seat-1")
            await press(at_first.pilot, "i")
            for number in (1, 2):
                await at_first.ask(f"question {number}")
            told = at_first.requests
            assert not any(entry.before_start for entry in told)
        assert folders in default_state_path().parents
        async with running_console(factory) as later:
            await later.until("before this start")
            assert all(entry.before_start for entry in later.requests)
            for kept, entry in zip(later.requests, told, strict=True):
                for name in ("request_id", "origin", "chain", "outcome", "latency_s", "tokens", "cost"):
                    assert getattr(kept, name) == getattr(entry, name), name
                assert kept.steps() == entry.steps()
                assert kept.at == pytest.approx(entry.at, abs=0.05)
            await press(later.pilot, "i")
            await later.ask("and a third?")
            assert [entry.before_start for entry in later.requests] == [True, True, False]


async def test_of_ten_thousand_the_newest_are_shown(folders: Path) -> None:
    now = SystemClock().time()
    store = SqliteStateStore()
    try:
        rows = [
            replace(past(number, attempt("seat-1")), id=f"p-{number}", at=now - number)
            for number in range(10_000)
        ]
        assert await store.keep_history(rows)
    finally:
        await store.aclose()
    lab = Lab(SystemClock(), random.Random(1), [upstream(DialectName.OPENAI, SEAT)])
    async with lab, running_console(configured(lab.base_url(OPENAI))) as at_start:
        await at_start.until("before this start")
        shown = [entry.request_id for entry in at_start.requests]
        assert shown == [f"r{number}" for number in reversed(range(LOOK_BACK))]


class SlowStore(SqliteStateStore):
    """Does not tell of the latest requests before it is let."""

    def __init__(self, path: Path, let: threading.Event) -> None:
        super().__init__(path)
        self._let = let

    async def history(self, limit: int, since: float | None = None) -> tuple[PastRequest, ...]:
        if limit == LOOK_BACK:
            await asyncio.to_thread(self._let.wait, PATIENCE_S)
        return await super().history(limit, since)


async def test_a_slow_store_holds_up_neither_the_picture_nor_a_chat(folders: Path) -> None:
    path, let = folders / "state.db", threading.Event()
    store = SqliteStateStore(path)
    try:
        assert await store.keep_history([replace(past(1, attempt("a")), at=SystemClock().time() - 9)])
    finally:
        await store.aclose()

    @asynccontextmanager
    async def factory() -> AsyncIterator[Scripted]:
        spec, upstream = system(pool("main", "a", "b")), ScriptedUpstream()
        store = SlowStore(path, let)
        async with Orchestrator(spec, provider_factory=upstream.provider, store=store) as orchestrator:
            yield Scripted(orchestrator)

    try:
        async with running_console(factory) as slow:
            await slow.until("● live")
            await press(slow.pilot, "i")
            await slow.ask("does it wait?")
            assert [entry.before_start for entry in slow.requests] == [False]
            assert "before this start" not in slow.screen
            let.set()
            await slow.until("before this start")
            assert [entry.before_start for entry in slow.requests] == [True, False]
    finally:
        let.set()
