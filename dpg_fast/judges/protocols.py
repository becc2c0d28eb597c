"""What ``dpg-fast assess judge`` can ask of a model behind an API: how its input is read, and the protocol that judges it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpg_fast.judges.dialogue_protocols import JudgingProtocol
    from dpg_fast.judges.dialogue_run import JudgedItem
    from dpg_fast.llm import LLMClient


class Way(StrEnum):
    """What a judge behind an API is asked."""

    EVIDENCE = "evidence"
    NPTI = "npti"
    ACCURACY = "accuracy"
    RANKING = "ranking"

    @property
    def noun(self) -> str:
        """What is judged."""
        return "items" if self in (Way.ACCURACY, Way.RANKING) else "dialogues"


def make_reader(path: Path, target: str | None, way: Way) -> Callable[[], Iterator[JudgedItem[Any]]]:
    """What reads the input, as often as it is called."""
    if way in (Way.ACCURACY, Way.RANKING):
        from dpg_fast.judges.reference.judge import read_answers

        return lambda: read_answers(path, same_systems=way is Way.RANKING)
    from dpg_fast.judges.dialogue_run import read_items

    return lambda: read_items(path, target)


def make_protocol(
    client: LLMClient,
    way: Way,
    traits: list[Any],
    context_tokens: int,
    reply_tokens: int,
    seed: int,
    read: Callable[[], Iterator[JudgedItem[Any]]],
    dry_run: bool,
) -> JudgingProtocol[Any]:
    """The protocol; ``read`` tells a ranking how many systems there are, for its estimate of replies."""
    if way is Way.ACCURACY:
        from dpg_fast.judges.reference.judge import AccuracyProtocol

        return AccuracyProtocol(client, estimate=dry_run)
    if way is Way.RANKING:
        from dpg_fast.judges.reference.judge import RankingProtocol

        systems = next((len(item.subject.answers) for item in read() if item.subject is not None), 1)
        return RankingProtocol(client, seed=seed, systems=systems)
    from dpg_fast.judges.dialogue_protocols import EvidenceProtocol, NPTIProtocol

    if way is Way.NPTI:
        from dpg_fast.judges.llm import LLMJudge

        return NPTIProtocol(LLMJudge(client, parameters={}), traits)
    from dpg_fast.judges.evidence import EvidenceJudge

    judge = EvidenceJudge(client, context_tokens=context_tokens, reply_tokens=reply_tokens, parameters={})
    return EvidenceProtocol(judge, traits)
