"""Exact marginals against posteriordb's NUTS summaries, the third data set against the reader's own form, and choices side by side."""

import math

import posteriordb
import pytest
import torch
from helpers import seeded, tensor
from statistical.ztest import assert_mean

from vilib import (
    FullRankGaussian, MeanFieldGaussian, ShapeError, Tempered, VilibError, adagrad, adam, advi, eight_schools, fit, gaussian_target, kidiq,
    mixture_of_two, normal, optimizers_side_by_side, pathwise, reference_marginal, sgd, transformed_moments,
)

#: An sd of 10,000 draws of NUTS is good to about one per cent, a mean to about 0.02 sd: four times that.
CLOSE = {"mean": 0.08, "sd": 0.04}


@pytest.mark.parametrize("name, known", [
    ("kidiq", [kidiq().reference["beta[1]"], kidiq().reference["beta[2]"]]),
    ("eight schools", [eight_schools().reference["mu"], eight_schools().reference["tau"]]),
    ("mixture of two", [mixture_of_two().reference["mu[1]"], mixture_of_two().reference["mu[2]"]]),
])
def test_a_marginal_has_the_means_and_sds_of_posteriordb(name, known):
    exact = reference_marginal(name)
    assert exact.probability.sum().item() == pytest.approx(1)
    for mean, sd, of_nuts in zip(exact.mean.tolist(), exact.sd.tolist(), known):
        assert abs(mean - of_nuts["mean"]) < CLOSE["mean"] * of_nuts["sd"] and sd == pytest.approx(of_nuts["sd"], rel=CLOSE["sd"])


def test_the_centred_marginal_is_the_raw_one_moved():
    raw, centred = reference_marginal("kidiq"), reference_marginal("kidiq, centred")
    assert centred.mean[1].item() == pytest.approx(raw.mean[1].item(), rel=1e-3) and centred.sd[1].item() == pytest.approx(raw.sd[1].item(), rel=2e-3)
    shift = kidiq().data["x"].mean().item()
    assert centred.mean[0].item() == pytest.approx((raw.mean[0] + shift * raw.mean[1]).item(), rel=1e-3)


def test_the_quantiles_of_tau_are_those_of_nuts():
    exact, known = reference_marginal("eight schools"), eight_schools().reference["tau"]
    below = exact.probability.sum(1).cumsum(0)
    for name, share in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95)):
        at = exact.y[int((below < share).sum())].item()
        assert at == pytest.approx(known[name], abs=0.1 + 0.03 * known[name])


def test_depth_encloses_the_mass():
    exact = reference_marginal("kidiq, centred")
    for mass in (0.393, 0.865):
        inside = exact.probability[-exact.probability.log() <= exact.depth(mass)].sum().item()
        assert inside == pytest.approx(mass, abs=1e-3)


def test_an_unknown_name_is_refused():
    with pytest.raises(VilibError, match="'eight schools' or 'mixture of two', got 'nine'"):
        reference_marginal("nine")


def test_the_mixture_is_the_readers_own():
    mine, of_reader = mixture_of_two(), posteriordb.low_dim_gauss_mix()
    z = tensor(-2.7, 1.7, 0.0, 0.0, 0.5) + 0.3 * torch.randn(8, 5, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(mine(z), of_reader.model(z), rtol=1e-7, atol=1e-4)
    assert mine.reference == of_reader.reference


@pytest.fixture(scope="module")
def mixture_fit():
    return advi(mixture_of_two(), family=FullRankGaussian, generator=seeded(), num_draws=20_000, progress=False)


def test_the_two_means_are_all_but_uncorrelated(mixture_fit):
    """The 0.05 of reference_marginal: draws of the full-rank q, corrected by their weights, which are nearly alike."""
    w = torch.softmax(mixture_fit.log_weights, 0)
    assert 1 / w.square().sum() > 0.9 * len(w)
    off = mixture_fit.draws["mu"] - (w @ mixture_fit.draws["mu"])
    covariance = off.mT @ (w.unsqueeze(-1) * off)
    assert (covariance[0, 1] / covariance.diagonal().prod().sqrt()).item() == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize("through", ["", "exp", "ordered", "sigmoid"])
def test_transformed_moments_are_those_of_draws(through):
    m, tril = tensor(0.3, -0.4), tensor(0.6, 0.0, 0.3, 0.5).reshape(2, 2)
    mean, sd = transformed_moments(through, m.unsqueeze(0), tril.unsqueeze(0))
    z = m + normal(200_000, (), 2, generator=seeded(), dtype=torch.float64) @ tril.mT
    u, v = z.unbind(-1)
    draws = {"": (u, v), "exp": (u, v.exp()), "ordered": (u, u + v.exp()), "sigmoid": (torch.sigmoid(u),)}[through]
    for i, x in enumerate(draws):
        assert_mean(x, mean[0, i].item())
        assert_mean((x - mean[0, i]).square(), sd[0, i].item() ** 2)
    assert bool(mean[0, 1].isnan()) == (through == "sigmoid")


def test_three_optimisers_side_by_side_are_the_three_alone():
    each = [sgd(0.1), adagrad(0.1), adam(0.1)]
    q0 = MeanFieldGaussian(torch.zeros(3, 2, 1), torch.zeros(3, 2, 1))
    options = dict(num_samples=4, num_steps=30)
    frozen = normal(4, (3, 2), 1, generator=seeded())
    noise = lambda s, batch, dim, **_: frozen[:, : batch[0]] if len(batch) == 2 else frozen[:, 0]  # noqa: E731
    noise.__name__ = "frozen"
    together = fit(pathwise, gaussian_target(1.0, 2.0), q0, optimizer=optimizers_side_by_side(each), generator=seeded(),
                   noise=lambda s, batch, dim, **_: frozen, **options)
    for i, optimizer in enumerate(each):
        alone = fit(pathwise, gaussian_target(1.0, 2.0), MeanFieldGaussian(q0.mu[i], q0.omega[i]), optimizer=optimizer, generator=seeded(),
                    noise=lambda s, batch, dim, i=i, **_: frozen[:, i], **options)
        torch.testing.assert_close(together.path[:, i], alone.path)
    with pytest.raises(ShapeError, match=r"expected a batch \(3, \*R\)"):
        optimizers_side_by_side(each).init(torch.zeros(2, 4))


def test_a_tempered_target_ends_at_one_over_root_beta_and_the_clock_turns_once_a_step():
    powers = []
    def power(step):
        powers.append(step)
        return torch.tensor([1.0, 0.25])
    target = Tempered(gaussian_target(), power)
    q0 = MeanFieldGaussian(torch.zeros(2, 1), torch.zeros(2, 1))
    done = fit(pathwise, target, q0, num_samples=64, num_steps=300, optimizer=adam(0.03), generator=seeded(), noise=target.noise)
    assert done.q.stddev[:, 0].tolist() == pytest.approx([1.0, 2.0], rel=0.06)
    assert max(powers) == 300 and set(powers) == set(range(301)) and math.isfinite(float(done.elbo.sum()))
