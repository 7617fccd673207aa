"""Keeps one child process with a loaded model: starts it, buries it, and slows down crash loops."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from smartfallback.clock import Clock
from smartfallback.model.outcomes import ErrorCategory, Failure, ProviderError, TimeoutPhase
from smartfallback.model.secrets import redact
from smartfallback.providers.local_process import ModelProcess, ProcessDiedError
from smartfallback.providers.local_protocol import Fault, LoadFailed, Ready, Settings

LOAD_LIMIT_S: Final = 600.0
"""A model of tens of gigabytes on a slow disk takes minutes; what takes longer than this is stuck."""

CLOSE_LIMIT_S: Final = 2.0
"""How long the child may take to end by itself when it is no longer needed."""

RESTARTS_AT_ONCE: Final = 2
"""Deaths in a row, without a complete answer between them, after which a restart is immediate."""

FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 300.0

LOAD_FAILURE_KEPT_S: Final = 60.0
"""How long a file that could not be loaded is not tried again, unless it changes."""

_MESSAGE_LENGTH: Final = 400
_HINTS: Final = {
    Fault.PACKAGE: "reinstall it with pip install --force-reinstall 'smartfallback-console[local]'",
    Fault.MODEL: "set model_path to a GGUF model that the installed llama.cpp supports",
}

Fingerprint = tuple[int, int, int]
"""Inode, size and time of the last change: enough to notice that another file took the place."""


class LoadFailure(NamedTuple):
    """A load that failed, and the file as it was then."""

    message: str
    file: Fingerprint | None
    at: float


class Supervisor:
    """Owns the child process of one pool.

    Args:
        pool: The pool's name, for messages.
        settings: What each child is started with.
        clock: For the pauses between restarts.
        notify: Told in a sentence when the child was lost or replaced.
    """

    def __init__(self, pool: str, settings: Settings, clock: Clock, notify: Callable[[str], None]) -> None:
        self._pool = pool
        self._settings = settings
        self._clock = clock
        self._notify = notify
        self._process: ModelProcess | None = None
        self._loading: asyncio.Task[ModelProcess] | None = None
        self._load_failure: LoadFailure | None = None
        self._deaths = 0
        self._last_death = ""
        self._paused_until = 0.0
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is no child with a loaded model."""
        return self._process.pid if self._process is not None and self._process.alive else None

    def load_failure(self, file: Fingerprint) -> str:
        """Why the model could not be loaded, empty if there is reason to try."""
        failure = self._load_failure
        if failure is None or failure.file != file:
            return ""
        return failure.message if self._clock.monotonic() - failure.at < LOAD_FAILURE_KEPT_S else ""

    async def loaded(self) -> ModelProcess:
        """The child with its model loaded; started if there is none.

        A caller that goes away leaves the load running for the next one.

        Raises:
            ProviderError: There is no child and can't be one now.
        """
        if self._process is not None and not self._process.alive:
            await self.bury(self._process, await self._process.how_it_ended())
        if self._closed:
            raise closed()
        if self._process is not None:
            return self._process
        if self._loading is None:
            self._check_pause()
            self._loading = asyncio.create_task(self._load())
        loading = self._loading
        await asyncio.wait((loading,))
        if loading.cancelled():
            raise closed()
        return loading.result()

    def answered(self) -> None:
        """Note a complete answer: the child is sound."""
        self._deaths = 0

    async def bury(self, process: ModelProcess, how: str) -> None:
        """Note that ``process`` died or must; end it and say so. A second burial changes nothing."""
        if process is self._process:
            self._process = None
            self._count_death(how)
        await process.end(0)

    async def close(self) -> None:
        """End the child: within :data:`CLOSE_LIMIT_S` by itself, else by force."""
        self._closed = True
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait((self._loading,))
        process, self._process = self._process, None
        if process is not None:
            await process.end(CLOSE_LIMIT_S)

    async def _load(self) -> ModelProcess:
        process: ModelProcess | None = None
        try:
            process = await ModelProcess.start(self._settings)
            async with asyncio.timeout(LOAD_LIMIT_S):
                report = await process.receive()
            match report:
                case Ready():
                    self._process = process
                    self._load_failure = None
                    if self._deaths:
                        self._notify(
                            f"The model process of pool {self._pool!r} runs again (pid {process.pid})."
                        )
                    return process
                case LoadFailed(fault=fault, message=message):
                    raise self._load_failed(f"{message}; {_HINTS[Fault(fault)]}")
                case _:
                    raise ProcessDiedError(f"spoke out of turn ({type(report).__name__})")
        except OSError as error:
            if not isinstance(error, TimeoutError):
                raise self._load_failed(f"the model process can't be started: {error}") from error
            self._count_death(how := f"did not load the model within {LOAD_LIMIT_S:.0f} s")
            raise failed(
                ErrorCategory.TIMEOUT, f"the model process {how}", phase=TimeoutPhase.CONNECT
            ) from error
        except ProcessDiedError as died:
            self._count_death(how := f"{died} while it loaded {self._settings.model_path}")
            raise failed(
                ErrorCategory.API_FAILURE, f"the model process {how}", hint=_HINTS[Fault.MODEL]
            ) from died
        finally:
            self._loading = None
            if process is not None and process is not self._process:
                await process.end(0)

    def _load_failed(self, message: str) -> ProviderError:
        file = fingerprint(Path(self._settings.model_path))
        self._load_failure = LoadFailure(message, file, self._clock.monotonic())
        return failed(ErrorCategory.API_FAILURE, message)

    def _count_death(self, how: str) -> None:
        self._deaths += 1
        self._last_death = how
        beyond = self._deaths - RESTARTS_AT_ONCE
        then = "the next request starts it again"
        if beyond > 0:
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(beyond - 1, 16))
            self._paused_until = self._clock.monotonic() + pause
            then = f"that is {self._deaths} deaths in a row, so it rests for {pause:.0f} s"
        self._notify(f"The model process of pool {self._pool!r} {how}; {then}.")

    def _check_pause(self) -> None:
        left = self._paused_until - self._clock.monotonic()
        if self._deaths > RESTARTS_AT_ONCE and left > 0:
            raise failed(
                ErrorCategory.API_FAILURE,
                f"the model process died {self._deaths} times in a row, the last time it {self._last_death}; "
                f"it is started again in {left:.0f} s at the earliest",
                retry_after_s=left,
                hint="try a smaller model or context_tokens if memory is short",
            )


def fingerprint(path: Path) -> Fingerprint | None:
    """Identify the file at ``path`` without reading it; None if there is no regular file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns) if path.is_file() else None


def available_threads() -> int:
    """Threads for the computation: the cores that this process may use, less one for the console."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)


def failed(
    category: ErrorCategory,
    message: str,
    *,
    hint: str = "",
    context_overflow: bool = False,
    retry_after_s: float | None = None,
    phase: TimeoutPhase | None = None,
) -> ProviderError:
    """The error to raise, with its message fit to be shown."""
    return ProviderError(
        Failure(
            category,
            redact(message)[:_MESSAGE_LENGTH],
            hint=hint,
            context_overflow=context_overflow,
            retry_after_s=retry_after_s,
            phase=phase,
        )
    )


def closed() -> ProviderError:
    """The error of calls that come when, or are still waiting while, the provider is closed."""
    return failed(ErrorCategory.TRANSIENT_ERROR, "the local provider was closed")
