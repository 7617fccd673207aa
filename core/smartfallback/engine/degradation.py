"""In what way an answer is less than what was asked for, and how a conversation is shortened."""

from __future__ import annotations

from smartfallback.engine.grant import Grant
from smartfallback.engine.roster import Chain
from smartfallback.model.decisions import Tier
from smartfallback.model.requests import Degradation, DegradationKind, Message, Request, Role


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


def degradations(
    request: Request, sent: tuple[Message, ...], chain: Chain, grant: Grant
) -> tuple[Degradation, ...]:
    """What the answer of ``grant`` to the messages ``sent`` lacks of what ``request`` asked for."""
    found = []
    left_out = len(request.messages) - len(sent)
    if left_out:
        found.append(Degradation(DegradationKind.TRIMMED_HISTORY, f"{left_out} earlier messages left out"))
    position = chain.pools.index(grant.pool) if grant.pool in chain.pools else 0
    if position:
        kind = DegradationKind.LOCAL_MODEL if grant.pool.is_local else DegradationKind.FALLBACK_POOL
        found.append(Degradation(kind, f"answered by {grant.pool.name}, step {position + 1} of {chain.name}"))
    if grant.decision.tier is Tier.RESERVE:
        found.append(
            Degradation(DegradationKind.RESERVE_QUOTA, f"{grant.account.id} spends its reserve quota")
        )
    return tuple(found)
