"""NumPyro's part, and JAX written by hand beside it.  ``python with_numpyro.py cold`` is a process's whole life."""

from __future__ import annotations

import sys

from worker import PATHS, main, on_one_core

on_one_core()
sys.path[:0] = PATHS

import jax
import jax.numpy as jnp
import numpy as np
from jax.example_libraries import stax
from numpyro.distributions import Bernoulli, Normal
from numpyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.initialization import init_to_value
from numpyro.optim import Adam

import numpyro
import numpyro_models
import problems
from problems import LOG_2PI

LOG_SCALES = {"linear": {}, "logistic": {}, "eight schools": {"tau": 1.0}}


def _guide(problem, model):
    """AutoNormal from mean 0 and sd 1 on the unconstrained scale, like everyone's."""
    dims = {"beta": problem.dim, "offsets": 8}
    start = {site: jnp.zeros(dims[site]) if site in dims else jnp.zeros(()) for site in numpyro_models.SITES[problem.name]}
    return AutoNormal(model, init_loc_fn=init_to_value(values=start | LOG_SCALES[problem.name]), init_scale=1.0)


def _svi(problem, num_samples, step_size, form=""):
    model = numpyro_models.model_of(problem, form=form)
    return SVI(model, _guide(problem, model), Adam(step_size), Trace_ELBO(num_particles=num_samples))


def _read_fits(problem, params):
    """Means and sds (fits, D) in the order of z."""
    sites = numpyro_models.SITES[problem.name]
    side = lambda kind: np.concatenate(  # noqa: E731
        [np.asarray(params[f"{s}_auto_{kind}"]).reshape(-1, {"beta": problem.dim, "offsets": 8}.get(s, 1)) for s in sites], -1)
    return {"mean": side("loc").tolist(), "sd": side("scale").tolist()}


def fit_as_users(problem: dict, num_samples: int, num_steps: int, step_size: float):
    """J2 by SVI.run: the losses are kept, the path is not.  Each call traces and compiles, as each SVI.run does."""
    problem = problems.make(**problem)

    def call(seed):
        svi = _svi(problem, num_samples, step_size)
        done = svi.run(jax.random.key(seed), num_steps, progress_bar=False)
        return jax.block_until_ready(done)

    return call, lambda done: _read_fits(problem, done.params)


def fit_scan(problem: dict, num_samples: int, num_steps: int, step_size: float, num_fits: int | None = None, form: str = ""):
    """J2 and J3 by hand: the whole fit one compiled lax.scan, vmapped over fits; path and losses kept."""
    problem = problems.make(**problem)
    svi = _svi(problem, num_samples, step_size, form)

    def one(key):
        def step(state, _):
            params = svi.get_params(state)
            state, loss = svi.update(state)
            return state, (params, loss)

        state, record = jax.lax.scan(step, svi.init(key), None, length=num_steps)
        return svi.get_params(state), record

    compiled = jax.jit(one if num_fits is None else jax.vmap(one))

    def call(seed):
        keys = jax.random.key(seed)
        return jax.block_until_ready(compiled(keys if num_fits is None else jax.random.split(keys, num_fits)))

    return call, lambda made: _read_fits(problem, made[0])


def study(problem: dict, num_samples: int, num_replicates: int, q: list):
    """J1 and J4: ``num_replicates`` pathwise gradients by Trace_ELBO, vmapped and compiled."""
    problem = problems.make(**problem)
    model = numpyro_models.model_of(problem)
    mu, omega = jnp.asarray(q, jnp.float32)

    def guide():
        numpyro.sample("beta", Normal(numpyro.param("mu", mu), jnp.exp(numpyro.param("omega", omega))).to_event(1))

    elbo = Trace_ELBO(num_particles=num_samples)
    gradient = jax.grad(lambda params, key: -elbo.loss(key, params, model, guide))
    compiled = jax.jit(jax.vmap(gradient, (None, 0)))

    def call(seed):
        params = {"mu": mu + (0.01 * seed if problem.dim == 1 else 0.0), "omega": omega}
        return jax.block_until_ready(compiled(params, jax.random.split(jax.random.key(seed), num_replicates)))

    return call, lambda made: {"pathwise": _moments(np.concatenate([made["mu"], made["omega"]], -1))}


def study_by_hand(problem: dict, num_samples: int, num_replicates: int, q: list):
    """The same without NumPyro: a jnp log joint, closed-form entropy, the replicates mapped in batches that stay in the cache."""
    problem = problems.make(**problem)
    data = {name: jnp.asarray(value, jnp.float32) for name, value in problem.data.items()}
    x, y, (mu, omega) = data["x"], data["y"], jnp.asarray(q, jnp.float32)

    def log_joint(z):
        logits = z @ x.T
        if problem.name == "linear":
            likelihood = -0.5 * jnp.square(y - logits).sum(-1)
        else:
            likelihood = z @ (y @ x) - jax.nn.softplus(logits).sum(-1)
        return likelihood - 0.5 * jnp.square(z).sum(-1) - 0.5 * LOG_2PI

    def one(params, key):
        def elbo(params):
            mu, omega = params
            z = mu + jnp.exp(omega) * jax.random.normal(key, (num_samples, problem.dim))
            return log_joint(z).mean() + omega.sum()

        return jax.grad(elbo)(params)

    size = max(1, 2**17 // (num_samples * len(y)))
    compiled = jax.jit(lambda params, keys: jax.lax.map(lambda key: one(params, key), keys, batch_size=size))

    def call(seed):
        params = (mu + (0.01 * seed if problem.dim == 1 else 0.0), omega)
        return jax.block_until_ready(compiled(params, jax.random.split(jax.random.key(seed), num_replicates)))

    return call, lambda made: {"pathwise": _moments(np.concatenate(made, -1))}


def _dense(inputs: int, outputs: int):
    """A layer that starts as torch's do."""
    uniform = lambda key, shape: jax.random.uniform(key, shape, minval=-1, maxval=1) / inputs**0.5  # noqa: E731
    return stax.Dense(outputs, uniform, uniform)


def autoencoder(num_epochs: int, batch_size: int, hidden: int, step_size: float):
    """J5 by SVI and TraceMeanField_ELBO; an epoch is one compiled lax.scan over its batches."""
    images = jnp.asarray(problems.digits()[0])
    encode = stax.serial(_dense(64, hidden), stax.Tanh, _dense(hidden, 4))
    decode = stax.serial(_dense(2, hidden), stax.Tanh, _dense(hidden, 64))

    def model(x):
        decoder = numpyro.module("decoder", decode, (batch_size, 2))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", Normal(jnp.zeros((len(x), 2)), 1.0).to_event(1))
            numpyro.sample("x", Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        encoder = numpyro.module("encoder", encode, (batch_size, 64))
        with numpyro.plate("data", len(x)):
            mu, omega = jnp.split(encoder(x), 2, -1)
            numpyro.sample("z", Normal(mu, jnp.exp(omega)).to_event(1))

    svi = SVI(model, guide, Adam(step_size), TraceMeanField_ELBO())

    @jax.jit
    def epoch(state, key):
        shuffled = jax.random.permutation(key, images).reshape(-1, batch_size, 64)
        state, losses = jax.lax.scan(svi.update, state, shuffled)
        return state, losses.sum()

    begin = jax.jit(lambda key: svi.init(key, images[:batch_size]))

    def call(seed):
        keys, losses = jax.random.split(jax.random.key(seed), num_epochs + 1), []
        state = begin(keys[0])
        for key in keys[1:]:
            state, loss = epoch(state, key)
            losses.append(loss)
        return jax.block_until_ready(losses)

    return call, lambda made: {"elbo": -float(sum(made[-3:])) / 3 / len(images)}


def _moments(gradients):
    gradients = gradients.astype(float)
    return {"mean": gradients.mean(0).tolist(), "error": (gradients.std(0, ddof=1) / len(gradients) ** 0.5).tolist()}


JOBS = {"study": study, "study_by_hand": study_by_hand, "fit_as_users": fit_as_users, "fit_scan": fit_scan,
        "autoencoder": autoencoder}

if __name__ == "__main__":
    main(JOBS, cold=fit_as_users)
