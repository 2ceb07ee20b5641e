"""The page while things break: no network for ten minutes, a clock that is set, a full disk, a lost picture."""

import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from hitl.config import RateConfig
from tests.integration.test_rating_faults import a_small_disk, can_mount

from .conftest import Hub, open_page, when_ready
from .test_rating import press_at, press_slowly, wait_for

pytestmark = pytest.mark.e2e

TEN_MINUTES_MS = 600_000


def task_on_screen(page: Page) -> str | None:
    return page.locator("[data-task]").first.get_attribute("data-task")


@pytest.mark.parametrize("rate", [RateConfig(lease_s=10)])
def test_ten_minutes_without_a_network_lose_nothing_and_double_nothing(
    hub: Hub, context: BrowserContext, browser: Browser
) -> None:
    """What Anna rates then stays with her browser; Ben is given the same pairs, for her leases have run out."""
    hub.add_round(1, 6)
    page = context.new_page()
    page.clock.install()
    page.close()
    pictures: set[str] = set()
    context.on("requestfinished", lambda request: pictures.add(request.url) if "/image/" in request.url else None)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    while len(pictures) < 8:  # of the pair on the screen and the next three
        page.wait_for_timeout(50)
    page.wait_for_timeout(500)  # they are decoded by now
    context.set_offline(True)
    for key in ("ArrowLeft", "ArrowRight", "t"):
        press_slowly(page, key)
    when_ready(page)
    page.keyboard.press("b")
    # By whichever request failed last: ratings that are sent again, or the question for more tasks.
    expect(page.locator("[data-banner]")).to_contain_text("4 ratings are kept here")
    page.wait_for_timeout(3000)
    expect(page.locator("[data-banner]")).to_contain_text("4 ratings are kept here", timeout=10)
    page.clock.fast_forward(TEN_MINUTES_MS)
    time.sleep(10)  # the server's own time, in which leases end
    assert hub.standing() == []
    ben = open_page(browser.new_context(), hub, "Ben")
    for _ in range(2):
        press_slowly(ben, "ArrowLeft")
    wait_for(lambda: len(hub.standing()) == 2)
    expect(page.locator("[data-banner]")).to_contain_text("4 ratings are kept here")
    context.set_offline(False)
    page.clock.fast_forward(10_000)  # the longest pause between two tries
    wait_for(lambda: len(hub.standing()) == 6)
    expect(page.locator("[data-banner]")).to_be_hidden()
    by_rater = {rater.name: rater.rater_id for rater in hub.store.raters()}
    anna = [rating for rating in hub.standing() if rating.rater_id == by_rater["Anna"]]
    assert [rating.payload["choice"] for rating in anna] == ["left", "right", "tie", "both_bad"]
    assert len({rating.task_id for rating in anna}) == 4
    assert len({rating.rating_id for rating in hub.standing()}) == 6
    when_ready(page)  # and on it goes
    ben.context.close()


def test_a_browsers_clock_that_is_set_changes_nothing_but_what_it_says(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 4)
    page = context.new_page()
    page.clock.install()
    page.close()
    page = open_page(context, hub, "Anna")
    for year in (2026, 2041, 1999):
        when_ready(page)
        page.clock.set_system_time(f"{year}-06-01T12:00:00Z")
        press_slowly(page, "ArrowLeft")
    wait_for(lambda: len(hub.standing()) == 3)
    assert [rating.client_time[:4] for rating in hub.standing()] == ["2026", "2041", "1999"]
    assert all(0 <= rating.dwell_ms < 60_000 for rating in hub.standing())
    times = [rating.server_time for rating in hub.standing()]
    assert times == sorted(times)


def test_a_pair_whose_picture_is_lost_goes_away_by_itself_and_the_board_says_so(
    hub: Hub, context: BrowserContext
) -> None:
    hub.add_round(1, 3)
    lost = hub.store.tasks()[0].image_ids[0]
    hub.workspace.image_path(lost).write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    page = open_page(context, hub, "Anna")
    press_at(page, "r1-001", "ArrowLeft")
    press_at(page, "r1-002", "ArrowLeft")
    expect(page.get_by_role("heading", name="You have rated everything")).to_be_visible()
    assert [rating.task_id for rating in hub.standing()] == ["r1-001", "r1-002"]
    assert hub.store.progress(1).is_complete
    board = context.new_page()
    board.goto(f"{hub.server.url}/board?key=the-token")
    expect(board.get_by_role("alert").filter(has_text=lost[:12])).to_be_visible()


@pytest.mark.skipif(not can_mount(), reason="needs a kernel that lets us mount a small disk (user namespaces)")
def test_on_a_full_disk_the_rater_is_told_and_the_queue_is_kept(
    context: BrowserContext, tmp_path: Path, hub: Hub
) -> None:
    hub.add_round(1, 8)
    hub.server.stop()
    hub.store.close()
    (hub.workspace.root / "hitl.toml").write_text("")
    with a_small_disk(tmp_path) as disk:
        hub.server.url = disk.url
        page = open_page(context, hub, "Anna")
        press_slowly(page, "ArrowLeft")
        when_ready(page)
        page.wait_for_timeout(1000)
        disk.fill()
        for key in ("ArrowRight", "t"):
            press_slowly(page, key)
        expect(page.locator("[data-banner]")).to_contain_text("disk is full")
        # One at least: where the last block of the journal has room, the first rating may still have been written.
        expect(page.locator("[data-banner]")).to_contain_text("kept here")
        page.reload()  # what is kept outlasts the page
        expect(page.locator("[data-banner]")).to_contain_text("kept here")
        disk.make_room()
        expect(page.locator("[data-banner]")).to_be_hidden()
        journal = disk.root / "workspace" / "journal.jsonl"
        # The banner goes with the first that is sent.
        wait_for(lambda: journal.read_text().count('"event":"rating_added"') == 3)
        page.wait_for_timeout(500)
        assert journal.read_text().count('"event":"rating_added"') == 3
        page.close()
