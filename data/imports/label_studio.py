"""Label Studio's JSON export (not JSON-MIN) of a project with a Pairwise, Ranker or Rating tag.

The prompt is the task's `prompt`, `caption` or `text`. Of each annotation are taken who made it (`completed_by`), when,
and for how long (`lead_time`); one that was cancelled is refused. Pairwise has no tie of its own: a choice called tie,
equal, same, both good or both bad beside it is one. A rating of 1 to 5 is a grade of the image it belongs to.

Which image stood on the left and which bucket is the best the export does not say: a result's `to_name` is the Pairwise
tag itself, and PostgreSQL sorts the keys of what Label Studio keeps in it. The labelling configuration says it, as an
XML file beside the export. Without one, columns whose names differ by left and right, a and b, or 1 and 2 are a pair.

Source: Label Studio's editor (tags/control/{Pairwise,Ranker,Rating}, regions/Result) and label-studio-sdk 2.1.2.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

from data.imports.files import Files, Row, image_in_html, moment, taken
from data.imports.records import Item, NotTaken, Picture, Refused, graded, preference, ranked
from hitl.core.errors import ConfigError

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_EVEN = {
    "tie": "tie",
    "equal": "tie",
    "same": "tie",
    "both good": "tie",
    "no preference": "tie",
    "both bad": "both_bad",
    "neither": "both_bad",
}
_PROMPTS = ("prompt", "caption", "text", "description")
_SIDES = (("left", "right"), ("first", "second"), ("a", "b"), ("0", "1"), ("1", "2"))
_ADVICE = "save the labelling configuration (Settings, Labeling Interface, Code) as config.xml beside the export"

_Tags = dict[str, ElementTree.Element]
"""The tags of a labelling configuration by name, what they are and their attributes in lower case."""


def read(files: Files) -> Iterator[Item]:
    tags = _configuration(files)
    yield from taken(files.rows(), lambda row: _of_task(files, row, tags))


def _configuration(files: Files) -> _Tags:
    """Those of the first XML file that is a configuration; none where there is no such file."""
    for path in files.find(".xml") or sorted(files.root.glob("*.xml")):
        try:
            root = ElementTree.parse(path).getroot()
        except (OSError, ElementTree.ParseError) as error:
            raise ConfigError(
                f"{files.name(path)} cannot be read: {error}.", hint="Mend it, or take it away."
            ) from error
        if root.tag.lower() == "view":
            tags = list(root.iter())
            for tag in tags:
                tag.tag, tag.attrib = tag.tag.lower(), {name.lower(): value for name, value in tag.attrib.items()}
            return {name: tag for tag in tags if (name := tag.get("name"))}
    return {}


def _column(tags: _Tags, name: str) -> str:
    """The column of the data that the tag of that name shows; without a configuration they are called alike."""
    tag = tags.get(name)
    return name if tag is None else tag.get("value", "").removeprefix("$")


def _of_task(files: Files, row: Row, tags: _Tags) -> list[Item]:
    data, annotations = row.get("data"), row.get("annotations", "completions")
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise NotTaken("has no data and annotations; export the project as JSON, not as JSON-MIN or CSV")
    if not annotations:
        raise NotTaken("has no annotation")
    found: list[Item] = []
    for number, annotation in enumerate(annotations, 1):
        place = f"{row.place} annotation {annotation.get('id', number)}"
        try:
            found += _judged(files, Row(place, row.split, data, row.folder), annotation, tags)
        except NotTaken as error:
            found.append(Refused(row=place, reason=str(error)))
    return found


def _judged(files: Files, row: Row, annotation: dict[str, Any], tags: _Tags) -> list[Item]:
    if annotation.get("was_cancelled") or annotation.get("skipped"):
        raise NotTaken("was cancelled (skipped) by its annotator")
    about = {
        "row": row.place,
        "prompt": row.text(*_PROMPTS),
        "split": str(row.get("split") or row.split),
        "task": str(row.get("task", "category") or ""),
        "rater": _who(annotation.get("completed_by")),
        "at": moment(annotation.get("created_at")),
        "dwell_ms": max(0, round(1000 * float(annotation.get("lead_time") or 0))),
    }
    answered = annotation.get("result") or []
    results = {each.get("type"): each for each in reversed(answered)}  # of several tags of a type the first
    even = next(filter(None, map(_even, answered)), None)
    if "pairwise" in results or even:
        choice = even or results["pairwise"].get("value", {}).get("selected")
        if choice not in ("left", "right", "tie", "both_bad"):
            raise NotTaken(f"has the pairwise answer {choice!r}; left or right is expected")
        sides = _sides(row, tags, str(results.get("pairwise", {}).get("from_name", "")))
        pictures = tuple(_picture(files, row, row.text(name)) for name in sides)
        return [preference(choice, pictures=pictures, is_order_known=True, **about)]
    if "ranker" in results:
        return _of_ranker(files, row, results["ranker"], tags, about)
    if "rating" in results:
        return _of_ratings(files, row, [each for each in answered if each.get("type") == "rating"], tags, about)
    kinds = ", ".join(sorted(map(str, results))) or "nothing"
    raise NotTaken(f"answers {kinds}; pairwise, ranker or rating is expected")


def _who(completed_by: Any) -> str:
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("id") or completed_by.get("email")
    return "" if completed_by is None else str(completed_by)


def _even(result: dict[str, Any]) -> str | None:
    """What a choice beside the pairwise tag says of both."""
    if result.get("type") != "choices":
        return None
    said = result.get("value", {}).get("choices") or []
    return next((_EVEN[word] for each in said if (word := str(each).lower().replace("_", " ")) in _EVEN), None)


def _sides(row: Row, tags: _Tags, name: str) -> list[str]:
    """The columns of the left and of the right image: as the Pairwise tag has them, else as their names say."""
    pairwise = tags.get(name)
    if pairwise is None:
        pairwise = next((tag for tag in tags.values() if tag.tag == "pairwise"), None)
    if pairwise is not None:
        return [_column(tags, each.strip()) for each in pairwise.get("toname", "").split(",")]
    names = [name for name, value in row.values.items() if _is_image(value)]
    if len(names) != 2:
        raise NotTaken(f"has {len(names)} images in its data; a pair has 2")
    if _is_left_of(*names):
        return names
    if _is_left_of(*names[::-1]):
        return names[::-1]
    raise NotTaken(f"does not say which of {' and '.join(names)} was on the left; {_ADVICE}")


def _is_left_of(one: str, other: str) -> bool:
    """Whether two names differ by nothing but the words for left and right."""
    one, other = one.lower(), other.lower()
    return any(
        one.startswith(left, at) and one[:at] + right + one[at + len(left) :] == other
        for left, right in _SIDES
        for at in range(len(one))
    )


def _of_ranker(files: Files, row: Row, result: dict[str, Any], tags: _Tags, about: dict[str, Any]) -> list[Item]:
    """One list of ids, best first; or ids in buckets: equal within each, the best first in the configuration."""
    value = result.get("value", {}).get("ranker", result.get("value", {}))
    if isinstance(value, list):
        value = {"rank": value}
    ranker = tags.get(str(result.get("from_name", "")))
    buckets = [] if ranker is None else [each.get("name", "") for each in ranker.iter("bucket")]
    if len(value) > 1 and not buckets:
        raise NotTaken(f"sorts into {', '.join(value)} without saying which is the best; {_ADVICE}")
    if buckets:
        order = [value[name] for name in buckets if value.get(name)]
    else:
        order = [[item_id] for one in value.values() for item_id in one]
    places = {str(item_id): float(place) for place, bucket in enumerate(order, 1) for item_id in bucket}

    listed = row.get(_column(tags, str(result.get("to_name", ""))))
    items = listed if isinstance(listed, list) else next((v for v in row.values.values() if isinstance(v, list)), [])
    images = {str(item.get("id")): item for item in items if isinstance(item, dict)}
    if unknown := places.keys() - images.keys():
        raise NotTaken(f"ranks {min(unknown)!r}, which is not in its list of items")
    pictures = tuple(_picture(files, row, _image_of(images[item_id])) for item_id in places)
    return [*ranked(list(places.values()), pictures=pictures, **about)]


def _image_of(item: dict[str, Any]) -> str:
    """The image of an item of a List: a field of its own, or within HTML."""
    for value in item.values():
        if _is_image(value):
            return value
        if isinstance(value, str) and (found := image_in_html(value)):
            return found
    raise NotTaken(f"has the item {item.get('id')!r} without an image")


def _of_ratings(
    files: Files, row: Row, ratings: list[dict[str, Any]], tags: _Tags, about: dict[str, Any]
) -> list[Item]:
    """Each rating's `to_name` says of which image; with one image in the data there is no question."""
    images = {name: value for name, value in row.values.items() if _is_image(value)}
    grades: dict[str, dict[str, int]] = {}
    for each in ratings:
        asked, name = str(each.get("from_name", "")), _column(tags, str(each.get("to_name", "")))
        name = name if name in images else next(iter(images), "") if len(images) == 1 else name
        grade, tag = each.get("value", {}).get("rating"), tags.get(asked)
        if name not in images or grade not in range(1, 6):
            raise NotTaken(f"rates {name!r} with {grade!r}; an image of its data and 1 to 5 are expected")
        if tag is not None and tag.get("maxrating", "5") != "5":
            raise NotTaken(f"rates from 1 to {tag.get('maxrating')}; 1 to 5 is expected")
        grades.setdefault(name, {})[asked] = grade
    return [graded(grades, pictures=tuple(_picture(files, row, images[name]) for name in grades), **about)]


def _is_image(value: Any) -> bool:
    return isinstance(value, str) and (
        value.startswith("data:image/")
        or unquote(urlsplit(value).path + urlsplit(value).query).lower().endswith(_ENDINGS)
    )


def _picture(files: Files, row: Row, value: str) -> Picture:
    """A file beside the export, with as much of a path such as `/data/local-files/?d=a/b.png` as is found there."""
    if not value.startswith("/data/"):
        return files.picture(value, row)
    parts = urlsplit(value)
    named = parse_qs(parts.query).get("d", [unquote(parts.path).removeprefix("/data/")])[0]
    path, reason = PurePosixPath(named.lstrip("/")), NotTaken("names no image")
    for start in range(len(path.parts)):
        try:
            return files.picture("/".join(path.parts[start:]), row)
        except NotTaken as error:
            reason = error  # of the last, which is the file's bare name
    raise NotTaken(f"{reason} (of {value!r}); copy Label Studio's media beside its export")
