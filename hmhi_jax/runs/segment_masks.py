"""What a command is to do with masks after the network."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hmhi_jax.inference.postprocessing import Postprocessing


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """Options of `hmhi segment`: those of `inference.clean_up.CleanUp` by the same names, and

    objects  number at most so many objects
    nothing  empty the masks of frames in which nothing moves by itself, where the weights have a calibration for that
    """

    min_area: int = 0
    fill_holes: int = 0
    grow: float = 0.0
    feather: float = 0.0
    steady: float = 0.0
    objects: int | None = None
    nothing: bool = True

    def postprocessing(self, weights: Path, *, learned_flow: bool) -> "Postprocessing":
        """For masks by these weights. Their calibration was measured with the flow they were trained with, and does not
        hold for a flow network's."""
        from hmhi_jax.inference.clean_up import CleanUp
        from hmhi_jax.inference.confidence import read_calibration
        from hmhi_jax.inference.postprocessing import Postprocessing

        clean_up = CleanUp(**{field.name: getattr(self, field.name) for field in dataclasses.fields(CleanUp)})
        calibration = read_calibration(weights) if self.nothing and not learned_flow else None
        return Postprocessing(clean_up, self.objects, calibration)
