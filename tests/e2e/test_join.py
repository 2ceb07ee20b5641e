"""People with accounts, in a real browser and under a sub-path: the invite's link, signing in, and being shut out."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, expect

from apps.accounts import Accounts
from apps.server import build_server, serve
from tests.e2e.conftest import Hub, a_hub, past_practice, when_ready

pytestmark = pytest.mark.e2e
PASSWORD = "four words that rhyme"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Hub]:
    """A hub under /rate, as a proxy would serve it, with an admin."""
    with a_hub(tmp_path / "workspace") as hub:
        hub.server.stop()
        Accounts(hub.store).add("Boss", role="admin", password=PASSWORD)
        hub.add_round(1, tasks=6)
        app = build_server(hub.store, hub.workspace, hub.live, token="t", secret="s", rate=hub.rate, root_path="/rate")
        hub.server = serve(app, "127.0.0.1", 0, root_path="/rate")
        yield hub


def outside(hub: Hub, path: str = "/") -> str:
    return f"{hub.server.url}/rate{path}"


def test_an_invite_leads_to_the_first_pair_and_a_password_back_to_it(house: Hub, context: BrowserContext) -> None:
    invite = Accounts(house.store).invite()["invites"][0]
    page = context.new_page()
    asked, problems = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(outside(house, f"/join#{invite['token']}"))
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible()
    page.get_by_label("Your name").fill("Anna")
    page.get_by_label("Choose a password").fill(PASSWORD)
    page.get_by_role("button", name="Start").click()
    past_practice(page)
    when_ready(page)
    page.keyboard.press("ArrowLeft")
    when_ready(page)
    page.keyboard.press("ArrowRight")
    when_ready(page)
    assert house.choices() == ["left", "right"]
    assert urlsplit(page.url).path == "/rate/"
    stray = {
        urlsplit(url).path for url in asked if url.startswith("http") and not urlsplit(url).path.startswith("/rate/")
    }
    assert stray <= {"/manifest.json", "/favicon.ico"}
    assert all(url.startswith(("data:", "blob:", house.server.url)) for url in asked)
    assert all(invite["token"] not in urlsplit(url)._replace(fragment="").geturl() for url in asked)
    assert problems == []

    page.keyboard.press("?")
    page.get_by_role("button", name="Rate as somebody else").click()
    page.get_by_label("Your name").fill("Eve")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.get_by_label("Your name").fill("Anna")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("do not fit")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    when_ready(page)


def test_an_invite_that_was_used_says_so(house: Hub, context: BrowserContext) -> None:
    accounts = Accounts(house.store)
    token = accounts.invite()["invites"][0]["token"]
    accounts.redeem(token, name="Anna", password="", address="here")
    page = context.new_page()
    page.goto(outside(house, f"/join#{token}"))
    expect(page.get_by_role("alert")).to_contain_text("lets nobody in")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def test_who_is_shut_out_in_the_middle_is_told_and_rates_nothing_more(house: Hub, context: BrowserContext) -> None:
    accounts = Accounts(house.store)
    token = accounts.invite()["invites"][0]["token"]
    page = context.new_page()
    page.goto(outside(house, f"/join#{token}"))
    page.get_by_label("Your name").fill("Anna")
    page.get_by_role("button", name="Start").click()
    past_practice(page)
    when_ready(page)
    accounts.disable("Anna")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_text("Your session has ended")).to_be_visible()
    assert house.choices() == []


def test_an_admin_signs_in_and_sees_the_board(house: Hub, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(outside(house))
    page.get_by_label("Your name").fill("Boss")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Board")).to_be_visible()
    assert urlsplit(page.url).path == "/rate/board/"
