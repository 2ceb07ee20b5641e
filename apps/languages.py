"""The languages that raters' pages speak: one JSON file of texts for each, under `static/languages/`."""

import json
from functools import cache
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parent / "static"

ENGLISH = "en"
"""What the server writes in, and what stands in for a text that another language lacks."""


@cache
def languages() -> dict[str, dict[str, Any]]:
    """Texts by key, by language code; English first."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (STATIC / "languages").glob("*.json")}
    return {code: found[code] for code in sorted(found, key=lambda code: (code != ENGLISH, code))}


def known_language(code: str) -> str:
    """The code if there is such a language; else English."""
    return code if code in languages() else ENGLISH


def as_script() -> str:
    """All of them as a JavaScript constant. A text that ends a script element or a template cannot break out of it."""
    texts = json.dumps(languages(), ensure_ascii=False, separators=(",", ":"))
    return f"const LANGUAGES = {texts.replace('<', chr(92) + 'u003c')};"
