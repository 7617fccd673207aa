"""What an attempt holds while it runs."""

from __future__ import annotations

from smartfallback.engine.roster import AccountRuntime
from smartfallback.model.decisions import Decision
from smartfallback.model.quota import QuotaEstimate
from smartfallback.policy.circuit import Permit
from smartfallback.policy.ledger import Reservation


class Grant:
    """Everything that an attempt holds while it runs: an account's slot, its quota and permits."""

    __slots__ = (
        "account",
        "cheaper",
        "decision",
        "disowned",
        "estimate",
        "model",
        "model_permit",
        "output_estimate",
        "permit",
        "pool",
        "provider_permit",
        "reservation",
    )

    def __init__(
        self,
        account: AccountRuntime,
        model: str,
        decision: Decision,
        estimate: QuotaEstimate,
        output_estimate: int,
        reservation: Reservation,
        permit: Permit,
        provider_permit: Permit,
        model_permit: Permit | None,
        *,
        cheaper: bool = False,
    ) -> None:
        self.account = account
        self.pool = account.pool
        self.model = model
        self.decision = decision
        self.estimate = estimate
        self.output_estimate = output_estimate
        self.reservation = reservation
        self.permit = permit
        self.provider_permit = provider_permit
        self.model_permit = model_permit
        self.cheaper = cheaper
        self.disowned = False
        """It failed after the rehearsal in which it began, and so says nothing of its account."""
