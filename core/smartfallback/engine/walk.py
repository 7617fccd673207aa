"""One request's way through its chain."""

from __future__ import annotations

from typing import NamedTuple

from smartfallback.engine.roster import AccountRuntime, Chain, PoolRuntime, Step
from smartfallback.model.decisions import Skip
from smartfallback.model.quota import QuotaEstimate
from smartfallback.model.requests import Message, Request, Role, characters

CHARACTERS_A_TOKEN = 4
SHORTEST_ANSWER = 64
"""An answer of fewer tokens is worth less than an error."""
_TOKENS_A_MESSAGE = 4
_CONTINUED_FROM = 60_000
"""So many of the last characters of a broken answer are sent along to be continued."""
_GO_ON = (
    "Your answer broke off there. Go on exactly where it stopped, in the middle of a word if need be. "
    "Repeat nothing of it and say nothing about this interruption."
)


def estimate_tokens(messages: tuple[Message, ...]) -> int:
    """Tokens of a conversation at four characters each, the usual rule of thumb for English text."""
    return characters(messages) // CHARACTERS_A_TOKEN + _TOKENS_A_MESSAGE * len(messages)


class Reduced(NamedTuple):
    """Less than was asked for: a part of the conversation, or a shorter answer."""

    conversation: tuple[Message, ...]
    most_output_tokens: int | None


class Walk:
    """What a request has tried, what it must not try, and why accounts were passed over last.

    Attributes:
        conversation: The request's messages, as far as they were not left out.
        messages: What is sent: the conversation, and a broken answer with the wish to go on.
        tried: Accounts that were asked; those asked for the pool's cheaper model are in ``tried_cheaper``.
        last_resort: Nobody else can serve, so accounts that failed a moment ago are asked too.
        most_output_tokens: The answer's limit: the request's own, or a shorter one.
    """

    __slots__ = (
        "_whole_output",
        "chain",
        "closed_pools",
        "conversation",
        "last_resort",
        "messages",
        "most_output_tokens",
        "pinned",
        "request",
        "skips",
        "timeout_s",
        "tokens_in",
        "tried",
        "tried_cheaper",
        "turned_away",
    )

    def __init__(
        self, request: Request, chain: Chain, timeout_s: float, pinned: AccountRuntime | None = None
    ) -> None:
        self.request = request
        self.pinned = pinned
        self.chain = chain
        self.timeout_s = timeout_s
        self.conversation = self.messages = request.messages
        self.tokens_in = estimate_tokens(request.messages)
        self.most_output_tokens = self._whole_output = request.max_output_tokens
        self.tried: set[AccountRuntime] = set()
        self.tried_cheaper: set[AccountRuntime] = set()
        self.turned_away: dict[AccountRuntime, Skip] = {}
        """Accounts on which other instances leave no room for the request as it is."""
        self.closed_pools: set[PoolRuntime] = set()
        self.last_resort = pinned is not None
        self.skips: list[Skip] = []

    def trim(self, messages: tuple[Message, ...]) -> None:
        """Go on with a shorter conversation."""
        self.conversation = self.messages = messages
        self.tokens_in = estimate_tokens(messages)
        self.turned_away.clear()

    def shorten(self) -> bool:
        """Go on with half as long an answer; False when it would be too short to be of use."""
        most = self.most_output_tokens
        if most is None:
            most = max(pool.spec.default_output_tokens for pool in self.pools)
        if most // 2 < SHORTEST_ANSWER:
            return False
        self.most_output_tokens = most // 2
        self.turned_away.clear()
        return True

    def go_on_from(self, text: str, tokens_out: int) -> None:
        """Ask the next candidate to continue ``text``, an answer that broke off after ``tokens_out``."""
        if not self.continues:
            self._whole_output = self.most_output_tokens
        broken = Message(Role.ASSISTANT, text[-_CONTINUED_FROM:])
        self.messages = (*self.conversation, broken, Message(Role.USER, _GO_ON))
        self.tokens_in = estimate_tokens(self.messages)
        if self._whole_output is not None:
            self.most_output_tokens = max(1, self._whole_output - tokens_out)

    def renew(self) -> None:
        """Begin the walk anew, as after a time in the queue."""
        self.tried.clear()
        self.tried_cheaper.clear()
        self.turned_away.clear()
        self.closed_pools.clear()
        self.reduce(None)

    @property
    def reduced(self) -> Reduced | None:
        """What is asked for instead of the request as it is; None when that is asked for."""
        form = Reduced(self.conversation, self.most_output_tokens)
        return None if form == (self.request.messages, self.request.max_output_tokens) else form

    def reduce(self, form: Reduced | None) -> None:
        """Ask for less, or with None for the request as it is."""
        if form is None:
            form = Reduced(self.request.messages, self.request.max_output_tokens)
        self.trim(form.conversation)
        self.most_output_tokens = form.most_output_tokens

    @property
    def continues(self) -> bool:
        """Whether what is asked for is the rest of an answer."""
        return self.messages is not self.conversation

    def model_for(self, step: Step) -> str:
        """The model that the request gets at ``step``."""
        spec = step.pool.spec
        return spec.cheaper_model if step.cheaper else self.request.model or spec.model

    def may_take(self, step: Step) -> bool:
        """Whether the request lets itself be served by the step's model at all."""
        if not step.cheaper:
            return True
        wanted = self.request.model
        return wanted is None or wanted == step.pool.spec.model

    def expected(self, pool: PoolRuntime) -> tuple[QuotaEstimate, int]:
        """What an attempt in ``pool`` is expected to spend, and the output tokens in it."""
        output = self.most_output_tokens or pool.spec.default_output_tokens
        return QuotaEstimate(self.tokens_in + output), output

    @property
    def pools(self) -> tuple[PoolRuntime, ...]:
        """The pools that may serve: the chain's, or that of the pinned account."""
        return self.chain.pools if self.pinned is None else (self.pinned.pool,)

    @property
    def kind(self) -> tuple[object, ...]:
        """Requests of one kind can be served by the same accounts, as far as their sizes are alike."""
        request = self.request
        return (
            self.chain.name,
            request.pin,
            request.avoid,
            request.requires,
            request.model,
            self.tokens_in.bit_length(),
            self.most_output_tokens,
            frozenset(self.tried),
            frozenset(self.tried_cheaper),
            frozenset(self.turned_away),
            frozenset(self.closed_pools),
        )
