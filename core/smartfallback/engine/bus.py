"""The one stream of events: numbered here, kept by each subscriber as far back as it asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from smartfallback.model.events import Event

DEFAULT_BACKLOG = 10_000


class Subscription:
    """A bounded backlog of events. :meth:`drain` may be called from any thread."""

    def __init__(self, backlog: int) -> None:
        self._events: deque[Event] = deque(maxlen=backlog)
        self._dropped = 0

    def push(self, event: Event) -> None:
        """Keep ``event``, at the price of the oldest one when the backlog is full."""
        events = self._events
        if len(events) == events.maxlen:
            self._dropped += 1
        events.append(event)

    def drain(self) -> tuple[tuple[Event, ...], int]:
        """All events since the last call, oldest first, and how many were dropped so far."""
        events = self._events
        taken = []
        while True:
            try:
                taken.append(events.popleft())
            except IndexError:
                return tuple(taken), self._dropped


class Bus:
    """Numbers events and hands them to listeners (at once) and subscriptions (when they ask)."""

    def __init__(self) -> None:
        self._seq = 0
        self._subscriptions: list[Subscription] = []
        self._listeners: list[Callable[[Event], None]] = []

    def next_seq(self) -> int:
        """The number for the next event."""
        self._seq += 1
        return self._seq

    @property
    def last_seq(self) -> int:
        """The number of the latest event."""
        return self._seq

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call ``listener`` with every event, on the engine's loop; it must be quick and not raise."""
        self._listeners.append(listener)

    def subscribe(self, backlog: int = DEFAULT_BACKLOG) -> Subscription:
        """A new subscription that starts with the next event."""
        subscription = Subscription(backlog)
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription; a second end is a no-op."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def publish(self, event: Event) -> None:
        """Tell everybody."""
        for listener in self._listeners:
            listener(event)
        for subscription in self._subscriptions:
            subscription.push(event)
