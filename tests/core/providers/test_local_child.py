"""The child process by itself: it never outlives its parent, and stops between any two steps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartfallback.providers.local_model import Interrupted, LocalModel, Refused
from smartfallback.providers.local_protocol import (
    Cancel,
    Failed,
    Fault,
    Finished,
    Generate,
    LoadFailed,
    Ready,
    Settings,
    Stopped,
    Text,
    decode_order,
    decode_report,
    encode,
)
from support.local_models import WORDS, gone_within, write_endless_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PARENT = """
import asyncio, sys
from contextlib import aclosing
from pathlib import Path
from smartfallback.clock import SystemClock
from smartfallback.providers.local import LocalProvider
from support.local_models import local_call, local_pool

async def main(path: str, what: str) -> None:
    provider = LocalProvider(local_pool(Path(path), context_tokens=8192), SystemClock())
    async with aclosing(provider.stream(local_call(max_tokens=1 if what == "idle" else None))) as chunks:
        async for chunk in chunks:
            if what == "answering":
                print(provider.pid, flush=True)
                what = "answering on"
    print(provider.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""

LOADS_FOR_EVER = """
import os, time
with open(os.environ["PID_PIPE"], "w") as pipe:
    pipe.write(str(os.getpid()))
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_endless_model(tmp_path_factory.mktemp("models") / "endless.gguf")


@pytest.fixture(scope="module")
def model(endless: Path) -> LocalModel:
    return LocalModel(Settings(str(endless), 8192, 1))


@pytest.fixture
def start_parent(endless: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(what: str, **environment: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([*filter(None, [environment.pop("SHADOW", "")]), *sys.path])
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(endless), what],
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(parent)
        return parent

    yield start
    for parent in started:
        parent.kill()
        parent.communicate(timeout=10)


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("idle", signal.SIGKILL),
        ("answering", signal.SIGKILL),
        ("answering", signal.SIGTERM),
        ("answering", signal.SIGINT),
    ],
)
def test_child_ends_with_its_parent(
    start_parent: Callable[..., subprocess.Popen[str]], what: str, how: signal.Signals
) -> None:
    parent = start_parent(what)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert not gone_within(child, 0)
    parent.send_signal(how)
    parent.wait(timeout=10)
    assert gone_within(child, 10)


def test_child_ends_with_its_parent_while_it_loads(
    start_parent: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "llama_cpp.py").write_text(LOADS_FOR_EVER)
    pipe = tmp_path / "pid"
    os.mkfifo(pipe)
    parent = start_parent("idle", SHADOW=str(tmp_path), PID_PIPE=str(pipe))
    child = int(pipe.read_text())
    assert not gone_within(child, 0)
    parent.kill()
    assert gone_within(child, 10)


def test_prompt_can_be_interrupted_between_steps_and_the_model_goes_on(model: LocalModel) -> None:
    polls = iter([False, False])
    long_prompt = Generate(1, [["user", "x" * 4000]], None, None)
    with pytest.raises(Interrupted):
        list(model.answer(long_prompt, lambda: next(polls, True)))
    pieces = list(model.answer(Generate(2, [["user", "x" * 4000]], 5, 0.0), lambda: False))
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == "".join(WORDS)


def test_answer_can_be_interrupted_between_tokens(model: LocalModel) -> None:
    cancelled = False
    pieces = model.answer(Generate(1, [["user", "Hi"]], None, None), lambda: cancelled)
    assert next(pieces) == WORDS[0]
    cancelled = True
    with pytest.raises(Interrupted):
        list(pieces)


def test_repeated_conversation_counts_the_same(model: LocalModel) -> None:
    order = Generate(1, [["system", "Be brief."], ["user", "Hi"]], 4, 0.0)
    ends = {list(model.answer(order, lambda: False))[-1] for _ in range(3)}
    assert len(ends) == 1
    end = ends.pop()
    assert isinstance(end, Finished)
    assert end.output_tokens == 4


def test_context_is_at_most_the_models_own(endless: Path) -> None:
    assert LocalModel(Settings(str(endless), 100_000, 1)).context_tokens == 8192
    assert LocalModel(Settings(str(endless), 512, 1)).context_tokens == 512


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda _: b"", "not a GGUF file"),
        (lambda _: b"Not a model", "not a GGUF file"),
        (lambda whole: whole[:200], "exceeds remaining file size"),
        (lambda whole: whole[:-50_000], "corrupted or incomplete"),
        (lambda whole: whole.replace(b"llama", b"lamal", 1), "lamal"),
    ],
    ids=["empty", "text", "header only", "cut", "other architecture"],
)
def test_reason_of_a_failed_load_is_told_with_the_file(
    endless: Path, tmp_path: Path, damage: Callable[[bytes], bytes], reason: str
) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damage(endless.read_bytes()))
    with pytest.raises(Refused, match=reason) as raised:
        LocalModel(Settings(str(path), 512, 1))
    assert raised.value.fault is Fault.MODEL
    assert str(path) in str(raised.value)


NUMBERS = st.integers(0, 2**31)
REPORTS = st.one_of(
    st.builds(Ready, NUMBERS),
    st.builds(LoadFailed, st.sampled_from(Fault), st.text()),
    st.builds(Text, NUMBERS, st.text()),
    st.builds(Finished, NUMBERS, st.text(), NUMBERS, NUMBERS),
    st.builds(Stopped, NUMBERS),
    st.builds(Failed, NUMBERS, st.sampled_from(Fault), st.text()),
)
ORDERS = st.one_of(
    st.builds(
        Generate,
        NUMBERS,
        st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=4),
        st.none() | NUMBERS,
        st.none() | st.floats(0, 2),
    ),
    st.builds(Cancel, NUMBERS),
)


@given(REPORTS)
def test_reports_survive_the_line(report: object) -> None:
    line = encode(report)  # type: ignore[arg-type]  # hypothesis can't name a union of strategies
    assert line.count(b"\n") == 1
    assert decode_report(line) == report


@given(ORDERS)
def test_orders_survive_the_line(order: object) -> None:
    line = encode(order)  # type: ignore[arg-type]  # hypothesis can't name a union of strategies
    assert line.count(b"\n") == 1
    assert decode_order(line) == order


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"llama_model_load: noise\n",
        b"[]\n",
        b'"Ready"\n',
        b'{"kind": "Ready"}\n',
        b'{"kind": ["Ready"], "context_tokens": 1}\n',
        b'{"kind": "Cancel", "id": 1}\n',
        b"\xff\n",
    ],
)
def test_lines_that_are_no_report_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the types and texts below ValueError are json's own
        decode_report(line)
