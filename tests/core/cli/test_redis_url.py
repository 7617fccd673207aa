"""``--redis-url`` in the commands that run an engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command import Inside
from support.redis_servers import RedisServer

PASSWORD = "pa55word-of-the-store"
WRONG = f"redis://:{PASSWORD}@127.0.0.1:0"


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    return Inside(tmp_path, monkeypatch, capsys)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(password=PASSWORD) as running:
        yield running


def test_a_question_to_the_demo_is_shared_with_demos(inside: Inside, server: RedisServer) -> None:
    done = inside.run("chat", "hello", "--demo", "--redis-url", server.url)
    assert done.returncode == 0, done.stderr
    assert "answered" in done.stderr
    keys = server.command("KEYS", "*")
    assert keys
    assert all(key.startswith("smartfallback-demo:") for key in keys)
    assert PASSWORD not in done.stdout + done.stderr


def test_a_question_is_answered_although_the_server_is_not_there(inside: Inside) -> None:
    done = inside.run("chat", "hello", "--demo", "--redis-url", f"redis://:{PASSWORD}@127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_a_wrong_address_is_wrong_usage_and_never_repeated(inside: Inside, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[pools.a]\nprovider = "openai"\nmodel = "m"\nbase_url = "http://127.0.0.1:9/v1"\n'
        'accounts = [{ id = "a-1" }]\n[chains.default]\npools = ["a"]\n'
    )
    config.chmod(0o600)
    chat = inside.run("chat", "hello", "--demo", "--json", "--redis-url", WRONG)
    by_variable = inside.run("chat", "hello", "--config", config, SMARTFALLBACK_REDIS_URL=WRONG)
    simulate = inside.run("simulate", "all", "--yes", "--config", config, "--redis-url", WRONG)
    for done, source in (
        (chat, "--redis-url"),
        (by_variable, "SMARTFALLBACK_REDIS_URL"),
        (simulate, "--redis-url"),
    ):
        assert done.returncode == 2
        assert f"{source}: a port is not a number from 1 to 65535" in done.stderr
        assert PASSWORD not in done.stdout + done.stderr
    assert json.loads(chat.stdout)["ok"] is False


def test_simulated_accounts_share_nothing(inside: Inside) -> None:
    done = inside.run("simulate", "edge-1-above-soft-limit", "--redis-url", "redis://127.0.0.1")
    assert done.returncode == 2
    assert "name them with --config" in done.stderr


@pytest.mark.parametrize("command", ["check", "chat", "simulate"])
def test_help_says_where_a_password_belongs(inside: Inside, command: str) -> None:
    told = " ".join(inside.run(command, "--help").stdout.split())
    assert "--redis-url" in told
    assert "SMARTFALLBACK_REDIS_URL" in told
