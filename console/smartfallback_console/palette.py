"""The command palette: every action of the registry, pointed at every account it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.command import DiscoveryHit, Hit, Hits, Provider

from smartfallback_console.actions import Target
from smartfallback_console.formatting import clean
from smartfallback_console.screens.dashboard import Dashboard

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGETS_SHOWN = 200
"""More targets than this are left to the command line, whose completion costs nothing."""


class ActionProvider(Provider):
    """Finds actions by title, and with a target by the line that the command line would take."""

    def _entries(self) -> Iterator[tuple[str, str, str]]:
        """(what is shown, its meaning, the line or the action's id)."""
        dashboard = self.app.screen_stack[0] if self.app.screen_stack else None
        for screen in self.app.screen_stack:
            if isinstance(screen, Dashboard):
                dashboard = screen
        if not isinstance(dashboard, Dashboard):
            return
        for action in dashboard.actions:
            if action.id == "command":
                continue
            yield action.title, action.description, f"#{action.id}"
        for action in dashboard.actions:
            if action.target in (Target.NONE, Target.POOL):
                continue
            for name in dashboard.targets(action)[:TARGETS_SHOWN]:
                for verb in action.verbs:
                    yield f"{verb} {clean(name)}", action.description, f"{verb} {name}"

    async def discover(self) -> Hits:
        """Every action, before anything is typed."""
        for title, meaning, line in self._entries():
            if line.startswith("#"):
                yield DiscoveryHit(title, self._runner(line), help=meaning)

    async def search(self, query: str) -> Hits:
        """Actions and targets that fit what was typed."""
        matcher = self.matcher(query)
        for title, meaning, line in self._entries():
            score = matcher.match(title)
            if score > 0:
                yield Hit(score, matcher.highlight(title), self._runner(line), text=title, help=meaning)

    def _runner(self, line: str) -> _Run:
        return _Run(self, line)


class _Run:
    """What a palette entry does when it is chosen."""

    def __init__(self, provider: Provider, line: str) -> None:
        self._provider = provider
        self._line = line

    def __call__(self) -> None:
        for screen in self._provider.app.screen_stack:
            if isinstance(screen, Dashboard):
                if self._line.startswith("#"):
                    screen.action_operate(self._line[1:])
                else:
                    screen.run_line(self._line)
                return
