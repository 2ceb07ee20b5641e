"""Parts of a cross-validation, with all answers about a prompt in one part."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from sklearn.model_selection import GroupKFold

from reward_models.choices import Choices


@dataclass(frozen=True, slots=True, kw_only=True)
class Folds:
    """A split of groups of things (prompts) into parts of about as many choices."""

    of_choice: Int[np.ndarray, "choices"]
    of_thing: Int[np.ndarray, "things"]
    count: int

    @classmethod
    def of(cls, choices: Choices, group: Int[np.ndarray, "things"], folds: int) -> "Folds":
        mine = group_of(choices, group)
        count = min(folds, len(np.unique(mine)))
        of_group = np.zeros(int(group.max()) + 1, int)
        for part, (_, held_out) in enumerate(GroupKFold(count).split(mine, groups=mine)):
            of_group[mine[held_out]] = part
        return cls(of_choice=of_group[mine], of_thing=of_group[group], count=count)

    def fitted_on(self, part: int) -> Bool[np.ndarray, "choices"]:
        """Mask of the choices outside the part."""
        return self.of_choice != part


def group_of(choices: Choices, group: Int[np.ndarray, "things"]) -> Int[np.ndarray, "choices"]:
    """The group that each choice's things belong to: one, since a choice is about one prompt."""
    rows = choices.starts[:-1]  # an alternative without scores is never the first
    return group[choices.scores.indices[choices.scores.indptr[rows]]]
