"""``smartfallback chat``."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smartfallback.cli import exit_codes
from smartfallback.cli.chat_json import ended, failed, misconfigured, replied
from smartfallback.cli.opening import find_and_load
from smartfallback.cli.terminal import (
    CommandError,
    answer,
    answer_json,
    expected,
    one_line,
    run_async,
    tell,
)
from smartfallback.config import (
    ConfigError,
    RedisUrlError,
    choose_state,
    default_config_path,
    open_stores,
)
from smartfallback.config.mistakes import nearest, one_of
from smartfallback.model.events import (
    AnswerResumed,
    AttemptFailed,
    Delta,
    Event,
    RequestDegraded,
    RequestEvent,
    RequestFinished,
    RequestQueued,
    RequestReplayed,
    StateNotice,
)
from smartfallback.model.outcomes import AttemptResult, RequestError
from smartfallback.model.requests import Origin, Request

if TYPE_CHECKING:
    from pathlib import Path

    from smartfallback.config import LoadedConfig, Stores
    from smartfallback.engine.bus import Subscription
    from smartfallback.engine.orchestrator import Orchestrator
    from smartfallback.model.outcomes import AttemptRecord
    from smartfallback.model.requests import Reply
    from smartfallback.model.specs import SystemSpec


def ask(
    prompt: str,
    *,
    chain: str | None,
    config: Path | None,
    demo: bool,
    redis_url: str | None = None,
    as_json: bool,
) -> int:
    """Ask one question and write the answer.

    With ``as_json`` exactly one object is written, however it ends; only a reader who went away gets none.

    Raises:
        CommandError: The prompt or the chain can't be used.
    """
    result = _Result(wanted=as_json)
    try:
        return _ask(prompt, chain, config, redis_url, demo=demo, result=result)
    except CommandError as error:
        result.write(ended("usage" if error.exit_code == exit_codes.MISUSED else "internal", str(error)))
        raise
    except KeyboardInterrupt:
        result.write(ended("cancelled", "cancelled with Ctrl+C"))
        raise
    except BrokenPipeError:
        raise
    except Exception as error:
        result.write(ended("internal", one_line(f"{type(error).__name__}: {error}")))
        raise


class _Result:
    """The one JSON object of a command; ``wanted`` is false when people read the answer instead."""

    def __init__(self, *, wanted: bool) -> None:
        self.wanted = wanted

    def write(self, value: dict[str, object]) -> None:
        if self.wanted:
            self.wanted = False
            answer_json(value)


def _ask(
    prompt: str,
    chain: str | None,
    config: Path | None,
    redis_url: str | None,
    *,
    demo: bool,
    result: _Result,
) -> int:
    if demo and config is not None:
        raise CommandError("Use either --demo or --config, not both.", exit_codes.MISUSED)
    text = _prompt(prompt)
    loaded: LoadedConfig | None = None
    if not demo:
        try:
            loaded = find_and_load(config)
        except ConfigError as error:
            result.write(misconfigured(error))
            tell(str(error))
            return exit_codes.MISUSED
        if loaded is None:
            tell(
                f"No configuration at {default_config_path()}: the simulated demo answers. "
                'Write a configuration with "smartfallback init".'
            )
        else:
            for warning in loaded.warnings:
                tell(f"Warning: {warning}")
    try:
        state = choose_state(None if loaded is None else loaded.state, redis_url)
    except RedisUrlError as error:
        raise CommandError(str(error), exit_codes.MISUSED) from None
    spec = None if loaded is None else loaded.spec
    return run_async(lambda: _converse(text, chain, spec, open_stores(state, keep=spec is not None), result))


def _prompt(prompt: str) -> str:
    if prompt == "-":
        try:
            prompt = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise CommandError("Standard input is not UTF-8 text.", exit_codes.MISUSED) from None
        except OSError:
            raise CommandError("Standard input can't be read.", exit_codes.MISUSED) from None
    if not prompt.strip():
        raise CommandError("The prompt is empty: there is nothing to ask.", exit_codes.MISUSED)
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise CommandError("The prompt is not valid text.", exit_codes.MISUSED) from None
    return prompt


async def _converse(
    text: str, chain: str | None, spec: SystemSpec | None, stores: Stores, result: _Result
) -> int:
    transcript = _Transcript(show=not result.wanted)
    try:
        return await _hold(text, chain, spec, stores, transcript, result)
    except asyncio.CancelledError:
        result.write(
            ended(
                "cancelled",
                "cancelled by a signal",
                request_id=transcript.request_id,
                chain=transcript.chain,
                text=transcript.text,
                simulated=spec is None,
            )
        )
        raise


async def _hold(
    text: str,
    chain: str | None,
    spec: SystemSpec | None,
    stores: Stores,
    transcript: _Transcript,
    result: _Result,
) -> int:
    async with AsyncExitStack() as stack:
        orchestrator: Orchestrator
        if spec is None:
            from smartfallback.simulation.demo import demo

            shares = demo(shared=stores.shared, sharing=stores.sharing)
            orchestrator = (await stack.enter_async_context(shares)).orchestrator
        else:
            from smartfallback.engine.orchestrator import Orchestrator as Engine

            engine = Engine(spec, store=stores.store, shared=stores.shared, sharing=stores.sharing)
            events_of_all = engine.subscribe()
            stack.callback(_tell_notices, events_of_all)
            orchestrator = await stack.enter_async_context(engine)
        request = Request.ask(text, chain=_chain(orchestrator.spec, chain), origin=Origin.CHAT)
        transcript.chain = request.chain
        try:
            async with aclosing(orchestrator.stream(request)) as events:
                async for event in events:
                    transcript.take(event)
        except RequestError as error:
            transcript.end_line()
            if result.wanted:
                result.write(failed(error, request.chain, simulated=orchestrator.spec.simulated))
            else:
                _tell_failure(error)
            return exit_codes.FAILED
        except BaseException:
            transcript.end_line()
            raise
        reply = transcript.reply
        if reply is None:
            raise CommandError("The answer ended without a result.", exit_codes.FAILED)
        transcript.end_line()
        if result.wanted:
            result.write(replied(reply, request.chain, simulated=orchestrator.spec.simulated))
        else:
            _tell_who_answered(reply, simulated=orchestrator.spec.simulated)
        return exit_codes.DONE


def _tell_notices(events: Subscription) -> None:
    """What the operator should know about how state is kept; called when all is closed."""
    for event in events.drain()[0]:
        if isinstance(event, StateNotice):
            tell(one_line(event.message))


def _chain(spec: SystemSpec, named: str | None) -> str:
    names = [chain.name for chain in spec.chains]
    if named is None:
        if "default" in names or not names:
            return "default"
        if len(names) == 1:
            return names[0]
        raise CommandError(f"Name a chain with --chain: {one_of(names)}.", exit_codes.MISUSED)
    if named not in names:
        closest = nearest(named, names)
        raise CommandError(
            f"There is no chain {one_of([named])}{f'; {closest}' if closest else '.'} "
            f"The chains are {one_of(names)}.",
            exit_codes.MISUSED,
        )
    return named


@dataclass(slots=True)
class _Transcript:
    """Writes an answer while it comes. ``show`` is false when only the whole is wanted."""

    show: bool
    chain: str | None = None
    request_id: str | None = None
    reply: Reply | None = None
    _pieces: list[str] = field(default_factory=list)
    _open_line: bool = field(default=False)

    @property
    def text(self) -> str:
        """What has come of an answer that is not shown."""
        return "".join(self._pieces)

    def take(self, event: Event) -> None:
        if isinstance(event, RequestFinished):
            self.reply = event.reply
        if not self.show:
            if isinstance(event, RequestEvent):
                self.request_id = event.request_id
            if isinstance(event, Delta):
                self._pieces.append(event.text)
            return
        # Writing may wait for a slow reader. This loop has nothing else to do meanwhile, and
        # waiting here is what slows the upstream down.
        if isinstance(event, Delta):
            answer(event.text)
            if event.text:
                self._open_line = not event.text.endswith("\n")
            return
        told = _told(event)
        if told:
            if self._open_line and sys.stdout.isatty():
                tell("")  # the answer may go on in the middle of a line, so only the screen gets a new one
            tell(one_line(told))

    def end_line(self) -> None:
        if self._open_line:
            self._open_line = False
            answer("\n")


def _told(event: Event) -> str:
    """What people are told of an event while the answer comes; empty for most."""
    match event:
        case AttemptFailed():
            return f"{event.account}: {event.failure}; then {event.then.value}"
        case RequestDegraded():
            return f"Degraded: {event.degradation.detail}"
        case AnswerResumed(seam=seam):
            removed = f", {seam.overlap} repeated characters left out" if seam.overlap else ""
            return f"Broke off at {seam.broken} after {seam.at} characters; {seam.resumed} goes on{removed}."
        case RequestQueued():
            until = expected(event.expires_at, time.time())
            return f"Queued at place {event.place}: {event.failure}; given up {until}."
        case RequestReplayed():
            return f"Out of the queue after {event.waited_s:.0f} s."
        case _:
            return ""


def _tell_who_answered(reply: Reply, *, simulated: bool) -> None:
    usage = reply.usage
    about = "about " if usage.estimated else ""
    cost = "" if reply.cost is None else f", ${reply.cost:.6f}"
    tell(
        one_line(
            f"{'Simulated: ' if simulated else ''}{reply.account} answered "
            f"({reply.pool}, {reply.model}) in {reply.latency_s:.2f} s, "
            f"{about}{usage.input_tokens} + {usage.output_tokens} tokens{cost}."
        )
    )
    if reply.cached_age_s is not None:
        tell(f"This is an earlier answer, {reply.cached_age_s:.0f} s old: nobody can answer now.")
    before = [record for record in reply.attempts if record.result is not AttemptResult.SUCCESS]
    if before:
        tell("Tried before:")
        for record in before:
            tell(_attempt(record))


def _tell_failure(error: RequestError) -> None:
    head = "The answer broke off" if error.partial else "No answer"
    tell(one_line(f"{head}: {error.failure}"))
    if error.failure.hint:
        tell(one_line(f"Do: {error.failure.hint}"))
    if error.attempts:
        tell("Tried:")
        for record in error.attempts:
            tell(_attempt(record))
    if error.skipped:
        tell("Not tried:")
        for skipped in error.skipped:
            tell(f"  {one_line(skipped)}")
    if error.next_available_at is not None:
        tell(f"The next account is expected back {expected(error.next_available_at, time.time())}.")


def _attempt(record: AttemptRecord) -> str:
    why = str(record.failure) if record.failure else record.result.value
    return "  " + one_line(
        f"{record.number}. {record.account} ({record.pool}, {record.model}), {record.latency_s:.2f} s: {why}"
    )
