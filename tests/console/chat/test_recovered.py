"""What the chat says of answers that were continued, hedged, queued or taken from the cache."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smartfallback import (
    Degradation,
    DegradationKind,
    ErrorCategory,
    Failure,
    NextStep,
    OnBreak,
    Origin,
    QueuedView,
    QueueTerms,
    QueueView,
    Snapshot,
)
from smartfallback_console.chat import commands
from smartfallback_console.chat.answer_text import open_fence
from smartfallback_console.chat.commands import CommandError
from support.chat_driver import chat
from support.chat_script import demo_source
from support.console_data import NOW, OUTAGE, RATE_LIMIT, snapshot

CUT = Failure(ErrorCategory.MALFORMED_RESPONSE, "the stream ended without its final chunk")
HOSTILE = "[/bold][@click=app.quit]x[/]\x1b[2J\u202e" + "👩‍💻" * 60


async def test_the_mark_stands_between_what_the_two_accounts_wrote_and_below_it_is_told() -> None:
    async with chat() as at:
        await at.ask("why")
        answer = at.source.answer().tries("ag-3").says("The sky is blue because ")
        answer.fails(CUT, NextStep.CONTINUE)
        await at.look()
        assert "broke off" not in at.screen
        answer.tries("copilot-work", "copilot", "gpt-4o")
        await at.look(0.3)
        assert "asking copilot-work to go on with the answer" in at.screen
        answer.resumes("copilot-work", "stream cut", overlap=12).says("light scatters.")
        await at.look()
        answer.finishes()
        await at.look()
        lines = [line.strip(" │▌") for line in at.rows() if line.strip(" │▌")]
        mark = "— broke off at ag-3 (stream cut) · continued by copilot-work —"
        assert lines.index(mark) == lines.index("The sky is blue because") + 1
        assert lines.index("light scatters.") == lines.index(mark) + 1
        footer = " ".join(at.text("Footer").split())
        assert "ag-3 ✗broke off ⇢ copilot-work ✓" in footer
        assert "▽ continued by copilot-work at 24 characters" in footer
        await at.press("ctrl+o")
        shown = at.text("TurnView")
        assert "ag-3 broke off after 24 characters: stream cut" in shown
        assert "12 repeated characters removed" in shown
        assert "⇢ went on with the answer that broke off" in shown


async def test_text_and_mark_that_come_in_one_look_keep_their_order() -> None:
    async with chat() as at:
        await at.ask("why")
        answer = at.source.answer().tries("ag-3").says("one ").fails(CUT, NextStep.CONTINUE)
        answer.tries("ag-1").resumes("ag-1", "stalled").says("two ").fails(CUT, NextStep.CONTINUE)
        answer.tries("ag-2").resumes("ag-2", "cut").says("three")
        answer.finishes()
        for _ in range(6):
            await at.look()
        lines = [line.strip(" │▌") for line in at.rows()]
        told = [line for line in lines if line.startswith(("one", "two", "three", "— broke"))]
        assert told == [
            "one",
            "— broke off at ag-3 (stalled) · continued by ag-1 —",
            "two",
            "— broke off at ag-1 (cut) · continued by ag-2 —",
            "three",
        ]
        turn = at.views[-1].turn
        assert turn.text == "one two three"  # what is sent along later holds no word of the console's


async def test_code_goes_on_as_code_behind_the_mark() -> None:
    async with chat() as at:
        await at.ask("code")
        answer = at.source.answer().tries("ag-3").says("Look:\n\n```python\nfirst = 1\n")
        answer.fails(CUT, NextStep.CONTINUE).tries("ag-1").resumes("ag-1", "cut")
        answer.says("second = [*first*]\n```\nDone *now*.").finishes()
        for _ in range(5):
            await at.look()
        assert "second = [*first*]" in at.screen
        assert "```" not in at.screen
        assert "Done now." in at.screen


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("", ""),
        ("no code", ""),
        ("```python\na = 1", "```python\n"),
        ("a\n~~~\nb\n```\n", "~~~\n"),
        ("```\na\n```\n", ""),
        ("```\na\n```", ""),
        ("````\n```\nstill", "````\n"),
        ("x\n```pyth", "```pyth"),
    ],
)
def test_the_open_block_of_code_is_found(text: str, opened: str) -> None:
    assert open_fence(text) == opened


async def test_a_mark_is_shown_even_if_nothing_follows_and_names_mean_no_harm() -> None:
    async with chat(size=(60, 40)) as at:
        await at.ask("why")
        answer = at.source.answer().tries(HOSTILE).says("half").fails(CUT, NextStep.CONTINUE)
        answer.tries("ag-1").resumes("ag-1", HOSTILE)
        answer.breaks(OUTAGE)
        await at.look()
        await at.look()
        assert "— broke off at [/bold][@click=app.qui" in at.screen
        assert "continued by ag-1" in " ".join(at.screen.split())
        assert "\x1b" not in at.screen
        assert "\u202e" not in at.screen
        assert "Broken off after 4 characters." in at.screen
        segments = [part for strip in at.app.screen._compositor.render_strips() for part in strip]
        assert not any("app.quit" in str(part.style.meta) for part in segments if part.style)


@pytest.mark.parametrize("wins", [True, False], ids=["hedge-wins", "first-wins"])
async def test_a_hedge_stands_beside_the_attempt_and_who_was_first_is_told(wins: bool) -> None:
    async with chat() as at:
        await at.ask("why")
        answer = at.source.answer().tries("ag-1").hedges("cp-1", wins=wins)
        await at.look(0.3)
        assert ("waiting for cp-1" if wins else "waiting for ag-1") in at.screen
        answer.says("Hi").finishes()
        await at.look()
        footer = at.text("Footer")
        assert ("ag-1 outrun ∥ cp-1 ✓" if wins else "ag-1 ✓ ∥ cp-1 outrun") in footer
        await at.press("ctrl+o")
        first = "cp-1" if wins else "ag-1"
        assert f"outrun: {first} answered first" in at.text("TurnView")
        assert "∥ hedge: asked beside the attempt before" in at.text("TurnView")


async def test_who_answered_is_told_in_a_narrow_pane_too() -> None:
    async with chat(size=(44, 30)) as at:
        await at.ask("why")
        answer = at.source.answer()
        for number in range(4):
            answer.tries(f"ag-{number}").fails(OUTAGE)
        answer.tries("copilot-work", "copilot").says("Hi").finishes()
        await at.look()
        assert "more → copilot-work ✓" in at.text("Footer")
        assert "…" not in at.text("Footer").splitlines()[0]


async def test_a_waiting_prompt_tells_its_place_its_end_and_how_to_give_up() -> None:
    source = demo_source()
    async with chat(source) as at:
        await at.ask("why")
        answer = source.answer().tries("ag-1").fails(OUTAGE, NextStep.QUEUE).queues(OUTAGE)
        await at.look(0.3)
        shown = " ".join(at.screen.split())
        assert "◷ waits in the queue, place 2, until" in shown
        assert "30m 00s left" in shown or "29m 59s left" in shown
        assert "esc gives up" in shown
        source.view = _with_queue(snapshot(), "other", "r-1")
        source.view = _with_queue(snapshot(), "r-1")
        await at.look(0.3)
        assert "waits in the queue, place 1" in at.screen
        answer.replays(200.0).tries("ag-2")
        await at.look(0.3)
        assert "waits in the queue" not in at.screen
        assert "waiting for ag-2" in at.screen
        answer.says("Hi").finishes()
        await at.look()
        footer = " ".join(at.text("Footer").split())
        assert "ag-1 ✗500 → ◷ 3m 20s → ag-2 ✓" in footer
        assert "3m 20s in the queue" in footer


def _with_queue(view: Snapshot, *ids: str) -> Snapshot:
    waiting = tuple(
        QueuedView(name, "default", Origin.CHAT, 0, NOW, NOW + 1_800.0, restored=False) for name in ids
    )
    return replace(view, queue=QueueView(100, waiting, 0))


async def test_escape_gives_up_a_place_in_the_queue() -> None:
    async with chat() as at:
        await at.ask("why")
        at.source.answer().queues(OUTAGE)
        await at.look(0.3)
        assert "waits in the queue" in at.screen
        await at.press("escape")
        await at.look()
        assert at.source.handles[-1].cancelled
        assert "Cancelled before the answer began." in at.screen
        assert not at.app.chat.running


async def test_a_cached_answer_carries_its_age_and_who_gave_it() -> None:
    async with chat() as at:
        await at.ask("why")
        answer = at.source.answer().tries("ag-1").fails(OUTAGE, NextStep.CACHE)
        answer.degrades(Degradation(DegradationKind.CACHED, "the same request's answer of 4m ago"))
        answer.says("As before.").finishes(cached_age_s=245.0)
        await at.look()
        footer = " ".join(at.text("Footer").split())
        assert "ag-1 ✗500 → cache ✓ 4m old" in footer
        assert "▽ cached: ag-3 gave this 4m 05s ago" in footer
        assert "tok" not in footer
        await at.ask("/retry")
        assert at.source.handles[-1].request.avoid == frozenset()


async def test_a_cached_answer_without_any_attempt_has_a_footer_too() -> None:
    async with chat() as at:
        await at.ask("why")
        at.source.answer().says("As before.").finishes(cached_age_s=30.0)
        await at.look()
        assert "cache ✓ 30s old" in at.text("Footer")
        await at.press("ctrl+o")
        assert at.views[-1].opened


async def test_the_queue_and_the_rule_for_breaks_are_set_for_the_next_prompts() -> None:
    async with chat() as at:
        await at.ask("/queue 30m")
        assert "waits up to 30m in the queue" in " ".join(at.screen.replace("▌", " ").split())
        await at.ask("/break error")
        assert "may wait 30m" in str(at.app.chat.border_title)
        await at.ask("why")
        request = at.source.handles[-1].request
        assert request.queue == QueueTerms(expires_s=1_800.0)
        assert request.on_break is OnBreak.ERROR
        at.source.answer().tries("ag-1").fails(RATE_LIMIT).tries("ag-2").says("x").finishes()
        await at.look()
        await at.press("ctrl+o")
        shown = " ".join(at.text("TurnView").replace("│", " ").split())
        assert "may wait 30m in the queue · on a break: error" in shown
        await at.ask("/queue off")
        await at.ask("/break chain")
        await at.ask("again")
        assert at.source.handles[-1].request.queue is None
        assert at.source.handles[-1].request.on_break is None


@pytest.mark.parametrize("argument", ["", "soon", "-3m", "0", "nan"])
def test_a_time_that_is_none_is_refused_in_words(argument: str) -> None:
    with pytest.raises(CommandError, match="How long may a prompt wait"):
        commands.queue_terms(argument)


def test_an_unknown_rule_for_breaks_names_those_there_are() -> None:
    with pytest.raises(CommandError, match="continue, error, chain"):
        commands.break_rule("maybe")
    assert [hint.line for hint in commands.hints("/break c", None)] == ["/break continue", "/break chain"]
    assert "/queue 30m" in [hint.line for hint in commands.hints("/queue ", None)]


def test_help_lists_the_new_commands() -> None:
    names = {command.name for command in commands.COMMANDS}
    assert {"queue", "break"} <= names
