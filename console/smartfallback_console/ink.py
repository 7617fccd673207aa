"""The colours of a theme as the styles that line-drawing widgets write with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.style import Style
from textual.color import Color, ColorParseError


@dataclass(frozen=True, slots=True)
class Ink:
    """Named styles. Colour never carries a meaning alone: each comes with a symbol or a word."""

    text: Style
    strong: Style
    muted: Style
    faint: Style
    primary: Style
    accent: Style
    secondary: Style
    ok: Style
    warning: Style
    error: Style
    held: Style
    heading: Style
    ok_pill: Style
    warning_pill: Style
    error_pill: Style
    accent_pill: Style
    muted_pill: Style
    selected: Style
    """Only a background, for the line under the cursor of a focused panel."""
    selected_idle: Style
    """The same while another panel has the focus."""

    @classmethod
    def from_variables(cls, variables: Mapping[str, str]) -> Ink:
        """The styles of a theme's CSS variables; a missing or relative colour falls back to grey."""

        def colour(name: str, default: str) -> Color:
            try:
                parsed = Color.parse(variables.get(name, default))
            except ColorParseError:
                return Color.parse(default)
            return parsed if parsed.ansi is None else Color.parse(default)

        surface = colour("surface", "#1e1e1e")
        text = colour("foreground", "#e0e0e0")
        primary = colour("primary", "#6aa5ff")
        accent = colour("accent", "#ffb454")
        secondary = colour("secondary", "#8899aa")
        ok, warning, error = (
            colour("success", "#6bbf7a"),
            colour("warning", "#e0b050"),
            colour("error", "#e06070"),
        )

        def pen(color: Color, *, bold: bool = False, back: Color | None = None) -> Style:
            return Style(color=color.rich_color, bold=bold or None, bgcolor=back.rich_color if back else None)

        def pill(color: Color) -> Style:
            return pen(color, bold=True, back=surface.blend(color, 0.2))

        return cls(
            text=pen(surface.blend(text, 0.92)),
            strong=pen(text, bold=True),
            muted=pen(surface.blend(text, 0.64)),
            faint=pen(surface.blend(text, 0.32)),
            primary=pen(primary),
            accent=pen(accent),
            secondary=pen(secondary),
            ok=pen(ok),
            warning=pen(warning),
            error=pen(error),
            held=pen(accent),
            heading=pen(primary, bold=True),
            ok_pill=pill(ok),
            warning_pill=pill(warning),
            error_pill=pill(error),
            accent_pill=pill(accent),
            muted_pill=pen(surface.blend(text, 0.75), back=surface.blend(text, 0.1)),
            selected=Style(bgcolor=surface.blend(primary, 0.24).rich_color),
            selected_idle=Style(bgcolor=surface.blend(text, 0.07).rich_color),
        )
