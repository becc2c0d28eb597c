"""What of the material belongs to a question: vectors of texts, an exact index, and budgets of words.

PersLLM takes gtr-t5-base and dot products; that is one of three ways to vectors here. TF-IDF compares words, not meaning,
needs no model and no network, and is what is used unless another is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dpg_fast.data.similarity import Vectors, products
from dpg_fast.llm import LLMClient
from dpg_fast.personified.data.material import Paragraph, Stage
from dpg_fast.personified.data.reading import count_words, terms
from dpg_fast.util.errors import DPGError

TFIDF = "tfidf"
API = "api:"
KNOWLEDGE_WORDS, STYLE_WORDS = 1300, 350  # PersLLM's code; its documentation says 1,500 and 500
_BLOCK = 64  # questions compared at once

Encoder = Callable[[Sequence[str]], Vectors]


class Embedder(Protocol):
    """A way from texts to vectors.

    Attributes:
        name: for reports.
    """

    name: str

    def encoder(self, corpus: Sequence[str]) -> Encoder:
        """What turns texts into rows of length 1 (or 0), [N, D]; ``corpus`` is what word frequencies are taken from."""


class TfidfEmbedder:
    """scikit-learn's TF-IDF over words: no model, no network; synonyms do not meet."""

    name = "TF-IDF (scikit-learn)"

    def encoder(self, corpus: Sequence[str]) -> Encoder:
        """See `Embedder`."""
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
        except ImportError as error:
            raise ImportError("retrieval by TF-IDF needs scikit-learn: pip install 'dpg-fast[data]'") from error
        vectorizer = TfidfVectorizer(analyzer=terms, sublinear_tf=True, dtype=np.float32)
        vectorizer.fit(corpus)
        return vectorizer.transform  # type: ignore[no-any-return]


class SentenceEmbedder:
    """A sentence-transformers model on this machine, such as PersLLM's "sentence-transformers/gtr-t5-base"."""

    def __init__(self, model: str) -> None:
        self.name = model
        self._model: Any = None

    def encoder(self, corpus: Sequence[str]) -> Encoder:
        """See `Embedder`. Loads the model on first use; the corpus does not matter."""
        if self._model is None:
            try:
                from sentence_transformers import SentenceTransformer
            except ImportError as error:
                raise ImportError(
                    f"embeddings by {self.name} need sentence-transformers: pip install sentence-transformers; "
                    f"or take {TFIDF!r}"
                ) from error
            self._model = SentenceTransformer(self.name)
        return lambda texts: np.asarray(
            self._model.encode(list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False),
            dtype=np.float32,
        )


class EndpointEmbedder:
    """An embedding model behind an OpenAI-compatible API; vectors are stored like replies."""

    def __init__(self, client: LLMClient, model: str) -> None:
        self.name = model
        self._client = client

    def encoder(self, corpus: Sequence[str]) -> Encoder:
        """See `Embedder`. The corpus does not matter."""
        return lambda texts: self._client.embed(list(texts), self.name)


def make_embedder(name: str, client: LLMClient | None = None) -> Embedder:
    """ "tfidf", "api:MODEL" (asked of ``client``'s server) or the name or folder of a sentence-transformers model.

    Raises:
        ValueError: an empty name, or "api:" without a model or a client.
    """
    if name == TFIDF:
        return TfidfEmbedder()
    if name.startswith(API):
        if not name.removeprefix(API) or client is None:
            raise DPGError("name the endpoint's embedding model: api:MODEL")
        return EndpointEmbedder(client, name.removeprefix(API))
    if not name.strip():
        raise DPGError(f"name an embedding: {TFIDF}, {API}MODEL or a sentence-transformers model")
    return SentenceEmbedder(name)


@dataclass(frozen=True)
class Budget:
    """Words of material given with a question: paragraphs are added until so many are reached."""

    knowledge: int = KNOWLEDGE_WORDS
    style: int = STYLE_WORDS

    def __post_init__(self) -> None:
        if min(self.knowledge, self.style) < 1:
            raise DPGError("the budgets of words must be at least 1")


@dataclass(frozen=True)
class Materials:
    """What is given with one question, the most similar first (the question's source before all)."""

    knowledge: tuple[Paragraph, ...]
    style: tuple[Paragraph, ...]


class Retriever:
    """Finds a stage's paragraphs for questions."""

    def __init__(self, stage: Stage, embedder: Embedder, budget: Budget) -> None:
        self.budget = budget
        texts = [paragraph.text for paragraph in stage.paragraphs]
        self._encode = embedder.encoder(texts)
        self._parts = tuple(
            (part, self._encode([p.text for p in part]), words)
            for part, words in ((stage.knowledge, budget.knowledge), (stage.style, budget.style))
        )

    def find(self, questions: Sequence[str], sources: Sequence[Paragraph | None]) -> list[Materials]:
        """The materials of each question; its source paragraph comes first."""
        found: list[Materials] = []
        for start in range(0, len(questions), _BLOCK):
            queries = self._encode(list(questions[start : start + _BLOCK]))
            ranked = [np.argsort(-products(queries, vectors), axis=1, kind="stable") for _, vectors, _ in self._parts]
            for row, source in enumerate(sources[start : start + _BLOCK]):
                taken = [
                    _take(part, order[row], words, source)
                    for (part, _, words), order in zip(self._parts, ranked, strict=True)
                ]
                found.append(Materials(*taken))
        return found


def _take(part: Sequence[Paragraph], order: np.ndarray, budget: int, source: Paragraph | None) -> tuple[Paragraph, ...]:
    """In order, until the budget is reached; at least one."""
    taken = [source] if source is not None and source.kind == part[0].kind else []
    total = sum(count_words(paragraph.text) for paragraph in taken)
    for index in order:
        if total >= budget:
            break
        paragraph = part[int(index)]
        if source is None or paragraph.id != source.id:
            taken.append(paragraph)
            total += count_words(paragraph.text)
    return tuple(taken)
