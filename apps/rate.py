"""The rater's page: one Gradio component that is a whole screen, with its own template, style and script."""

from typing import Any

import gradio as gr

from apps.languages import STATIC, as_script

_SCRIPTS = ("words.js", "outbox.js", "screens.js", "extras.js", "zoom.js", "practice.js", "pauses.js", "rate.js")


def build_rate_page() -> tuple[gr.Blocks, dict[str, Any]]:
    """The page, and the look to mount it with. It has no Gradio events: its script speaks to the API itself.

    An event per key would go through Gradio's queue, which drops keys that come while one is being handled.
    """
    with gr.Blocks(title="hitl · rate", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(
            value="",
            html_template=read_static("rate.html"),
            css_template=read_static("rate.css"),
            js_on_load=_as_scope(as_script(), *map(read_static, _SCRIPTS)),
            apply_default_css=False,
            elem_id="rating-screen",
        )
    return page, {"theme": plain_theme(), "css": read_static("page.css")}


def plain_theme() -> gr.themes.Base:
    """Gradio's look with the fonts that the reader's own computer has: nothing is fetched from elsewhere."""
    return gr.themes.Base(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="zinc",
        radius_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def read_static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _as_scope(*scripts: str) -> str:
    """The scripts as one, their names hidden from the page's other scripts."""
    return "\n".join(["(() => {", "'use strict';", *scripts, "})();"])
