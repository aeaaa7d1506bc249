"""vilib's part.  ``python with_vilib.py cold`` is a process's whole life: import, fit, answer."""

from __future__ import annotations

import sys

from worker import PATHS, main, on_one_core

on_one_core()
sys.path[:0] = PATHS

import torch

import problems
import vilib
import vilib_models
from vilib import MeanFieldGaussian

torch.set_num_threads(1)
STUDIED = ["score_function", "leave_one_out", "optimal_coefficient", "pathwise", "sticking_the_landing"]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def study(problem: dict, num_samples: int, num_replicates: int, q: list, estimators: list[str] = STUDIED):
    """J1: ``num_replicates`` gradients of S draws by each of the estimators, from the same draws."""
    problem = problems.make(**problem)
    log_joint, q = vilib_models.log_joint(problem), MeanFieldGaussian(*torch.tensor(q))

    def call(seed):
        eps = vilib.normal(num_samples, (num_replicates,), q.dim, generator=_generator(seed))
        return vilib.nested_study(log_joint, q, eps, estimators, elbo=True, sample_counts=(num_samples,))

    return call, lambda made: {name: _moments(gradient[0]) for name, gradient in made.items()}


def slider(problem: dict, num_samples: int, num_replicates: int, q: list, fresh_noise: bool, form: str):
    """J4: five estimators at every S = 1, 2, 4, …, when λ moves; the draws keep their ε, or not."""
    problem = problems.make(**problem)
    log_joint, q = vilib_models.log_joint(problem, form=form), MeanFieldGaussian(*torch.tensor(q))
    draw = lambda seed: vilib.normal(num_samples, (num_replicates,), 1, generator=_generator(seed))  # noqa: E731
    kept = draw(0)

    def call(seed):
        eps = draw(seed) if fresh_noise else kept
        moved = MeanFieldGaussian(q.mu + 0.01 * seed, q.omega)
        return vilib.nested_study(log_joint, moved, eps, STUDIED, elbo=True)

    return call, lambda made: {name: _moments(gradient[-1]) for name, gradient in made.items()}


def fit(problem: dict, num_samples: int, num_steps: int, step_size: float, num_fits: int | None = None, form: str = ""):
    """J2 and J3: fits by the pathwise gradient and Adam; the whole path and every ELBO are kept."""
    problem = problems.make(**problem)
    log_joint, batch = vilib_models.log_joint(problem, form=form), () if num_fits is None else (num_fits,)
    q0 = MeanFieldGaussian(torch.zeros(*batch, problem.dim), torch.zeros(*batch, problem.dim))

    def call(seed):
        return vilib.fit(vilib.pathwise, log_joint, q0, num_samples=num_samples, num_steps=num_steps,
                         optimizer=vilib.adam(step_size), generator=_generator(seed))

    def read(made):
        assert made.path.shape == (num_steps + 1, *batch, 2 * problem.dim) and made.elbo.shape == (num_steps + 1, *batch)
        mean, sd = (x.reshape(-1, problem.dim).tolist() for x in (made.q.mean, made.q.stddev))
        return {"mean": mean, "sd": sd}

    return call, read


def autoencoder(num_epochs: int, batch_size: int, hidden: int, step_size: float):
    """J5: encoder and decoder by the closed-form KL and one draw for each image."""
    images = torch.from_numpy(problems.digits()[0])

    def call(seed):
        generator = _generator(seed)
        vae = vilib.mlp_vae(64, 2, (hidden,), generator=generator)
        return vilib.train(vae, images, num_epochs=num_epochs, batch_size=batch_size, optimizer=vilib.adam(step_size),
                           generator=generator, progress=False)

    return call, lambda made: {"elbo": made.elbo[-3:].mean().item()}


def _moments(gradients: torch.Tensor) -> dict[str, list[float]]:
    variance, mean = torch.var_mean(gradients.double(), 0)
    return {"mean": mean.tolist(), "error": (variance / len(gradients)).sqrt().tolist()}


JOBS = {"study": study, "slider": slider, "fit": fit, "autoencoder": autoencoder}

if __name__ == "__main__":
    main(JOBS, cold=fit)
