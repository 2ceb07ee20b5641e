"""What a rater is told before their first rating, and what they agree to: the project's own words or ours."""

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from apps.languages import known_language, languages
from apps.session import Refused
from data.records import Consent, PracticeOutcome, Rater
from data.store import Store
from hitl.config import RateConfig
from hitl.core.errors import ConfigError

Need = Literal["consent", "practice"]

_TEXT_FILES = (".md", ".txt")
_LONGEST_TEXT = 20_000


@dataclass(frozen=True, slots=True)
class Welcome:
    """The texts, and who still has to read them. Simulated raters need neither."""

    store: Store
    asked: RateConfig
    own_consent: str
    own_guide: str
    """Empty: there is one in each language."""

    @classmethod
    def of(cls, store: Store, asked: RateConfig, folder: Path) -> "Welcome":
        """Reads the files that the settings name, in the workspace's folder.

        Raises:
            ConfigError: a file is not there, or a text is too long.
        """
        consent = text_of_setting("rate.consent", asked.consent, folder)
        return cls(store, asked, consent, text_of_setting("rate.guide", asked.guide, folder))

    def describe(self, language: str) -> dict[str, Any]:
        """What the first page shows. Everybody may ask; nothing in it is secret."""
        text = self.consent_text(language)
        return {"language": known_language(language), "consent": text, "version": version_of(text)}

    def consent_text(self, language: str) -> str:
        return self.own_consent or languages()[known_language(language)]["consent.text"]

    def agree(self, rater: Rater, version: str, language: str) -> bool:
        """Keep that the rater agreed to the text of that version; False when they had.

        Raises:
            Refused: it is not the text that is shown in that language now.
        """
        text = self.consent_text(language)
        if version != version_of(text):
            raise Refused(
                "What you are asked to agree to has changed meanwhile.", hint="Reload the page to read it.", status=400
            )
        consent = Consent(
            rater_id=rater.rater_id,
            version=version,
            language=known_language(language),
            text=text,
            given_at=datetime.now(UTC),
        )
        return self.store.add_consent(consent)

    def has_agreed(self, rater: Rater) -> bool:
        """Whether the rater agreed to the text as it is now, in any language."""
        current = {version_of(self.consent_text(language)) for language in languages()}
        return rater.kind == "simulated" or any(
            consent.version in current for consent in self.store.consents(rater.rater_id)
        )

    def require_consent(self, rater: Rater) -> None:
        """Raise Refused for a person who never agreed. What was rated under a text of before is still taken."""
        if rater.kind == "human" and not self.store.consents(rater.rater_id):
            raise Refused(
                "You have not agreed yet to what is kept of you.", hint="Reload the page to read it.", status=403
            )

    def needs(self, rater: Rater) -> list[Need]:
        """What stands between the rater and their first task, in order."""
        if rater.kind == "simulated":
            return []
        found: list[Need] = [] if self.has_agreed(rater) else ["consent"]
        has_guide = self.asked.practice > 0 or bool(self.own_guide)
        if has_guide and self.store.practice_outcome(rater.rater_id) is None:
            found.append("practice")
        return found

    def end_practice(self, rater: Rater, outcome: PracticeOutcome) -> bool:
        return self.store.end_practice(rater.rater_id, outcome)


def version_of(text: str) -> str:
    """A short name for exactly this text."""
    return sha256(text.encode()).hexdigest()[:12]


def text_of_setting(name: str, value: str, folder: Path) -> str:
    """A setting that is a text, or names a file with one.

    Raises:
        ConfigError: the file cannot be read, or the text is too long.
    """
    text = value.strip()
    if "\n" not in text and text.endswith(_TEXT_FILES):
        path = folder / text
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{name} is {value!r}, but {path} cannot be read: {error}.",
                hint=f"Write that file as UTF-8, or put the text itself into {name}.",
            ) from error
    if len(text) > _LONGEST_TEXT:
        raise ConfigError(
            f"{name} has {len(text)} characters.", hint=f"Nobody reads that: use at most {_LONGEST_TEXT}."
        )
    return text
