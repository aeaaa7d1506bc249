"""The problems as a Pyro user writes them."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch

from problems import Problem


def model_of(problem: Problem, dtype: torch.dtype = torch.float32):
    """A model without arguments, its data in ``dtype``; it broadcasts over vectorised particles."""
    data = {name: torch.as_tensor(value).to(dtype) for name, value in problem.data.items()}
    zeros, one = torch.zeros(problem.dim, dtype=dtype), torch.ones((), dtype=dtype)

    def linear():
        beta = pyro.sample("beta", dist.Normal(zeros, one).to_event(1))
        pyro.sample("y", dist.Normal(beta @ data["x"].mT, one).to_event(1), obs=data["y"])

    def logistic():
        beta = pyro.sample("beta", dist.Normal(zeros, one).to_event(1))
        pyro.sample("y", dist.Bernoulli(logits=beta @ data["x"].mT).to_event(1), obs=data["y"])

    def eight_schools():
        mu = pyro.sample("mu", dist.Normal(0 * one, 5 * one)).unsqueeze(-1)
        tau = pyro.sample("tau", dist.HalfCauchy(5 * one)).unsqueeze(-1)
        offsets = pyro.sample("offsets", dist.Normal(zeros[:8], one).to_event(1))
        pyro.sample("y", dist.Normal(mu + tau * offsets, data["sigma"]).to_event(1), obs=data["y"])

    return {"linear": linear, "logistic": logistic, "eight schools": eight_schools}[problem.name]


#: The sites of each model, in the order in which they make up z.
SITES = {"linear": ["beta"], "logistic": ["beta"], "eight schools": ["mu", "tau", "offsets"]}
