"""One try of one candidate: reads the adapter's stream within its time limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from smartfallback.engine.grant import Grant
from smartfallback.engine.roster import AccountRuntime
from smartfallback.engine.settlement import Received
from smartfallback.engine.watch import Watch
from smartfallback.model.outcomes import ErrorCategory, Failure, ProviderError, TimeoutPhase
from smartfallback.model.quota import WindowReading
from smartfallback.model.requests import Usage
from smartfallback.providers.base import Call, Chunk

CLOSE_LIMIT_S = 1.0
TAIL_LIMIT_S = 1.0
_RECHECK_S = 0.25
_LIVELY_LIMITS = 4
"""Comments and events without text keep an answer alive for so many idle limits in a row, and no longer."""


class Diverted(Exception):
    """An operator moved the attempt away before its first token."""


class Stopped(Exception):
    """The orchestrator closes; nobody is to blame for what the attempt did not bring."""


class Attempt:
    """Reads one upstream answer chunk by chunk.

    Three limits apply: the request's deadline always; the first-token time-out until content
    arrives, and only while another candidate could take over; the idle time-out after that.
    All times are the event loop's.

    Args:
        grant: What the attempt holds while it runs.
        number: Its number in the request, from 1.
        call: What is asked.
        deadline: The request's deadline.
        silent_s: How long to wait while nothing has come.
        first_token_s: How long to wait for content once something has.
        has_alternative: Whether another candidate could take over.
        on_limits: Told what rate-limit headers say.
    """

    def __init__(
        self,
        grant: Grant,
        number: int,
        call: Call,
        deadline: float,
        silent_s: float,
        first_token_s: float,
        has_alternative: Callable[[], bool],
        on_limits: Callable[[AccountRuntime, Sequence[WindowReading]], None],
    ) -> None:
        self._on_limits = on_limits
        self.grant = grant
        self.number = number
        self.text_received = False
        self.characters = 0
        self.usage: Usage | None = None
        self._call = call
        self.deadline = deadline
        self.first_token_s = silent_s
        """How long the first token is waited for."""
        self._begun_s = first_token_s
        self.begun = False
        """Something has come of the response, if only its headers."""
        self.hurried = False
        """It had less time for its first token than its pool is due; that it was cut off says nothing."""
        self._has_alternative = has_alternative
        self._loop = asyncio.get_running_loop()
        self.started = self._loop.time()
        self._stream: AsyncGenerator[Chunk, None] = grant.pool.adapter.stream(call)
        self._watch = Watch(self._on_due)
        self._phase = TimeoutPhase.TOTAL
        self._divert_reason: str | None = None
        self._exhausted = False
        self._stopped = False
        self._textless_s = 0.0
        self._reading: asyncio.Task[Chunk] | None = None

    @property
    def latency_s(self) -> float:
        """Seconds since the attempt began."""
        return self._loop.time() - self.started

    async def first(self) -> Chunk:
        """The first chunk with content, or the final one of an answer that has none.

        Raises:
            ProviderError: The attempt failed, or a limit ran out.
            Diverted: :meth:`divert` was called.
            Stopped: :meth:`stop` was called.
        """
        while True:
            limit = min(self.started + self.first_token_s, self.deadline)
            chunk = await self._next(limit, TimeoutPhase.FIRST_TOKEN)
            if chunk.text or chunk.finish_reason is not None:
                return chunk
            self.begun = True
            self.first_token_s = self._begun_s

    def reading(self) -> asyncio.Task[Chunk]:
        """:meth:`first` in a task of its own, which :meth:`aclose` ends; the same one at each call."""
        if self._reading is None:
            name = f"smartfallback-attempt-{self.grant.account.id}"
            self._reading = asyncio.create_task(self.first(), name=name)
        return self._reading

    async def next(self, *, finished: bool) -> Chunk | None:
        """The next chunk, None at the end of the stream.

        ``finished`` says that the final chunk was there already: what may still come (usage) is
        not worth a long wait.

        Raises:
            ProviderError: The attempt failed, or a limit ran out.
        """
        idle_s = self.grant.pool.spec.timeouts.idle_s
        asked_at = self._loop.time()
        patience_s = min(TAIL_LIMIT_S if finished else _LIVELY_LIMITS * idle_s - self._textless_s, idle_s)
        idle_at = asked_at + patience_s
        limit, phase = (
            (idle_at, TimeoutPhase.IDLE) if idle_at < self.deadline else (self.deadline, TimeoutPhase.TOTAL)
        )
        try:
            chunk = await self._next(limit, phase)
        except StopAsyncIteration:
            return None
        # Only waits count: a slow reader is not the upstream's fault.
        self._textless_s = 0.0 if chunk.text else self._textless_s + self._loop.time() - asked_at
        return chunk

    def divert(self, reason: str) -> bool:
        """End the attempt in favour of another candidate, unless its answer has begun."""
        over = self._reading is not None and self._reading.done()
        if self.text_received or over or self._divert_reason is not None:
            return False
        self._divert_reason = reason
        self._watch.interrupt()
        return True

    def stop(self) -> None:
        """End the attempt because everything ends."""
        self._stopped = True
        self._watch.interrupt()

    async def aclose(self) -> None:
        """End the upstream call; bounded, and safe after any error or cancellation."""
        self._watch.end()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait((self._reading,), timeout=CLOSE_LIMIT_S)
            if self._reading.done() and not self._reading.cancelled():
                self._reading.exception()  # taken note of, or asyncio would complain about it
        if self._exhausted:
            return
        try:
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await self._stream.aclose()
        except Exception:  # noqa: S110 - whatever a dying stream still says changes nothing any more
            pass

    async def _next(self, limit: float, phase: TimeoutPhase) -> Chunk:
        self._phase = phase
        try:
            if self._stopped:
                raise Stopped
            if self._divert_reason is not None:
                raise Diverted(self._divert_reason)
            chunk = await self._watch.wait(anext(self._stream), limit)
        except TimeoutError:
            if self._stopped:
                raise Stopped from None
            if self._divert_reason is not None:
                raise Diverted(self._divert_reason) from None
            raise ProviderError(self._timed_out()) from None
        except StopAsyncIteration:
            self._exhausted = True
            if not self.text_received:
                raise ProviderError(
                    Failure(ErrorCategory.MALFORMED_RESPONSE, "the answer ended before it began")
                ) from None
            raise
        except (ProviderError, Diverted, Stopped):
            raise
        except Exception as error:
            # A mistake in an adapter must not take the request's other candidates with it. Its text
            # could hold anything, a key too, so only its kind is told.
            failure = Failure(ErrorCategory.UNKNOWN, f"the adapter failed with {type(error).__name__}")
            raise ProviderError(failure) from None
        self.characters += len(chunk.text)
        self.usage = chunk.usage or self.usage
        if chunk.limits:
            self._on_limits(self.grant.account, chunk.limits)
        return chunk

    @property
    def received(self) -> Received:
        """What has come of the answer so far."""
        return Received(self.characters, self.usage)

    def _on_due(self) -> float | None:
        """The wait's limit is reached: None ends it, unless nobody could answer in its place."""
        now = self._loop.time()
        if now >= self.deadline:
            self._phase = TimeoutPhase.TOTAL
        elif self._phase is TimeoutPhase.FIRST_TOKEN and not self._has_alternative():
            return min(now + _RECHECK_S, self.deadline)
        return None

    @property
    def was_given_its_time(self) -> bool:
        """Whether the upstream had as long as its pool allows before the request's deadline passed.

        A caller in a hurry must not open circuits for everybody.
        """
        return not self.text_received and self.latency_s >= self.first_token_s

    def _timed_out(self) -> Failure:
        limits = self.grant.pool.spec.timeouts
        waited = {
            TimeoutPhase.FIRST_TOKEN: f"no first token within {self.first_token_s:.3g} s",
            TimeoutPhase.IDLE: f"the stream stood still for {limits.idle_s:g} s",
        }
        lively_s = _LIVELY_LIMITS * limits.idle_s
        if self._textless_s > lively_s - limits.idle_s:
            waited[TimeoutPhase.IDLE] = f"signs of life but no text for {lively_s:g} s"
        message = waited.get(self._phase, "the request's deadline passed")
        return Failure(ErrorCategory.TIMEOUT, message, phase=self._phase)
