"""The table of model families: python -m benchmarks.families [--output docs/families.md]

Every family of the registry (``tests/families/registry.py``) is built tiny and random, wrapped with a hypernetwork and neurons
together, and checked; those that are refused are shown with what the error says. The exit status is 1 when a family is not
what the registry says.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch
import transformers

from dpg_fast import PersonalityModel
from dpg_fast.architecture.layers import UnsupportedArchitectureError
from tests.families.checks import CHECKS, Case, applies, problems, sites
from tests.families.registry import FAMILIES, Family, NotInstalledError
from tests.model.test_wrapper import random_table

HEADER = (
    "family",
    "class",
    "outcome",
    "adapted",
    "neurons",
    "by hand",
    "PEFT",
    "alone",
    "cached (bare)",
    "gradients",
    "unload",
)
PAGE = """\
# Model families

`python -m benchmarks.families --output docs/families.md` writes this page; `make test` checks the same families and that this
page lists them. Every model is tiny ({sizes}), random and in float32; weights, norms and biases are such that all
parts of the model matter, and windows, caps and multipliers are switched on. Made with {versions}.

A family that is not listed is not refused for that: what counts is the structure that is found in the model
({structure}), and what that structure computes is compared with the model's own output before anything is changed.

## Supported

Both halves at work at once: a random LoRA bank on all layers that can be adapted, and neurons of all ten poles. Three rows: two
people, and one without a personality between them. Figures are relative errors of logits.

- adapted: which linear layers of the decoder have LoRA. "MLP" alone: attention is of another kind there (latent, linear,
  recurrent), and its projections stay as they are.
- by hand: a forward against a copy of the base with merged weights and a hook behind each activation.
- PEFT: against PEFT with the directory that `to_peft` wrote, without neurons.
- alone: the largest difference of a row alone and in the batch.
- cached (bare): logits of greedy generation with a cache, one prompt padded on the left, against one forward of the whole
  text without padding, by hand; in brackets the bare model's own error.
- gradients: of the hypernetwork, against those through merged weights.
- unload: the model's modules, classes, attributes, weights, `requires_grad` and logits are as before, bit for bit.

{supported}

{notes}

## Refused

With a clear error, before anything is changed.

{refused}
{missing}"""


@dataclass
class Row:
    """One family's line; ``wrong`` says what is not as the registry says."""

    family: Family
    outcome: str
    cells: dict[str, str] = field(default_factory=dict)
    message: str = ""
    wrong: list[str] = field(default_factory=list)


def measure(family: Family) -> Row:
    """Build, wrap and check one family."""
    if family.refused is not None:
        return _refused(family)
    try:
        base = family.build()
    except NotInstalledError as error:
        return Row(family, "not installed", message=str(error))
    row = Row(family, "supported")
    with tempfile.TemporaryDirectory() as folder:
        try:
            case = Case(family, family.method, Path(folder), base)
        except UnsupportedArchitectureError as error:
            return Row(family, "refused", message=str(error), wrong=[f"refused: {error}"])
        row.cells = {"adapted": sites(case.architecture), "neurons": "yes" if family.neurons else "no"}
        for check, run in CHECKS.items():
            if check in ("beams", "save") or applies(family, family.method, check) is not None:
                continue
            try:
                result = run(case)
            except Exception as error:  # whatever a family does wrong belongs into its line
                row.wrong.append(f"{check}: {type(error).__name__}: {error}")
                continue
            row.wrong += [f"{check}: {text}" for text in problems(check, result)]
            row.cells |= _cells(check, result)
    if row.wrong:
        row.outcome = "wrong"
    return row


def _refused(family: Family) -> Row:
    assert family.refused is not None
    try:
        base = family.build()
        PersonalityModel.from_model(base, steering=random_table(3, 96)).unload()
    except NotInstalledError as error:
        return Row(family, "not installed", message=str(error))
    except UnsupportedArchitectureError as error:
        wrong = [] if re.search(family.refused, str(error)) else [f"expected {family.refused!r}, got: {error}"]
        return Row(family, "refused", message=str(error), wrong=wrong)
    return Row(family, "accepted", message="accepted", wrong=["accepted, should be refused"])


def _cells(check: str, result: object) -> dict[str, str]:
    if check == "forward":
        return {"by hand": f"{result.by_hand:.0e}", "alone": f"{result.alone:.0e}"}  # type: ignore[attr-defined]
    if check == "generate":
        return {"cached (bare)": f"{result.cached:.0e} ({result.bare:.0e})"}  # type: ignore[attr-defined]
    if check == "unload":
        return {"unload": "exact" if not result else ", ".join(result)}  # type: ignore[arg-type]
    name = {"peft": "PEFT", "gradient": "gradients"}[check]
    return {name: f"{result:.0e}"}


def table(header: tuple[str, ...], lines: list[list[str]]) -> str:
    """Markdown."""
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *rows])


def page(rows: list[Row]) -> str:
    """The published page."""
    good = [row for row in rows if row.outcome in ("supported", "wrong")]
    supported = [
        [row.family.name, f"`{row.family.model}`", row.outcome, *(row.cells.get(name, "") for name in HEADER[3:])]
        for row in good
    ]
    refused = [
        [row.family.name, f"`{row.family.model}`", row.outcome, shorten(row.message)]
        for row in rows
        if row.outcome in ("refused", "accepted")
    ]
    missing = [row for row in rows if row.outcome == "not installed"]
    notes = [f"- {row.family.name}: {why}" for row in good for why in (*row.wrong, *_notes(row.family))]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("transformers", "peft"))
    return PAGE.format(
        sizes="3 layers, width 64",
        versions=f"{versions}, torch {torch.__version__.partition('+')[0]}",
        structure="`dpg_fast/architecture/layers.py`",
        supported=table(HEADER, supported),
        notes="\n".join(notes),
        refused=table(("family", "class", "outcome", "what the error says"), refused),
        missing="\n## Not installed\n\n" + "\n".join(f"- {row.message}" for row in missing) + "\n" if missing else "",
    )


def _notes(family: Family) -> list[str]:
    notes = []
    if not family.pads:
        notes.append("its own generation is wrong with prompts padded on the left; measured without padding.")
    if not family.generates:
        notes.append("has no `generate`; errors are of its own output.")
    return notes


def shorten(message: str) -> str:
    """Without the list of what is accepted, which is the same everywhere."""
    return message.partition("; accepted are")[0].replace("|", "\\|").replace("\n", " ")


def listed(text: str) -> dict[str, str]:
    """Family -> outcome, as a page has them."""
    cells = [
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "
    ]
    found = {row[0]: row[2] for row in cells if len(row) > 2 and row[0] != "family"}
    found |= dict.fromkeys(re.findall(r"^- (.*): transformers .* has no ", text, re.MULTILINE), "not installed")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__)
    parser.add_argument("--output", type=Path, help="the page to write")
    parser.add_argument("--only", nargs="*", default=(), help="families whose name has one of these words; for a look")
    options = parser.parse_args(arguments)
    if options.output and options.only:
        parser.error("a page has all families: leave --only out")
    transformers.logging.set_verbosity_error()
    chosen = [
        f for f in FAMILIES.values() if not options.only or any(w.lower() in f.name.lower() for w in options.only)
    ]
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for family in chosen:
            row = measure(family)
            rows.append(row)
            cells = [row.cells.get(name, "") for name in HEADER[3:]] if row.cells else [shorten(row.message)[:110]]
            print(f"{family.name:45} {row.outcome:10} " + "  ".join(cells), flush=True)
            for text in row.wrong:
                print(f"{'':45} WRONG {text}", flush=True)
    if options.output:
        options.output.write_text(page(rows), encoding="utf-8")
    wrong = [row.family.name for row in rows if row.wrong]
    counts = {
        outcome: sum(row.outcome == outcome for row in rows) for outcome in dict.fromkeys(r.outcome for r in rows)
    }
    print(
        ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        + (f"; wrong: {', '.join(wrong)}" if wrong else "")
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
