"""How the raters of one round agree, with each other and with themselves: what its manifest keeps for the report."""

from dataclasses import asdict
from typing import Any

from data.answered import agreements, answered, votes_of
from data.ceiling import single_rater_ceiling
from data.quality import RaterQuality, raters_quality, repeat_consistency
from data.store import Store


def round_agreement(store: Store, number: int) -> dict[str, Any]:
    """Alpha by what was asked, how often one rater says what the others say, and how each rater answers checks.

    `alpha` has `data.agreement.Agreement` as dicts, `ceiling` a `data.ceiling.SingleRater` or null, `consistency` an
    interval over raters, `raters` what is known of each by their id. What cannot be told is nan or null.
    """
    said = answered(store, number)
    ceiling = single_rater_ceiling(votes_of(said))
    return {
        "alpha": {name: asdict(each) for name, each in agreements(said).items()},
        "ceiling": None if ceiling is None else asdict(ceiling),
        "consistency": repeat_consistency(store, number).to_dict(),
        "raters": {each.rater.rater_id: _of_rater(each) for each in raters_quality(store, said, {}, number)},
    }


def _of_rater(quality: RaterQuality) -> dict[str, Any]:
    shares = {"left": quality.left, "ties": quality.ties, "consistency": quality.consistency, "gold": quality.gold}
    return {
        "answers": quality.answers,
        "skips": quality.skips,
        **{name: None if share is None else asdict(share) for name, share in shares.items()},
        "median_s": quality.median_s,
        "doubts": list(quality.doubts),
    }
