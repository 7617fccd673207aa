"""In what way an answer is less than what was asked for, and how a conversation is shortened."""

from __future__ import annotations

from dataclasses import replace

from smartfallback.engine.grant import Grant
from smartfallback.engine.roster import Chain
from smartfallback.engine.walk import Walk
from smartfallback.model.decisions import Tier
from smartfallback.model.outcomes import AttemptRecord
from smartfallback.model.requests import Degradation, DegradationKind, Message, Reply, Role, Seam, Usage


def trimmed(messages: tuple[Message, ...]) -> tuple[Message, ...] | None:
    """The conversation without the older half of its turns; None when nothing can be left out.

    System messages and the last message always stay; what is left begins with a user's turn.
    """
    system = tuple(message for message in messages if message.role is Role.SYSTEM)
    turns = tuple(message for message in messages if message.role is not Role.SYSTEM)
    if len(turns) < 2:
        return None
    kept = turns[(len(turns) + 1) // 2 :]
    while len(kept) > 1 and kept[0].role is not Role.USER:
        kept = kept[1:]
    return system + kept


def degradations(walk: Walk, chain: Chain, grant: Grant) -> tuple[Degradation, ...]:
    """What the answer of ``grant`` lacks of what the walk's request asked for."""
    found = []
    request = walk.request
    left_out = len(request.messages) - len(walk.conversation)
    if left_out:
        found.append(Degradation(DegradationKind.TRIMMED_HISTORY, f"{left_out} earlier messages left out"))
    most = walk.most_output_tokens
    if most is not None and most != request.max_output_tokens and not walk.continues:
        found.append(Degradation(DegradationKind.SHORTER_ANSWER, f"at most {most} tokens"))
    if grant.cheaper:
        detail = f"{grant.model} instead of {grant.pool.spec.model}"
        found.append(Degradation(DegradationKind.CHEAPER_MODEL, detail))
    position = chain.pools.index(grant.pool) if grant.pool in chain.pools else 0
    if position:
        kind = DegradationKind.LOCAL_MODEL if grant.pool.is_local else DegradationKind.FALLBACK_POOL
        found.append(Degradation(kind, f"answered by {grant.pool.name}, step {position + 1} of {chain.name}"))
    if grant.decision.tier is Tier.RESERVE:
        found.append(
            Degradation(DegradationKind.RESERVE_QUOTA, f"{grant.account.id} spends its reserve quota")
        )
    return tuple(found)


def with_seams(found: tuple[Degradation, ...], seams: tuple[Seam, ...]) -> tuple[Degradation, ...]:
    """The degradations of an answer that was put together at ``seams``."""
    if not seams:
        return found
    parts = " → ".join([seams[0].broken, *(seam.resumed for seam in seams)])
    return (*found, Degradation(DegradationKind.CONTINUED, f"broke off and was continued: {parts}"))


def cached_answer(
    reply: Reply,
    age_s: float,
    request_id: str,
    attempts: tuple[AttemptRecord, ...],
    latency_s: float,
    queued_s: float,
) -> Reply:
    """An earlier reply, as the answer to an equal request that nobody could serve."""
    detail = f"the answer that {reply.account} gave {_age(age_s)} ago"
    return replace(
        reply,
        request_id=request_id,
        usage=Usage(),
        attempts=attempts,
        latency_s=latency_s,
        first_token_s=None,
        cost=None if reply.cost is None else 0.0,
        degradations=(Degradation(DegradationKind.CACHED, detail),),
        cached_age_s=age_s,
        queued_s=queued_s,
    )


def _age(seconds: float) -> str:
    for unit, length in (("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
