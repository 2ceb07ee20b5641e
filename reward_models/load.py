"""A reward by its name, with the settings that a configuration gives it."""

import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from hitl.core.errors import ConfigError
from hitl.core.registry import closest
from reward_models import REWARDS

_LAX = ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True)
"""--set takes 2.1 for a number, whatever it is of."""


def load_reward(name: str, settings: Mapping[str, Any], *, device: str | torch.device = "cpu") -> Any:
    """The reward of that name. `device` is for those that run a model.

    Raises:
        UnknownName: the registry has none.
        ConfigError: a setting is not one of its own, or one that it needs is missing.
        ModelLoadError: its weights are not here and cannot be fetched.
    """
    load = REWARDS.load(name).load
    known = inspect.signature(load).parameters
    section = f"[reward_settings.{name}]"
    for setting in settings:
        if setting not in known:
            hint = closest(setting, list(known)) if known else "Delete the section: this reward has no settings."
            raise ConfigError(f"{section} does not fit: {name} has no setting {setting!r}.", hint=hint)
    for setting in required_settings(load):
        if setting not in settings:
            raise ConfigError(
                f"The reward {name} needs to be told its {setting!r}.",
                hint=f"--set reward_settings.{name}.{setting}=VALUE",
            )
    kinds = get_type_hints(load)
    given = {setting: _as(kinds[setting], f"{name}.{setting}", value) for setting, value in settings.items()}
    if "device" in known:
        given.setdefault("device", device)
    return load(**given)


def _as(kind: Any, setting: str, value: Any) -> Any:
    """The value as the setting's type: TOML's 30 is a number of seconds, too, and its "high" is no quality."""
    try:
        return TypeAdapter(kind, config=_LAX).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]["msg"]
        raise ConfigError(
            f"The setting {setting} is {value!r}: {first[0].lower()}{first[1:]}.",
            hint=f"--set reward_settings.{setting}=VALUE",
        ) from error


def required_settings(load: Any) -> list[str]:
    """Those of a reward's settings that have no default."""
    parameters = inspect.signature(load).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is parameter.empty]
