"""Themes are files: all read well, bad ones are named and left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.color import Color

from smartfallback_console import themes
from smartfallback_console.app import ConsoleApp
from smartfallback_console.ink import Ink
from support.console import Opener
from support.console_source import ScriptedSource

GOOD = 'primary = "#336699"\nforeground = "#ffffff"\nbackground = "#000000"\n'


def test_there_are_light_dark_and_high_contrast_themes() -> None:
    found = themes.built_in()
    assert found.problems == ()
    assert sum(1 for theme in found.themes if theme.dark) >= 4
    assert sum(1 for theme in found.themes if not theme.dark) >= 2
    assert "high-contrast" in {theme.name for theme in found.themes}
    assert themes.DEFAULT in {theme.name for theme in found.themes}


def contrast(one: Color, other: Color) -> float:
    """The contrast ratio of WCAG 2.2."""

    def luminance(colour: Color) -> float:
        linear = [
            value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
            for value in colour.normalized
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", themes.built_in().themes, ids=lambda theme: theme.name)
def test_text_and_states_stand_out_from_their_background(theme: object) -> None:
    for name in ("foreground", "primary", "accent", "success", "warning", "error", "secondary"):
        colour = Color.parse(getattr(theme, name))
        for ground in ("background", "surface", "panel"):
            ratio = contrast(colour, Color.parse(getattr(theme, ground)))
            assert ratio >= 4.5, f"{name} on {ground}: {ratio:.2f}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GOOD + 'primry = "#000000"', "primry"),
        (GOOD + 'accent = "teal-ish"', "accent"),
        (GOOD + "dark = 1", "dark"),
        ('primary = "#000000"', "foreground, background missing"),
        ("primary = ", "own.toml"),
        (GOOD + "accent = 3", "accent"),
    ],
)
def test_a_bad_theme_is_refused_with_file_and_key(text: str, problem: str) -> None:
    with pytest.raises(themes.ThemeError, match=problem) as caught:
        themes.parse(text, "own.toml")
    assert str(caught.value).startswith("own.toml: ")


async def test_a_users_themes_are_found_and_bad_ones_announced(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD)
    (tmp_path / "bad.toml").write_text("primary = 3")
    app = ConsoleApp(ScriptedSource(), theme="mine", theme_folder=tmp_path, live=False)
    async with app.run_test() as pilot:
        await pilot.pause()
        assert app.theme == "mine"
        assert any("bad.toml" in notification.message for notification in app._notifications)


async def test_the_theme_list_previews_and_escape_puts_the_old_one_back(console: Opener) -> None:
    async with console() as running:
        before = running.app.theme
        await running.press("t", "home")
        assert running.app.theme != before
        await running.press("escape")
        assert running.app.theme == before
        await running.press("t", "home", "enter")
        assert running.app.theme == sorted(running.app.own_themes)[0]
        await running.command("theme paper")
        assert running.app.theme == "paper"


def test_ink_survives_variables_that_are_no_plain_colours() -> None:
    ink = Ink.from_variables({"surface": "auto 60%", "primary": "ansi_blue", "error": "nonsense"})
    assert ink.error.color is not None
