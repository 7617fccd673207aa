"""An answer as it comes in over HTTP: pieces of a body become events, events become text."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from smartfallback.model.outcomes import ErrorCategory, Failure, ProviderError
from smartfallback.model.requests import Usage
from smartfallback.model.secrets import Secret
from smartfallback.providers.base import Call
from smartfallback.providers.http_client import Exchange
from smartfallback.providers.http_errors import MAX_CODE, ErrorReply, clean, malformed
from smartfallback.providers.sse import ErrorEvent, SseDecoder, SseError

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""A body that is one JSON object is held whole, so it has a limit."""

MAX_TOKENS: Final = 10**12
"""More than any answer has: a count from here on is nonsense, and could overflow what it is added to."""

MAX_ERROR_WORDS: Final = 2_000
END_OF_BODY_S: Final = 0.05
"""How long the end of a body may lag behind the protocol's end mark before the connection is given up."""

_END_MARK: Final = b"[DONE]"
_BOM: Final = b"\xef\xbb\xbf"
_END_READS: Final = 3


class Answer(ABC):
    """One answer in the making: takes the upstream's events, keeps what the end needs.

    Attributes:
        finish: The finish reason in the model's words, None until it came.
        finish_is_vague: More text came after a finish reason, so none of them tells the end.
        usage: The latest token counts that the upstream reported.
        failure: Set when the answer has failed; nothing is fed after that.
        ended: The protocol's own end mark came; nothing can follow.
        characters: How much text came so far.
    """

    __slots__ = (
        "account",
        "characters",
        "ended",
        "failure",
        "finish",
        "finish_is_vague",
        "headers",
        "model",
        "now",
        "usage",
    )

    def __init__(self, call: Call, headers: Mapping[str, str], now: float) -> None:
        self.account = call.account
        self.model = call.model
        self.headers = headers
        self.now = now
        self.finish: str | None = None
        self.finish_is_vague = False
        self.usage: Usage | None = None
        self.failure: Failure | None = None
        self.ended = False
        self.characters = 0

    @abstractmethod
    def take(self, payload: dict[str, Any]) -> object:
        """Read one event (or a whole answer) and return its text, unchecked.

        May raise the errors of a wrong shape (AttributeError, IndexError, KeyError, TypeError);
        :meth:`feed` turns them into a malformed response.
        """

    def feed(self, data: bytes | bytearray) -> str:
        """Read the data of one event and return its text. Never raises; see ``failure``."""
        if data.strip() == _END_MARK:
            self.ended = True
            return ""
        try:
            payload = json.loads(str(data, "utf-8"))
        except (ValueError, RecursionError):
            start = data[:80].decode("utf-8", "replace")
            self.malformed(f"an event of the answer is not JSON: {start!r}")
            return ""
        return self.feed_payload(payload, surrogates=b"\\u" in data)

    def feed_payload(self, payload: object, *, surrogates: bool) -> str:
        """Like :meth:`feed` for decoded data; ``surrogates`` says whether half characters may be in it."""
        if not isinstance(payload, dict):
            self.malformed("an event of the answer is not a JSON object")
            return ""
        try:
            text = self.take(payload)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            self.malformed(f"an event of the answer has an unknown shape ({type(error).__name__})")
            return ""
        if not isinstance(text, str):
            self.malformed("the text of an answer is not a string")
            return ""
        if surrogates and text and not text.isascii():
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        self.characters += len(text)
        return text

    def afterword(self, data: bytes) -> None:
        """Read an event that came after the end mark: of it only token counts still matter."""
        with suppress(ValueError, RecursionError):
            payload = json.loads(str(data, "utf-8"))
            if isinstance(payload, dict):
                self.take_usage(payload)

    def take_usage(self, payload: dict[str, Any]) -> None:  # noqa: B027 - not all dialects have such events
        """Keep the token counts in ``payload``, if it has any. Never raises."""

    def finished(self, reason: str) -> None:
        """Note a finish reason. A later plain "stop" doesn't hide that the answer was cut short."""
        if self.finish in (None, "stop"):
            self.finish = reason

    def feed_error(self, data: bytes) -> None:
        """Fail because the upstream says so: ``data`` is that of an event that is an error by its name."""
        try:
            payload = json.loads(str(data, "utf-8", "replace"))
        except (ValueError, RecursionError):
            payload = data[:MAX_ERROR_WORDS].decode("utf-8", "replace")
        if not isinstance(payload, dict):
            payload = {"message": payload if isinstance(payload, str) else ""}
        if not payload.get("error"):
            payload = {"error": payload}
        self.take_error(payload)

    def take_error(self, payload: dict[str, Any]) -> None:  # noqa: ARG002 - dialects that have such events read it
        """Set ``failure`` to what ``payload["error"]`` means in the upstream's dialect."""
        self.malformed("the upstream reports an error")

    def refused(self, payload: Any, status: int) -> ErrorReply:
        """An error inside the answer, in the form in which refusals are classified."""
        return ErrorReply(status, self.headers, payload, "", self.account, self.model, self.now)

    def content_filtered(self, what: str, code: str, pending: int = 0) -> None:
        """Fail because of a safety block; ``pending`` counts text of the same event."""
        characters = self.characters + pending
        where = f"after {characters} characters" if characters else "before any text"
        self.failure = Failure(
            ErrorCategory.CONTENT_FILTERED,
            clean(f"{what} was blocked {where} ({code})", self._secrets),
            http_status=200,
            code=clean(code, self._secrets, MAX_CODE),
        )

    def complete(self) -> None:
        """Judge the answer at the end of its body; sets ``failure`` unless it is whole.

        It is whole with a finish reason. Some servers never give one and only send the protocol's
        end mark: text with that mark is whole too, as long as nothing in the stream spoke of an error.
        """
        if self.failure is not None:
            return
        if self.finish is None and not (self.ended and self.characters):
            if self.characters:
                self.malformed(f"the answer was cut off after {self.characters} characters")
            else:
                self.malformed("the answer ended without any text")
        elif self.finish in (None, "stop") and not self.characters:
            self.malformed("the answer has no text")
        elif self.finish is None:
            self.finish = "stop"

    def broke_off(self, reason: str) -> None:
        """Fail because the model's server names a finish reason that is none."""
        self.malformed(f"the model broke off: {reason}")

    def malformed(self, message: str) -> None:
        """Fail because what came can't be read."""
        self.failure = malformed(message, self.account)

    @property
    def _secrets(self) -> tuple[Secret, ...]:
        return (self.account.api_key,) if self.account.api_key is not None else ()


class AnswerReader:
    """Reads one response to its end and feeds an :class:`Answer`.

    A body is read as what it is, whether or not it was asked for in that form: some servers send
    one JSON object to a caller who asked for a stream, and name any content type.

    Args:
        exchange: The response; the reader does not close it.
        answer: What takes the events.
        after_finish_s: How long to wait for usage and the end of the body once a finish reason came.
    """

    __slots__ = ("_after_finish_s", "_answer", "_decoder", "_exchange", "_over", "_over_at")

    def __init__(self, exchange: Exchange, answer: Answer, after_finish_s: float) -> None:
        self._exchange = exchange
        self._answer = answer
        self._after_finish_s = after_finish_s
        self._decoder: SseDecoder | None = None
        self._over = False
        self._over_at: float | None = None

    async def texts(self) -> list[str] | None:
        """The texts in the next piece of the body, none for a sign of life; None at the end.

        Raises:
            ProviderError: The connection broke.
        """
        answer = self._answer
        if self._over or answer.ended or answer.failure is not None:
            return None
        piece = await self._read()
        if piece is None:
            self._over = True
            return self._last_event()
        if self._decoder is None:
            opening = piece.removeprefix(_BOM).lstrip()[:1]
            if not opening:
                return []
            if opening == b"<":
                answer.malformed("an HTML page instead of an answer")
                return None
            if opening in (b"{", b"["):
                return await self._whole(piece)
            self._decoder = SseDecoder()
        try:
            return self._feed(self._decoder.feed(piece))
        except SseError as error:
            answer.malformed(f"no event stream: {error}")
            return None

    async def drain(self) -> None:
        """Read on to the end of the body, which gives the connection back; not for long."""
        if self._over:
            return
        with suppress(ProviderError):
            for _ in range(_END_READS):
                piece = await self._exchange.read_within(min(END_OF_BODY_S, self._after_finish_s / 4))
                if piece is None:
                    return
                self._afterwords(piece)

    def _afterwords(self, piece: bytes) -> None:
        if self._decoder is not None:
            with suppress(SseError):
                for data in self._decoder.feed(piece):
                    self._answer.afterword(data)

    async def _read(self) -> bytes | None:
        if self._answer.finish is None or self._answer.finish_is_vague:
            self._over_at = None
            return await self._exchange.read()
        now = asyncio.get_running_loop().time()
        if self._over_at is None:
            self._over_at = now + self._after_finish_s
        elif now >= self._over_at:
            return None
        # All text is there: whatever goes wrong from here on costs at most the token counts.
        with suppress(ProviderError):
            return await self._exchange.read_within(self._over_at - now)
        return None

    def _feed(self, events: Iterable[bytes]) -> list[str]:
        answer = self._answer
        texts: list[str] = []
        remaining = iter(events)
        for data in remaining:
            if type(data) is bytes:
                text = answer.feed(data)
                if text:
                    texts.append(text)
            else:
                self._feed_odd(data)
            if answer.failure is not None:
                break
            if answer.ended:
                for late in remaining:
                    answer.afterword(late)
                break
        return texts

    def _feed_odd(self, data: bytes) -> None:
        answer = self._answer
        if isinstance(data, ErrorEvent):
            answer.feed_error(data)
        elif answer.characters and answer.finish is None:
            # Before any text it may be a greeting, and what follows the finish reason costs nothing.
            start = data[:80].decode("utf-8", "replace")
            answer.malformed(
                f"the answer turned into something else after {answer.characters} characters: {start!r}"
            )

    def _last_event(self) -> list[str]:
        answer = self._answer
        if self._decoder is None:
            answer.malformed("the answer is empty")
            return []
        # An event without its blank line counts if it is whole; cut in the middle it is no event.
        texts = self._feed(
            data
            for data in self._decoder.flush()
            if type(data) is not bytes or data.strip() == _END_MARK or _is_json(data)
        )
        if self._decoder.foreign_lines and not answer.characters and answer.finish is None:
            answer.malformed("something else than an event stream came back")
        return texts

    async def _whole(self, start: bytes) -> list[str]:
        self._over = True
        body = bytearray(start)
        while (piece := await self._exchange.read()) is not None:
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                self._answer.malformed(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
                return []
        try:
            whole = json.loads(body)
        except (ValueError, RecursionError):
            self._answer.malformed(f"the answer is not JSON: {body[:80].decode('utf-8', 'replace')!r}")
            return []
        texts: list[str] = []
        for payload in whole if isinstance(whole, list) else [whole]:
            text = self._answer.feed_payload(payload, surrogates=True)
            if text:
                texts.append(text)
            if self._answer.failure is not None:
                break
        return texts


def token_count(value: object) -> int:
    """A count as servers send it; anything but a number from 0 on, and below a trillion, counts as 0."""
    return int(value) if isinstance(value, int | float) and 0 <= value < MAX_TOKENS else 0


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
