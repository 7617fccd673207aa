"""Changes of state between the requests, in words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from smartfallback import (
    AccountResumed,
    AdminChanged,
    AttentionRaised,
    CircuitChanged,
    ConcurrencyChanged,
    CooldownStarted,
    DegradedModeChanged,
    ProviderNotice,
    QuotaCorrected,
    QuotaHeard,
    QuotaReset,
    QuotaStatusChanged,
    ResetOverdue,
    ResetValidated,
    StateNotice,
    StrategyChanged,
    TruthLabel,
)
from smartfallback_console.formatting import duration

if TYPE_CHECKING:
    from smartfallback import Event


class Severity(StrEnum):
    """How much a change of state should catch the eye."""

    INFO = "info"
    GOOD = "good"
    WARNING = "warning"
    ERROR = "error"


@dataclass(slots=True)
class NoteEntry:
    """A change of state between the requests."""

    seq: int
    at: float
    severity: Severity
    subject: str
    text: str

    def matches(self, needle: str) -> bool:
        """Whether its words hold the text."""
        return needle in self.subject.casefold() or needle in self.text.casefold()


def describe(event: Event) -> NoteEntry | None:
    """A change of state in words; None for an event that is no change of state."""
    severity, subject, text = Severity.INFO, "", ""
    match event:
        case CircuitChanged():
            new = event.new.value
            subject = event.target.name
            scope = "" if event.target.scope.value == "account" else f" ({event.target.scope.value})"
            text = f"circuit{scope} {event.old.value} → {new}".replace("_", "-")
            text += f": {event.cause}" if event.cause else ""
            bad = new in ("open", "forced_open")
            severity = Severity.ERROR if bad else Severity.GOOD if new == "closed" else Severity.WARNING
        case AdminChanged():
            subject, text = event.account, f"{event.old.value} → {event.new.value}"
            text += f": {event.reason}" if event.reason else ""
        case CooldownStarted():
            subject = event.account
            text = f"rests {duration(event.until - event.at)}"
            text += f" on {event.model}" if event.model else ""
            text += f": {event.reason}" if event.reason else ""
            severity = Severity.WARNING
        case ConcurrencyChanged():
            subject, down = event.account, event.new < event.old
            text = f"runs {event.new} at once instead of {event.old}"
            text += f" (configured: {event.configured})" if event.new != event.configured else ""
            text += f": {event.cause}" if event.cause else ""
            full = event.new >= event.configured
            severity = Severity.WARNING if down else Severity.GOOD if full else Severity.INFO
        case QuotaStatusChanged():
            subject = event.account
            used = "" if event.percent_used is None else f" at {event.percent_used:.1f} % used"
            text = f"quota {event.old.value} → {event.new.value}{used}"
            good = event.new.value == "healthy"
            severity = Severity.GOOD if good else Severity.WARNING
        case QuotaHeard():
            if event.label is TruthLabel.REPORTED:
                return None
            subject, severity = event.account, Severity.WARNING
            used = "" if event.percent_used is None else f" at {event.percent_used:.0f} %"
            text = f"quota is {event.label.value}{used}"
            text += f": {event.note}" if event.note else ""
        case QuotaCorrected():
            subject, text = event.account, f"quota of the {event.window} corrected by hand"
        case QuotaReset():
            subject, text, severity = event.account, f"quota of the {event.window} began anew", Severity.GOOD
        case ResetOverdue():
            subject, severity = event.account, Severity.WARNING
            left = max(0.0, event.retry_at - event.at)
            text = f"quota should have begun anew and has not; try {event.tries + 1} in {duration(left)}"
            text += f": {event.detail}" if event.detail else ""
        case ResetValidated():
            subject, severity = event.account, Severity.GOOD
            text = f"has its quota back ({event.by}); its share of requests climbs step by step"
        case AccountResumed():
            subject, text, severity = event.account, "takes its full share of requests again", Severity.GOOD
        case StrategyChanged():
            subject, text = event.pool, f"strategy {event.old} → {event.new}"
        case AttentionRaised():
            subject, severity = event.account, Severity.ERROR
            text = f"needs attention: {event.message}" + (f". {event.hint}" if event.hint else "")
        case DegradedModeChanged():
            subject = event.chain
            text = f"degraded: {event.detail}" if event.degraded else "no longer degraded"
            severity = Severity.WARNING if event.degraded else Severity.GOOD
        case ProviderNotice():
            subject, text = event.pool, event.message
        case StateNotice():
            subject, text, severity = "state", event.message, Severity.WARNING
        case _:
            return None
    return NoteEntry(event.seq, event.at, severity, subject, text)
