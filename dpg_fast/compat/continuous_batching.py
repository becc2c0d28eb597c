"""Continuous batching of transformers 5.17 to 5.24: the one place that knows how it is built.

What is used beyond its documented methods (`tests/compat/test_continuous_batching.py` fails when one of them changes): the
manager's `_create_batch_processor`, `output_router` and `background_thread_status`; the processor's `inputs_and_outputs`,
`model_runner` and `_generation_step`; `prepare_batch_tensors` and `get_model_kwargs` of the former, `_sample` of the runner.

Steps are taken one after the other without CUDA graphs, since what is asked of each token is prepared between two of them. Blocks
of the cache are not shared: two requests with one prompt may have different personalities, and so different keys and values.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from torch import Tensor

from dpg_fast.compat import packed_attention

__all__ = ["ContinuousBatching", "PromptPart"]

PAGE = 32
"""Tokens of a page of the cache."""


class PromptPart(NamedTuple):
    """The tokens of one request in one step.

    Attributes:
        request: its id.
        before: tokens of the request that came before these.
        tokens: how many.
        samples: whether they end in a new token; otherwise they are a part of the prompt.
    """

    request: str
    before: int
    tokens: int
    samples: bool


class ContinuousBatching:
    """Requests that enter and leave a running batch, at any step.

    The functions below are called in the thread of the loop. An exception in one of them ends the loop, and with it all
    requests.

    Args:
        model: a transformers causal LM in eval mode; its attention may be switched to another implementation until :meth:`stop`.
        requests: most of them in one step.
        step_tokens: most tokens in one step; longer prompts are taken in parts.
        cache_tokens: that the cache holds, of all requests together.
        around: parts of a step -> a context in which the model's forward runs.
        sample: ids of requests, float32 logits [n, vocabulary] -> int64 [n], their next tokens.
        ended: id of a request that has ended (its last token was sampled before), and None or what went wrong.
    """

    def __init__(
        self,
        model: Any,
        *,
        requests: int,
        step_tokens: int,
        cache_tokens: int,
        around: Callable[[Sequence[PromptPart]], AbstractContextManager[Any]],
        sample: Callable[[Sequence[str], Tensor], Tensor],
        ended: Callable[[str, str | None], None],
    ) -> None:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
        options: dict[str, Any] = {
            "num_blocks": -(-cache_tokens // PAGE),
            "max_batch_tokens": step_tokens,
            "max_requests_per_batch": requests,
            "allow_block_sharing": False,
            "use_async_batching": False,
            "use_cuda_graph": False,
            "max_memory_percent": 0.9,
        }
        page = "page_size" if "page_size" in ContinuousBatchingConfig.__dataclass_fields__ else "block_size"
        options[page] = PAGE
        self._model, self._around, self._sample = model, around, sample
        self._attention = model.config._attn_implementation
        self._manager = model.init_continuous_batching(
            GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
            ContinuousBatchingConfig(**options),
        )
        self._parts: list[PromptPart] = []
        if model.config._attn_implementation.removeprefix("paged|") == "sdpa":
            packed_attention.register()
            model.set_attn_implementation(packed_attention.NAME)

        def deliver(output: Any) -> None:
            if output.is_finished():
                ended(output.request_id, output.error)

        def deliver_all(outputs: Sequence[Any]) -> None:
            for output in outputs:
                deliver(output)

        router = self._manager.output_router
        router.deliver = deliver
        router.deliver_batch = deliver_all
        create = self._manager._create_batch_processor
        self._manager._create_batch_processor = lambda: self._prepared(create())

    def start(self) -> None:
        """Start the thread of the loop."""
        self._manager.start()

    def stop(self, *, finish: bool, timeout: float | None = None) -> None:
        """Take no more requests, and end the loop; those that run are finished first, or end with an error."""
        self._manager.stop(block=True, timeout=timeout, hard_stop=not finish)
        self._model.set_attn_implementation(self._attention)

    @property
    def failure(self) -> str | None:
        """Why the loop is not running; None while it runs."""
        if (error := self._manager.background_thread_status.fatal_error) is not None:
            return f"{type(error).__name__}: {error}"
        return None if self._manager.is_running() else "it was not started, or stopped"

    def add(self, request: str, prompt: Sequence[int], max_new_tokens: int, eos: Sequence[int]) -> bool:
        """Queue a request; False when the loop takes none any more.

        Args:
            request: an id that no other has.
            prompt: at least one token.
            max_new_tokens: at least 1.
            eos: tokens that end it.
        """
        added = self._manager.add_request(
            list(prompt), request_id=request, max_new_tokens=max_new_tokens, eos_token_id=list(eos) or -1
        )
        return added is not None

    def cancel(self, request: str) -> None:
        """End a request, which is not told to ``ended``; nothing happens where it has ended."""
        self._manager.cancel_request(request)

    def _prepared(self, processor: Any) -> Any:
        """A new batch processor, with our functions in it."""
        inputs, runner = processor.inputs_and_outputs, processor.model_runner
        prepare, arguments, step = inputs.prepare_batch_tensors, inputs.get_model_kwargs, processor._generation_step

        @functools.wraps(prepare)
        def noted(requests_in_batch: Sequence[Any], *args: Any, **kwargs: Any) -> None:
            self._parts = [
                PromptPart(one.state.request_id, one.state.position_offset, one.query_length, one.has_new_token)
                for one in requests_in_batch
            ]
            prepare(requests_in_batch, *args, **kwargs)

        @functools.wraps(arguments)
        def with_lengths(*args: Any, **kwargs: Any) -> dict[str, Any]:
            return arguments(*args, **kwargs) | {
                packed_attention.LENGTHS: [(part.before, part.tokens) for part in self._parts]
            }

        def surrounded(model: Any) -> None:
            with self._around(self._parts):
                step(model)

        def sampled(scores: Tensor, output_ids: Tensor) -> None:
            ids = [part.request for part in self._parts if part.samples]
            if ids:  # the rows that follow are of parts that do not sample
                output_ids[0, : len(ids)].copy_(self._sample(ids, scores[0, : len(ids)]))

        inputs.prepare_batch_tensors, inputs.get_model_kwargs = noted, with_lengths
        processor._generation_step, runner._sample = surrounded, sampled
        return processor
