"""PyMC's part."""

from __future__ import annotations

import sys

from worker import PATHS, on_one_core, serve

on_one_core()
sys.path[:0] = PATHS

import logging

import numpy as np
import pymc as pm

import problems

logging.getLogger("pymc").setLevel(logging.ERROR)
SITES = {"linear": ["beta"], "logistic": ["beta"], "eight schools": ["mu", "tau", "offsets"]}


def _model(problem) -> pm.Model:
    data = problem.data
    with pm.Model() as model:
        if problem.name == "eight schools":
            mu, tau, offsets = pm.Normal("mu", 0, 5), pm.HalfCauchy("tau", 5), pm.Normal("offsets", 0, 1, shape=8)
            pm.Normal("y", mu + tau * offsets, data["sigma"], observed=data["y"])
            return model
        beta = pm.Normal("beta", 0, 1, shape=problem.dim)
        if problem.name == "linear":
            pm.Normal("y", data["x"] @ beta, 1, observed=data["y"])
        else:
            pm.Bernoulli("y", logit_p=data["x"] @ beta, observed=data["y"])
    return model


def fit(problem: dict, num_samples: int, num_steps: int, step_size: float):
    """J2 by pm.fit(method="advi"): losses are kept, the path is not.  Each call compiles, as each pm.fit does.

    It starts from sd log 2 = 0.69, its own default, where the others start from 1.
    """
    problem = problems.make(**problem)

    def call(seed):
        start = {"eight schools": {"mu": 0.0, "tau": 1.0, "offsets": np.zeros(8)}}.get(problem.name, {"beta": np.zeros(problem.dim)})
        with _model(problem):
            return pm.fit(num_steps, method="advi", obj_n_mc=num_samples, obj_optimizer=pm.adam(learning_rate=step_size),
                          start=start, random_seed=seed, progressbar=False)

    def read(made):
        mean, sd = made.mean.eval(), made.std.eval()
        where = {name: np.arange(s.start, s.stop) for name, (_, s, *_) in made.ordering.items()}     # in the flat vector
        order = np.concatenate([where["tau_log__" if site == "tau" else site] for site in SITES[problem.name]])
        return {"mean": [mean[order].tolist()], "sd": [sd[order].tolist()]}

    return call, read


JOBS = {"fit": fit}

if __name__ == "__main__":
    serve(JOBS)
