"""A turn in words: where it is, who answered, what was tried, why it failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from textual.content import Content

from smartfallback import DegradationKind, NextStep
from smartfallback_console.course import QUEUE_SIGN, Outcome, Role, in_words
from smartfallback_console.formatting import cell_len, clean, clock_time, count, duration, fit, latency, span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from smartfallback import Failure, Seam
    from smartfallback_console.chat.conversation import Turn
    from smartfallback_console.course import Hop, Step

MUTED = "$foreground 62%"
GOOD = "$success"
BAD = "$error"
WARNING = "$warning"
STRONG = "bold"
NAME_CELLS = 24
PATH_HOPS = 6
"""Attempts shown in a path; of a longer one the middle is counted."""
SHORTEST_PATH = 2
"""So many are shown however little room there is, one of them as a number."""
SHOWN_SKIPS = 6
SEAM_CAUSE = 80
"""Characters of the reason that stand in the text of an answer; the details have it whole."""
TOLD_APART = (DegradationKind.CONTINUED, DegradationKind.CACHED)
"""Degradations that are told in words of their own."""


class Piece(NamedTuple):
    """Text of one style."""

    text: str
    style: str = ""


Group = tuple[Piece, ...]
"""Pieces that stay on one line."""


def name(text: str) -> str:
    """A name from outside, safe and short."""
    text = clean(text)
    return text if cell_len(text) <= NAME_CELLS else fit(text, NAME_CELLS)


def path(turn: Turn, room: int = 10_000) -> Group:
    """``ag-1 ✗429 → ag-3 ✓``; of one longer than ``room`` cells the middle is only counted."""
    steps = turn.steps()
    pieces: Group = ()
    for shown in range(min(PATH_HOPS, len(steps)), 0, -1):
        pieces = _path(steps, shown)
        if sum(cell_len(piece.text) for piece in pieces) <= room or shown <= SHORTEST_PATH:
            break
    return pieces


def _path(all_steps: list[Step], shown: int) -> Group:
    pieces: list[Piece] = []
    steps: list[Step | None] = list(all_steps)
    left_out = 0
    if len(steps) > shown:
        head = (shown - 1) // 2
        tail = max(1, shown - 1 - head)
        left_out = len(steps) - head - tail
        steps = [*steps[:head], None, *steps[-tail:]]
    for step in steps:
        if step is None:
            pieces.append(Piece(f"{' → ' if pieces else ''}{left_out} more", MUTED))
            continue
        if step.joint:
            pieces.append(Piece(step.joint, MUTED))
        who = name(step.name)
        match step.role:
            case Role.FAILED | Role.MOVED:
                tone = WARNING if step.role is Role.MOVED else BAD
                pieces += [Piece(f"{who} ", MUTED), Piece(f"✗{step.mark}", tone)]
            case Role.OUTRUN:
                pieces.append(Piece(f"{who} {step.mark}", MUTED))
            case Role.ANSWERED:
                pieces += [Piece(who, STRONG), Piece(" ✓", GOOD)]
            case Role.CACHE:
                pieces += [Piece(who, STRONG), Piece(" ✓", GOOD), Piece(f" {step.mark}", WARNING)]
            case Role.CANCELLED:
                pieces += [Piece(who, MUTED), Piece(" ∅", MUTED)]
            case Role.WAITED | Role.WAITS:
                pieces.append(Piece(who, MUTED))
            case _:
                pieces += [Piece(who, STRONG), Piece(" …", MUTED)]
    return tuple(pieces)


def status(turn: Turn, now: float, spinner: str, *, epoch: float, place: int | None = None) -> Content:
    """Where a running request is, for the line under it.

    Args:
        turn: The turn.
        now: Monotonic seconds.
        spinner: The sign that moves.
        epoch: Epoch seconds, for how long it may wait yet.
        place: Its place in the queue now, None when nobody knows.
    """
    tried = [hop for hop in turn.hops if hop.failure is not None or hop.diverted]
    asked = turn.open_hops
    pieces = [Piece(f"{spinner} ", "$primary")]
    if turn.outcome is Outcome.QUEUED:
        pieces += _queued(turn, epoch, place)
    elif not asked:
        pieces.append(Piece("choosing the next account" if tried else "choosing an account", MUTED))
    elif _resuming(turn):
        pieces += [Piece("asking ", MUTED), Piece(name(asked[-1].account), STRONG)]
        pieces.append(Piece(" to go on with the answer", MUTED))
    elif turn.has_text:
        pieces += [Piece(name(asked[-1].account), STRONG), Piece(" answers", MUTED)]
    else:
        pieces += [Piece("waiting for ", MUTED), Piece(name(asked[0].account), STRONG)]
        if len(asked) > 1:
            pieces += [Piece(" and beside it ", MUTED), Piece(name(asked[-1].account), STRONG)]
    pieces.append(Piece(f" · {duration(turn.elapsed(now))}", MUTED))
    if turn.characters:
        pieces.append(Piece(f" · {count(turn.characters)} characters", MUTED))
    if tried:
        several = len(tried) > 3
        pieces.append(Piece(f" · tried {len(tried)}, last " if several else " · tried ", MUTED))
        for index, hop in enumerate(tried[-1:] if several else tried):
            pieces += [Piece((", " if index else "") + name(hop.account), MUTED), Piece(f" ✗{hop.mark}", BAD)]
    if turn.degradations:
        pieces.append(Piece(f" · ▽ {clean(in_words(turn.degradations[-1]))}", WARNING))
    return content(pieces)


def _resuming(turn: Turn) -> bool:
    """Whether the answer has broken off and nobody has gone on with it yet."""
    broken = sum(1 for hop in turn.hops if hop.then == NextStep.CONTINUE.value)
    return turn.has_text and broken > len(turn.seams)


def _queued(turn: Turn, epoch: float, place: int | None) -> list[Piece]:
    """It waits: at which place, until when, and how to give up."""
    wait = turn.waiting
    pieces = [Piece(f"{QUEUE_SIGN} waits in the queue", "$accent")]
    place = place or (wait.place if wait is not None else 0)
    if place:
        pieces.append(Piece(f", place {place}", STRONG))
    if wait is not None and wait.expires_at is not None:
        left = duration(max(0.0, wait.expires_at - epoch))
        pieces.append(Piece(f", until {clock_time(wait.expires_at)} ({left} left)", MUTED))
    pieces.append(Piece(" · esc gives up", MUTED))
    return pieces


def seam(told: Seam) -> Content:
    """The mark in the text where an answer broke off and another account went on."""
    cause = clean(told.cause)
    why = f" ({cause if len(cause) <= SEAM_CAUSE else cause[:SEAM_CAUSE] + '…'})" if cause else ""
    return content(
        [
            Piece(f"— broke off at {name(told.broken)}{why} · continued by ", WARNING),
            Piece(name(told.resumed), f"bold {WARNING}"),
            Piece(" —", WARNING),
        ]
    )


def summary(turn: Turn, room: int = 10_000) -> list[Group]:
    """The footer of an ended turn in lines of ``room`` cells, as groups in the order of importance."""
    groups: list[Group] = []
    reply = turn.reply
    if turn.hops or turn.waits or reply is not None:
        groups.append(path(turn, room))
    if turn.cut:
        groups.append((Piece(f"the last {count(turn.cut)} characters are not kept", WARNING),))
    if reply is None:
        if turn.ended_at is not None:
            groups.append((Piece(latency(turn.ended_at - turn.started_at), MUTED),))
        return groups
    if turn.cached_age_s is not None:
        said = f"▽ cached: {name(reply.account)} gave this {duration(turn.cached_age_s)} ago"
        groups.append((Piece(said, WARNING),))
    for told in turn.seams:
        said = f"▽ continued by {name(told.resumed)} at {count(told.at)} characters"
        groups.append((Piece(said, WARNING),))
    groups.append((Piece(name(reply.pool), MUTED),))
    if reply.model and reply.model != reply.pool:
        groups.append((Piece(name(reply.model), MUTED),))
    times = f"{latency(reply.latency_s)}"
    if reply.first_token_s is not None:
        times = f"{latency(reply.first_token_s)} first, {times}"
    groups.append((Piece(times, MUTED),))
    if reply.queued_s:
        groups.append((Piece(f"{duration(reply.queued_s)} in the queue", MUTED),))
    usage = reply.usage
    about = "~" if usage.estimated else ""
    if turn.cached_age_s is None:
        spent = f"{about}{count(usage.input_tokens)}+{count(usage.output_tokens)} tok"
        groups.append((Piece(spent, MUTED),))
    if reply.cost is not None:
        groups.append((Piece(money(reply.cost), MUTED),))
    if reply.finish_reason not in ("", "stop"):
        groups.append((Piece(f"ended by {name(reply.finish_reason)}", WARNING),))
    if other := [piece for piece in turn.degradations if piece.kind not in TOLD_APART]:
        said = clean("; ".join(in_words(piece) for piece in other))
        groups.append((Piece(f"▽ degraded: {said}", WARNING),))
    return groups


def money(dollars: float) -> str:
    """A cost with two significant digits where it is small."""
    if dollars == 0:
        return "$0"
    if dollars < 0.000_1:
        return "<$0.0001"
    return f"${dollars:.4f}" if dollars < 0.1 else f"${dollars:.2f}"


def flow(groups: Iterable[Group], width: int, lead: Piece) -> list[list[Piece]]:
    """Groups in lines of at most ``width`` cells, each kept whole unless it alone is wider."""
    lines: list[list[Piece]] = []
    indent = cell_len(lead.text)
    used = width + 1
    for group in groups:
        length = sum(cell_len(piece.text) for piece in group)
        if lines and used + 3 + length <= width:
            lines[-1] += [Piece(" · ", MUTED), *group]
            used += 3 + length
        else:
            first = lead if not lines else Piece(" " * indent)
            lines.append([first, *cut(group, width - indent)])
            used = indent + min(length, width - indent)
    return lines


def cut(group: Group, width: int) -> list[Piece]:
    """As much of a group as fits, ending in an ellipsis if it doesn't."""
    kept: list[Piece] = []
    room = width
    for piece in group:
        length = cell_len(piece.text)
        if length > room:
            kept.append(Piece(fit(piece.text, room).rstrip(), piece.style))
            break
        kept.append(piece)
        room -= length
    return kept


def content(pieces: Iterable[Piece]) -> Content:
    """Pieces as one text; nothing in them is parsed as markup."""
    parts: list[str | tuple[str, str]] = []
    for text, style in pieces:
        bare = text.strip(" ")
        start = text.find(bare) if bare else len(text)
        # Blanks need no style, and pictures of the screen keep them only so.
        parts += [text[:start], (bare, style), text[start + len(bare) :]]
    return Content.assemble(*(part for part in parts if part and part[0]))


def details(turn: Turn) -> Content:
    """Every attempt with its reason and what followed, for an opened footer."""
    lines: list[Content] = []
    for number, hop in enumerate(turn.hops, 1):
        lines += _attempt(turn, number, hop)
    lines += [line for told in turn.seams for line in _seam(told)]
    for wait in turn.waits:
        if wait.waited_s is not None:
            lines.append(content([Piece(f"{QUEUE_SIGN}  {duration(wait.waited_s)} in the queue", MUTED)]))
    decision = turn.hops[-1].decision if turn.hops else turn.decision
    if decision is not None and decision.skipped:
        total = len(decision.skipped) + decision.skipped_more
        shown = [f"{clean(skip.name)} {skip.reason.value}" for skip in decision.skipped[:SHOWN_SKIPS]]
        more = f" and {total - len(shown)} more" if total > len(shown) else ""
        lines.append(content([Piece(f"passed over: {', '.join(shown)}{more}", MUTED)]))
    request = turn.request
    earlier = turn.sent_along
    asked = f"chain {clean(request.chain)} · "
    asked += f"{earlier} earlier messages sent along" if earlier else "no earlier messages sent along"
    if request.pin:
        asked += f" · pinned to {name(request.pin)}"
    if request.queue is not None:
        asked += f" · may wait {span(request.queue.expires_s)} in the queue"
    if request.on_break is not None:
        asked += f" · on a break: {request.on_break.value}"
    if request.avoid:
        asked += f" · not by {', '.join(sorted(name(account) for account in request.avoid))}"
    lines.append(content([Piece(asked, MUTED)]))
    if turn.reply is not None:
        lines.append(content([Piece(f"request {clean(turn.reply.request_id)}", MUTED)]))
    return Content("\n").join(lines)


def _attempt(turn: Turn, number: int, hop: Hop) -> list[Content]:
    where = f"  {name(hop.pool)}" + (f", {name(hop.model)}" if hop.model else "")
    took = f"  {latency(hop.latency_s)}" if hop.latency_s is not None else ""
    head = [Piece(f"{number}  ", MUTED), Piece(name(hop.account), STRONG), Piece(where + took, MUTED)]
    lines: list[Content] = []
    if hop.failure is not None:
        lines.append(content([*head, Piece(f"  ✗ {reason(hop.failure)}", BAD)]))
        if hop.then:
            lines.append(content([Piece(f"   then: {hop.then}", MUTED)]))
    elif hop.diverted:
        lines.append(content([*head, Piece(f"  ✗ moved: {clean(hop.diverted)}", WARNING)]))
    elif hop.outrun:
        lines.append(content([*head, Piece(f"  outrun: {name(turn.outrunner(hop))} answered first", MUTED)]))
    else:
        answered = turn.outcome is Outcome.ANSWERED
        lines.append(content([*head, Piece("  ✓ answered", GOOD) if answered else Piece("")]))
    if hop.hedge:
        lines.append(content([Piece("   ∥ hedge: asked beside the attempt before", MUTED)]))
    elif turn.goes_on(number - 1):
        lines.append(content([Piece("   ⇢ went on with the answer that broke off", MUTED)]))
    if hop.decision is not None:
        decision = hop.decision
        score = next((terms.final for terms in decision.considered if terms.account == hop.account), None)
        scored = "" if score is None else f", score {score:.2f}"
        why = f"   chosen by {clean(decision.strategy)}: {decision.rule.value}{scored}"
        lines.append(content([Piece(why, MUTED)]))
    return lines


def _seam(told: Seam) -> list[Content]:
    where = f"⇢  {name(told.broken)} broke off after {told.at:,} characters: {clean(told.cause)}"
    overlap = f"; {told.overlap:,} repeated characters removed" if told.overlap else ""
    return [
        content([Piece(where, WARNING)]),
        content([Piece(f"   continued by {name(told.resumed)}{overlap}", MUTED)]),
    ]


def reason(failure: Failure) -> str:
    """A failure as category, status and the upstream's own words."""
    status_ = f" {failure.http_status}" if failure.http_status else ""
    return f"{failure.category.value.replace('_', ' ')}{status_}: {clean(failure.message)}"


def ending(turn: Turn, epoch: float) -> Content | None:
    """What is to be said below a turn that did not end well; None below one that did.

    Args:
        turn: The turn.
        epoch: The time now in epoch seconds, for how long it is until an account is back.
    """
    lines: list[Content] = []
    written = turn.characters
    if turn.outcome is Outcome.CANCELLED:
        what = (
            f"Cancelled after {count(written)} characters."
            if written
            else "Cancelled before the answer began."
        )
        return content([Piece("∅ ", MUTED), Piece(what, "bold $foreground 75%")])
    if turn.unfinished:
        return content([Piece("∅ ", MUTED), Piece(turn.unfinished, "bold $foreground 75%")])
    if turn.outcome is not Outcome.FAILED:
        return None
    what = f"Broken off after {count(written)} characters." if written else "No answer."
    sentence = turn.problem or (reason(turn.failure) if turn.failure else "")
    lines.append(content([Piece("✕ ", BAD), Piece(what, f"bold {BAD}"), Piece(f" {sentence}")]))
    if turn.failure is not None and turn.failure.hint:
        lines.append(content([Piece(f"  {clean(turn.failure.hint)}", MUTED)]))
    for number, hop in enumerate(turn.hops, 1):
        if hop.failure is None and not hop.diverted:
            continue
        said = reason(hop.failure) if hop.failure else f"moved: {clean(hop.diverted)}"
        lines.append(
            content(
                [Piece(f"  {number}  ", MUTED), Piece(name(hop.account), STRONG), Piece(f" ✗ {said}", MUTED)]
            )
        )
    for skipped in turn.skipped[:SHOWN_SKIPS]:
        lines.append(content([Piece(f"  ·  {clean(skipped)}", MUTED)]))
    if len(turn.skipped) > SHOWN_SKIPS:
        lines.append(content([Piece(f"  ·  and {len(turn.skipped) - SHOWN_SKIPS} more not tried", MUTED)]))
    if turn.next_available_at is not None and turn.next_available_at > epoch:
        wait = turn.next_available_at - epoch
        lines.append(
            content(
                [
                    Piece("  Next account back ", MUTED),
                    Piece(f"at {clock_time(turn.next_available_at)}, in {duration(wait)}", STRONG),
                ]
            )
        )
    return Content("\n").join(lines)
