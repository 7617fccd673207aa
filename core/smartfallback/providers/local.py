"""The ``local`` provider: a GGUF model on disk, run by llama.cpp in a child process.

One answer at a time; further calls wait in the order in which they came. The model is loaded at
the first call and stays loaded. A child that dies fails only the running call: the next one starts
another, at once at first, and after growing pauses if it keeps dying.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
from collections.abc import AsyncGenerator, Callable
from typing import Final

from smartfallback.clock import Clock
from smartfallback.model.outcomes import ErrorCategory, ProviderError, TimeoutPhase
from smartfallback.model.requests import Usage
from smartfallback.model.specs import PoolSpec
from smartfallback.providers.base import Call, Chunk
from smartfallback.providers.local_process import ModelProcess, ProcessDiedError
from smartfallback.providers.local_protocol import (
    Cancel,
    Failed,
    Fault,
    Finished,
    Generate,
    Report,
    Settings,
    Stopped,
    Text,
)
from smartfallback.providers.local_supervisor import Supervisor, available_threads, failed, fingerprint

DEFAULT_CONTEXT_TOKENS: Final = 2048

SILENCE_LIMIT_S: Final = 600.0
"""The longest wait for the next report. The engine's limits are shorter; this one ends a frozen
child when the last candidate, which is never cut off by a first-token time-out, waits for it."""

STOP_LIMIT_S: Final = 10.0
"""How long a cancelled answer may take to stop: a slow model needs it for the step it is in."""

_PACKAGE_CHECK_S: Final = 5.0

_INSTALL: Final = (
    "llama-cpp-python is not installed: run pip install 'smartfallback-console[local]' (it is compiled for "
    "some minutes and needs a C++ compiler)"
)


class LocalProvider:
    """Runs a pool's model in a child process, as a :class:`~smartfallback.providers.base.Provider`.

    Args:
        pool: ``model_path`` is the file, ``context_tokens`` the context to use (2048 if not set,
            at most the model's own), ``notice`` the text put before each answer.
        clock: For the pauses between restarts and the age of findings.
        on_notice: Told on the event loop, in a sentence, when the child was lost or replaced.
        stop_limit_s: How long a cancelled answer may take to stop before the child is killed.
    """

    def __init__(
        self,
        pool: PoolSpec,
        clock: Clock,
        *,
        on_notice: Callable[[str], None] | None = None,
        stop_limit_s: float = STOP_LIMIT_S,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._stop_limit_s = stop_limit_s
        self._path = None if pool.model_path is None else pool.model_path.expanduser()
        settings = Settings(
            str(self._path), pool.context_tokens or DEFAULT_CONTEXT_TOKENS, available_threads()
        )
        self._child = Supervisor(pool.name, settings, clock, on_notice or (lambda _: None))
        self._turn = asyncio.Lock()
        self._ids = itertools.count()
        self._stopping: set[asyncio.Task[None]] = set()
        self._package_found = False
        self._package_checked_at: float | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is no child with a loaded model."""
        return self._child.pid

    def unavailable(self) -> str:
        """Why the pool can't answer here and what to do about it; empty when it can."""
        if not self._has_package():
            return _INSTALL
        if self._path is None:
            return f"pool {self._pool.name!r} has no model: set its model_path to a GGUF file"
        file = fingerprint(self._path)
        if file is None:
            return f"model_path {self._path} is not a file: set it to a GGUF file"
        if not os.access(self._path, os.R_OK):
            return f"model_path {self._path} can't be read: check its permissions"
        return self._child.load_failure(file)

    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Answer ``call`` when its turn comes. See :meth:`smartfallback.providers.base.Provider.stream`."""
        await self._turn.acquire()
        running: tuple[ModelProcess, int] | None = None
        try:
            if reason := self.unavailable():
                raise failed(ErrorCategory.API_FAILURE, reason)
            process = await self._child.loaded()
            order = _order(next(self._ids), call)
            process.post(order)
            running = (process, order.id)
            head = _separated(self._pool.notice)
            while True:
                match await self._report(process):
                    case Text(id=order.id, text=text):
                        head += text
                        if call.stream:
                            yield Chunk(head)
                            head = ""
                    case Finished(id=order.id) as end:
                        running = None
                        self._child.answered()
                        # A notice alone is no answer.
                        whole = "" if call.stream or not end.output_tokens else head
                        yield Chunk(whole, end.reason, Usage(end.input_tokens, end.output_tokens))
                        return
                    case Failed(id=order.id, fault=fault, message=message):
                        running = None
                        raise _refusal(Fault(fault), message)
                    case report:
                        how = f"answered out of turn ({type(report).__name__})"
                        await self._child.bury(process, how)
                        raise failed(ErrorCategory.MALFORMED_RESPONSE, f"the model process {how}")
        finally:
            if running is not None and running[0].pid == self._child.pid:
                # The caller need not wait for the child to stop; the turn passes on when it has.
                task = asyncio.create_task(self._stop(*running))
                self._stopping.add(task)
                task.add_done_callback(self._stopping.discard)
            else:
                self._turn.release()

    async def aclose(self) -> None:
        """End the child, by force if it takes longer than two seconds. Safe to call twice."""
        for task in self._stopping:
            task.cancel()
        if self._stopping:
            await asyncio.wait(self._stopping)
        await self._child.close()

    async def _report(self, process: ModelProcess) -> Report:
        try:
            async with asyncio.timeout(SILENCE_LIMIT_S):
                return await process.receive()
        except ProcessDiedError as died:
            await self._child.bury(process, str(died))
            raise failed(ErrorCategory.TRANSIENT_ERROR, f"the model process {died}") from died
        except TimeoutError as error:
            how = f"was silent for {SILENCE_LIMIT_S:.0f} s"
            await self._child.bury(process, how)
            raise failed(
                ErrorCategory.TIMEOUT, f"the model process {how}", phase=TimeoutPhase.IDLE
            ) from error

    async def _stop(self, process: ModelProcess, order_id: int) -> None:
        """Cancel an answer, read what was on its way, and pass the turn on."""
        try:
            process.post(Cancel(order_id))
            async with asyncio.timeout(self._stop_limit_s):
                while not isinstance(await process.receive(), Finished | Stopped | Failed):
                    pass
        except TimeoutError:
            await self._child.bury(
                process, f"did not stop a cancelled answer within {self._stop_limit_s:g} s and was killed"
            )
        except ProcessDiedError as died:
            await self._child.bury(process, str(died))
        finally:
            self._turn.release()

    def _has_package(self) -> bool:
        now = self._clock.monotonic()
        checked = self._package_checked_at
        # Searching the import path costs more than a routing decision, so the result is kept for a while.
        if not self._package_found and (checked is None or now - checked >= _PACKAGE_CHECK_S):
            self._package_found = importlib.util.find_spec("llama_cpp") is not None
            self._package_checked_at = now
        return self._package_found


def _order(order_id: int, call: Call) -> Generate:
    messages = [[message.role.value, message.content] for message in call.messages]
    return Generate(order_id, messages, call.max_output_tokens, call.temperature)


def _separated(notice: str) -> str:
    return notice if not notice or notice[-1].isspace() else f"{notice}\n\n"


def _refusal(fault: Fault, message: str) -> ProviderError:
    if fault is Fault.CONTEXT:
        return failed(ErrorCategory.INVALID_REQUEST, message, context_overflow=True)
    if fault is Fault.REQUEST:
        return failed(ErrorCategory.INVALID_REQUEST, message)
    return failed(ErrorCategory.API_FAILURE, message)
