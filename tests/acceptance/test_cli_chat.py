"""``smartfallback chat`` as a process of its own, against real servers on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from support.command import COMMAND, contents, environment, run
from support.http_servers import Handler, always, http_server, sse_bytes, streams

KEY = "ch4t-k3y-0123456789"
QUESTION = "Why is the sky blue?"


def piece(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
BEGUN = [sse_bytes(piece("Blue light ")), sse_bytes(piece("scatters"))]
WHOLE = [*BEGUN, sse_bytes(piece(" most.", "stop"), USAGE, "[DONE]")]
OVERLOADED = always(503, {"error": {"message": f"overloaded, key {KEY}", "code": "overloaded"}})


def written(folder: Path, *urls: str) -> Path:
    """A chain of one pool with one account for each server, asked in this order."""
    pools = "".join(
        f'[pools.p{n}]\nprovider = "openai"\nmodel = "m-{n}"\nbase_url = "{url}/v1"\n'
        f'accounts = [{{ id = "acc-{n}", api_key = {{ env = "CHAT" }} }}]\n'
        for n, url in enumerate(urls, start=1)
    )
    path = folder / "config.toml"
    names = [f"p{n}" for n in range(1, len(urls) + 1)]
    path.write_text(f"{pools}[chains.default]\npools = {json.dumps(names)}\ntimeout_s = 30\n")
    return path


async def chat(folder: Path, config: Path, *options: str, prompt: str = QUESTION, stdin: bytes = b"") -> Any:
    """The finished command; checks what holds for each of its runs."""
    done = await asyncio.to_thread(
        run, folder, "chat", prompt, "--config", config, *options, stdin=stdin, CHAT=KEY
    )
    for output in (done.stdout, done.stderr):
        assert "Traceback" not in output
        assert KEY not in output
    return done


@asynccontextmanager
async def servers(*handlers: Handler) -> AsyncIterator[list[Any]]:
    """One server for each handler."""
    if not handlers:
        yield []
        return
    async with http_server(handlers[0]) as first, servers(*handlers[1:]) as others:
        yield [first, *others]


async def test_the_answer_alone_goes_to_stdout_and_who_gave_it_to_stderr(tmp_path: Path) -> None:
    async with servers(streams(WHOLE)) as [upstream]:
        config = written(tmp_path, upstream.url)
        done = await chat(tmp_path, config)
        piped = await chat(tmp_path, config, prompt="-", stdin="Wärum\n".encode())
    assert (done.returncode, done.stdout) == (0, "Blue light scatters most.\n")
    assert "acc-1 answered (p1, m-1)" in done.stderr
    assert "7 + 3 tokens" in done.stderr
    assert (piped.returncode, piped.stdout) == (0, "Blue light scatters most.\n")
    asked = [seen.body["messages"][-1]["content"] for seen in upstream.seen]
    assert asked == [QUESTION, "Wärum\n"]


async def test_json_is_one_object_with_everything_about_the_answer(tmp_path: Path) -> None:
    async with servers(OVERLOADED, streams(WHOLE)) as [first, second]:
        done = await chat(tmp_path, written(tmp_path, first.url, second.url), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["version"], answer["ok"], answer["simulated"]) == (1, True, False)
    assert answer["text"] == "Blue light scatters most."
    assert [answer[key] for key in ("account", "pool", "provider", "model", "chain", "finish_reason")] == [
        "acc-2",
        "p2",
        f"openai@{second.url.removeprefix('http://')}",
        "m-2",
        "default",
        "stop",
    ]
    assert answer["usage"] == {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10, "estimated": False}
    assert answer["degraded"] is True
    assert answer["degradations"][0]["kind"] == "fallback_pool"
    assert answer["attempts"][0]["account"] == "acc-1"
    assert answer["attempts"][0]["error"]["category"] == "transient_error"
    assert answer["attempts"][0]["error"]["http_status"] == 503
    assert answer["attempts"][-1]["result"] == "success"
    assert answer["error"] is None


async def test_what_was_tried_before_is_told_to_people_too(tmp_path: Path) -> None:
    async with servers(OVERLOADED, streams(WHOLE)) as [first, second]:
        done = await chat(tmp_path, written(tmp_path, first.url, second.url))
    assert (done.returncode, done.stdout) == (0, "Blue light scatters most.\n")
    assert "acc-1: transient_error 503" in done.stderr
    assert "acc-2 answered" in done.stderr
    assert "Tried before:\n  1. acc-1 (p1, m-1)" in done.stderr


async def test_when_all_fail_every_attempt_is_named(tmp_path: Path) -> None:
    refused = always(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}})
    async with servers(OVERLOADED, refused) as [first, second]:
        config = written(tmp_path, first.url, second.url)
        done = await chat(tmp_path, config)
        unused = tmp_path / "another home"
        unused.mkdir()
        as_json = await chat(unused, config, "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No answer: " in done.stderr
    tried = done.stderr.split("Tried:\n")[1]
    assert "acc-1 (p1, m-1)" in tried
    assert "acc-2 (p2, m-2)" in tried
    assert as_json.returncode == 1
    answer = json.loads(as_json.stdout)
    assert (answer["ok"], answer["text"], answer["account"]) == (False, "", None)
    assert {attempt["account"] for attempt in answer["attempts"]} == {"acc-1", "acc-2"}
    assert answer["error"]["category"] in {"authentication", "transient_error"}


async def test_a_refused_key_is_remembered_by_the_next_call_and_the_file_holds_no_key(tmp_path: Path) -> None:
    refused = always(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}})
    async with servers(refused, streams(WHOLE)) as [first, second]:
        config = written(tmp_path, first.url, second.url)
        done = [await chat(tmp_path, config) for _ in range(2)]
        assert len(first.seen) == 1
        assert len(second.seen) == 2
    assert [call.returncode for call in done] == [0, 0]
    (saved,) = [data for name, data in contents(tmp_path).items() if name.endswith("state.db")]
    assert b"authentication 401" in saved
    assert KEY.encode() not in saved


async def test_a_state_directory_that_can_not_be_made_is_told_and_the_answer_comes(tmp_path: Path) -> None:
    (tmp_path / ".local").write_text("not a directory")
    async with servers(streams(WHOLE), streams(WHOLE)) as [first, second]:
        done = await chat(tmp_path, written(tmp_path, first.url, second.url))
    assert (done.returncode, done.stdout) == (0, "Blue light scatters most.\n")
    assert done.stderr.count("state is kept in memory only") == 1
    assert "Traceback" not in done.stderr


async def test_an_answer_that_breaks_off_keeps_what_came_and_fails(tmp_path: Path) -> None:
    async with servers(streams(BEGUN)) as [cutting]:
        config = written(tmp_path, cutting.url)
        config.write_text(config.read_text() + 'on_break = "error"\n')
        done = await chat(tmp_path, config)
        as_json = await chat(tmp_path, config, "--json")
    assert (done.returncode, done.stdout) == (1, "Blue light scatters\n")
    assert "The answer broke off: malformed_response" in done.stderr
    assert "acc-1 (p1, m-1)" in done.stderr
    assert as_json.returncode == 1
    answer = json.loads(as_json.stdout)
    assert (answer["ok"], answer["text"]) == (False, "Blue light scatters")
    assert answer["error"]["category"] == "malformed_response"


async def test_an_answer_that_breaks_off_is_continued_and_the_seam_told(tmp_path: Path) -> None:
    rest = [sse_bytes(piece("light scatters"), piece(" most.", "stop"), USAGE, "[DONE]")]
    async with servers(streams(BEGUN), streams(rest)) as [cutting, other]:
        config = written(tmp_path, cutting.url, other.url)
        done = await chat(tmp_path, config)
        as_json = await chat(tmp_path, config, "--json")
    assert (done.returncode, done.stdout) == (0, "Blue light scatters most.\n")
    assert (
        "Broke off at acc-1 after 19 characters; acc-2 goes on, 14 repeated characters left out"
        in done.stderr
    )
    answer = json.loads(as_json.stdout)
    assert (answer["text"], answer["degraded"]) == ("Blue light scatters most.", True)
    assert [(seam["broken"], seam["resumed"], seam["at"]) for seam in answer["seams"]] == [
        ("acc-1", "acc-2", 19)
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_cancels_the_upstream_call_and_ends_cleanly(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    async with servers(streams(BEGUN, hold=True)) as [upstream]:
        process = await started(tmp_path, written(tmp_path, upstream.url))
        assert process.stdout is not None
        assert await process.stdout.readexactly(len("Blue light scatters")) == b"Blue light scatters"
        process.send_signal(number)
        rest, told = await process.communicate()
        assert process.returncode == code
        await hung_up(upstream)
    assert rest == b"\n"
    assert b"Traceback" not in told


async def test_a_reader_that_goes_away_ends_the_call_without_a_word(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(BEGUN[0])
        await gone.wait()
        while True:
            await response.write(BEGUN[1])
            await asyncio.sleep(0.001)

    async with servers(handler) as [upstream]:
        reading, writing = os.pipe()
        process = await started(tmp_path, written(tmp_path, upstream.url), stdout=writing)
        os.close(writing)
        assert await asyncio.to_thread(os.read, reading, 4) == b"Blue"
        os.close(reading)
        gone.set()
        _, told = await process.communicate()
        assert process.returncode == 1
        await hung_up(upstream)
    assert told == b""


async def test_a_terminal_gets_no_control_characters_and_a_pipe_gets_all(
    tmp_path: Path,
) -> None:
    text = "\x1b]0;owned\x07\x1b[2Jhi\x9b31m\tthere"
    async with servers(streams([sse_bytes(piece(text, "stop"), "[DONE]")])) as [upstream]:
        config = written(tmp_path, upstream.url)
        assert (await chat(tmp_path, config)).stdout == text + "\n"
        ours, theirs = os.openpty()
        process = await started(tmp_path, config, stdout=theirs)
        os.close(theirs)
        await process.communicate()
        shown = os.read(ours, 4096).decode()
        os.close(ours)
    assert process.returncode == 0
    assert shown == "]0;owned[2Jhi31m\tthere\r\n"


async def test_an_unknown_chain_is_wrong_usage_and_asks_nobody(tmp_path: Path) -> None:
    async with servers(streams(WHOLE)) as [upstream]:
        done = await chat(tmp_path, written(tmp_path, upstream.url), "--chain", "defalt")
        assert upstream.seen == []
    assert (done.returncode, done.stdout) == (2, "")
    assert 'did you mean "default"?' in done.stderr


async def test_json_has_the_same_keys_when_nothing_was_asked(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("not TOML")
    async with servers(streams(WHOLE)) as [upstream]:
        good = written(tmp_path, upstream.url)
        answered = json.loads((await chat(tmp_path, good, "--json")).stdout)
        for config, options, prompt, category, words in (
            (good, ("--chain", "nope"), QUESTION, "usage", "There is no chain"),
            (good, ("--demo",), QUESTION, "usage", "either --demo or --config"),
            (good, (), " ", "usage", "The prompt is empty"),
            (broken, (), QUESTION, "configuration", "1 mistake in "),
        ):
            done = await chat(tmp_path, config, "--json", *options, prompt=prompt)
            assert done.returncode == 2
            ended = json.loads(done.stdout)
            assert ended.keys() == answered.keys()
            assert (ended["ok"], ended["text"], ended["error"]["category"]) == (False, "", category)
            assert words in ended["error"]["message"]
            assert (category == "configuration") is bool(ended["mistakes"])
        assert len(upstream.seen) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_json_tells_of_a_signal_and_what_had_come(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    handed_over = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece_of_it in BEGUN:
            await response.write(piece_of_it)
        handed_over.set()
        await asyncio.Event().wait()
        return response

    async with servers(handler) as [upstream]:
        process = await started(tmp_path, written(tmp_path, upstream.url), "--json")
        await handed_over.wait()
        process.send_signal(number)
        written_out, told = await process.communicate()
        await hung_up(upstream)
    assert process.returncode == code
    ended = json.loads(written_out)
    assert (ended["ok"], ended["chain"], ended["error"]["category"]) == (False, "default", "cancelled")
    assert "Blue light scatters".startswith(ended["text"])
    assert ended["request_id"]
    assert b"Traceback" not in told


async def test_an_absurd_wait_is_told_in_words(tmp_path: Path) -> None:
    limited = always(429, {"error": {"message": "slow down"}}, {"retry-after": "99999999999999999999"})
    async with servers(limited) as [upstream]:
        config = written(tmp_path, upstream.url)
        done = await chat(tmp_path, config)
        unused = tmp_path / "another home"
        unused.mkdir()
        as_json = await chat(unused, config, "--json")
    assert (done.returncode, as_json.returncode) == (1, 1)
    assert "not before the year 9999" in done.stderr
    assert "should not have happened" not in done.stderr + as_json.stderr
    assert json.loads(as_json.stdout)["next_available_at"] > 1e10


async def test_a_literal_key_is_warned_about_and_used(tmp_path: Path) -> None:
    async with servers(streams(WHOLE)) as [upstream]:
        config = written(tmp_path, upstream.url)
        config.write_text(config.read_text().replace('{ env = "CHAT" }', f'"{KEY}"'))
        done = await chat(tmp_path, config)
        assert upstream.seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert done.returncode == 0
    assert f"Warning: {config}:5: pools.p1.accounts[0].api_key: " in done.stderr


@pytest.mark.parametrize("options", [(), ("--demo",)])
def test_without_a_configuration_the_demo_answers(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(tmp_path, "chat", QUESTION, *options)
    assert done.returncode == 0
    assert len(done.stdout) > 20
    assert "Simulated: " in done.stderr
    assert ("smartfallback init" in done.stderr) is (not options)


async def started(folder: Path, config: Path, *options: str, **streams_: int) -> asyncio.subprocess.Process:
    """The command, running."""
    return await asyncio.create_subprocess_exec(
        *COMMAND,
        *("chat", QUESTION, "--config", str(config), *options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=streams_.get("stdout", asyncio.subprocess.PIPE),
        stderr=asyncio.subprocess.PIPE,
        env=environment(folder, CHAT=KEY),
    )


async def hung_up(upstream: Any) -> None:
    """Wait until the server has noticed that its caller left."""
    async with asyncio.timeout(20):
        while upstream.hung_up == 0:  # noqa: ASYNC110  # the shared server only counts
            await asyncio.sleep(0.01)
