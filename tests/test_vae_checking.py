"""The marker of VAE losses: right losses pass, and each slip is called by its name."""

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import softplus

from vilib import VAE, BernoulliDecoder, MeanFieldGaussian, analytic_kl, check_vae_loss, sticking_the_landing
from vilib.vae_checking import VAE_SLIPS


def draws(mu, omega, eps):
    return mu + omega.exp() * eps


def fit(decode, x, z):
    """(S, N)"""
    logits = decode(z)
    return (x * logits - softplus(logits)).sum(-1)


def kl(mu, omega):
    """(N)"""
    return (0.5 * ((2 * omega).exp() + mu**2 - 1) - omega).sum(-1)


def closed_form(decode, x, mu, omega, eps):
    return kl(mu, omega).mean() - fit(decode, x, draws(mu, omega, eps)).mean()


def by_draws(decode, x, mu, omega, eps, constant_of_p=0.0, constant_of_q=0.0):
    """Both densities of the KL at the draws, each with a constant for each coordinate."""
    z = draws(mu, omega, eps)
    log_p = (-0.5 * z.square() - constant_of_p).sum(-1)
    log_q = (-0.5 * eps**2 - omega - constant_of_q).sum(-1)
    return -(fit(decode, x, z) + log_p - log_q).mean()


def by_vilib(estimator):
    def loss(decode, x, mu, omega, eps):
        class Body(torch.nn.Module):
            def forward(self, z):
                return decode(z)

        vae = VAE(torch.nn.Identity(), BernoulliDecoder(Body()))
        return -estimator(vae.log_joint(x), MeanFieldGaussian(mu, omega), eps).mean()

    return loss


RIGHT = {"closed form": closed_form, "by draws": by_draws, "analytic_kl": by_vilib(analytic_kl), "stl": by_vilib(sticking_the_landing)}


def pixels(decode, x, mu, omega, eps):
    return cross_entropy(decode(draws(mu, omega, eps)), x.expand(len(eps), *x.shape), reduction="none")


WRONG = {
    "wrong sign": lambda *a: -closed_form(*a),
    "no KL": lambda d, x, m, o, e: pixels(d, x, m, o, e).sum(-1).mean(),
    "KL with the wrong sign": lambda d, x, m, o, e: pixels(d, x, m, o, e).sum(-1).mean() - kl(m, o).mean(),
    "mean over pixels": lambda d, x, m, o, e: pixels(d, x, m, o, e).mean() + kl(m, o).mean(),
    "mean over pixels and latents": lambda d, x, m, o, e: pixels(d, x, m, o, e).mean() + kl(m, o).mean() / m.shape[1],
    "mean over latents": lambda d, x, m, o, e: pixels(d, x, m, o, e).sum(-1).mean() + kl(m, o).mean() / m.shape[1],
    "pixels and pictures exchanged": lambda d, x, m, o, e: pixels(d, x, m, o, e).sum(-2).mean() + kl(m, o).mean(),
    "sum over pictures": lambda *a: len(a[1]) * closed_form(*a),
    "likelihood summed over pictures": lambda d, x, m, o, e: pixels(d, x, m, o, e).sum((-2, -1)).mean() + kl(m, o).mean(),
    "KL summed over pictures": lambda d, x, m, o, e: pixels(d, x, m, o, e).sum(-1).mean() + kl(m, o).sum(),
    "sum over draws": lambda d, x, m, o, e: pixels(d, x, m, o, e).sum((0, -1)).mean() + kl(m, o).mean(),
    "sum over pictures and draws": lambda d, x, m, o, e: pixels(d, x, m, o, e).sum() + kl(m, o).sum(),
    "KL without its −1": lambda d, x, m, o, e: pixels(d, x, m, o, e).sum(-1).mean() + (0.5 * ((2 * o).exp() + m**2) - o).sum(-1).mean(),
    "½ log 2π in the prior alone": lambda *a: by_draws(*a, constant_of_p=0.5 * math.log(2 * math.pi)),
    "½ log 2π in q alone": lambda *a: by_draws(*a, constant_of_q=0.5 * math.log(2 * math.pi)),
    "KL without its half": lambda d, x, m, o, e: pixels(d, x, m, o, e).sum(-1).mean() + 2 * kl(m, o).mean(),
    "omega as log variance":
        lambda d, x, m, o, e: pixels(d, x, m, o, e).sum(-1).mean() + 0.5 * (o.exp() + m**2 - 1 - o).sum(-1).mean(),
    "omega as log variance, everywhere": lambda d, x, m, o, e: closed_form(d, x, m, o / 2, e),
    "variance for standard deviation": lambda d, x, m, o, e: kl(m, o).mean() - fit(d, x, m + (2 * o).exp() * e).mean(),
    "draws with omega": lambda d, x, m, o, e: kl(m, o).mean() - fit(d, x, m + o * e).mean(),
    "no noise": lambda d, x, m, o, e: kl(m, o).mean() - fit(d, x, m.unsqueeze(0)).mean(),
    "probabilities for logits": lambda d, x, m, o, e: closed_form(lambda z: d(z).sigmoid(), x, m, o, e),
    "ink and page exchanged": lambda d, x, m, o, e: closed_form(d, 1 - x, m, o, e),
    "page left out": lambda d, x, m, o, e: kl(m, o).mean() + (x * softplus(-d(draws(m, o, e)))).sum(-1).mean(),
    "detached draws": lambda d, x, m, o, e: kl(m, o).mean() - fit(d, x, draws(m, o, e).detach()).mean(),
    "no gradient": lambda *a: closed_form(*a).detach(),
    "gradient": lambda d, x, m, o, e: kl(m, o.detach()).mean() - fit(d, x, draws(m, o, e)).mean(),
    "shape": lambda d, x, m, o, e: kl(m, o) - fit(d, x, draws(m, o, e)).mean(0),
    "not finite": lambda *a: closed_form(*a) / 0,
    "raises": lambda d, x, m, o, e: kl(m, o).mean() - fit(d, x.T, draws(m, o, e)).mean(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_loss_passes(name):
    report = check_vae_loss(RIGHT[name])
    assert report and report.slip is None and report.largest_z < report.threshold, report
    assert str(report).startswith("✓ Right.")


@pytest.mark.parametrize("name", WRONG)
def test_each_slip_is_called_by_its_name(name):
    report = check_vae_loss(WRONG[name])
    assert not report and report.slip == name, report
    assert str(report).startswith("✗ Not yet.")


def test_every_slip_that_is_known_has_its_mutant():
    assert set(VAE_SLIPS) <= set(WRONG)


def test_what_nothing_explains_is_told_with_its_terms():
    report = check_vae_loss(lambda *a: 0.7 * closed_form(*a))
    assert not report and report.slip is None
    assert "No single slip" in str(report) and "mean log likelihood" in str(report)


def test_the_wrong_shape_is_told_what_was_expected():
    assert "returned shape (5,), expected one number, shape ()" in " ".join(str(check_vae_loss(WRONG["shape"])).split())


def test_the_same_seed_gives_the_same_report_and_the_global_seed_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert str(check_vae_loss(by_draws)) == str(check_vae_loss(by_draws)) != str(check_vae_loss(by_draws, seed=1))
    assert torch.equal(before, torch.get_rng_state())
