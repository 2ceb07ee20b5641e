"""The rating screen as people use it: keys, mouse, refresh, undo, a dead network, two raters at once."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect

from hitl.config import RateConfig
from tests.facts import a_rater, a_rating

from .conftest import Hub, a_hub, open_page, sign_in, when_ready

pytestmark = pytest.mark.e2e


def wait_for(claim: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """What the store holds follows the screen within a moment."""
    end = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < end, "The store did not follow the screen."
        time.sleep(0.02)


def press_slowly(page: Page, key: str) -> None:
    when_ready(page)
    before = page.locator("[data-task]").first.get_attribute("data-task")
    page.keyboard.press(key)
    if key == "s":
        page.keyboard.press(key)  # without a reason
    expect(page.locator(f'[data-task="{before}"]')).to_have_count(0)


def press_at(page: Page, task_id: str, key: str) -> None:
    """Rate the last task there is, after which no other comes."""
    expect(page.locator(f'[data-task="{task_id}"][data-ready="yes"]')).to_have_count(1)
    page.keyboard.press(key)


def test_every_key_means_what_its_cap_says(hub: Hub, context: BrowserContext) -> None:
    keys = {
        "ArrowLeft": "left", "1": "left", "a": "left", "ArrowRight": "right", "2": "right", "D": "right",
        "ArrowDown": "tie", "0": "tie", "t": "tie", "ArrowUp": "both_bad", "b": "both_bad", "s": "skip",
    }  # fmt: skip
    hub.add_round(1, len(keys) + 1)
    page = open_page(context, hub, "Anna")
    for key in keys:
        press_slowly(page, key)
    wait_for(lambda: len(hub.standing()) == len(keys))
    assert hub.choices() == list(keys.values())
    skips = list(keys.values()).count("skip")
    expect(page.locator("[data-progress]")).to_contain_text(f"{len(keys) - skips}/")


# -- other kinds ------------------------------------------------------------------------------------------------------


def payloads(hub: Hub, page: Page, count: int) -> list[dict[str, Any]]:
    """What was sent, once the store has it all."""
    wait_for(lambda: len(hub.standing()) == count)
    return [rating.payload for rating in hub.standing()]


def next_task(page: Page, act: Callable[[], None]) -> None:
    when_ready(page)
    before = page.locator("[data-task]").first.get_attribute("data-task")
    act()
    expect(page.locator(f'[data-task="{before}"]')).to_have_count(0)


def test_the_best_of_four_by_key_and_by_click(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 4, kind="best", images=4)
    page = open_page(context, hub, "Anna")
    next_task(page, lambda: page.keyboard.press("3"))
    next_task(page, lambda: page.locator('[data-card="1"]').click())
    press_slowly(page, "s")
    assert payloads(hub, page, 3) == [
        {"ranks": [None, None, 1, None]},
        {"ranks": [None, 1, None, None]},
        {"choice": "skip"},
    ]


def test_an_order_of_four_by_keys_and_by_clicks(hub: Hub, context: BrowserContext) -> None:
    """By digits for one picture after the other, with a tie and a change of mind; then by clicks from the best on."""
    hub.add_round(1, 3, kind="ranking", images=4)
    page = open_page(context, hub, "Anna")

    def by_keys() -> None:
        for key in ("2", "1", "Enter", "3", "Backspace", "1", "4"):  # Enter before the end does nothing
            page.keyboard.press(key)
        expect(page.get_by_role("button", name="Done")).to_be_enabled()
        page.keyboard.press("Enter")

    def by_clicks() -> None:
        for number in (3, 0, 2, 1):
            page.locator(f'[data-card="{number}"]').click()
        page.get_by_role("button", name="Done").click()

    next_task(page, by_keys)
    next_task(page, by_clicks)
    assert payloads(hub, page, 2) == [{"ranks": [2, 1, 1, 4]}, {"ranks": [2, 4, 3, 1]}]


@pytest.mark.parametrize("rate", [RateConfig(axes=("overall", "alignment"))])
def test_grades_on_two_axes_by_keys_and_by_buttons(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 3, kind="grades", images=1)
    page = open_page(context, hub, "Anna")

    def by_keys() -> None:
        for key in ("4", "2", "Enter"):
            page.keyboard.press(key)

    def by_buttons() -> None:
        page.get_by_role("group", name="Fits the text, picture 1").get_by_role("button", name="5").click()
        page.get_by_role("group", name="Overall, picture 1").get_by_role("button", name="1").click()
        page.keyboard.press("Enter")

    next_task(page, by_keys)
    next_task(page, by_buttons)
    assert payloads(hub, page, 2) == [
        {"grades": {"overall": [4], "alignment": [2]}},
        {"grades": {"overall": [1], "alignment": [5]}},
    ]


def test_one_key_is_a_whole_answer_of_good_and_bad_and_undo_asks_again(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 4, kind="good_bad", images=1)
    page = open_page(context, hub, "Anna")
    for key in ("2", "b"):
        next_task(page, lambda key=key: page.keyboard.press(key))
    next_task(page, lambda: page.keyboard.press("u"))
    next_task(page, lambda: page.get_by_role("button", name="Good").click())
    wait_for(lambda: len(hub.store.ratings()) == 4)  # the undo among them
    assert payloads(hub, page, 2) == [{"grades": {"overall": [2]}}, {"grades": {"overall": [2]}}]


def test_keys_pressed_too_early_are_used_one_after_the_other_in_an_order_too(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 3, kind="ranking", images=4)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    for key in ("1", "2", "3", "4", "Enter", "4", "3", "2", "1", "Enter"):
        page.keyboard.press(key)
    assert payloads(hub, page, 2) == [{"ranks": [1, 2, 3, 4]}, {"ranks": [4, 3, 2, 1]}]


# -- what may be added -------------------------------------------------------------------------------------------------


def test_a_skip_may_say_why_and_another_answer_instead_is_for_the_next_pair(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 6)
    page = open_page(context, hub, "Anna")

    def after_s(*keys: str) -> None:
        page.keyboard.press("s")
        expect(page.get_by_role("region", name="Why do you skip?")).to_be_visible()
        for key in keys:
            page.keyboard.press(key)

    next_task(page, lambda: after_s("2"))
    next_task(page, lambda: after_s("Escape", "ArrowLeft"))
    next_task(page, lambda: after_s("Enter"))
    next_task(page, lambda: after_s("ArrowRight"))
    assert payloads(hub, page, 5) == [
        {"choice": "skip", "reason": "undecided"},
        {"choice": "left"},
        {"choice": "skip"},
        {"choice": "skip"},
        {"choice": "right"},
    ]


def test_flags_points_and_a_note_go_with_the_answer(hub: Hub, context: BrowserContext) -> None:
    """By keys: flags of the left picture, then of the right one; a place by a click; a note. Then nothing is left."""
    hub.add_round(1, 3)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    page.keyboard.press("f")
    for key in ("h", "a", "h", "ArrowRight", "m"):  # hands on and off again
        page.keyboard.press(key)
    page.wait_for_timeout(200)  # the pictures have made room for the panel
    box = page.locator('[data-card="1"] img').bounding_box()
    page.locator('[data-card="1"] img').click(position={"x": 30, "y": 60})
    page.keyboard.press("n")
    page.keyboard.type("two left hands, see left: 1")  # keys of answers are letters here
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Flags and note")).to_be_hidden()
    expect(page.get_by_role("button", name="Flags 3")).to_be_visible()
    assert box is not None
    press_slowly(page, "ArrowLeft")
    press_slowly(page, "ArrowRight")
    first, second = payloads(hub, page, 2)
    ((x, y),) = first["points"][1]
    assert (x * box["width"], y * box["height"]) == pytest.approx((30, 60), abs=1.5)
    assert first == {
        "choice": "left",
        "flags": [["artefact"], ["mismatch"]],
        "points": [[], [[x, y]]],
        "note": "two left hands, see left: 1",
    }
    assert second == {"choice": "right"}


@pytest.mark.parametrize("rate", [RateConfig(flags=("fog", "fur", "фон"))])
def test_a_projects_own_flags_get_keys_of_their_own(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 2)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    for key in ("f", "o", "u", "Escape"):  # f closes the panel, so it is no flag's; the third has no letter of a to z
        page.keyboard.press(key)
    press_slowly(page, "t")
    assert payloads(hub, page, 1) == [{"choice": "tie", "flags": [["fog", "fur"], []]}]


# -- what holds for all -----------------------------------------------------------------------------------------------


def test_the_side_on_the_screen_is_the_side_in_the_store(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 9)
    page = open_page(context, hub, "Anna")
    shown: list[tuple[str, ...]] = []
    for _ in range(8):
        when_ready(page)
        sources = page.locator(".card img").evaluate_all("found => found.map((image) => image.src)")
        shown.append(tuple(source.rsplit("/", 1)[1] for source in sources))
        press_slowly(page, "ArrowLeft")
    wait_for(lambda: len(hub.standing()) == 8)
    assert [rating.image_ids for rating in hub.standing()] == shown
    winners = [found.image_a if found.outcome == "a" else found.image_b for found in hub.store.comparisons(1)]
    assert sorted(winners) == sorted(left for left, _ in shown)
    assert {found.left for found in hub.store.comparisons(1)} == {"a", "b"}  # 1 in 128 would be one-sided


@pytest.mark.parametrize("gap_ms", [10, 30])
def test_twenty_keys_in_a_row_are_twenty_ratings(hub: Hub, context: BrowserContext, gap_ms: int) -> None:
    """Faster than anyone can look: none may vanish and none may count twice, in the order in which they came."""
    hub.add_round(1, 25)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    pressed = ["ArrowLeft", "ArrowRight", "ArrowDown", "ArrowUp"] * 5
    page.evaluate(
        """([keys, gap]) => new Promise((done) => keys.forEach((key, i) => setTimeout(() => {
            document.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
            if (i === keys.length - 1) done();
        }, i * gap)))""",
        [pressed, gap_ms],
    )
    expect(page.locator("[data-waiting-keys]")).to_contain_text("wait")
    wait_for(lambda: len(hub.store.ratings()) == 20)
    expect(page.locator("[data-waiting-keys]")).to_be_hidden()
    when_ready(page)
    assert len(hub.store.ratings()) == 20
    assert hub.choices() == ["left", "right", "tie", "both_bad"] * 5
    assert len({rating.task_id for rating in hub.standing()}) == 20


def test_a_key_held_down_is_one_rating(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 6)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    for _ in range(10):
        page.keyboard.down("ArrowLeft")  # the second and later ones are auto-repeats
    page.keyboard.up("ArrowLeft")
    when_ready(page)
    page.wait_for_timeout(500)
    assert hub.choices() == ["left"]


def test_undo_takes_back_and_the_new_answer_counts(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 6)
    page = open_page(context, hub, "Anna")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowLeft"):
        press_slowly(page, key)
    when_ready(page)
    for _ in range(2):
        press_slowly(page, "u")
    for key in ("ArrowRight", "t"):
        press_slowly(page, key)
    wait_for(lambda: len(hub.store.ratings()) == 7)
    by_task = {rating.task_id: rating.payload["choice"] for rating in hub.standing()}
    assert by_task == {"r1-000": "left", "r1-001": "right", "r1-002": "tie"}


def test_undo_still_works_after_a_refresh(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 4)
    page = open_page(context, hub, "Anna")
    press_slowly(page, "ArrowLeft")
    page.reload()
    press_slowly(page, "z")
    press_slowly(page, "ArrowRight")
    wait_for(lambda: hub.choices() == ["right"])


def test_a_refresh_in_the_middle_loses_nothing_and_shows_the_same_pair(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 8)
    page = open_page(context, hub, "Anna")
    press_slowly(page, "ArrowLeft")
    when_ready(page)
    page.keyboard.press("ArrowRight")
    page.reload()  # while the second rating is on its way
    when_ready(page)
    wait_for(lambda: len(hub.standing()) == 2)
    task = page.locator("[data-task]").first.get_attribute("data-task")
    page.reload()
    when_ready(page)
    assert page.locator("[data-task]").first.get_attribute("data-task") == task
    assert sorted(rating.task_id for rating in hub.standing()) == ["r1-000", "r1-001"]


def test_ratings_outlast_a_dead_network_and_a_closed_page(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 8)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    expect(page.locator(".card img")).to_have_count(2)
    page.wait_for_timeout(1500)  # the next three are decoded by now
    context.set_offline(True)
    for key in ("ArrowLeft", "ArrowRight", "t"):
        press_slowly(page, key)
    expect(page.locator("[data-banner]")).to_contain_text("kept here")
    assert hub.standing() == []
    page.close()
    context.set_offline(False)
    page = context.new_page()
    page.goto(hub.server.url)
    wait_for(lambda: len(hub.standing()) == 3)
    assert hub.choices() == ["left", "right", "tie"]
    when_ready(page)
    assert page.locator("[data-task]").first.get_attribute("data-task") == "r1-003"


def test_two_raters_at_once_share_the_round_without_overlap(hub: Hub, browser: Browser) -> None:
    hub.add_round(1, 20)
    contexts = [browser.new_context() for _ in range(2)]
    pages = [open_page(context, hub, name) for context, name in zip(contexts, ("Anna", "Bo"), strict=True)]
    try:
        end = time.monotonic() + 90
        while hub.store.progress(1).done < 20:
            assert time.monotonic() < end, "The round did not get done."
            for page, key in zip(pages, ("ArrowLeft", "ArrowRight"), strict=True):
                if page.locator('.hitl-screen[data-ready="yes"]').count():
                    page.keyboard.press(key)
            time.sleep(0.02)
        for page in pages:
            expect(page.get_by_role("heading", name="You have rated everything there is for now.")).to_be_visible()
        standing = hub.standing()
        assert sorted(rating.task_id for rating in standing) == [f"r1-{i:03d}" for i in range(20)]
        names = {rater.rater_id: rater.name for rater in hub.store.raters()}
        choices = {(names[rating.rater_id], rating.payload["choice"]) for rating in standing}
        assert choices == {("Anna", "left"), ("Bo", "right")}
    finally:
        for context in contexts:
            context.close()


def test_between_rounds_the_page_tells_and_goes_on_by_itself(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 1)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("heading", name="You have rated everything there is for now.")).to_be_visible()
    hub.live.enter("train", "Training", round=1, rounds=5, total=40)
    hub.live.advance(10)
    expect(page.get_by_role("heading", name="The machine is training …")).to_be_visible()
    expect(page.locator("[data-meter]")).to_have_attribute("aria-valuenow", "25")
    expect(page.locator("[data-figures]")).to_contain_text("Round 1 of 5 · 25%")
    hub.live.advance(30)
    expect(page.locator("[data-meter]")).to_have_attribute("aria-valuenow", "75")
    hub.add_round(2, 3)
    hub.live.enter("rate", "Waiting for ratings", round=2)
    when_ready(page)
    press_slowly(page, "ArrowRight")
    press_slowly(page, "t")
    when_ready(page)
    page.keyboard.press("b")
    wait_for(lambda: hub.choices() == ["left", "right", "tie", "both_bad"])
    hub.live.enter("finished", "Done", round=2)
    expect(page.get_by_role("heading", name="All rounds are done. Thank you!")).to_be_visible()


def test_a_second_tab_of_one_rater_counts_no_task_twice(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 6)
    first = open_page(context, hub, "Anna")
    when_ready(first)
    second = context.new_page()
    second.goto(hub.server.url)
    when_ready(second)
    when_ready(first)
    for page in (first, second, first, second, first, second):
        when_ready(page)
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(500)
    wait_for(lambda: len(hub.standing()) == 6)
    assert len({rating.task_id for rating in hub.standing()}) == 6


def test_a_task_undone_in_a_tab_that_was_closed_comes_back_in_the_other(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 2)
    first = open_page(context, hub, "Anna")
    when_ready(first)
    second = context.new_page()
    second.goto(hub.server.url)
    press_slowly(second, "ArrowLeft")
    expect(first.locator('[data-task="r1-001"]')).to_have_count(1)
    press_slowly(second, "u")
    wait_for(lambda: len(hub.store.ratings()) == 2)
    second.close()
    press_slowly(first, "t")
    press_at(first, "r1-000", "ArrowRight")
    wait_for(lambda: hub.choices() == ["tie", "right"])
    expect(first.get_by_role("heading", name="You have rated everything there is for now.")).to_be_visible()


def test_ratings_of_a_tab_whose_browser_became_somebody_else_wait_for_their_rater(
    hub: Hub, context: BrowserContext
) -> None:
    hub.add_round(1, 9)
    annas = open_page(context, hub, "Anna")
    when_ready(annas)
    context.route("**/api/ratings", lambda route: route.abort())
    for key in ("ArrowLeft", "ArrowRight"):
        press_slowly(annas, key)
    expect(annas.locator("[data-banner]")).to_contain_text("2 ratings are kept here")
    bos = context.new_page()
    bos.goto(hub.server.url)
    when_ready(bos)  # as Anna, who is signed in
    bos.keyboard.press("?")
    bos.get_by_role("button", name="Rate as somebody else").click()
    sign_in(bos, "Bo")
    when_ready(bos)
    context.unroute("**/api/ratings")
    expect(annas.locator("[data-join-problem]")).to_contain_text("nothing is lost")
    assert hub.standing() == []
    expect(annas.get_by_label("Your name")).to_have_value("Anna")
    annas.keyboard.press("Enter")
    wait_for(lambda: hub.choices() == ["left", "right"])
    anna = hub.store.rater_by_name("Anna")
    assert anna is not None
    assert {rating.rater_id for rating in hub.standing()} == {anna.rater_id}


def test_two_workspaces_at_one_address_do_not_mix(hub: Hub, context: BrowserContext, tmp_path: Path) -> None:
    """Names and task ids are the same in both, and the browser keeps what is not sent by address."""
    hub.add_round(1, 4)
    first = open_page(context, hub, "Anna")
    press_slowly(first, "ArrowLeft")
    wait_for(lambda: len(hub.standing()) == 1)
    first.route("**/api/ratings", lambda route: route.abort())
    press_slowly(first, "ArrowRight")
    expect(first.locator("[data-banner]")).to_contain_text("1 rating is kept here")
    port = urlsplit(hub.server.url).port
    assert port is not None
    hub.server.stop()
    with a_hub(tmp_path / "other", port=port) as other:
        other.add_round(1, 4)
        second = open_page(context, other, "Anna")
        when_ready(second)
        second.keyboard.press("u")
        expect(second.locator("[data-say]")).to_have_text("There is nothing to undo.")
        expect(second.locator("[data-banner]")).to_be_hidden()
        first.unroute("**/api/ratings")
        expect(first.locator("[data-join-problem]")).to_contain_text("another workspace")
        press_slowly(second, "b")
        wait_for(lambda: other.choices() == ["both_bad"])
        second.close()
    hub.serve(port)
    first.reload()
    wait_for(lambda: hub.choices() == ["left", "right"])
    assert [rating.task_id for rating in hub.standing()] == ["r1-000", "r1-001"]


def free_for_others(hub: Hub) -> list[str]:
    """What another rater would be handed now. A lease of no length holds nothing."""
    return [offer.task.task_id for offer in hub.store.lease("somebody else", limit=9, lease_s=0)]


@pytest.mark.parametrize("rate", [RateConfig(lease_s=5)])
def test_an_open_page_with_nobody_at_it_gives_its_tasks_up(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 2)
    context.clock.install()
    page = open_page(context, hub, "Bo")
    when_ready(page)
    end = time.monotonic() + 25
    page.clock.fast_forward(61_000)
    time.sleep(1)
    while free_for_others(hub) != ["r1-000", "r1-001"]:
        assert time.monotonic() < end, "The page kept its tasks."
        page.clock.fast_forward(61_000)  # its timers fire; nobody touches it
        time.sleep(1)
    page.mouse.move(300, 300)
    wait_for(lambda: free_for_others(hub) == [])  # somebody is back


@pytest.mark.parametrize("rate", [RateConfig(lease_s=9)])
def test_a_rater_who_is_there_keeps_their_tasks_for_longer_than_a_lease(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 2)
    page = open_page(context, hub, "Bo")
    when_ready(page)
    for step in range(60):
        page.mouse.move(100 + step, 100)
        assert free_for_others(hub) == []
        time.sleep(0.25)
    press_slowly(page, "ArrowLeft")
    press_at(page, "r1-001", "ArrowRight")
    wait_for(lambda: hub.choices() == ["left", "right"])


def test_when_all_rounds_are_done_the_page_no_longer_needs_the_server(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 1)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    page.keyboard.press("ArrowLeft")
    wait_for(lambda: hub.choices() == ["left"])
    hub.live.enter("finished", "All rounds are done")
    thanks = page.get_by_role("heading", name="All rounds are done. Thank you!")
    expect(thanks).to_be_visible()
    page.wait_for_timeout(1500)  # what was under way has come back
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(urlsplit(request.url).path)

    page.on("request", note)
    hub.server.stop()
    page.wait_for_timeout(3000)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # somebody looks at the page again
    page.wait_for_timeout(1500)
    expect(thanks).to_be_visible()
    expect(page.locator("[data-detail]")).to_have_text("You can close this page.")
    expect(page.locator("[data-banner]")).to_be_hidden()
    assert asked.count("/api/tasks") <= 1


def test_while_the_machine_learns_there_is_no_undo_by_key_either(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 1)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("button", name="Undo my last rating")).to_be_visible()
    hub.live.enter("train", "Training", round=1)
    expect(page.get_by_role("heading", name="The machine is training …")).to_be_visible()
    expect(page.get_by_role("button", name="Undo my last rating")).to_be_hidden()
    page.keyboard.press("u")
    page.wait_for_timeout(1000)
    assert len(hub.store.ratings()) == 1
    assert hub.choices() == ["left"]


def test_undo_does_not_reach_into_the_round_before(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 1)
    page = open_page(context, hub, "Anna")
    press_at(page, "r1-000", "ArrowLeft")
    hub.live.enter("train", "Training", round=1)
    expect(page.get_by_role("heading", name="The machine is training …")).to_be_visible()
    hub.add_round(2, 2)
    hub.live.enter("rate", "Waiting for ratings", round=2)
    press_slowly(page, "ArrowRight")
    press_slowly(page, "u")
    when_ready(page)
    page.keyboard.press("u")
    expect(page.locator("[data-say]")).to_have_text("There is nothing to undo.")
    wait_for(lambda: len(hub.store.ratings()) == 3)
    assert [rating.task_id for rating in hub.standing()] == ["r1-000"]
    press_slowly(page, "t")
    wait_for(lambda: sorted(rating.payload["choice"] for rating in hub.standing()) == ["left", "tie"])


def test_a_round_rated_by_others_offers_no_undo_of_the_one_before(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 1)
    page = open_page(context, hub, "Anna")
    press_at(page, "r1-000", "ArrowLeft")
    expect(page.get_by_role("button", name="Undo my last rating")).to_be_visible()
    hub.live.enter("train", "Training", round=1)
    expect(page.get_by_role("heading", name="The machine is training …")).to_be_visible()
    hub.add_round(2, 1)
    hub.store.add_rater(a_rater("bo"))
    (task,) = (task for task in hub.store.tasks() if task.round == 2)
    hub.store.add_rating(a_rating(task, "bo"))
    hub.live.enter("rate", "Waiting for ratings", round=2)
    expect(page.get_by_role("heading", name="You have rated everything there is for now.")).to_be_visible()
    expect(page.get_by_role("button", name="Undo my last rating")).to_be_hidden()
    page.keyboard.press("u")
    page.wait_for_timeout(1000)
    assert len(hub.store.ratings()) == 2


def test_mouse_zoom_and_help(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 5)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("ArrowLeft")  # while the help is open this rates nothing
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    small = page.locator(".card").first.bounding_box()
    page.keyboard.press(" ")
    large = page.locator(".card").first.bounding_box()
    assert small is not None
    assert large is not None
    assert large["width"] > 1.2 * small["width"]
    page.keyboard.press(" ")
    page.locator(".card").nth(1).click()
    when_ready(page)
    page.keyboard.press(" ")  # the click left no focus behind that Space could press again
    page.keyboard.press(" ")
    page.get_by_role("button", name="Both bad").click()
    wait_for(lambda: hub.choices() == ["right", "both_bad"])


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_one_screen_without_scrolling_and_only_our_own_server(
    hub: Hub, browser: Browser, width: int, height: int, scheme: str
) -> None:
    hub.add_round(1, 3)
    dark = scheme == "dark"
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", device_scale_factor=2
    )
    asked: list[str] = []
    broken: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    context.on("request", note)
    context.on("weberror", lambda error: broken.append(str(error.error)))
    page = open_page(context, hub, "Anna")
    when_ready(page)
    overflow = page.evaluate(
        """() => {
            const root = document.querySelector('.hitl-screen'), page = document.documentElement;
            return [root.scrollHeight - root.clientHeight, root.scrollWidth - root.clientWidth,
                    page.scrollHeight - innerHeight, page.scrollWidth - innerWidth];
        }"""
    )
    assert max(overflow) <= 0
    boxes = [page.locator(".card").nth(side).bounding_box() for side in (0, 1)]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["width"] == boxes[1]["width"] == boxes[0]["height"] == boxes[1]["height"]
    rendering = page.locator(".card img").first.evaluate("image => getComputedStyle(image).imageRendering")
    assert rendering == "pixelated"
    paper = page.locator(".hitl-screen").evaluate("screen => getComputedStyle(screen).backgroundColor")
    assert (sum(int(part) for part in paper[4:-1].split(",")) < 300) == dark
    assert [url for url in asked if not url.startswith((hub.server.url, "data:", "blob:"))] == []
    assert broken == []
    context.close()


def test_the_board_shows_the_researcher_how_it_goes(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 4)
    hub.store.add_metrics(1, "train", [{"step": step, "name": "reward", "value": step / 10} for step in range(5)])
    page = open_page(context, hub, "Anna")
    for key in ("ArrowLeft", "ArrowRight", "t"):
        press_slowly(page, key)
    wait_for(lambda: len(hub.standing()) == 3)
    page.goto(f"{hub.server.url}/board")
    expect(page.get_by_text("This page is for the researcher.")).to_be_visible()
    page.goto(f"{hub.server.url}/board?key=the-token")
    expect(page.locator("#board-now")).to_contain_text("3/4")
    expect(page.locator("#board-raters")).to_contain_text("Anna")
    expect(page.locator("#board-metric canvas, #board-metric svg").first).to_be_visible()
    hub.live.enter("train", "Training, update 2 of 8", total=8)
    expect(page.locator("#board-now")).to_contain_text("Training, update 2 of 8")  # by its timer, without a reload


def test_keys_that_are_meant_for_the_browser_rate_nothing(hub: Hub, context: BrowserContext) -> None:
    """Ctrl+1 shows the first tab, which sends this one into the background: no choice, though 1 alone is one."""
    hub.add_round(1, 3)
    page = open_page(context, hub, "Anna")
    press_slowly(page, "ArrowLeft")
    when_ready(page)
    for modifier in ("Control", "Alt", "Meta"):
        for key in ("1", "2", "a", "d", "s", "t", "z"):
            page.keyboard.press(f"{modifier}+{key}")
    page.wait_for_timeout(500)
    expect(page.locator('[data-task="r1-001"][data-ready="yes"]')).to_have_count(1)
    assert len(hub.store.ratings()) == 1
    press_slowly(page, "1")
    wait_for(lambda: hub.choices() == ["left", "left"])


def test_a_tab_in_the_background_gets_its_next_pair_ready(hub: Hub, context: BrowserContext) -> None:
    """No frame is painted there, so the page must not wait for one."""
    hub.add_round(1, 3)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    page.evaluate("window.requestAnimationFrame = () => 0")
    press_slowly(page, "ArrowLeft")
    press_slowly(page, "ArrowRight")
    when_ready(page)
    wait_for(lambda: hub.choices() == ["left", "right"])


def test_a_waiting_page_that_comes_to_the_front_asks_at_once_and_one_that_goes_does_not(
    hub: Hub, context: BrowserContext
) -> None:
    """In the background a browser holds timers back for up to a minute; here they stand still."""
    hub.add_round(1, 1)
    context.clock.install()
    page = open_page(context, hub, "Anna")
    press_at(page, "r1-000", "ArrowLeft")
    expect(page.get_by_role("heading", name="You have rated everything there is for now.")).to_be_visible()
    page.clock.pause_at(time.time() + 3600)
    page.wait_for_timeout(1500)  # what was under way has come back
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(urlsplit(request.url).path)

    page.on("request", note)
    for hidden in ("true", "false"):
        page.evaluate(
            f"""Object.defineProperty(document, 'hidden', {{ configurable: true, get: () => {hidden} }});
                document.dispatchEvent(new Event('visibilitychange'));"""
        )
        page.wait_for_timeout(1000)
        assert asked.count("/api/tasks") == (0 if hidden == "true" else 1)
    assert hub.choices() == ["left"]
