"""Answers that read like answers: varied Markdown that takes up the words of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from smartfallback.simulation.topics import Topic, find_topic, keywords, subject

NOTE: Final = "*This is a simulated answer; connect an account of your own for a real one.*"
"""Ends every answer to a prompt that nothing is prepared for: such text is form without knowledge."""

_FOLLOW_UP_WORDS: Final = 3
_LABELS: Final = ("The essentials:", "In practice:", "What matters:", "Worth knowing:", "The short list:")
_EXAMPLES: Final = ("For example:", "A sketch:", "As a starting point:", "In code:")
_DOUBTS: Final = (
    "If your case differs, tell me about the load and the constraints, and I'll adapt this.",
    "Measure before and after; the numbers decide better than any rule.",
    "Start with the first point, because it pays off soonest.",
    "Begin small, and widen it once it has held for a week.",
)
_OPENINGS: Final = {
    "how": (
        "Here is a way to go about **{subject}** that keeps each step small.",
        "For **{subject}**, three steps get you most of the way.",
    ),
    "why": (
        "Usually there is more than one reason behind **{subject}**, so it pays to separate them.",
        "The short answer on **{subject}**: look for the constraint that everything else follows from.",
    ),
    "compare": (
        "Both sides of **{subject}** have their place; the question is what you optimise for.",
        "With **{subject}** the honest answer is a trade-off, so here are the criteria.",
    ),
    "make": (
        "Here is a first draft for **{subject}** that you can shape further.",
        "A simple version of **{subject}** first; details can follow once it holds.",
    ),
    "talk": (
        "Let me take **{subject}** one piece at a time.",
        "A few thoughts on **{subject}**, from the general to the concrete.",
    ),
}
_POINTS: Final = {
    "how": (
        ("Goal", "write down what should be true of {a} when you are done"),
        ("Smallest step", "change one thing about {b} and look at the effect"),
        ("Check", "compare with the state before, not with a feeling"),
        ("Way back", "know how to undo it before you begin"),
    ),
    "why": (
        ("What changed", "look at {a} just before it began"),
        ("Where it shows", "follow {b} from the symptom back to the cause"),
        ("How often", "rare and constant problems have different causes"),
        ("Counter-test", "name an observation that would prove the explanation wrong"),
    ),
    "compare": (
        ("Cost", "count the running cost of {a}, not only the start"),
        ("Risk", "ask what happens when {b} goes wrong, and who notices"),
        ("Habit", "what the team already knows is worth more than a small gain"),
        ("Exit", "prefer the choice that is easier to take back"),
    ),
    "make": (
        ("Core", "{a} on its own, without options"),
        ("Edges", "empty, very long and unexpected cases of {b}"),
        ("Form", "short sentences, one idea in each"),
        ("Next", "show it to one reader and change what they stumble over"),
    ),
    "talk": (
        ("In general", "{a} is easier to judge with a concrete case at hand"),
        ("In detail", "{b} is where most of the effort tends to go"),
        ("Limits", "say what is out of scope, and the rest becomes simpler"),
        ("Next", "pick one example and play it through to the end"),
    ),
}
_CUES: Final = (
    ("compare", ("compare", "versus", " vs", "difference", "better", " or ")),
    ("make", ("write", "draft", "create", "suggest", "name", "list", "plan", "function", "script")),
    ("why", ("why", "reason", "cause", "explain", "what is", "what does")),
    ("how", ("how", "steps", "fix", "find", "set up", "should")),
)
_UNMARKED: Final = str.maketrans(dict.fromkeys("*_`[]<>#|~\\", " "))
"""Takes Markdown's own characters out of words that are quoted from a prompt."""
_BROKE_OFF: Final = "broke off"
_GREETINGS: Final = frozenset({"hello", "hi", "hey", "thanks", "thank", "hallo", "moin", "good morning"})


class Answers:
    """Writes answers of 30 to 250 words; the same random state and prompt give the same text."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def answer(self, prompts: Sequence[str]) -> str:
        """An answer in Markdown to the last of ``prompts``, the user's messages of a conversation.

        A follow-up that says little of its own is answered from the question before it, and so is the
        request to go on with an answer that broke off, which begins behind the opening words.
        """
        asked = len(prompts)
        while len(prompts) > 1 and _BROKE_OFF in prompts[-1].lower():
            prompts = prompts[:-1]
        text = self._whole(prompts)
        return _without_opening(text) if len(prompts) < asked else text

    def _whole(self, prompts: Sequence[str]) -> str:
        prompt = prompts[-1] if prompts else ""
        words = keywords(prompt)
        topic = find_topic(prompt)
        if topic is None and len(words) <= _FOLLOW_UP_WORDS:
            earlier = (find_topic(text) for text in reversed(prompts[:-1]))
            topic = next((found for found in earlier if found is not None), None)
        if topic is not None:
            return self._prepared(topic)
        if not words or words[0] in _GREETINGS:
            return self._greeting()
        return self._improvised(prompt, words)

    def _prepared(self, topic: Topic) -> str:
        rng = self._rng
        if rng.random() < 0.12:
            return f"{topic.lead} {topic.close}\n\n{rng.choice(_DOUBTS)}"
        blocks = [topic.lead]
        if rng.random() < 0.35:
            blocks.insert(0, f"### {_title(topic)}")
        points = list(topic.points)
        if len(points) > 3 and not topic.code and rng.random() < 0.3:
            points.pop(rng.randrange(len(points)))
        blocks.append(rng.choice(_LABELS))
        blocks.append(self._list(points, numbered=rng.random() < 0.3))
        if topic.code:
            blocks += [rng.choice(_EXAMPLES), f"```{topic.lang}\n{topic.code}\n```"]
        blocks.append(topic.close)
        if rng.random() < 0.45:
            blocks.append(rng.choice(_DOUBTS))
        return "\n\n".join(blocks)

    def _improvised(self, prompt: str, words: tuple[str, ...]) -> str:
        rng = self._rng
        text = f" {prompt.lower()} "
        intent = next((name for name, cues in _CUES if any(cue in text for cue in cues)), "talk")
        about = _plain(subject(prompt))
        first, second = _plain(words[0]), _plain(words[1] if len(words) > 1 else "the rest")
        blocks = [rng.choice(_OPENINGS[intent]).format(subject=about)]
        if rng.random() < 0.3:
            blocks.insert(0, f"### {about[:1].upper()}{about[1:]}")
        points = [(term, said.format(a=f"*{first}*", b=f"*{second}*")) for term, said in _POINTS[intent]]
        blocks.append(self._list(points[: rng.choice((3, 4))], numbered=intent == "how"))
        if rng.random() < 0.6:
            blocks.append(rng.choice(_DOUBTS))
        blocks.append(NOTE)
        return "\n\n".join(blocks)

    def _greeting(self) -> str:
        opening = self._rng.choice(("Hello!", "Good to hear from you.", "Hi there."))
        return (
            f"{opening} Ask me about **circuit breakers**, **SQL**, **git** or **latency**, for instance:\n\n"
            "- What causes a thundering herd and how is it avoided?\n"
            "- How do I undo the last git commit but keep my changes?\n\n"
            f"{NOTE}"
        )

    def _list(self, points: list[tuple[str, str]], *, numbered: bool) -> str:
        marks = [f"{number}." for number in range(1, len(points) + 1)] if numbered else ["-"] * len(points)
        return "\n".join(
            f"{mark} **{term}**: {said}" if said else f"{mark} {term}"
            for mark, (term, said) in zip(marks, points, strict=True)
        )


def _without_opening(text: str) -> str:
    blocks = text.split("\n\n")
    return "\n\n".join(blocks[2 if blocks[0].startswith("#") else 1 :])


def _title(topic: Topic) -> str:
    title = " ".join(keywords(topic.question)[:4])
    return title[:1].upper() + title[1:]


def _plain(words: str) -> str:
    """At most 60 characters, so that a prompt without spaces doesn't become the answer."""
    return " ".join(words[:60].translate(_UNMARKED).split())
