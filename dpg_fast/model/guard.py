"""A warning before neurons are steered so hard that the text suffers, from what the adapter's calibration measured."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable

from dpg_fast.model.calibration import Calibration
from dpg_fast.personality.row import Row
from dpg_fast.personality.scores import MAX_SCORE

__all__ = ["SWITCH", "ExtremeSettingWarning", "warn_of_extremes"]

SWITCH = "DPG_FAST_GUARD"  # an environment variable; "off" switches the warning off
ADVICE = (
    "Lower the levels, or steer fewer traits. How many easy questions are still answered, and what is refused, was not measured "
    "for this setting: dpg-fast evaluate capability measures the first, your own safety evaluation the second. "
    f"{SWITCH}=off, or warnings.simplefilter('ignore', dpg_fast.ExtremeSettingWarning), switches this warning off."
)


class ExtremeSettingWarning(UserWarning):
    """A personality at which answers are expected to lose their fluency, or of which nothing is known."""


def warn_of_extremes(rows: Iterable[Row], calibration: Calibration) -> bool:
    """Warn of the first row whose neurons are expected to cost more fluency than the calibration allowed one pole.

    Perplexities of poles that were measured one at a time are multiplied (why: docs/decisions.md, "A warning before extremes").
    Without figures, rows that steer more than two traits' worth of levels are warned of. The hypernetwork is not looked at.

    Returns:
        Whether a warning was given.
    """
    for row in rows:
        if row.scores is None:
            continue
        ratio = calibration.perplexity_ratio(row.scores)
        if ratio is None:
            if sum(map(abs, row.scores.scores)) <= 2 * MAX_SCORE:
                continue
            effect = (
                f"{row.scores} steers several traits far, and the adapter has no figures of what that does to the text (dpg-fast "
                "neurons calibrate takes them); SmolLM2 at 5 in all five traits writes nonsense"
            )
        elif ratio > (allowed := calibration.allowed_ratio):
            effect = (
                f"the neurons of {row.scores} are expected to multiply the perplexity of answers by {ratio:.1f}; the "
                f"calibration, which measured each pole alone, allowed {allowed:g}. Text may fall apart"
            )
        else:
            continue
        if os.environ.get(SWITCH) != "off":
            warnings.warn(f"{effect}. {ADVICE}", ExtremeSettingWarning, stacklevel=2)
            return True
    return False
