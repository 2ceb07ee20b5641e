"""The starter world's words as a byte-pair vocabulary, as CLIP's tokenizer takes it; other words fall into letters."""

import string

from data.world.captions import NUMBERS
from data.world.scenes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES

START, END = "<|startoftext|>", "<|endoftext|>"

_OTHER_WORDS = (
    "a an and the of on in to with background light dark small medium large tiny big picture photo one five no"
).split()


def words() -> list[str]:
    """Every word that is one token, in a fixed order."""
    plurals = [shape + ("es" if shape == "cross" else "s") for shape in SHAPES]
    relations = [word for relation in RELATIONS for word in relation.split()]
    return list(dict.fromkeys([*COLOURS, *SHAPES, *plurals, *NUMBERS, *relations, *BACKGROUNDS, *_OTHER_WORDS]))


def byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges) of CLIP's byte-pair encoding: letters, word ends, and one chain of merges for each word."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    tokens = dict.fromkeys([*letters, *(letter + "</w>" for letter in letters)])
    merges: dict[tuple[str, str], None] = {}
    for word in words():
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges[(parts[0], parts[1])] = None
            parts = [parts[0] + parts[1], *parts[2:]]
            tokens[parts[0]] = None
    return {token: i for i, token in enumerate([*tokens, START, END])}, list(merges)
