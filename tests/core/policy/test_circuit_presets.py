"""The presets hold what their names promise, and do it."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest

from smartfallback.model.circuits import (
    ACCOUNT_DEFAULT,
    CHAIN,
    PRESETS,
    PROVIDER,
    ROTATION,
    SERVICE,
    CircuitSettings,
    CircuitState,
)
from support.circuits import Rig

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


def rig(preset: CircuitSettings) -> Rig:
    return Rig(**asdict(preset))


def test_each_preset_has_its_name() -> None:
    assert {"rotation": ROTATION, "chain": CHAIN, "provider": PROVIDER, "service": SERVICE} == PRESETS


@pytest.mark.parametrize("preset", [ROTATION, ACCOUNT_DEFAULT])
def test_rotation_makes_the_next_request_the_one_test_after_a_429_and_rests_120_s(
    preset: CircuitSettings,
) -> None:
    account = rig(preset)
    account.circuit.rate_limited(account.acquire(), account.now)
    account.circuit.fail(account.acquire(), account.now)
    assert account.path == [HALF_OPEN, OPEN]
    assert account.circuit.until == account.now + 120.0


@pytest.mark.parametrize("preset", [CHAIN, ACCOUNT_DEFAULT])
def test_chain_opens_at_3_failures_for_300_s_and_probes_once(preset: CircuitSettings) -> None:
    step = rig(preset)
    step.fail(2)
    assert step.state is CLOSED
    step.fail()
    assert step.circuit.until == step.now + 300.0
    step.until_probing()
    step.acquire()
    assert step.rejects()


def test_provider_opens_at_5_failures_in_300_s_recovers_from_60_s_and_closes_after_3_of_3_probes() -> None:
    api = rig(PROVIDER)
    api.fail(4)
    api.wait(299.0)
    api.fail()
    assert api.circuit.until == api.now + 60.0
    api.until_probing()
    probes = [api.acquire() for _ in range(3)]
    assert api.rejects()
    for probe in probes:
        assert api.state is HALF_OPEN
        api.circuit.succeed(probe, api.now)
    assert api.state is CLOSED
    api.circuit.rate_limited(api.acquire(), api.now)
    assert api.circuit.statistics(api.now).calls == 0, "a 429 is the account's"


def test_provider_takes_60_s_for_slow() -> None:
    api = rig(PROVIDER)
    for _ in range(PROVIDER.min_calls):
        api.acquire()
    api.wait(59.9)
    api.circuit.tick(api.now)
    assert api.state is CLOSED
    api.wait(0.1)
    api.circuit.tick(api.now)
    assert api.state is OPEN


def test_service_opens_at_5_failures_for_60_s() -> None:
    service = rig(SERVICE)
    service.fail(4)
    assert service.state is CLOSED
    service.fail()
    assert service.circuit.until == service.now + 60.0


@pytest.mark.parametrize("bad", [0, -1, math.inf, math.nan])
@pytest.mark.parametrize(
    "name",
    [
        "failure_threshold",
        "window_s",
        "recovery_timeout_s",
        "max_recovery_timeout_s",
        "half_open_max_calls",
        "success_threshold",
        "probe_lease_s",
        "min_calls",
        "rate_limit_recovery_s",
        "slow_call_s",
    ],
)
def test_30_a_length_or_a_number_that_can_not_be_is_refused_by_name_with_what_was_found(
    name: str, bad: float
) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be above 0 and finite, not {bad!r}$"):
        CircuitSettings(**{name: bad})  # type: ignore[arg-type]  # wrong values are the point
