"""What ``smartfallback simulate`` tells a program that reads it when there is no verdict."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from support.command import COMMAND, environment, run


@pytest.mark.parametrize("arguments", [(), ("",)])
def test_no_name_is_no_success(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(tmp_path, "simulate", *arguments, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (2, [])
    assert '"edge-1-above-soft-limit"' in done.stderr


def test_the_beginning_of_a_name_is_near_to_it(tmp_path: Path) -> None:
    done = run(tmp_path, "simulate", "edge-4")
    assert done.returncode == 2
    assert 'did you mean "edge-4-rate-limit-cascade"?' in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_what_was_interrupted_is_still_a_list_and_leaves_no_files(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (folder := tmp_path / "config" / "smartfallback" / "scenarios").mkdir(parents=True)
    (temporary := tmp_path / "temporary").mkdir()
    (folder / "long.toml").write_text(
        'title = "Long"\nabout = "Goes on and on."\n[[steps]]\ntitle = "Asks"\n'
        "traffic = { requests = 500, every_s = 10.0 }\nexpect = { answered = 1.0 }\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "simulate", "long", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=tmp_path,
        env=environment(tmp_path, TMPDIR=str(temporary)),
    )
    async with asyncio.timeout(30.0):
        # The demo's own files say that it has begun.
        while not list(temporary.iterdir()):  # noqa: ASYNC110 - another process makes them
            await asyncio.sleep(0.02)
        process.send_signal(number)
        output, _ = await process.communicate()
    assert (process.returncode, json.loads(output)) == (code, [])
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_run_that_has_begun_ends_with_the_command(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (folder := tmp_path / "config" / "smartfallback" / "scenarios").mkdir(parents=True)
    (folder / "long.toml").write_text(
        'title = "Long"\nabout = "Goes on and on."\n'
        '[[steps]]\ntitle = "Begins"\ntraffic = { requests = 1 }\nexpect = { answered = 1.0 }\n'
        '[[steps]]\ntitle = "Goes on"\ntraffic = { requests = 500, every_s = 10.0 }\n'
        "expect = { answered = 1.0 }\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "simulate", "long"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=tmp_path,
        env=environment(tmp_path),
    )
    assert process.stdout is not None
    async with asyncio.timeout(30.0):
        assert b"Begins" in await process.stdout.readline()
        process.send_signal(number)
        await process.communicate()
    assert process.returncode == code
