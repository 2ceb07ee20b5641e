"""Best of N: nothing is trained. What every report compares with, as a run of its own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN:
    """The policy stays what it is: what a round costs and brings where only the reward learns."""
