"""What is sent along with a prompt, and how text is measured out."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.content import Content

from smartfallback import Delta, Request
from smartfallback_console.chat import commands
from smartfallback_console.chat.answer_text import parser
from smartfallback_console.chat.blocks import draw, tree
from smartfallback_console.chat.commands import CommandError
from smartfallback_console.chat.conversation import (
    CONTEXT_CHARACTERS,
    CONTEXT_TURNS,
    KEPT_TURNS,
    Conversation,
)
from smartfallback_console.chat.text import Pacer, printable, wrapped
from smartfallback_console.chat.wording import Piece, flow, money
from support.clock import FakeClock
from support.console_data import snapshot


def answered(conversation: Conversation, prompt: str, answer: str) -> Request:
    turn = conversation.ask(prompt, 0.0, "default")
    turn.apply([Delta(1, 0.0, "r", answer)])
    return turn.request


def test_context_is_bounded_in_turns_and_memory_too() -> None:
    conversation = Conversation()
    for number in range(KEPT_TURNS + 10):
        request = answered(conversation, f"q{number}", "a")
        assert len(request.messages) == min(number, CONTEXT_TURNS) * 2 + 1
    assert len(conversation.turns) == KEPT_TURNS
    assert request.messages[0].content == f"q{KEPT_TURNS + 10 - 1 - CONTEXT_TURNS}"


def test_context_leaves_out_whole_turns_beyond_its_size() -> None:
    conversation = Conversation()
    answered(conversation, "old", "x" * CONTEXT_CHARACTERS)
    answered(conversation, "new", "y" * (CONTEXT_CHARACTERS // 2))
    request = conversation.ask("now", 0.0, "default").request
    assert [message.content[:3] for message in request.messages] == ["new", "yyy", "now"]


def test_a_prompt_without_an_answer_is_not_sent_along() -> None:
    conversation = Conversation()
    conversation.ask("lost", 0.0, "default")
    assert [message.content for message in conversation.ask("now", 0.0, "default").request.messages] == [
        "now"
    ]


def test_portions_are_a_tenth_of_a_second_apart_and_rest_after_costly_ones() -> None:
    clock = FakeClock()
    pacer = Pacer(clock.monotonic)
    assert not pacer.due
    pacer.put("a")
    assert pacer.due
    assert pacer.take(10) == "a"
    pacer.shown()
    pacer.put("b" * 15)
    clock.advance(0.099)
    assert not pacer.due
    clock.advance(0.002)
    assert pacer.due
    assert pacer.take(10) == "b" * 10
    clock.advance(0.2)
    pacer.shown()
    clock.advance(0.5)
    assert not pacer.due
    clock.advance(0.11)
    assert pacer.due
    assert pacer.take(10) == "b" * 5
    assert pacer.empty


@given(st.text(), st.integers(1, 80))
@settings(deadline=None, max_examples=60)
def test_wrapped_text_fits_and_loses_nothing(text: str, width: int) -> None:
    clean = printable(text)
    lines = wrapped(clean, max(2, width))
    assert all(cell_len(line) <= max(2, width) for line in lines)
    assert "".join(lines) == clean.replace("\n", "") or "\t" in clean


@given(st.text())
@settings(deadline=None, max_examples=100)
def test_printable_text_holds_no_control_characters(text: str) -> None:
    kept = {unicodedata.category(character) for character in printable(text) if character not in "\n\t"}
    assert not kept & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


BLOCKS = [
    "- ",
    "1. ",
    "9999999. ",
    "0) ",
    "> ",
    "  ",
    "    ",
    "\t",
    "| a ",
    "|",
    "| --- |",
    "```",
    "# ",
    "---",
]
INLINE = ["*", "**", "`", "[x](y)", "![i](j)", "<b>", "&#x202e;", "[/red]", "word ", "日本語"]
MARKDOWN = st.lists(st.sampled_from([*BLOCKS, *INLINE, "\n", "\n\n"]), max_size=40).map("".join)


@given(MARKDOWN, st.integers(1, 60))
@settings(deadline=None, max_examples=150)
def test_any_markdown_is_drawn_within_its_width(text: str, width: int) -> None:
    nodes = tree(parser().parse(text))
    lines = draw(nodes, width, lambda token: Content(token.content))
    assert all("\n" not in line.plain for line in lines)
    if not any(node in text for node in ("|", "> ", "- ", ". ", ") ")):
        assert all(line.cell_length <= max(8, width) for line in lines)


@given(st.lists(st.text(max_size=30), max_size=8), st.integers(8, 60))
@settings(deadline=None, max_examples=60)
def test_a_footer_never_exceeds_its_width(texts: list[str], width: int) -> None:
    groups = [(Piece(printable(text).replace("\n", " ").replace("\t", " ")),) for text in texts]
    for line in flow(groups, width, Piece("▸ ")):
        assert sum(cell_len(piece.text) for piece in line) <= width


def test_commands_are_parsed_without_regard_to_case() -> None:
    assert commands.parse("/PIN  ag-2 ") == ("pin", "ag-2")
    assert commands.choose("AG-2", ["ag-1", "ag-2"], "account") == "ag-2"
    with pytest.raises(CommandError, match="takes nothing"):
        commands.parse("/clear all")
    with pytest.raises(CommandError, match=r"Which chain\? There are default, fast"):
        commands.choose("", commands.chains(snapshot()), "chain")


def test_hints_say_whether_an_account_is_ready() -> None:
    found = {hint.line: hint.detail for hint in commands.hints("/pin ag-", snapshot())}
    assert found["/pin ag-1"] == "antigravity, ready"
    assert found["/pin ag-5"] == "drained"
    assert commands.hints("hello /pin", snapshot()) == []
    assert commands.hints("//etc", snapshot()) == []


@pytest.mark.parametrize(
    ("dollars", "said"), [(0.0, "$0"), (0.00001, "<$0.0001"), (0.0012, "$0.0012"), (1.5, "$1.50")]
)
def test_money(dollars: float, said: str) -> None:
    assert money(dollars) == said
