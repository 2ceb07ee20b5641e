"""WCAG 2.2 AA by axe-core, in every state, kind, scheme and language; zoom, reduced motion, and one input alone."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, ViewportSize, expect

from hitl.config import RateConfig

from .conftest import Hub, a_hub, open_page, when_ready
from .states import KINDS, introduce, whole_way
from .test_rating import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
AXE = Axe()
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}
DESKTOP, PHONE = ViewportSize(width=1366, height=768), ViewportSize(width=390, height=844)
HALVED = ViewportSize(width=683, height=384)
"""What 200 % zoom leaves of a laptop's window."""


def violations(page: Page) -> list[str]:
    """What axe finds, one line for each element."""
    page.wait_for_timeout(300)  # colours that change slowly have changed
    found: list[dict[str, Any]] = AXE.run(page, options=RULES).response["violations"]
    return [f"{each['id']}: {node['target']} {node['failureSummary']}" for each in found for node in each["nodes"]]


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the window."""
    return page.evaluate(
        """() => Math.max(...['.hitl-screen', '.stage', 'html'].map((name) => {
            const box = document.querySelector(name);
            return box.scrollWidth - box.clientWidth;
        }))"""
    )


@contextlib.contextmanager
def a_page(browser: Browser, language: str, scheme: Any, size: Any, **more: Any) -> Iterator[Page]:
    context = browser.new_context(locale=language, color_scheme=scheme, viewport=size, **more)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize(
    ("language", "scheme", "size"),
    [
        ("en", "light", DESKTOP), ("en", "dark", PHONE), ("de", "light", PHONE),
        ("de", "dark", DESKTOP), ("ar", "light", DESKTOP), ("ar", "dark", PHONE),
    ],
)  # fmt: skip
def test_axe_finds_nothing_in_any_state(
    browser: Browser, tmp_path: Path, language: str, scheme: str, size: ViewportSize
) -> None:
    with a_hub(tmp_path / "w", rate=RateConfig(break_every=3)) as hub, a_page(browser, language, scheme, size) as page:
        hub.add_round(1, 9)
        seen = []
        for state in whole_way(page, hub, "Anna"):
            seen.append(state)
            assert (state, violations(page)) == (state, [])
            assert (state, overflow(page)) == (state, 0)
        assert len(seen) == 19
        assert page.locator("html").get_attribute("lang") == language
    for kind, images in KINDS.items():
        axes = ("overall", "alignment", "fidelity") if kind == "grades" else ("overall",)
        rate = RateConfig(kind=kind, images=images, axes=axes)
        with a_hub(tmp_path / kind, rate=rate) as hub, a_page(browser, language, scheme, size) as page:
            hub.add_round(1, 3, kind=kind, images=images)
            for state in introduce(page, hub, "Anna"):
                if state != "join":
                    assert (kind, state, violations(page), overflow(page)) == (kind, state, [], 0)
            page.keyboard.press("p")
            when_ready(page)
            assert (kind, violations(page), overflow(page)) == (kind, [], 0)
            page.keyboard.press("?")
            assert (kind, violations(page)) == (kind, [])


@pytest.mark.parametrize("path", ["/join", "/board"])
def test_axe_finds_nothing_in_the_pages_beside(hub: Hub, browser: Browser, path: str) -> None:
    """Where people with accounts come in, and a page of one sentence."""
    from apps.accounts import Accounts

    token = Accounts(hub.store).invite()["invites"][0]["token"]
    for language, scheme in (("en", "light"), ("de", "dark"), ("ar", "light")):
        with a_page(browser, language, scheme, PHONE) as page:
            for end in ("", f"#{token}") if path == "/join" else ("",):
                page.goto("about:blank")
                page.goto(hub.server.url + path + end)
                expect(page.get_by_role("heading", level=1)).to_be_visible()
                assert violations(page) == []
                assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
                assert page.locator("html").get_attribute("dir") == ("rtl" if language == "ar" else "ltr")


def test_at_200_percent_everything_is_there(browser: Browser, tmp_path: Path) -> None:
    """Nothing is cut off: what does not fit can be scrolled to, and no state needs two directions of it."""
    with a_hub(tmp_path / "w", rate=RateConfig(break_every=3)) as hub, a_page(browser, "en", "light", HALVED) as page:
        hub.add_round(1, 9)
        for state in whole_way(page, hub, "Anna"):
            assert (state, overflow(page)) == (state, 0)
            shown = "dialog[open] button:visible" if page.locator("dialog[open]").count() else "button:visible"
            for each in page.locator(shown).all():
                each.scroll_into_view_if_needed()
                box = each.bounding_box()
                assert box is not None
                inside = (
                    -1 <= box["x"] <= HALVED["width"] - box["width"] + 1,
                    -1 <= box["y"] <= HALVED["height"] - box["height"] + 1,
                )
                assert (state, each.inner_text(), inside) == (state, each.inner_text(), (True, True))
            if state in ("practice", "rate"):
                sides = [page.locator(".card").nth(side).bounding_box() for side in (0, 1)]
                assert all(side is not None and side["width"] >= 100 for side in sides)


def test_who_wants_no_motion_gets_none(hub: Hub, browser: Browser) -> None:
    hub.add_round(1, 3)
    context = browser.new_context(reduced_motion="reduce")
    page = open_page(context, hub, "Anna")
    when_ready(page)
    moving = page.evaluate(
        """() => [...document.querySelectorAll('.hitl-screen *')].filter((node) => {
            const style = getComputedStyle(node);
            return style.animationName !== 'none' || parseFloat(style.transitionDuration) > 0;
        }).length"""
    )
    assert moving == 0
    context.close()


def test_left_stays_left_where_people_write_from_right_to_left(hub: Hub, browser: Browser) -> None:
    """The arrow keys are on the keyboard as they are; so the left picture, the left button and `left` go together."""
    hub.add_round(1, 3)
    with a_page(browser, "ar", "light", DESKTOP) as page:
        page.goto(hub.server.url)
        expect(page.locator("form [data-consent]")).not_to_be_empty()
        page.locator("#hitl-name").fill("Anna")
        page.keyboard.press("Enter")
        page.locator('[data-action="skip-practice"]:visible').click()
        when_ready(page)
        assert page.locator("html").get_attribute("dir") == "rtl"
        for pair in (".card", ".choice[data-choice='left'], .choice[data-choice='right']"):
            first, second = (page.locator(pair).nth(place).bounding_box() for place in (0, 1))
            assert first is not None
            assert second is not None
            assert first["x"] < second["x"]
        assert page.locator(".card img").first.get_attribute("alt") == "الصورة اليسرى"
        left = page.locator(".card img").first.get_attribute("src")
        assert page.locator("[data-prompt]").evaluate("node => getComputedStyle(node).direction") == "ltr"
        page.keyboard.press("ArrowLeft")
        wait_for(lambda: len(hub.standing()) == 1)
        (rating,) = hub.standing()
        assert rating.payload == {"choice": "left"}
        assert left is not None
        assert left.endswith(rating.image_ids[0])
