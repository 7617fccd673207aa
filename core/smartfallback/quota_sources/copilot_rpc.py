"""Asks Copilot's command-line tool for the quota, by the protocol of its official SDK.

``copilot -p`` has no machine-readable quota, but ``copilot --headless --stdio`` serves JSON-RPC 2.0 in
Content-Length frames, as GitHub's SDK uses it (https://github.com/github/copilot-sdk): ``connect`` (older
versions: ``ping``), ``auth.getStatus``, ``account.getQuota``. No session is made and no model is asked.
Tried with version 1.0.102, as far as one gets without a login.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from smartfallback.model.secrets import Secret
from smartfallback.providers.http_errors import clean
from smartfallback.providers.subprocess_stream import CommandStream, SilenceError
from smartfallback.quota_sources.base import QuotaFault, QuotaSourceError

ARGUMENTS: Final = ("--headless", "--no-auto-update", "--stdio")
_MAX_FRAME_BYTES: Final = 256 * 1024
_MAX_HEAD_BYTES: Final = 4 * 1024
_MAX_MESSAGES: Final = 200
_SILENCE_S: Final = 30.0
"""A backstop only: whoever asks has a shorter limit."""

_GRACE_S: Final = 0.2
_NO_METHOD: Final = -32601
_LENGTH: Final = re.compile(rb"(?:^|\r\n)content-length:[ \t]*([0-9]{1,9})[ \t]*(?:\r\n|$)", re.IGNORECASE)
# The unexpected token is that of a JSON parser, and no login.
_LOGIN: Final = re.compile(
    r"log(?:ged)? ?in|sign(?:ed)? ?in|authenticat|authoriz|credential|(?<!unexpected )\btoken\b",
    re.IGNORECASE,
)
_NOT_OFFERED: Final = "this version of the tool tells no quota: update it"


class _RpcError(Exception):
    def __init__(self, code: Any, message: str) -> None:
        super().__init__(message)
        self.code = code


async def ask_tool(tool: Sequence[str], env: Mapping[str, str], secrets: tuple[Secret, ...]) -> Any:
    """What the tool answers to ``account.getQuota``. The caller limits the time.

    The tool and its children are gone when this returns, raises or is cancelled.

    Args:
        tool: The program's absolute path and its leading arguments.
        env: Its whole environment.
        secrets: What must not show up in an error.

    Raises:
        QuotaSourceError: No answer; ``kind`` tells a tool that is not there, not logged in, too old or
            broken.
    """
    with tempfile.TemporaryDirectory(prefix="smartfallback-quota-", ignore_cleanup_errors=True) as folder:
        try:
            run = await CommandStream.start(
                [*tool, *ARGUMENTS],
                folder=Path(folder),
                env=env,
                stdin=b"",
                silence_limit_s=_SILENCE_S,
                keep_input_open=True,
            )
        except FileNotFoundError:
            raise QuotaSourceError(f"{Path(tool[0]).name} is not installed", QuotaFault.MISSING) from None
        except (OSError, ValueError) as error:
            words = f"the tool can't be started ({type(error).__name__})"
            raise QuotaSourceError(words, QuotaFault.UNAVAILABLE) from None
        try:
            return await _Conversation(run, secrets).quota()
        finally:
            # Shielded: a cancelled caller must not leave the tool behind.
            await asyncio.shield(run.bury(_GRACE_S))


class _Conversation:
    """One JSON-RPC conversation, a request at a time."""

    def __init__(self, run: CommandStream, secrets: tuple[Secret, ...]) -> None:
        self._run = run
        self._secrets = secrets
        self._buffer = bytearray()
        self._id = 0

    async def quota(self) -> Any:
        """The result of ``account.getQuota``."""
        try:
            try:
                await self._request("connect")
            except _RpcError:
                await self._request("ping")
            try:
                status = await self._request("auth.getStatus")
            except _RpcError:
                status = None
            if isinstance(status, dict) and status.get("isAuthenticated") is False:
                raise QuotaSourceError("nobody is logged in to the tool", QuotaFault.UNAUTHORIZED)
            return await self._request("account.getQuota")
        except _RpcError as error:
            if error.code == _NO_METHOD:
                raise QuotaSourceError(_NOT_OFFERED, QuotaFault.UNAVAILABLE) from None
            words = clean(str(error), self._secrets)
            kind = QuotaFault.UNAUTHORIZED if _LOGIN.search(words) else QuotaFault.UNAVAILABLE
            raise QuotaSourceError(f"the tool refused: {words}", kind) from None
        except SilenceError:
            raise QuotaSourceError("the tool went silent", QuotaFault.TIMEOUT) from None

    async def _request(self, method: str) -> Any:
        self._id += 1
        await self._send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": {}})
        for _ in range(_MAX_MESSAGES):
            message = await self._message()
            if not isinstance(message, dict):
                continue
            if "method" in message:
                if message.get("id") is not None:
                    refusal = {"code": _NO_METHOD, "message": "not offered by this client"}
                    await self._send({"jsonrpc": "2.0", "id": message["id"], "error": refusal})
            elif message.get("id") == self._id:
                error = message.get("error")
                if error is None:
                    return message.get("result")
                detail = error if isinstance(error, dict) else {"message": error}
                raise _RpcError(detail.get("code"), str(detail.get("message", "no reason given")))
        raise QuotaSourceError("the tool talks without answering", QuotaFault.MALFORMED)

    async def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps(message, separators=(",", ":")).encode()
        try:
            self._run.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        except BrokenPipeError:
            raise await self._ended() from None

    async def _message(self) -> Any:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise _garbled()
            await self._more()
        length = _LENGTH.search(self._buffer[:end])
        if length is None or int(length[1]) > _MAX_FRAME_BYTES:
            raise _garbled()
        start, stop = end + 4, end + 4 + int(length[1])
        while len(self._buffer) < stop:
            await self._more()
        body = bytes(self._buffer[start:stop])
        del self._buffer[:stop]
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise _garbled() from None

    async def _more(self) -> None:
        piece = await self._run.read()
        if not piece:
            raise await self._ended()
        self._buffer += piece

    async def _ended(self) -> QuotaSourceError:
        code = await self._run.exit_code()
        words = clean(self._run.errors, self._secrets, 160)
        if self._buffer.strip():
            return _garbled()
        said = f": {words}" if words else ""
        kind = QuotaFault.UNAUTHORIZED if _LOGIN.search(words) else QuotaFault.UNAVAILABLE
        how = "closed its output" if code is None else f"ended with code {code}"
        return QuotaSourceError(f"the tool {how} before it answered{said}", kind)


def _garbled() -> QuotaSourceError:
    return QuotaSourceError("the tool's answer can't be read", QuotaFault.MALFORMED)
