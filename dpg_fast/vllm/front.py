"""Where a request enters vLLM: its personality is read, refused or written in one form, and the prefix cache is salted."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.input_processor import InputProcessor

from dpg_fast.model.loading import locate
from dpg_fast.personality.row import Row
from dpg_fast.serving.admission import Abilities, canonical, read_request, salt
from dpg_fast.util.errors import DPGError
from dpg_fast.vllm.options import LOAD_FORMAT, PluginOptions, active, check_engine

__all__ = ["KEY", "Admission", "asked", "patch_input_processor"]

KEY = "personality"  # of `vllm_xargs` and `SamplingParams.extra_args`


class Admission:
    """The front end's part of one engine.

    Raises:
        ValueError: the engine or the adapter cannot serve personalities.
    """

    def __init__(self, vllm_config: Any) -> None:
        check_engine(vllm_config)
        self.options = PluginOptions.of(vllm_config)
        self.abilities = Abilities(locate(self.options.adapter))

    def read(self, value: object) -> Row | None:
        """Raises ValueError for what cannot be read, or what the adapter cannot give."""
        row = read_request(value)
        if row is not None:
            self.abilities.require(row)
        return row

    def salt(self, row: Row, request: Any) -> str:
        """Steered tokens of an answer are not those of a prompt, so answers share blocks after equal prompts alone."""
        apart = self.abilities.steering is not None and self.options.steer_tokens == "decode"
        prompt = len(request.prompt_token_ids or ()) if apart and row.scores is not None else None
        return salt(row, self.abilities.fingerprint, prompt=prompt, user=request.cache_salt)


def patch_input_processor() -> None:
    """Wrap the one method through which every request of every entrance comes."""
    init, process = InputProcessor.__init__, InputProcessor.process_inputs

    @functools.wraps(init)
    def __init__(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        self.dpg_fast = Admission(vllm_config) if active(vllm_config) else None
        init(self, vllm_config, *args, **kwargs)

    @functools.wraps(process)
    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        row = asked(self.dpg_fast, params.extra_args if isinstance(params, SamplingParams) else None)
        request = process(self, request_id, prompt, params, *args, **kwargs)
        if row is not None:
            sampling = request.sampling_params  # a copy made for this request
            sampling.extra_args = {**sampling.extra_args, KEY: canonical(row)}
            request.cache_salt = self.dpg_fast.salt(row, request)
        return request

    InputProcessor.__init__ = __init__
    InputProcessor.process_inputs = process_inputs


def asked(admission: Admission | None, extra: Mapping[str, Any] | None) -> Row | None:
    """The personality among a request's extra arguments.

    Raises:
        VLLMValidationError: it cannot be had, or is misspelt.
    """
    if not extra:
        return None
    if KEY not in extra:
        near = difflib.get_close_matches(KEY, map(str, extra), 1, 0.8)
        if near:
            raise VLLMValidationError(f"{near[0]!r} is not known; write {KEY!r}", parameter=near[0])
        return None
    if extra[KEY] is None:
        return None
    if admission is None:
        message = f"this engine serves no personalities; start it with --load-format {LOAD_FORMAT}"
        raise VLLMValidationError(message, parameter=KEY)
    try:
        return admission.read(extra[KEY])
    except DPGError as error:
        raise VLLMValidationError(str(error), parameter=KEY) from error
