"""The ``copilot`` provider: GitHub Copilot through its official command-line tool.

Each call runs ``copilot -p PROMPT -s [--model NAME]`` (or, with a prompt that fits no argument, ``copilot
-s`` with the prompt as its input) in an empty folder of its own. The tool is given no permissions, so
it can use no tools that would need one. It reports no token counts, and takes neither a temperature nor
a limit for its answer.

Protocol: https://docs.github.com/en/copilot/reference/copilot-cli-reference/cli-programmatic-reference,
tried with version 1.0.102.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from smartfallback.clock import Clock
from smartfallback.model.outcomes import ErrorCategory, Failure, ProviderError, TimeoutPhase
from smartfallback.model.specs import AccountSpec, PoolSpec
from smartfallback.providers import copilot_prompt
from smartfallback.providers.base import Call, Chunk, Provider
from smartfallback.providers.copilot_errors import INSTALL, Ending
from smartfallback.providers.copilot_output import GarbledError, OutputText
from smartfallback.providers.copilot_tool import ToolEnvironment, ToolLocator, environment, secrets_in
from smartfallback.providers.http_errors import clean, hint_for, malformed
from smartfallback.providers.subprocess_stream import CommandStream, SilenceError

if TYPE_CHECKING:
    from smartfallback.providers.http_client import WrapTransport

SILENCE_LIMIT_S: Final = 600.0
"""The longest wait for the next output. The engine's limits are shorter; this one ends a tool that hangs
when the last candidate, which is never cut off by a first-token time-out, waits for it."""

GRACE_S: Final = 1.0
"""How long a tool that is told to end may take before it is killed."""

_NO_ROOM: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC})
"""Failures to start that say something about this machine's load and nothing about the tool."""


class CopilotProvider:
    """Runs the tool for each call, as a :class:`~smartfallback.providers.base.Provider`.

    While the tool is missing, accounts with a ``base_url`` are served there in the OpenAI dialect.

    Args:
        pool: ``command`` is the tool if it is not the ``copilot`` on the search path; accounts
            without an ``api_key`` use the login that the tool itself has.
        clock: For the dates of stated resets and the age of findings.
        silence_limit_s: The longest wait for the next output.
        grace_s: How long a tool that is told to end may take before it is killed.
        wrap: Put around each HTTP transport of the API that answers in the tool's place.
        tool: Where the tool is; by default, wherever the pool's ``command`` is found.
    """

    def __init__(
        self,
        pool: PoolSpec,
        clock: Clock,
        *,
        silence_limit_s: float = SILENCE_LIMIT_S,
        grace_s: float = GRACE_S,
        wrap: WrapTransport | None = None,
        tool: ToolLocator | None = None,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._silence_limit_s = silence_limit_s
        self._grace_s = grace_s
        self._tool = tool or ToolLocator(pool.command, clock)
        self._wrap = wrap
        self._api: Provider | None = None
        self._running: dict[CommandStream, Path] = {}
        self._endings: set[asyncio.Task[None]] = set()

    def unavailable(self) -> str:
        """Why the pool can't answer here and what to do about it; empty when it can."""
        if self._tool.find() is not None or any(map(self._has_api, self._pool.accounts)):
            return ""
        return self._missing()

    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Answer ``call``. See :meth:`smartfallback.providers.base.Provider.stream`."""
        tool = self._tool.find()
        if tool is None:
            async with aclosing(self._served_by_api(call)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        env = _environment(call.account)
        folder = _private_folder()
        try:
            run = await self._start(call, tool, env, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._running[run] = folder
        try:
            output = OutputText()
            whole: list[str] = []
            while data := await self._read(run, output, call.account):
                text = self._understood(output, data, call.account)
                if text and call.stream:
                    yield Chunk(text)
                elif text:
                    whole.append(text)
            code = await run.exit_code()
            rest = self._understood(output, None, call.account) if code == 0 else ""
            if code != 0 or output.held.strip() or not output.characters:
                raise ProviderError(self._ending(call, env, code, run, output).failure())
            yield Chunk("".join((*whole, rest)), "stop")
        finally:
            self._running.pop(run, None)
            # The caller need not wait until the tool has gone; aclose does.
            run.ask_to_end()
            self._end(run, folder)

    async def aclose(self) -> None:
        """End all that still runs, by force if it must be, and wait until it is gone. Safe to call twice."""
        for run, folder in self._running.items():
            self._end(run, folder)
        if self._endings:
            await asyncio.wait(self._endings)
        if self._api is not None:
            await self._api.aclose()

    async def _start(
        self, call: Call, tool: tuple[str, ...], env: ToolEnvironment, folder: Path
    ) -> CommandStream:
        prompt = copilot_prompt.encode(copilot_prompt.render(call.messages))
        argv = [*tool]
        by_argument = copilot_prompt.fits_argument(prompt)
        if by_argument:
            # With -p the tool reads no input, and without it nothing else: the two don't mix.
            argv += ["-p", prompt.decode()]
        argv.append("-s")
        if call.model:
            # As one argument, so that no name can be taken for another option.
            argv.append(f"--model={call.model}")
        try:
            return await CommandStream.start(
                argv,
                folder=folder,
                env=env,
                stdin=None if by_argument else prompt,
                silence_limit_s=self._silence_limit_s,
            )
        except OSError as error:
            self._tool.forget()
            raise ProviderError(self._not_started(error)) from error
        except ValueError:
            message = "the model's name or the command holds a character that no argument can carry"
            raise ProviderError(Failure(ErrorCategory.INVALID_REQUEST, message)) from None

    async def _read(self, run: CommandStream, output: OutputText, account: AccountSpec) -> bytes:
        try:
            return await run.read()
        except SilenceError:
            phase = TimeoutPhase.IDLE if output.characters else TimeoutPhase.FIRST_TOKEN
            message = clean(f"copilot was silent for {self._silence_limit_s:g} s on account {account.id}")
            raise ProviderError(Failure(ErrorCategory.TIMEOUT, message, phase=phase)) from None

    def _understood(self, output: OutputText, data: bytes | None, account: AccountSpec) -> str:
        try:
            return output.finish() if data is None else output.feed(data)
        except GarbledError as error:
            raise ProviderError(malformed(f"copilot {error}", account)) from None

    def _ending(
        self, call: Call, env: ToolEnvironment, code: int | None, run: CommandStream, output: OutputText
    ) -> Ending:
        # Text that was let through is the answer's; only what was held back may be a complaint.
        words = f"{run.errors}\n{output.held}"
        return Ending(
            code, words, output.characters, call.account, call.model, secrets_in(env), self._clock.time()
        )

    def _end(self, run: CommandStream, folder: Path) -> None:
        task = asyncio.create_task(self._bury(run, folder))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _bury(self, run: CommandStream, folder: Path) -> None:
        try:
            await run.bury(self._grace_s)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _missing(self) -> str:
        if self._pool.command:
            return clean(
                f"{self._tool.program} is not there or can't be run: check command of pool {self._pool.name}"
            )
        return (
            f"Copilot's command-line tool is not installed: run {INSTALL}, then copilot and /login; "
            "or set base_url to an API that answers in its place"
        )

    def _not_started(self, error: OSError) -> Failure:
        reason = error.strerror or type(error).__name__
        if error.errno in _NO_ROOM:
            return Failure(ErrorCategory.TRANSIENT_ERROR, clean(f"copilot could not be started: {reason}"))
        return Failure(
            ErrorCategory.API_FAILURE,
            clean(f"{self._tool.program} can't be run: {reason}"),
            hint=clean(f"the tool is gone or broken: {INSTALL}"),
        )

    def _has_api(self, account: AccountSpec) -> bool:
        return bool(account.base_url or self._pool.base_url)

    def _served_by_api(self, call: Call) -> AsyncGenerator[Chunk, None]:
        # Without an own address the key must not travel: the dialect's default host is another company's.
        if not self._has_api(call.account):
            raise ProviderError(Failure(ErrorCategory.API_FAILURE, self._missing(), hint=INSTALL))
        if self._api is None:
            from smartfallback.providers.openai import OpenAIProvider

            self._api = OpenAIProvider(self._pool, self._clock, self._wrap)
        return self._api.stream(call)


def _environment(account: AccountSpec) -> ToolEnvironment:
    """The tool's environment.

    Raises:
        ProviderError: The account's key can't be a variable's value.
    """
    env = environment(account, os.environ)
    if account.api_key is not None and not _usable(env["GH_TOKEN"]):
        raise ProviderError(
            Failure(
                ErrorCategory.AUTHENTICATION,
                clean(f"the key of account {account.id} is empty or holds characters that no key has"),
                hint=hint_for(ErrorCategory.AUTHENTICATION, account),
            )
        )
    return env


def _usable(key: str) -> bool:
    return bool(key) and key.isascii() and key.isprintable()


def _private_folder() -> Path:
    """A new, empty folder that only this user can enter.

    Raises:
        ProviderError: There is no room for one.
    """
    try:
        return Path(tempfile.mkdtemp(prefix="smartfallback-copilot-"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ProviderError(
            Failure(ErrorCategory.TRANSIENT_ERROR, clean(f"no temporary folder for copilot: {reason}"))
        ) from error
