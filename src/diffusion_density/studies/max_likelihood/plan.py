"""Which jobs a configuration implies, for the rules of this study and of those that use its networks; without torch."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from diffusion_density.data import catalogue
from diffusion_density.studies.max_likelihood.runs import (
    DIGITS,
    CurvesJob,
    Evaluation,
    Kind,
    OfRuns,
    Run,
    TraceJob,
    TrainingJob,
    VarianceJob,
)
from diffusion_density.studies.max_likelihood.sizes import MaxLikelihoodSizes


@dataclass(frozen=True)
class Plan:
    """The runs of a configuration, and what is known of them before they start.

    Attributes:
        sizes: the study's section of the scale file.
        seeds: of the configuration.
        datasets: names of the image sets of the configuration.
        data_dir: where archives of images are.
        devices: processes of one training job of large networks.
    """

    sizes: MaxLikelihoodSizes
    seeds: tuple[int, ...]
    datasets: tuple[str, ...]
    data_dir: Path
    devices: int = 1

    @cached_property
    def absent(self) -> dict[str, str]:
        """How to get the image sets that are not there, by slug."""
        ways = {catalogue.slug(name): catalogue.how_to_get(name, self.data_dir) for name in self.datasets}
        return {slug: way for slug, way in ways.items() if way}

    @cached_property
    def present(self) -> dict[str, str]:
        """The names of the image sets that are there, by slug."""
        names = {catalogue.slug(name): name for name in self.datasets}
        return {slug: name for slug, name in names.items() if slug not in self.absent}

    @cached_property
    def runs(self) -> dict[str, Run]:
        """All training runs by name."""
        return self.sizes.runs(self.seeds, self.present)

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """The sizes of the evaluations of those runs that are evaluated, by name."""
        return self.sizes.evaluations(self.runs)

    @cached_property
    def sampled(self) -> list[str]:
        """The runs whose networks draw samples."""
        return [name for name in self.evaluations if self.runs[name].kind != "finetuning"]

    @cached_property
    def sets(self) -> dict[str, str]:
        """The names of all image sets in use, by slug."""
        return {catalogue.slug(run.dataset): run.dataset for run in self.runs.values()} | self.present

    @property
    def parts(self) -> dict[str, list[str]]:
        """Tables that are made of parts, with what each part is of: a kind of runs, a run, or an image set."""
        return {
            "curves": ["ablation", "predictions"],
            "likelihood": list(self.evaluations),
            "samples": self.sampled,
            "coders": list(self.sets),
        }

    def of_kind(self, *kinds: Kind) -> list[str]:
        """The names of the runs of some kinds."""
        return [name for name, run in self.runs.items() if run.kind in kinds]

    def several(self, experiment: str, kind: Kind) -> OfRuns:
        """The sizes of an experiment on several runs: the variances on both paths, the traces after fine-tuning.

        Args:
            experiment: ``curves``, ``variance`` or ``trace``.
            kind: of the runs whose curves are measured.
        """
        if experiment == "curves":
            return CurvesJob(runs=self._named(self.of_kind(kind)), curve=self.sizes.curve)
        if experiment == "variance":
            paths = (f"ablation-velocity-{path}-importance" for path in ("vp", "straight"))
            return VarianceJob(runs=self._named(paths), variance=self.sizes.variance)
        names = [self.sizes.reference, *self.of_kind("finetuning")]
        return TraceJob(runs=self._named(names), trace=self.sizes.trace)

    def training(self, name: str, precision: str, checkpoint_every: int) -> TrainingJob:
        """The sizes of a training job."""
        run = self.runs[name]
        origin = self.runs[run.origin] if run.origin else None
        return TrainingJob.model_validate(
            {"name": name, "run": run, "origin": origin, "precision": precision, "checkpoint_every": checkpoint_every}
        )

    def description(self, name: str) -> str:
        """The file, below the study's results, that describes the image set of a run."""
        return f"data/{catalogue.slug(self.runs[name].dataset)}.json"

    def priority(self, name: str) -> int:
        """Long runs start first: 32×32 images before digits, and what others go on from before the rest."""
        return 100 + (self.runs[name].dataset != DIGITS) * 100 + (name == self.sizes.reference) * 50

    def is_large(self, name: str) -> bool:
        """Whether a run is of the large networks, which may use several devices and threads."""
        return self.runs[name].kind in ("main", "tuned")

    def processes(self, name: str) -> int:
        """Processes of a training job: of the large networks as many as the configuration says."""
        return self.devices if self.is_large(name) else 1

    def gpu_hours(self, name: str) -> float:
        """Hours of one GPU that a training job will take at paper scale, by its counted operations."""
        from diffusion_density.studies.max_likelihood.costs import cost

        return cost(self.runs[name], self.data_dir).gpu_hours

    def minutes(self, name: str) -> int:
        """The time limit of a training job at paper scale, twice what is expected.

        It does not grow at a retry, which goes on from a checkpoint.
        """
        return math.ceil(60 + 2 * 60 * self.gpu_hours(name) / self.processes(name))

    def _named(self, names: Iterable[str]) -> dict[str, Run]:
        return {name: self.runs[name] for name in names}
