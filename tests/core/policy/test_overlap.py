from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.policy.overlap import LEAST_OVERLAP, LEAST_RESTART, OverlapRemover, RestartedError

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not even look up."


def fed(before: str, pieces: list[str]) -> tuple[str, int]:
    remover = OverlapRemover(before)
    new = "".join([*map(remover.feed, pieces), remover.end()])
    return new, remover.removed


def split(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in itertools.pairwise(places)]


@given(st.integers(LEAST_OVERLAP, len(TEXT)), st.integers(0, 40), st.lists(st.integers(0, 200), max_size=12))
@settings(deadline=None, max_examples=200)
def test_repeated_last_words_are_taken_out_however_the_pieces_are_cut(repeated, more, cuts):
    rest = " It has seen foxes before, it seems."[:more]
    continuation = TEXT[len(TEXT) - repeated :] + rest
    assert fed(TEXT, split(continuation, cuts)) == (rest, repeated)


@given(st.text("ab ", max_size=300), st.text("ab ", max_size=300), st.lists(st.integers(0, 300), max_size=12))
@settings(deadline=None, max_examples=300)
def test_what_comes_out_is_always_the_end_of_what_went_in(before, continuation, cuts):
    try:
        new, removed = fed(before, split(continuation, cuts))
    except RestartedError:
        assert continuation[:LEAST_RESTART] == before[:LEAST_RESTART]
        return
    assert continuation[removed:] == new
    assert before.endswith(continuation[:removed])


def test_no_text_is_held_back_once_it_is_clearly_new():
    remover = OverlapRemover(TEXT)
    assert remover.feed("Q") == "Q"
    assert remover.feed("uite so.") == "uite so."


def test_what_may_still_be_a_repetition_is_held_back():
    remover = OverlapRemover(TEXT)
    assert remover.feed("does not") == ""
    assert remover.feed(" even look up.") == ""
    assert remover.feed(" Foxes!") == " Foxes!"
    assert remover.removed == len("does not even look up.")


def test_a_few_characters_that_are_the_same_by_chance_stay():
    assert fed("one and the", [" the", " other"]) == (" the other", 0)


def test_the_whole_text_again_is_taken_out():
    assert fed(TEXT, [TEXT, " The end."]) == (" The end.", len(TEXT))
    assert fed("No", ["No", "body"]) == ("body", 2)


@pytest.mark.parametrize("pieces", [[TEXT[:30] + " But then"], list(TEXT[:30] + " But then")])
def test_the_text_begun_anew_that_goes_another_way_is_refused(pieces):
    with pytest.raises(RestartedError):
        fed(TEXT, pieces)


def test_nothing_before_means_nothing_held_back():
    remover = OverlapRemover("")
    assert remover.feed("a") == "a"
    assert (remover.end(), remover.removed) == ("", 0)
