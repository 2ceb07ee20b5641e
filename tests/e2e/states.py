"""Every state of the raters' pages, as a rater meets them one after the other: for axe and for docs/."""

from collections.abc import Iterator

from playwright.sync_api import Page, expect

from apps.languages import languages

from .conftest import Hub, when_ready

KINDS = {"best": 4, "ranking": 4, "grades": 2, "good_bad": 1}
"""Kinds beside pairwise, and how many images a task of theirs shows here."""


def words(page: Page, key: str, **values: object) -> str:
    """A text of the language that the page is in, where it has no plural."""
    code = page.locator("html").get_attribute("lang") or "en"
    return str(languages()[code][key]).format(**values)


def button(page: Page, action: str) -> None:
    """Click a button that is no answer, the one that is seen."""
    page.locator(f'[data-action="{action}"]:visible').first.click()


def introduce(page: Page, hub: Hub, name: str) -> Iterator[str]:
    """The first page, the guide, and practice: a wrong answer and a right one."""
    page.goto(hub.server.url)
    expect(page.locator("form [data-consent]")).not_to_be_empty()
    yield "join"
    page.locator("#hitl-name").fill(name)
    page.keyboard.press("Enter")
    expect(page.locator('.hitl-screen[data-view="guide"]')).to_have_count(1)
    yield "guide"
    button(page, "practise")
    when_ready(page)
    yield "practice"


def pair_practice(page: Page) -> Iterator[str]:
    page.keyboard.press("ArrowRight")
    expect(page.locator('[data-lesson-word][data-good="false"]')).to_be_visible()
    yield "practice-wrong"
    when_ready(page)
    page.keyboard.press("ArrowLeft")
    expect(page.locator('[data-lesson-word][data-good="true"]')).to_be_visible()
    yield "practice-right"


def rate_pairs(page: Page, hub: Hub) -> Iterator[str]:
    """From the first pair to the break and the thanks; the hub asks for a break after 3 answers."""
    when_ready(page)
    yield "rate"
    page.keyboard.press("f")
    page.keyboard.press("h")
    page.locator(".card").last.click(position={"x": 60, "y": 60})
    yield "flags"
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    yield "skip"
    page.keyboard.press("Escape")
    page.keyboard.press(" ")
    page.keyboard.press("+")
    page.keyboard.press("+")
    yield "zoom"
    page.keyboard.press(" ")
    page.keyboard.press("?")
    yield "help"
    page.keyboard.press("Escape")
    page.evaluate("window.setTimeout = ((late) => (run, ms) => late(run, ms === 120 ? 1500 : ms))(window.setTimeout)")
    page.keyboard.press("ArrowLeft")
    yield "chosen"
    page.context.set_offline(True)
    when_ready(page)
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-banner]")).to_be_visible()
    yield "offline"
    page.context.set_offline(False)
    when_ready(page)
    page.keyboard.press("t")
    expect(page.locator('.hitl-screen[data-view="break"]')).to_have_count(1)
    expect(page.locator('[data-view="break"] dd').first).to_be_visible()
    yield "break"
    page.keyboard.press("Enter")
    when_ready(page)


def end(page: Page, hub: Hub) -> Iterator[str]:
    """The thanks, what the machine does meanwhile, the end, and erasing."""
    button(page, "help")
    button(page, "done")
    expect(page.locator(".wait dd").first).to_be_visible()
    yield "thanks"
    button(page, "go-on")
    when_ready(page)
    hub.live.enter("train", "Training", round=1, rounds=5, total=40)
    hub.live.advance(24)
    page.reload()
    expect(page.locator("[data-meter]")).to_be_visible()
    yield "wait"
    hub.live.enter("finished", "All rounds are done")
    expect(page.locator("[data-after]")).to_be_visible()
    expect(page.locator(".wait dd").first).to_be_visible()
    yield "finished"
    button(page, "erase")
    yield "erase"
    button(page, "erase-once")
    yield "erase-sure"
    button(page, "erase-twice")
    expect(page.locator('.hitl-screen[data-view="gone"]')).to_have_count(1)
    yield "gone"


def whole_way(page: Page, hub: Hub, name: str) -> Iterator[str]:
    """All of it, for pairs. The hub has `rate.break_every = 3` and 9 tasks or more."""
    yield from introduce(page, hub, name)
    yield from pair_practice(page)
    page.keyboard.press("p")
    yield from rate_pairs(page, hub)
    yield from end(page, hub)
