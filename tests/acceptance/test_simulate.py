"""``smartfallback simulate`` as a process of its own: on demos, and with the accounts of a real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
from pathlib import Path

import pytest

from support.command import COMMAND, Inside, environment, run
from support.llama_server import llama_server

KEYS = {"scenario", "passed", "expected", "observed", "path", "answered_by", "duration_s"}
MORE = {"lacking", "failed_step", "state", "note", "seed", "requests", "tokens", "steps", "played_on"}

OWN = """title = "Mine"
about = "The first pool is slow."
[[steps]]
title = "It answers at once"
traffic = { requests = 1 }
expect = { answered = 1.0, answered_by = ["first"] }
[[steps]]
title = "It answers through another pool"
traffic = { requests = 1 }
expect = { answered = 1.0, answered_by = ["second"] }
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def inside(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    return Inside(home, monkeypatch, capsys)


def scenarios(home: Path) -> Path:
    folder = home / "config" / "smartfallback" / "scenarios"
    folder.mkdir(parents=True)
    return folder


def test_all_of_them_pass_within_a_minute(home):
    done = run(home, "simulate", "all", "--json", "--seed", "5")
    assert (done.returncode, done.stderr) == (0, "")
    verdicts = json.loads(done.stdout)
    assert len(verdicts) == 15
    for verdict in verdicts:
        assert set(verdict) == KEYS | MORE
        assert (verdict["passed"], verdict["seed"], verdict["lacking"]) == (True, 5, "")
        assert verdict["path"]
        assert verdict["answered_by"] in verdict["path"]
        assert verdict["expected"]
        assert verdict["observed"]
    assert sum(verdict["duration_s"] for verdict in verdicts) < 90
    assert list((home / "config").glob("**/*")) == []


def test_a_verdict_that_fails_is_exit_code_1_with_the_step_named(home):
    (scenarios(home) / "mine.toml").write_text(OWN)
    done = run(home, "simulate", "mine")
    assert done.returncode == 1
    assert "ok      It answers at once" in done.stdout
    assert "FAILED  It answers through another pool" in done.stdout
    assert "expected: answers come from copilot only" in done.stdout
    assert "observed: 1 by antigravity" in done.stdout
    assert "Mine: failed" in done.stdout
    (verdict,) = json.loads(run(home, "simulate", "mine", "--json").stdout)
    assert (verdict["passed"], verdict["failed_step"]) == (False, "It answers through another pool")
    assert (verdict["expected"], verdict["observed"]) == (
        "answers come from copilot only",
        "1 by antigravity",
    )
    assert [step["state"] for step in verdict["steps"]] == ["passed", "failed"]


def test_bad_input_is_exit_code_2_and_says_what_is_right(home, inside):
    unknown = inside.run("simulate", "edge-2-api-dwon", "--json")
    assert (unknown.returncode, json.loads(unknown.stdout)) == (2, [])
    assert 'did you mean "edge-2-api-down"' in unknown.stderr
    assert inside.run("simulate", "edge-2-api-down", "--seed", "-1").returncode == 2
    assert inside.run("simulate", "edge-2-api-down", "--seed", "x").returncode == 2
    (scenarios(home) / "mine.toml").write_text(OWN.replace("answered_by", "answerd_by"))
    for name in ("mine", "all"):
        done = inside.run("simulate", name)
        assert done.returncode == 2
        assert re.search(r"mine\.toml:6: steps\[0\]\.expect\.answerd_by: unknown key", done.stderr)
        assert 'did you mean "answered_by"?' in done.stderr
        assert done.stdout == ""
    assert inside.run("simulate", "mine", "--config", home / "none.toml").returncode == 2


def test_the_scenarios_are_listed(home, inside):
    listed = run(home, "simulate", "--list")
    assert listed.returncode == 0
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    as_json = json.loads(inside.run("simulate", "--list", "--json").stdout)
    assert names == [each["scenario"] for each in as_json]
    assert [each["edge_case"] for each in as_json[:6]] == [1, 2, 3, 4, 5, 6]


def configured(home: Path, base_url: str) -> Path:
    """Two steps of a chain at one real server, that are no simulation."""
    path = home / "config.toml"
    path.write_text(
        "".join(
            f'[pools.{pool}]\nprovider = "openai"\nprovider_id = "api-{pool}"\nmodel = "demo"\n'
            f'base_url = "{base_url}"\n'
            f'accounts = [{{ id = "{pool}-1", api_key = {{ env = "K" }}, '
            'quota = [{ window = "week", unit = "tokens", limit = 100000 }] }]\n'
            for pool in ("main", "spare")
        )
        + '[chains.default]\npools = ["main", "spare"]\n'
    )
    return path


def saved(home: Path) -> dict[str, list[tuple[object, ...]]]:
    """What the state file says of accounts and providers, apart from real use."""
    (path,) = home.rglob("state.db")
    with sqlite3.connect(path) as db:
        tables = [row[0] for row in db.execute("select name from sqlite_master where type = 'table'")]
        rows = {table: list(db.execute(f'select * from "{table}"')) for table in tables}  # noqa: S608 - own names
    del rows["history"]  # what was asked was asked, and is told
    return {table: [tuple(map(_still, row)) for row in found] for table, found in rows.items()}


def _still(value: object) -> object:
    """A saved value without what real use changes: tokens, requests and times."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        return re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "0", value)
    return 0 if isinstance(value, int | float) else value


async def simulate(home: Path, *arguments: str | Path):
    return await asyncio.to_thread(run, home, "simulate", *arguments, K="sk-test")


async def test_accounts_of_a_real_server_are_rehearsed_and_are_as_before(home, demo_model):
    async with llama_server(demo_model, interrupts=False) as server:
        config = configured(home, server.base_url)
        refused = await simulate(home, "edge-1-above-soft-limit", "--config", config)
        assert refused.returncode == 2
        assert "confirm" in refused.stderr
        assert not list(home.rglob("state.db"))
        few = await simulate(home, "edge-2-api-down", "--config", config, "--yes", "--requests", "3")
        assert few.returncode == 2
        first = await simulate(home, "edge-1-above-soft-limit", "--config", config, "--yes")
        assert first.returncode == 0, first.stdout + first.stderr
        before = saved(home)
        down = await simulate(home, "edge-2-api-down", "--config", config, "--yes", "--json")
        (verdict,) = json.loads(down.stdout)
        assert (down.returncode, verdict["passed"]) == (0, True), verdict
        assert verdict["path"] == ["main-1", "spare-1"]
        assert saved(home) == before
        lacking = await simulate(home, "edge-6-everything-down", "--config", config, "--yes")
        assert lacking.returncode == 2
        assert "the chain default has no" in lacking.stderr


async def test_a_rehearsal_that_is_killed_leaves_the_accounts_as_before(home, demo_model):
    async with llama_server(demo_model, interrupts=False) as server:
        config = configured(home, server.base_url)
        first = await simulate(home, "edge-1-above-soft-limit", "--config", config, "--yes")
        assert first.returncode == 0, first.stdout + first.stderr
        before = saved(home)
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *("simulate", "edge-2-api-down", "--config", str(config), "--yes"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=home,
            env={**environment(home, K="sk-test"), "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        async with asyncio.timeout(60.0):
            while b"its circuit opens" not in await process.stdout.readline():
                pass
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
        assert saved(home) == before
        again = await simulate(home, "edge-1-above-soft-limit", "--config", config, "--yes")
        assert again.returncode == 0, again.stdout + again.stderr
        assert saved(home) == before
