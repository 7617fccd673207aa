"""Where a scenario is played: a running system, and which of its pools has which role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from smartfallback.model.circuits import CircuitState
from smartfallback.model.decisions import AdminState
from smartfallback.model.specs import PoolSpec, ProviderKind
from smartfallback.simulation.drills.drill import DrillScope
from smartfallback.simulation.drills.playable import playable
from smartfallback.simulation.scenarios.model import Deed, PlannedDrill, Role, Scenario, plain_fault_name

if TYPE_CHECKING:
    from smartfallback.engine.orchestrator import Orchestrator
    from smartfallback.model.snapshot import AccountView, PoolView, Snapshot
    from smartfallback.simulation.drills.injector import Injector

DEFAULT_CHAIN = "default"


@dataclass(frozen=True, slots=True)
class Stage:
    """A running system with its injector, and the pools of one of its chains by their role.

    Attributes:
        chain: The chain that requests of scenarios go to.
        roles: The pool of each role that the chain has; further pools of the chain have none.
    """

    orchestrator: Orchestrator
    injector: Injector
    chain: str
    roles: Mapping[Role, PoolSpec]

    @classmethod
    def of(cls, orchestrator: Orchestrator, injector: Injector) -> Stage:
        """The stage of the chain ``default``, or of the first one."""
        spec = orchestrator.spec
        chain = next((each for each in spec.chains if each.name == DEFAULT_CHAIN), spec.chains[0])
        by_name = {pool.name: pool for pool in spec.pools}
        pools = [by_name[name] for name in chain.pools]
        cloud = [pool for pool in pools if pool.provider is not ProviderKind.LOCAL]
        local = [pool for pool in pools if pool.provider is ProviderKind.LOCAL]
        roles = dict(zip((Role.FIRST, Role.SECOND, Role.THIRD), cloud, strict=False))
        if local:
            roles[Role.LOCAL] = local[0]
        return cls(orchestrator, injector, chain.name, roles)

    @property
    def pools(self) -> tuple[str, ...]:
        """All pools of the chain, by name."""
        chains = {chain.name: chain.pools for chain in self.orchestrator.spec.chains}
        return chains[self.chain]

    def role_of(self, pool: str) -> Role | None:
        """The role of a pool, None for one that has none."""
        return next((role for role, spec in self.roles.items() if spec.name == pool), None)

    def pool_view(self, role: Role, snapshot: Snapshot) -> PoolView:
        """How the pool of ``role`` stands.

        Raises:
            KeyError: The chain has no such pool.
        """
        name = self.roles[role].name
        return next(pool for pool in snapshot.pools if pool.name == name)

    def in_service(self, role: Role, snapshot: Snapshot) -> tuple[AccountView, ...]:
        """The accounts of ``role`` that nobody has taken out of service and that need no attention.

        Others are left as they are: a rehearsal does not overrule who has drained an account.
        """
        pool = self.pool_view(role, snapshot)
        if pool.unavailable or pool.provider_circuit.state is CircuitState.FORCED_OPEN:
            return ()
        return tuple(
            account
            for account in pool.accounts
            if account.admin is AdminState.ACTIVE
            and not account.attention
            and account.quota.exhausted_until is None
            and account.circuit.state is not CircuitState.FORCED_OPEN
        )

    def lacking(self, scenario: Scenario, snapshot: Snapshot) -> str:
        """What is not here that ``scenario`` needs, in a sentence; empty if it can be played."""
        if scenario.needs_store and self.injector.store is None:
            return "no store is shared with other instances (redis_url, or --redis-url)"
        for role in scenario.roles:
            if role not in self.roles:
                kind = "local" if role is Role.LOCAL else f"{role.value} cloud"
                return f"the chain {self.chain} has no {kind} pool"
            if not self.in_service(role, snapshot):
                pool = self.pool_view(role, snapshot)
                return f"no account of {pool.name} is in service" + (
                    f": {pool.unavailable}" if pool.unavailable else ""
                )
        for drill in scenario.drills:
            why = "" if drill.on is None else self._lacking_for(drill, drill.on, scenario)
            if why:
                return why
        for step in scenario.steps:
            for role, percent in step.usage:
                pool_spec = self.roles[role]
                windows = all(each.quota.windows for each in self.in_service(role, snapshot))
                if percent >= pool_spec.thresholds.soft_limit and not windows:
                    return f"{pool_spec.name} has accounts without a quota, so nothing can be used of it"
            for action in step.actions:
                asked = self.orchestrator.has_quota_source
                sources = all(asked(each.id) for each in self.in_service(action.on, snapshot))
                if action.do is Deed.REFRESH_QUOTA and not sources:
                    return f"{self.roles[action.on].name} has accounts whose quota can't be asked for"
        return ""

    def _lacking_for(self, drill: PlannedDrill, on: Role, scenario: Scenario) -> str:
        pool = self.roles[on]
        if not playable(drill.fault, pool.provider):
            fault = plain_fault_name(drill.fault)
            return f"{pool.name} is of kind {pool.provider.value}, whose calls can't meet {fault}"
        if drill.scope is DrillScope.PROVIDER:
            for role in scenario.roles:
                other = self.roles[role]
                if role is not on and other.provider_id == pool.provider_id:
                    return f"{pool.name} and {other.name} share one provider, so both would be down"
        return ""

    def quotas_known(self, snapshot: Snapshot) -> bool:
        """Whether every quota source has been heard: what it says first is no part of a scenario."""
        return all(
            account.quota_source or not self.orchestrator.has_quota_source(account.id)
            for role in self.roles
            for account in self.in_service(role, snapshot)
        )

    def touched(self, scenario: Scenario, snapshot: Snapshot) -> tuple[str, ...]:
        """The accounts whose calls may meet the scenario's drills, by id."""
        found: dict[str, None] = {}
        for drill in scenario.drills:
            if drill.on is not None and drill.on in self.roles:
                found |= {account.id: None for account in self.in_service(drill.on, snapshot)}
        return tuple(found)
