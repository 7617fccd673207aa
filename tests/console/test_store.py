"""Where state is kept and how well: the header's word, banner, toasts, the store view and its instances."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from smartfallback import StateNotice, StoreKind, StoreView
from smartfallback_console.actions import BY_ID, BY_VERB
from smartfallback_console.dialogs.details import DetailsDialog
from smartfallback_console.formatting import cell_len, lag, wrapped
from smartfallback_console.screens.help import HelpScreen
from smartfallback_console.screens.recovery import RecoveryScreen
from smartfallback_console.screens.store import StoreScreen
from smartfallback_console.store_words import headline, meaning, silent_s
from smartfallback_console.widgets.header import Header
from smartfallback_console.widgets.store import InstanceTable
from support.console import Opener, settle
from support.console_data import (
    HOSTILE_NAMES,
    INSTANCES,
    NOW,
    STORES,
    hostile_store,
    instance,
    stored,
)
from support.console_source import ScriptedSource

SIZES = ((20, 8), (40, 12), (60, 20), (80, 24), (120, 40), (200, 60))


def head(text: str) -> str:
    return text.splitlines()[0]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("memory", "memory"),
        ("file", "sqlite"),
        ("redis", "redis 0.3ms"),
        ("slow", "redis slow 4s"),
        ("down", "redis down 12s"),
        ("full disk", "sqlite failing 1m 15s"),
    ],
)
@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
@pytest.mark.parametrize("simulated", [False, True])
async def test_the_header_says_where_state_is_kept_and_how_well(
    console: Opener, how: str, said: str, size: tuple[int, int], simulated: bool
) -> None:
    async with console(ScriptedSource(stored(how, simulated=simulated)), size=size) as running:
        first = head(running.screen_text())
        short = said.split()[0]
        assert said in first or (how == "redis" and size[0] == 80 and short in first)
        assert "● live" in first
        assert "12:00:00" in first
        assert ("SIMULATED" in first) == simulated


@pytest.mark.parametrize("size", [(60, 20), (40, 12), (30, 10)])
async def test_a_narrow_header_says_it_in_short(console: Opener, size: tuple[int, int]) -> None:
    async with console(ScriptedSource(stored("redis")), size=size) as running:
        assert "redis" in head(running.screen_text())
        running.source.snapshot = replace(stored("down"), version=2)
        await running.look()
        assert "redis down" in head(running.screen_text())


async def test_a_full_house_is_counted_where_there_is_room(console: Opener) -> None:
    async with console(ScriptedSource(stored("redis")), size=(200, 60)) as running:
        assert "redis 0.3ms · 4 instances" in head(running.screen_text())


async def test_trouble_has_a_banner_at_every_size_and_its_end_takes_it_away(console: Opener) -> None:
    for size in SIZES:
        async with console(ScriptedSource(stored("down")), size=size) as running:
            assert "▽ redis down 12s" in running.screen_text()
            running.source.snapshot = replace(stored("redis"), version=2)
            await running.look()
            assert "▽ redis" not in running.screen_text()


async def test_a_degraded_chain_goes_first_and_the_store_is_named_beside_it(console: Opener) -> None:
    source = ScriptedSource(stored("slow", degraded="all accounts above 80 %"))
    async with console(source, size=(120, 40)) as running:
        banner = running.screen_text().splitlines()[2]
        assert "default is degraded: all accounts above 80 %" in banner
        assert "redis slow 4s" in banner


async def test_each_change_of_the_store_is_told_once(console: Opener) -> None:
    lost = "redis://10.0.0.5 can't be used (connection [refused]): all goes on from memory."
    back = "redis://10.0.0.5 can be used again: what was done meanwhile is being merged."
    async with console(ScriptedSource(stored("redis"), ())) as running:
        running.source.snapshot = replace(stored("down"), version=2)
        running.source.pending = (StateNotice(900, NOW, lost),)
        await running.look()
        for version in range(3, 6):
            running.source.snapshot = replace(stored("down"), version=version)
            await running.look()
        assert running.toasts() == [lost]
        running.source.snapshot = replace(stored("redis"), version=9)
        running.source.pending = (StateNotice(901, NOW, back),)
        await running.look()
        assert sorted(running.toasts()) == sorted([lost, back])
        severities = {note.message: note.severity for note in running.app._notifications}
        assert severities == {lost: "warning", back: "information"}
        assert "can be used again" in running.screen_text()  # the feed keeps it too


@pytest.mark.parametrize("way", ["n", "7", ":store", ":instances", "click", "tab"])
async def test_the_view_is_opened_in_every_way_and_left_again(console: Opener, way: str) -> None:
    async with console(ScriptedSource(stored("redis")), size=(80, 24)) as running:
        if way.startswith(":"):
            await running.command(way[1:])
        elif way == "click":
            place = head(running.screen_text()).index("redis 0.3ms")
            await running.pilot.click(Header, offset=(place + 2, 0))
        elif way == "tab":
            line = running.screen_text().splitlines()[2]
            await running.pilot.click("#tabs", offset=(line.index("Store") + 1, 0))
        else:
            await running.press(way)
        await settle(running.pilot)
        assert isinstance(running.app.screen, StoreScreen)
        await running.press("escape")
        assert not isinstance(running.app.screen, StoreScreen)


async def test_one_view_leads_to_the_other_and_only_one_of_each_is_open(console: Opener) -> None:
    async with console(ScriptedSource(stored("redis"))) as running:
        await running.press("n", "v", "n")
        views = [type(screen) for screen in running.app.screen_stack[2:]]
        assert views == [StoreScreen]
        await running.press("v")
        assert isinstance(running.app.screen, RecoveryScreen)


async def test_a_read_only_console_has_the_view_and_help_lists_it(console: Opener) -> None:
    assert BY_VERB["instances"] is BY_VERB["store"] is BY_ID["store"]
    assert not BY_ID["store"].dangerous
    async with console(ScriptedSource(stored("redis")), read_only=True, size=(120, 60)) as running:
        await running.press("n")
        assert isinstance(running.app.screen, StoreScreen)
        await running.press("question_mark")
        assert isinstance(running.app.screen, HelpScreen)
        content = str(running.app.screen.query("Static").first().render())
        assert "Store and instances" in content
        assert ":store  :instances" in content


async def test_the_view_tells_place_mode_lag_and_every_instance(console: Opener) -> None:
    async with console(ScriptedSource(stored("redis")), size=(120, 40)) as running:
        await running.press("n")
        text = running.screen_text()
        for told in (
            "● in order, answers in 0.3ms",
            "redis: on a Redis server, shared with other instances",
            "redis://10.0.0.5:6379/0",
            "leased: each instance leases slices of a quota and spends them without asking",
            "Instances · 4",
        ):
            assert told in text
        lines = {line.split()[2]: line for line in text.splitlines() if "0.1.0" in line}
        assert list(lines) == ["desk", "build-server", "laptop", "night-batch"]
        cells = {name: " ".join(line.split()[3:-1]) for name, line in lines.items()}
        assert cells["desk"] == "0.1.0 3h 00m 0s ago 2 3.4 this one"
        assert cells["build-server"] == "0.1.0 5d 07h 0s ago 31 84.2 running"
        assert cells["laptop"] == "0.1.0 1m 35s 9s ago 1 — silent for 9s"


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("down", ("✕ down for 12s: connection refused", "Requests go on from memory.", "1.2k changes wait")),
        ("slow", ("▽ slow for 4s: it takes longer", "Requests don't wait for it", "1 change waits", "0.21s")),
        ("full disk", ("✕ failing for 1m 15s: database or disk is full", "kept in memory only", "9 changes")),
        ("file", ("● in order", "survives a restart", "state.db", "Nobody shares this state.")),
        ("memory", ("in this process; forgotten when it ends", "--redis-url")),
    ],
)
async def test_the_view_tells_trouble_and_what_it_means(
    console: Opener, how: str, told: tuple[str, ...]
) -> None:
    async with console(ScriptedSource(stored(how)), size=(120, 40)) as running:
        await running.press("n")
        text = " ".join(running.screen_text().replace("│", " ").split())
        for part in told:
            assert part in text


async def test_while_the_store_is_down_nobody_is_called_silent(console: Opener) -> None:
    async with console(ScriptedSource(stored("down")), size=(120, 40)) as running:
        await running.press("n")
        text = running.screen_text()
        assert "silent for" not in text
        assert text.count("store is down") == 3
        assert text.count("this one") == 1


async def test_an_instance_is_told_in_full_and_followed_while_it_is_looked_at(console: Opener) -> None:
    async with console(ScriptedSource(stored("redis")), size=(120, 40)) as running:
        await running.press("n", "down", "down", "enter")
        assert isinstance(running.app.screen, DetailsDialog)
        text = running.screen_text()
        assert "Instance laptop" in text
        assert "silent for 9s" in text
        assert "what it had leased counts as used" in " ".join(text.replace("│", " ").split())
        running.source.move(1.0)
        await running.look()
        assert "silent for 10s" in running.screen_text()


async def test_the_cursor_stays_on_its_instance_when_others_come_and_go(console: Opener) -> None:
    async with console(ScriptedSource(stored("redis")), size=(120, 40)) as running:
        await running.press("n", "down")
        fewer = replace(STORES["redis"], instances=(instance("new"), *INSTANCES))
        running.source.snapshot = replace(stored("redis"), version=2, store=fewer)
        await running.look()
        table = running.app.screen.query_one(InstanceTable)
        assert table.instances[table.cursor].name == "build-server"
        gone = replace(STORES["redis"], instances=(INSTANCES[0],))
        running.source.snapshot = replace(stored("redis"), version=3, store=gone)
        await running.look()
        assert table.cursor == 0
        running.source.snapshot = replace(stored("memory"), version=4)
        await running.look()
        await running.press("down", "enter")
        assert isinstance(running.app.screen, StoreScreen)


async def test_two_hundred_instances_scroll(console: Opener) -> None:
    many = tuple(instance(f"worker-{number:03}") for number in range(200))
    snapshot = replace(stored("redis"), store=replace(STORES["redis"], instances=many))
    async with console(ScriptedSource(snapshot), size=(80, 24)) as running:
        await running.press("n")
        assert "worker-199" not in running.screen_text()
        await running.press("end")
        assert "worker-199" in running.screen_text()
        await running.press("home")
        assert "worker-000" in running.screen_text()
        assert "instance " in running.screen_text()


async def test_names_from_outside_neither_crash_nor_garble_at_any_size(console: Opener) -> None:
    async with console(ScriptedSource(hostile_store())) as running:
        await running.press("n")
        for size in (*SIZES, (300, 100)):
            await running.pilot.resize_terminal(*size)
            await running.look()
            for _ in HOSTILE_NAMES:
                await running.press("down")
                text = running.screen_text()
                assert not set("\x1b\u202e\x07\x00") & set(text)
            await running.press("enter")
            assert isinstance(running.app.screen, DetailsDialog)
            assert not set("\x1b\u202e\x07\x00") & set(running.screen_text())
            await running.press("escape", "home")
        assert "[/bold][@click=app.quit]x[/]" in running.screen_text()
        assert running.app.is_running


async def test_what_others_hold_is_told_in_the_bar_and_in_the_details(console: Opener) -> None:
    async with console(ScriptedSource(stored("redis")), size=(120, 40)) as running:
        row = next(line for line in running.screen_text().splitlines() if " ag-1 " in line)
        assert "╍┅" in row.replace("╍╍", "╍")
        await running.press("enter")
        details = " ".join(running.screen_text().replace("│", " ").split())
        assert "150k held" in details
        assert "┅ 400k tokens, 8.0%, held or leased by other instances" in details
    async with console(ScriptedSource(stored("file")), size=(120, 40)) as running:
        assert "┅" not in running.screen_text()


def test_words_of_a_store_depend_on_what_it_is_and_how_it_is() -> None:
    assert headline(STORES["redis"], NOW) == meaning(STORES["redis"]) == ""
    assert headline(STORES["down"], NOW) == "redis down 12s (connection refused): requests go on from memory"
    assert headline(STORES["full disk"], NOW).endswith("kept in memory only")
    assert silent_s(INSTANCES[2], STORES["slow"], NOW) == pytest.approx(9.0)
    assert silent_s(INSTANCES[2], STORES["down"], NOW) is None
    assert silent_s(replace(INSTANCES[0], seen_at=NOW - 60), STORES["redis"], NOW) is None


async def test_a_file_in_the_home_is_told_in_short(console: Opener) -> None:
    path = Path.home() / "somewhere" / "state.db"
    view = StoreView(StoreKind.SQLITE, str(path))
    async with console(ScriptedSource(replace(stored("file"), store=view))) as running:
        await running.press("n")
        assert "~/somewhere/state.db" in running.screen_text()
        assert str(path) not in running.screen_text()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.000_31, "0.3ms"), (0.0095, "9.5ms"), (0.012, "12ms"), (0.212, "0.21s"), (1.2, "1.20s")],
)
def test_a_lag_has_a_digit_that_counts(seconds: float, text: str) -> None:
    assert lag(seconds) == text


@pytest.mark.parametrize("width", [1, 2, 7, 20, 80])
def test_wrapped_lines_fit_and_lose_nothing(width: int) -> None:
    text = "Requests go on from memory 日本語アカウント " + "n" * 90
    lines = wrapped(text, width)
    assert all(cell_len(line) <= max(2, width) for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrapped("", width) == [""]
