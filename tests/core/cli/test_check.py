"""``smartfallback check`` against real servers: what it finds, says and never does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from smartfallback.cli.reachability import Reach, probe
from smartfallback.config import load_config
from support.command import run

KEY = "g00d-k3y-0123456789"
BAD = "b4d-k3y-0123456789"


@dataclass
class Listing:
    """A server that lists models, and what it was asked."""

    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)


@asynccontextmanager
async def listing() -> AsyncIterator[Listing]:
    """Each path prefix behaves in a way of its own; ``/hang`` never answers."""
    seen = Listing()

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.asked.append((request.method, request.path_qs))
        behaviour = request.path.split("/")[1]
        key = request.headers.get("x-goog-api-key") or request.headers.get("authorization", "").removeprefix(
            "Bearer "
        )
        if behaviour == "hang":
            await asyncio.Event().wait()
        if behaviour == "redirect":
            raise web.HTTPTemporaryRedirect(location="/openai/v1/models")
        if behaviour == "nothing":
            return web.Response(status=404, text="no such page")
        if behaviour == "broken":
            return web.Response(status=503, text=f"trouble with {key}")
        if behaviour == "limited":
            return web.Response(status=429)
        if key == KEY:
            return web.json_response({"data": [{"id": "m"}], "models": []})
        if behaviour == "gemini":
            details = [{"reason": "API_KEY_INVALID"}]
            return web.json_response({"error": {"code": 400, "message": key, "details": details}}, status=400)
        return web.json_response({"error": {"message": f"Incorrect API key provided: {key}"}}, status=401)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    seen.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield seen
    finally:
        await runner.cleanup()


def written(folder: Path, pools: dict[str, str]) -> Path:
    """A configuration with a chain over the given pools."""
    path = folder / "config.toml"
    tables = "".join(f"[pools.{name}]\n{body}\n" for name, body in pools.items())
    path.write_text(f"{tables}[chains.default]\npools = {json.dumps(list(pools))}\n")
    path.chmod(0o600)
    return path


def http_pool(kind: str, base: str, *accounts: tuple[str, str]) -> str:
    listed = ", ".join(
        f'{{ id = "{name}", api_key = {{ env = "{variable}" }} }}' for name, variable in accounts
    )
    return f'provider = "{kind}"\nmodel = "m"\nbase_url = "{base}"\naccounts = [{listed}]'


async def test_each_account_gets_a_line_with_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    async with listing() as server:
        pools = {
            "gemini": http_pool("gemini", f"{server.url}/gemini", ("ag-1", "GOOD"), ("ag-2", "BAD")),
            "versioned": http_pool("gemini", f"{server.url}/gemini/v1beta", ("ag-3", "GOOD")),
            "openai": http_pool("openai", f"{server.url}/openai/v1", ("oa-1", "GOOD"), ("oa-2", "BAD")),
            "nothing": http_pool("openai", f"{server.url}/nothing", ("no-1", "GOOD")),
            "broken": http_pool("openai", f"{server.url}/broken", ("br-1", "GOOD")),
            "limited": http_pool("openai", f"{server.url}/limited", ("li-1", "GOOD")),
            "redirect": http_pool("openai", f"{server.url}/redirect", ("re-1", "GOOD")),
            "refused": http_pool("openai", "http://127.0.0.1:1/v1", ("down-1", "GOOD")),
            "local": 'provider = "local"\nmodel_path = "none.gguf"\naccounts = [{ id = "gguf" }]',
            "copilot": 'provider = "copilot"\ncommand = ["/no/such/tool"]\naccounts = [{ id = "co-1" }]',
        }
        config = written(tmp_path, pools)
        done = await asyncio.to_thread(run, tmp_path, "check", "--config", config, GOOD=KEY, BAD=BAD)
        as_json = await asyncio.to_thread(
            run, tmp_path, "check", "--config", config, "--json", GOOD=KEY, BAD=BAD
        )
    assert done.returncode == 1
    assert as_json.returncode == 1
    for output in (done.stdout, done.stderr, as_json.stdout, as_json.stderr):
        assert KEY not in output
        assert BAD not in output
        assert "Traceback" not in output

    found = json.loads(as_json.stdout)
    assert (found["version"], found["ok"], found["mistakes"]) == (1, False, [])
    assert {entry["account"]: entry["status"] for entry in found["accounts"]} == {
        "ag-1": "ok",
        "ag-2": "refused",
        "ag-3": "ok",
        "oa-1": "ok",
        "oa-2": "refused",
        "no-1": "reachable",
        "br-1": "failing",
        "li-1": "ok",
        "re-1": "failing",
        "down-1": "unreachable",
        "gguf": "unavailable",
        "co-1": "unavailable",
    }
    assert all(
        entry["suggestion"] for entry in found["accounts"] if entry["status"] in ("refused", "unreachable")
    )

    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")][:-2] == [
        entry["account"] for entry in found["accounts"]
    ]
    assert "do: replace the key that api_key of ag-2 refers to" in done.stdout
    assert lines[-1] == "5 of 12 accounts can be used."

    # Nothing was spent: only lists were asked for, and no redirect took a key along.
    assert {method for method, _ in server.asked} == {"GET"}
    assert {path.rsplit("/", 1)[1].split("?")[0] for _, path in server.asked} == {"models"}
    assert len(server.asked) == 2 * 9
    gemini = {path for _, path in server.asked if path.startswith("/gemini")}
    assert gemini == {"/gemini/v1beta/models?pageSize=1"}


async def test_when_all_can_be_used_the_exit_code_is_0(tmp_path: Path) -> None:
    async with listing() as server:
        config = written(tmp_path, {"a": http_pool("openai", f"{server.url}/v1", ("a-1", "GOOD"))})
        done = await asyncio.to_thread(run, tmp_path, "check", "--config", config, GOOD=KEY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "1 of 1 accounts can be used."


async def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    async with listing() as server:
        config = written(tmp_path, {"a": http_pool("openai", f"{server.url}/hang", ("a-1", "GOOD"))})
        spec = load_config(config, environ={"GOOD": KEY}).spec
        [finding] = await probe(spec, limit_s=0.1)
    assert finding.reach is Reach.UNREACHABLE
    assert "within 0.1 s" in finding.detail
