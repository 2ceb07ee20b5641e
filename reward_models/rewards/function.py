"""Any Python function `(images, prompts) -> scores`, by its name `module:function`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from hitl.core.errors import ConfigError
from reward_models.prompts import require_one_each
from reward_models.scores import checked_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionReward:
    """Calls it with uint8 images (batch, 3, h, w) and one prompt each; it may return a tensor, an array or a list."""

    path: str
    function: Callable[..., Any]

    @classmethod
    def load(cls, path: str) -> "FunctionReward":
        """Import the function.

        Raises:
            ConfigError: there is no such module or function.
        """
        module, separator, name = path.partition(":")
        if not (module and separator and name):
            raise ConfigError(f"function.path is {path!r}.", hint="Use module:function, such as my_rewards:redness.")
        try:
            function = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"The function {path!r} cannot be imported: {error}",
                hint="Install its package, or put the folder of its file on PYTHONPATH.",
            ) from error
        if not callable(function):
            raise ConfigError(f"{path!r} is a {type(function).__name__}, not a function.", hint="Name a function.")
        return cls(path=path, function=function)

    def __call__(self, images: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "batch"]:
        """Its scores.

        Raises:
            RewardError: they are not one finite number for each image.
        """
        require_one_each(images, prompts)
        return checked_scores(self.function(images, prompts), len(prompts), self.path)
