"""Checks that settings of several algorithms share."""

from hitl.core.errors import ConfigError


def require_clip_range(value: float, *, usual: float = 0.2) -> None:
    """Raise a ConfigError unless 1 - value ... 1 + value is a range of ratios."""
    if not 0 < value < 1:
        raise ConfigError(
            f"algorithm.clip_range is {value}, but must be between 0 and 1.",
            hint=f"Use {usual:g}: the ratio may then move between {1 - usual:g} and {1 + usual:g}.",
        )


def require_advantage_clip(value: float) -> None:
    """Raise a ConfigError for a bound that would leave no advantage."""
    if not value > 0:
        raise ConfigError(
            f"algorithm.advantage_clip is {value}, but must be positive.",
            hint="Use 5: hardly any score is further from its group's mean.",
        )


def require_price(name: str, value: float) -> None:
    """Raise a ConfigError for a negative weight."""
    if not value >= 0:
        raise ConfigError(f"algorithm.{name} is {value}, but cannot be negative.", hint="Use 0 to do without it.")
