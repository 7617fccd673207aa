"""``smartfallback check`` for accounts behind Copilot's tool and OpenCode servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from smartfallback.cli.reachability import Finding, Reach, probe
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import AccountSpec, ChainSpec, PoolSpec, ProviderKind, SystemSpec
from support.http_servers import always, http_server
from support.opencode_script import basic
from support.quota_sources import runs, write_tool

KEY = "t00l-k3y-0123456789"


async def found(
    kind: ProviderKind, *, key: str | None = None, limit_s: float = 20.0, **settings: Any
) -> Finding:
    """What is found about the one account of a pool."""
    account = AccountSpec("acc", api_key=None if key is None else Secret(key))
    pool = PoolSpec("pool", kind, kind.value, (account,), **settings)
    (finding,) = await probe(SystemSpec((pool,), (ChainSpec("default", ("pool",)),)), limit_s=limit_s)
    assert key is None or key not in f"{finding.detail} {finding.suggestion}"
    return finding


async def test_copilot_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = await found(ProviderKind.COPILOT)
    assert (finding.reach, finding.detail) == (
        Reach.UNAVAILABLE,
        "Copilot's command-line tool is not installed",
    )
    assert "npm install -g @github/copilot" in finding.suggestion
    assert "/login" in finding.suggestion


async def test_copilot_logged_in_is_asked_and_spends_nothing(tmp_path: Path) -> None:
    finding = await found(ProviderKind.COPILOT, key=KEY, command=(str(write_tool(tmp_path)),))
    assert finding.reach is Reach.OK
    assert finding.detail == f"{tmp_path}/copilot runs and is logged in"
    (run,) = runs(tmp_path)
    assert run["token"] == KEY
    assert "-p" not in run["argv"]


@pytest.mark.parametrize(
    ("key", "what_to_do"),
    [(None, "run copilot and /login"), (KEY, "replace the key that api_key of acc refers to")],
)
async def test_copilot_without_a_login(tmp_path: Path, key: str | None, what_to_do: str) -> None:
    tool = write_tool(tmp_path, answers={"connect": {}, "auth.getStatus": {"isAuthenticated": False}})
    finding = await found(ProviderKind.COPILOT, key=key, command=(str(tool),))
    assert (finding.reach, finding.suggestion) == (Reach.REFUSED, what_to_do)


@pytest.mark.parametrize(
    ("behaviour", "limit_s", "reason"),
    [
        ({"exit": f"unknown option, key {KEY}"}, 20.0, "login was not tried"),
        ({"hang": "connect"}, 0.3, "within 0.3 s"),
        ({"raw": "what?"}, 20.0, "login was not tried"),
    ],
)
async def test_a_copilot_that_does_not_speak_the_protocol_may_still_answer(
    tmp_path: Path, behaviour: dict[str, Any], limit_s: float, reason: str
) -> None:
    tool = write_tool(tmp_path, **behaviour)
    finding = await found(ProviderKind.COPILOT, key=KEY, limit_s=limit_s, command=(str(tool),))
    assert finding.reach is Reach.REACHABLE
    assert reason in finding.detail


async def test_copilot_missing_but_served_by_an_api_is_asked_there() -> None:
    async with http_server(always(200, {"data": []})) as upstream:
        finding = await found(
            ProviderKind.COPILOT, key=KEY, command=("/no/such/tool",), base_url=f"{upstream.url}/v1"
        )
    assert finding.reach is Reach.OK
    assert [(seen.path, seen.headers["authorization"]) for seen in upstream.seen] == [
        ("/v1/models", f"Bearer {KEY}")
    ]


def opencode(answer: Callable[[], web.Response], *, password: str | None = KEY) -> Any:
    """A server that asks for a password and then answers about its health."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if password is not None and request.headers.get("authorization") != basic(password):
            return web.Response(status=401)
        return answer()

    return handler


def healthy() -> web.Response:
    return web.json_response({"healthy": True, "version": "1.18.2"})


def unhealthy() -> web.Response:
    return web.json_response({"healthy": False, "version": "1.18.2"})


def page() -> web.Response:
    return web.Response(text="<html>Welcome</html>", content_type="text/html")


def missing() -> web.Response:
    return web.json_response({"error": "not found"}, status=404)


@pytest.mark.parametrize(
    ("answer", "key", "reach", "words"),
    [
        (healthy, KEY, Reach.OK, "OpenCode 1.18.2 at 127.0.0.1"),
        (healthy, "an0ther-k3y-0123", Reach.REFUSED, "OPENCODE_SERVER_PASSWORD"),
        (healthy, None, Reach.REFUSED, "let api_key of acc refer to"),
        (unhealthy, KEY, Reach.FAILING, "is not healthy"),
        (page, KEY, Reach.FAILING, "not as an OpenCode server does"),
        (missing, KEY, Reach.FAILING, "not as an OpenCode server does (HTTP 404)"),
    ],
)
async def test_opencode_is_asked_for_its_health_with_its_password(
    answer: Callable[[], web.Response], key: str | None, reach: Reach, words: str
) -> None:
    async with http_server(opencode(answer)) as upstream:
        finding = await found(ProviderKind.OPENCODE, key=key, base_url=upstream.url)
    assert finding.reach is reach
    assert words in f"{finding.detail} {finding.suggestion}"
    assert [seen.path for seen in upstream.seen] == ["/global/health"]


async def test_an_opencode_that_does_not_run_is_to_be_started() -> None:
    finding = await found(ProviderKind.OPENCODE, base_url="http://127.0.0.1:1")
    assert finding.reach is Reach.UNREACHABLE
    assert 'start it with "opencode serve"' in finding.suggestion


@pytest.mark.parametrize("kind", [ProviderKind.GEMINI, ProviderKind.OPENAI])
async def test_a_key_that_no_header_can_carry_is_a_finding(kind: ProviderKind) -> None:
    async with http_server(always(200, {})) as upstream:
        finding = await found(kind, key="schlüssel-0123456789", model="m", base_url=upstream.url)
    assert finding.reach is Reach.REFUSED
    assert upstream.seen == []
