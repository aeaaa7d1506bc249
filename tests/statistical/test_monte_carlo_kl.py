"""k1 and k3: unbiased, with the variances that theory gives and standard errors that tell them."""

import math

import pytest
import torch
from helpers import bernoulli, full_rank, gaussian, mean_field, seeded
from statistical.ztest import assert_mean, assert_variance

from vilib import expectation, gaussian_kl, monte_carlo_forward_kl, monte_carlo_kl, monte_carlo_kl_k3, normal, reverse_kl

pytestmark = pytest.mark.statistical
KINDS = {"k1": monte_carlo_kl, "k3": monte_carlo_kl_k3}
every_kind = pytest.mark.parametrize("kl", KINDS.values(), ids=KINDS)
#: (q, p), p nowhere wider than √2 times q.
PAIRS = {
    "one dimension": (gaussian(0.3, 0.1), gaussian(0.0, 0.0)), "mean-field": (mean_field(), gaussian(0.0, -0.3, 2)),
    "full-rank": (full_rank(), full_rank(seed=21)), "Bernoulli": (bernoulli(), bernoulli(seed=9)),
}


def replicates(kl, log_p, q, num_samples, num_replicates=20_000):
    eps = normal(num_samples, (num_replicates,), q.dim, generator=seeded(), dtype=torch.float64)
    return kl(log_p, q.expand(num_replicates), eps)


def ratio(q, p):
    return lambda z: p.log_prob(z) - q.log_prob(z)


def exact_variances(q, p):
    """Var of one draw of k1 and of k3, by quadrature or enumeration."""
    log_r = ratio(q, p)
    k1, k3 = (lambda z: -log_r(z)), (lambda z: log_r(z).expm1() - log_r(z))
    return [expectation(lambda z: f(z) ** 2, q) - expectation(f, q) ** 2 for f in (k1, k3)]


@every_kind
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("num_samples", [2, 16])
def test_it_is_unbiased(kl, pair, num_samples):
    q, p = PAIRS[pair]
    assert_mean(replicates(kl, p.log_prob, q, num_samples)[0], reverse_kl(p.log_prob, q))


@pytest.mark.parametrize("pair", ["one dimension", "mean-field", "Bernoulli"])
@pytest.mark.parametrize("kind", KINDS)
def test_its_variance_and_its_standard_error_are_right(pair, kind):
    q, p = PAIRS[pair]
    exact = exact_variances(q, p)[list(KINDS).index(kind)] / 16
    estimates, errors = replicates(KINDS[kind], p.log_prob, q, 16)
    assert_variance(estimates, exact)
    assert_mean(errors.square(), exact)                              # the square of the standard error is unbiased


@pytest.mark.parametrize("pair", PAIRS)
def test_the_variance_of_k3_is_the_identity_of_the_docstring(pair):
    """Var k3 = Var k1 + χ²(p‖q) − 2 (KL(q‖p) + KL(p‖q)), each term by itself."""
    q, p = PAIRS[pair]
    chi_squared = expectation(lambda z: (2 * ratio(q, p)(z)).exp(), q) - 1
    k1, k3 = exact_variances(q, p)
    torch.testing.assert_close(k3, k1 + chi_squared - 2 * (reverse_kl(p.log_prob, q) + reverse_kl(q.log_prob, p)), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("m", [0.1, 0.5, 1.0, 1.12, 1.13, 1.5])
def test_where_k3_is_the_quieter_one_and_where_not(m):
    """N(0,1) and N(m,1): Var k1 = m², Var k3 = e^{m²} − 1 − m²; they cross where e^{m²} = 1 + 2m², m² = 1.2564."""
    k1, k3 = exact_variances(gaussian(), gaussian(m))
    assert k1.item() == pytest.approx(m**2, rel=1e-9) and k3.item() == pytest.approx(math.expm1(m**2) - m**2, rel=1e-7)
    assert (k3 < k1).item() == (m**2 < 1.2564)


@pytest.mark.parametrize("sigma, finite, reach", [(1.3, True, 20), (1.41, True, 20), (1.42, False, 5), (2.0, False, 5)])
def test_where_p_is_root_two_wider_the_variance_of_k3_has_no_end(sigma, finite, reach):
    """E_q[r²] is an integral of exp((½ − 1/σ²) z²): each doubling of the box adds less, or more.  k1's variance is finite all along."""
    def up_to(reach):
        z = torch.linspace(-reach, reach, 40_001, dtype=torch.float64).unsqueeze(-1)
        q, p = gaussian(), gaussian(0.0, math.log(sigma))
        return torch.trapezoid((2 * p.log_prob(z) - q.log_prob(z)).exp(), z[:, 0])

    added = [(up_to(4 * r) - up_to(2 * r)).item() / (up_to(2 * r) - up_to(r)).item() for r in (reach, 2 * reach)]
    assert max(added) < 0.5 if finite else min(added) > 2
    assert exact_variances(gaussian(), gaussian(0.0, math.log(sigma)))[0].isfinite()


def test_an_unnormalised_p_biases_k3_by_more_than_its_log_evidence():
    """k1 is short of log Z, as is known; k3 gives KL − log Z + Z − 1, which a z-test tells from KL − log Z."""
    (q, p), log_z = PAIRS["one dimension"], 0.4
    joint = lambda z: p.log_prob(z) + log_z  # noqa: E731
    exact = gaussian_kl(q, p)
    assert_mean(replicates(monte_carlo_kl, joint, q, 16)[0], exact - log_z)
    assert_mean(replicates(monte_carlo_kl_k3, joint, q, 16)[0], exact - log_z + math.expm1(log_z))
    with pytest.raises(AssertionError, match="z = "):
        assert_mean(replicates(monte_carlo_kl_k3, joint, q, 16)[0], exact - log_z)
    told = lambda log_p, q, eps: monte_carlo_kl_k3(log_p, q, eps, log_evidence=log_z)  # noqa: E731
    assert_mean(replicates(told, joint, q, 16)[0], exact)


def test_the_wrong_direction_would_be_noticed():
    q, p = PAIRS["one dimension"]
    with pytest.raises(AssertionError, match="z = "):
        assert_mean(replicates(monte_carlo_kl, p.log_prob, q, 16)[0], gaussian_kl(p, q))


@pytest.mark.parametrize("pair", ["one dimension", "mean-field", "full-rank"])
def test_forward_from_draws_of_p_is_unbiased_and_so_is_the_square_of_its_error(pair):
    q, p = PAIRS[pair]
    draws = p.expand(20_000).sample(normal(16, (20_000,), q.dim, generator=seeded(), dtype=torch.float64))
    estimates, errors = monte_carlo_forward_kl(p.log_prob, q.expand(20_000), draws)
    assert_mean(estimates, gaussian_kl(p, q))
    exact = exact_variances(p, q)[0] / 16                                    # Var under p of log q − log p
    assert_variance(estimates, exact)
    assert_mean(errors.square(), exact)
    with pytest.raises(AssertionError, match="z = "):
        assert_mean(estimates, gaussian_kl(q, p))
