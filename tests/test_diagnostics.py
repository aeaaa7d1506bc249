"""The ELBO with its standard error, and k̂ against its exact values."""

import math
import sys

import pytest
import torch
from helpers import FAMILIES, gaussian, mean_field, readers_model, seeded, tensor
from statistical.ztest import assert_mean

from vilib import (
    FullRankGaussian, GeneratorDeviceError, MeanFieldGaussian, MissingGenerator, MissingPackage, NonFiniteLogJoint, ShapeError,
    correlated_gaussian, elbo_estimate, exact_elbo, gaussian_target, log_weights, logistic_one_coefficient, pareto_k, pareto_k_of,
    two_component_mixture,
)

close = torch.testing.assert_close

try:
    import arviz_stats  # noqa: F401
    HAS_ARVIZ = True
except ImportError:
    HAS_ARVIZ = False
needs_arviz = pytest.mark.skipif(not HAS_ARVIZ, reason="arviz-stats is not installed")


# ---- the ELBO -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target, q", [
    (gaussian_target(1.0, 0.8), gaussian(0.3, -0.4)), (logistic_one_coefficient(), gaussian(-0.5, 0.3)),
    (two_component_mixture(), gaussian(2.0, 0.2)), (correlated_gaussian(0.7), mean_field()),
], ids=lambda x: getattr(x, "name", ""))
def test_the_elbo_is_the_exact_one_and_its_standard_error_is_honest(target, q):
    values, errors = elbo_estimate(target, q.expand(2000), 50, seeded())
    assert_mean(values, exact_elbo(target, q), "elbo")
    ratio = (values.std() / errors.square().mean().sqrt()).item()                       # the sd of 2000 values is known to 1.6 %
    assert ratio == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_and_dtypes(family, batch, dtype):
    q = FAMILIES[family](*batch, dtype=dtype)
    moving = q.with_vector(q.vector().requires_grad_())
    weights = log_weights(readers_model(), moving, 7, seeded())
    assert weights.shape == (7, *batch) and weights.dtype == dtype and not weights.requires_grad
    value, error = elbo_estimate(readers_model(), q, 7, seeded())
    close(value, weights.mean(0))
    close(error, weights.std(0) / math.sqrt(7))


def test_where_q_is_the_posterior_there_is_no_error():
    value, error = elbo_estimate(gaussian_target(2.0, 0.5), gaussian(2.0, math.log(0.5)), 100, seeded())
    assert abs(value) < 1e-12 and error < 1e-12


def test_many_draws_come_in_parts_and_are_the_same(monkeypatch):
    q, whole = mean_field(3), log_weights(correlated_gaussian(), mean_field(3), 96, seeded())
    monkeypatch.setattr("vilib.diagnostics._CHUNK_ELEMENTS", 6 * 32)                # torch fills by 16: other parts, other numbers
    sizes = []
    parts = log_weights(lambda z: sizes.append(len(z)) or correlated_gaussian()(z), q, 96, seeded())
    assert sizes == [32, 32, 32]
    close(parts, whole)


# ---- k̂ -------------------------------------------------------------------------------------------------------------


@needs_arviz
@pytest.mark.parametrize("rho", [0.3, 0.5, 0.7])
def test_k_hat_of_a_correlated_gaussian(rho):
    """k → 1 − λ_min(C^½ Λ C^½): |ρ| with the conditional variances of reverse KL, |ρ|/(1 + |ρ|) with the marginal ones.

    One k̂ of 10⁵ draws has a standard deviation of 0.05: we take the mean of ten.
    """
    target = correlated_gaussian(rho)
    reverse, forward = target.best[0], gaussian(dim=2)
    covariance = tensor([1.0, rho], [rho, 1.0])
    for q, closed_form in [(reverse, rho), (forward, rho / (1 + rho))]:
        root = torch.diag(q.stddev)
        assert 1 - torch.linalg.eigvalsh(root @ covariance.inverse() @ root)[0].item() == pytest.approx(closed_form)
        k_hat = pareto_k_of(target, q.expand(10), 100_000, seeded())
        assert k_hat.shape == (10,) and k_hat.mean().item() == pytest.approx(closed_form, abs=0.1)


@needs_arviz
@pytest.mark.parametrize("shape", [0.3, 0.6, 0.9])
def test_k_hat_of_pareto_weights_is_their_shape_whatever_is_added(shape):
    weights = shape * torch.empty(50_000, 2, dtype=torch.float64).exponential_(generator=seeded())
    k_hat = pareto_k(weights)
    assert k_hat.shape == (2,) and (k_hat - shape).abs().max() < 0.1
    close(pareto_k(weights - 1e4), k_hat, rtol=1e-6, atol=1e-6)
    close(pareto_k(weights.reshape(-1, 2, 1)), k_hat.unsqueeze(-1))
    close(pareto_k(weights[:, 1]), k_hat[1])


@needs_arviz
def test_weights_that_are_alike_have_no_tail():
    q = FullRankGaussian(torch.zeros(2, dtype=torch.float64), torch.linalg.cholesky(tensor([1.0, 0.6], [0.6, 1.0])))
    exact = FullRankGaussian(q.mu, q.raw_tril.tril(-1) + torch.diag_embed(q.raw_tril.diagonal().log()))
    assert pareto_k_of(correlated_gaussian(0.6), exact, 1000, seeded()) == -math.inf
    assert pareto_k(torch.zeros(200, 3)).tolist() == [-math.inf] * 3


@needs_arviz
def test_weights_of_which_a_few_are_everything_have_a_tail_without_end():
    assert pareto_k(5000 * torch.randn(2000, generator=seeded())) == math.inf
    assert 1 < pareto_k(20 * torch.randn(2000, generator=seeded())) < math.inf


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_used_is_refused():
    q, target = gaussian(), gaussian_target()
    with pytest.raises(ShapeError, match="num_samples: a standard error needs at least 2 draws, got 1"):
        elbo_estimate(target, q, 1, seeded())
    with pytest.raises(ShapeError, match="num_samples: at least 1, got 0"):
        log_weights(target, q, 0, seeded())
    with pytest.raises(MissingGenerator, match="generator: expected"):
        elbo_estimate(target, q, 10, None)
    with pytest.raises(GeneratorDeviceError, match="generator: it lives on 'cpu'"):
        elbo_estimate(target, MeanFieldGaussian(torch.zeros(1, device="meta"), torch.zeros(1, device="meta")), 10, seeded())
    with pytest.raises(NonFiniteLogJoint, match="log_joint: returned nan"):
        elbo_estimate(lambda z: z[..., 0] * math.nan, q, 10, seeded())
    with pytest.raises(ShapeError, match=r"log_weights: expected \(S, \*R\) with at least 100 draws, .* got 99"):
        pareto_k(torch.zeros(99))
    with pytest.raises(NonFiniteLogJoint, match="log_weights: some are nan") as caught:
        pareto_k(torch.stack([torch.zeros(200), torch.full((200,), math.nan)], -1))
    assert caught.value.replicates.tolist() == [False, True]


def test_without_arviz_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_stats", None)
    monkeypatch.setitem(sys.modules, "arviz_stats.base", None)
    with pytest.raises(MissingPackage, match="python -m pip install arviz-stats"):
        pareto_k(torch.arange(200.0))
