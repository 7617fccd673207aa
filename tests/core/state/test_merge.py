"""Two processes on one file: what each changed is kept, whoever writes last."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback import AdminState, CircuitState, QuotaUnit, SqliteStateStore, TruthLabel, WindowKind
from smartfallback.model.state import AccountState, CircuitRecord, RestState, SystemState, WindowState
from smartfallback.state.merge import merged
from support.clock import EPOCH
from support.states import of, read

WINDOW = WindowState(WindowKind.WEEK, QuotaUnit.TOKENS, 100, TruthLabel.MEASURED, EPOCH, EPOCH + 600, EPOCH)
HELD = CircuitRecord(CircuitState.FORCED_OPEN, "incident", EPOCH)
OPEN = CircuitRecord(CircuitState.OPEN, "failed", EPOCH, EPOCH + 60)


def used(window: WindowState, amount: float) -> AccountState:
    return AccountState(windows=(replace(window, used=amount),))


async def test_a_drain_by_one_and_use_by_the_other_are_both_kept(tmp_path):
    path = tmp_path / "state.db"
    console, command = SqliteStateStore(path), SqliteStateStore(path)
    for store in (console, command):
        await store.load(["a"], ())
    await console.save(of(a=AccountState(admin=AdminState.DRAINED, requests=10, circuit=HELD)))
    await command.save(of(a=replace(used(WINDOW, 40), requests=1)))
    await console.save(of(a=replace(used(WINDOW, 7), admin=AdminState.DRAINED, requests=12, circuit=HELD)))
    await command.save(of(a=replace(used(WINDOW, 50), requests=2)))
    for store in (console, command):
        await store.aclose()
    found = (await read(path)).accounts["a"]
    assert (found.admin, found.requests, found.circuit) == (AdminState.DRAINED, 14, HELD)
    assert [window.used for window in found.windows] == [57]


async def test_a_provider_held_by_one_stays_held_when_the_other_sees_it_fail(tmp_path):
    path = tmp_path / "state.db"
    console, command = SqliteStateStore(path), SqliteStateStore(path)
    for store in (console, command):
        await store.load((), ["api"])
    await console.save(SystemState(providers={"api": HELD}))
    await command.save(SystemState(providers={"api": OPEN}))
    assert (await read(path)).providers == {"api": HELD}
    await console.save(SystemState(providers={"api": None}))
    for store in (console, command):
        await store.aclose()
    assert (await read(path)).providers == {"api": None}


def test_what_an_operator_lifts_is_lifted_for_the_other_too():
    base = AccountState(admin=AdminState.DRAINED, circuit=HELD, cooldown=RestState(EPOCH + 60))
    lifted = AccountState()
    assert merged(base, lifted, replace(base, requests=5)) == AccountState(requests=5)
    assert merged(base, replace(base, requests=5), lifted) == AccountState(requests=5)


def test_of_two_waits_the_longer_holds():
    short, long = RestState(EPOCH + 60, "short"), RestState(EPOCH + 600, "long")
    for mine, theirs in ((short, long), (long, short)):
        both = merged(AccountState(), AccountState(cooldown=mine), AccountState(cooldown=theirs))
        assert both.cooldown == long
    for mine, theirs in ((OPEN, HELD), (HELD, OPEN)):
        both = merged(AccountState(), AccountState(circuit=mine), AccountState(circuit=theirs))
        assert both.circuit == HELD


def test_a_time_reckoned_anew_is_no_change():
    base = AccountState(circuit=OPEN, cooldown=RestState(EPOCH + 60, "slow"))
    jittered = AccountState(
        circuit=replace(OPEN, until=EPOCH + 60.01), cooldown=RestState(EPOCH + 60.01, "slow")
    )
    assert merged(base, jittered, AccountState()) == AccountState()


def test_a_window_that_began_anew_leaves_the_old_count_behind():
    old = used(WINDOW, 500)
    new = used(replace(WINDOW, started_at=EPOCH + 600, ends_at=EPOCH + 1_200), 3)
    assert merged(old, new, old) == new
    assert merged(old, old, new) == new
    assert [w.used for w in merged(old, new, new).windows] == [6]


def test_a_reading_counts_everybodys_use():
    read_now = AccountState(windows=(replace(WINDOW, used=80, label=TruthLabel.REPORTED, read_at=EPOCH + 5),))
    assert merged(used(WINDOW, 10), read_now, used(WINDOW, 30)) == read_now


counts = st.lists(st.tuples(st.booleans(), st.integers(0, 1_000)), max_size=20)


@settings(max_examples=60, deadline=None)
@given(counts)
def test_use_adds_up_in_any_order_of_writing(writes):
    file = AccountState()
    bases = {True: AccountState(), False: AccountState()}
    totals = {True: 0, False: 0}
    for who, tokens in writes:
        totals[who] += tokens
        mine = replace(used(WINDOW, totals[who]), tokens=totals[who])
        file = merged(bases[who], mine, file)
        bases[who] = mine
    assert file.tokens == sum(totals.values())
    assert sum(window.used for window in file.windows) == sum(totals.values())
