"""Makes the pictures of docs/rating.md: every state on a laptop and on a phone.

python -m tests.e2e.screenshots        # all of them, into docs/images/rating
"""

import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from apps.accounts import Accounts
from hitl.config import RateConfig

from .conftest import ARGUMENTS, CHROMIUM, Hub, a_hub, sign_in, when_ready
from .states import KINDS, whole_way

FOLDER = Path(__file__).parents[2] / "docs" / "images" / "rating"
LARGEST = 60_000
"""Bytes of one picture."""
SIZES: dict[str, Any] = {
    "desktop": {"viewport": {"width": 1366, "height": 768}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
LOOKS: dict[str, Any] = {
    "": {"locale": "en", "color_scheme": "light"},
    "-dark": {"locale": "en", "color_scheme": "dark"},
    "-ar": {"locale": "ar", "color_scheme": "light"},
    "-de": {"locale": "de", "color_scheme": "light"},
}
OTHER_LOOKS = ("rate", "guide")
"""States that are shown in the dark and in the other languages too."""


def save(page: Page, name: str) -> None:
    """As WebP, as good as fits into LARGEST."""
    page.wait_for_timeout(350)  # colours that change slowly have changed
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for quality in (90, 75, 60, 45):
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=quality, method=6)
        if file.tell() <= LARGEST:
            break
    (FOLDER / f"{name}.webp").write_bytes(file.getvalue())
    print(f"{name}.webp {file.tell()} bytes", file=sys.stderr)


def invited(page: Page, hub: Hub) -> Iterator[str]:
    """Where people come in who have an invite, and where they sign in."""
    token = Accounts(hub.store).invite()["invites"][0]["token"]
    page.goto(f"{hub.server.url}/join#{token}")
    page.locator("#consent-text p").first.wait_for()
    yield "invite"
    page.goto("about:blank")
    page.goto(f"{hub.server.url}/join")
    yield "sign-in"
    page.goto(f"{hub.server.url}/board")
    yield "message"


def take(browser: Browser, folder: Path) -> None:
    for size, shape in SIZES.items():
        for look, setting in LOOKS.items():
            with a_hub(folder / f"{size}{look}", rate=RateConfig(break_every=3)) as hub:
                hub.add_round(1, 9)
                context = browser.new_context(**shape, **setting)
                page = context.new_page()
                for state in whole_way(page, hub, "Anna"):
                    if not look or state in OTHER_LOOKS:
                        save(page, f"{state}{look}-{size}")
                    if look and state == "rate":
                        break
                if not look:
                    for state in invited(page, hub):
                        save(page, f"{state}-{size}")
                context.close()
        for kind, images in KINDS.items():
            axes = ("overall", "alignment", "fidelity") if kind == "grades" else ("overall",)
            rate = RateConfig(kind=kind, images=images, axes=axes)
            with a_hub(folder / f"{size}-{kind}", rate=rate) as hub:
                hub.rng = np.random.default_rng(5)
                hub.add_round(1, 3, kind=kind, images=images)
                context = browser.new_context(**shape, **LOOKS[""])
                page = context.new_page()
                page.goto(hub.server.url)
                sign_in(page, "Anna")
                when_ready(page)
                for key in {"ranking": "21", "grades": "452"}.get(kind, ""):
                    page.keyboard.press(key)
                save(page, f"{kind}-{size}")
                context.close()


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        take(browser, Path(folder))
        browser.close()


if __name__ == "__main__":
    main()
