"""The Laplace approximation against closed forms, and what it says where there is none."""

import math

import pytest
import torch
from helpers import readers_model, seeded, tensor
from torch.distributions import constraints

from vilib import (
    FullRankGaussian, Model, NoMode, NonFiniteLogJoint, ShapeError, coin_toss, correlated_gaussian, exact_elbo, gaussian_target, kidiq,
    laplace, logistic_one_coefficient, two_component_mixture,
)

close = torch.testing.assert_close
ZERO = tensor(0.0)


def in_theta(alpha: float, beta: float):
    """The density of a Beta(alpha, beta) as a function of θ itself, not normalised."""
    return lambda z: (alpha - 1) * z[..., 0].log() + (beta - 1) * torch.log1p(-z[..., 0])


# ---- where it is exact ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target, mean, sd", [(gaussian_target(2.0, 3.0), 2.0, 3.0), (gaussian_target(-40.0, 0.01), -40.0, 0.01)])
def test_it_is_exact_on_a_gaussian(target, mean, sd):
    found = laplace(target, ZERO)
    assert (found.q.mean.item(), found.q.stddev.item(), found.log_evidence.item()) == pytest.approx((mean, sd, 0.0), abs=1e-9)


@pytest.mark.parametrize("rho", [0.0, 0.9, -0.999])
def test_it_has_the_correlations_of_a_gaussian(rho):
    found = laplace(correlated_gaussian(rho, (1.0, 0.1)), tensor(3.0, -7.0))
    close(found.q.covariance, tensor([1.0, 0.1 * rho], [0.1 * rho, 0.01]), rtol=1e-8, atol=1e-10)
    assert isinstance(found.q, FullRankGaussian) and found.log_evidence.item() == pytest.approx(0.0, abs=1e-9)
    assert exact_elbo(correlated_gaussian(rho, (1.0, 0.1)), found.q).item() == pytest.approx(0.0, abs=1e-9)


# ---- the coin, in θ and in logit θ ----------------------------------------------------------------------------------


def test_the_coin_in_theta():
    """Mode (α−1)/(α+β−2) and variance m(1−m)/(α+β−2)."""
    found = laplace(in_theta(16, 14), tensor(0.3))
    assert (found.q.mean.item(), found.q.stddev.item()) == pytest.approx((15 / 28, math.sqrt(15 * 13 / 28**3)), abs=1e-9)
    assert (found.q.mean.item(), found.q.stddev.item()) == pytest.approx((0.535714, 0.094250), abs=1e-6)


def test_the_coin_in_logit_theta():
    """Mode log(α/β) and precision αβ/(α+β)."""
    coin = coin_toss(6, 4)
    found = laplace(coin, ZERO)
    assert (found.q.mean.item(), found.q.stddev.item()) == pytest.approx((math.log(16 / 14), math.sqrt(30 / 224)), abs=1e-9)
    assert (found.q.mean.item(), found.q.stddev.item()) == pytest.approx((0.133531, 0.365963), abs=1e-6)
    by_hand = coin(found.q.mean).item() + 0.5 * math.log(2 * math.pi) + math.log(found.q.stddev.item())
    assert found.log_evidence.item() == pytest.approx(by_hand, abs=1e-12)
    assert abs(found.log_evidence.item() - coin.log_evidence) < 0.01


def test_without_the_jacobian_it_is_neither():
    """The density of θ itself, drawn against logit θ, has its mode where θ has: log(15/13), not log(16/14)."""
    no_jacobian = lambda z: coin_toss(6, 4).model.log_joint({"theta": torch.sigmoid(z[..., 0])})  # noqa: E731
    assert laplace(no_jacobian, ZERO).q.mean.item() == pytest.approx(math.log(15 / 13), abs=1e-9)


def test_the_evidence_improves_like_one_over_n():
    """Stirling: log Γ(n) by Laplace on the log scale is short by 1/(12n) + O(n⁻³)."""
    errors = [math.lgamma(n) - laplace(lambda z: n * z[..., 0] - z[..., 0].exp(), ZERO).log_evidence.item() for n in (10.0, 100.0)]
    assert errors == pytest.approx([1 / 120 - 1 / 360e3, 1 / 1200], rel=1e-4)


# ---- shapes, dtypes, devices ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))])
@pytest.mark.parametrize("dtype, accuracy", [(torch.float32, 2e-3), (torch.float64, 1e-7)])
def test_a_batch_is_as_many_problems(batch, device, dtype, accuracy):
    model, start = readers_model(), 0.5 * torch.randn(*batch, 2, generator=seeded(), dtype=torch.float64)
    one = laplace(model, tensor(0.0, 0.0))
    found = laplace(model, start.to(device, dtype))
    assert found.q.batch_shape == found.log_evidence.shape == batch
    assert found.q.mu.dtype == found.log_evidence.dtype == dtype and found.q.mu.device.type == device
    assert not found.q.mu.requires_grad
    for got, wanted in [(found.q.mean, one.q.mean), (found.q.covariance, one.q.covariance), (found.log_evidence, one.log_evidence)]:
        close(got.double().cpu(), wanted.expand_as(got), rtol=accuracy, atol=accuracy)


def test_each_problem_of_a_batch_may_have_its_own_data():
    heads, tails = tensor(6.0, 0.0, 24.0), tensor(4.0, 12.0, 1.0)
    found = laplace(coin_toss(heads, tails, (1.0, 1.0)), torch.zeros(3, 1, dtype=torch.float64))
    for i in range(3):
        alone = laplace(coin_toss(heads[i], tails[i], (1.0, 1.0)), ZERO)
        assert found.q.mean[i].item() == pytest.approx(alone.q.mean.item(), abs=1e-9)
        assert found.log_evidence[i].item() == pytest.approx(alone.log_evidence.item(), abs=1e-9)


def test_kidiq_from_far_away():
    """Flat prior on β: given σ it is Gaussian, and its conditional covariance is σ² (XᵀX)⁻¹."""
    example = kidiq()
    found = laplace(example, tensor(0.0, 0.0, 0.0))
    x = torch.stack([torch.ones(434, dtype=torch.float64), example.data["x"]], -1)
    beta = torch.linalg.lstsq(x, example.data["y"].unsqueeze(-1)).solution[:, 0]
    close(found.q.mean[:2], beta, rtol=1e-7, atol=1e-7)
    close(found.q.covariance[:2, :2], found.q.mean[2].exp() ** 2 * (x.mT @ x).inverse(), rtol=1e-6, atol=1e-9)
    for name, sd in zip(("beta[1]", "beta[2]"), found.q.stddev.tolist()):
        assert sd == pytest.approx(example.reference[name]["sd"], rel=0.05)


def test_the_start_decides_the_mode():
    mixture = two_component_mixture()
    modes = laplace(mixture, tensor([-2.0], [2.0])).q.mean[:, 0]
    assert modes.tolist() == pytest.approx([-3.0, 3.0], abs=1e-5) and modes[0].item() == pytest.approx(-modes[1].item(), abs=1e-9)
    # either of them alone sees its own half of the mass
    assert laplace(mixture, tensor(2.0)).log_evidence.item() == pytest.approx(-math.log(2), abs=1e-3)


def test_an_inflection_on_the_way_does_not_stop_it():
    """Between the modes the log joint is curved upward, and Newton's own step would go downhill."""
    assert laplace(two_component_mixture(), tensor(0.1)).q.mean.item() == pytest.approx(3.0, abs=1e-5)
    assert laplace(logistic_one_coefficient(), tensor(300.0)).q.mean.item() == pytest.approx(0.401, abs=1e-3)


# ---- where there is none --------------------------------------------------------------------------------------------

rises = "no mode found in 100 steps or within |z| < 1e\\+08. At z = .* it still rises; .* posterior sds away"


@pytest.mark.parametrize("log_joint, start, message", [
    (lambda z: z.sum(-1), tensor(0.0, 0.0), rises),                                                  # improper
    (lambda z: -z[..., 0].exp(), tensor(0.0), rises),                                                # flat at −∞
    (in_theta(1.0, 5.0), tensor(0.5), rises),                                                        # top at the edge
    (in_theta(0.5, 5.0), tensor(0.1), rises),                                                        # unbounded at the edge
    (lambda z: -z.abs().sum(-1), tensor(0.7), rises),                                                # a kink
    (two_component_mixture(), tensor(0.0), "slope is zero, but it is not curved downward .* saddle"),
    (lambda z: -z.sum(-1).square(), tensor(1.0, 0.0), "eigenvalues go from -4 to .* flat ridge"),
    (lambda z: 0.5 * (z[..., 0].square() - z[..., 1].square()), tensor(0.0, 1.0), "go from -1 to 1, .* saddle"),
    (lambda z: -z[..., 0] ** 4, tensor(1.0), "curvature changes by a tenth or more .* vanishes"),
    (lambda z: 2 * z[..., 0] - z[..., 0].abs() ** 1.5, tensor(0.0), "derivatives are not finite at z = \\[0.0\\]"),
], ids=["line", "plateau", "edge", "pole", "kink", "minimum", "ridge", "saddle", "quartic", "root"])
def test_where_there_is_no_gaussian_it_says_so(log_joint, start, message):
    with pytest.raises(NoMode, match=message) as raised:
        laplace(log_joint, start)
    assert raised.value.z.shape == start.shape and raised.value.replicates.all()


def test_a_batch_says_which_of_its_problems_failed():
    with pytest.raises(NoMode, match="saddle") as raised:
        laplace(two_component_mixture(), tensor([1.0], [0.0], [-1.0]))
    assert raised.value.replicates.tolist() == [False, True, False]


def test_a_model_whose_density_has_no_bound():
    """θ^{−3} on the positive line, which rises without end towards zero."""
    model = Model(lambda theta: -3 * theta["tau"].log() - theta["tau"], {"tau": constraints.positive})
    with pytest.raises(NoMode, match="derivatives are not finite .* the density may rise without bound"):
        laplace(model, ZERO)


def test_bad_arguments():
    with pytest.raises(ShapeError, match=r"start: expected floating-point numbers \(\*R, D\), got torch.int64 of shape \(1,\)"):
        laplace(gaussian_target(), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ShapeError, match="got list"):
        laplace(gaussian_target(), [0.0])
    with pytest.raises(NonFiniteLogJoint, match="returned nan at z = \\[-1.0\\]"):
        laplace(in_theta(3, 3), tensor(-1.0))
