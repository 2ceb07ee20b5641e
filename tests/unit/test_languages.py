"""Every language says everything, with the same places to fill in, and no page has words of its own."""

import ast
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from apps.languages import STATIC, as_script, known_language, languages

CODES = list(languages())
PLURALS = {"en": {"one", "other"}, "de": {"one", "other"}, "ar": {"zero", "one", "two", "few", "many", "other"}}
"""The categories of the Unicode CLDR, in which Intl.PluralRules answers."""
PLACE = re.compile(r"\{([a-z_]+)\}")
APPS = STATIC.parent
SCRIPTS = sorted(STATIC.glob("*.js"))
PAGES = sorted(STATIC.glob("*.html"))

NOT_FOR_RATERS = {
    "This is for admins.", "Use `hitl raters` where the workspace is.",
    "This is for the commands of hitl only.", "Send the token that hub.json holds.",
    "There is no kind of rater called ….", "Use human or simulated.",
    # The report so far, which only researchers see:
    "There is no round ….", "No round has begun.", "Begin one: hitl round",
    "The report cannot be written: …", "`hitl report …` says more.",
    "The report is being written.", "Load the page again.",
    # What no page of ours does:
    "The request does not say how long it is.", "Send a Content-Length.",
    "The request has … bytes; … are allowed.", "Send less.",
    "The rating holds no answer.", "Send a payload.", "A rating's id must be a UUID.",
    "The rating app answers to … here, not to ….",
}  # fmt: skip


def forms(text: str | dict[str, str]) -> list[str]:
    return list(text.values()) if isinstance(text, dict) else [text]


@pytest.mark.parametrize("code", CODES)
def test_each_language_has_all_texts_and_each_text_all_its_places(code: str) -> None:
    english, texts = languages()["en"], languages()[code]
    assert list(texts) == list(english)
    for key, text in texts.items():
        assert isinstance(text, dict) == isinstance(english[key], dict), key
        if isinstance(text, dict):
            assert set(text) == PLURALS[code], key
        wanted = set(PLACE.findall(forms(english[key])[-1]))
        assert set(PLACE.findall(forms(text)[-1])) == wanted, key
        # Of a form for exactly none, one or two the number may be a word.
        assert all(set(PLACE.findall(form)) | {"count"} >= wanted | set(PLACE.findall(form)) for form in forms(text)), (
            key
        )
        assert all(form.strip() for form in forms(text)), key
    if code != "en":
        same = [key for key in texts if texts[key] == english[key] and re.search("[a-z]{4}", str(english[key]))]
        assert set(same) <= {"language.direction"}


def test_the_right_to_left_language_says_so_and_is_written_so() -> None:
    assert {code: languages()[code]["language.direction"] for code in CODES} == {"en": "ltr", "de": "ltr", "ar": "rtl"}
    arabic = [key for key, text in languages()["ar"].items() if not re.search("[\u0600-\u06ff]", str(text))]
    assert set(arabic) <= {"language.direction"}


def test_an_unknown_language_is_english_and_no_text_ends_a_script() -> None:
    assert [known_language(code) for code in ("ar", "xx", "../en")] == ["ar", "en", "en"]
    script = as_script()
    assert "</" not in script
    assert (
        json.loads(script.removeprefix("const LANGUAGES = ").removesuffix(";").replace("\\u003c", "<")) == languages()
    )


# -- no words but those -----------------------------------------------------------------------------------------------


class Words(HTMLParser):
    """What a page would show or say without its script, and the keys that it names."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.keys: list[str] = []
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("input", "meta", "link", "rect", "br"):
            self.inside.append(tag)
        for name, value in attrs:
            if name.startswith("data-t") and name in ("data-t", "data-t-label", "data-t-placeholder"):
                self.keys.append(value or "")
            elif name in ("aria-label", "placeholder", "title", "alt"):
                self.found.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("input", "meta", "link", "rect", "br"):
            self.inside.pop()

    def handle_endtag(self, tag: str) -> None:
        self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not {"script", "style", "kbd"} & set(self.inside) and data.strip():
            self.found.append(data.strip())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_keys_and_has_no_words(page: Path) -> None:
    words = Words()
    words.feed(page.read_text(encoding="utf-8"))
    assert set(words.found) <= {"hitl"}
    assert set(words.keys) <= set(languages()["en"])


def strings(script: str) -> Iterator[str]:
    """The texts in quotes of a script; comments and regular expressions have none that matter."""
    for line in re.sub(r"/\*.*?\*/", "", script, flags=re.DOTALL).splitlines():
        code = re.sub(r"(^|\s)//.*$", "", line)
        yield from re.findall(r"'((?:[^'\\]|\\.)*)'", code)


SELECTOR = re.compile(r"[\[\].#:>=,]|^[a-z-]+$")
"""What is a selector, an attribute, a name, or a list of them."""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_has_no_sentence_of_its_own(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    found = [each for each in strings(text) if re.search(r"[A-Za-z]{2,}.* [A-Za-z]{2,}", each)]
    sentences = [each for each in found if not SELECTOR.search(each) or re.search(r"[a-z]\.( |$)", each)]
    assert set(sentences) <= {"use strict"}
    capitals = [each for each in strings(text) if re.fullmatch(r"[A-Z][a-z]+( [a-z]+)*[.!?:]?", each)]
    assert set(capitals) <= {
        "Enter", "Escape", "Backspace", "Esc", "Arrow", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"
    }  # fmt: skip


def used_keys() -> set[str]:
    """Those that scripts name as a whole, or by their beginning."""
    quoted = {each for script in [*SCRIPTS, *PAGES] for each in strings(script.read_text(encoding="utf-8"))}
    words = Words()
    for page in PAGES:
        words.feed(page.read_text(encoding="utf-8"))
    return quoted | set(words.keys)


def test_every_key_that_is_named_exists_and_every_text_is_named() -> None:
    english, used = set(languages()["en"]), used_keys()
    beginnings = {key for key in used if key.endswith(".")}
    unused = {key for key in english - used if not any(key.startswith(start) for start in beginnings)}
    assert {key for key in unused if not key.startswith("server.")} == set()
    asked = set()
    for script in SCRIPTS:
        asked |= set(re.findall(r"\bt\('([a-z_.]+[a-z])'", script.read_text(encoding="utf-8")))
    assert asked - english == set()


# -- what the server says ---------------------------------------------------------------------------------------------


def patterns(node: Any) -> Iterator[str]:
    """A sentence in the source, with … for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)  # type: ignore[misc]
    elif isinstance(node, ast.IfExp):
        yield from patterns(node.body)
        yield from patterns(node.orelse)


def test_every_refusal_that_a_rater_may_meet_is_known_to_the_pages() -> None:
    known = {PLACE.sub("…", text) for key, text in languages()["en"].items() if key.startswith("server.")}
    said = set()
    for path in APPS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refused":
                hints = [keyword.value for keyword in node.keywords if keyword.arg == "hint"]
                said |= {sentence for each in [*node.args[:1], *hints] for sentence in patterns(each)}
    assert len(said) > 40
    assert said - NOT_FOR_RATERS - known == set()
