"""A configuration without mistakes becomes exactly the system that it describes."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

import keyring
import keyring.backend
import pytest

from smartfallback.config import ConfigError, load_config
from smartfallback.config.secret_references import SecretReader, UnreadableSecretError
from smartfallback.config.starter import STARTER
from smartfallback.model.circuits import ACCOUNT_DEFAULT, PROVIDER, CircuitState, RateLimitRule
from smartfallback.model.quota import QuotaThresholds, QuotaUnit, WindowKind, WindowSpec
from smartfallback.model.requests import Capability
from smartfallback.model.secrets import Secret
from smartfallback.model.specs import (
    AccountSpec,
    ChainSpec,
    HybridSettings,
    PoolSpec,
    Price,
    ProviderKind,
    Recency,
    ReserveRule,
    Strategy,
    Timeouts,
)

KEY = "k3y-0123456789-abcdef"

FULL = """\
[pools.antigravity]
provider = "gemini"
model = "gemini-2.5-flash"
strategy = "lru"
reserve = "never"
context_tokens = 1_000_000
capabilities = ["tools", "vision"]
default_output_tokens = 512
burst_cooldown_s = 2
price = { input = 0.3, output = 2.5 }
notice = "hello"
provider_id = "google"

[pools.antigravity.hybrid]
quota_weight = 0.5
recency_weight = 0.5
recency = "rested"
top_k = 2

[pools.antigravity.thresholds]
soft_limit = 70
hard_limit = 90

[pools.antigravity.timeouts]
first_token_s = 7.5
adaptive_first_token = false

[pools.antigravity.account_circuit]
preset = "service"
recovery_timeout_s = 9
on_rate_limit = "ignore"
initial_state = "observe_only"

[pools.antigravity.provider_circuit]
failure_threshold = 2

[[pools.antigravity.accounts]]
id = "ag-1"
api_key = { env = "KEY" }
project = "p"
max_concurrency = 3
quota = [
  { window = "week", unit = "tokens", limit = 5_000_000, resets = "sun 00:00 UTC" },
  { window = "5h", unit = "fraction" },
]

[pools.plain]
provider = "openai"
model = "m"
base_url = "http://127.0.0.1:8080/v1/"
accounts = [{ id = "plain-1" }]

[pools.twin]
provider = "openai"
model = "n"
accounts = [{ id = "twin-1", base_url = "http://127.0.0.1:8080/other" }]

[pools.real]
provider = "openai"
model = "gpt"
accounts = [{ id = "real-1", api_key = { env = "KEY" } }]

[pools.local]
provider = "local"
model_path = "models/tiny.gguf"
accounts = [{ id = "gguf" }]

[chains.default]
pools = ["antigravity", "plain", "twin", "real", "local"]
timeout_s = 60
switch_on_content_filter = true

[chains.fast]
pools = ["local"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_every_setting_arrives_where_it_belongs(tmp_path: Path) -> None:
    loaded = load_config(written(tmp_path, FULL), environ={"KEY": KEY})
    antigravity, plain, twin, real, local = loaded.spec.pools
    assert antigravity == PoolSpec(
        name="antigravity",
        provider=ProviderKind.GEMINI,
        provider_id="google",
        accounts=(
            AccountSpec(
                id="ag-1",
                api_key=Secret(KEY),
                quota=(
                    WindowSpec(WindowKind.WEEK, QuotaUnit.TOKENS, 5_000_000, "sun 00:00 UTC"),
                    WindowSpec(WindowKind.FIVE_HOURS, QuotaUnit.FRACTION, 1.0),
                ),
                max_concurrency=3,
                project="p",
            ),
        ),
        model="gemini-2.5-flash",
        strategy=Strategy.LRU,
        hybrid=HybridSettings(quota_weight=0.5, recency_weight=0.5, recency=Recency.RESTED, top_k=2),
        thresholds=QuotaThresholds(soft_limit=70, hard_limit=90),
        reserve=ReserveRule.NEVER,
        account_circuit=antigravity.account_circuit,
        provider_circuit=antigravity.provider_circuit,
        timeouts=Timeouts(first_token_s=7.5, adaptive_first_token=False),
        context_tokens=1_000_000,
        capabilities=frozenset({Capability.TOOLS, Capability.VISION}),
        default_output_tokens=512,
        burst_cooldown_s=2,
        price=Price(0.3, 2.5),
        notice="hello",
    )
    circuit = antigravity.account_circuit
    assert (circuit.failure_threshold, circuit.recovery_timeout_s) == (5, 9)
    assert (circuit.on_rate_limit, circuit.initial_state) == (RateLimitRule.IGNORE, CircuitState.OBSERVE_ONLY)
    assert antigravity.provider_circuit.failure_threshold == 2
    assert antigravity.provider_circuit.success_threshold == PROVIDER.success_threshold
    assert plain.account_circuit == ACCOUNT_DEFAULT
    assert (plain.base_url, local.model_path) == ("http://127.0.0.1:8080/v1", tmp_path / "models/tiny.gguf")
    assert local.model == "tiny"
    assert loaded.spec.chains == (
        ChainSpec(
            "default", ("antigravity", "plain", "twin", "real", "local"), 60, switch_on_content_filter=True
        ),
        ChainSpec("fast", ("local",)),
    )
    assert loaded.warnings == ()
    assert not loaded.spec.simulated
    # Pools behind one API share its circuit; the kind's own API needs no host to name it.
    assert (plain.provider_id, twin.provider_id) == ("openai@127.0.0.1:8080", "openai@127.0.0.1:8080")
    assert real.provider_id == "openai"


def test_the_home_folder_is_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    loaded = load_config(written(tmp_path, FULL.replace("models/tiny", "~/tiny")), environ={"KEY": KEY})
    assert loaded.spec.pools[-1].model_path == tmp_path / "home" / "tiny.gguf"


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf" + FULL.replace("\n", "\r\n").encode())
    assert len(load_config(path, environ={"KEY": KEY}).spec.pools) == 5


def test_what_works_but_should_be_known_is_a_warning(tmp_path: Path) -> None:
    text = FULL.replace('{ env = "KEY" }', f'"{KEY}"', 1) + (
        '[pools.spare]\nprovider = "local"\nmodel_path = "x"\naccounts = [{ id = "s" }]\n'
        '[state]\nmode = "strict"\n'
    )
    path = written(tmp_path, text)
    path.chmod(0o644)
    loaded = load_config(path, environ={"KEY": KEY})
    assert loaded.spec.pools[0].accounts[0].api_key == Secret(KEY)
    assert loaded.state.mode == "strict"
    told = sorted((warning.line, warning.key) for warning in loaded.warnings)
    first_key = FULL.splitlines().index('api_key = { env = "KEY" }') + 1
    count = len(FULL.splitlines())
    assert told == [
        (1, ""),
        (first_key, "pools.antigravity.accounts[0].api_key"),
        (count + 1, "pools.spare"),
        (count + 6, "state.mode"),
    ]
    everything = "\n".join(map(str, loaded.warnings))
    assert KEY not in everything
    assert '{ env = "NAME" }' in everything
    assert "chmod 600" in everything


@pytest.mark.parametrize("reference", ['{ env = "URL" }', '"redis://:pa55word@127.0.0.1:6379/0"'])
def test_the_address_of_redis_is_kept_as_a_secret(tmp_path: Path, reference: str) -> None:
    url = "redis://:pa55word@127.0.0.1:6379/0"
    path = written(tmp_path, FULL + f"[state]\nredis_url = {reference}\n")
    loaded = load_config(path, environ={"KEY": KEY, "URL": url})
    assert loaded.state.redis_url == Secret(url)
    assert loaded.state.mode == "leased"
    assert "pa55word" not in repr(loaded)
    assert all(warning.key == "state.redis_url" for warning in loaded.warnings)
    literal = [warning for warning in loaded.warnings if "stands in the file itself" in warning.message]
    assert len(literal) == ("env" not in reference)
    assert loaded.state.source == "redis_url in [state]"


def test_the_starter_works_once_its_key_is_set(tmp_path: Path) -> None:
    path = written(tmp_path, STARTER)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})
    [mistake] = caught.value.mistakes
    assert "ANTIGRAVITY_KEY_1 is not set" in mistake.problem
    loaded = load_config(path, environ={"ANTIGRAVITY_KEY_1": KEY})
    assert loaded.warnings == ()
    [pool] = loaded.spec.pools
    assert [account.id for account in pool.accounts] == ["ag-1"]
    assert loaded.spec.chains == (ChainSpec("default", ("antigravity",)),)


def test_all_that_the_starter_has_commented_out_is_right_too(tmp_path: Path) -> None:
    """Everything that looks like TOML behind a comment sign works when the sign is removed."""
    lines = []
    for line in STARTER.splitlines():
        bare = line.removeprefix("# ")
        is_setting = bare.startswith("[") or bare.split("=")[0].strip().replace("_", "").isalpha()
        lines.append(bare if line.startswith("# ") and is_setting and ("=" in bare or "[" in bare) else line)
    text = "\n".join(lines).replace('"https://…"', '"https://host"')
    environ = {"ANTIGRAVITY_KEY_1": KEY, "ANTIGRAVITY_KEY_2": KEY, "OPENROUTER_API_KEY": KEY}
    loaded = load_config(written(tmp_path, text), environ=environ)
    assert [pool.name for pool in loaded.spec.pools] == ["antigravity", "openrouter", "local"]
    antigravity = loaded.spec.pools[0]
    assert [account.id for account in antigravity.accounts] == ["ag-1", "ag-2"]
    assert antigravity.accounts[0].project == "my-project"
    assert antigravity.thresholds.soft_limit == 80
    assert antigravity.price == Price(0.30, 2.50)


class Warned:
    """Collects warnings."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> None:
        self.texts.append(text)


def test_a_secret_in_a_file_is_read_without_its_line_end(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    warned = Warned()
    reader = SecretReader(tmp_path, {})
    assert reader.read({"file": "key"}, warned) == Secret(KEY)
    assert reader.read({"file": str(path)}, warned) == Secret(KEY)
    assert warned.texts == []
    path.chmod(0o640)
    assert reader.read({"file": "key"}, warned) == Secret(KEY)
    assert len(warned.texts) == 1
    assert "other users" in warned.texts[0]


def test_a_command_is_run_once_without_a_shell_and_its_first_line_taken(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; pathlib.Path('runs').open('a').write('x');"
        "print(sys.argv[1]); print('second line'); print('noise', file=sys.stderr)"
    )
    command = {"command": [sys.executable, "-c", program, f"$(echo {KEY})"]}
    reader = SecretReader(tmp_path, {})
    assert reader.read(command, Warned()) == Secret(f"$(echo {KEY})")
    assert reader.read(command, Warned()) == Secret(f"$(echo {KEY})")
    assert (tmp_path / "runs").read_text() == "x"


def test_a_command_that_never_ends_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    fifo = tmp_path / "held"
    program = (
        "import os, subprocess, sys;"
        f"os.mkfifo({str(fifo)!r}); out = os.open({str(fifo)!r}, os.O_RDWR);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], pass_fds=[out]).wait()"
    )
    reader = SecretReader(tmp_path, {}, command_limit_s=1.0)
    with pytest.raises(UnreadableSecretError, match="did not end within 1 s"):
        reader.read({"command": [sys.executable, "-c", program]}, Warned())
    # The pipe's end is reached once nobody is left who could write; a survivor would hold it open.
    held = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        ended = select.poll()
        ended.register(held, select.POLLHUP)
        try:
            assert os.read(held, 1) == b""
        except BlockingIOError:
            assert ended.poll(10_000), "something that the command started is still there"
    finally:
        os.close(held)


class OneEntry(keyring.backend.KeyringBackend):
    """A keyring with one entry."""

    priority = 1

    def get_password(self, service: str, username: str) -> str | None:
        return KEY if (service, username) == ("smart/fallback", "ag-1") else None

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError

    def delete_password(self, service: str, username: str) -> None:
        raise NotImplementedError


def test_a_secret_in_the_keyring(tmp_path: Path) -> None:
    before = keyring.get_keyring()
    keyring.set_keyring(OneEntry())  # type: ignore[no-untyped-call]  # the package's base class has none
    try:
        reader = SecretReader(tmp_path, {})
        assert reader.read({"keyring": "smart/fallback/ag-1"}, Warned()) == Secret(KEY)
        with pytest.raises(UnreadableSecretError, match="no entry smartfallback/ag-2") as caught:
            reader.read({"keyring": "smartfallback/ag-2"}, Warned())
        assert caught.value.suggestion == "keyring set smartfallback ag-2"
    finally:
        keyring.set_keyring(before)


def test_without_the_keyring_package_the_report_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(UnreadableSecretError, match="keyring is not installed") as caught:
        SecretReader(tmp_path, {}).read({"keyring": "a/b"}, Warned())
    assert "pip install keyring" in caught.value.suggestion
