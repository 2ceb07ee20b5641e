"""How the benchmarks' figures look: the report's colours (hitl/report/report.css) and its quiet axes."""

from typing import Any

INK, MUTED, LINE = "#1c1e25", "#5a5d68", "#d9d7d0"
TEAL, ORANGE, VIOLET = "#0f766e", "#d2691e", "#5b4b8a"

STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "grid.alpha": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
