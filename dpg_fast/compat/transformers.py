"""Names of transformers: how a model is handed its prompt and its cache, and how it gives the cache back.

Importing this module does not import transformers.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

CACHE_NAMES = ("cache", "past_key_values", "cache_params")
"""Keywords of the cache, newest first: 5.24 renamed ``past_key_values`` to ``cache``."""

INPUT_NAMES = ("input_ids", "inputs", "inputs_embeds")
"""Keywords of the prompt, tokens first."""

MASK_NAME = "attention_mask"

KEPT_NAME = "logits_to_keep"
"""Keyword of the positions whose logits are wanted: a number of last ones (0: all), or a tensor of positions.

Models with shared keys and values (Gemma 4 since 5.24) give their last layers only these."""


CHECKPOINTING_NAMES = ("activation_checkpointing", "gradient_checkpointing")
"""Stems of what has to do with recomputing layers in the backward pass, newest first: 5.24 renamed ``gradient_checkpointing``."""


def is_cache(value: Any) -> bool:
    """Whether a value is a cache of keys and values (or states) that can say how many tokens it holds."""
    return callable(getattr(value, "get_seq_length", None))


def cache_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a model's forward, found by name and else by type; None without one.

    Raises:
        RuntimeError: an argument has the name of a cache, and is none that can say how many tokens it holds.
    """
    for name in CACHE_NAMES:
        if (value := kwargs.get(name)) is not None:
            if not is_cache(value):
                raise RuntimeError(
                    f"{name}= is a {type(value).__name__}, which cannot say how many tokens it holds; give a "
                    "transformers Cache, for example DynamicCache()"
                )
            return value
    return next((value for value in (*args, *kwargs.values()) if is_cache(value)), None)


def cached_tokens(cache: Any) -> int | Tensor:
    """Tokens that a cache holds; a device tensor for static caches (no host sync). None holds none."""
    if cache is None:
        return 0
    length = cache.get_seq_length()
    return length if isinstance(length, Tensor) else int(length)


def tokens_before(args: Sequence[Any], kwargs: Mapping[str, Any], length: int) -> int | Tensor | None:
    """Tokens that come before the ``length`` ones of this forward: what the cache holds, or else what the attention mask
    [rows, tokens so far] covers beyond them. None where neither was given, which is a forward over whole texts, or one that
    keeps its context in a way unknown here.
    """
    cache = cache_of(args, kwargs)
    if cache is not None:
        return cached_tokens(cache)
    mask = kwargs.get(MASK_NAME)
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] >= length:
        return int(mask.shape[1]) - length
    return None


def forward_shape(
    args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[int, int, int | Tensor | None, int | Tensor | None]:
    """Rows and tokens of a forward, tokens before them (see `tokens_before`), positions whose logits are wanted (None: all).

    It runs before every forward with a personality, so the usual cases are found here, without another call.

    Raises:
        ValueError: neither ids nor embeddings.
        RuntimeError: as `cache_of`.
    """
    first = args[0] if args and isinstance(args[0], Tensor) else None
    for name in INPUT_NAMES:
        if (value := kwargs.get(name)) is not None:
            first = value
            break
    if first is None:
        raise ValueError("the model was called without input_ids and inputs_embeds")
    rows, length = first.shape[:2]
    before: int | Tensor | None = None
    for name in CACHE_NAMES:
        if callable(held := getattr(kwargs.get(name), "get_seq_length", None)):
            before = held()
            break
    else:
        before = tokens_before(args, kwargs, length)
    kept = kwargs.get(KEPT_NAME)
    if before is not None and not isinstance(before, Tensor):
        before = int(before)
    return rows, length, before, kept if isinstance(kept, Tensor) else int(kept) if kept else None


def packed_shape(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, int, int | Tensor | None]:
    """Rows and tokens of a forward, and positions whose logits are wanted, as `forward_shape`; whatever the cache is.

    Raises:
        ValueError: neither ids nor embeddings.
    """
    first = prompt_of(args, kwargs)
    if first is None:
        raise ValueError("the model was called without input_ids and inputs_embeds")
    kept = kwargs.get(KEPT_NAME)
    return first.shape[0], first.shape[1], kept if isinstance(kept, Tensor) else int(kept) if kept else None


def prompt_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Ids [rows, length] or embeddings [rows, length, hidden] that a forward or ``generate`` is given; None without any."""
    for name in INPUT_NAMES:
        if kwargs.get(name) is not None:
            value: Tensor = kwargs[name]
            return value
    return args[0] if args and isinstance(args[0], Tensor) else None


def new_tokens(output: Any, kwargs: Mapping[str, Any]) -> int:
    """Tokens that ``generate(**kwargs)`` added, of the longest row; its output repeats a prompt of ids, not one of embeddings."""
    sequences = output if isinstance(output, Tensor) else output.sequences
    ids = prompt_of((), kwargs)
    if ids is None:
        return int(sequences.shape[1]) - 1  # it began with a beginning-of-sequence token
    return int(sequences.shape[1]) - (0 if ids.is_floating_point() else int(ids.shape[1]))


@functools.cache
def beams_need_configured_vocabulary() -> bool:
    """Whether beam search takes the number of logits from the configuration (5.17), not from the logits."""
    from transformers.generation.utils import GenerationMixin

    step = getattr(GenerationMixin, "_get_top_k_continuations", None)
    return step is not None and "vocab_size" in inspect.signature(step).parameters


def beams(model: Any, kwargs: Mapping[str, Any]) -> int:
    """The number of beams of ``model.generate(**kwargs)``."""
    settings = (kwargs.get("generation_config"), model.generation_config)
    given = [kwargs.get("num_beams"), *(getattr(found, "num_beams", None) for found in settings)]
    return next((int(count) for count in given if count is not None), 1)


def last_logits(model: Any, count: int = 1) -> dict[str, int]:
    """The keyword argument by which a model's forward gives the logits of its last ``count`` positions alone; empty for one
    that always gives all."""
    forward = getattr(model, "base", model).forward
    return {KEPT_NAME: count} if KEPT_NAME in inspect.signature(forward).parameters else {}


def cache_name(model: Any) -> str:
    """The keyword under which this model's forward takes a cache (see `CACHE_NAMES`)."""
    for candidate in (getattr(model, "base", None), model):
        forward = getattr(type(candidate), "forward", None)
        if forward is not None and (name := _cache_parameter(forward)) is not None:
            return name
    return _library_cache_name()


def cache_argument(model: Any, cache: Any) -> dict[str, Any]:
    """The keyword argument that hands ``cache`` to this model's forward."""
    return {cache_name(model): cache}


def output_cache(output: Any) -> Any:
    """The cache that a model's output holds.

    Raises:
        RuntimeError: it holds none under a known name.
    """
    keys = output.keys() if hasattr(output, "keys") else ()
    for name in CACHE_NAMES:
        if name in keys:
            return output[name]
    raise RuntimeError(f"the model's output has no cache; its entries are {', '.join(map(str, keys)) or 'unknown'}")


def enable_checkpointing(model: Any, options: Mapping[str, Any], **more: Any) -> None:
    """Have a model's layers recomputed in the backward pass; ``options`` go to ``torch.utils.checkpoint.checkpoint``.

    Raises:
        RuntimeError: the model has no method for it under a known name.
    """
    for name in CHECKPOINTING_NAMES:
        enable = getattr(model, f"{name}_enable", None)
        if enable is not None:
            enable(**{f"{name}_kwargs": dict(options)}, **more)
            return
    raise RuntimeError(f"{type(model).__name__} cannot checkpoint its layers: it has none of {CHECKPOINTING_NAMES}")


def checkpoints(model: Any) -> bool:
    """Whether layers of a model are recomputed in the backward pass."""
    return any(getattr(module, name, False) for module in model.modules() for name in CHECKPOINTING_NAMES)


def with_checkpointing_names(kind: type, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Fields chosen for training arguments ``kind``, those of checkpointing under the names that ``kind`` has.

    Raises:
        ValueError: one field is chosen under two names.
    """
    fields = getattr(kind, "__dataclass_fields__", {})
    own = next((name for name in CHECKPOINTING_NAMES if name in fields), CHECKPOINTING_NAMES[-1])
    result: dict[str, Any] = {}
    for field, value in chosen.items():
        stem = next((name for name in CHECKPOINTING_NAMES if field in (name, f"{name}_kwargs")), None)
        name = field if stem is None else own + field[len(stem) :]
        if name in result:
            raise ValueError(f"{field} and {name} are one field: give one of them")
        result[name] = value
    return result


@functools.cache
def _cache_parameter(forward: Callable[..., Any]) -> str | None:
    parameters = inspect.signature(forward).parameters
    return next((name for name in CACHE_NAMES if name in parameters), None)


@functools.cache
def _library_cache_name() -> str:
    from transformers import GenerationMixin

    parameters = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    for name in CACHE_NAMES:
        if name in parameters:
            return name
    raise RuntimeError(
        "this version of transformers hands caches to models under a name that is unknown here; known: "
        + ", ".join(CACHE_NAMES)
    )
