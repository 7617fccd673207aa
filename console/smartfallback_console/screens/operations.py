"""Carries out the registry's actions for the dashboard, whichever way they were asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from smartfallback import Strategy
from smartfallback_console.actions import BY_ID, Action, Target
from smartfallback_console.chat.pane import ChatPane
from smartfallback_console.circuit_proposals import MODES, circuit_of, mode_of
from smartfallback_console.command_line import CommandError, Invocation, parse
from smartfallback_console.dialogs.choose import ChooseDialog
from smartfallback_console.dialogs.confirm import Answer, ConfirmDialog
from smartfallback_console.formatting import clean
from smartfallback_console.proposal import OperatorError, Proposal, Subject, find
from smartfallback_console.proposals import propose
from smartfallback_console.queue_proposals import drop, told
from smartfallback_console.screens.help import HelpScreen
from smartfallback_console.screens.rehearse import Rehearsals
from smartfallback_console.widgets.accounts import AccountsTable, SortKey
from smartfallback_console.widgets.pane_layout import PaneArea
from smartfallback_console.widgets.prompt import Prompt
from smartfallback_console.widgets.routing_feed import RoutingFeed

if TYPE_CHECKING:
    from smartfallback import Command
    from smartfallback_console.screens.dashboard import Dashboard

STRATEGIES = {
    "hybrid": "quota left and recency, jittered",
    "greedy": "most quota left",
    "round_robin": "each in turn",
    "lru": "least recently used",
    "sticky": "stays until it can't serve",
}
"""What each strategy goes by."""

UNDO_DEPTH = 20

ON_THE_DASHBOARD = (
    "filter",
    "sort",
    "zoom",
    "pane_accounts",
    "pane_metrics",
    "pane_routing",
    "pane_chat",
    "sessions",
)
"""Actions whose effect shows on the dashboard only: what stands in front of it goes."""

INHERITED = (
    "scroll_",
    "page_",
    "cursor_",
    "delete_",
    "select_",
    "copy",
    "cut",
    "paste",
    "home",
    "end",
    "submit",
)
"""Actions that every scrolling or editing widget has and nobody needs to be told of."""

Severity = Literal["information", "warning", "error"]
Undo = Callable[[], Coroutine[None, None, None]]
"""Takes a change back."""


class Operations:
    """The dashboard's hands.

    Args:
        dashboard: The screen on whose behalf it acts.
    """

    def __init__(self, dashboard: Dashboard) -> None:
        self._screen = dashboard
        self._undo: list[tuple[str, Undo]] = []
        self.rehearsals = Rehearsals(dashboard, self)

    def say(self, text: str, severity: Severity = "information") -> None:
        """A toast; text from outside is shown as it is."""
        self._screen.notify(clean(text), severity=severity, markup=False)

    def complain(self, error: OperatorError) -> None:
        """A toast that says why something can't be done."""
        self.say(_sentence(error), "warning")

    def remember(self, title: str, undo: Undo) -> None:
        """Keep the way back from a change."""
        self._undo.append((title, undo))
        del self._undo[:-UNDO_DEPTH]

    def operate(self, action_id: str) -> None:
        """Carry out an action on what is chosen on the screen."""
        action = BY_ID[action_id]
        if action not in self._screen.actions:
            self.say(f"{action.title}: not in a read-only console.", "warning")
            return
        if not action.needs_target:
            self._simple(action, "")
            return
        if action.target is Target.QUEUED:
            self._drop_chosen()
            return
        if action.target is Target.SCENARIO:
            self._screen.show_simulation()
            return
        row = self._screen.query_one(AccountsTable).selected
        if row is None:
            self.say(f"{action.title}: nothing is chosen.", "warning")
            return
        subject = Subject(*row)
        if action.id == "fault":
            self.rehearsals.offer_faults(subject)
            return
        if action.id == "strategy":
            self._choose_strategy(subject)
            return
        if action.id == "circuit_mode":
            self._choose_mode(subject)
            return
        if action.id == "correct_quota" and subject.account is not None:
            self._screen.query_one(Prompt).open("command", f"{action.verbs[0]} {subject.account.id} ")
            return
        try:
            self._put(propose(action.id, subject, snapshot=self._screen.snapshot))
        except OperatorError as error:
            self.complain(error)

    def run_line(self, line: str) -> str:
        """Carry out a command line.

        Returns:
            What is wrong with it, empty when nothing is.
        """
        try:
            self._invoke(parse(line, self._screen.actions, self._screen.known_names()))
        except (CommandError, OperatorError) as error:
            return _sentence(error)
        return ""

    def _invoke(self, call: Invocation) -> None:
        action = call.action
        if action.target is Target.NONE:
            self._simple(action, call.text)
            return
        if action.target is Target.SCENARIO:
            if call.target:
                self.rehearsals.run(call.target)
            else:
                self._screen.show_simulation()
            return
        if action.target is Target.FAULTY:
            self.rehearsals.inject(call.target, call.text, confirmed=call.confirmed)
            return
        snapshot = self._screen.snapshot
        if snapshot is None:
            raise OperatorError("the core has not started yet")
        if action.target is Target.QUEUED:
            self._put_or_do(drop(call.target, snapshot), call)
            return
        subject = find(snapshot, call.target)
        if action.id == "strategy" and not call.text:
            self._choose_strategy(subject)
            return
        argument = reason = call.text
        if action.id == "circuit_mode":
            argument, _, reason = call.text.partition(" ")
            if not argument:
                self._choose_mode(subject)
                return
        proposal = propose(action.id, subject, verb=call.verb, argument=argument, snapshot=snapshot)
        self._put_or_do(proposal, call, reason.strip())

    def _put_or_do(self, proposal: Proposal, call: Invocation, reason: str = "") -> None:
        if call.confirmed:
            self._execute(proposal, Answer(reason, call.duration_s))
        else:
            self._put(proposal, reason=reason, duration_s=call.duration_s)

    def _put(self, proposal: Proposal, *, reason: str = "", duration_s: float | None = None) -> None:
        """Ask where it hurts, else act."""
        if not proposal.asks:
            self._execute(proposal, Answer(reason, duration_s))
            return

        def answered(answer: Answer | None) -> None:
            if answer is not None:
                self._execute(proposal, answer)

        self._screen.app.push_screen(ConfirmDialog(proposal, reason=reason, duration_s=duration_s), answered)

    def _execute(self, proposal: Proposal, answer: Answer) -> None:
        command = proposal.filled(answer.reason, answer.duration_s)
        self._screen.run_worker(
            self._submit(command, proposal.title.rstrip("?"), proposal.undo), group="commands"
        )

    async def _submit(self, command: Command, title: str, undo: Command | None) -> None:
        try:
            result = await self._screen.source.execute(command)
        except Exception as error:
            self.say(f"{title} failed: {error}", "error")
            return
        if not result.ok:
            self.say(result.message, "error")
            return
        if undo is not None:
            self.remember(title, lambda: self._submit(undo, f"Undoing “{title}”", None))
            self.say(f"{result.message}  (u undoes it)")
        else:
            self.say(result.message)
        self._screen.look()

    def _choose_strategy(self, subject: Subject) -> None:
        pool = subject.pool

        def chosen(name: str | None) -> None:
            if name is not None and name != pool.strategy.value:
                self._put(propose("strategy", subject, argument=name))

        choices = [(member.value, STRATEGIES.get(member.value, "")) for member in Strategy]
        choices.sort(key=lambda choice: list(STRATEGIES).index(choice[0]) if choice[1] else len(STRATEGIES))
        title = f"Strategy of {pool.name}"
        self._screen.app.push_screen(ChooseDialog(title, choices, pool.strategy.value), chosen)

    def _drop_chosen(self) -> None:
        """Drop what the recovery view's cursor stands on; elsewhere, what is chosen from a list."""
        snapshot = self._screen.snapshot
        if snapshot is None or not snapshot.queue.requests:
            self.say("Nobody waits in the queue.", "warning")
            return
        view = self._screen.recovery_view
        if view is not None:
            if view.waiting:
                self._drop(view.waiting)
            else:
                self.say("Choose a request that waits in the queue.", "warning")
            return
        choices = [(queued.request_id, told(queued, snapshot.at)) for queued in snapshot.queue.requests]

        def chosen(name: str | None) -> None:
            if name is not None:
                self._drop(name)

        self._screen.app.push_screen(ChooseDialog("Drop from the queue", choices, ""), chosen)

    def _drop(self, name: str) -> None:
        snapshot = self._screen.snapshot
        if snapshot is None:
            return
        try:
            self._put(drop(name, snapshot))
        except OperatorError as error:  # it left the queue while the list stood open
            self.complain(error)

    def _choose_mode(self, subject: Subject) -> None:
        circuit = circuit_of(subject)

        def chosen(word: str | None) -> None:
            if word is not None and word != mode_of(circuit.state):
                self._put(propose("circuit_mode", subject, argument=word))

        choices = [(word, meaning) for word, (_, meaning) in MODES.items()]
        title = f"Mode of the circuit of {circuit.target.name}"
        self._screen.app.push_screen(ChooseDialog(title, choices, mode_of(circuit.state)), chosen)

    def _simple(self, action: Action, text: str) -> None:
        screen = self._screen
        if action.id in ON_THE_DASHBOARD:
            screen.come_forward()
        match action.id:
            case "undo":
                self._take_back()
            case "pause":
                screen.feed.paused = not screen.feed.paused
                screen.look()
                screen.rename_keys()
            case "filter":
                if text:
                    self.set_filter(text)
                else:
                    screen.query_one(Prompt).open("filter", screen.query_one(AccountsTable).pattern)
            case "sort":
                self._sort(text)
            case "zoom":
                area = screen.query_one(PaneArea)
                area.zoomed = not area.zoomed
                screen.arrange_panes()
                screen.rename_keys()
            case "pane_accounts" | "pane_metrics" | "pane_routing" | "pane_chat":
                screen.show_pane(action.id.removeprefix("pane_"))
            case "sessions":
                screen.show_pane("chat")
                chat = screen.query_one(ChatPane)
                screen.run_worker(chat.sessions.browse(text), group="sessions")
            case "recovery":
                screen.show_recoveries()
            case "simulation":
                screen.show_simulation()
            case "store":
                screen.show_store()
            case "stop_simulation":
                self.rehearsals.stop_run()
            case "stop_faults":
                self.rehearsals.choose_fault_to_stop()
            case "theme":
                self._theme(text)
            case "command":
                screen.front.query_one(Prompt).open("command")
            case "screenshot":
                self._screenshot(text)
            case "help":
                self._help()
            case "quit":
                screen.app.exit()

    def _take_back(self) -> None:
        if not self._undo:
            self.say("There is nothing to undo.", "warning")
            return
        _, undo = self._undo.pop()
        self._screen.run_worker(undo(), group="commands")

    def set_filter(self, text: str) -> None:
        """Show only what holds the text."""
        screen = self._screen
        table, routing = screen.query_one(AccountsTable), screen.query_one(RoutingFeed)
        table.pattern = routing.pattern = text.strip()
        table.show(screen.snapshot)
        routing.show()

    def _sort(self, text: str) -> None:
        table = self._screen.query_one(AccountsTable)
        order = list(SortKey)
        if text:
            found = next((key for key in order if key.value.startswith(text.casefold())), None)
            if found is None:
                raise OperatorError(f"sort by {', '.join(key.value for key in order)}")
            table.sort = found
        else:
            table.sort = order[(order.index(table.sort) + 1) % len(order)]
        table.show(self._screen.snapshot)

    def _theme(self, text: str) -> None:
        app = self._screen.app
        names = app.available_themes
        if text:
            if text not in names:
                raise OperatorError(f"there is no theme {text!r}; t lists them")
            app.theme = text
            return
        own = getattr(app, "own_themes", ())
        listed = [name for name in names if name in own] or list(names)
        choices = [(name, "dark" if names[name].dark else "light") for name in listed]

        def show(name: str) -> None:
            app.theme = name

        def chosen(name: str | None) -> None:
            if name is not None:
                app.theme = name

        app.push_screen(ChooseDialog("Theme", choices, app.theme, show), chosen)

    def _screenshot(self, text: str) -> None:
        app = self._screen.app
        path = Path(text or time.strftime("smartfallback-%Y%m%d-%H%M%S.svg")).expanduser()
        try:
            path.write_text(app.export_screenshot(title="SmartFallback"), encoding="utf-8")
        except OSError as error:
            self.say(f"No screenshot: {error}", "error")
            return
        self.say(f"Screenshot written to {path.resolve()}")

    def _help(self) -> None:
        screen = self._screen
        front = screen.front
        keys: dict[str, list[str]] = {}
        own: list[tuple[str, str]] = []
        pane = front.focused
        live = [
            *front.active_bindings.values(),
            *(screen.active_bindings.values() if front is not screen else ()),
        ]
        for active in live:
            binding = active.binding
            shown = screen.app.get_key_display(binding)
            if binding.id:
                keys.setdefault(binding.id, []).append(shown)
            elif active.node is pane and binding.description and not binding.action.startswith(INHERITED):
                own.append((shown, binding.description))
        title = str(pane.border_title or pane.id or "") if pane else ""
        joined = {name: " ".join(dict.fromkeys(shown)) for name, shown in keys.items()}
        screen.app.push_screen(HelpScreen(screen.actions, joined, _merged(own), title))


def _merged(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Keys of the same meaning on one line."""
    words: dict[str, list[str]] = {}
    for key, word in rows:
        words.setdefault(word, []).append(key)
    return [(" ".join(keys), word) for word, keys in words.items()]


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")
