"""Where a request enters over HTTP: a personality in the model's name, and what is said of it before anything is computed.

``model="base@E+4,N-2"`` and ``model="base@marit_oss"`` are for proxies that drop fields they do not know.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import Any

from vllm.entrypoints.serve.engine.serving import BaseServing
from vllm.exceptions import VLLMValidationError

from dpg_fast.serving.admission import split_name
from dpg_fast.vllm.front import KEY, asked

__all__ = ["APPLIED", "patch_model_names"]

#: where the request at hand notes what is applied to it, for the response's header; None where nobody wants to know
APPLIED: ContextVar[list[Any] | None] = ContextVar("dpg_fast_applied", default=None)


def patch_model_names() -> None:
    """Wrap the method by which every OpenAI-compatible route looks the model up, before anything else is read.

    What cannot be had is refused here, too: the status of a streamed answer is sent before its request reaches the engine.
    """
    check = BaseServing._check_model

    @functools.wraps(check)
    async def _check_model(self: Any, request: Any) -> Any:
        admission = getattr(getattr(self.models, "input_processor", None), "dpg_fast", None)
        found = None
        if admission is not None and request.model and not self.models.is_base_model(request.model):
            found = split_name(request.model, admission.abilities.characters)
        if found is not None and self.models.is_base_model(found[0]):
            if not hasattr(request, "vllm_xargs"):
                message = "this route takes no personality: name the model without @"
                return self.create_error_response(message, param="model")
            given = dict(request.vllm_xargs or {})
            if given.get(KEY) is not None:
                message = f"a personality is given twice, in the model's name and as vllm_xargs.{KEY}; leave one out"
                return self.create_error_response(message, param="model")
            request.model, request.vllm_xargs = found[0], {**given, KEY: found[1]}
        try:
            row = asked(admission, getattr(request, "vllm_xargs", None))
        except VLLMValidationError as error:
            return self.create_error_response(error)
        if row is not None and getattr(request, "use_beam_search", False):
            return self.create_error_response("beam search takes no personality; leave out use_beam_search", param=KEY)
        rows = APPLIED.get()
        if rows is not None:
            rows.append(row)
        return await check(self, request)

    BaseServing._check_model = _check_model
