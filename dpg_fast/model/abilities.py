"""What a model can be asked for: rows that nothing in it could serve are refused before any work."""

from __future__ import annotations

from collections.abc import Sequence

from dpg_fast.architecture.layers import Architecture, UnsupportedArchitectureError
from dpg_fast.hypernet import AdapterNetwork, CombinedNetwork, HyperNetwork
from dpg_fast.hypernet.stage_rows import no_stage
from dpg_fast.model.stage_embedding import StageEmbedding
from dpg_fast.neurons import SteeringTable
from dpg_fast.personality.row import Row
from dpg_fast.personality.scores import POLES
from dpg_fast.util.errors import DPGError

__all__ = ["check_parts", "check_rows", "networks_of"]


def networks_of(network: AdapterNetwork | None) -> list[HyperNetwork]:
    """The hypernetworks in a network: itself, one of its parts, or none."""
    return [part for part in network.modules() if isinstance(part, HyperNetwork)] if network is not None else []


def check_parts(architecture: Architecture, network: AdapterNetwork | None, steering: SteeringTable | None) -> None:
    """Refuse parts that were made for another model. (Stored adapters name the layers that they change.)

    Raises:
        UnsupportedArchitectureError: a mixture of experts, and a part that does not accept one.
        ValueError: a steering table of another size.
    """
    accepts = all(n.config.dense_only for n in networks_of(network)) and (steering is None or steering.dense_only)
    if architecture.experts and not accepts:
        raise UnsupportedArchitectureError(architecture.mixture())
    if steering is None:
        return
    found = (architecture.num_layers, architecture.intermediate)
    if (steering.num_layers, steering.intermediate) != found:
        raise DPGError(
            f"the steering table is for {steering.num_layers} layers of {steering.intermediate} neurons, the model "
            f"has {found[0]} of {found[1]}"
        )


def check_rows(
    rows: Sequence[Row],
    network: AdapterNetwork | None,
    steering: SteeringTable | None,
    stages: StageEmbedding | None,
) -> None:
    """Raises ValueError when a model of these parts has nothing that could give one of the rows what it asks for."""
    if network is None and steering is None:
        raise DPGError(
            "this model has neither a hypernetwork nor personality neurons, so a personality would have no effect; "
            "load an adapter, or give from_model() a hypernet= or steering="
        )
    generator = network.profile if isinstance(network, CombinedNetwork) else network
    for row in rows:
        if row.blend is not None and not (network is not None and network.stores):
            raise DPGError(f"{row.blend} names a stored adapter, and this model has none")
        if row.stage is not None:
            if stages is None:
                raise DPGError(no_stage(*row.stage, []))
            stages.token_id(*row.stage)  # refuses a stage that is not there
        if not row.generated:
            continue
        if isinstance(generator, HyperNetwork):
            if (refusal := generator.refusal(row)) is not None:
                raise DPGError(refusal)
        elif steering is None:
            raise DPGError(
                "this model holds stored adapters only, which know no scores: give Character(name) or "
                "Personality(character=name), not a Personality with scores"
            )
        else:
            _check_steered(row, steering)


def _check_steered(row: Row, steering: SteeringTable) -> None:
    if row.scores is None:
        raise DPGError(
            f"this model has no hypernetwork that reads text, and {row} has no scores to steer by; give it a personality="
        )
    wanted = [pole for pole, level in zip(POLES, row.scores.pole_scores, strict=True) if level]
    absent = [str(pole) for pole in wanted if pole not in steering.poles]
    if absent:
        raise DPGError(f"the steering table has no neurons for {', '.join(absent)} of {row}")
