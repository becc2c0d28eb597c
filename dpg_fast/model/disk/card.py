"""The model card of an adapter: what it is, what its calibration measured, and what that does not say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dpg_fast.model.calibration import Calibration
from dpg_fast.personality.scores import MAX_SCORE, POLES, Personality

__all__ = ["card"]

LIMITS = """## Limits

- A level is a position between the bare model and what the calibration allowed, not a unit of personality. A score says how a
  judge rates texts of this model; it says nothing of experience, and nothing of other models, judges or languages.
- Traits are not independent: asked for one, the model changes in others too.
- What is not in a table above was not measured. Test fluency, capability and above all refusals at the levels that you offer, low
  agreeableness and low conscientiousness first."""


def card(config: Mapping[str, Any], calibration: Calibration, notes: str) -> str:
    """``README.md`` for a configuration as `artifact.write` makes it; ``notes`` stand before the limits."""
    base = config["base_model"]["name"]
    head = ["---", "library_name: dpg_fast", "tags:", "- personality", "- big-five"]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not base.startswith("."):
        head.insert(2, f"base_model: {base}")
    lines = [*head, "---", "", f"# Personality adapter for {base or 'a causal LM'}", ""]
    lines.append("Gives each row of a batch its own Big Five personality, five numbers from -5 to 5.")
    lines += ["", "| part | contents |", "|---|---|"]
    if config["hypernet"] is not None:
        networks = [config["hypernet"]] if "config" in config["hypernet"] else list(config["hypernet"].values())
        for network in networks:
            settings = network["config"]
            size = f"{settings['codes']} {settings.get('head', 'bank')} entries of rank {settings['rank']}"
            if "names" in network:
                stages = [f"{name}/{stage}" for name, stage, *_ in network.get("stages", {}).get("tokens", [])]
                named = ", ".join(network["names"]) + (f" (stages: {', '.join(stages)})" if stages else "")
                lines.append(f"| stored characters | {named}; {size} |")
            else:
                lines.append(f"| hypernetwork | encoder {settings['encoder']}, {size} |")
    if config["neurons"] is not None:
        counts = ", ".join(f"{pole} {count}" for pole, count in config["neurons"].items())
        lines.append(f"| personality neurons (NPTI, arXiv 2410.12327) | {counts} |")
    lines += [
        "",
        "```python",
        "from dpg_fast import Personality, PersonalityModel",
        "",
        f'model = PersonalityModel.from_pretrained("{base or "BASE"}", "THIS ADAPTER")',
        'model.chat("How was your day?", personality=[Personality("E+4"), Personality("E-4 N+3"), None])',
        "```",
    ]
    if config["neurons"] is not None:
        lines += _calibrated(calibration)
    if notes:
        lines += ["", notes.strip()]
    lines += ["", LIMITS]
    return "\n".join(lines) + "\n"


def _calibrated(calibration: Calibration) -> list[str]:
    """A table of what the fit of each pole measured."""
    rows, judges = [], set()
    for pole in POLES:
        curve = calibration.curves.get(pole)
        if curve is None or not curve.measured:
            continue
        fitted = curve.fitted
        ratio = calibration.perplexity_ratio(Personality(f"{pole}{MAX_SCORE:g}"))
        scores = [fitted.get(name) for name in ("bare_score", "score_at_5")]
        told = [f"{score:+.1f}" if isinstance(score, (int, float)) else "-" for score in scores]
        judges.add(str(fitted.get("judge", "")).partition("\n")[0])
        rows.append(
            f"| {pole} | {curve.max_strength:.3g} | {told[0]} | {told[1]} | x {ratio:.2f} | {fitted.get('limited_by', '-')} |"
        )
    if not rows:
        return ["", "Strengths were not calibrated: what a level does was not measured."]
    lines = ["", "## Calibration of the neurons", ""]
    lines.append("| pole | strength at 5 | judged, bare | judged at 5 | perplexity at 5 | bounded by |")
    lines += ["|---|---:|---:|---:|---:|---|", *rows, ""]
    lines.append(
        "Each pole alone; perplexity of answers under the bare model, as a multiple of its own answers', of which "
        f"{calibration.allowed_ratio:g} was allowed. Ratios of several poles multiply. "
        f"Judge: {' '.join(sorted(judges)) or 'not named'}"
    )
    return lines
