"""An algorithm by its name, with the settings that a configuration gives it."""

from collections.abc import Mapping
from typing import get_type_hints

from hitl.core.errors import ConfigError
from hitl.core.registry import closest
from rl import ALGORITHMS
from rl.algorithms.contract import Algorithm


def make_algorithm(name: str, settings: Mapping[str, float]) -> Algorithm:
    """The algorithm of that name.

    Raises:
        UnknownName: the registry has none.
        ConfigError: a setting is not one of its own, or out of its range.
    """
    maker = ALGORITHMS.load(name)
    known = maker.__dataclass_fields__
    for setting in settings:
        if setting not in known:
            hint = closest(setting, list(known)) if known else "Delete the section: this algorithm has no settings."
            raise ConfigError(f"[algorithm] does not fit {name}: it has no setting {setting!r}.", hint=hint)
    kinds = get_type_hints(maker)
    return maker(**{setting: _as(kinds[setting], setting, value) for setting, value in settings.items()})


def _as(kind: type, setting: str, value: float) -> float:
    """TOML's 1 and 1.0 are both numbers to a table of settings; a count takes whole ones alone."""
    if kind is not int:
        return float(value)
    if value != int(value):
        raise ConfigError(f"algorithm.{setting} is {value}, but must be a whole number.", hint=f"Use {round(value)}.")
    return int(value)
