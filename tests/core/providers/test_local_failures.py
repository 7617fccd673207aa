"""What the local provider does when the package, the file or the child process fails it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from smartfallback.clock import SystemClock
from smartfallback.model.outcomes import ErrorCategory, Failure, ProviderError
from smartfallback.providers.local import LocalProvider
from smartfallback.providers.local_supervisor import FIRST_PAUSE_S, LOAD_FAILURE_KEPT_S, RESTARTS_AT_ONCE
from support.clock import FakeClock
from support.local_models import (
    answer,
    collect,
    gone_within,
    local_call,
    local_pool,
    write_endless_model,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_endless_model(tmp_path_factory.mktemp("models") / "endless.gguf")


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
async def provider(endless: Path, notices: list[str]) -> AsyncIterator[LocalProvider]:
    provider = LocalProvider(
        local_pool(endless, context_tokens=8192),
        SystemClock(),
        on_notice=notices.append,
        stop_limit_s=0.2,
    )
    yield provider
    await provider.aclose()


def child_of(provider: LocalProvider) -> int:
    assert provider.pid is not None
    return provider.pid


async def failure_of(provider: LocalProvider) -> Failure:
    with pytest.raises(ProviderError) as raised:
        await answer(provider, max_tokens=1)
    return raised.value.failure


def shadow_package(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let child processes import ``source`` in place of llama-cpp-python."""
    folder.mkdir()
    (folder / "llama_cpp.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(folder))


async def test_child_killed_in_mid_answer_fails_that_call_and_is_replaced(
    provider: LocalProvider, notices: list[str]
) -> None:
    chunks = provider.stream(local_call())
    await anext(chunks)
    pid = child_of(provider)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ProviderError) as raised:
        await collect(chunks)
    assert raised.value.failure.category is ErrorCategory.TRANSIENT_ERROR
    assert "SIGKILL" in raised.value.failure.message
    assert await answer(provider, max_tokens=3) == "one two three"
    assert child_of(provider) != pid
    assert ["SIGKILL" in notice for notice in notices] == [True, False]
    assert "runs again" in notices[1]


async def test_child_killed_before_the_first_token_fails_that_call_only(provider: LocalProvider) -> None:
    await answer(provider, max_tokens=1)
    pid = child_of(provider)
    os.kill(pid, signal.SIGSTOP)
    running = asyncio.create_task(answer(provider))
    waiting = asyncio.create_task(answer(provider, max_tokens=2))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ProviderError) as raised:
        await running
    assert raised.value.failure.category is ErrorCategory.TRANSIENT_ERROR
    assert await waiting == "one two"


async def test_child_that_died_between_calls_is_replaced_unnoticed_by_the_caller(
    provider: LocalProvider, notices: list[str]
) -> None:
    await answer(provider, max_tokens=1)
    pid = child_of(provider)
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while provider.pid is not None:  # noqa: ASYNC110 - the watcher of processes offers no event
            await asyncio.sleep(0)
    assert await answer(provider, max_tokens=2) == "one two"
    assert len(notices) == 2


async def test_frozen_child_is_killed_when_the_call_is_cancelled(
    provider: LocalProvider, notices: list[str]
) -> None:
    await answer(provider, max_tokens=1)
    pid = child_of(provider)
    os.kill(pid, signal.SIGSTOP)
    frozen = asyncio.create_task(answer(provider))
    await asyncio.sleep(0)
    frozen.cancel()
    with pytest.raises(asyncio.CancelledError):
        await frozen
    assert await answer(provider, max_tokens=2) == "one two"
    assert gone_within(pid, 0)
    assert "did not stop" in notices[0]


async def test_frozen_child_does_not_outlive_the_provider(
    endless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartfallback.providers.local_supervisor.CLOSE_LIMIT_S", 0.1)
    provider = LocalProvider(local_pool(endless), SystemClock())
    await answer(provider, max_tokens=1)
    pid = child_of(provider)
    os.kill(pid, signal.SIGSTOP)
    await provider.aclose()
    assert gone_within(pid, 0)


async def test_crash_loop_rests_longer_each_time_and_says_so(
    endless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow_package(
        tmp_path / "broken",
        "import os, sys\nprint('assertion in ggml.c', file=sys.stderr, flush=True)\nos.abort()\n",
        monkeypatch,
    )
    clock = FakeClock()
    notices: list[str] = []
    provider = LocalProvider(local_pool(endless), clock, on_notice=notices.append)
    for _ in range(RESTARTS_AT_ONCE + 1):
        failure = await failure_of(provider)
        assert failure.category is ErrorCategory.API_FAILURE
        assert str(endless) in failure.message
        assert "SIGABRT" in failure.message
        assert "assertion in ggml.c" in failure.message
    for pause in (FIRST_PAUSE_S, 2 * FIRST_PAUSE_S):
        deaths = len(notices)
        clock.advance(pause - 1)
        failure = await failure_of(provider)
        assert failure.category is ErrorCategory.API_FAILURE
        assert failure.retry_after_s == pytest.approx(1)
        assert f"died {deaths} times in a row" in failure.message
        assert len(notices) == deaths
        clock.advance(1)
        assert "SIGABRT" in (await failure_of(provider)).message
        assert len(notices) == deaths + 1
    monkeypatch.delenv("PYTHONPATH")
    clock.advance(4 * FIRST_PAUSE_S)
    assert await answer(provider, max_tokens=1) == "one"
    await provider.aclose()


async def test_package_that_is_missing_is_named_with_what_to_install(
    endless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    clock = FakeClock()
    with monkeypatch.context() as patch:
        patch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "llama_cpp" else find_spec(name)
        )
        provider = LocalProvider(local_pool(endless), clock)
        assert "pip install 'smartfallback-console[local]'" in provider.unavailable()
        assert "C++ compiler" in provider.unavailable()
        assert (await failure_of(provider)).category is ErrorCategory.API_FAILURE
        assert provider.pid is None
    clock.advance(60)
    assert provider.unavailable() == ""


def test_asking_whether_it_is_available_does_not_import_llama_cpp(endless: Path) -> None:
    source = (
        "import sys\n"
        "from pathlib import Path\n"
        "from smartfallback.clock import SystemClock\n"
        "from smartfallback.providers.local import LocalProvider\n"
        "from support.local_models import local_pool\n"
        "assert LocalProvider(local_pool(Path(sys.argv[1])), SystemClock()).unavailable() == ''\n"
        "assert not {'llama_cpp', 'numpy', 'gguf'} & set(sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", source, str(endless)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr


async def test_package_that_can_not_be_imported_is_told_with_the_reason(
    endless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow_package(
        tmp_path / "broken", "raise ImportError('libgomp.so.1: cannot open shared object')\n", monkeypatch
    )
    provider = LocalProvider(local_pool(endless), FakeClock())
    failure = await failure_of(provider)
    assert failure.category is ErrorCategory.API_FAILURE
    assert "libgomp.so.1" in failure.message
    assert "libgomp.so.1" in provider.unavailable()
    await provider.aclose()


async def test_what_native_code_prints_does_not_get_into_the_answer(
    endless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow_package(
        tmp_path / "noisy",
        "import os, sys\n"
        "print('noise from Python')\n"
        "os.write(1, b'noise from native code\\n' * 10_000)\n"
        "os.write(2, b'more noise\\n' * 10_000)\n"
        "sys.path.remove(os.path.dirname(__file__))\n"
        "del sys.modules['llama_cpp']\n"
        "import llama_cpp\n",
        monkeypatch,
    )
    provider = LocalProvider(local_pool(endless), SystemClock())
    assert await answer(provider, max_tokens=2) == "one two"
    await provider.aclose()


async def test_files_in_the_working_directory_are_not_imported(
    endless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported a stray file')\n")
    monkeypatch.chdir(tmp_path)
    provider = LocalProvider(local_pool(endless), SystemClock())
    assert await answer(provider, max_tokens=2) == "one two"
    await provider.aclose()


async def test_paths_that_are_no_file_make_the_pool_unavailable(tmp_path: Path) -> None:
    assert "model_path" in LocalProvider(local_pool(None), FakeClock()).unavailable()
    for path in (tmp_path, tmp_path / "missing.gguf"):
        provider = LocalProvider(local_pool(path), FakeClock())
        assert str(path) in provider.unavailable()
        failure = await failure_of(provider)
        assert failure.category is ErrorCategory.API_FAILURE
        assert str(path) in failure.message
        assert provider.pid is None


@pytest.fixture
def damaged(endless: Path, tmp_path: Path) -> Path:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(endless.read_bytes()[:-50_000])
    return path


async def test_file_that_is_no_model_is_named_and_tried_again_only_with_reason(
    endless: Path, damaged: Path
) -> None:
    path = damaged
    clock = FakeClock()
    provider = LocalProvider(local_pool(path), clock)
    assert provider.unavailable() == ""
    failure = await failure_of(provider)
    assert failure.category is ErrorCategory.API_FAILURE
    assert str(path) in failure.message
    assert str(path) in provider.unavailable()
    assert provider.pid is None
    clock.advance(LOAD_FAILURE_KEPT_S + 1)
    assert provider.unavailable() == ""
    assert str(path) in (await failure_of(provider)).message
    shutil.copyfile(endless, path)
    assert provider.unavailable() == ""
    assert await answer(provider, max_tokens=2) == "one two"
    await provider.aclose()
