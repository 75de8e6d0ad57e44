r"""Generators regularised by the density formula, against the optimum in closed form (Li and Yan 2024).

The game is min_G max_D E log D(x) + E log(1 − D(G(z))) + λ E[loss of the noise prediction at G(z)]. By the formula the
last term is −λ E log p(G(z)) up to a constant, p the density of the data. In the paper's clock t = 1/(1 + SNR) it is

.. math:: -\log p(x) = \text{const} + \int_0^1 \frac{E\|\epsilon - \hat\epsilon(x_t)\|^2}{2\,t (1 - t)}\, dt ,

and t uniform is near the best proposal for its gradient, which stays bounded at both ends if the noise comes in pairs
±ε. (The control variate of `density.formula` does not depend on x, and drops out of the gradient.) The noise prediction
is the exact one of a mixture, so that what remains is the error of the adversarial training alone.

What matters to the optimum: the generator minimises log(1 − D), the *saturating* loss, since −log D has the same
optimum without a regulariser and another one with it. There is no gradient penalty and no noise on the inputs, which
would move the optimum. The discriminator is linear in its features and climbs by its natural gradient, so that it keeps
up with the generator. The regulariser is ramped up, since a mode that a generator gave up early, while the others were
not yet full, is seldom found again. The generator takes a few numbers more than the data have: a map of the line to
itself that folds has cusps in its density. Its step sizes fall to zero and its weights are averaged.

All members, every λ with every seed, are trained as one stack. Members of one seed start from the same weights and see
the same data and z.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus
from tqdm import tqdm

from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import NumericalError
from diffusion_density.networks.embeddings import FourierFeatures
from diffusion_density.networks.mlp import MLP
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.model import Model
from diffusion_density.process.schedules import LogLinear
from diffusion_density.process.times import low_discrepancy
from diffusion_density.studies.density_formula import optimum as closed
from diffusion_density.studies.density_formula.optimum import Grid
from diffusion_density.studies.density_formula.sizes import Gan, GanRun
from diffusion_density.studies.shared.seeds import seeded
from diffusion_density.studies.shared.targets import normal, one_dimensional_mixture
from diffusion_density.training.averaged_adamw import AveragedAdamW
from diffusion_density.training.randomness import seed_of

SCHEDULE = LogLinear(-9.0, 9.0)
LATENT = 3  # numbers that a generator takes beyond the dimension of the data
RAMP = 0.2  # share of the steps over which λ grows to its value
FREQUENCIES = 32  # waves among the features of a discriminator: with 16 some seeds drift away in the plane
FREQUENCY_SCALE = 0.7  # their standard deviation times √D, in cycles per unit
SOFTENING = 0.01  # of the norm among the features, at the origin
NATURAL_RATE = 0.3  # first step of the natural gradient: 1 would be Newton's
CURVATURE_RATE = 0.1  # of the running mean of its metric
DAMPING = 1e-3
RADIAL_BINS = 32  # up to four times √d
CORE_BINS = 2  # of these: the core about the mode, of radius √d/4
ROWS = 16_384


@dataclass(frozen=True)
class Target:
    """Data whose density is known, with the bins of its histogram and the weights λ of its generators."""

    name: str
    mixture: GaussianMixture
    grid: Grid
    weights: tuple[float, ...]
    radial: bool = False

    @cached_property
    def log_prob(self) -> Float[np.ndarray, " n"]:
        """(N,) log p in nats at the nodes of the grid."""
        points = self.grid.coordinates
        if self.radial:
            points = np.pad(points, ((0, 0), (0, self.mixture.dimension - 1)))
        return self.mixture.log_prob(torch.from_numpy(points)).numpy()

    @property
    def peak(self) -> float:
        """sup log p in nats; where it is not at the origin, its largest value at the nodes."""
        if not self.radial:
            return float(self.log_prob.max())
        return self.mixture.log_prob(torch.zeros(1, self.mixture.dimension, dtype=torch.float64)).item()

    def coordinates(self, points: Float[Tensor, "r d"]) -> Float[np.ndarray, "r c"]:
        """What the grid's axes measure: the points, or their radii."""
        return (points.norm(dim=1, keepdim=True) if self.radial else points).double().numpy()


def targets(sizes: Gan) -> list[Target]:
    """Mixtures in one dimension and in the plane (three components), and N(0, I_d), whose generators collapse."""
    means = torch.tensor([[-0.9, -0.5], [1.0, -0.3], [0.0, 1.0]], dtype=torch.float64)
    scales = torch.tensor([0.6, 0.5, 0.45], dtype=torch.float64)
    identity = torch.eye(2, dtype=torch.float64)
    plane = GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), means, scales.square()[:, None, None] * identity)
    d = sizes.collapse_dimension
    return [
        Target("mixture_1d", one_dimensional_mixture(), Grid.box(-4.0, 3.0, 56, 1), sizes.weights),
        Target("mixture_2d", plane, Grid.box(-3.6, 3.6, 20, 2), sizes.weights),
        Target(f"normal_{d}d", normal(d), Grid.radial(4 * d**0.5, RADIAL_BINS, d), sizes.collapse_weights, radial=True),
    ]


def run(sizes: GanRun, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Train all generators, compare them with the closed form, and write both tables.

    The first table has one row per generator: the total variation to the data and to the optimum, that of as many exact
    draws of the optimum, all on the bins of the target, E log p(G(z)) in nats, and for the normal distribution the mass
    within √d/4 of the mode. The second has the histograms in one dimension, of the radius for the normal distribution,
    as densities; an atom of the optimum is in the first bin.

    Raises:
        NumericalError: if a training diverges.
    """
    rows: list[dict[str, object]] = []
    histograms: list[pd.DataFrame] = []
    seeds = sizes.seeds
    for target in targets(sizes):
        generators = train(target.mixture, target.weights, seeds, sizes, target.name)
        for index, points in enumerate(samples(generators, sizes.samples, seeds)):
            weight, seed = target.weights[index // len(seeds)], seeds[index % len(seeds)]
            place: dict[str, str | float] = {"target": target.name, "weight": weight, "seed": seed}
            row, bins = compare(target, weight, points)
            rows.append({**place, **row})
            if bins is not None:
                histograms.append(bins.assign(**place)[[*place, *bins.columns]])
    artifacts.write_csv(outputs["gan"], pd.DataFrame(rows))
    artifacts.write_csv(outputs["gan_histogram"], pd.concat(histograms))


def diffusion_loss(
    model: Model, x: Float[Tensor, "b d"], u: Float[Tensor, " b"], generator: torch.Generator
) -> Float[Tensor, " b"]:
    """An estimate of −log p(x) in nats up to a constant, differentiable in x: the weighted loss of a noise prediction.

    Args:
        model: with the noise prediction, on a variance-preserving path.
        x: (B, D) clean points, each with two antithetic throws at one time.
        u: (B,) numbers in [0, 1), one in each stratum for the least variance, that place the times.
        generator: draws the noise.
    """
    ends = model.schedule.log_snr(torch.tensor([model.schedule.s_start, model.schedule.s_max], dtype=torch.float64))
    first, last = (-ends).sigmoid().tolist()
    t = first + (last - first) * u
    s = model.schedule.inverse(-t.logit()).to(x.dtype).repeat(2)
    alpha, sigma = (f(s)[:, None] for f in (model.schedule.alpha, model.schedule.sigma))
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    pairs = torch.cat([noise, -noise])
    errors = (pairs - model.noise(alpha * x.repeat(2, 1) + sigma * pairs, s)).square().sum(1)
    return (last - first) / (2 * t * (1 - t)) * errors.unflatten(0, (2, -1)).mean(0)


def train(
    mixture: GaussianMixture, weights: Sequence[float], seeds: Sequence[int], sizes: Gan, label: str = "gan"
) -> MLP:
    """Play the game with every weight and seed at once.

    Returns:
        A stack of the averaged generators, weight by weight and in each seed by seed. They are called with z ~ N(0, I)
        of ``LATENT`` numbers more than the data have.

    Raises:
        NumericalError: if a gradient is not finite, naming the step.
    """
    model, d, count = mixture.diffused(SCHEDULE), mixture.dimension, len(weights)
    streams = [seeded(seed_of(seed, d)) for seed in seeds]
    widths = (sizes.width, sizes.width)
    single = [MLP(d, widths, 0, 0, 0.0, skip=True, context=LATENT, generator=stream) for stream in streams]
    generators = MLP.stack(single * count)
    player = AveragedAdamW(generators, 0.0, sizes.ema)
    discriminators = Discriminators(d, streams, count)
    strength = torch.tensor(weights, dtype=torch.float64).repeat_interleave(len(seeds))
    noise = seeded(seed_of(*seeds, d))
    for step in tqdm(range(sizes.steps), desc=label, unit="step", mininterval=1):
        rest = 1 - step / sizes.steps
        real = torch.stack([mixture.sample(sizes.batch_size, generator=g, dtype=torch.float32) for g in streams])
        z = torch.stack([torch.randn(sizes.batch_size, d + LATENT, generator=g) for g in streams]).repeat(count, 1, 1)
        fake = generate(generators, z)
        features = discriminators.features(fake)
        discriminators.ascend(discriminators.features(real.repeat(count, 1, 1)), features.detach(), NATURAL_RATE * rest)
        u = low_discrepancy(sizes.batch_size, noise).repeat(len(z))
        unlikely = diffusion_loss(model, fake.flatten(0, 1), u, noise).unflatten(0, fake.shape[:2]).mean(1)
        ramp = min(1.0, step / (RAMP * sizes.steps))
        loss = ramp * strength @ unlikely - softplus(discriminators.logit(features)).mean(1).sum()
        loss.backward()
        if not math.isfinite(player.step(sizes.learning_rate * rest, None)):
            raise NumericalError(f"{label}: a gradient is not finite at step {step}")
    return player.averaged(generators)


def generate(generators: MLP, z: Float[Tensor, "*m n latent"]) -> Float[Tensor, "*m n d"]:
    """(M, n, D) points that a stack of generators makes of its latent numbers, or (n, D) of one."""
    d = generators.dimension
    return generators(z[..., :d], z.new_zeros(*z.shape[:-2], 1), z[..., d:])


class Discriminators:
    r"""A stack of discriminators log(D/(1 − D)) = w·φ(x) on fixed features, that climb by their natural gradient.

    .. math:: w \leftarrow w + \eta\, (H + \rho I)^{-1} \nabla_w V, \qquad H = E[D (1 - D)\, \varphi \varphi^T],

    with V = E log D(x) + E log(1 − D(G(z))) concave in w: η = 1 is Newton's method, and a smaller step averages over
    minibatches. The damping ρ shortens steps and does not move the optimum.

    Args:
        dimension: D.
        streams: one a seed, drawing its features.
        copies: members of each seed.
    """

    def __init__(self, dimension: int, streams: Sequence[torch.Generator], copies: int) -> None:
        scale = FREQUENCY_SCALE / dimension**0.5
        embeddings = [FourierFeatures(dimension, FREQUENCIES, scale, stream) for stream in streams]
        self.embed = embeddings[0]
        self.embed.frequencies = torch.stack([embedding.frequencies for embedding in embeddings] * copies)
        width = self.embed.width + dimension + 2
        self.weight = torch.zeros(len(streams) * copies, width, 1)
        self.metric = 0.25 * torch.eye(width).repeat(len(self.weight), 1, 1)

    def features(self, x: Float[Tensor, "m r d"]) -> Float[Tensor, "m r f"]:
        """φ(x): a constant, the norm, squares of the coordinates, the coordinates, and waves."""
        squares = x.square()
        norm = (squares.sum(-1, keepdim=True) + SOFTENING).sqrt()
        return torch.cat([torch.ones_like(norm), norm, squares, self.embed(x)], -1)

    def logit(self, features: Float[Tensor, "m r f"]) -> Float[Tensor, "m r"]:
        """log(D/(1 − D)), the estimate of log p(x)/q(x) with q the distribution of the generator."""
        return (features @ self.weight)[..., 0]

    def ascend(self, real: Float[Tensor, "m r f"], fake: Float[Tensor, "m r f"], rate: float) -> None:
        """One step of size ``rate`` on the features of a minibatch of data and of one of generated points."""
        both, rows = torch.cat([real, fake], 1), real.shape[1]
        probability = (both @ self.weight).sigmoid()
        labels = torch.arange(both.shape[1]).lt(rows).to(both)[:, None]
        gradient = both.mT @ (labels - probability) / rows
        self.metric.lerp_((both * probability * (1 - probability)).mT @ both / rows, CURVATURE_RATE)
        self.weight += rate * torch.linalg.solve(self.metric + DAMPING * torch.eye(both.shape[2]), gradient)


def samples(generators: MLP, count: int, seeds: Sequence[int]) -> Iterator[Float[Tensor, "r d"]]:
    """``count`` points of one member of a stack after the other, those of one seed from the same z."""
    for index, member in enumerate(generators.members()):
        stream = seeded(seed_of(seeds[index % len(seeds)], member.dimension, 1))
        z = torch.randn(count, member.dimension + LATENT, generator=stream)
        with torch.inference_mode():
            points = torch.cat([generate(member, part) for part in z.split(ROWS)])
        yield points


def compare(
    target: Target, weight: float, points: Float[Tensor, "r d"]
) -> tuple[dict[str, float], pd.DataFrame | None]:
    """The columns of a generator with weight λ from its points, and its histogram if the target has one axis."""
    grid, log_prob = target.grid, target.log_prob
    best = closed.optimum(log_prob, grid.volumes, weight, target.peak)
    coordinates = target.coordinates(points)
    data, masses = grid.masses(np.exp(log_prob)), grid.masses(best.density)
    masses[0] += best.atom  # only a radial grid has an atom, at radius 0
    generated = grid.frequencies(coordinates)
    likelihood = target.mixture.log_prob(points.double())
    row = {
        "distance_data": closed.distance(generated, data),
        "distance_optimum": closed.distance(generated, masses),
        "distance_floor": closed.sampling_distance(masses, len(points)),
        "mean_log_prob_nats": likelihood.mean().item(),
        "mean_log_prob_stderr_nats": likelihood.std().item() / len(points) ** 0.5,
        "optimum_mean_log_prob_nats": float(best.density * log_prob @ grid.volumes) + best.atom * target.peak,
        "optimum_atom": best.atom,
    }
    if target.radial:
        row["mass_core"] = generated[:CORE_BINS].sum()
        row["optimum_mass_core"] = masses[:CORE_BINS].sum()
    if len(grid.edges) != grid.count + 1:
        return row, None
    left, right = grid.edges[:-1], grid.edges[1:]
    densities = {
        name: values / (right - left)
        for name, values in (("generated", generated), ("data", data), ("optimum", masses))
    }
    return row, pd.DataFrame({"bin_left": left, "bin_right": right, **densities})
