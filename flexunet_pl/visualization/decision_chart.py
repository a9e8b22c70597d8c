"""The chart of escapes against overkill."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from flexunet_pl.visualization.pictures import BARS

ESCAPES, OVERKILL = BARS[5], BARS[0]


def decision_chart(decision: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """Draw both rates against the threshold, and one against the other, with what was chosen.

    Args:
        decision: The content of decision.json: ``curve`` is rows of threshold, escape rate and overkill rate.

    Returns:
        uint8 (H, W, 3).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second that few need
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    canvas = FigureCanvasAgg(Figure(figsize=(11, 4.6), dpi=110, layout="constrained"))
    by_threshold, trade = canvas.figure.subplots(1, 2)
    thresholds, escapes, overkill = np.array(decision["curve"], dtype=float).T
    chosen = decision["threshold"]
    by_threshold.step(thresholds, escapes, where="pre", color=ESCAPES, label="escapes (defective called OK)")
    by_threshold.axvline(chosen, color="0.3", linestyle="--", label=f"chosen: {chosen:.4g}")
    if (ends := decision["threshold_interval"]) is not None:
        by_threshold.axvspan(*ends, color="0.5", alpha=0.2, linewidth=0, label="95 % interval")
    by_threshold.set(xlabel="threshold", ylabel="share of pieces", title="Escapes and overkill", xlim=(-0.02, 1.02))
    trade.step(escapes, overkill, where="post", color="0.2")
    rate, upper, false_alarms = (decision[key] for key in ("escape_rate", "escape_rate_upper", "overkill_rate"))
    if decision["good"]:
        by_threshold.step(thresholds, overkill, where="pre", color=OVERKILL, label="overkill (good called NG)")
        bound = f"95 % sure: at most {100 * upper:.3g} %"
        trade.plot([rate, upper], [false_alarms] * 2, color=ESCAPES, linewidth=2, marker="|", label=bound)
        trade.plot(rate, false_alarms, "o", color=ESCAPES, label=f"chosen: {100 * rate:.3g} % escapes")
        wanted = decision["wanted_escape_rate"]
        trade.axvline(wanted, color="0.3", linestyle=":", label=f"wanted: {100 * wanted:.3g} %")
    title = f"{decision['defective']} defective and {decision['good']} good pieces"
    trade.set(xlabel="escapes", ylabel="overkill", title=title, xlim=(-0.02, 1.02))
    for axes in (by_threshold, trade):
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    trade.xaxis.set_major_formatter(PercentFormatter(1.0))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()
