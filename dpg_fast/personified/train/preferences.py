"""Preference pairs for the second step: whose they are, how they are split, and whether the reward follows length."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dpg_fast.personality.stages import label_messages, stage_token
from dpg_fast.personified.data.pairs import LengthBias, Pairs, PreferencePair, length_bias, pair_statistics
from dpg_fast.personified.data.writing import PAIRS
from dpg_fast.personified.train.conversations import IGNORED, row_of, short_name, spoken
from dpg_fast.personified.train.settings import PairDataSettings
from dpg_fast.text.records import read_records
from dpg_fast.util.errors import DPGError


@dataclass(frozen=True)
class SplitPairs:
    """A character's pairs, to train on and held out; all pairs of one question are on one side."""

    train: list[PreferencePair]
    held: list[PreferencePair]

    def statistics(self) -> dict[str, Any]:
        """Counts and lengths, JSON-ready."""
        told = pair_statistics([Pairs([*self.train, *self.held], {})]).model_dump()
        return {"train": len(self.train), "held_out": len(self.held)} | {
            name: told[name] for name in ("counts", "similarity", "lengths")
        }


def load_pairs(settings: PairDataSettings, character: str, labels: Sequence[str]) -> SplitPairs:
    """The pairs of one character.

    Args:
        settings: files, kinds, share held out.
        character: its short name.
        labels: temporal labels that it was tuned with.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: no pair of this character and these kinds, or one of a stage that it was not tuned with.
    """
    pairs: list[PreferencePair] = []
    for place in settings.files:
        file = place / PAIRS if place.is_dir() else place
        if not file.is_file():
            raise FileNotFoundError(f"there is no {file}: make it with `dpg-fast data personified pairs`")
        pairs += read_records(file, PreferencePair)
    people = sorted({pair.character for pair in pairs})
    own = [p for p in pairs if short_name(p.character) == character or p.character == character]
    own = [p for p in own if p.kind in settings.kinds and p.split == "train"]
    if not own:
        raise DPGError(
            f"no pair of {character} and kind {' or '.join(settings.kinds)}; "
            f"the files have pairs of {', '.join(people) or 'nobody'}"
        )
    unknown = sorted({p.label for p in own} - set(labels))
    if unknown:
        raise DPGError(
            f"pairs of {', '.join(unknown)}, but {character} was tuned with {', '.join(labels) or 'no stages'}"
        )
    held = [p for p in own if _share(p) < settings.held_out]
    train = [p for p in own if _share(p) >= settings.held_out]
    if not train:
        raise DPGError(f"all {len(held)} pairs of {character} are held out; lower pairs.held_out")
    return SplitPairs(train, held)


def _share(pair: PreferencePair) -> float:
    question = pair.chosen_id.split("@")[0]
    return int(hashlib.sha256(question.encode()).hexdigest()[:8], 16) / 16**8


def trl_rows(pairs: Sequence[PreferencePair], analysis: bool) -> list[dict[str, Any]]:
    """Pairs in TRL's conversational form, with the stage's token before the user's text."""
    return [
        {
            "prompt": label_messages(spoken(pair.prompt, analysis), stage_token(pair.label)),
            "chosen": spoken(pair.chosen, analysis),
            "rejected": spoken(pair.rejected, analysis),
        }
        for pair in pairs
    ]


def words_of(pairs: Sequence[PreferencePair], analysis: bool) -> LengthBias | None:
    """Lengths of the two sides as they are trained, in words."""
    told = [
        pair.model_copy(
            update={
                side: [
                    turn.model_copy(update={"content": message["content"]})
                    for turn, message in zip(turns, said, strict=True)
                ]
                for side, turns in (("chosen", pair.chosen), ("rejected", pair.rejected))
                for said in [spoken(turns, analysis)]
            }
        )
        for pair in pairs
    ]
    return length_bias(told)


@dataclass(frozen=True)
class Scores:
    """Log probabilities of both sides of each pair, summed over the answer's tokens: float64 [pairs], and their lengths."""

    chosen: np.ndarray
    rejected: np.ndarray
    chosen_tokens: np.ndarray
    rejected_tokens: np.ndarray


@torch.inference_mode()
def score_pairs(model: Any, tokenizer: Any, pairs: Sequence[PreferencePair], analysis: bool, batch: int = 8) -> Scores:
    """What ``model``, as it is now, thinks of the answers; end of turn included, stage tokens as in training."""
    rows = [
        row_of(tokenizer, [*spoken(pair.prompt, analysis), *spoken(side, analysis)], stage_token(pair.label))
        for pair in pairs
        for side in (pair.chosen, pair.rejected)
    ]
    training = model.training
    model.eval()
    sums, counts = [], []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        length = max(len(row["input_ids"]) for row in part)
        tokens = torch.zeros(len(part), length, dtype=torch.long)
        labels = torch.full((len(part), length), IGNORED)
        mask = torch.zeros(len(part), length, dtype=torch.long)
        for i, row in enumerate(part):
            n = len(row["input_ids"])
            tokens[i, :n], labels[i, :n] = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
            mask[i, :n] = 1
        logits = model(input_ids=tokens.to(model.device), attention_mask=mask.to(model.device)).logits[:, :-1]
        following = labels[:, 1:].to(model.device)
        loss = torch.nn.functional.cross_entropy(
            logits.float().transpose(1, 2), following, ignore_index=IGNORED, reduction="none"
        )
        sums += (-loss.double().sum(1)).tolist()
        counts += (following != IGNORED).sum(1).tolist()
    model.train(training)
    found, lengths = np.array(sums).reshape(-1, 2), np.array(counts).reshape(-1, 2)
    return Scores(found[:, 0], found[:, 1], lengths[:, 0], lengths[:, 1])


def margins(policy: Scores, reference: Scores, beta: float) -> dict[str, float]:
    """Rewards of the pairs, and whether the margin follows length.

    Returns:
        "chosen", "rejected", "margin": mean rewards, ``beta`` times the change of log probability; "accuracy": share of pairs
        whose chosen side has the larger reward, ties as half; "length_correlation": Pearson's, of the margin with how many
        tokens longer the chosen side is (0 where either does not vary); "accuracy_longer", "accuracy_shorter": accuracy where
        the chosen side is longer or shorter, if there are such pairs.
    """
    chosen = beta * (policy.chosen - reference.chosen)
    rejected = beta * (policy.rejected - reference.rejected)
    margin = chosen - rejected
    right = np.where(margin == 0, 0.5, margin > 0)
    longer = (policy.chosen_tokens - policy.rejected_tokens).astype(float)
    varied = len(margin) > 1 and margin.std() > 0 and longer.std() > 0
    found = {
        "pairs": float(len(margin)),
        "chosen": float(chosen.mean()),
        "rejected": float(rejected.mean()),
        "margin": float(margin.mean()),
        "accuracy": float(right.mean()),
        "length_correlation": float(np.corrcoef(margin, longer)[0, 1]) if varied else 0.0,
    }
    for name, where in (("accuracy_longer", longer > 0), ("accuracy_shorter", longer < 0)):
        if where.any():
            found[name] = float(right[where].mean())
    return found
