"""A dialog of styled lines, and with it the full story of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from smartfallback_console.changes import NoteEntry
from smartfallback_console.course import KINDS, QUEUE_SIGN, Outcome, in_words
from smartfallback_console.formatting import calendar_date, clean, clock_time, duration, fit, latency
from smartfallback_console.routing import StartEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from textual.app import ComposeResult

    from smartfallback import Decision
    from smartfallback_console.course import Hop, Wait
    from smartfallback_console.routing import Entry, RequestEntry

Piece = tuple[str, str]
"""Text and its style."""

Latest = Callable[[], list[list[Piece]] | None]
"""The lines as they would be now; None when what they tell of is gone."""

DIM = "$foreground 65%"


class DetailsDialog(ModalScreen[None]):
    """Shows lines of styled text; scrolls."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "dismiss", "Close"),
        Binding("ctrl+c", "dismiss", show=False),
        Binding("j", "scroll(1)", "Down", show=False),
        Binding("k", "scroll(-1)", "Up", show=False),
    ]

    DEFAULT_CSS = """
    DetailsDialog {
        align: center middle; background: $background 50%;
        VerticalScroll {
            width: 96; max-width: 98%; height: auto; max-height: 94%; padding: 1 2;
            background: $surface; border: round $primary; border-title-color: $primary;
            border-title-style: bold; border-subtitle-color: $foreground 60%; scrollbar-size: 1 1;
        }
        Static { height: auto; }
    }
    """

    def __init__(self, title: str, lines: list[list[Piece]], *, latest: Latest | None = None) -> None:
        super().__init__()
        self._title = title
        self._lines = lines
        self._latest = latest

    def compose(self) -> ComposeResult:
        """One text."""
        with VerticalScroll() as box:
            box.border_title = clean(self._title).replace("[", "\\[")
            box.border_subtitle = "j k scroll · esc closes"
            yield Static(self._content())

    def _content(self) -> Content:
        return Content("\n").join(
            [
                Content.assemble(*((clean(text), style) for text, style in line)) if line else Content("")
                for line in self._lines
            ]
        )

    def look(self) -> None:
        """Show how it stands now, if it still exists."""
        lines = self._latest() if self._latest is not None else None
        if lines is not None and lines != self._lines:
            self._lines = lines
            self.query_one(Static).update(self._content())

    def action_scroll(self, step: int) -> None:
        """Scroll by lines."""
        self.query_one(VerticalScroll).scroll_relative(y=step, animate=False)


def entry_dialog(entry: Entry, now: Callable[[], float]) -> DetailsDialog:
    """The details of an entry of the routing feed; those of a request are told on while it runs.

    Args:
        entry: The entry.
        now: Epoch seconds of what is on the screen.
    """
    if isinstance(entry, NoteEntry):
        lines: list[list[Piece]] = [
            [(entry.subject, "bold"), (f"  {clock_time(entry.at)}", DIM)],
            [],
            [(entry.text, "")],
        ]
        return DetailsDialog("Change of state", lines)
    if isinstance(entry, StartEntry):
        return DetailsDialog("Before this start", _before(entry))

    def lines_now() -> list[list[Piece]]:
        return list(_request(entry, now()))

    return DetailsDialog(f"Request {entry.request_id}", lines_now(), latest=lines_now)


def _before(entry: StartEntry) -> list[list[Piece]]:
    """What the rule between the starts means."""
    requests = "request" if entry.count == 1 else "requests"
    return [
        [(f"{entry.count} {requests} above the rule", "bold"), (f"  ended before {_moment(entry.at)}", DIM)],
        [],
        [("The latest of those that are kept over a restart. Of each there is the path, how it ended,", "")],
        [("latency, tokens and cost; nothing of what was asked or answered.", "")],
    ]


def _moment(at: float) -> str:
    return f"{calendar_date(at)} {clock_time(at)}"


def _request(entry: RequestEntry, now: float) -> Iterator[list[Piece]]:
    tones = {
        Outcome.ANSWERED: "$success",
        Outcome.FAILED: "$error",
        Outcome.RUNNING: "$primary",
        Outcome.QUEUED: "$accent",
        Outcome.CANCELLED: DIM,
    }
    head: list[Piece] = [(entry.outcome.value, f"bold {tones[entry.outcome]}")]
    came = _moment(entry.at) if entry.before_start else clock_time(entry.at)
    head.append((f"  {entry.origin}, chain {entry.chain or '—'}, {came}", DIM))
    yield head
    facts = [f"latency {latency(entry.latency_s)}"]
    if entry.first_token_s is not None:
        facts.append(f"first token {latency(entry.first_token_s)}")
    if entry.tokens is not None:
        facts.append(f"{entry.tokens} tokens")
    if entry.cost is not None:
        facts.append(f"${entry.cost:.4f}")
    yield [(" · ".join(facts), "")]
    for degradation in entry.degradations:
        kind, said = KINDS[degradation.kind][0], in_words(degradation)
        yield [(f"▽ {kind}", "$warning"), (f": {said}" if said != kind else "", "")]
    if entry.degraded:
        yield [("▽ degraded", "$warning"), (": less than what was asked for", "")]
    for seam in entry.seams:
        repeated = f"; {seam.overlap} repeated characters removed" if seam.overlap else ""
        yield [("⇢ ", "$warning"), (f"broke off at {seam.broken} after {seam.at} characters", "")]
        yield [(f"  {seam.cause}; continued by {seam.resumed}{repeated}", DIM)]
    if entry.cached_age_s is not None:
        yield [("▽ from the cache: ", "$warning"), (f"{entry.cached_from} gave it to an equal request", "")]
        yield [(f"  {duration(entry.cached_age_s)} before", DIM)]
    if entry.error:
        yield [("✗ ", "$error"), (entry.error, "")]
        if entry.hint:
            yield [("  " + entry.hint, DIM)]
        if entry.partial_chars:
            yield [(f"  {entry.partial_chars} characters had been delivered", DIM)]
        if entry.next_available_at is not None:
            yield [(f"  next account back in {duration(entry.next_available_at - now)}", DIM)]
        for skipped in entry.skipped:
            yield [(f"  not tried: {skipped}", DIM)]
    for number, hop in enumerate(entry.hops, 1):
        for wait in entry.waits:
            if wait.after == number - 1:
                yield from _wait(wait, now)
        yield []
        yield from _hop(number, hop, entry)
    for wait in entry.waits:
        if wait.after >= len(entry.hops):
            yield from _wait(wait, now)
    if not entry.hops and entry.decision is not None:
        yield []
        yield from _decision(entry.decision)
    if entry.before_start:
        yield from _kept(entry)


def _kept(entry: RequestEntry) -> Iterator[list[Piece]]:
    """What is known of a request from before the start besides its path, and what is not."""
    if entry.recovery is not None:
        done = ", ".join(action.value.replace("_", " ") for action in entry.recovery.actions) or "nothing"
        yield []
        yield [("Recovery  ", DIM), (done, ""), (f" in {latency(entry.recovery.total_s)}", DIM)]
    lost = ["why each account was chosen: the rule, the scores of all candidates, who was skipped"]
    if any(hop.failure is not None for hop in entry.hops):
        lost.append("what was said about each failed attempt")
    if entry.degraded:
        lost.append("in what way the answer was less than what was asked for")
    yield []
    yield [("From before this start. Not kept of it:", "bold")]
    for number, text in enumerate(lost, 1):
        yield [(f"  {text}{'.' if number == len(lost) else ','}", DIM)]


def _wait(wait: Wait, now: float) -> Iterator[list[Piece]]:
    """A stay in the queue: since when, at which place, until when, or how long it was."""
    yield []
    if wait.waited_s is not None:
        yield [(f"{QUEUE_SIGN} Queue  ", DIM), (f"left after {duration(wait.waited_s)}", "$success")]
        if wait.restored:
            yield [("  from before a restart: its answer is kept until it is collected", DIM)]
    else:
        place = f"place {wait.place} on arrival, " if wait.place else ""
        waits = f"{place}priority {wait.priority}, since {clock_time(wait.since)}"
        yield [(f"{QUEUE_SIGN} Queue  ", DIM), (waits, "$accent")]
        if wait.expires_at is not None:
            left = f", in {duration(wait.expires_at - now)}" if wait.expires_at > now else ""
            yield [(f"  fails for good at {clock_time(wait.expires_at)}{left}", DIM)]
    if wait.failure is not None:
        yield [(f"  because of {wait.failure}", DIM)]


def _hop(number: int, hop: Hop, entry: RequestEntry) -> Iterator[list[Piece]]:
    if hop.diverted:
        end: Piece = (f"✗ moved away: {hop.diverted}", "$warning")
    elif hop.failure is not None:
        end = (f"✗ {hop.failure}", "$error")
    elif hop.outrun:
        end = (f"outrun: {entry.outrunner(hop)} answered first", DIM)
    elif entry.outcome is Outcome.ANSWERED:
        first = any(other.outrun == hop.number for other in entry.hops) and hop.number
        end = ("✓ answered first" if first else "✓ answered", "$success")
    elif entry.outcome is Outcome.RUNNING:
        end = ("… running", "$primary")
    else:
        end = (entry.outcome.value, DIM)
    # Of a live one the decision tells more than the model does.
    where = f"{hop.pool} · {hop.model}" if entry.before_start and hop.model else hop.pool
    yield [(f"Attempt {number}  ", DIM), (hop.account, "bold"), (f"  {where}  ", DIM), end]
    if hop.hedge:
        yield [("  ∥ hedge: asked beside the attempt before, which had given no token yet", DIM)]
    elif entry.goes_on(number - 1):
        yield [("  ⇢ asked to go on with the answer that broke off", DIM)]
    if hop.latency_s is not None or hop.then:
        then = f", then {hop.then}" if hop.then else ""
        yield [(f"  after {latency(hop.latency_s)}{then}", DIM)]
    if hop.decision is not None:
        yield from _decision(hop.decision)


def _decision(decision: Decision) -> Iterator[list[Piece]]:
    yield [
        ("  chosen by ", DIM),
        (f"{decision.strategy}: {decision.rule.value}", ""),
        (f"  quota tier {decision.tier.value}", DIM),
    ]
    if decision.considered:
        names = max(8, min(24, max(len(terms.account) for terms in decision.considered)))
        yield [(f"    {fit('account', names)}   quota  recency   score   jitter   final", DIM)]
        for terms in decision.considered:
            chosen = terms.account == decision.account
            row = (
                f"{fit(terms.account, names)}  {terms.quota:6.3f}  {terms.recency:7.3f}"
                f"  {terms.score:6.3f}  x {terms.jitter:.3f}  {terms.final:6.3f}"
            )
            yield [("  ▸ " if chosen else "    ", "$primary"), (row, "bold $primary" if chosen else "")]
    for skip in decision.skipped:
        yield [("    ✗ ", "$warning"), (str(skip), DIM)]
    if decision.skipped_more:
        yield [(f"      and {decision.skipped_more} more", DIM)]
