"""The names of keys. What one script touches shares a hash tag, so that a cluster keeps it together."""

from __future__ import annotations

from typing import NamedTuple


class QuotaKeys(NamedTuple):
    """The keys of one account's quota, in the order in which scripts take them.

    Attributes:
        windows: Hash: each window as JSON by its key, and the fields ``version`` and ``epoch``.
        leases: Sorted set: instances by the end of their lease.
        holds: Sorted set: reservations by the end of their lease.
        amounts: Hash: what each reservation holds, as JSON.
        ended: Sorted set: reservations that ended, by when that may be forgotten.
    """

    windows: str
    leases: str
    holds: str
    amounts: str
    ended: str


class Keys:
    """Makes the names of keys.

    Args:
        prefix: What all of them begin with.
    """

    def __init__(self, prefix: str = "smartfallback") -> None:
        self._prefix = prefix

    def quota(self, account: str) -> QuotaKeys:
        """The keys of an account's quota."""
        tag = self._tagged(f"account:{account}")
        return QuotaKeys(*(f"{tag}:{name}" for name in QuotaKeys._fields))

    def facts(self, subject: str) -> str:
        """Hash: the facts of ``account:ID`` or ``provider:ID`` as JSON, by name."""
        return f"{self._tagged(subject)}:facts"

    def probes(self, subject: str, name: str) -> str:
        """Sorted set: the probes of one circuit of ``subject`` by the end of their lease."""
        return f"{self._tagged(subject)}:probes:{name}"

    def dropped_probes(self, subject: str, name: str) -> str:
        """Sorted set: the probes of that circuit that were given back, by when that may be forgotten."""
        return f"{self._tagged(subject)}:dropped:{name}"

    @property
    def changes(self) -> str:
        """Stream: hints at facts that changed."""
        return self._tagged("changes")

    @property
    def instances(self) -> str:
        """Hash: instances as JSON by id."""
        return self._tagged("instances")

    def _tagged(self, name: str) -> str:
        # A tag ends at the first brace, so names must not bring their own.
        return f"{self._prefix}:{{{name.replace('%', '%25').replace('}', '%7D')}}}"
