"""The two methods that DPOK (arXiv:2305.16381) compares, with their KL and without, as three experiments share them."""

from typing import Any

from benchmarks.papers.plan import Plan, Training

RL_RATE, SFT_RATE, SFT_UPDATES = 8e-3, 8e-3, 4
"""The rates that served each best in `benchmarks.algorithms`. Supervised learning takes more steps on the same images,
as theirs: it moves little by each."""


def rl(plan: Plan, *, kl: bool = True, **changes: Any) -> Training:
    settings = {} if kl else {"kl_weight": 0.0}
    return plan.training("dpok", settings=settings, learning_rate=RL_RATE, **changes)


def sft(plan: Plan, *, kl: bool = True, **changes: Any) -> Training:
    """Reward-weighted, on the reference's images; its KL is KL-O, the distance to the reference's noise."""
    settings = {"kl_weight": 1.0 if kl else 0.0}
    return plan.training("sft", settings=settings, learning_rate=SFT_RATE, updates_per_epoch=SFT_UPDATES, **changes)
