"""What a labelled dataset is to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dpg_fast.data.scripts.segments import SegmentSettings
from dpg_fast.util.errors import DPGError

Label = Literal["segment", "centre"]


@dataclass(frozen=True)
class LabelSettings:
    """How scripts become records.

    Attributes:
        cut: how scenes are cut into segments.
        one_cast: the scripts share their people (episodes of one series).
        min_segments: of a character, below which it is left out.
        test_characters: share of the characters whose every segment is for testing.
        test_scenes: share of the scenes whose segments of the other characters are for testing.
        keep_mixed: train also on segments in which a test character speaks to a training character.
        min_distance: least distance of a test character's centre from the closest training character's; somebody nearer is
            new as a person but not as a personality, and is left out of the test.
        label: a record's personality is its own scores ("segment") or its character's centre.
        integers: round a record's personality to whole levels, as DPG's labels are.
        outliers: "drop" or "keep" segments far from the character's others.
        max_missing: traits without evidence up to which a text is kept; its character's centre stands for them.
        similarity: word-trigram Jaccard similarity from which the later of two texts is dropped.
        generate: further dialogues asked for each training character.
        near: generated ones are kept up to this multiple of the character's own root mean square distance from its centre.
        seed: of the splits, examples and generation.
    """

    cut: SegmentSettings = field(default_factory=SegmentSettings)
    one_cast: bool = False
    min_segments: int = 3
    test_characters: float = 0.1
    test_scenes: float = 0.1
    keep_mixed: bool = False
    min_distance: float = 0.0
    label: Label = "segment"
    integers: bool = False
    outliers: Literal["drop", "keep"] = "drop"
    max_missing: int = 2
    similarity: float = 0.8
    generate: int = 0
    near: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.min_segments < 1 or self.generate < 0:
            raise DPGError("min_segments must be at least 1, generate at least 0")
        if not 0 <= self.max_missing < 5:
            raise DPGError("max_missing must lie from 0 to 4: a text without evidence of any trait has no label")
        if not (0 <= self.test_characters < 1 and 0 <= self.test_scenes < 1):
            raise DPGError("the shares for testing must lie from 0 to below 1")
        if not self.min_distance >= 0:
            raise DPGError("min_distance must be at least 0")
        if not 0 < self.similarity <= 1 or not self.near > 0:
            raise DPGError("similarity must lie above 0 and not above 1, near above 0")
        if self.label not in ("segment", "centre"):
            raise DPGError(f'a label is "segment" or "centre", not {self.label!r}')
        if self.outliers not in ("drop", "keep"):
            raise DPGError(f'outliers are "drop" or "keep", not {self.outliers!r}')
