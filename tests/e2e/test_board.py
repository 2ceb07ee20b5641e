"""The board in a real browser: a click shows a rater's decisions, on a laptop and on a phone, and nothing breaks."""

from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from apps.simulated import SimulatedRater
from benchmarks.crowd import LEFT, Crowd, crowd
from tests.e2e.conftest import Hub

pytestmark = pytest.mark.e2e

SCRIPT = "<img src=x onerror=\"document.title='broken'\">${1+1}{{value}}`"


def rate_a_round(hub: Hub) -> None:
    """Six raters, each of whom rated twelve tasks."""
    hub.add_round(1, 12, overlap=6)
    tasks = hub.store.tasks(1)
    people = Crowd(hub.store, crowd(6))
    people.add_tasks(1, (), hub.store.images(1), tasks)
    people.rate(tasks, begin=datetime.now(UTC) - timedelta(hours=1), hours=1)


def open_board(page: Page, hub: Hub) -> None:
    page.goto(f"{hub.server.url}/board?key=the-token")
    expect(page.locator("#board-raters table")).to_be_visible()
    expect(page.locator(".panel h2")).to_have_count(5)


@pytest.mark.parametrize("width", [1366, 390])
def test_a_click_on_a_rater_shows_what_they_saw_and_chose(hub: Hub, browser: Browser, width: int):
    rate_a_round(hub)
    said: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type == "error":
            said.append(message.text)

    person = browser.new_context(viewport={"width": width, "height": 800})
    try:
        page = person.new_page()
        page.on("console", listen)
        open_board(page, hub)
        button = page.get_by_role("button", name=LEFT, exact=True)
        button.focus()
        page.keyboard.press("Enter")  # by keyboard as well as by mouse
        cards = page.locator(".decisions .card")
        expect(cards).to_have_count(12)
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(page.locator(".decisions h2")).to_be_in_viewport()
        shown = page.locator(".decisions img").evaluate_all(
            "images => Promise.all(images.map(image => { image.loading = 'eager'; return image.decode(); }))"
            ".then(() => images.map(image => [image.naturalWidth, image.src.split('/').pop()]))"
        )
        own = [row for row in hub.standing() if row.rater_id == rater_id(hub, LEFT)]
        assert [each for _, each in shown] == [image_id for row in own[::-1] for image_id in row.image_ids]
        assert {size for size, _ in shown} == {64}
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.get_by_role("button", name=LEFT, exact=True).click()
        expect(cards).to_have_count(0)
        assert said == []
    finally:
        person.close()


def test_names_that_are_programs_stay_names(hub: Hub, browser: Browser):
    rate_a_round(hub)
    people = Crowd(hub.store, [SimulatedRater(name=SCRIPT, seed=1, taste_weight=0.5)])
    hub.add_round(2, 2)
    tasks = hub.store.tasks(2)
    people.add_tasks(2, (), hub.store.images(2), tasks)
    people.rate(tasks, begin=datetime.now(UTC) - timedelta(minutes=5), hours=0.05)
    page = browser.new_page()
    try:
        open_board(page, hub)
        button = page.get_by_role("button", name=SCRIPT, exact=True)
        expect(button).to_be_visible()
        button.click()
        expect(page.locator(".decisions h2")).to_contain_text(SCRIPT)
        assert page.title() == "hitl · board"
    finally:
        page.close()


def rater_id(hub: Hub, name: str) -> str:
    rater = hub.store.rater_by_name(name)
    assert rater is not None
    return rater.rater_id
