"""Materials for questions: similar ones first, the source before all, within budgets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from dpg_fast.data.similarity import near_vectors, products
from dpg_fast.personified.data.material import Paragraph, Stage
from dpg_fast.personified.data.reading import count_words
from dpg_fast.personified.data.retrieval import Budget, Retriever, SentenceEmbedder, TfidfEmbedder, make_embedder

KNOWN = (
    "The ferry crosses the river at noon.",
    "Her brother keeps bees.",
    "Bees swarm in May.",
    "The bridge has no toll.",
)
SAID = ("I love the river!", "Bees, bees, always bees.", "Nobody asked the bridge.")


def stage() -> Stage:
    return Stage(
        "early",
        "TIME-I",
        None,
        tuple(Paragraph(f"k{i}", "knowledge", text) for i, text in enumerate(KNOWN)),
        tuple(Paragraph(f"s{i}", "style", text) for i, text in enumerate(SAID)),
    )


def test_nearest_first_within_the_budget() -> None:
    (found,) = Retriever(stage(), TfidfEmbedder(), Budget(8, 1)).find(["What about the bees?"], [None])
    assert [p.id for p in found.knowledge][:2] == ["k2", "k1"] or [p.id for p in found.knowledge][:2] == ["k1", "k2"]
    assert [p.id for p in found.style] == ["s1"]
    total = sum(count_words(p.text) for p in found.knowledge)
    assert total >= 8 > total - count_words(found.knowledge[-1].text)


def test_the_source_comes_first_and_once() -> None:
    own = stage()
    retriever = Retriever(own, TfidfEmbedder(), Budget(1000, 1000))
    found = retriever.find(["What about the bees?"] * 2, [own.knowledge[3], own.style[2]])
    assert found[0].knowledge[0].id == "k3" and found[1].style[0].id == "s2"
    for materials in found:
        assert sorted(p.id for p in materials.knowledge) == ["k0", "k1", "k2", "k3"]
        assert sorted(p.id for p in materials.style) == ["s0", "s1", "s2"]


def test_many_questions_as_one_by_one() -> None:
    retriever = Retriever(stage(), TfidfEmbedder(), Budget(12, 5))
    questions = [f"{a} and {b}?" for a in KNOWN for b in SAID for _ in range(6)]
    together = retriever.find(questions, [None] * len(questions))
    assert together == [retriever.find([question], [None])[0] for question in questions]


def test_words_that_nobody_knows() -> None:
    (found,) = Retriever(stage(), TfidfEmbedder(), Budget(5, 5)).find(["Xyzzy?"], [None])
    assert found.knowledge and found.style


def test_sparse_and_dense_vectors_find_the_same_repetitions() -> None:
    texts = ["bees in may", "bees in may!", "a bridge", "bees in june", "the bridge", "a bridge"]
    vectors = TfidfEmbedder().encoder(texts)(texts)
    dense = vectors.toarray()
    assert np.allclose(products(vectors, vectors), dense @ dense.T, atol=1e-6)
    found = near_vectors(vectors, threshold=0.95)
    assert (
        [(d.index, d.of) for d in found]
        == [(1, 0), (5, 2)]
        == [(d.index, d.of) for d in near_vectors(dense, threshold=0.95)]
    )
    assert [d.index for d in near_vectors(vectors, threshold=0.95, keep=2)] == [5]


def test_names_of_embeddings() -> None:
    assert make_embedder("tfidf").name.startswith("TF-IDF")
    assert make_embedder("sentence-transformers/gtr-t5-base").name == "sentence-transformers/gtr-t5-base"
    for wrong in ("", "api:", "api:model"):
        with pytest.raises(ValueError, match="name"):
            make_embedder(wrong)
    for wrong_budget in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            Budget(*wrong_budget)


def test_a_sentence_transformers_model(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *["the", "ferry", "crosses", "river", "at", "noon", "bees", "bridge", "what", "about"],
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    transformer = Transformer(str(tmp_path / "bert"))
    SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").save(str(tmp_path / "model"))
    embedder = SentenceEmbedder(str(tmp_path / "model"))
    vectors = embedder.encoder([])(["the ferry", "bees", "the ferry"])
    assert vectors.shape == (3, 16) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5) and np.allclose(vectors[0], vectors[2], atol=1e-6)
    assert len(Retriever(stage(), embedder, Budget(5, 5)).find(["the bees"], [None])) == 1
