"""The report in a real Chromium: its slider, its widths, its print, and what axe says; scripts are off."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from data.workspace import Workspace
from hitl.report import build_report
from tests.fixtures.judged import make_scores, write_round

from .test_accessibility import AXE, DESKTOP, PHONE, RULES

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    workspace = Workspace(tmp_path_factory.mktemp("report"))
    for number in (1, 2, 3):
        write_round(workspace, number, make_scores("better", prompts=4, seed=number), size=64)
    return build_report(workspace, 3).as_uri()


def opened(browser: Browser, address: str, **more: Any) -> Page:
    page = browser.new_context(**more).new_page()
    page.goto(address)
    return page


def test_the_arrow_keys_walk_through_the_rounds_without_any_script(browser: Browser, address: str):
    page = opened(browser, address, viewport=DESKTOP, java_script_enabled=False)
    expect(page.locator(".frame-3").first).to_be_visible()
    expect(page.locator(".frame-2").first).to_be_hidden()
    page.locator(".to-3").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".frame-2").first).to_be_visible()
    expect(page.locator(".frame-3").first).to_be_hidden()
    page.get_by_role("radio", name="1").click()
    expect(page.locator(".frame-1").last).to_be_visible()


def test_printed_all_rounds_are_there(browser: Browser, address: str):
    page = opened(browser, address, viewport=DESKTOP, java_script_enabled=False)
    page.emulate_media(media="print")
    for number in (1, 2, 3):
        expect(page.locator(f".frame-{number}").first).to_be_visible()
    expect(page.locator(".slider")).to_be_hidden()
    expect(page.get_by_text("fitted on the ratings").first).to_be_visible()  # folded on the screen


def test_on_a_phone_nothing_is_wider_than_the_window(browser: Browser, address: str):
    page = opened(browser, address, viewport=PHONE, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    for said in ("48 ratings by 2 raters", "Provenance"):  # who rated, and the end of the list of sections
        box = page.get_by_text(said, exact=True).first.bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= box["x"] + box["width"] <= PHONE["width"]


def test_the_first_screen_has_what_decides_and_its_pictures(browser: Browser, address: str):
    page = opened(browser, address, viewport=DESKTOP)
    expect(page.locator("#story .strip img").first).to_be_in_viewport()
    expect(page.get_by_text("fitted on the ratings").first).to_be_hidden()
    page.get_by_text("All measures").click()
    expect(page.get_by_text("fitted on the ratings").first).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, address: str, tmp_path: Path, scheme: Any):
    """On a copy without the policy that forbids scripts: axe is one."""
    copy = tmp_path / "report.html"
    html = Path(address.removeprefix("file://")).read_text(encoding="utf-8")
    copy.write_text(html.replace('http-equiv="Content-Security-Policy"', 'name="policy"'), encoding="utf-8")
    page = opened(browser, copy.as_uri(), viewport=DESKTOP, color_scheme=scheme)
    found: list[dict[str, Any]] = AXE.run(page, options=RULES).response["violations"]
    assert [f"{each['id']}: {node['target']}" for each in found for node in each["nodes"]] == []
