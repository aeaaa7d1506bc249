"""z-tests at one false-alarm rate for the whole suite.

A right vilib fails *any* of these tests with probability 1e-6 (Bonferroni): each comparison spends one of ``BUDGET``
shares.  Seeds are fixed and nothing is drawn again.
"""

from statistics import NormalDist

import torch
from helpers import by_autograd, seeded

from vilib import normal
from vilib.draws import value_and_gradient

FALSE_ALARM = 1e-6
BUDGET = 4000
#: The alarm, in standard errors, two-sided.
THRESHOLD = NormalDist().inv_cdf(1 - FALSE_ALARM / (2 * BUDGET))
_spent = 0


def assert_mean(samples: torch.Tensor, exact, what: str = "mean") -> None:
    """The mean over the first axis could be ``exact``, coordinate by coordinate."""
    samples = samples.double()
    exact = torch.as_tensor(exact, dtype=torch.float64).expand(samples.shape[1:])
    _spend(exact.numel())
    error = samples.std(0) / len(samples) ** 0.5
    floor = 1e-9 * (1 + exact.abs())                                     # for estimators without any noise
    z = (samples.mean(0) - exact) / (error + floor)
    found = f"{samples.mean(0).tolist()} ± {error.tolist()}"
    assert z.abs().max() < THRESHOLD, f"{what}: {found}, expected {exact.tolist()}, z = {z.tolist()}"


def assert_variance(samples: torch.Tensor, exact, what: str = "variance") -> None:
    """The variance over the first axis could be ``exact``; its standard error comes from the fourth moments."""
    samples = samples.double()
    squares = (samples - samples.mean(0)).square() * (len(samples) / (len(samples) - 1))
    assert_mean(squares, exact, what)


def replicates(estimator, log_joint, q, *, num_samples, num_replicates, noise=normal, seed=0, autograd=False):
    """Independent values (num_replicates) and gradients (num_replicates, P) of an estimator, whatever it is."""
    eps = noise(num_samples, (num_replicates,), q.dim, generator=seeded(seed), dtype=torch.float64)
    run = by_autograd if autograd else value_and_gradient
    return run(estimator, log_joint, q.detach().expand(num_replicates), eps)


def assert_unbiased(estimator, log_joint, q, gradient, value=None, **options) -> None:
    """The mean gradient is ``gradient`` (P), and the mean value is ``value``."""
    values, gradients = replicates(estimator, log_joint, q, **options)
    assert_mean(gradients, gradient, "gradient")
    if value is not None:
        assert_mean(values, value, "value")


def _spend(tests: int) -> None:
    global _spent
    _spent += tests
    assert _spent <= BUDGET, f"{_spent} z-tests, but the false-alarm rate is shared among {BUDGET}: raise BUDGET."
