"""Argilla's records, in what its clients and its server write.

- Argilla 2: `records.to_json` (which `to_disk` calls), and the Parquet of `records.to_datasets` (`to_hub`). The JSON
  does not say whether an answer was submitted, so those of a record that is pending are refused.
- The server's own reply (`/api/v1/datasets/ID/records?include=responses`), and records of Argilla 1, which are alike.
- Argilla 1: the Parquet of `format_as("datasets")`.

The fields are the prompt and the images. A label question says which image is better, by its field's name, by its
letter or number, or left and right; a ranking question puts the fields in order; a rating question of 1 to 5 grades one
image, that of its name where there are several. Who answered is `user_id`. Answers that were not submitted are refused,
and rankings of Argilla 2's client too: it leaves the ranks out and lists the options in the order of the question.

Source: argilla 2.8.0 (records/_resource, records/_io, responses) and 1.29.1 (feedback/integrations/huggingface).
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from data.imports.files import Files, Row, image_in_html, taken
from data.imports.pickapic import tables
from data.imports.records import Item, Judged, NotTaken, Refused, graded, preference, ranked

_PROMPTS = ("prompt", "caption", "text", "instruction", "input")
_CHOICES = {
    **dict.fromkeys(("a", "1", "left", "first", "image_a"), "left"),
    **dict.fromkeys(("b", "2", "right", "second", "image_b"), "right"),
    **dict.fromkeys(("tie", "equal", "same"), "tie"),
    **dict.fromkeys(("both bad", "both_bad", "neither"), "both_bad"),
}

_ADVICE = (
    "as Argilla 2's client writes it; save the server's reply to /api/v1/datasets/ID/records?include=responses "
    "instead, which has them"
)


def read(files: Files) -> Iterator[Item]:
    yield from taken(files.rows(tables(files)), lambda row: _of_record(files, row))


def _of_record(files: Files, row: Row) -> list[Item]:
    fields, answers = _parts(row.values)
    record = Row(row.place, row.split, fields, row.folder)
    images = {name: found for name, value in fields.items() if name not in _PROMPTS and (found := _image(value))}
    if not images:
        raise NotTaken("has no field with an image")
    if not answers:
        raise NotTaken("has no response")
    prompt = record.text(*_PROMPTS)
    found: list[Item] = []
    for user, said in answers.items():
        about: dict[str, Any] = {"row": f"{row.place} by {user or 'nobody'}", "prompt": prompt, "split": row.split}
        try:
            submitted = {name: value for name, (value, status) in said.items() if status in ("submitted", None)}
            if not submitted:
                raise NotTaken("was not submitted: it is a draft, was discarded, or its record is pending")
            found += _judged(files, record, images, submitted, about | {"rater": user})
        except NotTaken as error:
            found.append(Refused(row=about["row"], reason=str(error)))
    return found


_Answers = dict[str, dict[str, tuple[Any, str | None]]]
"""By user and question what was answered, and whether it was submitted; None where that is not said."""


def _parts(values: dict[str, Any]) -> tuple[dict[str, Any], _Answers]:
    """The fields and the answers, of any form of a record."""
    answers: _Answers = defaultdict(dict)
    if not isinstance(values.get("fields"), dict):
        return _parts_of_columns(values, answers), answers
    responses = values.get("responses") or []
    if isinstance(responses, list):
        for each in responses:
            for question, said in (each.get("values") or {}).items():
                answers[str(each.get("user_id") or "")][question] = said.get("value"), each.get("status")
        return values["fields"], answers
    unsaid = "pending" if values.get("status") == "pending" else None
    for question, said in responses.items():
        for each in said or []:
            answers[str(each.get("user_id") or "")][question] = each.get("value"), each.get("status") or unsaid
    return values["fields"], answers


def _parts_of_columns(values: dict[str, Any], answers: _Answers) -> dict[str, Any]:
    """The fields; the answers are put in: of Argilla 2 in three columns to a question, of Argilla 1 in one."""
    fields = {name: value for name, value in values.items() if "." not in name}
    for name, responses in values.items():
        if not isinstance(responses, list) or not responses:
            continue
        if name.endswith(".responses"):
            users = values.get(f"{name}.users") or [""] * len(responses)
            states = values.get(f"{name}.status") or [None] * len(responses)
            for value, user, status in zip(responses, users, states, strict=False):
                answers[str(user or "")][name.removesuffix(".responses")] = value, status
        elif all(isinstance(each, dict) and {"user_id", "value", "status"} <= each.keys() for each in responses):
            for each in responses:
                answers[str(each["user_id"] or "")][name] = _as_rows(each["value"]), each["status"]
    return fields


def _as_rows(value: Any) -> Any:
    """A ranking that is held by columns, as a list."""
    if isinstance(value, dict):
        return [dict(zip(value, each, strict=True)) for each in zip(*value.values(), strict=True)]
    return value


def _image(value: Any) -> Any:
    """The image that a field holds, if it does; of Argilla 1, whose fields are text, that of `image_to_html`."""
    if isinstance(value, dict):
        return value if value.get("bytes") is not None or value.get("path") is not None else None
    if not isinstance(value, str):
        return None
    if value.startswith(("data:image/", "http://", "https://")):
        return value
    is_name = value.lower().endswith((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif"))
    return value if is_name else image_in_html(value)


def _judged(
    files: Files, record: Row, images: dict[str, Any], said: dict[str, Any], about: dict[str, Any]
) -> list[Item]:
    ratings: dict[str, dict[str, int]] = {}
    unranked: list[str] = []
    found: list[Item] = []
    for question, value in said.items():
        if ranks := _ranks(value, images):
            if None in ranks.values():
                unranked.append(question)
                continue
            pictures = tuple(files.picture(images[name], record) for name in ranks)
            found += ranked([float(rank) for rank in ranks.values()], pictures=pictures, **about)
        elif isinstance(value, str) and (choice := _choice(value, images)):
            pictures = tuple(files.picture(each, record) for each in images.values())
            found.append(preference(choice, pictures=pictures, **about))
        elif type(value) is int:
            ratings.setdefault(_graded(question, value, images), {})[question] = value
    if ratings:
        pictures = tuple(files.picture(images[name], record) for name in ratings)
        found.append(graded(ratings, pictures=pictures, **about))
    if not found and unranked:
        raise NotTaken(f"ranks by {', '.join(unranked)} without ranks, {_ADVICE}")
    if not found:
        raise NotTaken(f"answers {', '.join(said)} with nothing that compares, ranks or grades its images")
    return _once(found)


def _ranks(value: Any, images: dict[str, Any]) -> dict[str, Any]:
    """The rank of each option, None where it is left out; empty where the answer is no ranking."""
    if not isinstance(value, list) or not value:
        return {}
    if isinstance(value[0], dict):
        ranks = {str(each.get("value")): each.get("rank") for each in value}
        if unknown := ranks.keys() - images.keys():
            raise NotTaken(f"ranks {min(unknown)!r}, which is no field with an image")
        return ranks
    is_ranking = len(value) > 1 and all(isinstance(each, str) and each in images for each in value)
    return dict.fromkeys(value) if is_ranking else {}


def _graded(question: str, grade: int, images: dict[str, Any]) -> str:
    """The image that a rating question is about: the only one, or that of the longest name in the question's."""
    name = next(iter(images)) if len(images) == 1 else max((n for n in images if n in question), key=len, default="")
    if not name or grade not in range(1, 6):
        raise NotTaken(f"answers {question!r} with {grade}; a grade of 1 to 5 of one image is expected")
    return name


def _choice(value: str, images: dict[str, Any]) -> str | None:
    """What a label says of two images, in the order of the fields."""
    word = value.strip().lower()
    if len(images) != 2:
        return None
    names = [name.lower() for name in images]
    if word in names:
        return ("left", "right")[names.index(word)]
    return _CHOICES.get(word)


def _once(found: list[Item]) -> list[Item]:
    """Of several questions that compare the same images the first: a rater says once which is better."""
    judged = [each for each in found if isinstance(each, Judged)]
    kinds = {each.kind: each for each in reversed(judged)}
    is_one_pair = len(kinds) == 1 and len(judged) > 1 and judged[0].kind == "pairwise"
    return [judged[0]] if is_one_pair and len({each.pictures for each in judged}) == 1 else [*judged]
