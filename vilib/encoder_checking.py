"""Is my encoder right, and is the gap that I measure the gap?  Markers for both; for ELBOs see :mod:`vilib.elbo_checking`.

Nothing is random here.  :func:`check_encoder` compares an encoder with the exact posterior of three linear-Gaussian models,
:func:`check_gap` two gaps with those of a linear model and of the sensor.  What is off is compared with what known slips lead to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from vilib.amortization_gap import AmortizationGap
from vilib.amortized import VAE, kl_to_standard_normal
from vilib.checks import Report, described, explanation, failed, raised
from vilib.families import MeanFieldGaussian
from vilib.linear_vae import LinearVAE
from vilib.sensor import sensor_encoder, sensor_gap

# ---- an encoder -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearCase:
    """x | z ~ N(W z + b, s² I), W's columns orthogonal, and some x (N, P)."""

    x: Tensor
    weights: Tensor
    bias: Tensor
    noise_sd: Tensor

    @property
    def where(self) -> str:
        return f"P = {self.weights.shape[0]}, D = {self.weights.shape[1]}, s = {self.noise_sd.item():g}"

    def along(self) -> Tensor:
        """Wᵀ(x − b), (N, D)."""
        return (self.x - self.bias) @ self.weights

    def m(self, noise: float | Tensor | None = None) -> Tensor:
        """WᵀW + s² I, its diagonal (D); or with ``noise`` in the place of s²."""
        return self.weights.square().sum(0) + (self.noise_sd.square() if noise is None else noise)

    def omega(self) -> Tensor:
        """log s − ½ log M, (D)."""
        return self.noise_sd.log() - 0.5 * self.m().log()


def linear_cases() -> tuple[LinearCase, ...]:
    """The three on which encoders are marked, float64.

    >>> [case.where for case in linear_cases()]
    ['P = 1, D = 1, s = 0.5', 'P = 3, D = 1, s = 0.7', 'P = 4, D = 2, s = 1.3']
    """
    t = lambda *v: torch.tensor(v, dtype=torch.float64)  # noqa: E731
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (LinearCase(2 * x[:, :1], t([2.0]), t(0.0), t(0.5).squeeze()),
            LinearCase(x[:, :3], t([1.0], [-0.5], [2.0]), t(0.3, -1.0, 0.6), t(0.7).squeeze()),
            LinearCase(x, t([1.0, 0.5], [1.0, -0.5], [0.5, 1.0], [-0.5, 1.0]), t(0.2, 0.4, -0.3, 1.0), t(1.3).squeeze()))


#: name -> (the mean that the slip leads to, (N, D), what to say about it)
MEAN_SLIPS: dict[str, tuple[Callable[[LinearCase], Tensor], str]] = {
    "sign": (lambda c: -c.along() / c.m(), "The mean has the wrong sign: it is W transposed times x − b, not b − x."),
    "no M": (lambda c: c.along(), "The mean is Wᵀ(x − b): multiply it by M⁻¹, the posterior's covariance over s² (eq:amortization-linear)."),
    "no bias": (lambda c: c.x @ c.weights / c.m(), "The mean is M⁻¹Wᵀx: subtract b from x first."),
    "no prior": (lambda c: c.along() / c.m(0.0), "The mean is (WᵀW)⁻¹Wᵀ(x − b), least squares: the prior is missing, M = WᵀW + s²I."),
    "noise not squared": (lambda c: c.along() / c.m(c.noise_sd), "M holds s where s² belongs: M = WᵀW + s²I."),
    "noise of one": (lambda c: c.along() / c.m(1.0), "M holds 1 where s² belongs: M = WᵀW + s²I."),
    "prior mean": (lambda c: torch.zeros_like(c.along()), "The mean is 0 for every x: that is the prior's, and x has not been used."),
}
#: name -> (the omega that the slip leads to, (D), what to say about it)
OMEGA_SLIPS: dict[str, tuple[Callable[[LinearCase], Tensor], str]] = {
    "no log": (lambda c: c.omega().exp(), "omega is σ itself. It is log σ, so your q is exp(σ) wide: take the log."),
    "log of the variance": (lambda c: 2 * c.omega(), "omega is log σ², twice what it should be: halve it."),
    "variance without a log": (lambda c: (2 * c.omega()).exp(), "omega is the variance σ². It should be log σ = ½ log σ²."),
    "log of the precision": (lambda c: -2 * c.omega(), "omega is the log precision. It should be minus half of it."),
    "sign of omega": (lambda c: -c.omega(), "omega has the wrong sign: σ came out as 1/σ."),
    "no prior in omega": (lambda c: c.noise_sd.log() - 0.5 * c.m(0.0).log(), "σ² is s²(WᵀW)⁻¹: the prior is missing, M = WᵀW + s²I."),
    "no noise in omega": (lambda c: -0.5 * c.m().log(), "σ² is M⁻¹: it lacks the factor s², the covariance is s²M⁻¹."),
    "noise alone": (lambda c: c.noise_sd.log().expand(c.weights.shape[1]), "σ is s, the noise of x; the posterior's covariance is s²M⁻¹."),
    "prior width": (lambda c: torch.zeros(c.weights.shape[1], dtype=torch.float64), "σ is 1 for every model: that is the prior's."),
}


def check_encoder(encoder: Callable[..., Any]) -> Report:
    """Compare ``encoder(x, weights, bias, noise_sd)`` with p(z | x) of x | z ~ N(W z + b, s² I), and say in words what is wrong.

    encoder: x (N, P), weights W (P, D) with orthogonal columns, bias b (P), noise_sd s () -> a MeanFieldGaussian with R = N.
    An encoder that raises is reported, not raised.

    >>> def forgets_the_log(x, weights, bias, noise_sd):
    ...     m = weights.square().sum(0) + noise_sd**2
    ...     mu = (x - bias) @ weights / m
    ...     return MeanFieldGaussian(mu, (noise_sd / m.sqrt()).expand_as(mu))
    >>> check_encoder(forgets_the_log).slip
    'no log'
    """
    cases, answers = linear_cases(), []
    for case in cases:
        answer = _encoded(encoder, case)
        if isinstance(answer, Report):
            return answer
        answers.append(answer)
    mean = _named(cases, [q.mu for q in answers], lambda c: c.along() / c.m(), MEAN_SLIPS, "mu")
    width = _named(cases, [q.omega for q in answers], lambda c: c.omega(), OMEGA_SLIPS, "omega")
    if mean is None and width is None:
        return Report(True, (f"mu and omega are those of the posterior, for {len(cases[0].x)} data in each of {len(cases)} models.",))
    slips, findings = zip(*(found for found in (mean, width) if found is not None))
    right = ("mu is right.",) if mean is None else ("omega is right.",) if width is None else ()
    return failed(slips[0], *findings, *right)


def _encoded(encoder: Callable[..., Any], case: LinearCase) -> MeanFieldGaussian | Report:
    rest = (case.weights, case.bias, case.noise_sd)
    try:
        q, alone = encoder(case.x, *rest), encoder(case.x[:2], *rest)
    except Exception as error:
        return raised(error, f"for {case.where}, x of shape {tuple(case.x.shape)}")
    if not isinstance(q, MeanFieldGaussian):
        return failed("family", f"It returned {described(q)}. An encoder returns a member of the family, MeanFieldGaussian(mu, omega), omega = log σ.")
    expected = (len(case.x), case.weights.shape[1])
    if q.mu.shape != expected:
        return failed("shape", f"For {case.where} mu and omega are {tuple(q.mu.shape)}, expected (N, D) = {expected}: one q for each datum. "
                      "An omega that is the same for all is expanded, omega.expand_as(mu).")
    vector = q.vector()
    if not bool(vector.isfinite().all()):
        return failed("not finite", f"For {case.where} mu or omega is nan or infinite: the log of a number that is not positive? σ > 0 for every x.")
    if not _close(alone.vector(), vector[:2]):
        return failed("leak", "The q of data 0 and 1 changes with the other data of the batch: each q may depend on its own x alone. "
                      "Look for a mean or a sum over the first axis.")
    exact = case.along() / case.m()
    if not _close(q.mu, exact) and _close(q.mu[q.mu[:, 0].argsort()], exact[exact[:, 0].argsort()]):
        return failed("order", "The means are right, but in another order: the q of one datum went to another.")
    return q


def _named(
    cases: Sequence[Any], ours: list[Tensor], exact: Callable[..., Any], slips: Mapping[str, tuple[Callable[..., Any], str]], name: str) -> tuple[str | None, str] | None:
    """None if right, else (slip, words)."""
    if all(_close(one, exact(case)) for case, one in zip(cases, ours)):
        return None
    found = explanation(slips, lambda predict: all(_close(one, predict(case)) for case, one in zip(cases, ours)))
    if found is not None:
        return found
    case, one = next((case, one) for case, one in zip(cases, ours) if not _close(one, exact(case)))
    wanted = exact(case).expand_as(one)[0]
    return None, (f"For {case.where} {name} of datum 0 is {_numbers(one[0])}, the posterior's is {_numbers(wanted)}. "
                  "No single slip that we know explains it on all three models.")


def _close(ours: Tensor, exact: Tensor) -> bool:
    return ours.shape[-1:] == exact.shape[-1:] and torch.allclose(ours.double(), exact.expand_as(ours), rtol=1e-5, atol=1e-6)


def _numbers(values: Tensor) -> str:
    return ", ".join(f"{v:.4f}" for v in values.tolist())


# ---- a gap ----------------------------------------------------------------------------------------------------------


def check_gap(gap: Callable[..., Any], *, tolerance: float = 0.01) -> Report:
    """Compare ``gap(vae, x)`` with the approximation gap and the amortisation gap of two models, and say in words what is wrong.

    gap: a VAE with D = 1 and x (N, 1) -> (approximation (N), amortisation (N)), in nats (eq:amortization-gaps).
    tolerance: in nats, and as a share of each gap.
    A gap that raises is reported, not raised.

    >>> from vilib.sensor import sensor_gap
    >>> check_gap(lambda vae, x: (sensor_gap(vae, x).amortization, sensor_gap(vae, x).approximation)).slip
    'swapped'
    """
    runs = []
    for name, vae, x, exact in _gap_cases():
        try:
            ours, alone = gap(vae, x), gap(vae, x[:2])
        except Exception as error:
            return raised(error, f"on {name}, x of shape {tuple(x.shape)}")
        if not isinstance(ours, tuple | list) or len(ours) != 2 or not all(isinstance(part, Tensor) for part in ours):
            return failed("shape", f"It returned {described(ours)}, expected two tensors, (approximation, amortisation).")
        shapes = [tuple(part.shape) for part in ours]
        if shapes != [(len(x),)] * 2:
            advice = "It averaged over the data. " if () in shapes else ""
            return failed("shape", f"It returned shapes {shapes[0]} and {shapes[1]} for {len(x)} data. {advice}"
                          f"Expected one number for each, ({len(x)},).")
        ours, alone = (torch.stack([part.detach().double() for part in pair]) for pair in (ours, alone))
        if not bool(ours.isfinite().all()):
            return failed("not finite", f"Some gaps are not finite on {name}.")
        if not bool(((alone - ours[:, :2]).abs() <= tolerance * (1 + ours[:, :2].abs())).all()):
            return failed("leak", "The gaps of data 0 and 1 change with the other data of the batch. Look for a sum over the data: "
                          "log p(x) and the ELBO are one number a datum.")
        runs.append((name, ours, exact))
    fits = lambda predict: all(_near(ours, predict(exact), tolerance) for _, ours, exact in runs)  # noqa: E731
    if fits(_parts):
        worst = max((ours - _parts(exact)).abs().max().item() for _, ours, exact in runs)
        return Report(True, (f"Both gaps are right for {len(runs[0][1][0])} data on each of {len(runs)} models, to {worst:.1g} nats.",))
    name, ours, exact = next(run for run in runs if not _near(run[1], _parts(run[2]), tolerance))
    n = int((ours - _parts(exact)).abs().amax(0).argmax())
    facts = (f"On {name}, datum {n}: approximation {ours[0, n]:.3f}, amortisation {ours[1, n]:.3f}; they are "
             f"{exact.approximation[n]:.3f} and {exact.amortization[n]:.3f}.")
    found = explanation(GAP_SLIPS, fits)
    return failed(*(_split(runs, tolerance) if found is None else found), facts)


def _gap_cases() -> list[tuple[str, VAE, Tensor, AmortizationGap]]:
    """A linear-Gaussian model with an encoder that is off, and the sensor with two hidden units."""
    line, sensor = LinearVAE(1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64), sensor_encoder(2)
    line.requires_grad_(False)
    vector_to_parameters(torch.tensor([-0.4, 0.3, 0.2, -0.5, 1.2, 0.1], dtype=torch.float64), line.parameters())
    x = torch.tensor([[-1.2], [0.4], [1.15], [1.9], [2.6], [3.3]], dtype=torch.float64)
    evidence, posterior = line.exact_log_evidence(x), line.exact_posterior(x)
    best = MeanFieldGaussian(posterior.mu, posterior.stddev.log())                           # D = 1: the posterior itself
    exact = AmortizationGap(evidence, evidence, line.exact_elbo(x), line.encode(x), best, exact=True)
    return [("a linear model", line, x, exact), ("the sensor", sensor, x, sensor_gap(sensor, x))]


def _parts(exact: AmortizationGap) -> Tensor:
    return torch.stack([exact.approximation, exact.amortization])


def _without_cost(exact: AmortizationGap) -> Tensor:
    """Both gaps if the ELBO were E_q[log p(x | z)]."""
    elbo, best = exact.elbo + kl_to_standard_normal(exact.q), exact.best_elbo + kl_to_standard_normal(exact.best)
    return torch.stack([exact.log_evidence - best, best - elbo])


#: name -> (both gaps (2, N) that the slip leads to, nan where it does not matter, what to say about it)
GAP_SLIPS: dict[str, tuple[Callable[[AmortizationGap], Tensor], str]] = {
    "sign": (lambda g: -_parts(g), "Both have the wrong sign: log p(x) ≥ L(q*) ≥ L(q), and a gap is the higher minus the lower."),
    "swapped": (lambda g: _parts(g).flip(0), "The two are swapped: the approximation gap, log p(x) − L(q*), comes first."),
    "whole for amortisation": (lambda g: torch.stack([torch.full_like(g.inference, torch.nan), g.inference]),
        "The second is log p(x) − L(q), the whole. The encoder's part is L(q*) − L(q) (eq:amortization-gaps)."),
    "whole for approximation": (lambda g: torch.stack([g.inference, torch.full_like(g.inference, torch.nan)]),
        "The first is log p(x) − L(q), the whole. The family's part is log p(x) − L(q*) (eq:amortization-gaps)."),
    "no cost": (_without_cost, "Your ELBO is E_q[log p(x | z)] alone: subtract KL(q ‖ p(z)), or average log p(x, z) − log q(z)."),
    "bits": (lambda g: _parts(g) / torch.tensor(2.0, dtype=torch.float64).log(), "They are in bits. The book counts in nats: do not divide by log 2."),
}


def _near(ours: Tensor, exact: Tensor, tolerance: float) -> bool:
    return bool((((ours - exact).abs() <= tolerance * (1 + exact.abs())) | exact.isnan()).all())


def _split(runs: Sequence[tuple[Any, Tensor, AmortizationGap]], tolerance: float) -> tuple[str | None, str]:
    """A slip that has no prediction of its own, and what to say about it."""
    if not all(_near(ours.sum(0), exact.inference, tolerance) for _, ours, exact in runs):
        return None, "No single slip that we know explains the numbers."
    (_, line, exact), *_ = runs
    if _near(line, _parts(exact), tolerance):
        return "split", ("The sum is right, the split is not, and only on the sensor: your q* stands on a lower hill. Climb from several starts, one at "
                "each mode of the posterior, and keep the best.")
    return "split", "The sum is right, the split is not: your q* is not the best of the family. Climb longer, or check its gradient."
