"""The wire format of an OpenCode server, from the server's side.

Shapes and order of the events are those that release 1.18.33 was seen to send, for a model behind
an OpenAI-compatible provider.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any, Final

from smartfallback.simulation.dialects import (
    Finish,
    Problem,
    ProblemKind,
    Question,
    Refused,
    Wire,
    compact,
    parse_object,
    tokens_of,
)
from smartfallback.simulation.openai_wire import OpenAiWire
from smartfallback.simulation.upstreams import AccountState

VERSION: Final = "1.18.33"
_JSON: Final = {"Content-Type": "application/json"}
_FIRST_RETRY_S: Final = 2.0
_RETRIES: Final = 5
_NAME: Final = {400: "BadRequest", 404: "NotFoundError"}


class OpenCodeWire:
    """Prompts, the events of their answers, and Basic authentication. A call's id is its session's."""

    base_path = ""

    def __init__(self) -> None:
        self._behind = OpenAiWire()

    def key(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:  # noqa: ARG002 - header only
        """The password of user ``opencode``."""
        scheme, _, pair = headers.get("Authorization", "").partition(" ")
        try:
            user, _, password = base64.b64decode(pair, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return ""
        return password if scheme.lower() == "basic" and user == "opencode" else ""

    def lists_models(self, method: str, path: str) -> bool:
        """``GET /config/providers``."""
        return method == "GET" and path == "/config/providers"

    def models(self, names: tuple[str, ...]) -> bytes:
        """The models by provider."""
        providers: dict[str, dict[str, Any]] = {}
        for name in names:
            provider, _, model = name.partition("/")
            providers.setdefault(provider, {})[model] = {"id": model, "name": model}
        return compact({"providers": [{"id": name, "models": models} for name, models in providers.items()]})

    def question(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],  # noqa: ARG002 - nothing in the query changes an answer
        body: bytes,
    ) -> Question:
        """Understand ``POST /session/{id}/prompt_async`` or ``POST /session/{id}/message``.

        Raises:
            Refused: It is neither, or the body is not one that the API takes.
        """
        way = path.rpartition("/")[2]
        if method != "POST" or way not in ("prompt_async", "message"):
            raise Refused(Problem(ProblemKind.UNKNOWN_PATH, 404, f"Not found: {method} {path}"))
        value = parse_object(body)
        model, parts = value.get("model"), value.get("parts")
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise Refused(Problem(ProblemKind.INVALID, 400, 'Expected array\n  at ["parts"]'))
        name = f"{model.get('providerID')}/{model.get('modelID')}" if isinstance(model, dict) else ""
        texts = [str(part.get("text", "")) for part in parts if part.get("type") == "text"]
        size = sum(map(len, texts)) + len(str(value.get("system") or ""))
        return Question(name, tuple(texts), tokens_of(size), None, way == "prompt_async", include_usage=True)

    def refusal(self, problem: Problem, now: float) -> Wire:  # noqa: ARG002 - the server states no waits
        """A refusal by the server itself; those of its provider come as events."""
        if problem.kind is ProblemKind.BAD_KEY:
            return Wire(401, {"www-authenticate": 'Basic realm="Secure Area"'}, b"")
        error = {"name": _NAME.get(problem.status, "UnknownError"), "data": {"message": problem.message}}
        return Wire(problem.status, _JSON, compact(error))

    def limits(self, state: AccountState, now_monotonic: float) -> dict[str, str]:  # noqa: ARG002 - see below
        """None: the provider's headers stay with the server."""
        return {}

    def head(self, call_id: str, question: Question) -> bytes:
        """The prompt as the server repeats it, and the answer's empty first part."""
        user, tail = f"msg_0{call_id[4:]}", call_id[4:]
        asked = {"id": user, "role": "user", "sessionID": call_id}
        said = [_message_updated(call_id, asked)]
        for number, text in enumerate(question.prompts):
            said.append(
                _part_updated(call_id, user, {"id": f"prt_0{number}{tail}", "type": "text", "text": text})
            )
        step = {"id": f"prt_1{tail}", "type": "step-start"}
        return b"".join(
            [
                *said,
                _message_updated(call_id, _info(call_id, Finish(0, 0))),
                _part_updated(call_id, _answer(call_id), step),
                self.closed_part(call_id, ""),
            ]
        )

    def piece(self, call_id: str, question: Question, text: str) -> bytes:  # noqa: ARG002 - the session says it all
        """What is new."""
        fields = {"messageID": _answer(call_id), "partID": f"prt_2{call_id[4:]}", "field": "text"}
        return event("message.part.delta", {"sessionID": call_id, **fields, "delta": text})

    def tail(self, call_id: str, question: Question, finish: Finish) -> bytes:  # noqa: ARG002 - see piece
        """Token counts and the finish reason."""
        info = _info(call_id, finish) | {"finish": "length" if finish.truncated else "stop"}
        return _message_updated(call_id, info)

    def closed_part(self, call_id: str, text: str) -> bytes:
        """The whole text once more."""
        return _part_updated(call_id, _answer(call_id), _part(call_id, text))

    def whole(self, call_id: str, question: Question, text: str, finish: Finish) -> bytes:  # noqa: ARG002 - see piece
        """The answer of a blocking call."""
        info = _info(call_id, finish) | {"finish": "length" if finish.truncated else "stop"}
        return compact({"info": info, "parts": [_part(call_id, text)]})

    def failed(self, call_id: str, error: dict[str, Any]) -> bytes:
        """The answer of a blocking call that ended in an error."""
        return compact({"info": _info(call_id, Finish(0, 0)) | {"error": error}, "parts": []})

    def overload(self) -> bytes:
        """An overload as an error of no session in particular."""
        return event("session.error", {"error": self.error(Problem(ProblemKind.STATUS, 503), 0.0)})

    def blocked(self, call_id: str, question: Question) -> bytes:  # noqa: ARG002 - see piece
        """A content filter's error."""
        return event("session.error", {"sessionID": call_id, "error": BLOCKED})

    def error(self, problem: Problem, now: float) -> dict[str, Any]:
        """The error that a problem with the provider behind the server ends in."""
        if problem.kind is ProblemKind.UNKNOWN_MODEL:
            return {"name": "UnknownError", "data": {"message": f"Model not found: {problem.model}."}}
        wire = self._behind.refusal(problem, now)
        body = wire.body.decode()
        message = json.loads(body)["error"]["message"]
        if problem.kind is ProblemKind.TOO_LONG:
            return {"name": "ContextOverflowError", "data": {"message": message, "responseBody": body}}
        data = {
            "message": message,
            "statusCode": wire.status,
            "isRetryable": wire.status == 429 or wire.status >= 500,
            "responseHeaders": {name.lower(): value for name, value in wire.headers.items()},
            "responseBody": body,
        }
        return {"name": "APIError", "data": data}

    def retry(self, error: dict[str, Any], attempt: int) -> float | None:
        """Seconds until the server tries its provider again on its own, None when it gives up."""
        data = error["data"]
        if not data.get("isRetryable") or attempt > _RETRIES:
            return None
        stated = data["responseHeaders"].get("retry-after", "")
        return float(stated) if stated.isdigit() else _FIRST_RETRY_S * 2.0 ** (attempt - 1)


BLOCKED: Final = {
    "name": "ContentFilterError",
    "data": {"message": "The provider's content filter withheld the answer."},
}
"""The error of an answer withheld by a content filter."""


def event(kind: str, properties: dict[str, Any]) -> bytes:
    """One event of the stream."""
    return b"data: " + compact({"type": kind, "properties": properties}) + b"\n\n"


def status(session: str, kind: str, **fields: Any) -> bytes:
    """What a session is doing: ``busy``, ``idle`` or ``retry``."""
    return event("session.status", {"sessionID": session, "status": {"type": kind, **fields}})


def retrying(session: str, attempt: int, message: str, at: float) -> bytes:
    """That the server waits until epoch time ``at`` before it tries its provider again."""
    return status(session, "retry", attempt=attempt, message=message, next=math.ceil(at * 1_000))


def idle(session: str) -> bytes:
    """The end of an answer, good or bad."""
    return status(session, "idle") + event("session.idle", {"sessionID": session})


def _answer(session: str) -> str:
    """The id of the session's answer."""
    return f"msg_1{session[4:]}"


def _part(session: str, text: str) -> dict[str, Any]:
    part = {"id": f"prt_2{session[4:]}", "type": "text", "text": text}
    return part | {"messageID": _answer(session), "sessionID": session}


def _info(session: str, finish: Finish) -> dict[str, Any]:
    tokens = {"input": finish.input_tokens, "output": finish.output_tokens, "reasoning": 0}
    return {
        "id": _answer(session),
        "role": "assistant",
        "sessionID": session,
        "cost": 0,
        "tokens": tokens | {"cache": {"read": 0, "write": 0}},
    }


def _message_updated(session: str, info: dict[str, Any]) -> bytes:
    return event("message.updated", {"sessionID": session, "info": info})


def _part_updated(session: str, message: str, part: dict[str, Any]) -> bytes:
    part = part | {"messageID": message, "sessionID": session}
    return event("message.part.updated", {"sessionID": session, "part": part})
