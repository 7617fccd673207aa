"""Pictures of the chat at the sizes and themes in which it must read well."""

from __future__ import annotations

from typing import Protocol

import pytest
from textual.app import App
from textual.events import Paste
from textual.pilot import Pilot

from smartfallback import Degradation, DegradationKind, ErrorCategory, Failure, NextStep
from smartfallback_console.app import ConsoleApp
from smartfallback_console.chat.composer import Composer
from smartfallback_console.chat.pane import ChatPane
from smartfallback_console.screens.dashboard import Dashboard
from support.chat_script import ChatApp, ScriptedSource, demo_source
from support.clock import FakeClock
from support.console_data import NOW, RATE_LIMIT

OUTAGE = Failure(ErrorCategory.API_FAILURE, "Internal error encountered.", http_status=500)
ANSWER = """A **circuit breaker** has `three` states:

1. *Closed*: calls pass, and failures are counted.
2. *Open*: calls are refused at once.
3. *Half-open*: a few probes decide.

```python
if not breaker.permit():
    raise CircuitOpen(breaker.name)  # refused at once
```

| state | leaves when |
| --- | --- |
| closed | 3 failures |
| open | 300 s passed |

> A late result changes nothing. See [the paper](https://example.org).
"""


class Compare(Protocol):
    def __call__(
        self, app: App[None], *, terminal_size: tuple[int, int], run_before: object = ...
    ) -> bool: ...


async def ask(pilot: Pilot[None], text: str) -> None:
    pilot.app.post_message(Paste(text))
    await pilot.press("enter")
    await pilot.pause()


async def prepare(pilot: Pilot[None]) -> ChatPane:
    await pilot.pause()
    screen = pilot.app.screen
    if isinstance(screen, Dashboard):
        screen.look()
        await pilot.press("i")
    chat = screen.query_one(ChatPane)
    chat.query_one(Composer).cursor_blink = False
    await pilot.pause()
    return chat


async def look(pilot: Pilot[None], chat: ChatPane, clock: FakeClock, seconds: float = 1.0) -> None:
    clock.advance(seconds)
    await chat.look()
    await pilot.pause()


def answered(source: ScriptedSource, clock: FakeClock) -> object:
    async def run(pilot: Pilot[None]) -> None:
        chat = await prepare(pilot)
        await ask(pilot, "How does a circuit breaker work?")
        source.answer().tries("ag-1").fails(RATE_LIMIT).tries("ag-2").says(ANSWER).finishes()
        await look(pilot, chat, clock)

    return run


@pytest.mark.parametrize(
    ("theme", "size"),
    [
        pytest.param("harbour-night", (80, 24), id="harbour-night-80x24"),
        pytest.param("paper", (120, 40), id="paper-120x40"),
        pytest.param("harbour-night", (200, 60), id="harbour-night-200x60"),
    ],
)
def test_an_answer_in_the_dashboard(snap_compare: Compare, size: tuple[int, int], theme: str) -> None:
    source, clock = demo_source(), FakeClock()
    app = ConsoleApp(source, theme=theme, live=False, clock=clock.monotonic)
    assert snap_compare(app, terminal_size=size, run_before=answered(source, clock))


def test_an_answer_without_colours(snap_compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    source, clock = demo_source(), FakeClock()
    app = ConsoleApp(source, live=False, clock=clock.monotonic)
    assert snap_compare(app, terminal_size=(80, 24), run_before=answered(source, clock))


def test_the_empty_state(snap_compare: Compare) -> None:
    async def run(pilot: Pilot[None]) -> None:
        await prepare(pilot)

    app = ConsoleApp(demo_source(), live=False, clock=FakeClock().monotonic)
    assert snap_compare(app, terminal_size=(80, 24), run_before=run)


def test_a_read_only_chat(snap_compare: Compare) -> None:
    async def run(pilot: Pilot[None]) -> None:
        await prepare(pilot)

    app = ConsoleApp(demo_source(), live=False, read_only=True, clock=FakeClock().monotonic)
    assert snap_compare(app, terminal_size=(80, 24), run_before=run)


def test_waiting_with_hints(snap_compare: Compare) -> None:
    source = demo_source()
    app = ChatApp(source, single=True)

    async def run(pilot: Pilot[None]) -> None:
        chat = await prepare(pilot)
        await ask(pilot, "How does a circuit breaker work?")
        source.answer().tries("ag-1").fails(RATE_LIMIT).tries("ag-2")
        await look(pilot, chat, app.clock, 3.0)
        await pilot.press("slash")
        await pilot.pause()

    assert snap_compare(app, terminal_size=(80, 24), run_before=run)


@pytest.mark.parametrize("theme", ["harbour-night", "daylight"])
def test_broken_off_and_details(snap_compare: Compare, theme: str) -> None:
    source = demo_source()
    app = ChatApp(source, theme=theme, single=True)

    async def run(pilot: Pilot[None]) -> None:
        chat = await prepare(pilot)
        await ask(pilot, "And now?")
        answer = source.answer().tries("ag-1").fails(RATE_LIMIT).tries("ag-2").says("It begins well, and")
        answer.breaks(OUTAGE, next_available_at=NOW + 244, skipped=("ag-4: above the hard limit",))
        await look(pilot, chat, app.clock)
        await ask(pilot, "Go on.")
        answer = source.answer().tries("copilot-work", "copilot", "gpt-4o")
        answer.degrades(Degradation(DegradationKind.FALLBACK_POOL, "copilot instead of antigravity"))
        answer.says("Sure: half-open.").finishes()
        await look(pilot, chat, app.clock)
        await pilot.press("ctrl+o")
        await pilot.pause()

    assert snap_compare(app, terminal_size=(80, 32), run_before=run)


@pytest.mark.parametrize("theme", ["harbour-night", "daylight"])
def test_continued_cached_and_waiting(snap_compare: Compare, theme: str) -> None:
    source = demo_source()
    app = ChatApp(source, theme=theme, single=True)

    async def run(pilot: Pilot[None]) -> None:
        chat = await prepare(pilot)
        await ask(pilot, "What is a seam?")
        answer = source.answer().tries("ag-3").says("A seam is where one account's answer\n\n- broke off,")
        answer.fails(OUTAGE, NextStep.CONTINUE).tries("copilot-work", "copilot", "gpt-4o")
        answer.resumes("copilot-work", "stream cut", overlap=9).says("and another's goes on.").finishes()
        for _ in range(3):
            await look(pilot, chat, app.clock)
        await ask(pilot, "And from the cache?")
        answer = source.answer().tries("ag-1").fails(OUTAGE, NextStep.CACHE)
        answer.says("The same words as before.").finishes(cached_age_s=245.0)
        await look(pilot, chat, app.clock)
        await ask(pilot, "And when nobody can answer?")
        source.answer().tries("ag-1").fails(OUTAGE, NextStep.QUEUE).queues(OUTAGE)
        await look(pilot, chat, app.clock)

    assert snap_compare(app, terminal_size=(80, 32), run_before=run)
