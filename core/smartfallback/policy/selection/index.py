"""Slots in the order of their keys, with updates in O(log n) and walks that survive changes."""

from __future__ import annotations

from collections.abc import Iterator

from sortedcontainers import SortedList

Key = tuple[float, float, float, int]
"""What orders a slot, most significant first; the slot itself comes last."""


class SlotIndex:
    """A sorted set of slots. ``version`` changes whenever the order does."""

    __slots__ = ("_keys", "_sorted", "version")

    def __init__(self, size: int) -> None:
        self._keys: list[Key | None] = [None] * size
        self._sorted: SortedList[Key] = SortedList()
        self.version = 0

    def __contains__(self, slot: int) -> bool:
        return self._keys[slot] is not None

    def __iter__(self) -> Iterator[Key]:
        """The keys in order; the index must not change meanwhile."""
        return iter(self._sorted)

    def place(self, key: Key) -> None:
        """Insert the key's slot, or move it there."""
        slot = key[3]
        old = self._keys[slot]
        if old is not None:
            if old == key:
                return
            self._sorted.remove(old)
        self._keys[slot] = key
        self._sorted.add(key)
        self.version += 1

    def remove(self, slot: int) -> None:
        """Remove the slot if it is there."""
        old = self._keys[slot]
        if old is not None:
            self._sorted.remove(old)
            self._keys[slot] = None
            self.version += 1

    def first(self) -> Key | None:
        """The smallest key, None when there is none."""
        return self._sorted[0] if self._sorted else None

    def walk(self) -> Iterator[int]:
        """Every slot once, in order; after a change it goes on with those not yet yielded."""
        seen: set[int] = set()
        while True:
            version = self.version
            for key in self._sorted:
                slot = key[3]
                if slot not in seen:
                    seen.add(slot)
                    yield slot
                    if version != self.version:
                        break
            else:
                return
