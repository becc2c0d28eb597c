"""The entry point `vllm.general_plugins`, which every process of vLLM calls, perhaps several times."""

from __future__ import annotations

from vllm.model_executor.model_loader import register_model_loader

from dpg_fast.vllm.options import LOAD_FORMAT

_done = False


def register() -> None:
    """Make ``--load-format dpg_fast`` known, and requests with a personality understood or refused."""
    global _done
    if _done:
        return
    from dpg_fast.vllm.front import patch_input_processor
    from dpg_fast.vllm.loader import PersonalityLoader
    from dpg_fast.vllm.names import patch_model_names
    from dpg_fast.vllm.resolver import register_resolver
    from dpg_fast.vllm.runner import patch_runner

    register_model_loader(LOAD_FORMAT)(PersonalityLoader)
    patch_input_processor()
    patch_model_names()
    patch_runner()
    register_resolver()
    _done = True
