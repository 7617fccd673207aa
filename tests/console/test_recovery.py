"""Hedges, continued, queued and cached requests in the feed; the recovery view; scaled-down accounts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smartfallback import (
    DegradationKind,
    DegradedModeChanged,
    NextStep,
    QueueView,
    RecoveryView,
    SkipReason,
)
from smartfallback.model.decisions import Skip
from smartfallback_console.course import headline
from smartfallback_console.dialogs.details import DetailsDialog
from smartfallback_console.routing import RequestEntry, RoutingLog
from smartfallback_console.screens.recovery import RecoveryScreen
from smartfallback_console.widgets.accounts import AccountsTable
from smartfallback_console.widgets.recovery import RecoveryLog
from smartfallback_console.widgets.tabs import PaneTabs
from support import recovery_data
from support.console import Opener
from support.console_data import NOW, OUTAGE, events, hostile_snapshot, snapshot
from support.console_source import ScriptedSource
from support.recovery_data import Story, recovering, stories

SIZES = ((80, 24), (120, 40), (200, 60))
HOSTILE = (
    "[/bold][@click=app.quit]x[/]",
    "👩‍💻 émoji-café",
    "حساب\u202eevil",
    "n" * 200,
    "ctrl\x1b[2J\x07\x00\nnew",
    "\\[",
)


def log_of(*story: Story) -> list[RequestEntry]:
    log = RoutingLog()
    log.apply(event for part in story for event in part.events)
    return [entry for entry in log.entries if isinstance(entry, RequestEntry)]


def path_of(entry: RequestEntry) -> str:
    return "".join(f"{step.joint}{step.name}{' ' + step.mark if step.mark else ''}" for step in entry.steps())


async def test_the_feed_tells_each_recovery_in_its_line(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories()), size=(200, 60)) as running:
        text = running.screen_text()
    for told in (
        "ag-1 outrun ∥ copilot-work ✓",
        "ag-2 ✓ ∥ ag-7 outrun",
        "ag-3 ✗broke off ⇢ copilot-work ✓",
        "▽ continued +1",
        "ag-1 ✗500 → ◷ 3m 20s → ag-2 ✓",
        "ag-8 ✗429 → cache ✓ 4m old",
        "▽ cached",
        "ag-6 ✗500 → ◷ queued no. 2",
        "ag-1 runs 4 at once instead of 8 (configured: 8): 429 while 8 ran at once",
    ):
        assert told in text


async def test_the_details_say_where_who_why_and_until_when(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories()), size=(120, 40)) as running:
        await running.press("3", *["up"] * 2, "enter")
        text = running.screen_text()
        assert "queued" in text
        assert "place 2 on arrival, priority 5, since" in text
        assert "fails for good at" in text
        assert "in 30m 00s" in text
        running.source.move(60.0)
        await running.look()
        assert "in 29m 00s" in running.screen_text()
        await running.press("escape", "up", "enter")
        assert "from the cache: ag-3 gave it to an equal request" in running.screen_text()
        await running.press("escape", "up", "enter")
        assert "◷ Queue  left after 3m 20s" in running.screen_text()
        await running.press("escape", "up", "enter")
        text = running.screen_text()
        assert "broke off at ag-3 after 812 characters" in text
        assert "stream cut; continued by copilot-work; 24 repeated characters removed" in text
        assert "⇢ asked to go on with the answer that broke off" in text
        assert "▽ continued" in text
        await running.press("escape", "up", "enter")
        text = running.screen_text()
        assert "outrun: ag-2 answered first" in text
        assert "✓ answered first" in text
        assert "∥ hedge: asked beside the attempt before" in text


async def test_the_filter_finds_the_kinds_of_recovery(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories()), size=(200, 60)) as running:
        await running.command("filter cached")
        text = running.screen_text()
        assert "cache ✓ 4m old" in text
        assert "◷ queued" not in text


def test_a_loser_that_ends_after_the_answer_opens_no_new_entry() -> None:
    story = Story("a").routed("ag-1").starts(1, "ag-1").starts(2, "ag-2", hedge=True).finishes("ag-1")
    story.outrun(2, 1)
    assert len(log_of(story)) == 1


def test_a_request_that_waits_is_replayed_in_its_own_entry() -> None:
    story = Story("a").routed("ag-1").starts(1, "ag-1").fails(1, OUTAGE, NextStep.QUEUE).queued()
    story.replayed(30.0).routed("ag-2").starts(2, "ag-2")
    (entry,) = log_of(story)
    assert path_of(entry) == "ag-1 500 → ◷ 30s → ag-2"
    assert entry.outcome == "running"


def test_a_request_from_before_a_restart_says_how_long_it_has_waited() -> None:
    (entry,) = log_of(Story("a").replayed(7_200.0, restored=True).starts(1, "ag-1").finishes("ag-1"))
    assert path_of(entry) == "◷ 2h 00m → ag-1"
    assert entry.waits[0].restored
    assert entry.origin == "api"
    assert entry.chain == "default"


def test_attempts_whose_events_were_lost_are_taken_from_the_reply() -> None:
    story = Story("a").routed("ag-1").starts(1, "ag-1").fails(1, OUTAGE).starts(2, "ag-2").finishes("ag-2")
    del story.events[1:4]
    (entry,) = log_of(story)
    assert path_of(entry) == "ag-1 500 → ag-2"


def test_trouble_inside_a_good_response_is_not_called_200() -> None:
    broken = replace(recovery_data.CUT, http_status=200)
    (entry,) = log_of(Story("a").routed("ag-1").starts(1, "ag-1").fails(1, broken).starts(2, "ag-2"))
    assert path_of(entry) == "ag-1 malformed → ag-2"


def test_both_of_a_hedged_pair_run_until_one_answers() -> None:
    story = Story("a").routed("ag-1").starts(1, "ag-1").starts(2, "ag-2", hedge=True)
    (entry,) = log_of(story)
    assert [step.role for step in entry.steps()] == ["running", "running"]


@pytest.mark.parametrize("kind", DegradationKind)
def test_every_kind_of_degradation_has_words(kind: DegradationKind) -> None:
    (entry,) = log_of(Story("a").routed("ag-1").starts(1, "ag-1").finishes("ag-1", kind))
    assert headline(entry.degradations)
    assert "_" not in headline(entry.degradations)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_the_recovery_view_tells_figures_queue_and_the_latest(
    console: Opener, size: tuple[int, int]
) -> None:
    async with console(ScriptedSource(recovering(), stories()), size=size) as running:
        await running.press("v")
        assert isinstance(running.app.screen, RecoveryScreen)
        text = running.screen_text()
        assert "97.2% of 214 recovered" in text
        assert "1.24s mean" in text
        assert "12 retries left" in text
        assert "rate limit" in text
        assert "Queue · 3 of 100 wait · 1 answer waits to be collected" in text
        assert "r-5e11" in text
        assert "expires in 26m 40s" in text
        assert "Latest recoveries" in text
        assert "switched 171 · retried 52" in text if size[1] == 24 else "what was done" in text
        await running.press("end")
        await running.press("home", "down", "down", "down")
        text = running.screen_text()
        assert "ag-3 → copilot" in text
        assert "malformed response" in text
        await running.press("5")
        assert not isinstance(running.app.screen, RecoveryScreen)


async def test_the_recovery_view_is_reached_by_key_command_and_tab_and_says_what_it_will_show(
    console: Opener,
) -> None:
    async with console(ScriptedSource(snapshot(), ()), size=(80, 24)) as running:
        await running.command("recovery")
        text = running.screen_text()
        assert "Nothing had to be recovered yet." in text
        assert "Nobody waits." in text
        assert "Nothing yet. Later: who failed" in text
        await running.press("escape")
        running.dashboard.query_one(PaneTabs).post_message(PaneTabs.Chosen("recovery"))
        await running.press("f12")
        assert isinstance(running.app.screen, RecoveryScreen)


async def test_the_view_goes_on_while_it_is_open_and_the_cursor_stays_on_its_request(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), stories()), size=(120, 40)) as running:
        await running.press("v", *["down"] * 4)
        log = running.app.screen.query_one(RecoveryLog)
        assert log.chosen == "r-8"
        newest = recovery_data.record("r-10", 0, recovery_data.CUT.category, "ag-7", "ag-1")
        view = running.source.snapshot
        assert view is not None
        running.source.snapshot = replace(
            view,
            version=9,
            recovery=replace(view.recovery, recent=(newest, *view.recovery.recent)),
            queue=QueueView(100, view.queue.requests[1:], 0),
        )
        await running.look()
        assert log.chosen == "r-8"
        assert "ag-7 → ag-1 ✓" in running.screen_text()
        assert "2 of 100 wait" in running.screen_text()


async def test_enter_on_a_recovery_opens_its_request_as_far_as_the_feed_has_it(console: Opener) -> None:
    view = recovering()
    known = recovery_data.record("torn", 0, recovery_data.CUT.category, "ag-3", "copilot-work")
    view = replace(view, recovery=RecoveryView((known, *view.recovery.recent), view.recovery.overall))
    async with console(ScriptedSource(view, stories()), size=(120, 40)) as running:
        await running.press("v", *["down"] * 3, "enter")
        assert isinstance(running.app.screen, DetailsDialog)
        assert "broke off at ag-3" in running.screen_text()
        await running.press("escape", "down", "enter")
        assert "The routing feed no longer holds this request." in running.toasts()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_names_that_mean_harm_do_none(console: Opener, size: tuple[int, int]) -> None:
    base = hostile_snapshot()
    records = tuple(
        recovery_data.record(name, 1, recovery_data.CUT.category, name, other)
        for name, other in zip(HOSTILE, reversed(HOSTILE), strict=True)
    )
    waiting = tuple(
        view._replace(request_id=name, chain=name)
        for view, name in zip(recovery_data.queue().requests * 2, HOSTILE, strict=True)
    )
    view = replace(
        base,
        recovery=replace(recovery_data.recovery(), recent=records),
        queue=QueueView(100, waiting, 2),
        retry_budget_left=0.0,
    )
    told = tuple(
        event
        for name in HOSTILE
        for event in Story(name).routed(name).starts(1, name).starts(2, name, hedge=True).queued().events
    )
    async with console(ScriptedSource(view, told), size=size) as running:
        await running.press("v")
        text = running.screen_text()
        assert "[/bold][" in text
        assert "\x1b" not in text
        assert "\u202e" not in text
        await running.press("end", "enter", "escape", "escape", "3", "enter")
        assert "hedge" in running.screen_text()
        await running.press("escape", "1", "home", "down", "enter")
        assert "[/bold][" in running.screen_text()


@pytest.mark.parametrize(("width", "said"), [(120, "2/4↓8"), (80, "2/4↓8")])
async def test_a_scaled_down_account_says_so_in_its_row_and_details(
    console: Opener, width: int, said: str
) -> None:
    async with console(ScriptedSource(recovering()), size=(width, 40)) as running:
        assert said in running.screen_text()
        running.dashboard.query_one(AccountsTable).select_account("ag-1")
        await running.press("enter")
        assert "↓ 4 at once instead of 8 · overload; rises step by step" in running.screen_text()


async def test_an_accounts_details_tell_its_recoveries(console: Opener) -> None:
    async with console(ScriptedSource(recovering(), ()), size=(120, 60)) as running:
        running.dashboard.query_one(AccountsTable).select_account("ag-3")
        await running.press("enter")
        text = running.screen_text()
        assert "ag-3 → copilot-work ✓ 3.10s · malformed response · switched" in text
        assert "copilot-work → ag-3 ✓" in text


@pytest.mark.parametrize(
    ("reason", "said"),
    [(SkipReason.JUST_FAILED, "just failed 0:08"), (SkipReason.RAMP, "coming back")],
)
async def test_accounts_that_come_back_or_just_failed_say_so(
    console: Opener, reason: SkipReason, said: str
) -> None:
    base = snapshot()
    first = base.pools[0]
    until = NOW + 8 if reason is SkipReason.JUST_FAILED else None
    skip = Skip("ag-1", "antigravity", reason, "gemini-2.5-flash: 503", until)
    accounts = (replace(first.accounts[0], skip=skip), *first.accounts[1:])
    view = replace(base, pools=(replace(first, accounts=accounts), *base.pools[1:]))
    async with console(ScriptedSource(view), size=(120, 40)) as running:
        assert said in running.screen_text()


async def test_waiting_requests_stand_in_the_head(console: Opener) -> None:
    async with console(ScriptedSource(recovering()), size=(120, 40)) as running:
        assert "3 queued" in running.screen_text()


async def test_degraded_mode_is_announced_however_much_else_happens(console: Opener) -> None:
    async with console(size=(120, 40)) as running:
        change = DegradedModeChanged(900, NOW, "default", degraded=True, detail="nobody of antigravity")
        running.source.snapshot = snapshot(version=2, degraded="nobody of antigravity")
        running.source.move(1.0, change, *events() * 3)
        await running.look()
        assert "default is degraded: nobody of antigravity" in running.toasts()
        assert "▽ default is degraded: nobody of antigravity" in running.screen_text()
        running.source.snapshot = snapshot(version=20)
        running.source.move(1.0, replace(change, seq=9_000, degraded=False, detail=""), *events() * 3)
        await running.look()
        assert "default is back to normal." in running.toasts()
        assert "▽ default is degraded" not in running.screen_text()
