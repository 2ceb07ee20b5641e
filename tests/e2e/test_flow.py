"""The whole way of a rater, from the invite to the thanks and to being erased: by keys, by mouse, by touch alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, ViewportSize, WebSocket, expect

from apps.accounts import Accounts
from hitl.config import RateConfig

from .conftest import Hub, a_hub, open_page, sign_in, when_ready
from .states import button
from .test_rating import press_slowly, wait_for

pytestmark = pytest.mark.e2e
ANSWERS = {(True, False): "left", (False, True): "right", (True, True): "tie", (False, False): "both_bad"}
BREAK_AFTER_3 = RateConfig(break_every=3)


def events(hub: Hub) -> list[str]:
    return [json.loads(line)["event"] for line in hub.workspace.journal_path.read_text().splitlines()]


def right_answers(page: Page) -> list[str]:
    """Of the six practice pairs, as the page is told."""
    tasks = page.evaluate("fetch('api/practice').then((answer) => answer.json())")["tasks"]
    return [ANSWERS[tuple(task["fits"])] for task in tasks]


def tab_to(page: Page, action: str) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.action") == action:
            return
    raise AssertionError(f"Tab does not reach {action}.")


@pytest.mark.parametrize("rate", [BREAK_AFTER_3])
def test_the_whole_way_by_keyboard_alone(hub: Hub, context: BrowserContext) -> None:
    """From the invite's link: a name, the guide, practice with a mistake, rating, break, thanks, erased."""
    hub.add_round(1, 9)
    invite = Accounts(hub.store).invite()["invites"][0]
    page = context.new_page()
    page.goto(f"{hub.server.url}/join#{invite['token']}")
    expect(page.locator("#consent-text")).not_to_be_empty()
    page.keyboard.type("Anna")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="How to rate")).to_be_focused()
    answers = right_answers(page)
    page.keyboard.press("Enter")
    keys = {"left": "ArrowLeft", "right": "ArrowRight", "tie": "t", "both_bad": "b"}
    when_ready(page)
    page.keyboard.press("b")
    expect(page.locator("[data-lesson-word]")).to_contain_text("Look again. Only the left picture shows the text.")
    for number, answer in enumerate(answers, 1):
        when_ready(page)
        expect(page.locator("[data-lesson-count]")).to_have_text(f"Practice {number} of 6")
        page.keyboard.press(keys[answer])
        expect(page.locator("[data-lesson-word]")).to_contain_text("Right.")
    expect(page.locator("[data-lesson]")).to_be_hidden()
    when_ready(page)
    assert hub.store.ratings() == []  # practice is none
    for key in ("ArrowLeft", "t"):
        press_slowly(page, key)
    when_ready(page)
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("heading", name="3 answers. Rest your eyes.")).to_be_focused()
    page.keyboard.press("ArrowLeft")  # is no answer here
    page.keyboard.press("Enter")
    when_ready(page)
    assert hub.choices() == ["left", "tie", "right"]
    page.keyboard.press("?")
    tab_to(page, "done")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Thank you!")).to_be_visible()
    expect(page.locator(".wait dd").first).to_have_text("3")
    tab_to(page, "erase")
    page.keyboard.press("Enter")
    tab_to(page, "erase-once")
    page.keyboard.press("Enter")
    tab_to(page, "erase-twice")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="You are erased.")).to_be_focused()
    assert hub.choices() == ["left", "tie", "right"]  # they stay, under no name
    assert "Anna" not in hub.workspace.journal_path.read_text()
    assert [name for name in events(hub) if name in ("consent_given", "practice_ended", "rater_erased")] == [
        "consent_given", "practice_ended", "rater_erased"
    ]  # fmt: skip
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('hitl.'))") == []


@pytest.fixture(params=["mouse", "touch"])
def pointing(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    """A page on a laptop without a keyboard, or on a phone."""
    touch = request.param == "touch"
    size = ViewportSize(width=390, height=844) if touch else ViewportSize(width=1366, height=768)
    context = browser.new_context(viewport=size, has_touch=touch, is_mobile=touch)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("rate", [BREAK_AFTER_3])
def test_the_whole_way_by_mouse_alone_and_by_touch_alone(hub: Hub, pointing: Page) -> None:
    """But for the name, which is typed. Nothing is answered by a key."""
    hub.add_round(1, 9)
    page = pointing
    touch = bool(page.evaluate("navigator.maxTouchPoints"))

    def press(selector: str) -> None:
        (page.locator(selector).tap if touch else page.locator(selector).click)()

    page.goto(hub.server.url)
    expect(page.locator("form [data-consent]")).not_to_be_empty()
    page.locator("#hitl-name").fill("Anna")
    press("form .primary")
    expect(page.locator('.hitl-screen[data-view="guide"]')).to_have_count(1)
    answers = right_answers(page)
    press('[data-action="practise"]')
    for answer in answers:
        when_ready(page)
        press(f'.choice[data-choice="{answer}"]')
        expect(page.locator('[data-lesson-word][data-good="true"]')).to_be_visible()
    expect(page.locator("[data-lesson]")).to_be_hidden()
    when_ready(page)
    press('[data-card="1"]')
    when_ready(page)
    press('[data-tools] [data-choice="skip"]')
    press('[data-reason="undecided"]')
    when_ready(page)
    press('.tools [data-action="flags"]')
    press('[data-flag="0 hands"]')
    press('[data-extras] [data-action="flags"]')
    press('.choice[data-choice="both_bad"]')
    when_ready(page)
    press('.tools [data-action="undo"]')
    when_ready(page)
    press('.tools [data-action="zoom"]')
    press('[data-card="0"]')
    when_ready(page)
    press('.tools [data-action="zoom"]')
    press('.choice[data-choice="tie"]')
    expect(page.locator('.hitl-screen[data-view="break"]')).to_have_count(1)
    press('.card-page[data-view="break"] [data-action="done"]')
    expect(page.locator(".wait dd").first).to_have_text("3")
    assert hub.choices() == ["right", "skip", "left", "tie"]
    assert {rating.input_device for rating in hub.standing()} == {"touch" if touch else "mouse"}
    press('.wait [data-action="go-on"]')
    when_ready(page)


def test_a_rater_who_comes_back_goes_straight_on(hub: Hub, context: BrowserContext, browser: Browser) -> None:
    hub.add_round(1, 6)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    page.reload()
    when_ready(page)
    elsewhere = browser.new_context()
    again = open_page(elsewhere, hub, "Anna", practice=True)  # would stop at the guide
    when_ready(again)
    elsewhere.close()
    assert [name for name in events(hub) if name in ("consent_given", "practice_ended")] == [
        "consent_given", "practice_ended"
    ]  # fmt: skip


@pytest.mark.parametrize("rate", [RateConfig(practice=0)])
def test_without_practice_and_a_guide_of_its_own_the_first_pair_comes_at_once(
    hub: Hub, context: BrowserContext
) -> None:
    hub.add_round(1, 3)
    page = open_page(context, hub, "Anna", practice=True)
    when_ready(page)


@pytest.mark.parametrize(
    "rate",
    [RateConfig(guide="# <b>Look</b>\n- at **hands**\n- <img src=x onerror=alert(1)>", consent="We keep <i>all</i>.")],
)
def test_the_projects_own_texts_are_shown_as_text(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 3)
    page = open_page(context, hub, "Anna", practice=True)
    expect(page.get_by_role("heading", name="<b>Look</b>")).to_be_visible()
    assert page.locator('.guide [data-guide] li').all_inner_texts() == [
        "at hands", "<img src=x onerror=alert(1)>"
    ]  # fmt: skip
    assert page.locator("[data-guide] img, [data-consent] i").count() == 0
    assert json.loads(hub.workspace.journal_path.read_text().splitlines()[-1])["data"]["text"] == "We keep <i>all</i>."
    page.get_by_role("button", name="Skip practice").click()
    when_ready(page)
    page.keyboard.press("?")
    page.locator("summary").click()
    expect(page.get_by_role("dialog").get_by_text("at hands")).to_be_visible()


def test_who_signed_in_without_agreeing_is_asked_first(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 3)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    port = urlsplit(hub.server.url).port
    assert port is not None
    hub.server.stop()
    hub.rate = RateConfig(consent="Now we keep less.")
    hub.serve(port)
    page.reload()
    expect(page.locator('.card-page[data-view="consent"]')).to_contain_text("Now we keep less.")
    page.keyboard.press("Enter")
    press_slowly(page, "ArrowLeft")
    wait_for(lambda: hub.choices() == ["left"])


def test_done_gives_the_tasks_back_and_my_data_is_a_file(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 3)
    page = open_page(context, hub, "Anna")
    press_slowly(page, "ArrowLeft")
    page.keyboard.press("?")
    page.get_by_role("button", name="I am done for now").click()
    expect(page.locator(".wait dd").first).to_have_text("1")
    wait_for(lambda: len(hub.store.lease("somebody else", limit=9, lease_s=0)) == 2)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download my data").click()
    mine = json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))
    assert mine["rater"]["name"] == "Anna"
    assert [row["payload"] for row in mine["ratings"]] == [{"choice": "left"}]


def test_the_language_is_kept_and_can_be_changed_in_the_middle(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 6)
    page = context.new_page()
    page.goto(hub.server.url)
    page.locator("[data-language-top]").select_option("de")
    expect(page.get_by_role("heading", name="Welches Bild ist besser?")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Bewerten beginnen")).to_be_visible()
    expect(page.locator("form [data-consent]")).not_to_be_empty()
    page.locator("#hitl-name").fill("x" * 60)
    page.evaluate("document.querySelector('#hitl-name').maxLength = 99")
    page.locator("#hitl-name").fill("x" * 61)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").first).to_have_text(
        "Dieser Name hat 61 Zeichen. Jeder Name von 1 bis 60 Zeichen ist recht."
    )
    page.locator("#hitl-name").fill("Anna")
    page.keyboard.press("Enter")
    button(page, "skip-practice")
    press_slowly(page, "ArrowLeft")
    when_ready(page)
    task = page.locator("[data-task]").first.get_attribute("data-task")
    page.keyboard.press("?")
    page.locator("dialog [data-language]").select_option("en")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Left is better")).to_be_visible()
    when_ready(page)
    assert page.locator("[data-task]").first.get_attribute("data-task") == task
    press_slowly(page, "ArrowRight")
    wait_for(lambda: hub.choices() == ["left", "right"])


def test_the_zoom_moves_both_pictures_alike(hub: Hub, context: BrowserContext) -> None:
    hub.add_round(1, 3)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    page.keyboard.press(" ")

    def seen() -> list[list[float]]:
        """Where each picture lies in its card, in sides of the card, and how large."""
        return page.locator(".card").evaluate_all(
            """(cards) => cards.map((card) => {
                const [outer, box] = [card.getBoundingClientRect(), card.querySelector('img').getBoundingClientRect()];
                const places = [box.left - outer.left, box.top - outer.top, box.width];
                return places.map((each) => Math.round((1e4 * each) / outer.width) / 1e4);
            })"""
        )

    start = seen()
    box = page.locator(".card").first.bounding_box()
    assert box is not None
    at = (box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.25)
    page.mouse.move(*at)
    page.mouse.wheel(0, -500)
    wait_for(lambda: seen()[0][2] > 1.5 * start[0][2])
    first, second = seen()
    assert first == pytest.approx(second, abs=2e-3)
    assert first[2] == pytest.approx(start[0][2] * 2.71828, rel=0.01)
    # What was under the pointer is still there: a quarter of the card, whatever the scale.
    before, after = ((0.25 - place[0]) / place[2] for place in (start[0], first))
    assert before == pytest.approx(after, abs=0.01)
    page.mouse.down()
    page.mouse.move(at[0] + 80, at[1] + 40, steps=4)
    page.mouse.up()
    moved = seen()
    assert moved[0] == pytest.approx(moved[1], abs=2e-3)
    assert moved[1][0] - second[0] == pytest.approx(80 / box["width"], abs=0.01)
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("-")
    assert seen()[0][2] == pytest.approx(moved[0][2] / 1.25, rel=0.01)
    assert hub.store.ratings() == []  # a drag chooses nothing, and neither do these keys
    page.keyboard.press("ArrowRight")
    wait_for(lambda: hub.choices() == ["right"])


def test_no_request_leaves_the_machine(browser: Browser, tmp_path: Path) -> None:
    """Of the whole way and of the board: pages, scripts, pictures, fonts, beacons, websockets."""
    with a_hub(tmp_path / "w", rate=BREAK_AFTER_3) as hub:
        hub.add_round(1, 9)
        hub.store.add_metrics(1, "train", [{"step": step, "name": "reward", "value": step / 10} for step in range(5)])
        context = browser.new_context(viewport={"width": 1366, "height": 768})
        asked: list[str] = []

        def note(request: Request) -> None:
            asked.append(request.url)

        def note_socket(socket: WebSocket) -> None:
            asked.append(socket.url)

        def watch(page: Page) -> None:
            page.on("websocket", note_socket)

        context.on("request", note)
        context.on("page", watch)
        page = open_page(context, hub, "Anna", practice=True)
        expect(page.get_by_role("heading", name="How to rate")).to_be_visible()
        page.keyboard.press("Enter")
        when_ready(page)
        page.keyboard.press("p")
        for key in ("ArrowLeft", "t"):
            press_slowly(page, key)
        page.keyboard.press("?")
        button(page, "done")
        expect(page.locator(".wait dd").first).to_be_visible()
        button(page, "erase")
        button(page, "erase-once")
        button(page, "erase-twice")
        button(page, "again")
        sign_in(page, "Bo")
        when_ready(page)
        page.goto(f"{hub.server.url}/board?key=the-token")
        expect(page.locator("#board-metric canvas, #board-metric svg").first).to_be_visible()
        page.wait_for_timeout(1000)
        own = urlsplit(hub.server.url)
        strange = [
            url for url in asked if not url.startswith(("data:", "blob:")) and urlsplit(url).netloc != own.netloc
        ]
        assert len(asked) > 30
        assert strange == []
        context.close()
