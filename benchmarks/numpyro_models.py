"""The problems as a NumPyro user writes them."""

from __future__ import annotations

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from problems import LOG_2PI, STATISTICS, Problem, statistics_of


def model_of(problem: Problem, dtype=jnp.float32, form: str = ""):
    """A model without arguments, its data in ``dtype``.  form: "", or STATISTICS for linear regression as vilib_models has it."""
    data = {name: jnp.asarray(value, dtype) for name, value in problem.data.items()}
    zeros = jnp.zeros(problem.dim, dtype)

    def linear():
        beta = numpyro.sample("beta", dist.Normal(zeros, 1.0).to_event(1))
        numpyro.sample("y", dist.Normal(data["x"] @ beta, 1.0).to_event(1), obs=data["y"])

    def logistic():
        beta = numpyro.sample("beta", dist.Normal(zeros, 1.0).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=data["x"] @ beta).to_event(1), obs=data["y"])

    def eight_schools():
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        offsets = numpyro.sample("offsets", dist.Normal(zeros[:8], 1.0).to_event(1))
        numpyro.sample("y", dist.Normal(mu + tau * offsets, data["sigma"]).to_event(1), obs=data["y"])

    def linear_by_statistics():
        r, seen, rest = statistics_of(problem)                                  # the prior is among them
        beta = numpyro.sample("beta", dist.ImproperUniform(dist.constraints.real, (), (problem.dim,)))
        numpyro.sample("seen", dist.Normal(jnp.asarray(r, dtype) @ beta, 1.0).to_event(1), obs=jnp.asarray(seen, dtype))
        numpyro.factor("rest", -0.5 * (rest + len(problem.data["y"]) * LOG_2PI))

    if form and (problem.name, form) != ("linear", STATISTICS):
        raise ValueError(f"{problem.name}: no form {form!r} here.")
    if form:
        return linear_by_statistics
    return {"linear": linear, "logistic": logistic, "eight schools": eight_schools}[problem.name]


#: The sites of each model, in the order in which they make up z.
SITES = {"linear": ["beta"], "logistic": ["beta"], "eight schools": ["mu", "tau", "offsets"]}
