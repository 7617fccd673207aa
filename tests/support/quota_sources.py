"""Stand-ins for quota sources: one that does what a test says, and a Copilot tool that speaks JSON-RPC."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from smartfallback.model.quota import QuotaReading, WindowKind
from smartfallback.model.specs import AccountSpec

TOOL = """\
#!{python}
import json, os, sys, time
BEHAVIOUR = json.loads({behaviour!r})
def send(message):
    body = json.dumps(message).encode()
    sys.stdout.buffer.write(b"Content-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
    sys.stdout.buffer.flush()
run = {{"pid": os.getpid(), "argv": sys.argv[1:], "token": os.environ.get("GH_TOKEN")}}
with open({log!r}, "a") as log:
    log.write(json.dumps(run) + "\\n")
if "exit" in BEHAVIOUR:
    sys.stderr.write(BEHAVIOUR["exit"])
    sys.exit(1)
if "raw" in BEHAVIOUR:
    sys.stdout.write(BEHAVIOUR["raw"])
    sys.exit(0)
while True:
    head = b""
    while not head.endswith(b"\\r\\n\\r\\n"):
        byte = sys.stdin.buffer.read(1)
        if not byte:
            sys.exit(0)
        head += byte
    message = json.loads(sys.stdin.buffer.read(int(head.split(b":")[1])))
    method = message.get("method")
    if method is None:
        continue
    if BEHAVIOUR.get("hang") == method:
        time.sleep(600)
    send({{"jsonrpc": "2.0", "method": "notice", "params": {{}}}})
    send({{"jsonrpc": "2.0", "id": 900, "method": "client.ask", "params": {{}}}})
    if method in BEHAVIOUR["answers"]:
        send({{"jsonrpc": "2.0", "id": message["id"], "result": BEHAVIOUR["answers"][method]}})
    else:
        error = BEHAVIOUR.get("errors", {{}}).get(method, {{"code": -32601, "message": "no such method"}})
        send({{"jsonrpc": "2.0", "id": message["id"], "error": error}})
"""

QUOTA = {
    "quotaSnapshots": {
        "premium_interactions": {"entitlementRequests": 300, "usedRequests": 60, "remainingPercentage": 80}
    }
}
ANSWERS = {"connect": {}, "auth.getStatus": {"isAuthenticated": True}, "account.getQuota": QUOTA}


def write_tool(folder: Path, **behaviour: Any) -> Path:
    """An executable ``copilot`` in ``folder`` that logs its runs to ``runs.jsonl`` beside it."""
    path = folder / "copilot"
    behaviour.setdefault("answers", ANSWERS)
    path.write_text(
        TOOL.format(python=sys.executable, behaviour=json.dumps(behaviour), log=str(folder / "runs.jsonl"))
    )
    path.chmod(0o700)
    return path


def runs(folder: Path) -> list[dict[str, Any]]:
    """How the tool was run so far."""
    log = folder / "runs.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


class ScriptedSource:
    """A source whose reads are whatever ``respond`` does."""

    name = "scripted"
    missing_retry_s = 30.0
    assumed_kind = WindowKind.WEEK

    def __init__(
        self,
        respond: Callable[[AccountSpec], Awaitable[QuotaReading]],
        *,
        ttl_s: float = 300.0,
        estimates_when_missing: bool = True,
    ) -> None:
        self.respond = respond
        self.ttl_s = ttl_s
        self.estimates_when_missing = estimates_when_missing
        self.reads = 0
        self.cancelled = 0
        self.closed = 0
        self._asked = asyncio.Event()

    async def reached(self, reads: int) -> None:
        """Wait until it was asked so often."""
        while self.reads < reads:
            self._asked.clear()
            await self._asked.wait()

    async def read(self, account: AccountSpec) -> QuotaReading:
        self.reads += 1
        self._asked.set()
        try:
            return await self.respond(account)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def aclose(self) -> None:
        self.closed += 1
