"""Every size of the study `density_formula`, as a scale file holds them: one class a job."""

from typing import Annotated

from pydantic import Field

from diffusion_density.networks.sizes import MLPSize
from diffusion_density.studies.fields import Count, Counts, Decay, Levels, Positive, Seeds, Several, Strict, Tolerance


class Exactness(Strict):
    """Points and throws at which the formula meets known densities, and the draws of the variance comparison."""

    dimensions: Counts
    points: Several
    nodes: Several
    throws: Several
    draws: Several
    repeats: Several


class Discretisation(Strict):
    """Numbers T of steps at which the rules are compared with the integral."""

    steps: Annotated[tuple[Several, ...], Field(min_length=1)]


class ScoreErrors(Strict):
    """Sizes of the perturbation of an exact score, and the grid on which the density of its SDE is solved for."""

    sizes: Levels
    cells: Count
    steps: Count


class Classifier(Strict):
    """Points of two classes with a known posterior, steps T, and the throws a time and repeats of the noise sweep."""

    points: Several
    steps: Several
    throws: Annotated[tuple[Several, ...], Field(min_length=1)]
    repeats: Several


class Toy(Strict):
    """The values of the parameter at which the objectives are computed."""

    places: Annotated[int, Field(ge=5)]


class Gan(Strict):
    """Generators trained with the formula as a regulariser, all at once.

    ``weights`` are the λ in one and two dimensions; ``collapse_dimension`` and ``collapse_weights`` concern N(0, I).
    """

    weights: Levels
    collapse_dimension: Count
    collapse_weights: Levels
    width: Count
    steps: Count
    batch_size: Several
    learning_rate: Positive
    ema: Decay
    samples: Several


class GanRun(Gan):
    """The job, with its seeds."""

    seeds: Seeds


class Training(Strict):
    """Adam with a constant learning rate, as in `training.stack`."""

    network: MLPSize
    steps: Count
    batch_size: Count
    throws: Count
    learning_rate: Positive
    ema: Decay


class Run(Strict):
    """A training job, fully resolved: the first ``samples`` training points, and one network a seed and arm."""

    samples: Count
    training: Training
    seeds: Seeds


class Evaluation(Strict):
    """Test points, the nodes and throws of the formula and the flow's tolerance."""

    points: Several
    nodes: Several
    throws: Several
    tolerance: Tolerance


class Weightings(Strict):
    """Points in two dimensions: training under each weighting, and its evaluation."""

    samples: Count
    training: Training
    evaluation: Evaluation


class DigitsEvaluation(Evaluation):
    """``points`` counts test images, ``steps`` is T of the DDPM sum and of the chain with ``paths`` paths.

    ``classified`` test images are classified, with ``class_throws`` draws of the noise a node.
    """

    steps: Several
    paths: Several
    classified: Several
    class_throws: Several


class Digits(Strict):
    """Digits: networks of whole images under each weighting, of images given their class, and of rows given rows."""

    samples: Count
    training: Training
    evaluation: DigitsEvaluation


class MeasuringJob(Strict):
    """The training job whose networks are measured, and how."""

    run: Run
    evaluation: Evaluation

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of the networks."""
        return self.run.seeds


class DigitsJob(MeasuringJob):
    """The same for networks of digits."""

    evaluation: DigitsEvaluation


class DensityFormulaSizes(Strict):
    """The section `density_formula` of a scale file."""

    exactness: Exactness
    discretisation: Discretisation
    score_error: ScoreErrors
    toy: Toy
    classifier: Classifier
    gan: Gan
    weightings: Weightings
    digits: Digits

    def runs(self, seeds: tuple[int, ...]) -> dict[str, Run]:
        """The training jobs by name."""
        trained: dict[str, Weightings | Digits] = {"planar": self.weightings, "digits": self.digits}
        return {name: Run(samples=t.samples, training=t.training, seeds=seeds) for name, t in trained.items()}

    def jobs(self, seeds: tuple[int, ...]) -> dict[str, Strict]:
        """The sizes of every experiment by name."""
        runs = self.runs(seeds)
        digits = DigitsJob(run=runs["digits"], evaluation=self.digits.evaluation)
        return {
            "exactness": self.exactness,
            "discretisation": self.discretisation,
            "score_error": self.score_error,
            "toy": self.toy,
            "classifier": self.classifier,
            "gan": GanRun(**dict(self.gan), seeds=seeds),
            **{f"train_{name}": run for name, run in runs.items()},
            "weightings": MeasuringJob(run=runs["planar"], evaluation=self.weightings.evaluation),
            "digit_estimates": digits,
            "digit_classes": digits,
        }
