"""Whether, where and how often a pool's quota is asked for is configured, and mistakes are explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartfallback.config import ConfigError, load_config
from smartfallback.model.specs import PoolSpec, QuotaSourceRule

FILE = """\
[pools.p]
provider = "{provider}"
model = "m"
{settings}
[[pools.p.accounts]]
id = "a"
base_url = "http://127.0.0.1:1/v1"
[chains.default]
pools = ["p"]
"""


def load(folder: Path, settings: str, provider: str = "gemini") -> tuple[PoolSpec, str]:
    """The pool, and the warnings in one text."""
    path = folder / "config.toml"
    path.write_text(FILE.format(provider=provider, settings=settings))
    loaded = load_config(path)
    return loaded.spec.pools[0], "\n".join(map(str, loaded.warnings))


def refused(folder: Path, settings: str, provider: str = "gemini") -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, settings, provider)
    return str(caught.value)


def test_what_holds_without_settings(tmp_path: Path) -> None:
    pool, _ = load(tmp_path, "")
    assert (pool.quota_source, pool.quota_url, pool.quota_ttl_s) == (QuotaSourceRule.AUTO, None, None)


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("https://host/quota", "https://host/quota"),
        ("http://127.0.0.1:9/", "http://127.0.0.1:9"),
        ("/v1/quotaStatus", "/v1/quotaStatus"),
    ],
)
def test_each_setting_reaches_the_pool(tmp_path: Path, written: str, url: str) -> None:
    settings = f'quota_source = "auto"\nquota_url = "{written}"\nquota_ttl_s = 450'
    pool, warnings = load(tmp_path, settings)
    assert (pool.quota_source, pool.quota_url, pool.quota_ttl_s) == (QuotaSourceRule.AUTO, url, 450.0)
    assert "quota" not in warnings


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('quota_source = "sometimes"', ("quota_source", '"auto" or "none"')),
        ('quota_url = "quotaStatus"', ("quota_url", "is not an HTTP address")),
        ('quota_url = "//host/x"', ("quota_url", "is not a path")),
        ('quota_url = "/a?key=b"', ("quota_url", "is not a path")),
        ('quota_url = "/a b"', ("quota_url", "is not a path")),
        ('quota_url = "https://me:pw@host/x"', ("quota_url", "holds credentials")),
        ("quota_ttl_s = 5", ("quota_ttl_s", "at least 60")),
        ("quota_ttl_s = 86400", ("quota_ttl_s", "at most 3600")),
        ('quota_ttl = "x"', ("quota_ttl", "quota_ttl_s")),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, setting: str, words: tuple[str, ...]) -> None:
    report = refused(tmp_path, setting)
    assert all(word in report for word in words)


@pytest.mark.parametrize("setting", ['quota_url = "https://host/q"', "quota_ttl_s = 300"])
def test_a_provider_that_tells_no_quota_is_not_asked(tmp_path: Path, setting: str) -> None:
    assert 'no quota is asked of "openai" providers' in refused(tmp_path, setting, "openai")


def test_settings_without_effect_are_noticed(tmp_path: Path) -> None:
    pool, warnings = load(tmp_path, 'quota_source = "none"\nquota_ttl_s = 300')
    assert pool.quota_source is QuotaSourceRule.NONE
    assert 'has no effect with quota_source = "none"' in warnings
