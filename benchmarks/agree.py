"""Do vilib, Pyro and NumPyro say the same?  ELBO and gradient, on the same model and the same draws, in float64.

    .venv-bench/bin/python benchmarks/agree.py

Where the libraries define the same thing:

    total_derivative   Trace_ELBO of both: log q moves with λ twice; its gradient is also that of pathwise
    score_function     TraceGraph_ELBO of both, for a site that is not reparameterised
    constant baseline  TraceGraph_ELBO of Pyro with a ``baseline_value``

Pyro is given our draws.  NumPyro draws its own, from its key; we look at them and give them to vilib.  The models are the ones a user
of each library writes, with supports; vilib's is a plain log joint on the real line, so that Jacobians are compared too.
Ends with an error if anything differs by more than 1e-6, relative to the larger of 1 and the largest number compared.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as numpyro_dist
import pyro
import pyro.distributions as pyro_dist
import torch
from numpyro.infer import Trace_ELBO as NumPyroTrace
from numpyro.infer import TraceGraph_ELBO as NumPyroTraceGraph
from pyro.infer import Trace_ELBO, TraceGraph_ELBO

import numpyro_models
import problems
import pyro_models
import vilib
import vilib_models

TOLERANCE = 1e-6
NUM_SAMPLES = 16
BASELINE = -300.0
FAMILIES = {"mean field": vilib.MeanFieldGaussian, "full rank": vilib.FullRankGaussian}
VILIB = {
    "pathwise": vilib.pathwise, "total_derivative": vilib.total_derivative, "score_function": vilib.score_function,
    "constant_baseline": vilib.score_function_with(vilib.constant_baseline(BASELINE)),
}
SCORE = ("score_function", "constant_baseline")
double = lambda x: torch.as_tensor(np.array(x, np.float64))  # noqa: E731


def start(family, dim: int):
    """A q that is nobody's optimum."""
    parameters = family(torch.zeros(dim), torch.zeros(*(dim,) * (1 + (family is vilib.FullRankGaussian)))).num_parameters
    vector = 0.3 * torch.randn(parameters, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    q = family(torch.zeros(dim).double(), torch.zeros(*(dim,) * (1 + (family is vilib.FullRankGaussian))).double())
    return q.with_vector(vector)


def by_vilib(problem, q, eps, name: str):
    vector = q.vector().detach().requires_grad_()
    value = VILIB[name](vilib_models.log_joint(problem, torch.float64), q.with_vector(vector), eps)
    (gradient,) = torch.autograd.grad(value, vector)
    return value.item(), gradient.numpy()


# ---- Pyro ---------------------------------------------------------------------------------------------------------------


class GivenNormal(pyro_dist.Normal):
    """A normal that draws with the noise it is given, (S, *event)."""

    noise: torch.Tensor

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.noise


class GivenMultivariateNormal(pyro_dist.MultivariateNormal):
    noise: torch.Tensor

    def rsample(self, sample_shape=()):
        return self.loc + (self._unbroadcasted_scale_tril @ self.noise.unsqueeze(-1)).squeeze(-1)


def _for_score(distribution):
    """The same without a reparameterised draw, so that TraceGraph_ELBO uses the score function."""

    class Plain(distribution):
        has_rsample = False

        def sample(self, sample_shape=()):
            with torch.no_grad():
                return distribution.rsample(self, sample_shape)

    return Plain


def by_pyro(problem, q, eps, name: str):
    score = name in SCORE
    wrap = _for_score if score else lambda distribution: distribution
    infer = {"baseline": {"baseline_value": torch.full((len(eps),), BASELINE).double()}} if name == "constant_baseline" else {}

    def normal(loc, scale, noise):
        distribution = type("Given", (wrap(GivenNormal),), {"noise": noise})
        return distribution(loc, scale)

    def guide():
        vector = pyro.param("vector", q.vector())
        if isinstance(q, vilib.FullRankGaussian):
            distribution = type("Given", (wrap(GivenMultivariateNormal),), {"noise": eps})
            raw = torch.zeros(q.dim, q.dim).double().index_put(tuple(torch.tril_indices(q.dim, q.dim)), vector[q.dim:])
            pyro.sample("beta", distribution(vector[: q.dim], scale_tril=raw.tril(-1) + raw.diagonal().exp().diag()), infer=infer)
            return
        mu, sigma = vector[: q.dim], vector[q.dim:].exp()
        if problem.name != "eight schools":
            pyro.sample("beta", normal(mu, sigma, eps).to_event(1), infer=infer)
            return
        pyro.sample("mu", normal(mu[0], sigma[0], eps[:, 0]))
        on_log_scale = normal(mu[1], sigma[1], eps[:, 1])
        pyro.sample("tau", pyro_dist.TransformedDistribution(on_log_scale, [pyro_dist.transforms.ExpTransform()]))
        pyro.sample("offsets", normal(mu[2:], sigma[2:], eps[:, 2:]).to_event(1))

    pyro.clear_param_store()
    elbo = (TraceGraph_ELBO if score else Trace_ELBO)(num_particles=len(eps), vectorize_particles=True, max_plate_nesting=0)
    loss = elbo.loss_and_grads(pyro_models.model_of(problem, torch.float64), guide)
    return -loss, -pyro.param("vector").grad.numpy()


# ---- NumPyro ------------------------------------------------------------------------------------------------------------


class RecordedNormal(numpyro_dist.Normal):
    """A normal that lets us see its noise."""

    seen: list = []

    def sample(self, key, sample_shape=()):
        noise = jax.random.normal(key, sample_shape + self.batch_shape + self.event_shape, jnp.float64)
        jax.debug.callback(lambda x: self.seen.append(np.asarray(x)), noise)
        return self.loc + self.scale * noise


class RecordedMultivariateNormal(numpyro_dist.MultivariateNormal):
    seen: list = []

    def sample(self, key, sample_shape=()):
        noise = jax.random.normal(key, sample_shape + self.batch_shape + self.event_shape, jnp.float64)
        jax.debug.callback(lambda x: self.seen.append(np.asarray(x)), noise)
        return self.loc + (self.scale_tril @ noise[..., None])[..., 0]


def _plain(distribution):
    class Plain(distribution):
        reparametrized_params = []

        def sample(self, key, sample_shape=()):
            return jax.lax.stop_gradient(distribution.sample(self, key, sample_shape))

    return Plain


def by_numpyro(problem, q, name: str):
    """(value, gradient, ε (S, D)): the ε are NumPyro's."""
    score, dim = name in SCORE, q.dim
    wrap = _plain if score else lambda distribution: distribution

    def guide():
        vector = numpyro.param("vector", jnp.asarray(q.vector().numpy()))
        mu = vector[:dim]
        if isinstance(q, vilib.FullRankGaussian):
            raw = jnp.zeros((dim, dim)).at[jnp.tril_indices(dim)].set(vector[dim:])
            tril = jnp.tril(raw, -1) + jnp.diag(jnp.exp(jnp.diagonal(raw)))
            numpyro.sample("beta", wrap(RecordedMultivariateNormal)(mu, scale_tril=tril))
            return
        sigma = jnp.exp(vector[dim:])
        if problem.name != "eight schools":
            numpyro.sample("beta", wrap(RecordedNormal)(mu, sigma).to_event(1))
            return
        z = wrap(RecordedNormal)(mu, sigma).to_event(1).sample(numpyro.prng_key())  # one draw, told to the sites below
        for site, i in (("mu", 0), ("tau", 1), ("offsets", slice(2, None))):
            base = _Told(mu[i], sigma[i], z[i])
            if site == "tau":
                base = numpyro_dist.TransformedDistribution(base, numpyro_dist.transforms.ExpTransform())
            numpyro.sample(site, base.to_event(1) if site == "offsets" else base)

    RecordedNormal.seen.clear()
    RecordedMultivariateNormal.seen.clear()
    elbo = (NumPyroTraceGraph if score else NumPyroTrace)(num_particles=NUM_SAMPLES)
    model = numpyro_models.model_of(problem, jnp.float64)
    loss = lambda params: elbo.loss(jax.random.key(5), params, model, guide)  # noqa: E731
    value, gradient = jax.value_and_grad(loss)({"vector": jnp.asarray(q.vector().numpy())})
    jax.effects_barrier()
    seen = RecordedNormal.seen or RecordedMultivariateNormal.seen
    eps = np.unique(np.stack(seen).reshape(-1, dim), axis=0)
    assert eps.shape == (NUM_SAMPLES, dim), f"NumPyro drew {eps.shape}, expected {(NUM_SAMPLES, dim)}"
    return -float(value), -np.asarray(gradient["vector"]), double(eps)


class _Told(numpyro_dist.Normal):
    """A normal whose draw is told to it."""

    def __init__(self, loc, scale, value):
        super().__init__(loc, scale)
        self.value = value

    def sample(self, key, sample_shape=()):
        return self.value


# ---- the comparison -----------------------------------------------------------------------------------------------------


def comparisons():
    """(problem, family, estimator, library) wherever the library defines the same thing."""
    for problem in ("linear", "logistic", "eight schools"):
        for family in FAMILIES if problem == "linear" else ["mean field"]:
            for name in ("total_derivative", "pathwise") + (SCORE if problem != "eight schools" else ()):
                yield problem, family, name, "Pyro"
                if name != "constant_baseline":
                    yield problem, family, name, "NumPyro"


def main() -> int:
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    worst = 0.0
    print(f"| {'problem':<13} | {'q':<10} | {'vilib':<17} | {'library':<7} | {'ELBO':>8} | {'gradient':>8} |")
    print("|---|---|---|---|---:|---:|")
    for problem_name, family, name, library in comparisons():
        problem = problems.make(problem_name)
        q = start(FAMILIES[family], problem.dim)
        if library == "Pyro":
            eps = vilib.normal(NUM_SAMPLES, (), q.dim, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
            value, gradient = by_pyro(problem, q, eps, name)
        else:
            value, gradient, eps = by_numpyro(problem, q, name)
        own_value, own_gradient = by_vilib(problem, q, eps, name)
        fast_value, fast_gradient = vilib.value_and_gradient(
            VILIB[name], vilib_models.log_joint(problem, torch.float64), q, eps)
        by_value = [abs(v - value) / max(1, abs(value)) for v in (own_value, fast_value.item())]
        by_gradient = [np.abs(g - gradient).max() / max(1, np.abs(gradient).max()) for g in (own_gradient, fast_gradient.numpy())]
        # pathwise takes the entropy in closed form: the same gradient, another value
        difference = (max(by_value) if name != "pathwise" else None, max(by_gradient))
        worst = np.max([worst, *(d for d in difference if d is not None)])        # nan stays nan
        shown = ["–" if d is None else f"{d:.0e}" for d in difference]
        print(f"| {problem_name:<13} | {family:<10} | {name:<17} | {library:<7} | {shown[0]:>8} | {shown[1]:>8} |")
    print(f"\nLargest difference {worst:.1e}, tolerance {TOLERANCE:.0e}: {'they agree' if worst <= TOLERANCE else 'THEY DIFFER'}.")
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
