"""Is my VAE loss right?  A marker for functions that compute −ELBO of a minibatch, see (eq:vae-loss).

:func:`check_vae_loss` runs the loss on small problems whose N, P, D and S all differ, and compares its mean over many
draws of the noise with −ELBO, then its gradient.  If they differ it looks for the slip that explains the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from vilib.checks import Report, alarm, described, failed, raised, z_scores
from vilib.families import LOG_2PI
from vilib.noise import normal

#: (N, P, D, S) of the problems: no two alike, so that a mean over the wrong axis shows.
SIZES = ((5, 7, 2, 1), (3, 4, 6, 2))
#: A gradient of the mean is compared on fewer draws than the mean: most slips show in the mean.
GRADIENT_REPLICATES = 100


@dataclass(frozen=True)
class VAEProblem:
    """x (N, P) of 0 and 1, mu and omega = log σ (N, D), a decoder z (S, N, D) -> logits (S, N, P), weights (D, P)."""

    x: Tensor
    mu: Tensor
    omega: Tensor
    weights: Tensor
    num_samples: int

    def decode(self, z: Tensor) -> Tensor:
        """The logit of each pixel."""
        return torch.tanh(z) @ self.weights + 0.3

    @property
    def where(self) -> str:
        """N, P, D and S in words."""
        (n, p), d = self.x.shape, self.mu.shape[-1]
        return f"N = {n} pictures of P = {p} pixels with D = {d} and S = {self.num_samples}"


def _log_likelihood(p: VAEProblem, z: Tensor) -> Tensor:
    """log p(x_ik | z), pixel by pixel, (S, N, P)."""
    logits = p.decode(z)
    return p.x * logsigmoid(logits) + (1 - p.x) * logsigmoid(-logits)


def _path(p: VAEProblem, eps: Tensor) -> Tensor:
    return p.mu + p.omega.exp() * eps


def _fit(p: VAEProblem, eps: Tensor) -> Tensor:
    """E_q[log p(x | z)] of each picture, (N)."""
    return _log_likelihood(p, _path(p, eps)).sum(-1).mean(0)


def _kl(p: VAEProblem) -> Tensor:
    return 0.5 * ((2 * p.omega).exp() + p.mu.square() - 1).sum(-1) - p.omega.sum(-1)


def _loss(p: VAEProblem, eps: Tensor) -> Tensor:
    return (_kl(p) - _fit(p, eps)).mean()


def _with_draws(z_of: Callable[[VAEProblem, Tensor], Tensor]) -> Callable[[VAEProblem, Tensor], Tensor]:
    return lambda p, eps: (_kl(p) - _log_likelihood(p, z_of(p, eps)).sum(-1).mean(0)).mean()


def _with_likelihood(pixels: Callable[[VAEProblem, Tensor], Tensor]) -> Callable[[VAEProblem, Tensor], Tensor]:
    return lambda p, eps: (_kl(p) - pixels(p, p.decode(_path(p, eps))).sum(-1).mean(0)).mean()


#: name -> (the loss that the slip leads to, what to say about it)
VAE_SLIPS: dict[str, tuple[Callable[[VAEProblem, Tensor], Tensor], str]] = {
    "wrong sign": (lambda p, e: -_loss(p, e),
        "It is the ELBO itself: an optimiser that descends would make the model worse. Return −ELBO."),
    "no KL": (lambda p, e: -_fit(p, e).mean(),
        "The KL is missing: it is the reconstruction alone, an auto-encoder whose codes owe nothing to the prior."),
    "KL with the wrong sign": (lambda p, e: -(_fit(p, e) + _kl(p)).mean(),
        "The KL has the wrong sign. It is a cost: −ELBO = −E_q[log p(x | z)] + KL, so the loss goes up with it."),
    "mean over pixels": (lambda p, e: (_kl(p) - _fit(p, e) / p.x.shape[1]).mean(),
        "The log likelihood is a mean over the P pixels. log p(x | z) is their sum; the mean weighs the KL P times, "
        "as β = P would."),
    "mean over pixels and latents": (lambda p, e: (_kl(p) / p.mu.shape[1] - _fit(p, e) / p.x.shape[1]).mean(),
        "Both terms are means over their entries, pixels and latent coordinates. Densities of independent entries "
        "multiply: sum both logarithms."),
    "mean over latents": (lambda p, e: (_kl(p) / p.mu.shape[1] - _fit(p, e)).mean(),
        "The KL is a mean over the D latent coordinates; it is their sum."),
    "pixels and pictures exchanged": (lambda p, e: (_kl(p) - _fit(p, e) * len(p.x) / p.x.shape[1]).mean(),
        "You summed over the wrong axis: the log likelihood is summed over the N pictures and averaged over the P "
        "pixels. Sum the last axis, average the others."),
    "sum over pictures": (lambda p, e: len(p.x) * _loss(p, e),
        "It is N times the loss: you sum over the pictures. Average them, so that a step size means the same for "
        "every batch size."),
    "likelihood summed over pictures": (lambda p, e: (_kl(p) - len(p.x) * _fit(p, e)).mean(),
        "The log likelihood is summed over the pictures and the KL averaged: the KL counts 1/N of what it should. "
        "Average both."),
    "KL summed over pictures": (lambda p, e: (len(p.x) * _kl(p) - _fit(p, e)).mean(),
        "The KL is summed over the pictures and the log likelihood averaged: the KL counts N times. Average both."),
    "sum over pictures and draws": (lambda p, e: len(p.x) * (_kl(p) - p.num_samples * _fit(p, e)).mean(),
        "Everything is summed, over pictures and over the S draws too. Sum over pixels and latent coordinates only; "
        "average over pictures and draws."),
    "sum over draws": (lambda p, e: (_kl(p) - p.num_samples * _fit(p, e)).mean(),
        "The log likelihood is summed over the S draws; it is their mean."),
    "KL without its −1": (lambda p, e: _loss(p, e) + 0.5 * p.mu.shape[1],
        "It is ½ D too high: the closed form of the KL lacks its −1, ½(σ² + μ² − 1) − log σ for each coordinate "
        "(eq:vae-kl). No gradient notices, but the value is no ELBO."),
    "½ log 2π in the prior alone": (lambda p, e: _loss(p, e) + 0.5 * LOG_2PI * p.mu.shape[1],
        "It is ½ D log 2π too high: log p(z) has its constant, −½ log 2π a coordinate, and log q(z | x) has none. Both "
        "or neither (eq:vae-prior, eq:vae-log-q): in the difference they cancel."),
    "½ log 2π in q alone": (lambda p, e: _loss(p, e) - 0.5 * LOG_2PI * p.mu.shape[1],
        "It is ½ D log 2π too low: log q(z | x) has its constant, −½ log 2π a coordinate, and log p(z) has none. Both "
        "or neither (eq:vae-prior, eq:vae-log-q): in the difference they cancel."),
    "KL without its half": (lambda p, e: (2 * _kl(p) - _fit(p, e)).mean(),
        "The KL is twice too large: its factor ½ is missing."),
    "omega as log variance": (
        lambda p, e: (0.5 * (p.omega.exp() + p.mu.square() - 1 - p.omega).sum(-1) - _fit(p, e)).mean(),
        "Your KL takes omega for log σ². Here omega = log σ, so σ² is (2 * omega).exp() and log σ² is 2 * omega."),
    "omega as log variance, everywhere": (
        lambda p, e: _loss(VAEProblem(p.x, p.mu, 0.5 * p.omega, p.weights, p.num_samples), e),
        "You take omega for log σ², in the draws and in the KL. Here omega = log σ: σ is omega.exp()."),
    "variance for standard deviation": (_with_draws(lambda p, e: p.mu + (2 * p.omega).exp() * e),
        "z is μ + σ² ε, whose variance is σ⁴. Multiply the noise by the standard deviation: μ + σ ε (eq:vae-encoder)."),
    "draws with omega": (_with_draws(lambda p, e: p.mu + p.omega * e),
        "z is μ + ω ε: omega is log σ, so multiply the noise by omega.exp()."),
    "no noise": (_with_draws(lambda p, e: p.mu.expand_as(e)),
        "z is μ, without noise. That is the reconstruction of the mean, not the mean of the reconstruction."),
    "probabilities for logits": (
        _with_likelihood(lambda p, a: p.x * logsigmoid(a.sigmoid()) + (1 - p.x) * logsigmoid(-a.sigmoid())),
        "A sigmoid too many: decode gives logits, and your log likelihood takes the sigmoid of what is a probability "
        "already."),
    "ink and page exchanged": (_with_likelihood(lambda p, a: (1 - p.x) * logsigmoid(a) + p.x * logsigmoid(-a)),
        "Ink and page are exchanged: x multiplies log s and 1 − x multiplies log(1 − s), s the probability of ink."),
    "page left out": (_with_likelihood(lambda p, a: p.x * logsigmoid(a)),
        "The term (1 − x) log(1 − s) is missing: a decoder that inks every pixel would pay nothing."),
}


@dataclass(frozen=True)
class _Run:
    problem: VAEProblem
    eps: Tensor                  # (replicates, S, N, D)
    values: Tensor               # (replicates)
    gradients: Tensor            # (GRADIENT_REPLICATES, parameters), of mu, omega and the decoder's weights

    def z_score(self, of: Callable[[VAEProblem, Tensor], Tensor]) -> float:
        """How far the values are from those of ``of`` on the same draws, in standard errors of the mean difference."""
        return _largest_z((self.values - _on_all_draws(of, self)).unsqueeze(-1))

    def gradient_z_score(self, of: Callable[[VAEProblem, Tensor], Tensor]) -> float:
        """The same for the gradient, the worst of its entries, on as many draws as it was taken for."""
        own = [_gradient(of(self.problem, e), self.problem) for e in self.eps[: len(self.gradients)]]
        return _largest_z(self.gradients - torch.stack(own))


def check_vae_loss(loss: Callable[..., Any], *, num_replicates: int = 400, false_alarm: float = 1e-6, seed: int = 0) -> Report:
    """Test ``loss(decode, x, mu, omega, eps)`` as −ELBO of a minibatch (eq:vae-loss), and say in words what is wrong.

    loss: decode takes z (S, N, D) to logits (S, N, P); x (N, P) is 0 or 1; mu, omega = log σ are (N, D); eps is
    (S, N, D).  Returns (), a mean over pictures in nats, and differentiates in mu, omega and the decoder's weights.
    The KL may be in closed form or an average over the draws.
    num_replicates: independent draws of eps for each problem.
    false_alarm: the chance that a right loss fails at all, shared among the tests (Bonferroni).
    The noise is the check's own: the same seed gives the same report.  A loss that raises is reported, not raised.

    >>> def reconstruction(decode, x, mu, omega, eps):
    ...     logits = decode(mu + omega.exp() * eps)
    ...     return -(x * logits - torch.nn.functional.softplus(logits)).sum(-1).mean()
    >>> check_vae_loss(reconstruction).slip
    'no KL'
    >>> kl = lambda mu, omega: (0.5 * ((2 * omega).exp() + mu**2 - 1) - omega).sum(-1).mean()
    >>> check_vae_loss(lambda decode, x, mu, omega, eps: reconstruction(decode, x, mu, omega, eps) + kl(mu, omega))
    ✓ Right. −ELBO and its gradient on 2 problems: ...
    """
    runs, generator = [], torch.Generator().manual_seed(seed)
    for problem in _problems(generator):
        count, dim = problem.mu.shape
        eps = normal(problem.num_samples, (num_replicates, count), dim, generator=generator, dtype=torch.float64)
        run = _run(loss, problem, eps.transpose(0, 1))
        if isinstance(run, Report):
            return run
        runs.append(run)
    num_tests = sum(1 + run.gradients.shape[1] for run in runs)
    threshold = alarm(false_alarm, num_tests)
    scores = [run.z_score(_loss) for run in runs]
    largest = max(scores)
    if largest > threshold:
        run = runs[scores.index(largest)]
        facts = (f"On {run.problem.where} its mean is {run.values.mean():.3f}, −ELBO is {_mean(_loss, run):.3f}.")
        distance = {name: max(r.z_score(predicted) for r in runs) for name, (predicted, _) in VAE_SLIPS.items()}
        slip, nearest = min(distance.items(), key=lambda item: item[1])
        if nearest <= threshold:
            return Report(False, (VAE_SLIPS[slip][1], facts), slip, largest, threshold)
        return Report(False, (facts,
            "No single slip that we know explains the numbers. Compare the two terms apart: the mean log likelihood is "
                              f"{_mean(lambda p, e: _fit(p, e).mean(), run):.3f}, the KL "
                              f"{_kl(run.problem).mean():.3f}."), None, largest, threshold)
    of_gradient = max(run.gradient_z_score(_loss) for run in runs)
    if of_gradient > threshold:
        return _gradient_report(runs, of_gradient, threshold)
    largest = max(largest, of_gradient)
    run = runs[-1]
    return Report(True, (
        f"−ELBO and its gradient on {len(runs)} problems: {num_tests} z-tests of {num_replicates} draws each, the "
        f"largest {largest:.1f} "
        f"standard errors, alarm at {threshold:.1f}.",
        f"On {run.problem.where} its mean is {run.values.mean():.4f}, with a standard deviation of "
        f"{run.values.std():.3f}."), None, largest, threshold)


def _problems(generator: torch.Generator) -> list[VAEProblem]:
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    leaf = lambda value: value.requires_grad_()  # noqa: E731
    return [VAEProblem((draw(n, p) > 0).double(), leaf(draw(n, d)), leaf(0.3 * draw(n, d) - 0.5), leaf(draw(d, p)), s)
            for n, p, d, s in SIZES]


def _run(loss: Callable[..., Any], problem: VAEProblem, eps: Tensor) -> _Run | Report:
    values: list[Tensor] = []
    gradients: list[Tensor] = []
    for e in eps:
        try:
            result = loss(problem.decode, problem.x, problem.mu, problem.omega, e)
        except Exception as error:
            return raised(error, f"on {problem.where}, eps of shape {tuple(e.shape)}")
        if not isinstance(result, Tensor) or result.shape != ():
            return failed("shape", f"It returned {described(result)}, expected one number, shape (), on {problem.where}: the mean over "
                          "the draws and the pictures, of sums over pixels and latent coordinates.")
        if not torch.isfinite(result):
            return failed("not finite",
                f"The loss is {result.item()} on {problem.where}. Take log(sigmoid) in one step: logsigmoid, or "
                f"softplus.")
        if len(values) < GRADIENT_REPLICATES:
            gradients.append(_gradient(result, problem))
        values.append(result.detach().double())
    return _Run(problem, eps, torch.stack(values), torch.stack(gradients))


def _gradient(value: Tensor, problem: VAEProblem) -> Tensor:
    leaves = [problem.mu, problem.omega, problem.weights]
    if not value.requires_grad:
        return torch.zeros(sum(leaf.numel() for leaf in leaves), dtype=torch.float64)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, leaves, materialize_grads=True)])


def _gradient_report(runs: list[_Run], largest: float, threshold: float) -> Report:
    slip, finding = "gradient", f"an entry is {largest:.0f} standard errors off. Was a part of the loss detached?"
    if all(not run.gradients.any() for run in runs):
        slip, finding = "no gradient", (
            "no gradient reaches mu, omega or the decoder. Was the loss detached, or computed under torch.no_grad()?")
    elif all(run.gradient_z_score(_with_draws(lambda p, e: _path(p, e).detach())) <= threshold for run in runs):
        slip, finding = "detached draws", (
            "none runs through the draws. z was detached, or came from a call that gives plain numbers, so the encoder "
            "hears the KL alone (eq:vae-encoder).")
    return Report(False, ("The value is right, the gradient is not: " + finding,), slip, largest, threshold)


def _mean(of: Callable[[VAEProblem, Tensor], Tensor], run: _Run) -> float:
    return _on_all_draws(of, run).mean().item()


def _on_all_draws(of: Callable[[VAEProblem, Tensor], Tensor], run: _Run) -> Tensor:
    """Its value on every draw of the noise, (replicates)."""
    return torch.func.vmap(lambda e: of(run.problem, e))(run.eps).detach()


def _largest_z(differences: Tensor) -> float:
    """The largest |mean| over the first axis in standard errors."""
    differences = differences.detach()
    return z_scores(differences, torch.zeros_like(differences[0])).abs().max().item()
