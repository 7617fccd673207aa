"""A turn of the chat as it is kept over a restart, and back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from smartfallback import (
    ChatAttempt,
    ChatTurn,
    ChatWait,
    Message,
    Origin,
    Request,
    Resumption,
    Role,
    TurnState,
)
from smartfallback_console.chat.conversation import Turn
from smartfallback_console.chat.text import printable
from smartfallback_console.course import Hop, Outcome, Wait

if TYPE_CHECKING:
    from smartfallback import ChatTranscript

STATES = {
    Outcome.ANSWERED: TurnState.ANSWERED,
    Outcome.FAILED: TurnState.FAILED,
    Outcome.CANCELLED: TurnState.CANCELLED,
}
UNFINISHED = {
    TurnState.BROKEN_OFF: "Broken off: the console ended before the answer was complete.",
    TurnState.RUNNING: "Another console waits for this answer.",
}
"""What is said of an answer that this console did not see the end of."""


def to_keep(turn: Turn) -> ChatTurn:
    """The turn as it is kept; while it runs, without what has come of its answer."""
    state = STATES.get(turn.outcome, TurnState.RUNNING)
    request = turn.request
    begun = ChatTurn(
        id=turn.id,
        session=request.session or "",
        asked_at=turn.asked_at,
        prompt=turn.prompt,
        state=state,
        request_id=turn.request_id,
        chain=request.chain,
        pin=request.pin,
        avoid=request.avoid,
        is_retry=turn.is_retry,
        sent_along=turn.sent_along,
    )
    if state is TurnState.RUNNING:
        return begun
    return replace(
        begun,
        answer=turn.text,
        took_s=turn.elapsed(turn.started_at),
        reply=None if turn.reply is None else replace(turn.reply, text="", attempts=()),
        attempts=tuple(_attempt(hop) for hop in turn.hops),
        waits=tuple(ChatWait(wait.after, wait.waited_s) for wait in turn.waits),
        resumptions=tuple(Resumption(at, seam) for at, seam in turn.marks),
        failure=turn.failure,
        problem=turn.problem,
        skipped=turn.skipped,
        next_available_at=turn.next_available_at,
    )


def restored(kept: ChatTurn) -> Turn:
    """A turn that was kept, as one that has ended."""
    request = Request(
        messages=(Message(Role.USER, kept.prompt),),
        chain=kept.chain or "default",
        session=kept.session,
        pin=kept.pin,
        avoid=kept.avoid,
        origin=Origin.CHAT,
    )
    turn = Turn(kept.prompt, request, 0.0, kept.is_retry, id=kept.id, asked_at=kept.asked_at)
    turn.request_id, turn.sent_along = kept.request_id, kept.sent_along
    turn.ended_at = kept.took_s or 0.0
    turn.put(printable(kept.answer))
    turn.marks = [(mark.at, mark.seam) for mark in kept.resumptions]
    turn.hops = [_hop(attempt) for attempt in kept.attempts]
    turn.waits = [Wait(wait.after, 0.0, waited_s=wait.waited_s) for wait in kept.waits]
    turn.seams = [mark.seam for mark in kept.resumptions]
    turn.failure, turn.problem, turn.skipped = kept.failure, kept.problem, kept.skipped
    turn.next_available_at = kept.next_available_at
    turn.cut = kept.cut
    turn.unfinished = UNFINISHED.get(kept.state, "")
    turn.outcome = next((out for out, state in STATES.items() if state is kept.state), Outcome.FAILED)
    if kept.reply is not None:
        turn.reply = replace(kept.reply, text=turn.text)
        turn.answered(turn.reply)
    return turn


def turns_of(transcript: ChatTranscript) -> list[Turn]:
    """All turns of a session, oldest first."""
    return [restored(kept) for kept in transcript.turns]


def _attempt(hop: Hop) -> ChatAttempt:
    return ChatAttempt(
        number=hop.number,
        account=hop.account,
        pool=hop.pool,
        model=hop.model,
        latency_s=hop.latency_s,
        failure=hop.failure,
        diverted=hop.diverted,
        then=hop.then,
        hedge=hop.hedge,
        outrun=hop.outrun,
    )


def _hop(kept: ChatAttempt) -> Hop:
    return Hop(
        account=kept.account,
        pool=kept.pool,
        failure=kept.failure,
        diverted=kept.diverted,
        latency_s=kept.latency_s,
        then=kept.then,
        number=kept.number,
        model=kept.model,
        hedge=kept.hedge,
        outrun=kept.outrun,
    )
