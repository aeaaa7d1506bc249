"""Pyro's part.  ``python with_pyro.py cold`` is a process's whole life: import, fit, answer."""

from __future__ import annotations

import sys

from worker import PATHS, main, on_one_core

on_one_core()
sys.path[:0] = PATHS

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.autoguide.initialization import init_to_value
from pyro.optim import Adam

import problems
import pyro_models

torch.set_num_threads(1)


def fit(problem: dict, num_samples: int, num_steps: int, step_size: float):
    """J2 by SVI.step, the particles vectorised: losses and path are kept."""
    problem = problems.make(**problem)
    dims = {"beta": problem.dim, "offsets": 8}
    sites = pyro_models.SITES[problem.name]
    model = pyro_models.model_of(problem)

    def call(seed):
        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        start = {s: torch.zeros(dims[s]) if s in dims else torch.tensor(float(s == "tau")) for s in sites}
        guide = AutoNormal(model, init_loc_fn=init_to_value(values=start), init_scale=1.0)
        elbo = Trace_ELBO(num_particles=num_samples, vectorize_particles=True, max_plate_nesting=0)
        svi = SVI(model, guide, Adam({"lr": step_size}), elbo)
        losses, path = [], []
        for _ in range(num_steps):
            losses.append(svi.step())
            path.append([p.detach().clone() for p in guide.parameters()])
        return guide, losses, path

    def read(made):
        guide = made[0]
        locs, scales = guide.locs, guide.scales
        side = lambda tree: torch.cat([getattr(tree, s).detach().reshape(-1) for s in sites]).tolist()  # noqa: E731
        return {"mean": [side(locs)], "sd": [side(scales)]}

    return call, read


def autoencoder(num_epochs: int, batch_size: int, hidden: int, step_size: float):
    """J5 by SVI.step and TraceMeanField_ELBO, which takes the KL in closed form."""
    images = torch.from_numpy(problems.digits()[0])
    linear, tanh = torch.nn.Linear, torch.nn.Tanh

    def call(seed):
        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        encode = torch.nn.Sequential(linear(64, hidden), tanh(), linear(hidden, 4))
        decode = torch.nn.Sequential(linear(2, hidden), tanh(), linear(hidden, 64))

        def model(x):
            pyro.module("decoder", decode)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), x.new_ones(len(x), 2)).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

        def guide(x):
            pyro.module("encoder", encode)
            with pyro.plate("data", len(x)):
                mu, omega = encode(x).chunk(2, -1)
                pyro.sample("z", dist.Normal(mu, omega.exp()).to_event(1))

        svi, losses = SVI(model, guide, Adam({"lr": step_size}), TraceMeanField_ELBO()), []
        for _ in range(num_epochs):
            shuffled = images[torch.randperm(len(images))]
            losses.append(sum(svi.step(x) for x in shuffled.split(batch_size)))
        return losses

    return call, lambda made: {"elbo": -sum(made[-3:]) / 3 / len(images)}


JOBS = {"fit": fit, "autoencoder": autoencoder}

if __name__ == "__main__":
    main(JOBS, cold=fit)
