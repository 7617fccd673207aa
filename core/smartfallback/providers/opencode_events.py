"""The events of one session of an OpenCode server, put together into its answer.

Text comes in one of two forms: older releases repeat the whole text of a part with each
``message.part.updated``; newer ones open the part that way, send ``message.part.delta`` with what
is new, and close it with the whole text. Both are reduced to one rule: what a part is known to say
only ever grows, and what has grown is passed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from smartfallback.model.requests import Usage
from smartfallback.providers.answer import Answer, token_count
from smartfallback.providers.base import Call
from smartfallback.providers.http_client import Exchange
from smartfallback.providers.opencode_errors import (
    OUTPUT_LIMIT,
    Asked,
    retry_failure,
    retry_wait,
    session_failure,
)
from smartfallback.providers.sse import ForeignLine, SseDecoder, SseError

RETRY_PATIENCE_S: Final = 1.0
"""How long OpenCode may wait before it tries its provider again; beyond that another account is quicker."""
RETRIES: Final = 2
"""How many such short waits are put up with."""

_ASKING: Final = frozenset({"permission.asked", "permission.updated", "question.asked"})
_FINISH: Final = {"end_turn": "stop", "max_tokens": "length"}


class EventFeed:
    """The server's event stream as the data of its events. Closing it is up to the exchange's owner."""

    __slots__ = ("_decoder", "_exchange", "_started")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._decoder = SseDecoder()
        self._started = False

    async def read(self) -> list[bytes] | None:
        """The events in the next piece of the stream, perhaps none; None at its end.

        Raises:
            ProviderError: The connection broke.
            SseError: What comes is no event stream.
        """
        piece = await self._exchange.read()
        if piece is None:
            return None
        if not self._started and piece.strip():
            self._started = True
            if piece.lstrip().startswith((b"<", b"{")):
                raise SseError("a page instead of events")
        return [data for data in self._decoder.feed(piece) if not isinstance(data, ForeignLine)]


@dataclass(slots=True)
class _Part:
    """A part of a message. ``kind`` is empty while only pieces of it came."""

    message: str
    kind: str = ""
    says: str = ""
    passed_on: int = 0


class OpenCodeAnswer(Answer):
    """Reads the events that belong to ``session`` and no others.

    Args:
        call: What was asked.
        session: The session's id.
        now: The calendar's time in epoch seconds, against which stated moments are read.

    Attributes:
        heard: Whether any event of the session has come.
    """

    __slots__ = (
        "_asked",
        "_busy",
        "_mark",
        "_parts",
        "_reason",
        "_roles",
        "_seen",
        "_session",
        "_tokens",
        "heard",
    )

    def __init__(self, call: Call, session: str, now: float) -> None:
        super().__init__(call, {}, now)
        self.heard = False
        self._session = session
        self._mark = session.encode()
        self._asked = Asked(call.account, call.model, now)
        self._parts: dict[str, _Part] = {}
        self._roles: dict[str, str] = {}
        self._tokens: dict[str, Usage] = {}
        self._seen: set[str] = set()
        self._reason = ""
        self._busy = False

    @property
    def over(self) -> bool:
        """Whether nothing more will be read, for good or bad."""
        return self.ended or self.failure is not None

    def read(self, events: list[bytes], now: float) -> list[str] | None:
        """The texts of events as they came at epoch time ``now``; None when none was of the session.

        A text may be empty: the event was a sign of life.
        """
        # Other sessions' events are most of what a busy server sends; they need not be decoded.
        mine = [data for data in events if self._mark in data]
        if not mine:
            return None
        self._asked = Asked(self.account, self.model, now)
        texts = []
        for data in mine:
            texts.append(self.feed(data))
            if self.over:
                break
        return texts

    def take(self, payload: dict[str, Any]) -> str:
        """See :meth:`Answer.take`. Reads the answer of a blocking call (``{info, parts}``) too."""
        if "info" in payload:
            return self._whole(payload)
        kind, event = payload["type"], payload.get("properties") or {}
        if self._session_of(event) != self._session:
            return ""
        self.heard = True
        if kind == "message.part.delta":
            return self._delta(payload.get("id"), event)
        if kind == "message.part.updated":
            return self._part(event["part"], event.get("delta"))
        if kind == "message.updated":
            return self._message(event["info"])
        if kind == "session.status":
            self._status(event["status"])
        elif kind == "session.error":
            self._error(event.get("error") or {})
        elif kind == "session.idle":
            self._end()
        elif kind == "session.deleted":
            self.malformed("the session was deleted on the OpenCode server before its answer was complete")
        elif kind in _ASKING:
            self.malformed("OpenCode asks for a permission or an answer that nobody can give here")
        return ""

    def _whole(self, payload: dict[str, Any]) -> str:
        parts = payload.get("parts") or []
        self._message(payload["info"])
        self._end()
        if self.failure is not None:
            return ""
        return "".join(part["text"] for part in parts if part["type"] == "text")

    @staticmethod
    def _session_of(event: dict[str, Any]) -> object:
        if "sessionID" in event:
            return event["sessionID"]
        inner = event.get("part") or event.get("info") or {}
        return inner.get("sessionID") or inner.get("id")

    def _message(self, info: dict[str, Any]) -> str:
        name, role = info["id"], info["role"]
        text = self._known(name, role)
        if role != "assistant":
            return text
        self._count(name, info.get("tokens") or {})
        self._reason = info.get("finish") or self._reason
        if info.get("error"):
            self._error(info["error"])
        return text

    def _known(self, message: str, role: str) -> str:
        """Note who says a message; the text that had to wait for that."""
        if self._roles.get(message) == role:
            return ""
        self._roles[message] = role
        return "".join(self._grown(part) for part in self._parts.values() if part.message == message)

    def _part(self, fields: dict[str, Any], delta: str | None) -> str:
        kind, message = fields["type"], fields["messageID"]
        before = ""
        if kind.startswith("step-"):
            # Only answers have steps, which tells whose message it is even if the message itself comes late.
            before = self._known(message, "assistant")
        part = self._parts.setdefault(fields["id"], _Part(message))
        part.kind = kind
        if kind != "text":
            return before
        text = fields.get("text")
        if text is None:
            part.says += delta or ""
        elif text.startswith(part.says):
            part.says = text
        elif not part.says.startswith(text):
            if part.passed_on:
                self.malformed("OpenCode changed a part of its answer that was already passed on")
                return before
            part.says = text
        return before + self._grown(part)

    def _delta(self, event: str | None, fields: dict[str, Any]) -> str:
        if event is not None:
            if event in self._seen:
                return ""
            self._seen.add(event)
        if fields.get("field", "text") != "text":
            return ""
        part = self._parts.setdefault(fields["partID"], _Part(fields["messageID"]))
        part.says += fields["delta"]
        # What a user says comes whole: only answers grow.
        return self._known(part.message, "assistant") + self._grown(part)

    def _grown(self, part: _Part) -> str:
        if part.kind != "text" or self._roles.get(part.message) != "assistant":
            return ""
        text = part.says[part.passed_on :]
        part.passed_on = len(part.says)
        return text

    def _count(self, message: str, tokens: dict[str, Any]) -> None:
        cache = tokens.get("cache") or {}
        read = sum(token_count(part) for part in (tokens.get("input"), cache.get("read"), cache.get("write")))
        said = token_count(tokens.get("output")) + token_count(tokens.get("reasoning"))
        if not read and not said:
            return
        self._tokens[message] = Usage(read, said)
        every = self._tokens.values()
        self.usage = Usage(sum(u.input_tokens for u in every), sum(u.output_tokens for u in every))

    def _status(self, status: dict[str, Any]) -> None:
        kind = status["type"]
        if kind == "idle":
            # A session may be called idle before its prompt has reached it.
            if self._busy:
                self._end()
            return
        self._busy = True
        if kind == "retry":
            wait = retry_wait(status, self._asked.now)
            if wait is None or wait > RETRY_PATIENCE_S or token_count(status.get("attempt")) > RETRIES:
                self.failure = retry_failure(status, self._asked)

    def _error(self, error: dict[str, Any]) -> None:
        if error.get("name") == OUTPUT_LIMIT:
            self._reason = "length"
        elif self.failure is None:
            self.failure = session_failure(error, self._asked)

    def _end(self) -> None:
        self.ended = True
        if self._reason == "content-filter" and self.failure is None:
            self.content_filtered("the answer", self._reason)
        elif self._reason:
            self.finish = _FINISH.get(self._reason, self._reason)
