"""Looks of the page: a calm reading room, light and dark, without fonts from the network."""

from pathlib import Path

import gradio as gr

_FONT = ("system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def make_theme() -> gr.themes.Base:
    """The app's theme."""
    return gr.themes.Base(
        primary_hue="sky", secondary_hue="slate", neutral_hue="slate", font=_FONT, font_mono=_MONO, radius_size="lg"
    ).set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_text_color="white",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        link_text_color_hover="*primary_800",
        link_text_color_hover_dark="*primary_200",
        link_text_color_active="*primary_800",
        link_text_color_active_dark="*primary_200",
        link_text_color_visited="*primary_700",
        link_text_color_visited_dark="*primary_300",
    )


_STATIC = Path(__file__).parent / "static"

CSS = "\n".join(file.read_text(encoding="utf-8") for file in sorted(_STATIC.glob("*.css")))
"""Of all panels."""

HEAD = "".join(f"<script>{file.read_text(encoding='utf-8')}</script>" for file in sorted(_STATIC.glob("*.js")))
"""Elements of the page's own; what stands in the head runs before anything is shown."""
