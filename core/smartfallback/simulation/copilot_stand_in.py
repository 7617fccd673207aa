"""A program with the face of Copilot's command-line tool, answered by a simulated upstream.

It is copied into an executable by :func:`smartfallback.simulation.copilot_cli.install_copilot` and runs
there by itself, so it imports nothing but a few small parts of the standard library: a start costs
some tens of milliseconds. What it prints, and where, is what version 1.0.102 of the tool was seen to
print for the same trouble; unlike it, it asks the service once only.
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
        rest = iter(argv)
        for argument in rest:
            name, equals, value = argument.partition("=")
            if argument in ("-s", "--silent"):
                self.silent = True
            elif argument == "--version":
                self.version = True
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
        prompt = sys.stdin.buffer.read() if arguments.prompt is None else arguments.prompt
        if not prompt.strip():
            raise Trouble(_NO_PROMPT)
        token = next((os.environ[name] for name in _TOKENS if os.environ.get(name)), "")
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
    host, _, path = lab_url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    before, _, asked = question.rpartition(_ASKS)
    messages = [{"role": "system", "content": before}] if before else []
    messages.append({"role": "user", "content": asked})
    body = json.dumps({"model": model, "messages": messages, "stream": True}).encode()
    head = (
        # Version 1.0 spares this program the decoding of chunks: the body lasts as long as the connection.
        f"POST /{path}/chat/completions HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        with socket.create_connection((name, int(port or 80))) as connection:
            connection.sendall(head.encode() + body)
            with connection.makefile("rb", _READ_BYTES) as stream:
                yield from _read(stream, model)
    except OSError as error:
        raise _unanswered(f"network error: error sending request: {error.strerror or error}") from None


def _read(stream: IOBase, model: str) -> Iterator[str]:
    lines = iter(stream.readline, b"")
    status = int((next(lines, b"").split() or [b"0", b"0"])[1])
    headers = {}
    for line in lines:
        if not line.strip():
            break
        key, _, value = line.decode("latin-1").partition(":")
        headers[key.strip().lower()] = value.strip()
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


def _write(text: str) -> None:
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()
