"""A program with the face of Copilot's command-line tool, answered by a simulated upstream.

It is copied into an executable by :func:`smartfallback.simulation.copilot_cli.install_copilot` and runs
there by itself, so it imports nothing but a few small parts of the standard library: a start costs
some tens of milliseconds. What it prints, and where, is what version 1.0.102 of the tool was seen to
print for the same trouble; unlike it, it asks the service once only.

With ``--headless --stdio`` it tells the quota as the tool does: JSON-RPC 2.0 in Content-Length frames.
"""

import json
import math
import os
import socket
import sys
from collections.abc import Iterator
from io import IOBase

VERSION = "GitHub Copilot CLI 1.0.102 (simulated)."
_READ_BYTES = 65536
_TOKENS = ("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN")
_LOGGED_OUT = """\
Error: No authentication information found.

Start 'copilot' and run the '/login' command, or set COPILOT_GITHUB_TOKEN, GH_TOKEN or GITHUB_TOKEN."""
_ASKS = "Answer this message of the user:\n\n"
"""Where the adapter's prompts for whole conversations come to the question; a model would see it too."""
_NO_PROMPT = "No prompt provided. Use -p, or standard input."


class Trouble(Exception):
    """The run ends with this message on standard error and exit code 1."""


class Arguments:
    """The command line; of options the last one counts.

    Raises:
        Trouble: An option is unknown or lacks its value.
    """

    def __init__(self, argv: list[str]) -> None:
        self.prompt: bytes | None = None
        self.model = ""
        self.silent = False
        self.version = False
        self.headless = False
        rest = iter(argv)
        for argument in rest:
            name, equals, value = argument.partition("=")
            if argument in ("-s", "--silent"):
                self.silent = True
            elif argument == "--version":
                self.version = True
            elif argument == "--headless":
                self.headless = True
            elif argument in ("--stdio", "--no-auto-update"):
                pass
            elif name in ("-p", "--prompt", "--model"):
                if not equals:
                    taken = next(rest, None)
                    if taken is None:
                        raise Trouble(f"error: option '{name}' argument missing")
                    value = taken
                if name == "--model":
                    self.model = value
                else:
                    self.prompt = os.fsencode(value)
            else:
                raise Trouble(f"error: unknown option '{argument}'")


def main(argv: list[str], lab_url: str, default_model: str) -> int:
    """Run as the tool does.

    Args:
        argv: The arguments, without the program's name.
        lab_url: Base URL of an upstream in the OpenAI dialect: ``http://host:port/v1``.
        default_model: The model that is asked when ``--model`` names none.

    Returns:
        The exit code.
    """
    try:
        arguments = Arguments(argv)
        if arguments.version:
            _write(VERSION + "\n")
            return 0
        token = next((os.environ[name] for name in _TOKENS if os.environ.get(name)), "")
        if arguments.headless:
            return _converse(lab_url, token)
        prompt = sys.stdin.buffer.read() if arguments.prompt is None else arguments.prompt
        if not prompt.strip():
            raise Trouble(_NO_PROMPT)
        if not token:
            raise Trouble(_LOGGED_OUT)
        question = prompt.decode("utf-8", "replace")
        for text in _answer(lab_url, arguments.model or default_model, question, token):
            _write(text)
        _write("\n" if arguments.silent else "\n\nTotal usage est: 1 Premium request\n")
    except Trouble as trouble:
        sys.stderr.write(f"\n{trouble}\n")
        return 1
    except BrokenPipeError:
        # Nobody reads the answer any more; the interpreter must not try to flush it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _answer(lab_url: str, model: str, question: str, token: str) -> Iterator[str]:
    """The texts of the answer as they come.

    Raises:
        Trouble: There is none, or it breaks off.
    """
    before, _, asked = question.rpartition(_ASKS)
    messages = [{"role": "system", "content": before}] if before else []
    messages.append({"role": "user", "content": asked})
    body = json.dumps({"model": model, "messages": messages, "stream": True}).encode()
    try:
        with _call("POST", f"{lab_url}/chat/completions", token, body) as stream:
            yield from _read(stream, model)
    except OSError as error:
        raise _unanswered(f"network error: error sending request: {error.strerror or error}") from None


def _call(method: str, url: str, token: str, body: bytes = b"") -> IOBase:
    """The response to a call, from its first line on; closing it hangs up.

    Raises:
        OSError: There is no connection.
    """
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    head = (
        # Version 1.0 spares this program the decoding of chunks: the body lasts as long as the connection.
        f"{method} /{path} HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((name, int(port or 80))) as connection:
        connection.sendall(head.encode() + body)
        return connection.makefile("rb", _READ_BYTES)


def _head(lines: Iterator[bytes]) -> tuple[int, dict[str, str]]:
    """A response's status, 0 where there is none, and its headers."""
    status = int((next(lines, b"").split() or [b"0", b"0"])[1])
    headers = {}
    for line in lines:
        if not line.strip():
            break
        key, _, value = line.decode("latin-1").partition(":")
        headers[key.strip().lower()] = value.strip()
    return status, headers


def _read(stream: IOBase, model: str) -> Iterator[str]:
    lines = iter(stream.readline, b"")
    status, headers = _head(lines)
    if not status:
        raise _unanswered("network error: ECONNRESET")
    if status != 200:
        raise _refused(status, headers, b"".join(lines), model)
    finished = False
    for line in lines:
        data = line.strip().removeprefix(b"data:").strip()
        if not data:
            continue
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError:
            raise _unanswered("unexpected token in the stream, which is not valid JSON") from None
        if event.get("error"):
            raise _unanswered(event["error"].get("message", "server error"))
        for choice in event.get("choices", ()):
            if choice.get("delta", {}).get("content"):
                yield choice["delta"]["content"]
            if choice.get("finish_reason") == "content_filter":
                yield "The model returned no content because the response was blocked by content filtering.\n"
            finished = finished or choice.get("finish_reason") is not None
    if not finished:
        raise _unanswered("error reading a body from connection: unexpected EOF")


def _refused(status: int, headers: dict[str, str], body: bytes, model: str) -> Trouble:
    """How the tool words a refusal of the service."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        error = {}
    message, code = error.get("message") or "no message", error.get("code")
    wait = headers.get("retry-after", "")
    seconds = math.ceil(float(wait)) if wait.isdigit() else None
    if status == 401:
        return Trouble(
            "Error: Authentication token found but could not be validated.\n\n"
            "  Failed to fetch PAT user login (401): Failed to fetch user info"
        )
    if status == 404:
        return Trouble(f"Model '{model}' not found (HTTP 404).\n  Check that the model is available to you.")
    if status == 429 and code == "insufficient_quota":
        if seconds is None:
            return Trouble("402 You have no quota")
        return Trouble(
            f"429 You've exceeded your weekly rate limit. Please wait {_words(seconds)} before trying again. "
            "Error Code: user_weekly_rate_limited"
        )
    if status == 429:
        again = f" Please try again in {_words(seconds)}." if seconds is not None else ""
        return Trouble(f"429 You've hit a rate limit.{again} Error Code: rate_limited")
    if status >= 500:
        return _unanswered(f"{status} {message}")
    return Trouble(f"{status} {message}")


def _unanswered(why: str) -> Trouble:
    return Trouble(f"Failed to get response from the AI model; Last error: {why}")


def _words(seconds: int) -> str:
    """A wait as the service says it: ``9 hours 44 minutes``, ``2 minutes``, ``57 seconds``."""
    if seconds < 60:
        return f"{seconds} second{'s' * (seconds != 1)}"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    parts = [(hours, "hour"), (minutes, "minute")]
    return " ".join(f"{count} {unit}{'s' * (count != 1)}" for count, unit in parts if count)


def _converse(lab_url: str, token: str) -> int:
    """Serve requests from standard input until it ends."""
    lines = iter(sys.stdin.buffer.readline, b"")
    while (length := _frame_length(lines)) is not None:
        request = json.loads(sys.stdin.buffer.read(length))
        answer = {"jsonrpc": "2.0", "id": request.get("id")}
        method = request.get("method")
        try:
            if method == "connect":
                answer["result"] = {"version": VERSION}
            elif method == "auth.getStatus":
                answer["result"] = {"isAuthenticated": bool(token)}
            elif method == "account.getQuota":
                answer["result"] = {"quotaSnapshots": _quota(lab_url, token)}
            else:
                answer["error"] = {"code": -32601, "message": f"Unhandled method {method}"}
        except Trouble as trouble:
            answer["error"] = {"code": -32603, "message": str(trouble)}
        body = json.dumps(answer)
        _write(f"Content-Length: {len(body)}\r\n\r\n{body}")
    return 0


def _frame_length(lines: Iterator[bytes]) -> int | None:
    """The length of the next message, None at the end of the input."""
    length = None
    for line in lines:
        if not line.strip():
            return length
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return None


def _quota(lab_url: str, token: str) -> dict[str, dict[str, object]]:
    """The service's quotas in the tool's words; what the service does not say is left out.

    Raises:
        Trouble: The service tells none.
    """
    try:
        with _call("GET", f"{lab_url.removesuffix('/v1')}/copilot_internal/user", token) as stream:
            lines = iter(stream.readline, b"")
            status, _ = _head(lines)
            if status == 401:
                raise Trouble("Authentication token found but could not be validated")
            if status != 200:
                raise Trouble(f"Failed to fetch quota: {status or 'ECONNRESET'}")
            told = json.loads(b"".join(lines))
    except OSError as error:
        raise Trouble(f"Failed to fetch quota: {error.strerror or error}") from None
    except ValueError:
        raise Trouble("Failed to fetch quota: unexpected token, which is not valid JSON") from None
    found = {}
    for name, snapshot in told.get("quota_snapshots", {}).items():
        limit, left = snapshot.get("entitlement"), snapshot.get("remaining")
        entry = {
            "isUnlimitedEntitlement": snapshot.get("unlimited"),
            "entitlementRequests": limit,
            "usedRequests": _difference(limit, left),
            "remainingPercentage": snapshot.get("percent_remaining"),
            "resetDate": told.get("quota_reset_date_utc"),
        }
        found[name] = {key: value for key, value in entry.items() if value is not None}
    return found


def _difference(limit: str | float | None, left: str | float | None) -> str | float | None:
    """What is used, written as the service wrote what is left: as a number or as text."""
    if left is None or limit is None:
        return None
    used = float(limit) - float(left)
    return str(used) if isinstance(left, str) else used


def _write(text: str) -> None:
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()
