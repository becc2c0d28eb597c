"""A model with one personality as a model of lm-evaluation-harness. Importing this needs lm_eval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from dpg_fast.compat.transformers_models import longest_text
from dpg_fast.model.steering import SteerTokens, check_tokens
from dpg_fast.personality.row import RowItem
from dpg_fast.text.answers import write_tokens
from dpg_fast.text.continuation import continuation_logp
from dpg_fast.text.prompting import with_system
from dpg_fast.util.errors import DPGError

_MAX_NEW = 256  # the harness's own default where a task does not say
_LONGEST = 2048


class PersonalityLM(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """Answers the harness's requests as one personality.

    Args:
        model: called as a `PersonalityModel` is; with personality None any causal LM of transformers will do.
        tokenizer: the base model's.
        personality: None is the model as it is.
        steer_tokens: "all" steers every token of a scored text. "decode" only those after the context, as generation does; the
            first token of an answer is then never steered, so questions with one-token choices cannot show any damage.
            Texts that are generated are always steered on generated tokens alone.
        batch_size: requests run side by side.
        closing: put behind the last user turn of a conversation.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        personality: RowItem,
        *,
        steer_tokens: SteerTokens = "all",
        batch_size: int = 16,
        closing: str = "",
    ) -> None:
        super().__init__()
        self.closing = closing
        check_tokens(steer_tokens)
        self.model, self.tokenizer, self.personality = model, tokenizer, personality
        self.steer_tokens = steer_tokens
        self.batch_size = batch_size
        self.max_length = min(longest_text(model) or _LONGEST, _LONGEST)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of chat prompts."""
        return str(getattr(self.tokenizer, "name_or_path", "")).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; without special tokens unless asked for."""
        ids: list[int] = self.tokenizer(string, add_special_tokens=bool(add_special_tokens))["input_ids"]
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation in the model's chat format; an instruction is put where the template has room for it."""
        if chat_history and chat_history[0]["role"] == "system":
            chat_history = with_system(self.tokenizer, chat_history[1:], chat_history[0]["content"])
        last = max((i for i, turn in enumerate(chat_history) if turn["role"] == "user"), default=None)
        if self.closing and last is not None:
            told = {**chat_history[last], "content": f"{chat_history[last]['content']}\n\n{self.closing}"}
            chat_history = [*chat_history[:last], told, *chat_history[last + 1 :]]
        text = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        assert isinstance(text, str)
        return text

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-likelihood, whether it is the greedy one) of the continuation of each (context, continuation)."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def _loglikelihood_tokens(self, requests: Sequence[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        pairs = [self._shortened(context, continuation) for _, context, continuation in requests]
        found = continuation_logp(
            self.model,
            [context for context, _ in pairs],
            [continuation for _, continuation in pairs],
            personality=None if self.personality is None else [self.personality] * len(pairs),
            steer_prompt=self.steer_tokens == "all",
            batch_size=self.batch_size,
        )
        return [(own.total, own.greedy) for own in found]

    def _shortened(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """What is too long loses its beginning. The last token predicts nothing that is asked for, so it needs no place."""
        text = (context + continuation)[-self.max_length - 1 :]
        length = min(len(continuation), len(text) - 1)
        return text[:-length], text[-length:]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of whole texts, in windows of the model's length."""
        windows: list[tuple[None, list[int], list[int]]] = []
        owners: list[int] = []
        for i, request in enumerate(requests):
            for window in self._windows(request.args[0]):
                windows.append((None, *window))
                owners.append(i)
        result = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            result[owner] += value
        return result

    def _windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
        for window in get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        ):
            yield make_disjoint_window(window)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """Greedy texts up to a stop string; tasks that sample are refused."""
        result: list[str] = [""] * len(requests)
        groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for i, request in enumerate(requests):
            options = dict(request.args[1])
            if options.get("do_sample") and options.get("temperature", 1.0):
                raise DPGError("tasks that sample cannot be compared; only greedy generation is accepted")
            until = options.get("until") or []
            stops = (until,) if isinstance(until, str) else tuple(until)
            groups.setdefault((stops, int(options.get("max_gen_toks", _MAX_NEW))), []).append(i)
        for (stops, limit), members in groups.items():
            members.sort(key=lambda i: -len(requests[i].args[0]))
            for start in range(0, len(members), self.batch_size):
                rows = members[start : start + self.batch_size]
                texts = self._generate([requests[i].args[0] for i in rows], stops, limit)
                for i, text in zip(rows, texts, strict=True):
                    result[i] = text
        return result

    def _generate(self, prompts: Sequence[str], stops: Sequence[str], limit: int) -> list[str]:
        wanted = [stop for stop in stops if stop]
        options: dict[str, Any] = {"stop_strings": wanted, "tokenizer": self.tokenizer} if wanted else {}
        if self.personality is not None:
            options["personality"] = self.personality
        tokens = write_tokens(
            self.model,
            self.tokenizer,
            prompts,
            longest=max(1, self.max_length - limit),
            max_new_tokens=limit,
            pad_token_id=self.eot_token_id,
            **options,
        )
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [_cut(text, wanted) for text in texts]


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
