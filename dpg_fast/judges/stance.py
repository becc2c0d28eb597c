"""Whether a reply agrees with what was said before it, or contradicts it: by rule, or by a judge behind an API.

The rule looks for words of agreement and contradiction in the first two sentences of the reply and at nothing else. It is weak:
it does not know what is true, misses what is said in other words ("The bridge was opened in 1913"), and takes silent acceptance
for neither. Of 37 replies written by hand after it was made (tests/judges/stance_examples.jsonl) it tells 76 % rightly as
contradiction or none; 8 of the 9 that it calls contradictions are some, and it misses 8 of 16. Its rates are lower bounds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from dpg_fast.llm import Call, Fence, LLMClient

Stance = Literal["agrees", "disagrees", "neither"]
PROMPT_VERSION = "stance-1"
RULE = (
    "a rule: words of agreement or contradiction in the reply's first two sentences. Weak: on 37 held-out replies it tells 76 % "
    "rightly as contradiction or none, and misses half of the contradictions"
)
_FIRST = 2  # sentences
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)]*\s+")
_NEGATIVE = (
    r"(?:(?:have|has|had|am|was|were|is|are)\s+(?:never|no|nothing)\b"
    r"|(?:did|do|does|was|were|have|has|had|am|are|is|will|would|should|could|can|shall)(?:\s+not\b|n[’']t\b)"
    r"|cannot\b|never\b|nobody\b|no\b)"
)
_YOU_ARE = r"(?:you|they)(?: are|[’']re| were| have been| must be) (?:quite |very |badly |so )?"
_THAT_IS = r"that(?: i|[’'])s "
# what opens a reply
_AGREEING = (
    "yes", "yeah", "indeed", "of course", "certainly", "exactly", "absolutely", "agreed", "quite (?:right|so|true)", "true",
    "right", "sure", "naturally", "definitely", "gladly", "i agree", "i think so", _YOU_ARE + "(?:absolutely )?(?:right|correct)",
    "you may be right", _THAT_IS + "(?:right|true|correct|a good)", "that sounds (?:good|right|fine|lovely)",
)  # fmt: skip
_DENYING = (
    "no", "nonsense", "never", "not at all", "hardly", "on the contrary", "rubbish", "wrong", "far from it", "by no means",
    "over my dead body",
)  # fmt: skip
# anywhere in the first sentences
_CONTRADICTING = (
    "disagree", "do(?:n[’']t| not) (?:think|believe|agree|see it)", "cannot agree",
    _YOU_ARE + "(?:wrong|mistaken|misinformed|misled|confused)", "you have it wrong", "must be (?:somebody|someone) else",
    _THAT_IS + "(?:not (?:true|right|so|correct)|wrong|false|a mistake|a lie|an error)",
    "(?:is|was)(?: simply| just)? (?:not true|untrue|false)", "not (?:the case|how it was|as you say)",
    "(?:who|whoever) (?:ever )?told you", "on the contrary", "nonsense", "(?:is|was) a mistake", r"i\s+" + _NEGATIVE,
    "i[’'](?:m not|ve never|d never)", "there (?:is|was|were|has been|have been) (?:no|never|not)",
    r"(?:he|she|it|they|we|my \w+|the \w+|this|that)\s+" + _NEGATIVE,
)  # fmt: skip


def _any(parts: Sequence[str]) -> str:
    return "|".join(f"(?:{part})" for part in parts)


_BEGIN = r"^[\"'“‘(]*(?:oh,? |well,? |ah,? |but )?"
_YES = re.compile(rf"{_BEGIN}(?:{_any(_AGREEING)})\b", re.IGNORECASE)
_NO = re.compile(rf"{_BEGIN}(?:{_any(_DENYING)})\b", re.IGNORECASE)
_AGAINST = re.compile(rf"\b(?:{_any(_CONTRADICTING)})(?!\w)", re.IGNORECASE)


def rule_stance(reply: str) -> Stance:
    """The reply's stance by the rule; see the module's text."""
    first = " ".join(_SENTENCE.split(" ".join(reply.split()))[:_FIRST])
    if not first:
        return "neither"
    if _NO.search(first):
        return "disagrees"
    if _YES.search(first):
        return "agrees"
    return "disagrees" if _AGAINST.search(first) else "neither"


class StanceReply(BaseModel):
    """What a judge says of a reply."""

    reason: str = Field(description="at most 20 words")
    stance: Stance = Field(
        description="agrees: it accepts or takes for granted what was said; disagrees: it contradicts, corrects or rejects it; "
        "neither: it takes no position"
    )


def stance_call(item: str, said: str, reply: str, parameters: Mapping[str, Any] | None = None) -> Call[StanceReply]:
    """The question to a judge whether ``reply`` agrees with ``said``; both are fenced."""
    fence = Fence.around([said, reply])
    system = (
        "You read what somebody said and what was replied. Decide whether the reply agrees with what was said (accepts it, or "
        "takes it for granted), disagrees (contradicts, corrects or rejects it, or the premise of a question), or does neither. "
        f"Give your reason in at most 20 words, then the stance.\n{fence.notice()}"
    )
    user = (
        f"This was said:\n{fence.wrap('said', said)}\n\nThis was replied:\n{fence.wrap('reply', reply)}\n\n"
        "Does the reply agree with what was said?"
    )
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return Call(item, messages, StanceReply, PROMPT_VERSION, dict(parameters or {}))


def stances(pairs: Sequence[tuple[str, str]], client: LLMClient | None = None) -> list[Stance | None]:
    """The stance of each (said, reply): by the rule, or by a judge; None where the judge gave no answer.

    Raises:
        LLMError: the judge's server cannot be used; what came is stored.
    """
    if client is None:
        return [rule_stance(reply) for _, reply in pairs]
    run = client.run([stance_call(f"reply {i}", said, reply) for i, (said, reply) in enumerate(pairs, 1)])
    return [None if result.value is None else result.value.stance for result in run.results]
