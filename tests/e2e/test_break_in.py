"""What people write is text wherever it is read: nothing in it runs, and nothing is fetched because of it."""

import json

import pytest
from playwright.sync_api import BrowserContext, Page, Request, expect

from data.records import Image, Prompt, Task

from .conftest import Hub, open_page, when_ready

pytestmark = pytest.mark.e2e

SCRIPTS = [
    "<script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 1'>",
    "<svg onload=window.broken=1>",
    "'\"><iframe srcdoc='<script>top.broken=1</script>'></iframe>",
    "{{window.broken = 1}} ${window.broken = 1} <%= window.broken = 1 %>",
    "javascript:window.broken=1 [x](javascript:window.broken=1)",
]


def add_prompts(hub: Hub, texts: list[str]) -> None:
    hub.store.start_round(1, "sha")
    for number, text in enumerate(texts):
        prompt = Prompt.of(text)
        hub.store.add_prompts([prompt])
        ids = [hub.workspace.add_image(hub._draw([("red", "circle")])) for _ in "ab"]
        hub.store.add_images(
            Image(image_id=image_id, prompt_id=prompt.prompt_id, round=1, width=64, height=64) for image_id in ids
        )
        hub.store.add_tasks(
            [
                Task(
                    task_id=f"r1-{number:03d}",
                    round=1,
                    kind="pairwise",
                    prompt_id=prompt.prompt_id,
                    image_ids=(ids[0], ids[1]),
                )
            ]
        )


def watch(context: BrowserContext, hub: Hub) -> list[str]:
    """What is asked of anything but the hub, and of the hub that is nothing of ours."""
    astray: list[str] = []

    def see(request: Request) -> None:
        if request.url.startswith(("data:", "blob:")):
            return
        if not request.url.startswith(hub.server.url) or request.url.endswith("/x"):
            astray.append(request.url)

    context.on("request", see)
    return astray


def nothing_ran(page: Page) -> bool:
    return page.evaluate("window.broken === undefined && document.querySelectorAll('iframe[srcdoc]').length === 0")


def test_scripts_in_prompts_notes_and_names_are_only_text(hub: Hub, context: BrowserContext) -> None:
    add_prompts(hub, SCRIPTS)
    astray = watch(context, hub)
    name = "<b onclick=alert(1)>Anna</b><script>window.broken=1</script>"[:60]
    page = open_page(context, hub, name)
    for number, text in enumerate(SCRIPTS):
        expect(page.locator(f'[data-task="r1-{number:03d}"][data-ready="yes"]')).to_have_count(1)
        expect(page.locator("[data-prompt]")).to_have_text(text)
        assert nothing_ran(page)
        page.keyboard.press("n")
        page.keyboard.type(text)
        page.keyboard.press("Enter")
        when_ready(page)
        page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("heading", name="You have rated everything")).to_be_visible()
    assert nothing_ran(page)
    assert [rating.payload["note"] for rating in hub.standing()] == SCRIPTS
    board = context.new_page()
    board.goto(f"{hub.server.url}/board?key=the-token")
    expect(board.locator("body")).to_contain_text("Anna")
    board.wait_for_timeout(1500)  # plots and tables are drawn after the page
    assert nothing_ran(board)
    assert astray == []


def test_what_was_kept_in_the_browser_is_not_believed_to_be_a_page(hub: Hub, context: BrowserContext) -> None:
    """Somebody at the same browser may have put anything into its storage."""
    hub.add_round(1, 3)
    page = open_page(context, hub, "Anna")
    when_ready(page)
    me = page.evaluate("fetch('api/me').then((answer) => answer.json())")
    owner = f"{me['workspace_id']}.{me['rater_id']}"
    task = {"task_id": "r1-000", "images": ["image/x"], "prompt": SCRIPTS[1], "round": 1}
    page.evaluate(
        "([owner, rows, history]) => {"
        " localStorage.setItem('hitl.name', rows[1]);"
        " localStorage.setItem('hitl.history.' + owner, history);"
        " rows.forEach((row, i) => localStorage.setItem('hitl.outbox.' + owner + '.00000000' + (i + 1) + '.x', row));"
        "}",
        [owner, SCRIPTS, json.dumps([{"rating_id": SCRIPTS[0], "task": task}])],
    )
    page.reload()
    when_ready(page)
    assert nothing_ran(page)
    page.keyboard.press("ArrowLeft")
    expect(page.locator('[data-task="r1-001"]')).to_have_count(1)
    assert nothing_ran(page)
