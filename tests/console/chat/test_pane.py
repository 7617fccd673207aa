"""The chat pane, driven by keys and answered event by event."""

from __future__ import annotations

import pytest

from smartfallback import Degradation, DegradationKind, ErrorCategory, Failure, Origin, Role, Usage
from smartfallback_console.app import ConsoleApp
from smartfallback_console.chat.answer_text import AnswerMarkdown, AnswerText, PlainLines
from smartfallback_console.chat.composer import Hints
from smartfallback_console.chat.pane import ChatPane
from smartfallback_console.chat.turn_view import Footer, Notice, TurnView
from support.chat_driver import chat
from support.chat_script import ScriptedSource, demo_source
from support.clock import FakeClock
from support.console import press, settle
from support.console_data import NOW, RATE_LIMIT, hostile_snapshot, snapshot

OUTAGE = Failure(ErrorCategory.API_FAILURE, "Internal error encountered.", http_status=500)
COPILOT = Degradation(DegradationKind.FALLBACK_POOL, "copilot instead of antigravity")


async def test_an_answer_streams_as_markdown_and_says_below_who_answered() -> None:
    async with chat() as at:
        await at.ask("why is the sky blue")
        answer = at.source.answer().tries("ag-1").fails(RATE_LIMIT).tries("ag-3")
        answer.says("It is **Rayleigh** ")
        await at.look()
        answer.says("scattering:\n\n- blue\n- violet\n")
        await at.look()
        assert "It is Rayleigh scattering:" in at.screen
        assert "• violet" in at.screen
        answer.finishes()
        await at.look()
        footer = at.text("Footer")
        assert "ag-1 ✗429 → ag-3 ✓" in footer
        for part in ("antigravity", "gemini-2.5-flash", "0.42s first, 2.31s", "812+230 tok", "$0.0012"):
            assert part in footer
        assert "degraded" not in footer
        assert not at.app.chat.running


async def test_while_waiting_the_status_says_where_the_request_is() -> None:
    async with chat() as at:
        await at.ask("hello")
        answer = at.source.answer()
        await at.look(0.3)
        assert "choosing an account" in at.screen
        assert "below" not in str(at.app.chat.border_subtitle)
        answer.tries("ag-1").fails(RATE_LIMIT)
        await at.look(0.3)
        assert "choosing the next account" in at.screen
        answer.tries("copilot-work", "copilot").degrades(COPILOT)
        await at.look(3.0)
        assert (
            "waiting for copilot-work · 4s · tried ag-1 ✗429 · ▽ copilot instead of antigravity" in at.screen
        )
        answer.says("Hi")
        await at.look(1.0)
        assert "copilot-work answers" in at.screen
        answer.finishes()
        await at.look()
        assert "copilot-work answers" not in at.screen


async def test_the_footer_marks_estimated_tokens_degradation_and_an_early_end() -> None:
    async with chat() as at:
        await at.ask("hello")
        answer = at.source.answer().tries("copilot-work", "copilot", "gpt-4o").degrades(COPILOT).says("Hi")
        answer.finishes(usage=Usage(1_200, 40, estimated=True), cost=None, finish_reason="length")
        await at.look()
        footer = at.text("Footer")
        assert "~1.2k+40 tok" in footer
        assert "▽ degraded: copilot instead of antigravity" in footer
        assert "ended by length" in footer
        assert "$" not in footer


async def test_escape_cancels_the_running_answer_and_keeps_what_came() -> None:
    async with chat() as at:
        await at.ask("tell me a story")
        answer = at.source.answer().tries("ag-2").says("Once upon a time")
        await at.look()
        await at.press("escape")
        assert answer.handle.cancelled
        await at.look()
        assert "Once upon a time" in at.screen
        assert "Cancelled after 16 characters." in at.screen
        assert "ag-2 ∅" in at.text("Footer")
        assert not at.app.chat.running


async def test_a_broken_answer_keeps_its_text_and_lists_every_attempt() -> None:
    async with chat() as at:
        await at.ask("go")
        answer = at.source.answer().tries("ag-1").fails(RATE_LIMIT).tries("ag-3").says("It begins well")
        await at.look()
        answer.breaks(OUTAGE, next_available_at=NOW + 304.2, skipped=("ag-4: above the hard limit",))
        await at.look()
        shown = at.screen
        assert "It begins well" in shown
        assert "Broken off after 14 characters. api failure 500: Internal error encountered." in shown
        assert "ag-1 ✗ rate limit 429: Resource has been exhausted" in shown
        assert "ag-3 ✗ api failure 500" in shown
        assert "ag-4: above the hard limit" in shown
        assert "in 5m 04s" in shown
        assert at.composer.has_focus


async def test_an_unexpected_error_never_shows_its_text() -> None:
    async with chat() as at:
        await at.ask("go")
        at.source.handles[-1].finish(ValueError("key=sk-1234567890abcdef1234"))
        await at.look()
        assert "No answer." in at.screen
        assert "ValueError" in at.screen
        assert "1234" not in at.screen


async def test_a_core_that_ends_or_refuses_is_said() -> None:
    async with chat() as at:
        await at.ask("go")
        at.source.handles[-1].finish()
        await at.look()
        assert "The core ended before the answer was complete." in at.screen
        at.source.refuses = "the core is stopped"
        await at.ask("again")
        assert "could not be sent: the core is stopped" in at.screen
        assert not at.app.chat.running


async def test_requests_carry_origin_session_and_the_turns_before() -> None:
    async with chat() as at:
        await at.ask("one")
        at.source.answer().tries("ag-1").says("first").finishes()
        await at.look()
        await at.ask("two")
        at.source.answer().tries("ag-2").says("half").breaks(OUTAGE)
        await at.look()
        await at.ask("three")
        first, second, third = at.source.requests
        assert {request.origin for request in at.source.requests} == {Origin.CHAT}
        assert first.session
        assert first.session == second.session == third.session
        assert [(message.role, message.content) for message in third.messages] == [
            (Role.USER, "one"),
            (Role.ASSISTANT, "first"),
            (Role.USER, "two"),
            (Role.ASSISTANT, "half"),
            (Role.USER, "three"),
        ]


async def test_clear_begins_a_new_session_and_ends_a_running_answer() -> None:
    async with chat() as at:
        await at.ask("one")
        await at.ask("/clear")
        assert at.source.handles[0].cancelled
        assert not at.views
        assert "Ask anything" in at.screen
        await at.ask("two")
        first, second = at.source.requests
        assert first.session != second.session
        assert len(second.messages) == 1


async def test_chain_and_pin_are_used_shown_and_checked() -> None:
    async with chat() as at:
        await at.ask("/chain fast")
        await at.ask("/pin ag-2")
        await at.ask("hello")
        request = at.source.requests[-1]
        assert (request.chain, request.pin) == ("fast", "ag-2")
        assert "Chat · fast · pinned to ag-2" in str(at.app.chat.border_title)
        at.source.answer().tries("ag-2").says("hi").finishes()
        await at.look()
        await at.ask("/pin ag-22")
        assert "There is no account 'ag-22'. Did you mean ag-2?" in " ".join(at.screen.split())
        await at.ask("/chain nope")
        assert "There are default, fast." in at.screen
        await at.ask("/unpin")
        await at.ask("again")
        assert at.source.requests[-1].pin is None


async def test_retry_asks_the_same_by_none_of_those_that_answered() -> None:
    async with chat() as at:
        await at.ask("/retry")
        assert "There is nothing to retry yet." in at.screen
        await at.ask("one")
        at.source.answer().tries("ag-1").fails(RATE_LIMIT).tries("ag-3").says("answer").finishes()
        await at.look()
        await at.ask("/retry")
        again = at.source.requests[-1]
        assert [message.content for message in again.messages] == ["one"]
        assert again.avoid == {"ag-3"}
        at.source.answer().tries("ag-7").says("better").finishes()
        await at.look()
        await at.ask("/retry")
        assert at.source.requests[-1].avoid == {"ag-3", "ag-7"}
        at.source.answer().tries("ag-2").breaks(OUTAGE)
        await at.look()
        await at.ask("two")
        assert [message.content for message in at.source.requests[-1].messages] == ["one", "better", "two"]


async def test_retry_with_the_pinned_account_is_refused_with_the_way_out() -> None:
    async with chat() as at:
        await at.ask("/pin ag-2")
        await at.ask("one")
        at.source.answer().tries("ag-2").says("answer").finishes()
        await at.look()
        await at.ask("/retry")
        assert "/unpin first" in at.screen
        assert len(at.source.requests) == 1


async def test_an_unknown_command_says_what_is_allowed_and_is_not_sent() -> None:
    async with chat() as at:
        await at.ask("/retri")
        shown = " ".join(at.text("Notice").replace("▌", " ").replace("│", " ").split())
        assert "/retri is no command. Did you mean /retry?" in shown
        assert "/queue TIME, /break RULE, /retry, /cancel." in shown
        assert not at.source.requests
        await at.ask("//etc/hosts")
        assert at.source.requests[-1].messages[-1].content == "/etc/hosts"


async def test_help_lists_all_commands() -> None:
    async with chat() as at:
        await at.ask("/help")
        for command in ("/clear", "/chain NAME", "/pin ACCOUNT", "/unpin", "/retry", "/cancel", "ctrl+j"):
            assert command in at.screen


async def test_cancel_as_a_command() -> None:
    async with chat() as at:
        await at.ask("/cancel")
        assert "There is no answer to stop." in at.screen
        await at.ask("one")
        await at.ask("/cancel")
        assert at.source.handles[-1].cancelled


async def test_tab_completes_commands_and_names() -> None:
    async with chat() as at:
        await at.type("/pi")
        assert at.app.chat.query_one(Hints).display
        await at.press("tab")
        assert at.composer.text == "/pin "
        await at.type("cop")
        await at.press("tab")
        assert at.composer.text == "/pin copilot-"
        await at.type("h")
        await at.press("tab", "enter")
        assert at.app.chat.conversation.pin == "copilot-home"
        assert not at.app.chat.query_one(Hints).display


async def test_a_second_prompt_waits_in_the_field_while_an_answer_runs() -> None:
    async with chat() as at:
        await at.ask("one")
        await at.ask("two")
        assert len(at.source.requests) == 1
        assert at.composer.text == "two"
        assert "esc stops it" in at.screen
        at.source.answer().tries("ag-1").says("x").finishes()
        await at.look()
        await at.press("enter")
        assert at.source.requests[-1].messages[-1].content == "two"


async def test_keys_of_the_field() -> None:
    async with chat() as at:
        await at.press("enter")
        await at.type("  ")
        await at.press("enter")
        assert not at.source.requests
        at.composer.put("")
        await at.type("a")
        await at.press("ctrl+j")
        await at.type("b")
        assert at.composer.text == "a\nb"
        assert at.composer.size.height == 2
        await at.press("enter")
        assert at.source.requests[-1].messages[-1].content == "a\nb"
        at.source.answer().tries("ag-1").says("x").finishes()
        await at.look()
        await at.ask("second")
        await at.press("up")
        assert at.composer.text == "second"
        await at.press("up")
        assert at.composer.text == "a\nb"
        await at.press("down", "down")
        assert at.composer.text == ""
        await at.type("mine")
        await at.press("up")
        assert at.composer.text == "mine"


async def test_details_tell_every_attempt_and_why_it_was_chosen() -> None:
    async with chat() as at:
        await at.ask("one")
        at.source.answer().tries("ag-1").fails(RATE_LIMIT).tries("ag-2").says("x").finishes()
        await at.look()
        assert "best of the top by score" not in at.screen
        await at.press("ctrl+o")
        shown = " ".join(at.screen.split())
        assert "1 ag-1 antigravity, gemini-2.5-flash 0.31s ✗ rate limit 429: Resource" in shown
        assert "then: switch account" in shown
        assert "2 ag-2 antigravity, gemini-2.5-flash 2.31s ✓ answered" in shown
        assert "chosen by hybrid: best of the top by score, score 0." in shown
        assert "passed over: ag-3 above the soft limit" in shown
        await at.press("ctrl+o")
        assert "best of the top by score" not in at.screen
        await at.pilot.click(Footer)
        await settle(at.pilot)
        assert "best of the top by score" in at.screen


async def test_old_turns_leave_the_screen_but_not_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartfallback_console.chat.transcript.SHOWN_ITEMS", 4)
    async with chat() as at:
        for number in range(6):
            await at.ask(f"question {number}")
            at.source.answer().tries("ag-1").says("ok").finishes()
            await at.look()
        assert [view.turn.prompt for view in at.views] == [f"question {number}" for number in range(2, 6)]
        assert len(at.app.chat.conversation.turns) == 6


async def test_the_transcript_follows_only_a_reader_at_the_end() -> None:
    async with chat(size=(60, 20)) as at:
        await at.ask("long")
        answer = at.source.answer().tries("ag-1")
        answer.says("".join(f"{number}\n\n" for number in range(40)))
        await at.look()
        assert at.transcript.is_vertical_scroll_end
        await at.press("pageup")
        there = at.transcript.scroll_offset.y
        assert there < at.transcript.max_scroll_y
        answer.says("".join(f"{number}\n\n" for number in range(40, 60)))
        await at.look()
        assert at.transcript.scroll_offset.y == there
        assert "lines below" in str(at.app.chat.border_subtitle)
        while not at.transcript.is_vertical_scroll_end:
            await at.press("pagedown")
        answer.says("the end\n\nof it")
        await at.look()
        assert at.transcript.is_vertical_scroll_end
        assert "of it" in at.screen


HOSTILE = (
    "[/x] [bold red]no[/] [@click=app.quit]quit[/] \x1b[2J\x07\x00 \u202eevil &#x202e;turned <b>html</b>\n\n"
    "# [/h] 💥 {}\n\n```[/lexer]\n[/code] \x1b]0;title\x07\n```\n\n"
    "| [/a] | [b] |\n| --- | --- |\n| [/cell] | [@click=app.bell]x[/] |\n\n"
    "[link](javascript:alert(1)) ![img]([/src]) <https://example.org/[x]>\n\n> > > deep\n\n1. [/li]\n"
)


async def test_hostile_text_is_only_text() -> None:
    async with chat(ScriptedSource(hostile_snapshot())) as at:
        at.composer.put(HOSTILE)
        await at.press("enter")
        answer = at.source.answer().tries("[/bold][@click=app.quit]x[/]", "[/pool]\x1b[2J", "\u202emodel[/]")
        answer.fails(Failure(ErrorCategory.UNKNOWN, "[/oops]\x1b[31m")).tries("n" * 200, "p" * 200)
        for character in HOSTILE:
            answer.says(character)
        await at.look()
        answer.finishes(finish_reason="[/why]\x1b")
        await at.look()
        await at.press("ctrl+o")
        whole = at.views[-1]
        for forbidden in "\x1b\x07\x00\u202e":
            assert forbidden not in at.screen
            assert forbidden not in whole.turn.text
        assert "[@click=app.quit]" in at.screen
        assert "<b>html</b>" in at.screen
        assert "turned" in at.screen
        for y in range(at.transcript.region.y, at.transcript.region.bottom, 3):
            await at.pilot.hover(offset=(6, y))
        await at.ask("/pin \\[")
        assert at.app.is_running


async def test_tables_lists_and_quotes_are_drawn_without_a_widget_for_each_part() -> None:
    async with chat() as at:
        await at.ask("blocks")
        answer = at.source.answer().tries("ag-1").says("| [/a] | b |\n| --- | --- |\n| **[/c]** | d |\n")
        await at.look()
        answer.says("| e | [f](https://example.org) |\n\n3. three\n4. four\n")
        answer.says("   - nested\n\n     ```\n     code\n     ```\n")
        await at.look()
        answer.says("\n> quoted\n> - item\n")
        await at.look()
        answer.finishes()
        await at.look()
        rows = [row.strip("│ ") for row in at.rows()]
        start = rows.index("[/a]  b")
        assert rows[start + 2 : start + 4] == ["[/c]  d", "e     f"]
        assert rows[start + 5 : start + 9] == ["3. three", "4. four", "▪ nested", "code"]
        assert "▌ • item" in rows
        assert len(at.app.chat.query("AnswerMarkdown > *")) == 3
        assert all(widget.tooltip is None for widget in at.app.chat.query("*"))


async def test_a_link_is_shown_and_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    said: list[tuple[str, bool]] = []
    async with chat() as at:
        monkeypatch.setattr(at.app, "open_url", lambda url, **_: opened.append(url))
        monkeypatch.setattr(
            at.app, "notify", lambda message, *, markup=True, **_: said.append((message, markup))
        )
        await at.ask("link")
        answer = at.source.answer().tries("ag-1").says("[here](https://example.org/[/x])\n\n")
        answer.says(
            "- [there](javascript:x) [good](file:///etc/passwd?[/y])\n- [b](https://example.org/b)\n"
        ).finishes()
        await at.look()
        for block, line in (("MarkdownParagraph", 0), ("FlatBlock", 1)):
            region = at.app.chat.query_one(block).region
            await at.pilot.click(offset=(region.x + 2, region.y + line))
        await settle(at.pilot)
        assert said == [("https://example.org/[/x]", False), ("https://example.org/b", False)]
        assert not opened


async def test_a_huge_answer_is_formatted_in_part_and_kept_whole() -> None:
    async with chat() as at:
        await at.ask("huge")
        answer = at.source.answer().tries("ag-1")
        paragraph = "word " * 40 + "\n\n"
        for _ in range(1_000):
            answer.says(paragraph)
        answer.says("x" * 10_000 + "\n\nthe very end")
        answer.finishes()
        await at.look_until_ended()
        view = at.views[-1]
        assert view.turn.characters > 200_000
        assert len(list(view.query("MarkdownBlock"))) < 200
        assert view.query_one(PlainLines).display
        assert "the very end" in at.screen


async def test_a_line_of_ten_thousand_characters_is_shown_whole() -> None:
    async with chat(size=(80, 200)) as at:
        await at.ask("line")
        answer = at.source.answer().tries("ag-1")
        for _ in range(10):
            answer.says("0123456789" * 100)
            await at.look()
        answer.finishes()
        await at.look()
        digits = sum(character.isdigit() for row in at.rows() for character in row if len(row) > 60)
        assert digits >= 9_900


async def test_fifty_tokens_a_second_cost_at_most_ten_appends_a_second() -> None:
    async with chat() as at:
        await at.ask("stream")
        answer = at.source.answer().tries("ag-1")
        for number in range(500):
            answer.says(f"token{number}" + (" " if number % 20 else "\n\n"))
            at.app.clock.advance(0.02)
            await at.app.chat.look()
        text = at.app.chat.query_one(AnswerText)
        assert 50 <= text.appends <= 101
        answer.finishes()
        await at.look()
        assert at.app.chat.query_one(AnswerMarkdown).source.count("token") == 500


async def test_a_read_only_console_does_not_send_and_says_why() -> None:
    async with chat(read_only=True) as at:
        assert "Read-only: a chat would spend quota" in at.screen
        await at.type("hello")
        await at.press("enter")
        assert not at.source.requests
        assert at.composer.text == ""


async def test_the_empty_state_tells_simulated_answers_once_the_core_is_up() -> None:
    source = ScriptedSource(None)
    async with chat(source) as at:
        assert "Ask anything" in at.screen
        assert "Simulated" not in at.screen
        source.view = snapshot()
        at.app.chat.greet()
        await settle(at.pilot)
        assert "Simulated" in at.screen
        source.view = snapshot(simulated=False)
    async with chat(source) as at:
        assert "Simulated" not in at.screen


async def test_a_prompt_beyond_all_bounds_stays_in_the_field() -> None:
    async with chat() as at:
        at.composer.put("x" * 200_001)
        await at.press("enter")
        assert not at.source.requests
        assert "at most 200,000 are sent" in at.screen
        assert len(at.composer.text) == 200_001


async def test_remarks_stand_above_the_running_answer() -> None:
    async with chat() as at:
        await at.ask("one")
        await at.ask("/pin ag-2")
        children = list(at.transcript.children)
        assert isinstance(children[-1], TurnView)
        assert isinstance(children[-2], Notice)


@pytest.mark.parametrize("read_only", [False, True])
async def test_escape_leaves_an_idle_chat(read_only: bool) -> None:
    app = ConsoleApp(demo_source(), read_only=read_only, live=False, clock=FakeClock().monotonic)
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        await press(pilot, "i")
        await settle(pilot)
        chat = app.screen.query_one(ChatPane)
        assert chat.has_focus_within
        await press(pilot, "escape")
        await settle(pilot)
        assert not chat.has_focus_within
        assert app.screen.focused is not None
        assert app.screen.focused.id == "accounts"
