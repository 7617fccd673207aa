"""The hybrid strategy: the specified formula over an index that time doesn't disturb."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import chain
from math import inf

from smartfallback.model.decisions import Rule, ScoreTerms
from smartfallback.model.specs import HybridSettings, Recency
from smartfallback.policy.selection.choice import Choice, Standing
from smartfallback.policy.selection.index import Key, SlotIndex
from smartfallback.policy.selection.scoring import score_terms

Scored = tuple[int, float, float, float]
"""Slot, quota term, recency term and score."""


class HybridOrder:
    """Best of the top by jittered score, and now and then the least recently used.

    Scores change with every second, their order does not: all accounts used within the recency
    horizon ("warm") lose the same score in the same time, so that
    ``quota_weight * quota + recency_weight * last_used / horizon`` orders them for good (with the
    sign of the second term turned for "rested"). All others ("cold") have the same recency term
    and are ordered by quota alone. Accounts pass from warm to cold in the order of their last
    use. So a choice needs only the tops of both orders and the two fronts by age.
    """

    __slots__ = (
        "_cold",
        "_cold_by_age",
        "_names",
        "_random",
        "_settings",
        "_standings",
        "_version",
        "_warm",
        "_warm_by_age",
        "_warm_key_slope",
    )

    def __init__(
        self,
        names: Sequence[str],
        standings: Sequence[Standing],
        settings: HybridSettings,
        rng: random.Random,
    ) -> None:
        self._names = names
        self._standings = standings
        self._settings = settings
        self._random = rng.random
        self._warm = SlotIndex(len(names))
        self._warm_by_age = SlotIndex(len(names))
        self._cold = SlotIndex(len(names))
        self._cold_by_age = SlotIndex(len(names))
        self._version = 0
        slope = settings.recency_weight / settings.recency_horizon_s
        self._warm_key_slope = slope if settings.recency is Recency.WARM else -slope

    def put(self, slot: int, now: float) -> None:
        """Insert the slot, or move it to where its standing belongs."""
        self._version += 1
        used, last_used, turn = self._standings[slot]
        if last_used > now - self._settings.recency_horizon_s:
            self._cold.remove(slot)
            self._cold_by_age.remove(slot)
            # Smallest first: percent used stands for the quota term, with its sign turned.
            burden = self._settings.quota_weight * used / 100.0 - self._warm_key_slope * last_used
            self._warm.place((burden, turn, 0.0, slot))
            self._warm_by_age.place((last_used, turn, 0.0, slot))
        else:
            self._warm.remove(slot)
            self._warm_by_age.remove(slot)
            self._cold.place((used, turn, 0.0, slot))
            self._cold_by_age.place((last_used, turn, 0.0, slot))

    def discard(self, slot: int) -> None:
        """Remove the slot if it is there."""
        self._version += 1
        for index in (self._warm, self._warm_by_age, self._cold, self._cold_by_age):
            index.remove(slot)

    def candidates(self, now: float, session: str | None) -> Iterator[Choice]:  # noqa: ARG002 - sessions don't bind here
        """Every member once; each choice draws anew among those not yet yielded."""
        self._cool(now)
        settings = self._settings
        draw = self._random
        lru_share, top_k = settings.lru_share, settings.top_k
        seen: set[int] = set()
        while True:
            version = self._version
            ranked = self._ranked(now)
            by_age: Iterator[Key] | None = None
            top: list[Scored] = []
            while version == self._version:
                while len(top) < top_k:
                    scored = next(ranked, None)
                    if scored is None:
                        break
                    if scored[0] not in seen:
                        top.append(scored)
                if not top:
                    return
                if draw() < lru_share:
                    if by_age is None:
                        by_age = chain(self._cold_by_age, self._warm_by_age)
                    slot = next(key[3] for key in by_age if key[3] not in seen)
                    choice = Choice(slot, Rule.STARVATION_PREVENTION, (self._terms(slot, now),))
                else:
                    choice = self._best_of(top)
                    slot = choice[0]
                seen.add(slot)
                yield choice
                for place, scored in enumerate(top):
                    if scored[0] == slot:
                        del top[place]
                        break

    def taken(self, slot: int, session: str | None) -> int | None:  # noqa: ARG002 - the standing of the slot says it
        """Nothing to remember: the standing of the slot tells that it was taken."""
        return None

    def forget(self, slot: int) -> None:
        """Nothing ties later requests to a slot."""

    def _cool(self, now: float) -> None:
        """Pass the accounts whose last use has left the horizon from warm to cold."""
        oldest_warm_use = now - self._settings.recency_horizon_s
        oldest = self._warm_by_age.first()
        while oldest is not None and oldest[0] <= oldest_warm_use:
            self.put(oldest[3], now)
            oldest = self._warm_by_age.first()

    def _best_of(self, top: list[Scored]) -> Choice:
        """Multiply each score by its own jitter and choose the highest."""
        settings = self._settings
        draw = self._random
        names = self._names
        low = settings.jitter_low
        spread = settings.jitter_high - low
        considered = []
        best = -1
        best_final = -inf
        for slot, quota, recency, score in top:
            jitter = low + spread * draw()
            considered.append(ScoreTerms(names[slot], quota, recency, score, jitter))
            if score * jitter > best_final:
                best_final = score * jitter
                best = slot
        return Choice(best, Rule.BEST_OF_TOP, tuple(considered))

    def _ranked(self, now: float) -> Iterator[Scored]:
        """Warm and cold merged, highest score first; neither may change meanwhile."""
        settings = self._settings
        standings = self._standings
        quota_weight, recency_weight = settings.quota_weight, settings.recency_weight
        horizon = settings.recency_horizon_s
        rested = settings.recency is Recency.RESTED
        cold = self._cold_ranked()
        next_cold = next(cold, None)
        for key in self._warm:
            slot = key[3]
            used, last_used, _ = standings[slot]
            quota = 1.0 - used / 100.0
            recency = 1.0 - (now - last_used) / horizon
            if rested:
                recency = 1.0 - recency
            score = quota_weight * quota + recency_weight * recency
            while next_cold is not None and next_cold[3] > score:
                yield next_cold
                next_cold = next(cold, None)
            yield (slot, quota, recency, score)
        if next_cold is not None:
            yield next_cold
            yield from cold

    def _cold_ranked(self) -> Iterator[Scored]:
        settings = self._settings
        recency = 1.0 if settings.recency is Recency.RESTED else 0.0
        for used, _, _, slot in self._cold:
            quota = 1.0 - used / 100.0
            yield (slot, quota, recency, settings.quota_weight * quota + settings.recency_weight * recency)

    def _terms(self, slot: int, now: float) -> ScoreTerms:
        used, last_used, _ = self._standings[slot]
        return score_terms(used, last_used, now, self._settings, self._names[slot])
