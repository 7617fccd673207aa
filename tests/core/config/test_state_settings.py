"""Where state is kept and shared: the file's table, the option and the environment over it, and mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartfallback.config import (
    ConfigError,
    LoadedConfig,
    RedisUrlError,
    StateSettings,
    choose_state,
    load_config,
    open_stores,
)
from smartfallback.config.redis_address import refused
from smartfallback.model.secrets import Secret
from smartfallback.model.sharing import SharingMode, SharingSpec, StoreKind

BASE = """\
[pools.a]
provider = "openai"
model = "m"
base_url = "http://127.0.0.1:1/v1"
accounts = [{ id = "a-1" }]
[chains.default]
pools = ["a"]
"""
PASSWORD = "pa55word-of-the-store"


def load(folder: Path, table: str, **variables: str) -> LoadedConfig:
    path = folder / "config.toml"
    path.write_text(BASE + table)
    path.chmod(0o600)
    return load_config(path, environ=variables)


def report(folder: Path, table: str, **variables: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(folder, table, **variables)
    return str(raised.value)


def test_every_setting_of_the_table_arrives(tmp_path: Path) -> None:
    table = (
        '[state]\nredis_url = "redis://127.0.0.1/3"\nmode = "strict"\n'
        'instance = "desk [1]"\nprefix = "team:a"\n'
    )
    loaded = load(tmp_path, table)
    assert loaded.state == StateSettings(
        Secret("redis://127.0.0.1/3"), SharingMode.STRICT, "desk [1]", "team:a", "redis_url in [state]"
    )


def test_without_a_table_state_stays_on_this_machine(tmp_path: Path) -> None:
    stores = open_stores(choose_state(load(tmp_path, "").state, None, environ={}))
    assert stores.store is not None
    assert (stores.shared, stores.sharing) == (None, None)


def test_what_has_no_effect_is_said(tmp_path: Path) -> None:
    loaded = load(tmp_path, '[state]\nmode = "strict"\ninstance = "x"\nprefix = "y"\n')
    assert [warning.key for warning in loaded.warnings] == ["state.mode", "state.instance", "state.prefix"]
    assert all("no effect without redis_url" in warning.message for warning in loaded.warnings)


ADDRESSES = (
    "redis://localhost",
    "redis://localhost:6379",
    "redis://:pw@10.0.0.5:6379/0",
    "redis://user:p%2Fw@[::1]:6379/15",
    "rediss://redis.example.com:6380/1",
    "unix:///run/redis.sock",
    "unix://:pw@/run/redis.sock?db=2",
    "redis+sentinel://a:26379,b:26379,c/mymaster",
    "redis+sentinel://user:pw@a:26379/mymaster/2?sentinel_password=pw",
    "rediss+sentinel://a/mymaster/",
    "redis+cluster://a:7000,b:7001",
    "rediss+cluster://:pw@a:7000/0",
)


@pytest.mark.parametrize("url", ADDRESSES)
def test_addresses_of_all_kinds_are_taken(tmp_path: Path, url: str) -> None:
    assert refused(url) is None
    loaded = load(tmp_path, '[state]\nredis_url = { env = "URL" }\n', URL=url)
    assert loaded.state.redis_url == Secret(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:6379", "begin it with redis://"),
        ("http://127.0.0.1:6379", "does not begin as the address"),
        ("redi://127.0.0.1", 'did you mean "redis"?'),
        ("redis-sentinel://a/b", 'did you mean "redis+sentinel"?'),
        ("redis://:6379", "a host is missing"),
        ("redis://a:0", "from 1 to 65535"),
        ("redis://a:65536/0", "from 1 to 65535"),
        ("redis://a/first", "the database is not a number"),
        ("redis://a/0/1", "too much after the host"),
        ("redis://a:1,b:2/0", "redis+sentinel:// or redis+cluster://"),
        ("redis+sentinel://a:26379", "the name of the service is missing"),
        ("redis+cluster://a:7000/3", "database 0 only"),
        ("unix://", "path of the socket"),
        ("redis://a b", "blanks"),
        ("redis://:pass/word@a", "written as"),
    ],
)
def test_a_wrong_address_is_told_with_what_is_allowed(tmp_path: Path, url: str, said: str) -> None:
    told = report(tmp_path, '[state]\nredis_url = { env = "URL" }\n', URL=url)
    assert "config.toml:9: state.redis_url" in told
    assert said in told
    assert '"redis+cluster://host:7000,host:7001"' in told
    with pytest.raises(RedisUrlError, match="--redis-url") as raised:
        choose_state(None, url)
    assert said in str(raised.value)


SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "http", "", "x" * 50)


@given(
    scheme=st.sampled_from(SCHEMES),
    before=st.text(max_size=5),
    rest=st.text(alphabet=st.characters(codec="utf-8"), max_size=30),
)
def test_no_refusal_repeats_a_password_or_raises(scheme: str, before: str, rest: str) -> None:
    for url in (f"{scheme}://{before}:{PASSWORD}@{rest}", f"{PASSWORD}{rest}"):
        trouble = refused(url)
        assert trouble is None or PASSWORD not in str(trouble)


def test_all_mistakes_come_in_one_report_with_the_nearest_names(tmp_path: Path) -> None:
    table = (
        f'[state]\nredis_url = "redis://:{PASSWORD}@a:70000/0"\nmode = "leaesd"\n'
        f'instnace = "desk"\nprefix = "a{{b}}"\n[pools.b]\nmodel = "m"\n'
    )
    told = report(tmp_path, table)
    for part in (
        "from 1 to 65535",
        'did you mean "leased"?',
        'did you mean "instance"?',
        "holds a brace",
        "config.toml:9: state.redis_url",
        "config.toml:10: state.mode",
        "config.toml:11: state.instnace",
        "config.toml:12: state.prefix",
        "pools.b",
    ):
        assert part in told
    assert PASSWORD not in told


def test_a_password_that_stands_elsewhere_too_is_not_shown(tmp_path: Path) -> None:
    table = f'[state]\nredis_url = {{ env = "URL" }}\n[chains.other]\npools = ["{PASSWORD}"]\n'
    told = report(tmp_path, table, URL=f"redis://:{PASSWORD}@a/0")
    assert "no such pool" in told
    assert PASSWORD not in told


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('instance = ""', "is empty"),
        ('instance = "a\\nb"', "control character"),
        (f'instance = "{"n" * 201}"', "201 characters"),
        ('prefix = ""', "is empty"),
        ('prefix = "a b"', "blanks"),
        (f'prefix = "{"n" * 101}"', "101 characters"),
        ("instance = 3", "a text in quotes"),
    ],
)
def test_names_that_would_do_harm_are_refused(tmp_path: Path, setting: str, said: str) -> None:
    assert said in report(tmp_path, f'[state]\nredis_url = "redis://a"\n{setting}\n')


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        (f"redis://:{PASSWORD}@10.0.0.5", True),
        (f"redis+cluster://:{PASSWORD}@127.0.0.1,10.0.0.5", True),
        (f"redis://:{PASSWORD}@[::1]:6379", False),
        (f"redis://:{PASSWORD}@localhost", False),
        (f"rediss://:{PASSWORD}@10.0.0.5", False),
        ("redis://10.0.0.5", False),
        (f"unix://:{PASSWORD}@/run/redis.sock", False),
    ],
)
def test_a_password_on_an_open_line_is_warned_of(tmp_path: Path, url: str, warned: bool) -> None:
    loaded = load(tmp_path, '[state]\nredis_url = { env = "URL" }\n', URL=url)
    assert [warning.message for warning in loaded.warnings if "unencrypted" in warning.message] == (
        ["sends its password over the network unencrypted; rediss:// encrypts it"] if warned else []
    )


def test_the_option_goes_before_the_environment_and_that_before_the_file() -> None:
    file = StateSettings(Secret("redis://file"), SharingMode.STRICT, "desk", "team", "redis_url in [state]")
    environ = {"SMARTFALLBACK_REDIS_URL": "redis://environment"}
    both = choose_state(file, "redis://option", environ=environ)
    assert both.redis_url == Secret("redis://option")
    assert (both.mode, both.instance, both.prefix) == (SharingMode.STRICT, "desk", "team")
    assert both.source == "--redis-url"
    from_environment = choose_state(file, None, environ=environ)
    assert from_environment.redis_url == Secret("redis://environment")
    assert from_environment.source == "SMARTFALLBACK_REDIS_URL"
    assert choose_state(file, None, environ={"SMARTFALLBACK_REDIS_URL": " "}) == file


def test_the_demo_shares_only_with_demos_and_only_when_told_to() -> None:
    environ = {"SMARTFALLBACK_REDIS_URL": "redis://the-real-one"}
    alone = choose_state(None, None, environ=environ)
    assert alone.redis_url is None
    together = choose_state(None, "redis://option", environ=environ)
    assert together.prefix == alone.prefix == "smartfallback-demo"


def test_a_wrong_address_in_the_environment_is_told_by_its_name() -> None:
    with pytest.raises(RedisUrlError, match="SMARTFALLBACK_REDIS_URL: a host is missing") as raised:
        choose_state(StateSettings(), None, environ={"SMARTFALLBACK_REDIS_URL": f"redis://:{PASSWORD}@:1"})
    assert PASSWORD not in str(raised.value)


def test_a_server_is_shared_beside_the_file_that_is_kept() -> None:
    settings = StateSettings(
        Secret(f"redis://:{PASSWORD}@10.0.0.5:6379/0"), SharingMode.STRICT, "desk", "team"
    )
    stores = open_stores(settings)
    assert stores.store is not None
    assert stores.shared is not None
    assert stores.shared.kind is StoreKind.REDIS
    assert "10.0.0.5" in stores.shared.place
    assert PASSWORD not in stores.shared.place
    assert stores.sharing == SharingSpec(SharingMode.STRICT, "desk")
    assert open_stores(settings, keep=False).store is None
