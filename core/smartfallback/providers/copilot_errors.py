"""What the complaints of Copilot's command-line tool mean.

Version 1.0.102 was made to fail against a loopback server: it ends with exit code 1 and says why on
standard error, as "402 You have no quota" or "… Last error: 500 The server had an error". Earlier
versions print "✗ …", "Execution failed: …" and "Model call failed: {JSON}" there or among the answer.
Service messages are those reported at https://github.com/github/copilot-cli/issues (2336, 2696, 2740, 2828).
"""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from smartfallback.model.outcomes import ErrorCategory, Failure, TimeoutPhase
from smartfallback.model.secrets import Secret, redact
from smartfallback.model.specs import AccountSpec
from smartfallback.providers import openai_errors
from smartfallback.providers.http_errors import ErrorReply, clean

INSTALL: Final = "npm install -g @github/copilot (Node.js 22 or later)"

_LOGGED_OUT: Final = re.compile(
    r"no authentication information|not (?:logged|signed) in|must be (?:logged|signed) in"
    r"|please use /login|authentication failed|bad credentials|unauthorized"
    r"|personal access tokens \(ghp_\) are not supported"
    r"|(?:token|credentials?) (?:is |are |has |have )?(?:been )?(?:invalid|expired|revoked)",
    re.IGNORECASE,
)
_UNPROVEN: Final = re.compile(r"token found but could not be validated", re.IGNORECASE)
_POLICY: Final = re.compile(
    r"access denied by (?:copilot )?policy|check policy enablement"
    r"|copilot(?: cli)? is (?:not enabled|disabled)"
    r"|(?:no|not have|without)\b[^.]{0,40}\b(?:copilot subscription|access to copilot)",
    re.IGNORECASE,
)
_QUOTA: Final = re.compile(
    r"quota[ _]exceeded|(?:no|exceeded [^.]{0,40}) quota\b|(?:no|out of|used (?:up )?all)\b[^.]{0,40}"
    r"\b(?:premium requests|AI credits)\b|premium request (?:allowance|limit)",
    re.IGNORECASE,
)
_RATE: Final = re.compile(
    r"rate[ _-]?limit|too many requests|(?:daily|weekly|monthly|usage) limit", re.IGNORECASE
)
_NO_MODEL: Final = re.compile(
    r"model_not_supported|no_available_model|model\b[^\n]{0,80}\b(?:is not (?:available|supported)|not found)"
    r"|requested model",
    re.IGNORECASE,
)
_OVERLOADED: Final = re.compile(r"overloaded|service unavailable|temporarily unavailable", re.IGNORECASE)
_NETWORK: Final = re.compile(
    r"\b(?:ENOTFOUND|ECONNREFUSED|ECONNRESET|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|EAI_AGAIN|EPIPE)\b"
    r"|fetch failed|socket hang up|network (?:error|is unreachable)|error sending request|dns error"
    r"|self[- ]signed certificate|unable to (?:get local issuer|verify)",
    re.IGNORECASE,
)
_TIMED_OUT: Final = re.compile(r"timed? ?out", re.IGNORECASE)
_BROKEN_ANSWER: Final = re.compile(
    r"error decoding response|unexpected EOF|without sending any chunks|failed to finalize"
    r"|unexpected (?:token|end of JSON)|invalid JSON|empty response",
    re.IGNORECASE,
)
_FILTERED: Final = re.compile(r"blocked by content filter|content_filter|content policy", re.IGNORECASE)
_OVERFLOW: Final = re.compile(
    r"context_length_exceeded|context window|prompt is too long|prompt token count|tokens_limit_reached"
    r"|model_max_prompt_tokens_exceeded|maximum context length|input token count",
    re.IGNORECASE,
)
_UNUSABLE: Final = re.compile(
    r"cannot find module|requires node|unsupported node|syntaxerror:|unknown option|no such file or directory"
    r"|exec format error|glibc",
    re.IGNORECASE,
)

_STATUS: Final = re.compile(
    r"(?:^|\n|last error: |failed: |error: |\bstatus(?: code)?:? |\bHTTP |\()\s*([45]\d\d)\b", re.IGNORECASE
)
_CODE: Final = re.compile(r"(?:\"code\"\s*:\s*\"|\berror code:\s*)([a-z][a-z0-9_]{2,63})", re.IGNORECASE)
_KNOWN_CODE: Final = re.compile(r"\b(\w*rate_limited|quota_exceeded|rate_limit_exceeded)\b")
_RESET_DATE: Final = re.compile(r"reset on (\w+ \d{1,2}, \d{4}) at (\d{1,2}:\d\d [AP]M)", re.IGNORECASE)
_NOISE: Final = re.compile(r"^(?:\(node:\d+\)|\(use `node|\s+at |node:internal|Node\.js v).*$", re.I | re.M)
_EXCEPTION: Final = re.compile(r"^(?:Uncaught )?\w*(?:Error|Exception): .*$", re.M)
_MARKS: Final = re.compile(r"\A\s*[45]\d\d (?=\S)|^[\s✗✘]+|^error:\s+", re.IGNORECASE | re.MULTILINE)
_SHELL_SIGNAL: Final = range(129, 161)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run of the tool ended badly.

    Attributes:
        code: The exit code; below 0 minus the signal that ended it, None when it would not end.
        words: What it wrote to standard error, and of its output what was no answer.
        characters: How much of an answer it had printed.
        account: Whose call it was.
        model: The model that was asked, empty for the tool's own choice.
        secrets: What must not be quoted.
        now: The calendar's time in epoch seconds.
    """

    code: int | None
    words: str = field(repr=False)
    characters: int
    account: AccountSpec
    model: str
    secrets: tuple[Secret, ...]
    now: float

    def failure(self) -> Failure:
        """The failure behind this ending."""
        # Redacted as a whole first: quoting cuts lines, and a cut key no longer looks like one.
        words = _NOISE.sub("", redact(self.words, self.secrets))
        status = _status_of(words)
        if status is not None:
            return self._served(status, words)
        category, hint = self._unserved(words)
        phase = TimeoutPhase.FIRST_TOKEN if not self.characters else TimeoutPhase.IDLE
        return Failure(
            category,
            self._message(words),
            hint=clean(hint),
            phase=phase if category is ErrorCategory.TIMEOUT else None,
        )

    def _served(self, status: int, words: str) -> Failure:
        """What the service behind the tool said, read as the API's own errors are."""
        payload = {"error": {"message": words[:4_000], "code": _code_of(words)}}
        failure = openai_errors.classify(
            ErrorReply(status, {}, payload, words, self.account, self.model, self.now)
        )
        if failure.category in (ErrorCategory.QUOTA_EXHAUSTED, ErrorCategory.RATE_LIMIT):
            resets_at = _stated_reset(words)
            if failure.retry_after_s is None and resets_at is not None:
                wall = failure.category is ErrorCategory.QUOTA_EXHAUSTED
                failure = replace(
                    failure,
                    retry_after_s=max(0.0, resets_at - self.now),
                    resets_at=resets_at if wall else None,
                )
        elif failure.category is ErrorCategory.AUTHENTICATION and not failure.permanent:
            failure = replace(failure, hint=clean(self._login_hint(words)))
        elif status == 404:
            hint = (
                f"check the model name {self.model!r}; copilot's /model lists those that the account may use"
            )
            failure = replace(failure, hint=clean(hint))
        return replace(failure, message=self._message(words))

    def _unserved(self, words: str) -> tuple[ErrorCategory, str]:
        """Category and hint of an ending that the service has no part in."""
        if _BROKEN_ANSWER.search(words):
            return ErrorCategory.MALFORMED_RESPONSE, ""
        if _NETWORK.search(words):
            return ErrorCategory.NETWORK_ERROR, "check the network, and HTTPS_PROXY if there is a proxy"
        if _TIMED_OUT.search(words):
            return ErrorCategory.TIMEOUT, ""
        if self._signal:
            return ErrorCategory.TRANSIENT_ERROR, ""
        if self.code in (126, 127) or _UNUSABLE.search(words):
            return ErrorCategory.API_FAILURE, f"the tool can't run as it is installed: {INSTALL}"
        if self.code in (0, None):
            return (
                ErrorCategory.MALFORMED_RESPONSE,
                "" if self.characters else "try copilot -p hello in a terminal: it may have to be logged in",
            )
        return ErrorCategory.UNKNOWN, ""

    @property
    def _signal(self) -> str:
        """The signal that ended the tool, as its name; empty when none did."""
        number = 0 if self.code is None else -self.code if self.code < 0 else 0
        if self.code in _SHELL_SIGNAL:
            number = (self.code or 0) - 128
        with suppress(ValueError):
            return signal.Signals(number).name
        return ""

    def _message(self, words: str) -> str:
        exception = _EXCEPTION.search(words)
        said = exception.group() if exception and self.code != 0 else words
        said = clean(_MARKS.sub("", said), self.secrets)
        if said:
            return said
        after = f" after {self.characters} characters" if self.characters else " without an answer"
        if self._signal:
            return f"copilot was killed by {self._signal}{after}"
        if self.code is None:
            return f"copilot closed its output{after} and did not end"
        return f"copilot ended with exit code {self.code}{after}"

    def _login_hint(self, words: str) -> str:
        if _POLICY.search(words):
            return (
                "enable Copilot CLI and the model in GitHub's Copilot settings, or ask whoever manages them"
            )
        if self.account.api_key is None:
            return f"run copilot and /login in a terminal, or give account {self.account.id} an api_key"
        return f'check the key of account {self.account.id}: a token with the permission "Copilot Requests"'


def _status_of(words: str) -> int | None:
    """The HTTP status that the words state or amount to; None when no service spoke."""
    if _FILTERED.search(words) or _OVERFLOW.search(words):
        return 400
    stated = _STATUS.search(words)
    status = int(stated.group(1)) if stated else None
    if status == 402 or (status in (None, 403) and _QUOTA.search(words)):
        return 402
    if status in (None, 403, 429) and _RATE.search(words):
        return 429
    # Policies come as 401, 403 or 404, and mean that an operator has to act.
    if _POLICY.search(words):
        return 403
    unproven = _UNPROVEN.search(words) and not _NETWORK.search(words)
    if status is None and (unproven or _LOGGED_OUT.search(words)):
        return 401
    if status is None and _NO_MODEL.search(words):
        return 404
    if status is None and _OVERLOADED.search(words):
        return 503
    return status


def _code_of(words: str) -> str:
    found = _CODE.search(words) or _KNOWN_CODE.search(words)
    return found.group(1).lower() if found else ""


def _stated_reset(words: str) -> float | None:
    """Epoch seconds of "reset on April 20, 2026 at 2:00 AM", which is this machine's time."""
    found = _RESET_DATE.search(words)
    if found:
        with suppress(ValueError):
            return datetime.strptime(f"{found.group(1)} {found.group(2)}", "%B %d, %Y %I:%M %p").timestamp()
    return None
