"""What the page tells of how a pair was shown, and a repeat as the browser meets it."""

from dataclasses import replace

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from data.assignment import REPEAT_AFTER

from .conftest import Hub, open_page, when_ready
from .test_rating import press_at, press_slowly, wait_for

pytestmark = pytest.mark.e2e


def test_the_time_to_decide_ends_with_the_key_and_the_device_is_known(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 6)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    page.wait_for_timeout(400)
    press_slowly(page, "ArrowLeft")
    when_ready(page)
    page.locator(".choice[data-choice='tie']").click()
    wait_for(lambda: len(hub.standing()) == 2)
    slow, fast = hub.standing()
    assert (slow.input_device, slow.screen_size, slow.shown_as) == ("keyboard", "large", "original")
    assert slow.decide_ms is not None
    assert 400 <= slow.decide_ms <= slow.dwell_ms + 1
    assert fast.input_device == "mouse"


def test_a_key_pressed_before_the_pictures_were_there_took_no_time(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 6)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    wait_for(lambda: len(hub.standing()) == 3)
    assert [rating.decide_ms for rating in hub.standing()][1:] == [0, 0]
    assert all(rating.dwell_ms >= 150 for rating in hub.standing())


def test_a_tap_on_a_phone_is_a_touch_on_a_small_screen(hub: Hub, browser: Browser) -> None:
    hub.add_round(1, 6)
    phone = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = open_page(phone, hub, "Anna")
    when_ready(page)
    page.locator("[data-card='1']").tap()
    wait_for(lambda: len(hub.standing()) == 1)
    phone.close()
    (rating,) = hub.standing()
    assert (rating.input_device, rating.screen_size, rating.payload["choice"]) == ("touch", "small", "right")


def test_a_repeat_shows_the_same_pictures_with_their_sides_swapped(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, REPEAT_AFTER + 8)
    first = hub.store.tasks(1)[0]
    hub.store.add_tasks([replace(first, task_id="r1-999", purpose="repeat", repeats=first.task_id)])
    page = open_page(context, hub, "Anna")
    shown: dict[str, list[str]] = {}
    while "r1-999" not in shown:
        when_ready(page)
        name = page.locator("[data-task]").first.get_attribute("data-task")
        assert name is not None
        shown[name] = page.locator(".card img").evaluate_all("found => found.map((image) => image.src)")
        press_slowly(page, "ArrowLeft")
    assert shown["r1-999"] == shown[first.task_id][::-1]
    assert len(shown) - 2 >= REPEAT_AFTER
    wait_for(lambda: len(hub.store.repeats(1)) == 1)
    assert hub.store.repeats(1)[0].agreement == 0.0  # left twice
    expect(page.locator("[data-progress]")).to_contain_text(f"{len(shown)}/{REPEAT_AFTER + 8 + 1}")


def test_a_study_is_rated_while_the_machine_works(hub: Hub, context: BrowserContext) -> None:
    """Its two questions are asked apart, in words. Undo takes back what was said to it, and not what the machine has
    learned from.
    """
    hub.add_round(1, 1)
    pair = hub.store.tasks(1)[0]
    judged = {"purpose": "judge", "models": ("new", "old"), "study": "which"}
    kinds = ("alignment", "quality", "alignment")
    study = [replace(pair, task_id=f"r1-9{n:02d}", kind=kind, **judged) for n, kind in enumerate(kinds)]
    page = open_page(context, hub, "Anna")
    press_at(page, "r1-000", "ArrowRight")
    wait_for(lambda: len(hub.standing()) == 1)
    hub.live.enter("train", "Training", round=1, rounds=2)
    hub.store.add_tasks(study)
    questions = {
        "alignment": "Which picture shows the text more exactly, however it looks?",
        "quality": "Which picture looks better, whatever the text says?",
    }
    for task in study[:2]:
        expect(page.locator(f'[data-task="{task.task_id}"][data-ready="yes"]')).to_have_count(1)
        expect(page.locator("[data-question]")).to_have_text(questions[task.kind])
        page.keyboard.press("ArrowLeft")
    wait_for(lambda: len(hub.store.judgements(study="which")) == 2)
    expect(page.locator("[data-progress]")).to_contain_text("3/4")
    when_ready(page)
    page.keyboard.press("u")
    wait_for(lambda: len(hub.store.judgements(study="which")) == 1)
    expect(page.locator(f'[data-task="{study[1].task_id}"][data-ready="yes"]')).to_have_count(1)
    expect(page.locator("[data-question]")).to_have_text(questions["quality"])
    page.keyboard.press("ArrowRight")
    wait_for(lambda: len(hub.store.judgements(study="which")) == 2)
    expect(page.locator(f'[data-task="{study[2].task_id}"][data-ready="yes"]')).to_have_count(1)
    for _ in range(4):
        page.keyboard.press("u")
    wait_for(lambda: len(hub.store.judgements(study="which")) == 0)
    page.wait_for_timeout(500)
    assert hub.choices() == ["right"]
    assert hub.store.progress(1).done == 1
