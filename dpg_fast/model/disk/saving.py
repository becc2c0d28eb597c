"""Adapters on disk and on the Hub: how a :class:`PersonalityModel` is loaded, saved and written for PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from dpg_fast.compat.transformers_models import model_name
from dpg_fast.model.disk import artifact
from dpg_fast.model.disk.fingerprint import fingerprint
from dpg_fast.model.wrapped import Wrapped
from dpg_fast.personality.scores import Character, Personality
from dpg_fast.util.errors import DPGError

__all__ = ["Saving"]


class Saving(Wrapped):
    """The part of :class:`PersonalityModel` that reads and writes adapters."""

    _about_base: dict[str, Any] | None
    _notes: str

    @classmethod
    @torch.inference_mode(False)
    def from_pretrained(
        cls, base: str | Path, adapter: str | Path | None = None, *, allow_mismatch: bool = False, **kwargs: Any
    ) -> Self:
        """Load a base model by ``AutoModelForCausalLM.from_pretrained`` and put an adapter on it.

        Args:
            base: Hub id or directory of the base model.
            adapter: directory or Hub id of what :meth:`save_pretrained` wrote; None gives the base model alone, to which
                no personality can be given yet.
            allow_mismatch: accept a base whose weights are not those that the adapter was made for.
            **kwargs: passed on (``dtype=``, ``device_map=``, ``revision=`` ...); the model may lie on several devices, or be
                offloaded: inputs go to :attr:`device`.

        Raises:
            ValueError: the adapter was made for another base.
        """
        from transformers import AutoModelForCausalLM

        directory = None if adapter is None else artifact.locate(adapter)  # before the base, which takes long to load
        model = AutoModelForCausalLM.from_pretrained(str(base), **kwargs)
        if directory is None:
            return cls(model)
        return cls.load(model, directory, allow_mismatch=allow_mismatch)

    @classmethod
    @torch.inference_mode(False)
    def load(
        cls, model: nn.Module, adapter: str | Path, *, allow_mismatch: bool = False, tokenizer: Any = None
    ) -> Self:
        """Put a saved adapter on a loaded model; arguments and errors as in :meth:`from_pretrained` and :meth:`from_model`."""
        parts = artifact.load(artifact.locate(adapter), model, allow_mismatch=allow_mismatch)
        return cls.of_parts(model, parts, tokenizer)

    @classmethod
    def of_parts(cls, model: nn.Module, parts: artifact.AdapterParts, tokenizer: Any = None) -> Self:
        """Put what was read of an adapter on a loaded model."""
        made = cls(model, parts.hypernet, parts.steering, parts.calibration, tokenizer=tokenizer)
        made._notes = parts.notes
        return made

    def save_pretrained(
        self,
        directory: str | Path,
        *,
        notes: str = "",
        bank_dtype: torch.dtype | None = None,
        state_dict: Mapping[str, Tensor] | None = None,
        is_main_process: bool = True,
        safe_serialization: bool = True,
    ) -> None:
        """Write the adapter (not the base): configuration, hypernetwork, neurons, calibration and a model card.

        Args:
            directory: made if needed. An adapter that is there stays whole until the new one is.
            notes: Markdown put into the card, for example measured traits; those of the adapter that was loaded by default.
            bank_dtype: of the bank in the file, for example bfloat16 for half the size; float32 by default.
            state_dict: of this whole model, where several processes hold parts of it; the hypernetwork's weights are taken
                from it.
            is_main_process: False writes nothing.
            safe_serialization: True; nothing else is written.

        Raises:
            ValueError: ``safe_serialization=False``, or a ``state_dict`` without the hypernetwork's weights.
        """
        self._require_loaded()
        if not safe_serialization:
            raise DPGError("adapters are written as safetensors alone; leave safe_serialization out")
        gathered = None
        if state_dict is not None and self.hypernet is not None:
            gathered = {n.removeprefix("hypernet."): t for n, t in state_dict.items() if n.startswith("hypernet.")}
            missing = sorted(set(self.hypernet.state_dict()) - set(gathered))
            if missing:
                raise DPGError(
                    f"state_dict= lacks weights of the hypernetwork: hypernet.{', hypernet.'.join(missing[:3])}"
                )
        if is_main_process:
            about = artifact.describe_base(self.base) if gathered is None else self._about_base
            parts = (self.hypernet, self.steering, self.calibration)
            artifact.write(
                Path(directory),
                about or artifact.describe_base(self.base),
                *parts,
                notes or self._notes,
                bank_dtype,
                gathered,
            )

    def load_weights(self, directory: str | Path) -> None:
        """Put the hypernetwork's weights of a saved adapter into this model, as when training is resumed.

        Raises:
            ValueError: this model has no hypernetwork, there are none in ``directory``, or they are of another hypernetwork.
        """
        self._require_loaded()
        if self.hypernet is None:
            raise DPGError("this model has no hypernetwork to load weights into")
        artifact.load_hypernet(Path(directory), self.hypernet)

    def push_to_hub(self, repo_id: str, *, notes: str = "", **kwargs: Any) -> str:
        """Upload the adapter to the Hugging Face Hub and return its address; ``kwargs`` go to ``HfApi.create_repo``."""
        self._require_loaded()
        return artifact.push(repo_id, lambda directory: self.save_pretrained(directory, notes=notes), **kwargs)

    def to_peft(
        self,
        personality: Personality | Character,
        directory: str | Path,
        *,
        tokenizer: Any = None,
        dtype: torch.dtype = torch.float32,
        overwrite: bool = False,
    ) -> Path:
        """Write what the hypernetwork and the characters make of a personality as a PEFT LoRA directory.

        A single character keeps its stages: trained token rows, `character.json` and, with the base model's ``tokenizer``, the
        tokenizer with the stage tokens. A blend of several has none. Neuron steering is not in it.

        Raises:
            FileExistsError: the directory exists and ``overwrite`` is false.
            ValueError: no hypernetwork or characters, or none that could give the personality.
        """
        self._require_loaded()
        if self.hypernet is None:
            raise DPGError("this model has neither a hypernetwork nor characters, so there are no weights to write")
        return self.hypernet.to_peft(
            personality,
            directory,
            base_model=model_name(self.base),
            dtype=dtype,
            overwrite=overwrite,
            fingerprint=fingerprint(self.base),
            tokenizer=tokenizer,
            **self._runtime.export_options(),
        )
