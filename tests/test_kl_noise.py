"""The exact noise of k1 and k3: closed forms for Gaussians, and where k3 has no variance."""

import math

import pytest
import torch
from helpers import full_rank, gaussian, mean_field

from vilib import (
    expectation, forward_kl, gaussian_kl, gaussian_target, gumbel_target, log_ratio_moments, reverse_kl, two_component_mixture,
)


@pytest.mark.parametrize("m", [0.1, 1.0, 1.1209, 2.0])
def test_two_gaussians_a_shift_apart(m):
    """Var k1 = m², χ² = e^{m²} − 1, Var k3 = e^{m²} − 1 − m²."""
    found = log_ratio_moments(gaussian_target(), gaussian_target(m), -20, 20)
    assert (found.kl, found.opposite_kl, found.variance) == pytest.approx((m**2 / 2, m**2 / 2, m**2), abs=1e-9)
    assert found.chi_squared == pytest.approx(math.expm1(m**2), rel=1e-9)
    assert found.sd_k1 == pytest.approx(m) and found.sd_k3**2 == pytest.approx(math.expm1(m**2) - m**2, rel=1e-7)


@pytest.mark.parametrize("r", [0.3, 0.8, 1.0, 1.3, 1.9])
def test_two_gaussians_of_different_width(r):
    """σ₀² = r σ², r < 2: −log w = ½(ε²/r − ε² + log r), χ² = 1/√(r (2 − r)) − 1."""
    found = log_ratio_moments(gaussian_target(), gaussian_target(0.0, math.sqrt(r)), -60, 60, 12_001)
    assert found.kl == pytest.approx(0.5 * (1 / r - 1 + math.log(r)), abs=1e-9)
    assert found.variance == pytest.approx(0.5 * (1 / r - 1) ** 2, abs=1e-9)
    assert found.chi_squared == pytest.approx(1 / math.sqrt(r * (2 - r)) - 1, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("kinds", [(mean_field, full_rank), (full_rank, mean_field)], ids=["mean-field first", "full-rank first"])
def test_two_dimensions(kinds):
    q, p = kinds[0](seed=5), kinds[1](seed=6)
    found = log_ratio_moments(q.log_prob, p.log_prob, (-12, -12), (12, 12))
    assert (found.kl, found.opposite_kl) == pytest.approx((gaussian_kl(q, p).item(), gaussian_kl(p, q).item()), abs=1e-5)
    log_w = lambda z: p.log_prob(z) - q.log_prob(z)  # noqa: E731
    mean = expectation(log_w, q)
    assert found.variance == pytest.approx(expectation(lambda z: (log_w(z) - mean) ** 2, q).item(), rel=1e-4)
    if math.isfinite(found.chi_squared):
        assert found.chi_squared == pytest.approx(expectation(lambda z: (2 * log_w(z)).exp(), q).item() - 1, rel=1e-3)


@pytest.mark.parametrize("target", [two_component_mixture(), gumbel_target(-1.5, 2.0)], ids=["mixture", "Gumbel"])
def test_the_two_directions_are_each_others_opposite(target):
    q = gaussian(0.5, math.log(2.2))
    reverse = log_ratio_moments(q.log_prob, target, -45, 45, 9001)
    forward = log_ratio_moments(target, q.log_prob, -45, 45, 9001)
    assert (reverse.kl, reverse.opposite_kl) == pytest.approx((forward.opposite_kl, forward.kl), abs=1e-12)
    assert reverse.kl == pytest.approx(reverse_kl(target, q).item(), abs=1e-7)
    assert forward.kl == pytest.approx(forward_kl(target, q, -30, 45).item(), abs=1e-7)


@pytest.mark.parametrize("sigma, finite", [(1.40, True), (1.42, False), (2.0, False)])
def test_k3_has_no_variance_once_p_is_root_two_times_wider(sigma, finite):
    found = log_ratio_moments(gaussian_target(), gaussian_target(0.0, sigma), -80, 80, 16_001)
    assert math.isfinite(found.sd_k3) == finite and math.isfinite(found.sd_k1)


def test_a_gumbel_tail_against_a_gaussian_one_has_no_variance_either_way():
    p, q = gumbel_target(-1.5, 2.0), gaussian(-0.5, math.log(2.0))
    assert math.isinf(log_ratio_moments(q.log_prob, p, -45, 45).sd_k3)
    assert math.isinf(log_ratio_moments(p, q.log_prob, -45, 45).sd_k3)


def test_products_add_up():
    q, p = mean_field(seed=5), gaussian(0.1, 0.1, 2)
    parts = [log_ratio_moments(type(q)(q.mu[d : d + 1], q.omega[d : d + 1]).log_prob, gaussian(0.1, 0.1).log_prob, -15, 15) for d in (0, 1)]
    whole, product = log_ratio_moments(q.log_prob, p.log_prob, (-12, -12), (12, 12)), parts[0].times(parts[1])
    for name in ("kl", "opposite_kl", "variance", "chi_squared", "sd_k3"):
        assert getattr(whole, name) == pytest.approx(getattr(product, name), rel=1e-4, abs=1e-7), name


def test_where_p_is_q_there_is_no_noise():
    found = log_ratio_moments(gaussian_target(), gaussian_target(), -20, 20)
    assert found.sd_k1 == 0 and found.sd_k3 < 1e-6 and found.kl == pytest.approx(0, abs=1e-12)
    assert isinstance(found.kl, float) and not isinstance(found.kl, torch.Tensor)
