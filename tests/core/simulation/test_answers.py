from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartfallback.simulation.answers import NOTE, Answers
from smartfallback.simulation.topics import find_topic, subject, topics

QUESTIONS = [topic.question for topic in topics()]


def test_there_are_forty_distinct_questions() -> None:
    assert len(set(QUESTIONS)) == 40


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_question_finds_its_own_topic_and_answers_vary(question: str) -> None:
    topic = find_topic(question)
    assert topic is not None
    assert topic.question == question
    answers = Answers(Random(3))
    texts = [answers.answer([question]) for _ in range(12)]
    assert len(set(texts)) >= 6
    assert all(topic.lead in text and NOTE not in text for text in texts)


def test_answers_use_headings_lists_code_and_emphasis() -> None:
    answers = Answers(Random(1))
    texts = [answers.answer([question]) for question in QUESTIONS * 3]
    for form in (r"^### ", r"^- \*\*", r"^1\. ", r"^```sql$", r"^```python$"):
        assert any(re.search(form, text, re.MULTILINE) for text in texts), form


def test_a_topic_is_recognised_in_other_words() -> None:
    topic = find_topic("hey, could you explain circuit breakers? our slow dependency kills a service")
    assert topic is not None
    assert topic.question.startswith("How does a circuit breaker")


def test_an_unprepared_prompt_is_answered_in_its_words_and_says_that_it_is_simulated() -> None:
    text = Answers(Random(1)).answer(["Tell me a joke about penguins"])
    assert "joke about penguins" in text
    assert text.endswith(NOTE)


def test_a_follow_up_is_answered_from_the_question_before() -> None:
    topic = topics()[0]
    text = Answers(Random(1)).answer(["What is the CAP theorem?", topic.question, "Can you give an example?"])
    assert topic.lead in text


def test_the_same_seed_gives_the_same_text() -> None:
    first, second, other = Answers(Random(5)), Answers(Random(5)), Answers(Random(6))
    texts = [[a.answer([question]) for question in QUESTIONS] for a in (first, second, other)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_the_subject_is_a_run_of_the_prompts_own_words() -> None:
    assert subject("How can I cook rice for ten people?") == "cook rice for ten"
    assert subject("Why?") == ""


@settings(deadline=None, max_examples=150)
@given(prompts=st.lists(st.text(max_size=400), max_size=3), seed=st.integers(0, 99))
def test_any_prompt_gets_30_to_250_words_of_markdown(prompts: list[str], seed: int) -> None:
    text = Answers(Random(seed)).answer(prompts)
    assert 30 <= len(text.split()) <= 250
    assert text.count("```") % 2 == 0


def test_the_request_to_go_on_with_a_broken_answer_is_not_taken_for_the_question() -> None:
    question = "Tell me about the sea"
    go_on = "Your answer broke off there. Go on exactly where it stopped."
    whole = Answers(Random(3)).answer([question])
    rest = Answers(Random(3)).answer([question, go_on])
    assert whole.endswith(rest)
    assert 0 < len(rest) < len(whole), "the opening was there before the break"
