"""What an experiment on images gets as its inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from diffusion_density.data.images import ImageSet
from diffusion_density.machine.devices import Devices, OneDevice


@dataclass(frozen=True)
class ImageInputs:
    """Images, files by name, and where to compute.

    Attributes:
        images: the image set of the job.
        files: the input files by name.
        devices: the devices of the job.
        work: the folder where long jobs keep what they continue from after an interruption.
    """

    images: ImageSet
    files: Mapping[str, Path] = field(default_factory=dict)
    devices: Devices = field(default_factory=OneDevice)
    work: Path = Path("work")

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.devices.device
