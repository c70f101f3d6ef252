"""What is asked to be done with masks after the network."""

import dataclasses
from typing import Any

from hmhi_jax.inference.clean_up import CleanUp
from hmhi_jax.inference.confidence import Calibration


@dataclasses.dataclass(frozen=True)
class Postprocessing:
    """What to do with masks.

    clean_up     how they are tidied
    objects      number at most so many objects; None numbers none
    calibration  empty the masks of frames in which nothing moves by itself, by these constants; None leaves them
    """

    clean_up: CleanUp = dataclasses.field(default_factory=CleanUp)
    objects: int | None = None
    calibration: Calibration | None = None

    def settings(self) -> dict[str, Any]:
        """All of it as JSON, for what results are made with."""
        return dataclasses.asdict(self)
