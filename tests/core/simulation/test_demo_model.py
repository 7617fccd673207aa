"""The demo model is a GGUF that llama.cpp itself loads, and its answers say what it is."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import llama_cpp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.simulation import demo_model
from smartfallback.simulation.chain_model import END, START, write_chain_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "demo.gguf"
    demo_model.write_demo_model(path)
    return path


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[llama_cpp.Llama]:
    model = llama_cpp.Llama(str(path), n_ctx=2048, n_batch=64, n_threads=1, verbose=False)
    yield model
    model.close()


def answer(model: llama_cpp.Llama, prompt: str, *, temperature: float, seed: int) -> tuple[str, str]:
    reply: Any = model.create_chat_completion(
        [{"role": "user", "content": prompt}], temperature=temperature, seed=seed
    )
    choice = reply["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


@pytest.mark.parametrize("temperature", [0.0, 0.8, 2.0])
def test_every_answer_says_that_it_is_the_demo_model_and_ends_by_itself(
    model: llama_cpp.Llama, temperature: float
) -> None:
    for seed in range(10):
        text, finish_reason = answer(model, "Who wrote Faust?", temperature=temperature, seed=seed)
        assert "demo model" in text
        assert "model_path" in text
        assert finish_reason == "stop"


def test_answers_vary_with_the_seed_and_not_without_temperature(model: llama_cpp.Llama) -> None:
    assert len({answer(model, "Hi", temperature=0.8, seed=seed)[0] for seed in range(20)}) > 5
    assert len({answer(model, "Hi", temperature=0.0, seed=seed)[0] for seed in range(5)}) == 1


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\u2581"), max_size=60))
def test_any_prompt_can_be_tokenized_and_read_back(model: llama_cpp.Llama, prompt: str) -> None:
    tokens = model.tokenize(prompt.encode(), add_bos=False)
    # A leading space is dropped when tokens are turned back into text.
    assert model.detokenize(tokens).decode().removeprefix(" ") == prompt.removeprefix(" ")


def test_common_english_takes_fewer_tokens_than_letters(model: llama_cpp.Llama) -> None:
    text = b"What is the best thing to do with the other model in the morning?"
    assert len(model.tokenize(text, add_bos=False)) < len(text) * 0.75


def test_file_is_small_deterministic_and_leaves_nothing_else_behind(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "folder" / "again.gguf"
    demo_model.write_demo_model(again)
    assert again.read_bytes() == path.read_bytes()
    assert again.stat().st_size < 1_000_000
    assert list(again.parent.iterdir()) == [again]


def test_failed_write_keeps_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "demo.gguf"
    path.write_bytes(b"before")
    gguf = importlib.import_module("gguf")

    def full_disk(_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        demo_model.write_demo_model(path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_cached_file_is_written_once_and_anew_for_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: tmp_path)
    first = demo_model.demo_model_path()
    assert first.parent == tmp_path
    assert first.is_file()
    written_at = first.stat().st_mtime_ns
    assert demo_model.demo_model_path() == first
    assert first.stat().st_mtime_ns == written_at
    first.unlink()
    assert demo_model.demo_model_path().is_file()
    monkeypatch.setattr(demo_model, "VERSION", demo_model.VERSION + 1)
    second = demo_model.demo_model_path()
    assert second != first
    assert second.is_file()


def test_without_the_extra_the_path_is_named_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: tmp_path)
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert not demo_model.demo_model_path().exists()
    assert list(tmp_path.iterdir()) == []


def test_a_place_may_be_left_out_and_repeated_words_stay_apart() -> None:
    chain = demo_model.chain_of(
        [[(1, "one two")], [(1, " two three"), (3, "")], [(1, " one two four")]],
    )
    assert chain == {
        START: [("one", 1)],
        "one": [(" two", 1)],
        " two": [(" two three", 1), (" one", 3)],
        " two three": [(" one", 1)],
        " one": [(" two four", 1)],
        " two four": [(END, 1.0)],
    }


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ({"a": [(END, 1)]}, "no opening"),
        ({START: [("a", 1)]}, "no piece of the chain"),
        ({START: [("a", 1)], "a": []}, "leads nowhere"),
        ({START: [("a", 0)], "a": [(END, 1)]}, "above 0"),
    ],
)
def test_broken_chains_are_refused(
    tmp_path: Path, chain: dict[str, list[tuple[str, float]]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_chain_model(tmp_path / "model.gguf", chain, name="broken")
    assert list(tmp_path.iterdir()) == []
