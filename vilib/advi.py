"""Automatic differentiation variational inference: from a model as it stands on paper to its posterior, in one call.

``Model`` maps the reader's parameters to the real line; a Gaussian q is climbed to there; its draws are mapped back.
What comes out, draws, means, standard deviations and quantiles, is on the reader's own scale, {name: tensor of the
reader's shape}; only ``.q`` and ``.fit`` are on the unconstrained one.  (Kucukelbir, Tran, Ranganath, Gelman & Blei
2017)
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vilib.climb import Climb, climb
from vilib.diagnostics import pareto_k
from vilib.estimators import sticking_the_landing
from vilib.families import Gaussian, MeanFieldGaussian
from vilib.fit import Fit, Schedule, adam
from vilib.models import Model, evaluate
from vilib.noise import normal
from vilib.starts import find_start
from vilib.types import Estimator, MissingPackage, Noise, NotConverged, VilibError, check_generator


def advi(
    model: Model, *, generator: torch.Generator, family: type[Gaussian] = MeanFieldGaussian,
    estimator: Estimator = sticking_the_landing, num_samples: int = 32, noise: Noise = normal, max_steps: int = 10_000,
    optimizer: Callable[..., Any] = adam, step_size: float = 0.05, schedule: Schedule | None = None,
    tempering: Sequence[float] = (), tolerance: float = 0.05, init: Mapping[str, Any] | Gaussian | None = None,
    num_draws: int = 4000, dtype: torch.dtype | None = None, progress: bool = True,
) -> Posterior:
    """Fit a Gaussian q to the posterior of ``model`` on the unconstrained scale, and return draws on the reader's own.

    family: MeanFieldGaussian (no correlations) or FullRankGaussian.  num_samples: draws for each gradient.
    init: where to begin. None or {name: value}: at the mode that Newton's method finds from there (from zero, and
        from two random points beside it; the one with the highest Laplace evidence), as wide as the curvature there
        says.  A Gaussian on the unconstrained scale: there, but for a common factor on its widths, if another width has
        a clearly higher ELBO; from the mode found from its mean, if by the rule below no optimum is within two standard
        deviations.
    step_size: of ``optimizer`` (adam, rmsprop, adagrad or sgd of :mod:`vilib.fit`), in standard deviations of q,
        whatever the reader's units.  schedule: None halves it whenever the ELBO has stopped rising; or a factor by
        step, as ``robbins_monro()``.
    tempering: powers 0 < β < 1, rising, one round of 100 steps each, that climb β E_q[log p(x, z)] + H[q] instead of
        the ELBO: the whole log joint is raised to the power β, so q begins wide and narrows.  After them β = 1, the
        ELBO itself, to the end.
    tolerance: **the stopping rule.**  After each round of steps the two equations of the optimum, E_q[∇ log p] = 0 and
        precision of q = E_q[−∇² log p], are estimated at fresh draws, ten times as many as the round had steps (1,000
        at first) and at least 10 D.  The climb ends when by that estimate one step of Newton's method would move no mean by more than
        ``tolerance`` standard deviations, and the second equation asks for no standard deviation that differs by more
        than that fraction (:class:`vilib.climb.Optimality`).  It is an estimate: the optimum may be further away than
        ``tolerance``, above all where ``tolerance`` is below the estimate's own noise.  λ is the average over the last half of the last round.  The optimum is a local one, and q need not be near the
        posterior: see ``pareto_k``.
    max_steps: when they are used up first, ``converged`` is False, ``why`` says how far it is, and a NotConverged
        warning is given.
    dtype: None for float64, or float32 if only that suits the data.  The device is the generator's.
    progress: show a progress bar (tqdm, where installed) once the fit has taken two seconds.

    Raises what the model raises (NonScalarLogJoint, NotBatchable, NonFiniteLogJoint with the theta), AllFitsFailed,
    MissingGenerator, NotReparameterizable, DependentDraws, and VilibError for what is no Model, no family, or does
    not depend on one of its parameters.

    >>> from torch.distributions import Bernoulli, Beta, constraints
    >>> flips = torch.tensor([1.0] * 6 + [0.0] * 4)
    >>> def log_joint(theta):
    ...     return Beta(10.0, 10.0).log_prob(theta["p"]) + Bernoulli(theta["p"]).log_prob(flips).sum()
    >>> coin = advi(Model(log_joint, {"p": constraints.unit_interval}), generator=torch.Generator().manual_seed(0))
    >>> coin.converged, bool((coin.mean["p"] - 16 / 30).abs() < 0.01), bool((coin.elbo + 7.0695).abs() < 0.01)
    (True, True, True)
    """
    counts = dict(num_samples=num_samples, max_steps=max_steps, num_draws=num_draws)
    model = _checked(model, family, tempering, counts, tolerance)
    check_generator(generator)
    dtype = dtype or _dtype_that_runs(model, generator.device)
    q0 = find_start(model, family, init, generator, dtype, power=tempering[0] if tempering else None)
    bar, counted = _progress(noise, max_steps, progress)
    try:
        end = climb(
            model, q0, estimator=estimator, num_samples=num_samples, max_steps=max_steps, optimizer=optimizer,
            step_size=step_size, schedule=schedule, tempering=tempering, tolerance=tolerance, generator=generator,
            noise=counted)
    finally:
        bar.close()
    why = _words(end, model, tolerance, max_steps)
    if not end.arrived:
        warnings.warn(why, NotConverged, stacklevel=2)
    eps = normal(num_draws, (), q0.dim, generator=generator, dtype=dtype)
    with torch.no_grad():
        z = end.q.transform(eps)
        log_joint, log_q = evaluate(model, z), end.q.log_prob_at(eps)
    return Posterior(model, end.q, model.constrain(z), log_joint, log_joint - log_q, end.fit, end.arrived, why)


@dataclass(frozen=True, eq=False)
class Posterior:
    """What a fit says about the parameters.

    draws: {name: (N, *shape)}, independent draws of q, **on the reader's scale**; mean, sd and quantiles are theirs.
    q: the fitted Gaussian, **on the unconstrained scale**, and fit: the path there (λ and noisy ELBO by step, thinned
        where that would fill the memory; one fit, *R empty).
    log_joint (N,): log p(x, z) of the draws, and log_weights (N,): log p(x, z) − log q(z), both on the unconstrained
        scale, in nats.
    converged: whether the stopping rule was met; why: in words why the fit ended.  Printing a Posterior shows a table.
    """

    model: Model
    q: Gaussian
    draws: dict[str, Tensor]
    log_joint: Tensor
    log_weights: Tensor
    fit: Fit[Gaussian]
    converged: bool
    why: str

    @cached_property
    def mean(self) -> dict[str, Tensor]:
        """Posterior means, {name: shape of one draw}."""
        return {name: value.mean(0) for name, value in self.draws.items()}

    @cached_property
    def sd(self) -> dict[str, Tensor]:
        """Posterior standard deviations, {name: shape of one draw}, in the units of the parameter."""
        return {name: value.std(0) for name, value in self.draws.items()}

    def quantiles(self, *probabilities: float) -> dict[str, Tensor]:
        """{name: (len(probabilities), *shape of one draw)}."""
        at = lambda value: torch.stack([torch.quantile(value, p, 0) for p in probabilities])  # noqa: E731
        return {name: at(value) for name, value in self.draws.items()}

    def sample(self, num_draws: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh draws, {name: (num_draws, *shape)}, on the reader's scale."""
        eps = normal(num_draws, (), self.q.dim, generator=generator, dtype=self.q.mean.dtype)
        return self.model.constrain(self.q.sample(eps))

    @cached_property
    def elbo(self) -> Tensor:
        """The ELBO in nats, a bound below log p(x), estimated from the draws.  (eq:elbo)"""
        return self.log_weights.mean()

    @cached_property
    def elbo_standard_error(self) -> Tensor:
        """The standard error of :attr:`elbo`, in nats."""
        return self.log_weights.std() / len(self.log_weights) ** 0.5

    @cached_property
    def pareto_k(self) -> Tensor:
        """k̂ of the draws' importance weights: above 0.7, q misses too much of the posterior to be relied upon.
        Needs ArviZ.

        It is the shape of the weights' tail, not their size: where all log_weights lie within a fraction of a nat, q
        is good whatever k̂ says.
        """
        return pareto_k(self.log_weights)

    def to_arviz(self) -> Any:
        """An ArviZ ``DataTree``: posterior (one chain of the draws) and sample_stats (lp, log p(x, z) on the
        unconstrained scale).

        Raises MissingPackage without arviz-base.
        """
        try:
            import arviz_base
        except ImportError as error:
            raise MissingPackage("to_arviz needs ArviZ, which is not installed: python -m pip install arviz-base arviz-stats"
                                 ) from error
        chain = lambda value: value.unsqueeze(0).cpu().numpy()  # noqa: E731
        return arviz_base.from_dict(
            {"posterior": {name: chain(value) for name, value in self.draws.items()},
             "sample_stats": {"lp": chain(self.log_joint), "log_weight": chain(self.log_weights)}},
            attrs={"posterior": {"inference_library": "vilib", "family": type(self.q).__name__,
                                 "converged": int(self.converged)}})

    def __str__(self) -> str:
        rows = [f"{'':<16}{'mean':>12}{'sd':>12}{'5 %':>12}{'95 %':>12}"]
        quantiles = self.quantiles(0.05, 0.95)
        for name in self.draws:
            columns = (self.mean[name], self.sd[name], *quantiles[name])
            for index in itertools.product(*map(range, self.mean[name].shape)):
                label = name + (f"[{', '.join(map(str, index))}]" if index else "")
                rows.append(f"{label:<16}" + "".join(f"{column[index].item():>12.4g}" for column in columns))
        rows.append(f"ELBO {self.elbo:.3f} ± {self.elbo_standard_error:.3f} nats. "
                    "Draws are on the scale of the model's own parameters.")
        return "\n".join([*rows, self.why])

    __repr__ = __str__


# ---- what advi checks and says --------------------------------------------------------------------------------------


def _checked(model: Any, family: Any, tempering: Sequence[float], counts: dict[str, int], tolerance: float) -> Model:
    """The Model itself, or the one behind an Example."""
    model = getattr(model, "model", None) or model
    if not isinstance(model, Model):
        raise VilibError(f"model: expected a vilib.Model, got {type(model).__name__}. Wrap your function: "
                         "Model(log_joint, {'sigma': constraints.positive}).")
    if not (isinstance(family, type) and issubclass(family, Gaussian)):
        raise VilibError(f"family: expected MeanFieldGaussian or FullRankGaussian, the class itself, got {family!r}.")
    powers = [*tempering]
    if any(not 0 < power < 1 for power in powers) or powers != sorted(powers):
        raise VilibError(f"tempering: powers between 0 and 1, rising, got {powers}. The last power, 1, comes by itself.")
    for name, count in counts.items():
        if count < 1:
            raise VilibError(f"{name}: at least 1, got {count}.")
    if not tolerance > 0:
        raise VilibError(f"tolerance: a positive number of standard deviations, got {tolerance}.")
    return model


def _dtype_that_runs(model: Model, device: torch.device) -> torch.dtype:
    """float64, unless log_joint multiplies by float32 data, which torch refuses to mix."""
    first: Any = None
    for dtype in (torch.float64, torch.float32):
        try:
            model(torch.zeros(2, model.dim, dtype=dtype, device=device))
        except RuntimeError as error:
            first = first or error
        except VilibError:
            return dtype                                             # find_start meets it again, where it can be explained
        else:
            return dtype
    raise first


def _words(end: Climb, model: Model, tolerance: float, max_steps: int) -> str:
    steps = int(end.fit.steps[-1])
    shift = end.at.shift.abs()
    if end.arrived:
        return (f"Converged after {steps} steps: estimated from {end.num_looked:,} draws, the optimum of the ELBO is "
                f"{shift.max():.2g} standard deviations away in the worst mean, and {100 * end.at.widen.abs().max():.2g} "
                f"% in the worst standard deviation (tolerance {tolerance:g}).")
    if not end.at.concave:
        far = ("the log joint is not concave around q, so that q is still on a slope or a saddle, or the posterior is not "
               "proper")
    else:
        worst = model.coordinate_names()[int(shift.argmax())]
        far = (f"by an estimate from {end.num_looked:,} draws the optimum of the ELBO is still {shift.max():.2g} standard "
               f"deviations away in {worst}, and {100 * end.at.widen.abs().max():.2g} % in a standard deviation "
               f"(tolerance {tolerance:g})")
    falls = f" On the way {len(end.falls)} rounds fell and were begun again. {end.falls[-1]}" if end.falls else ""
    return (f"Not converged: all {max_steps} steps are used up, and {far}. Do not use these numbers as they are: allow "
            "more steps (max_steps), more draws a step (num_samples), or begin elsewhere (init); or write the model so "
            f"that its parameters depend less on each other.{falls}")


def _progress(noise: Noise, max_steps: int, wanted: bool) -> tuple[Any, Noise]:
    """A progress bar that shows after two seconds, and the noise that moves it: each step asks for noise once."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        wanted = False
    if not wanted:
        return _NoBar(), noise
    bar = tqdm(total=max_steps, delay=2.0, leave=False, unit="step", desc="advi")

    @functools.wraps(noise)
    def counted(*args: Any, **options: Any) -> Tensor:
        bar.update()
        return noise(*args, **options)

    return bar, counted


class _NoBar:
    def close(self) -> None: ...
