"""The dashboard: all panes, fed once a tick."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, TextArea

from smartfallback import AttentionRaised, DegradedModeChanged, StateNotice
from smartfallback_console.actions import ACTIONS, Action, Target, available, bindings
from smartfallback_console.chat.pane import ChatPane
from smartfallback_console.command_line import complete, names_of
from smartfallback_console.dialogs.details import DetailsDialog, entry_dialog
from smartfallback_console.dialogs.standing import account_lines, pool_lines
from smartfallback_console.feed import INTERVAL_S, Feed, Tick
from smartfallback_console.routing import RoutingLog
from smartfallback_console.runs import ordered
from smartfallback_console.screens.operations import Operations, Severity
from smartfallback_console.screens.recovery import OperatorRecoveryScreen, RecoveryScreen
from smartfallback_console.screens.simulation import OperatorSimulationScreen, SimulationScreen
from smartfallback_console.screens.store import StoreScreen
from smartfallback_console.screens.view import View
from smartfallback_console.widgets.accounts import AccountsTable
from smartfallback_console.widgets.footer import KeyBar
from smartfallback_console.widgets.header import Header
from smartfallback_console.widgets.metrics import FairnessPanel, LatencyPanel, Metric, TrafficPanel
from smartfallback_console.widgets.pane_layout import PaneArea
from smartfallback_console.widgets.prompt import Prompt
from smartfallback_console.widgets.routing_feed import RoutingFeed
from smartfallback_console.widgets.tabs import PANES, RECOVERY, SIMULATION, STORE, PaneTabs

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual import events
    from textual.app import ComposeResult

    from smartfallback import DrillView, Event, Snapshot
    from smartfallback_console.bridge import Source
    from smartfallback_console.dialogs.details import Piece

HISTORY = 12
"""Happenings of an account in its details."""

TOLD = (DegradedModeChanged, AttentionRaised, StateNotice)
"""Events that the operator is told of wherever he looks."""

MOST_TOASTS = 12
"""After a pause more has happened than anybody wants to be told one by one."""

METRICS_EVERY_S = 1.0
"""Charts change slowly to the eye and cost the most to send."""


class Dashboard(Screen[None]):
    """Everything at a glance, without the power to change anything.

    Args:
        source: The core.
        clock: Monotonic seconds.
        live: Whether to look at the core on an interval; a test may look by hand.
    """

    READ_ONLY: ClassVar[bool] = True

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(action for action in ACTIONS if not action.dangerous),
        Binding("escape", "back", "Back", show=False),
    ]

    DEFAULT_CSS = """
    Dashboard {
        background: $background; layout: vertical;
        &.-single {
            PaneTabs { display: block; }
            PaneArea > * { border: none; }
            PaneArea > Metric { border-top: solid $foreground 18%; }
            PaneArea.-tail > #routing { border-top: solid $foreground 18%; }
        }
    }
    """

    def __init__(
        self, source: Source, *, clock: Callable[[], float] = time.monotonic, live: bool = True
    ) -> None:
        super().__init__()
        self.source = source
        self.feed = Feed(source, clock=clock)
        self.routing = RoutingLog()
        self.operations = Operations(self)
        self.actions = available(read_only=self.READ_ONLY)
        self.tick: Tick | None = None
        self._clock = clock
        self._live = live
        self._drawn: Snapshot | None = None
        self._drills: tuple[DrillView, ...] = ()
        self._covered = False
        self._charted: Snapshot | None = None
        self._charted_at = float("-inf")

    @property
    def snapshot(self) -> Snapshot | None:
        """What is on the screen."""
        return self.tick.snapshot if self.tick else None

    def now(self) -> float:
        """Epoch seconds of what is on the screen."""
        return self.snapshot.at if self.snapshot else time.time()

    def compose(self) -> ComposeResult:
        """Header, tabs, panes, prompt, keys."""
        yield Header(id="header")
        yield PaneTabs(id="tabs")
        with PaneArea(id="area"):
            yield AccountsTable(id="accounts")
            yield FairnessPanel(id="fairness")
            yield LatencyPanel(id="latency")
            yield TrafficPanel(id="traffic")
            yield RoutingFeed(self.routing, id="routing")
            yield ChatPane(
                self.source, read_only=self.READ_ONLY, clock=self._clock, live=self._live, id="chat"
            )
        yield Prompt(self.complete, id="prompt")
        yield KeyBar(id="keys")

    def on_mount(self) -> None:
        """Begin to look."""
        self.feed.open()
        self.query_one(AccountsTable).focus()
        self.call_after_refresh(self.look)
        if self._live:
            self.set_interval(INTERVAL_S, self.look)

    def on_unmount(self) -> None:
        """Nobody looks any more."""
        self.feed.close()

    @property
    def in_sight(self) -> bool:
        """Whether nothing but dialogs stands in front of this screen."""
        stack = self.app.screen_stack
        above = stack[stack.index(self) + 1 :] if self in stack else stack
        return self in stack and all(isinstance(screen, ModalScreen) for screen in above)

    def look(self) -> None:
        """Take one look at the core and draw what changed."""
        if not self.in_sight:
            return
        tick = self.tick = self.feed.tick()
        if tick.dropped != self.routing.dropped:
            self.routing.dropped = tick.dropped
        if tick.earlier is not None:
            self.routing.look_back(tick.earlier)
        if tick.events:
            self.routing.apply(tick.events)
            self._announce(tick.events)
        # What changes under a view is drawn through it, region by region, although nobody sees it.
        self._covered = self.front is not self
        if not self._covered:
            self._draw(tick)
        for screen in self.app.screen_stack:
            if isinstance(screen, DetailsDialog | View):
                screen.look()
        self.operations.rehearsals.look(tick.simulation)

    def on_screen_resume(self) -> None:
        """Draw what has changed under a view that is closed now."""
        if self._covered:
            self._covered = False
            self.query_one(RoutingFeed).show()
            self.look()

    def _draw(self, tick: Tick) -> None:
        """All panes, as far as they differ."""
        self.query_one(Header).show(tick, read_only=self.READ_ONLY)
        if tick.events or tick.earlier is not None:
            self.query_one(RoutingFeed).show()
        drills = tick.simulation.drills if tick.simulation is not None else ()
        if tick.snapshot is not None and (tick.snapshot is not self._drawn or drills != self._drills):
            self._drawn, self._drills = tick.snapshot, drills
            table = self.query_one(AccountsTable)
            table.show(tick.snapshot, drills)
            self.query_one(PaneArea).account_lines = table.line_count() + 2
            self.rename_keys()
        self._chart()

    def _chart(self) -> None:
        now = self._clock()
        if self._drawn is not self._charted and now - self._charted_at >= METRICS_EVERY_S:
            self._charted, self._charted_at = self._drawn, now
            for panel in self.query(Metric):
                panel.show(self._drawn)

    def _announce(self, batch: tuple[Event, ...]) -> None:
        told = [event for event in batch if isinstance(event, TOLD)]
        for event in told[-MOST_TOASTS:]:
            if isinstance(event, DegradedModeChanged):
                text = f"{event.chain} is degraded: {event.detail}" if event.degraded else ""
                severity: Severity = "warning" if text else "information"
                self.operations.say(text or f"{event.chain} is back to normal.", severity)
            elif isinstance(event, StateNotice):
                self.operations.say(event.message, "information" if self._kept_well else "warning")
            else:
                self.operations.say(
                    f"{event.account} needs attention: {event.message} {event.hint}".strip(), "error"
                )

    @property
    def _kept_well(self) -> bool:
        """Whether state is kept as it should be, in what is on the screen."""
        return self.snapshot is not None and self.snapshot.store.degraded_since is None

    def targets(self, action: Action) -> list[str]:
        """What an action can be pointed at now."""
        snapshot = self.snapshot
        if snapshot is None:
            return []
        accounts = [account.id for pool in snapshot.pools for account in pool.accounts]
        providers = list(dict.fromkeys(pool.provider_id for pool in snapshot.pools))
        pools = [pool.name for pool in snapshot.pools]
        return {
            Target.ACCOUNT: accounts,
            Target.PROVIDER: providers,
            Target.CIRCUIT: accounts + providers,
            Target.POOL: pools,
            Target.SCENARIO: self._scenario_names(),
            Target.FAULTY: list(dict.fromkeys(accounts + pools + providers)),
            Target.QUEUED: [view.request_id for view in snapshot.queue.requests],
        }.get(action.target, [])

    def complete(self, line: str) -> str | None:
        """A command line with its last word completed, None when nothing fits."""
        return complete(line, self.actions, self.snapshot, self.app.available_themes, self._scenario_names())

    def _scenario_names(self) -> list[str]:
        view = self.tick.simulation if self.tick is not None else None
        return [scenario.name for scenario in ordered(view.scenarios)] if view is not None else []

    def known_names(self) -> list[str]:
        """Everything that a command may name."""
        return names_of(self.snapshot)

    # Panes

    def on_resize(self, event: events.Resize) -> None:  # noqa: ARG002 - Textual's signature
        """Another size may mean other panes."""
        self.call_after_refresh(self.arrange_panes)

    @on(PaneArea.Rearranged)
    def arrange_panes(self) -> None:
        """Borders, tabs and focus that suit the panes in sight."""
        area = self.query_one(PaneArea)
        plan = area.plan_for(area.size)
        self.set_class(plan.single, "-single")
        area.set_class(plan.single and len(plan.regions) > 1 and area.pane == "accounts", "-tail")
        tabs = self.query_one(PaneTabs)
        if tabs.active != area.pane:
            tabs.active = area.pane
            tabs.redraw()

    def show_pane(self, pane: str, *, focus: bool = True) -> None:
        """Bring a pane into sight and focus it."""
        area = self.query_one(PaneArea)
        area.pane = pane
        self.arrange_panes()
        if focus and pane != "metrics":
            # At once, not when the app gets round to it: keys typed ahead belong to the pane.
            self.set_focus(self.query_one(ChatPane).field if pane == "chat" else self.query_one(f"#{pane}"))
        elif pane == "metrics" and area.single:
            self.set_focus(None)

    @on(PaneTabs.Chosen)
    def tab_chosen(self, event: PaneTabs.Chosen) -> None:
        """A click on a pane's name."""
        if event.pane == RECOVERY:
            self.show_recoveries()
        elif event.pane == SIMULATION:
            self.show_simulation()
        elif event.pane == STORE:
            self.show_store()
        else:
            self.show_pane(event.pane)

    def show_recoveries(self) -> None:
        """Open the recovery view, or bring it forward."""
        kind = RecoveryScreen if self.READ_ONLY else OperatorRecoveryScreen
        self._bring_forward(self.recovery_view or kind(self))

    def show_simulation(self) -> None:
        """Open the simulation view, or bring it forward."""
        kind = SimulationScreen if self.READ_ONLY else OperatorSimulationScreen
        self._bring_forward(self.simulation_view or kind(self))

    def show_store(self) -> None:
        """Open the store view, or bring it forward."""
        opened = (screen for screen in self.app.screen_stack if isinstance(screen, StoreScreen))
        self._bring_forward(next(opened, None) or StoreScreen(self))

    @on(Header.StoreChosen)
    def store_chosen(self, event: Header.StoreChosen) -> None:
        """A click on the header's word for the store."""
        event.stop()
        self.show_store()

    def _bring_forward(self, view: View) -> None:
        if view not in self.app.screen_stack:
            self.app.push_screen(view)
        while self.in_sight and self.app.screen is not view and view.is_attached:
            self.app.pop_screen()

    @property
    def recovery_view(self) -> RecoveryScreen | None:
        """The recovery view, None while it is closed."""
        return next((screen for screen in self.app.screen_stack if isinstance(screen, RecoveryScreen)), None)

    @property
    def simulation_view(self) -> SimulationScreen | None:
        """The simulation view, None while it is closed."""
        return next(
            (screen for screen in self.app.screen_stack if isinstance(screen, SimulationScreen)), None
        )

    @property
    def front(self) -> Screen[None]:
        """The view in front, or the dashboard itself."""
        return next((screen for screen in reversed(self.app.screen_stack) if isinstance(screen, View)), self)

    def come_forward(self) -> None:
        """Close what stands in front of the panes."""
        while self.in_sight and self.app.screen is not self:
            self.app.pop_screen()

    def tell(self, request_id: str, ended_at: float | None = None) -> None:
        """The whole story of a request, if the feed still has it.

        Args:
            request_id: Its name.
            ended_at: When it ended, in epoch seconds; None for one that runs or waits.
        """
        entry = self.routing.find(request_id, ended_at)
        if entry is None:
            self.operations.say("The routing feed no longer holds this request.", "warning")
        else:
            self.app.push_screen(entry_dialog(entry, self.now))

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """The focused pane is the one to keep in sight when there is room for one."""
        area = self.query_one(PaneArea)
        ids = {node.id for node in event.widget.ancestors_with_self}
        for pane, _ in PANES:
            if pane in ids and area.pane != pane:
                if pane == "routing" and area.has_class("-tail"):
                    return
                area.pane = pane
                self.arrange_panes()
        self.rename_keys()

    # What the panes ask for

    @on(AccountsTable.Inspected)
    def inspect(self, event: AccountsTable.Inspected) -> None:
        """The details of an account or a pool."""
        pool, account = event.pool.name, event.account.id if event.account else None

        def lines() -> list[list[Piece]] | None:
            return self._standing(pool, account)

        name = f"Pool {pool}" if account is None else f"Account {account}"
        self.app.push_screen(DetailsDialog(name, lines() or [], latest=lines))

    def _standing(self, pool_name: str, account_id: str | None) -> list[list[Piece]] | None:
        """How a pool or one of its accounts stands in what is on the screen."""
        snapshot = self.snapshot
        pool = next((view for view in snapshot.pools if view.name == pool_name), None) if snapshot else None
        if snapshot is None or pool is None:
            return None
        if account_id is None:
            return pool_lines(pool, snapshot.at)
        account = next((view for view in pool.accounts if view.id == account_id), None)
        if account is None:
            return None
        history = self.routing.history(account.id, account.provider_id, HISTORY)
        return account_lines(account, pool, snapshot.at, history, snapshot.recovery.recent)

    @on(RoutingFeed.Opened)
    def open_entry(self, event: RoutingFeed.Opened) -> None:
        """The full story of a request."""
        self.app.push_screen(entry_dialog(event.entry, self.now))

    @on(AccountsTable.CursorMoved)
    def rename_keys(self) -> None:
        """Words of the bottom line that depend on what is chosen."""
        row = self.query_one(AccountsTable).selected
        account = row[1] if row else None
        words = {"pause": "Go on" if self.feed.paused else "Pause"}
        if self.query_one(PaneArea).zoomed:
            words["zoom"] = "Unzoom"
        if account is not None and account.admin.value in ("draining", "drained"):
            words["drain"] = "Resume"
        if account is not None and (account.admin.value == "disabled" or account.attention):
            words["disable"] = "Enable"
        self.query_one(KeyBar).rename(words)

    @on(KeyBar.Pressed)
    async def key_clicked(self, event: KeyBar.Pressed) -> None:
        """A key of the bottom line was clicked."""
        await self.run_action(event.action)

    @on(Prompt.Submitted)
    def line_entered(self, event: Prompt.Submitted) -> None:
        """Carry out a command; keep the line open as long as it is wrong."""
        prompt = self.query_one(Prompt)
        if event.mode == "filter":
            self.operations.set_filter(event.text)
        elif event.text.strip() and (problem := self.operations.run_line(event.text)):
            prompt.complain(problem)
            return
        self._leave_prompt()

    @on(Prompt.Edited)
    def filter_edited(self, event: Prompt.Edited) -> None:
        """Filter while it is typed."""
        self.operations.set_filter(event.text)

    @on(Prompt.Left)
    def prompt_left(self, event: Prompt.Left) -> None:
        """Escape in the prompt."""
        if event.mode == "filter":
            self.operations.set_filter("")
        self._leave_prompt()

    def _leave_prompt(self) -> None:
        prompt = self.query_one(Prompt)
        if prompt.has_focus_within:
            pane = self.query_one(PaneArea).pane
            self.show_pane(pane if pane in ("accounts", "routing") else "accounts")
        prompt.close()

    def run_line(self, line: str) -> None:
        """Carry out a command line that was not typed, telling of a problem by toast."""
        if problem := self.operations.run_line(line):
            self.operations.say(problem, "warning")

    def action_operate(self, action_id: str) -> None:
        """Carry out an action of the registry."""
        self.operations.operate(action_id)

    def action_back(self) -> None:
        """Escape: leave the chat, clear the filter, end the zoom, in this order."""
        area = self.query_one(PaneArea)
        chat = self.query_one(ChatPane)
        if chat.has_focus_within and chat.just_ended:
            return  # it was meant to stop the answer
        if isinstance(self.focused, Input | TextArea) or self.query_one(ChatPane).has_focus_within:
            self.show_pane("accounts")
        elif self.query_one(AccountsTable).pattern:
            self.operations.set_filter("")
        elif area.zoomed:
            self.operations.operate("zoom")


class OperatorDashboard(Dashboard):
    """The dashboard with the actions that change how requests are answered."""

    READ_ONLY: ClassVar[bool] = False

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(action for action in ACTIONS if action.dangerous)]
