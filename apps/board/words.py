"""Numbers and times as the board writes them."""

import math
from datetime import datetime


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def clock(moment: datetime) -> str:
    """The time of day here, with the day where it is another."""
    here, now = moment.astimezone(), datetime.now().astimezone()
    return f"{here:%H:%M}" if here.date() == now.date() else f"{here:%d %b %H:%M}"


def percent(share: float, se: float | None = None) -> str:
    spread = "" if se is None or not math.isfinite(se) else f" ± {200 * se:.0f}"
    return f"{100 * share:.0f}{spread} %"
