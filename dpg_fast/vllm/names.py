"""A personality in the model's name, ``base@E+4,N-2`` or ``base@marit_oss``, for proxies that drop fields they do not know."""

from __future__ import annotations

import functools
from typing import Any

from vllm.entrypoints.serve.engine.serving import BaseServing

from dpg_fast.serving.admission import split_name
from dpg_fast.vllm.front import KEY

__all__ = ["patch_model_names"]


def patch_model_names() -> None:
    """Wrap the method by which every OpenAI-compatible route looks the model up, before anything else is read."""
    check = BaseServing._check_model

    @functools.wraps(check)
    async def _check_model(self: Any, request: Any) -> Any:
        admission = getattr(getattr(self.models, "input_processor", None), "dpg_fast", None)
        found = None
        if admission is not None and request.model and not self.models.is_base_model(request.model):
            found = split_name(request.model, admission.abilities.characters)
        if found is None or not self.models.is_base_model(found[0]):
            return await check(self, request)
        if not hasattr(request, "vllm_xargs"):
            return self.create_error_response(
                "this route takes no personality: name the model without @", param="model"
            )
        given = dict(request.vllm_xargs or {})
        if given.get(KEY) is not None:
            message = f"a personality is given twice, in the model's name and as vllm_xargs.{KEY}; leave one out"
            return self.create_error_response(message, param="model")
        request.model, request.vllm_xargs = found[0], {**given, KEY: found[1]}
        return await check(self, request)

    BaseServing._check_model = _check_model
