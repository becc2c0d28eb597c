"""Stage tokens in a served model: ids beyond the base's vocabulary, whose embeddings are the characters' own rows.

The base's embedding and output layers keep their weights and sizes; a tied output layer never sees the added rows. Nothing that
is generated can be a stage token.

Why: docs/decisions.md, "A character's stage tokens are ids beyond the vocabulary".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpg_fast.architecture.layers import UnsupportedArchitectureError
from dpg_fast.compat.accelerate import weight_value
from dpg_fast.compat.transformers import beams, beams_need_configured_vocabulary
from dpg_fast.compat.transformers_models import embedding_scale, per_layer_embedding
from dpg_fast.hypernet.stage_rows import StageRows
from dpg_fast.model.layers.changes import Change, Changed
from dpg_fast.model.layers.lasting import lasting
from dpg_fast.model.request import CallState
from dpg_fast.personality.row import Row
from dpg_fast.util.errors import DPGError

__all__ = ["StageEmbedding", "check_beams", "check_stage_tokens"]

ATTRIBUTE = "dpg_stages"


def check_stage_tokens(base: Any) -> None:
    """Raises UnsupportedArchitectureError where ids are looked up in a second embedding: adapters hold rows for one."""
    if (second := per_layer_embedding(base)) is not None:
        raise UnsupportedArchitectureError(
            f"{second} looks up the tokens' ids as well, and has no rows for stage tokens: on this model characters have no "
            "stages (adapters without a character.json that names stage tokens are accepted)"
        )


def check_beams(base: Any, kwargs: Mapping[str, Any]) -> None:
    """Raises ValueError when ``base.generate(**kwargs)`` would search beams in a way that columns for stage tokens break."""
    if beams_need_configured_vocabulary() and (count := beams(base, kwargs)) > 1:
        from transformers import __version__

        raise DPGError(
            f"num_beams={count} with a stage: beam search of transformers {__version__} has no room for stage tokens; give "
            "num_beams=1, or install transformers 5.24"
        )


class StageTokenEmbedding(Changed):
    """Mixin put in front of the embedding's class."""

    dpg_stages: StageEmbedding

    def forward(self, ids: Tensor) -> Tensor:
        stages = getattr(self, ATTRIBUTE, None)
        if stages is None:  # a bound method that somebody kept past unload()
            return type(self).forward(self, ids)
        call = stages.state.call
        if call is None or not call.stages:
            return super().forward(ids)  # type: ignore[misc,no-any-return]
        first = stages.vocabulary
        own = super().forward(ids.clamp(max=first - 1))  # type: ignore[misc]
        added = F.embedding((ids - first).clamp(min=0), stages.rows_like(own))
        return torch.where((ids >= first).unsqueeze(-1), added, own)


class StageEmbedding:
    """The change to the base model's embedding, until `undo`.

    Args:
        base: a Hugging Face causal LM.
        rows: of the characters' stage tokens.
        state: says whether a running call has stage tokens.

    Attributes:
        vocabulary: rows of the base's own embedding; stage token i has the id `vocabulary` + i.

    Raises:
        ValueError: rows of another width than the embedding's.
        UnsupportedArchitectureError: an embedding that is more than rows and one factor, or not the only one of the tokens.
    """

    def __init__(self, base: Any, rows: StageRows, state: CallState) -> None:
        check_stage_tokens(base)
        embedding = base.get_input_embeddings()
        if not isinstance(embedding, nn.Embedding):
            raise UnsupportedArchitectureError(
                f"{type(embedding).__name__} is not an embedding that stage tokens can join"
            )
        if embedding.embedding_dim != rows.rows.shape[1]:
            raise DPGError(
                f"the characters' stage tokens have {rows.rows.shape[1]} features, the model's embedding has "
                f"{embedding.embedding_dim}"
            )
        self.rows = rows
        self.state = state
        self.vocabulary = embedding.num_embeddings
        self.scale = embedding_scale(embedding)
        self._check(embedding)
        self._copy: Tensor | None = None
        name = next(name for name, module in base.named_modules() if module is embedding)
        self.change = Change(name, embedding, StageTokenEmbedding, ATTRIBUTE, self)

    def undo(self) -> None:
        """Give the embedding its own class back."""
        self.change.undo()

    def token_id(self, character: str, stage: str) -> int:
        """The id that stands for a stage in prompts; ValueError for a stage that is not there."""
        return self.vocabulary + self.rows.index(character, stage)

    def rows_like(self, y: Tensor) -> Tensor:
        """The rows as the embedding would give them, in the dtype and on the device of ``y``."""
        if self._copy is None or self._copy.dtype != y.dtype or self._copy.device != y.device:
            # Rounded to the embedding's dtype before the factor, as the embedding's own rows are.
            with lasting():
                self._copy = self.rows.rows.to(y.device, y.dtype) * self.scale
        return self._copy

    def check_prompt(self, rows: Sequence[Row | None], ids: Tensor | None) -> None:
        """Refuse a prompt without the stage token that its row asks for: the stage would have no effect.

        Args:
            rows: what each row asks for.
            ids: int64 [rows, length], or None for a prompt given as embeddings.

        Raises:
            ValueError: a token is missing.
        """
        wanted = [(n, row.stage) for n, row in enumerate(rows) if row is not None and row.stage is not None]
        if not wanted:
            return
        if ids is None:
            raise DPGError("a stage is a token of the prompt: give input_ids, not inputs_embeds")
        numbers = torch.tensor([self.token_id(*found) for _, found in wanted], device=ids.device)
        there = (ids[[row for row, _ in wanted]] == numbers[:, None]).any(dim=1).tolist()
        for (row, (character, stage)), number, present in zip(wanted, numbers.tolist(), there, strict=True):
            if not present:
                raise DPGError(
                    f"row {row} asks for stage {stage!r} of {character}, but its token (id {number}) is not in the prompt; use "
                    "chat() or prompts(), which put it before each user turn"
                )

    def _check(self, embedding: nn.Embedding) -> None:
        weight = weight_value(embedding, "weight")
        if weight.device.type == "meta":
            return
        with torch.no_grad():
            found = embedding(torch.zeros(1, dtype=torch.long, device=weight.device))[0]
            expected = (weight[0] * self.scale).to(found.device)
        if not torch.allclose(found.float(), expected.float(), rtol=1e-2, atol=1e-6):
            raise UnsupportedArchitectureError(
                f"{type(embedding).__name__} does more than look up rows, so stage tokens cannot join it"
            )
