"""What the copilot adapter asks of the tool and what it makes of its answer, with real processes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.model.outcomes import ErrorCategory
from smartfallback.model.requests import Message, Role
from smartfallback.providers.copilot_output import OutputText
from support.copilot_tools import KEY, ask_tool, copilot, copilot_pool, write_tool
from support.http_servers import call_to, collect, provider_for

ECHO = "say(prompt())"
ARGUMENTS = "say(json.dumps(sys.argv[1:]))"


async def test_text_comes_while_the_tool_still_writes(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    body = f"say('first '); until(lambda: os.path.exists({str(gate)!r})); say('second\\n')"
    pool = copilot_pool(write_tool(tmp_path, body))
    async with copilot(pool) as provider:
        chunks = provider.stream(call_to(pool))
        assert (await anext(chunks)).text == "first"
        gate.touch()
        rest = [chunk async for chunk in chunks]
    assert "".join(chunk.text for chunk in rest) == " second"
    assert rest[-1].finish_reason == "stop"
    assert rest[-1].usage is None


async def test_a_character_that_arrives_in_two_pieces_is_whole(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    face = "😀".encode()
    body = f"say(b'a' + {face[:2]!r}); until(lambda: os.path.exists({str(gate)!r})); say({face[2:]!r})"
    pool = copilot_pool(write_tool(tmp_path, body))
    async with copilot(pool) as provider:
        chunks = provider.stream(call_to(pool))
        assert (await anext(chunks)).text == "a"
        gate.touch()
        assert (await collect(chunks)).text == "😀"


async def test_the_registry_gives_copilot_pools_this_adapter(tmp_path: Path) -> None:
    pool = copilot_pool(write_tool(tmp_path, ECHO))
    async with provider_for(pool) as provider:
        assert (await collect(provider.stream(call_to(pool, "hello")))).text == "hello"


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.just("\n")), st.lists(st.integers(0, 50)))
def test_pieces_of_any_size_make_the_same_answer(text: str, cuts: list[int]) -> None:
    data = f"answer {text}".encode()
    output = OutputText()
    got = ""
    for cut in cuts:
        got += output.feed(data[:cut])
        data = data[cut:]
    got += output.feed(data) + output.finish()
    assert got == f"answer {text}".rstrip()
    assert output.characters == len(got)


async def test_without_streaming_the_answer_is_one_chunk(tmp_path: Path) -> None:
    body = "say('\\n\\none'); say(' two\\n'); say('three\\n\\n')"
    pool = copilot_pool(write_tool(tmp_path, body))
    async with copilot(pool) as provider:
        chunks = [chunk async for chunk in provider.stream(call_to(pool, stream=False))]
    assert [(chunk.text, chunk.finish_reason) for chunk in chunks] == [("one two\nthree", "stop")]


async def test_the_command_line_holds_prompt_silence_and_model_only(tmp_path: Path) -> None:
    assert json.loads((await ask_tool(tmp_path, ARGUMENTS, "hello")).text) == [
        "-p",
        "hello",
        "-s",
        "--model=m-1",
    ]
    assert json.loads((await ask_tool(tmp_path, ARGUMENTS, "hello", model="")).text) == ["-p", "hello", "-s"]
    odd = await ask_tool(tmp_path, ARGUMENTS, "hello", model="--allow-all-tools")
    assert json.loads(odd.text) == ["-p", "hello", "-s", "--model=--allow-all-tools"]


async def test_a_configured_command_keeps_its_own_arguments_first(tmp_path: Path) -> None:
    pool = copilot_pool(write_tool(tmp_path, ARGUMENTS), "--config-dir", "/x")
    async with copilot(pool) as provider:
        outcome = await collect(provider.stream(call_to(pool)))
    assert json.loads(outcome.text)[:3] == ["--config-dir", "/x", "-p"]


@pytest.mark.parametrize(
    "text",
    [
        "$(touch owned) `touch owned` ; touch owned && rm -rf . | cat > owned < /etc/passwd",
        "'single' \"double\" \\'mixed\\' \\",
        "two\nlines\r\nand\ta tab\n",
        "-p",
        "--allow-all-tools",
        "nul\0inside",
        "%PATH% !x! ^& ~ * ?",
        "ženy 😀 \u202e right",
        "x" * 16_385,
        "long " * 40_000,
    ],
    ids=["shell", "quotes", "newlines", "dash", "option", "nul", "percent", "unicode", "16kB", "200kB"],
)
async def test_a_prompt_arrives_byte_for_byte(tmp_path: Path, text: str) -> None:
    body = "import hashlib; say(hashlib.sha256(prompt()).hexdigest() + ' ' + str(os.listdir('.')))"
    outcome = await ask_tool(tmp_path, body, text)
    assert outcome.text == f"{hashlib.sha256(text.encode()).hexdigest()} []"
    assert not (tmp_path / "owned").exists()


async def test_half_a_character_in_a_prompt_is_replaced(tmp_path: Path) -> None:
    assert (await ask_tool(tmp_path, ECHO, "a\ud800b")).text == "a?b"


@pytest.mark.parametrize("text", ["/login", " /help", "!ls", "@/etc/passwd", "#1", "?"])
async def test_a_prompt_is_never_a_command_of_the_tool(tmp_path: Path, text: str) -> None:
    told = (await ask_tool(tmp_path, ECHO, text)).text
    assert told.startswith("Answer this message of the user:")
    assert told.endswith(text)


async def test_a_conversation_becomes_one_prompt_in_order(tmp_path: Path) -> None:
    messages = (
        Message(Role.SYSTEM, "Be brief."),
        Message(Role.USER, "What is a heap?"),
        Message(Role.ASSISTANT, "A tree."),
        Message(Role.ASSISTANT, " "),
        Message(Role.USER, "And a trie?"),
    )
    told = (await ask_tool(tmp_path, ECHO, messages=messages)).text
    parts = ["<instructions>", "Be brief.", "<user>", "What is a heap?", "<assistant>", "A tree."]
    places = [told.index(part) for part in parts]
    assert places == sorted(places)
    assert told.count("<assistant>") == 1
    assert told.endswith("And a trie?")


async def test_a_conversation_that_ends_with_the_assistant_goes_on(tmp_path: Path) -> None:
    messages = (Message(Role.USER, "Count."), Message(Role.ASSISTANT, "One, two,"))
    told = (await ask_tool(tmp_path, ECHO, messages=messages)).text
    assert "One, two," in told
    assert "Go on" in told


async def test_each_call_has_an_empty_private_folder_that_goes_with_it(tmp_path: Path) -> None:
    body = "say(json.dumps([os.getcwd(), os.listdir('.'), os.stat('.').st_mode & 0o777])); open('left', 'w')"
    first, second = [json.loads((await ask_tool(tmp_path, body)).text) for _ in range(2)]
    assert first[1:] == second[1:] == [[], 0o700]
    assert first[0] != second[0]
    assert not any(map(os.path.lexists, (first[0], second[0])))


async def environment_of(tmp_path: Path, **call: Any) -> dict[str, str]:
    seen: dict[str, str] = json.loads(
        (await ask_tool(tmp_path, "say(json.dumps(dict(os.environ)))", **call)).text
    )
    return seen


async def test_the_account_s_key_is_the_only_login_that_the_tool_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COPILOT_GITHUB_TOKEN", "GITHUB_TOKEN", "GH_TOKEN"):
        monkeypatch.setenv(name, "of-somebody-else")
    monkeypatch.setenv("OPENAI_API_KEY", "of-another-provider")
    monkeypatch.setenv("COPILOT_ALLOW_ALL", "true")
    monkeypatch.setenv("COPILOT_HOME", "/somewhere")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    env = await environment_of(tmp_path)
    assert env["GH_TOKEN"] == KEY
    assert not {"COPILOT_GITHUB_TOKEN", "GITHUB_TOKEN", "OPENAI_API_KEY", "COPILOT_ALLOW_ALL"} & env.keys()
    assert env["COPILOT_HOME"] == "/somewhere"
    assert env["HTTPS_PROXY"] == "http://127.0.0.1:9"
    assert {"PATH", "COPILOT_AUTO_UPDATE"} <= env.keys()


async def test_an_account_without_a_key_uses_the_tool_s_own_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "the-operator-s")
    env = await environment_of(tmp_path, key=None)
    assert env["GITHUB_TOKEN"] == "the-operator-s"


@pytest.mark.parametrize("key", ["", "two\nlines", "nul\0", "schlüssel"])
async def test_a_key_that_no_variable_can_hold_is_refused_unseen(tmp_path: Path, key: str) -> None:
    failure = (await ask_tool(tmp_path, ECHO, key=key)).failed
    assert failure.category is ErrorCategory.AUTHENTICATION
    assert "cp-1" in failure.hint
    assert not key or key not in str(failure)


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_the_key_is_on_no_command_line(tmp_path: Path) -> None:
    pool = copilot_pool(write_tool(tmp_path, "say(str(os.getpid()) + '\\n.'); signal.pause()"))
    async with copilot(pool) as provider:
        chunks = provider.stream(call_to(pool))
        pid = (await anext(chunks)).text.split()[0]
        line = command_line(int(pid))
        await chunks.aclose()
    assert b"-s" in line
    assert KEY.encode() not in line


async def test_calls_run_side_by_side_and_keep_their_answers_apart(tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    # Each waits until all are there, so calls one after the other would never end.
    body = f"""
who = prompt().decode()
open(os.path.join({str(meeting)!r}, who), 'w').close()
until(lambda: len(os.listdir({str(meeting)!r})) == 5)
for _ in range(20):
    say(who + ' ')
"""
    pool = copilot_pool(write_tool(tmp_path, body))
    names = [f"caller-{number}" for number in range(5)]
    async with copilot(pool) as provider:
        outcomes = await asyncio.gather(*(collect(provider.stream(call_to(pool, name))) for name in names))
    assert [outcome.text.split() for outcome in outcomes] == [[name] * 20 for name in names]
