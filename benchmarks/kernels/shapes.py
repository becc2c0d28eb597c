"""What is measured: models' shapes, numbers of tokens and personalities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

TOKENS = (1, 8, 64, 256, 2048, 8192)
PEOPLE = (1, 8, 64)
DECODE_TOKENS = 256  # up to here one token for each row; beyond, the prompts of as many rows as personalities
CODES = 6
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Model:
    """Sizes of one model's layer: hidden, q and k/v widths, MLP neurons; rank r of its bank."""

    name: str
    hidden: int
    query: int
    kv: int
    mlp: int
    rank: int

    def site(self, name: str) -> tuple[int, int]:
        """(in, out) of the linear layer called q, k or down.

        Raises:
            ValueError: another name.
        """
        sites = {"q": (self.hidden, self.query), "k": (self.hidden, self.kv), "down": (self.mlp, self.hidden)}
        if name not in sites:
            raise ValueError(f"unknown site {name!r}; accepted: {', '.join(sites)}")
        return sites[name]


MODELS = {
    model.name: model
    for model in (
        Model("smollm2-135m", 576, 576, 192, 1536, 8),
        Model("qwen3-4b", 2560, 4096, 1024, 9728, 16),
        Model("llama3-8b", 4096, 4096, 1024, 14336, 16),
        Model("tiny", 64, 64, 32, 96, 4),  # for tests of the suite
    )
}
SITES = ("q", "k", "down")


@dataclass(frozen=True)
class Work:
    """One point of the grid.

    Attributes:
        site: a linear layer, or "mlp" for the activation.
        tokens: T.
        people: distinct personalities among them.
    """

    model: Model
    site: str
    tokens: int
    people: int
    dtype_name: str
    device: str

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.dtype_name]

    @property
    def sizes(self) -> tuple[int, int]:
        """(in, out) of the site."""
        return self.model.site(self.site)

    @property
    def rows(self) -> int:
        """Rows of the batch that the tokens come from."""
        return self.tokens if self.tokens <= DECODE_TOKENS else max(self.people, 1)

    def person_of_row(self) -> list[int]:
        """The personality of each row, in turn."""
        return [row % self.people for row in range(self.rows)]

    def label(self, op: str) -> str:
        """The name of the group of results."""
        where = f"{self.site} {self.sizes[0]} -> {self.sizes[1]}" if self.site != "mlp" else f"{self.model.mlp} neurons"
        people = f"{self.people} personalit{'ies' if self.people > 1 else 'y'}"
        return f"{op}, {self.model.name} {where}, {self.dtype_name}, T {self.tokens}, {people}"


def grid(
    models: Sequence[str],
    sites: Sequence[str],
    tokens: Sequence[int],
    people: Sequence[int],
    dtypes: Sequence[str],
    device: str,
) -> Iterator[Work]:
    """All points with no more personalities than tokens; prompts are cut into equal rows."""
    for model in models:
        for dtype in dtypes:
            for count in tokens:
                for persons in people:
                    if persons <= count and (count <= DECODE_TOKENS or count % persons == 0):
                        for site in sites:
                            yield Work(MODELS[model], site, count, persons, dtype, device)
