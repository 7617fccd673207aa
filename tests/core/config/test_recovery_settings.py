"""What follows an error is configured by chain, by pool and for all, and mistakes are explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartfallback.config import ConfigError, load_config
from smartfallback.model.requests import OnBreak
from smartfallback.model.specs import (
    AccountSpec,
    ChainSpec,
    PoolSpec,
    ProviderKind,
    RecoverySpec,
    SystemSpec,
    Timeouts,
)

ADDRESS = "http://127.0.0.1:1/v1"
ACCOUNTS = f'accounts = [{{ id = "a", base_url = "{ADDRESS}" }}, {{ id = "b", base_url = "{ADDRESS}" }}]'
FILE = """\
[pools.p]
provider = "{provider}"
{pool}
[chains.default]
pools = ["p"]
{chain}
{rest}
"""


def load(folder: Path, *, pool: str = "", chain: str = "", rest: str = "") -> tuple[SystemSpec, str]:
    """The system, and the warnings in one text."""
    return load_pool(folder, f'model = "m"\n{ACCOUNTS}\n{pool}', chain=chain, rest=rest)


def load_pool(
    folder: Path, pool: str, *, provider: str = "openai", chain: str = "", rest: str = ""
) -> tuple[SystemSpec, str]:
    path = folder / "config.toml"
    path.write_text(FILE.format(provider=provider, pool=pool, chain=chain, rest=rest))
    loaded = load_config(path)
    return loaded.spec, "\n".join(map(str, loaded.warnings))


def mistake_in(folder: Path, **settings: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, **settings)
    (mistake,) = caught.value.mistakes
    return str(mistake)


def test_a_file_without_settings_means_what_python_means_without_arguments(tmp_path: Path) -> None:
    spec, warnings = load(tmp_path)
    accounts = (AccountSpec("a", base_url=ADDRESS), AccountSpec("b", base_url=ADDRESS))
    pool = PoolSpec("p", ProviderKind.OPENAI, "openai@127.0.0.1:1", accounts, model="m")
    assert spec == SystemSpec((pool,), (ChainSpec("default", ("p",)),))
    assert warnings == ""


def test_each_setting_reaches_its_place(tmp_path: Path) -> None:
    spec, warnings = load(
        tmp_path,
        pool='cheaper_model = "s"\nfailed_model_s = 0\nadaptive_concurrency = false',
        chain='on_break = "error"\nhedge_after_s = 1.5\ncache_s = 3600\nqueue_s = 60',
        rest="[recovery]\nretry_share = 0\nretry_reserve = 3\nqueue_limit = 7\n"
        "[pools.p.timeouts]\nadaptive_first_token = false\n"
        "[pools.p.account_circuit]\nwindow_calls = 30",
    )
    (pool,) = spec.pools
    assert (pool.cheaper_model, pool.failed_model_s, pool.adaptive_concurrency) == ("s", 0.0, False)
    assert pool.timeouts == Timeouts(adaptive_first_token=False)
    assert pool.account_circuit.window_calls == 30
    assert spec.chains == (
        ChainSpec("default", ("p",), on_break=OnBreak.ERROR, hedge_after_s=1.5, cache_s=3600.0, queue_s=60.0),
    )
    assert spec.recovery == RecoverySpec(retry_share=0.0, retry_reserve=3, queue_limit=7)
    assert warnings == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"chain": 'on_break = "stop"'}, ("chains.default.on_break", '"continue" or "error"')),
        ({"chain": "hedge_after_s = 0"}, ("chains.default.hedge_after_s", "above 0")),
        ({"chain": "cache_s = -1"}, ("chains.default.cache_s", "above 0")),
        ({"chain": "queue_s = inf"}, ("chains.default.queue_s", "finite")),
        ({"chain": "queue = 5"}, ("chains.default.queue", 'did you mean "queue_s"?')),
        ({"pool": "failed_model_s = -1"}, ("pools.p.failed_model_s", "at least 0")),
        ({"pool": 'cheaper_model = ""'}, ("pools.p.cheaper_model", "is empty")),
        ({"pool": 'adaptive_concurrency = "yes"'}, ("pools.p.adaptive_concurrency", "true or false")),
        ({"rest": "[recovery]\nretry_share = 20"}, ("recovery.retry_share", "at most 1")),
        ({"rest": "[recovery]\nretry_reserve = -1"}, ("recovery.retry_reserve", "at least 0")),
        ({"rest": "[recovery]\nqueue_limit = 0"}, ("recovery.queue_limit", "above 0")),
        ({"rest": "[recovery]\nretry_shares = 0.1"}, ("recovery.retry_shares", "retry_share")),
        ({"rest": "[recover]\nretry_share = 0.1"}, ("recover", "recovery")),
    ],
    ids=str,
)
def test_mistakes_are_explained(tmp_path: Path, settings: dict[str, str], words: tuple[str, ...]) -> None:
    report = mistake_in(tmp_path, **settings)
    assert [word for word in words if word not in report] == []


def test_the_usual_model_is_no_cheaper_one(tmp_path: Path) -> None:
    report = mistake_in(tmp_path, pool='cheaper_model = "m"')
    assert "pools.p.cheaper_model: is the pool's usual model" in report
    assert "name one that costs less" in report


def test_a_model_file_holds_no_cheaper_one(tmp_path: Path) -> None:
    pool = 'model_path = "m.gguf"\ncheaper_model = "s"\naccounts = [{ id = "gguf" }]'
    with pytest.raises(ConfigError, match="a local pool has one model, that of its file"):
        load_pool(tmp_path, pool, provider="local")


@pytest.mark.parametrize(
    ("chain", "limit"),
    [("hedge_after_s = 120", "120"), ("hedge_after_s = 5\ntimeout_s = 4.5", "4.5")],
)
def test_a_hedge_comes_before_the_end(tmp_path: Path, chain: str, limit: str) -> None:
    report = mistake_in(tmp_path, chain=chain)
    assert f"chains.default.hedge_after_s: a request has ended by then: timeout_s is {limit}" in report
    assert f"a number below {limit}" in report


def test_values_of_the_wrong_kind_are_left_to_their_own_report(tmp_path: Path) -> None:
    report = mistake_in(tmp_path, chain='hedge_after_s = 5\ntimeout_s = "4"')
    assert "chains.default.timeout_s" in report


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"chain": "hedge_after_s = 20"}, "first_token_s ends the first attempt before that"),
        (
            {"chain": "hedge_after_s = 5", "rest": "[pools.p.timeouts]\nfirst_token_s = 4"},
            "first_token_s ends the first attempt before that",
        ),
        (
            {"chain": "hedge_after_s = 5", "rest": "[recovery]\nretry_share = 0\nretry_reserve = 0"},
            "retry_share and retry_reserve are 0",
        ),
    ],
    ids=str,
)
def test_a_hedge_that_can_never_be_is_warned_of(tmp_path: Path, settings: dict[str, str], words: str) -> None:
    _, warnings = load(tmp_path, **settings)
    assert f"chains.default.hedge_after_s: has no effect: {words}" in warnings


def test_hedging_takes_two_accounts(tmp_path: Path) -> None:
    alone = f'model = "m"\naccounts = [{{ id = "a", base_url = "{ADDRESS}" }}]'
    _, warnings = load_pool(tmp_path, alone, chain="hedge_after_s = 5")
    assert "has no effect: the chain has one account" in warnings


def test_local_models_are_not_hedged(tmp_path: Path) -> None:
    pool = 'model_path = "m.gguf"\naccounts = [{ id = "one" }, { id = "two" }]'
    _, warnings = load_pool(tmp_path, pool, provider="local", chain="hedge_after_s = 5")
    assert "has no effect: local models are not asked side by side" in warnings


@pytest.mark.parametrize("name", ["hedge_after_s", "cache_s", "queue_s"])
@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_chain_made_in_python_is_checked_too(name: str, seconds: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0 and finite"):
        ChainSpec("default", (), **{name: seconds})  # type: ignore[arg-type] # one field each


@pytest.mark.parametrize(
    ("name", "value"),
    [("retry_share", -0.1), ("retry_share", 1.1), ("retry_reserve", -1), ("queue_limit", 0)],
)
def test_a_recovery_made_in_python_is_checked_too(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must"):
        RecoverySpec(**{name: value})  # type: ignore[arg-type] # one field each
