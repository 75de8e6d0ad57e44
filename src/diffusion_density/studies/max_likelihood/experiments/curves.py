"""Bits per dimension along training: the bound of every network of a run at every snapshot.

All networks are measured on the same test images, those of a seed also with the same throws, so that they can be
compared in pairs. Another seed has other throws: the spread over seeds holds their error too.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from diffusion_density.density.images.bound import bound_terms
from diffusion_density.machine import artifacts
from diffusion_density.studies.max_likelihood.models import columns, load
from diffusion_density.studies.max_likelihood.runs import CurvesJob
from diffusion_density.studies.shared.inputs import ImageInputs
from diffusion_density.studies.shared.seeds import seeded

_SEED = 20230505  # of the throws; plus that of the networks


def run(sizes: CurvesJob, inputs: ImageInputs, outputs: Mapping[str, Path]) -> None:
    """Measure the networks of runs on the first test images, and write one row a network and snapshot.

    Raises:
        InputError: if a file is of another run.
    """
    images, curve, device = inputs.images, sizes.curve, inputs.device
    chosen = images.test[: curve.images].to(device)
    rows = []
    with tqdm(total=sum(len(of.seeds) * len(of.snapshots) for of in sizes.runs.values()), unit="network") as bar:
        for name, of in sizes.runs.items():
            bar.set_description(name)
            for (seed, step), model in load(inputs.files[name], of, images, device).items():
                generator = seeded(_SEED, seed, device=device)
                terms = bound_terms(model, chosen, levels=images.levels, throws=curve.throws, generator=generator)
                total = terms.total
                stderr = total.std() / math.sqrt(len(total))
                rows.append(
                    {"dataset": images.name, **columns(name, of, seed, step)}
                    | {"training_images": step * of.optimiser.batch_size}
                    | {"images": len(chosen), "throws": curve.throws}
                    | {"bits_per_dim": total.mean().item(), "stderr_bits_per_dim": stderr.item()}
                )
                bar.update()
    artifacts.write_csv(outputs["table"], pd.DataFrame(rows))
