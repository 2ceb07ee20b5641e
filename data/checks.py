"""Tasks that check the raters instead of teaching: repeats, and gold tasks whose answer is plain beforehand.

What is plain is never the reward model's opinion, or raters would be judged by what they are to judge. It is whether
an image was drawn for the prompt, or for another one that has no word in common with it.
"""

import itertools
import logging
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from data import RATING_KINDS
from data.records import Task

logger = logging.getLogger(__name__)

_FUNCTION_WORDS = frozenset("a an and are at by for from in is it its of on or the to with".split())
_UNSPACED = re.compile(r"([\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff])")
"""Letters of scripts that put no spaces between words (Thai, Japanese, Chinese): each is taken for a word."""
_STEM = 4
"""Words that begin alike count as one: square and squares. To see too few contrasts does no harm."""
_TRIES = 4
"""For each gold task: a contrast may be drawn a second time."""


def repeats_of(tasks: Sequence[Task], share: float, chance: random.Random) -> list[Task]:
    """This share of the tasks once more. Whoever answers the first is shown the repeat later, in another order."""
    return [
        replace(task, task_id=f"{task.task_id} again", purpose="repeat", repeats=task.task_id)
        for task in chance.sample(tasks, _whole(share * len(tasks), chance))
    ]


def gold_of(
    tasks: Sequence[Task],
    texts: Mapping[str, str],
    images: Mapping[str, Sequence[str]],
    share: float,
    chance: random.Random,
) -> list[Task]:
    """As many gold tasks as this share of the tasks, with as many images each.

    One of the images was drawn for something else: it belongs on the last place, or its grade at the lower end; where a
    task has one image, it is that one. To name the best image alone would be right by chance too often then: there, all
    images but one were drawn for something else.

    `texts` and `images` are those of the prompts, by their ids. Where these have no such contrasts, or few, so has the
    round, and a warning says so.
    """
    wanted = _whole(share * len(tasks), chance)
    found: dict[tuple[str, frozenset[str]], Task] = {}
    prompts = chance.sample([*images], len(images))
    for prompt_id in itertools.islice(itertools.cycle(prompts), _TRIES * wanted):
        if len(found) == wanted:
            break
        names_best = RATING_KINDS.load(tasks[0].kind).screen == "best"
        few, many = 1, len(tasks[0].image_ids) - 1
        strangers, others = (many, few) if names_best else (few, many)
        own, strange = sorted(set(images[prompt_id])), _drawn_for_something_else(prompt_id, texts, images)
        if len(strange) >= strangers and len(own) >= others:
            bad, good = chance.sample(strange, strangers), chance.sample(own, others)
            shown = [*good, *bad]
            chance.shuffle(shown)
            task = replace(tasks[0], task_id=f"gold {len(found)}", prompt_id=prompt_id, image_ids=tuple(shown))
            task = replace(task, policy="gold", propensity=1.0, purpose="gold")
            task = replace(task, better=good[0]) if names_best else replace(task, worse=bad[0])
            found.setdefault((prompt_id, frozenset(shown)), task)
    if len(found) < wanted:
        logger.warning(
            "There are %d gold tasks of the %d that rate.gold asks for: few of the prompts have no word in common.",
            len(found),
            wanted,
        )
    return [*found.values()]


def are_clearly_different(one: str, other: str) -> bool:
    """Whether two prompts have no word in common but such as `a` and `with`."""
    return not _words(one) & _words(other)


def _drawn_for_something_else(
    prompt_id: str, texts: Mapping[str, str], images: Mapping[str, Sequence[str]]
) -> list[str]:
    others = [other for other in images if are_clearly_different(texts[prompt_id], texts[other])]
    return sorted({image_id for other in others for image_id in images[other]} - set(images[prompt_id]))


def _words(text: str) -> set[str]:
    found = re.findall(r"\w+", _UNSPACED.sub(r" \1 ", text.casefold()))
    return {word[:_STEM] for word in found if word not in _FUNCTION_WORDS}


def _whole(number: float, chance: random.Random) -> int:
    """Rounded up or down at random, so that its mean is the number: few tasks have their share of checks too."""
    return math.floor(number + chance.random())
