"""What the dashboard shows, at every size, of every state, and with names that mean harm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import pytest

from smartfallback.model.decisions import Skip
from smartfallback.model.events import AttentionRaised, CooldownStarted, DegradedModeChanged, Event
from smartfallback_console.bridge import SourceState
from smartfallback_console.dialogs.details import DetailsDialog
from smartfallback_console.feed import Feed
from smartfallback_console.widgets.accounts import AccountsTable
from smartfallback_console.widgets.header import Header
from smartfallback_console.widgets.pane_layout import PaneArea
from smartfallback_console.widgets.routing_feed import RoutingFeed
from support import console_data
from support.console import Opener, settle
from support.console_source import ScriptedSource


async def test_every_state_reads_without_colour(console: Opener) -> None:
    async with console() as running:
        text = running.screen_text()
    lines = {line.split()[2]: line for line in text.splitlines() if "ag-" in line and "closed" in line}
    assert "▲ ag-3" in text
    assert "soft limit" in lines["ag-3"]
    assert "◆ ag-4" in text
    assert "hard limit" in lines["ag-4"]
    assert "◌ ag-5" in text
    assert "drained · key rotation" in lines["ag-5"]
    assert "✕ ag-6" in text
    assert "open 1:43" in text
    assert "◐ ag-7" in text
    assert "half-open" in text
    assert "cooldown 0:24" in lines["ag-8"]
    assert "estimated" in text
    assert "antigravity 3/8" in text
    assert "SIMULATED" in text


async def test_countdowns_run_with_the_cores_clock(console: Opener) -> None:
    async with console() as running:
        running.source.move(3.0)
        await running.look()
        text = running.screen_text()
        assert "open 1:40" in text
        assert "cooldown 0:21" in text


async def test_the_feed_tells_the_path_of_each_request(console: Opener) -> None:
    async with console(size=(200, 60)) as running:
        text = running.screen_text()
        assert "ag-8 ✗429 → ag-6 ✗500 → copilot-work ✓" in text
        assert "▽ other pool" in text
        assert "ag-6 circuit closed → open: 3 failures in 300 s" in text


async def test_enter_on_a_request_shows_every_score_and_skip(console: Opener) -> None:
    async with console(size=(200, 60)) as running:
        await running.press("3", "enter")
        assert isinstance(running.app.screen, DetailsDialog)
        text = running.screen_text()
        for word in ("quota", "recency", "jitter", "0.613", "0.588", "1.048", "best of the top by score"):
            assert word in text
        assert "ag-4: above the hard limit (97.1 % of week)" in text
        await running.press("escape")
        await running.press("1", "home", "enter")
        assert "Provider circuit" in running.screen_text()


async def test_enter_on_an_account_tells_how_it_stands_and_goes_on_telling(console: Opener) -> None:
    async with console() as running:
        running.dashboard.query_one(AccountsTable).select_account("ag-2")
        await running.press("enter")
        text = running.screen_text()
        for words in (
            "● ready",
            "1 of 8",
            "38.7% used",
            "1.9M of 5.0M tokens, 75k held",
            "measured: counted here, 3s ago · resets in 5d 11h",
            "runs out in 2d 04h (between 1d 12h and 3d 12h) · 61k tokens an hour",
            "0 failures in 212 calls, 99.2% success",
            "nothing but answers",
        ):
            assert words in text
        running.source.move(
            60.0, CooldownStarted(700, console_data.NOW, "ag-2", None, console_data.NOW + 90, "429")
        )
        await running.look()
        text = running.screen_text()
        assert "1m ago · resets in 5d 10h" in text
        assert "rests 1m 30s: 429" in text
        await running.press("escape")
        running.dashboard.query_one(AccountsTable).select_account("ag-6")
        await running.press("enter")
        text = running.screen_text()
        assert "account circuit: 3 failures in 300 s · ends in 43s" in text
        assert "not known yet" in text
        assert "circuit closed → open" in text
        await running.press("escape")
        running.dashboard.query_one(AccountsTable).select_account("opencode")
        await running.press("enter")
        text = running.screen_text()
        assert "unknown: nobody has said" in text
        assert "0.0%" not in text
        assert "100%" not in text


async def test_the_forecast_has_a_column_or_stands_beside_the_state(console: Opener) -> None:
    async with console(size=(200, 60)) as running:
        assert "out 2d 04h" in running.screen_text()
        assert "lasts" in running.screen_text()
        await running.pilot.resize_terminal(120, 40)
        await running.look()
        assert "ready · out in 2d" in running.screen_text()


async def test_the_share_of_limits_is_the_headline_of_fairness(console: Opener) -> None:
    async with console() as running:
        text = running.screen_text()
        assert "Gini 0.04  3/8 usable" in text
        assert "Gini 0.40 uneven  2/2 usable" in text
        assert "antigravity 0.04 even" in text
        assert "last hour: req 0.13 tok 0.14" in text


class Newer(StrEnum):
    """A word of a core that knows more than this console."""

    WORD = "brand new"


@dataclass(frozen=True, slots=True)
class NewEvent(Event):
    account: str


async def test_words_and_events_of_a_newer_core_are_shown_or_passed_over(console: Opener) -> None:
    base = console_data.snapshot()
    word: Any = Newer.WORD
    first = base.pools[0].accounts[0]
    bound = first.quota.bound
    assert bound is not None
    strange = replace(
        first,
        admin=word,
        skip=Skip("ag-1", "antigravity", word, "odd"),
        circuit=replace(first.circuit, state=word),
        quota=replace(first.quota, status=word, windows=(replace(bound, kind=word, unit=word, label=word),)),
    )
    plain = replace(first, id="ag-0", quota=strange.quota, skip=None)
    pool = replace(
        base.pools[0],
        strategy=word,
        accounts=(plain, strange, *base.pools[0].accounts[1:]),
        provider_circuit=replace(base.pools[0].provider_circuit, state=word),
    )
    source = ScriptedSource(replace(base, pools=(pool, *base.pools[1:])))
    source.pending = (NewEvent(9_000, console_data.NOW, "ag-1"), *source.pending)
    async with console(source) as running:
        for size in ((80, 24), (200, 60)):
            await running.pilot.resize_terminal(*size)
            await running.look()
            assert "brand new" in running.screen_text()
            running.dashboard.query_one(AccountsTable).select_account("ag-1")
            await running.press("enter")
            assert "brand new: odd" in running.screen_text()
            await running.press("escape")
        await running.press("home", "enter", "escape", "s")
        assert "hybrid" in running.screen_text()


async def test_the_feed_follows_only_while_the_reader_is_at_the_end(console: Opener) -> None:
    async with console() as running:
        feed = running.dashboard.query_one(RoutingFeed)
        await running.press("3", "up", "up")
        assert not feed.following
        at = feed.scroll_offset.y
        script = console_data.Script()
        for index in range(30):
            script.request(f"new-{index}", console_data.NOW + index, (("ag-1", "antigravity", None),))
        running.source.move(1.0, *script.events)
        await running.look()
        assert feed.scroll_offset.y == at
        assert "newer" in str(feed.border_subtitle)
        await running.press("end")
        assert running.dashboard.query_one(RoutingFeed).following
        assert feed.scroll_offset.y == feed.max_scroll_y


async def test_filter_shows_what_fits_and_escape_clears_it(console: Opener) -> None:
    async with console() as running:
        await running.press("slash")
        await running.type("copilot")
        text = running.screen_text()
        assert "copilot-home" in text
        assert "ag-2" not in text
        await running.press("enter", "escape")
        assert "ag-2" in running.screen_text()
        await running.command("filter nobody-at-all")
        assert "No account matches" in running.screen_text()


async def test_sort_keeps_the_cursor_on_its_account(console: Opener) -> None:
    async with console() as running:
        table = running.dashboard.query_one(AccountsTable)
        table.select_account("ag-4")
        await running.press("S")
        row = table.selected
        assert row is not None
        assert row[1] is not None
        assert row[1].id == "ag-4"
        assert table.cursor == 1


async def test_paused_stands_still_says_so_and_loses_nothing(console: Opener) -> None:
    async with console() as running:
        await running.press("p")
        before = running.screen_text()
        assert "Paused" in before
        script = console_data.Script()
        script.request("later", console_data.NOW, (("copilot-home", "copilot", None),))
        running.source.move(30.0, *script.events)
        await running.look()
        held = running.screen_text()
        assert f"{len(script.events)} events wait" in held
        assert "12:00:00" in held
        await running.press("p")
        text = running.screen_text()
        assert "12:00:30" in text
        assert "copilot-home ✓" in text


async def test_a_core_that_is_silent_dead_or_not_yet_there_is_said(console: Opener) -> None:
    async with console(ScriptedSource(ready=False)) as running:
        assert "Starting the core" in running.screen_text()
        assert "Waiting for the first snapshot" in running.screen_text()
        running.source.state = SourceState.FAILED
        running.source.failure = "OSError: address in use"
        await running.look()
        assert "The core has stopped: OSError: address in use" in running.screen_text()


def test_a_snapshot_that_stays_the_same_grows_stale() -> None:
    now = [0.0]
    feed = Feed(ScriptedSource(), clock=lambda: now[0])
    assert not feed.tick().stale
    now[0] = 2.9
    assert not feed.tick().stale
    now[0] = 3.1
    assert feed.tick().stale


async def test_stale_numbers_are_not_shown_as_live(console: Opener) -> None:
    async with console() as running:
        assert running.dashboard.tick is not None
        running.dashboard.query_one(Header).show(replace(running.dashboard.tick, age_s=8.0))
        await settle(running.pilot)
        assert "No news from the core for 8s" in running.screen_text()
        assert "● live" not in running.screen_text()


async def test_degraded_mode_and_attention_are_announced_and_dropped_events_counted(console: Opener) -> None:
    async with console() as running:
        running.source.snapshot = console_data.snapshot(version=2, degraded="all above the soft limit")
        running.source.pending = (
            DegradedModeChanged(900, console_data.NOW, "default", degraded=True, detail="all [full]"),
            AttentionRaised(901, console_data.NOW, "ag-1", "key refused", "Renew the key."),
        )
        running.source.dropped = 12
        await running.look()
        assert "default is degraded: all above the soft limit" in running.screen_text()
        assert "default is degraded: all [full]" in running.toasts()
        assert "ag-1 needs attention: key refused Renew the key." in running.toasts()
        assert "12 events dropped" in str(running.dashboard.query_one(RoutingFeed).border_subtitle)


@pytest.mark.parametrize("source", [console_data.hostile_snapshot, lambda: console_data.many_accounts(1_000)])
async def test_every_size_holds_every_name(console: Opener, source: object) -> None:
    assert callable(source)
    async with console(ScriptedSource(source())) as running:
        for size in ((20, 8), (80, 24), (120, 40), (300, 100)):
            await running.pilot.resize_terminal(*size)
            await running.look()
            for pane in ("accounts", "metrics", "routing", "chat"):
                running.dashboard.show_pane(pane)
                await settle(running.pilot)
                text = running.screen_text()
                assert "\x1b" not in text
                assert "\u202e" not in text
                assert "\x07" not in text
            running.dashboard.show_pane("accounts")
            await running.press("end", "up", "enter")
            running.screen_text()
            await running.press("escape")


async def test_hostile_names_are_text_in_dialogs_toasts_and_palette(console: Opener) -> None:
    async with console(ScriptedSource(console_data.hostile_snapshot())) as running:
        table = running.dashboard.query_one(AccountsTable)
        for name in ("[/bold][@click=app.quit]x[/]", "[red]", "\\[", "n" * 200):
            table.select_account(name)
            await running.press("x")
            running.screen_text()
            await running.press("enter")
            await running.press("u")
        running.dashboard.run_line("drain nobody[/]")
        await running.press("ctrl+p")
        await running.type("drain [")
        await running.pilot.pause(0.2)
        running.screen_text()
        assert running.app.is_running


async def test_one_pane_at_a_time_where_there_is_little_room(console: Opener) -> None:
    async with console(size=(80, 24)) as running:
        assert "1 Accounts" in running.screen_text()
        await running.press("2")
        assert "Fairness" in running.screen_text()
        assert "account  " not in running.screen_text()
        await running.press("3")
        assert "ag-8 ✗429" in running.screen_text()
        await running.pilot.resize_terminal(120, 40)
        await running.look()
        text = running.screen_text()
        assert "Fairness" in text
        assert "Routing" in text
        assert "1 Accounts" not in text


async def test_zoom_fills_the_screen_with_the_focused_pane_and_back(console: Opener) -> None:
    async with console() as running:
        await running.press("3", "z")
        area = running.dashboard.query_one(PaneArea)
        assert running.dashboard.query_one(RoutingFeed).size.width > 110
        assert "Fairness" not in running.screen_text()
        await running.press("z")
        assert not area.zoomed
        assert "Fairness" in running.screen_text()


async def test_the_mouse_chooses_and_presses(console: Opener) -> None:
    async with console() as running:
        await running.pilot.click(AccountsTable, offset=(10, 4))
        table = running.dashboard.query_one(AccountsTable)
        row = table.selected
        assert row is not None
        assert row[1] is not None
        assert row[1].id == "ag-2"
        await running.pilot.click("#keys", offset=(2, 0))
        await settle(running.pilot)
        assert "Drain ag-2?" in running.screen_text()


async def test_only_lines_that_changed_are_drawn_again(console: Opener) -> None:
    async with console() as running:
        table = running.dashboard.query_one(AccountsTable)
        regions: list[object] = []
        original = table.refresh

        def spy(*areas: object, **options: object) -> object:
            regions.extend(areas or ("everything",))
            return original(*areas, **options)  # type: ignore[arg-type]  # passed on as they came

        table.refresh = spy  # type: ignore[method-assign,assignment]  # watches what is repainted
        running.source.snapshot = replace(console_data.snapshot(), version=9)
        await running.look()
        assert regions == []
        changed = replace(running.source.snapshot.pools[0].accounts[1], requests=999)
        first = running.source.snapshot.pools[0]
        accounts = (first.accounts[0], changed, *first.accounts[2:])
        running.source.snapshot = replace(
            running.source.snapshot,
            pools=(replace(first, accounts=accounts), *running.source.snapshot.pools[1:]),
        )
        await running.look()
        assert [getattr(region, "height", None) for region in regions] == [1]


async def test_it_reads_without_any_colour(console: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with console() as running:
        strips = running.app.screen._compositor.render_strips(running.app.size)
        for strip in strips:
            for line_filter in running.app.get_line_filters():
                strip = strip.apply_filter(line_filter, running.app.screen.background_colors[0])
            for segment in strip:
                for colour in (segment.style.color, segment.style.bgcolor) if segment.style else ():
                    if colour is not None and colour.triplet is not None:
                        assert len(set(colour.triplet)) == 1
        assert "▲ ag-3" in running.screen_text()


async def test_a_pool_that_can_not_run_here_says_what_to_install(console: Opener) -> None:
    base = console_data.snapshot()
    pools = [replace(p, unavailable="it is not installed: run pip install x") for p in base.pools[-1:]]
    async with console(ScriptedSource(replace(base, pools=(*base.pools[:-1], *pools)))) as running:
        assert "✕ it is not installed: run pip install x" in running.screen_text()
