"""What the chapter ``vae`` says in words, held against closed forms, quadrature and its own explorable."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from chapters import decimals
from helpers import seeded
from torch.nn.utils import parameters_to_vector

from vilib import (
    LinearVAE, MeanFieldGaussian, analytic_kl, check_vae_loss, data_log_evidence, digit_vae, digits, gauss_hermite,
    kl_to_standard_normal, normal, ppca, total_derivative,
)
from vilib.digit_vae import binary_digits
from vilib.explorables.gallery.latent_map import LABELS, NUM_TRAINING, TRAINING, compute


# ---- the page itself -------------------------------------------------------------------------------------------------


def test_every_cell_and_every_solution_runs(executed):
    assert len(executed.printed) > 15 and executed.marks == (3, 4)
    assert "nan" not in executed.everything and "under a minute: True" in executed.everything


def test_the_training_of_the_page_is_that_of_the_explorable(executed):
    mine, kept = (parameters_to_vector(vae.parameters()).detach() for vae in (executed.space["vae"], digit_vae()))
    torch.testing.assert_close(kept, mine, rtol=2.0**-11, atol=1e-4)


@pytest.mark.covers("4.4", "4.5")
def test_closed_forms_agree_with_a_million_draws(executed):
    rows = executed.output("1_000_000").splitlines()[1:]
    assert len(rows) == 3
    for row in rows:
        closed, quadrature, drawn, error = decimals(row)
        assert closed == pytest.approx(quadrature, abs=2e-5) and abs(closed - drawn) < 6 * error


@pytest.mark.covers("4.3", "4.6")
def test_what_training_brought(executed):
    trained, held_out, pixels = (decimals(line) for line in executed.output("def two_terms").splitlines()[1:])
    for fit, cost, elbo in (trained, held_out):
        assert fit - cost == pytest.approx(elbo, abs=0.011)
    assert held_out[2] - pixels[0] == pytest.approx(3.9, abs=0.1)                       # "nearly four nats"
    assert trained[2] - held_out[2] == pytest.approx(1.5, abs=0.1)                      # "one and a half nats"


def test_how_far_the_elbo_is(executed):
    first, second = (decimals(line) for line in executed.output("median gap").splitlines())
    log_p, elbo, gap = first
    median, smallest, largest = second
    assert gap == pytest.approx(log_p - elbo, abs=0.011) and 1 < gap < 2
    assert 0 < smallest < median < 1 and largest > 10
    whole, family, encoder = decimals(executed.output("of the encoder").partition("gap")[2])
    assert whole == pytest.approx(family + encoder, abs=0.011) and encoder > family > 0


def test_ten_weights_take_away_more_than_half_of_the_gap(executed):
    bounds = decimals(executed.output("for K in (1, 10, 100, 1000)"))
    *bounds, log_p = bounds
    assert bounds == sorted(bounds) and bounds[-1] < log_p
    elbo = decimals(executed.output("median gap").splitlines()[0])[1]
    assert bounds[1] - elbo > 0.5 * (log_p - elbo) and log_p - bounds[3] == pytest.approx(0.1, abs=0.05)


@pytest.mark.covers("4.6")
def test_the_linear_vae_reaches_the_summit(executed):
    *rows, summit = (decimals(line) for line in executed.output("summit.log_likelihood / len(grey)").splitlines()[1:])
    assert summit[0] == pytest.approx(rows[-1][0], abs=5e-5) and summit[1] == pytest.approx(rows[-1][2], abs=2e-5)
    for elbo, evidence, _, _ in rows:
        assert elbo <= evidence + 1e-5 <= summit[0] + 2e-5
    assert abs(rows[-1][3]) < 0.005 < abs(rows[-2][3]), "the rotation comes last"
    assert rows[-2][2] == pytest.approx(summit[1], abs=2e-5), "the noise is there before it"


def test_collapse_as_it_is_told(executed):
    *rows, last = (decimals(line) for line in executed.output("64 independent pixels {no_latent:17").splitlines()[1:])
    betas = {row[0]: row[1:] for row in rows}
    assert betas[6.0][1] == 0 and max(betas[6.0][4:]) < 5e-5
    assert betas[6.0][2] == pytest.approx(last[0], abs=0.02), "what is left is the table of frequencies"
    assert max(betas, key=lambda b: betas[b][2]) == 1.0 and max(betas, key=lambda b: betas[b][3]) == 0.25


def test_the_closed_kl_is_the_noisier_one(executed):
    closed, drawn = (decimals(line) for line in executed.output('"closed form": analytic_kl').splitlines())
    assert closed[1] > 1.2 * drawn[1] and closed[0] == pytest.approx(drawn[0], abs=0.02)


# ---- the derivations -------------------------------------------------------------------------------------------------


@pytest.mark.covers("4.2")
def test_all_minibatches_together_are_the_data():
    """thm-vae-minibatch, value and gradient, by enumeration."""
    vae, x = digit_vae().requires_grad_(True), binary_digits()[1][:5]
    eps = normal(2, (5,), 2, generator=seeded(0), dtype=torch.float64)

    def gradient(rows):
        value = vae.elbo(x[rows], eps[:, rows]).mean()
        return torch.cat([value.reshape(1), *(g.reshape(-1) for g in torch.autograd.grad(value, list(vae.parameters())))])

    every = torch.stack([gradient(list(rows)) for rows in combinations(range(5), 2)])
    torch.testing.assert_close(every.mean(0), gradient(list(range(5))), rtol=1e-10, atol=1e-12)


def test_the_constants_leave_a_half_for_each_coordinate():
    q = MeanFieldGaussian(torch.tensor([0.3, -2.0, 0.0]).double(), torch.tensor([-1.0, 0.4, 0.0]).double())
    log_two_pi, sigma2 = math.log(2 * math.pi), (2 * q.omega).exp()
    prior = -0.5 * (sigma2 + q.mu**2).sum() - 1.5 * log_two_pi
    encoder = -q.omega.sum() - 1.5 * (1 + log_two_pi)
    torch.testing.assert_close(encoder, -q.entropy())
    torch.testing.assert_close(encoder - prior, kl_to_standard_normal(q))


@pytest.mark.parametrize("rotation", [0.0, 0.7])
def test_only_orthogonal_columns_make_the_linear_bound_tight(rotation):
    """thm-vae-linear: the maximiser rotated has the same likelihood, and with the best encoder a gap unless it is not rotated."""
    x = digits()[0].double()
    exact, vae = ppca(x, 2), LinearVAE(64, 2, generator=seeded(0), dtype=torch.float64)
    turn = torch.tensor([[math.cos(rotation), -math.sin(rotation)], [math.sin(rotation), math.cos(rotation)]]).double()
    with torch.no_grad():
        vae.decoder.body[0].weight.copy_(exact.weights @ turn), vae.decoder.body[0].bias.copy_(exact.mean)
        vae.decoder.log_scale.copy_(0.5 * exact.noise_variance.log())
        posterior = vae.exact_posterior(x)
        best = MeanFieldGaussian(posterior.mean, -0.5 * torch.linalg.inv(posterior.scale_tril @ posterior.scale_tril.mT).diagonal(dim1=-2, dim2=-1).log())
        gap = (vae.exact_log_evidence(x) - vae.exact_elbo(x, best)).mean().item()
        assert vae.exact_log_evidence(x).sum().item() == pytest.approx(exact.log_likelihood, abs=1e-6)
    assert gap == pytest.approx(0, abs=1e-10) if rotation == 0 else gap > 1e-5


@pytest.mark.parametrize("s", [0.5, 0.2, 0.99, 0.0001])
def test_the_integral_of_a_grey_bernoulli(s):
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    integral = torch.trapezoid(s**x * (1 - s) ** (1 - x), x).item()
    formula = 0.5 if s == 0.5 else (2 * s - 1) / math.log(s / (1 - s))
    assert integral == pytest.approx(formula, rel=1e-6) and integral <= 0.5 + 1e-9


# ---- what the prompts of the explorable promise ----------------------------------------------------------------------


def last(frame, name: str) -> float:
    return float(frame[name][-1])


def test_prompt_from_one_kind_to_another():
    row = {z1: compute(z1, 0.6, "3", 1.0) for z1 in (-2.4, -0.6, 0.0, 0.6, 1.8)}
    assert [last(row[z1], "nearest_z") for z1 in (-2.4, 0.0, 0.6, 1.8)] == [0, 9, 1, 6]
    assert (last(row[-2.4], "votes_z"), last(row[-0.6], "votes_z")) == (25, 9)


def test_prompt_order_without_labels():
    frame = compute(-1.8, 0.6, "3", 1.0)
    drawn = frame["drawn"].reshape(64, 7)
    assert (drawn[:, 0].min(), drawn[:, 0].max()) == pytest.approx((0.35, 0.66), abs=5e-3)
    assert frame["elbo_held_out"][[0, 1]] == pytest.approx([-45.6, -29.4], abs=0.05)
    assert 64 * math.log(0.5) == pytest.approx(-44.4, abs=0.05)
    assert frame["epochs"][[2, 4]].tolist() == [3, 30]
    assert frame["nearest_z"][[2, 4]].tolist() == [0, 0] and frame["votes_z"][[2, 4]].tolist() == [13, 25]
    corners = [compute(z1, z2, "3", 1.0)["drawn"].reshape(64, 7)[:, 1] for z1 in (-1.2, 1.2) for z2 in (-1.2, 1.2)]
    mean = TRAINING.mean(0).numpy()
    for one in corners:                                                    # "mostly the mean picture, whatever z is"
        assert np.corrcoef(one, mean)[0, 1] > 0.85


def test_prompt_pay_more_for_the_code():
    sd, kl, heap = {}, {}, {}
    for beta in (1.0, 3.0, 6.0):
        frame = compute(-1.8, 0.6, "3", beta)
        sd[beta], kl[beta] = frame["q"].reshape(5, 7)[[2, 4], -1], last(frame, "kl_x")
        heap[beta] = digit_vae(beta).encode(TRAINING).mu.norm(dim=1).max().item()
    assert sd[1.0] == pytest.approx([0.25, 0.46], abs=6e-3) and sd[3.0] == pytest.approx([0.56, 0.56], abs=1.5e-2)
    assert sd[6.0] == pytest.approx([1, 1], abs=5e-3) and [kl[b] for b in (1.0, 3.0, 6.0)] == [3.14, 1.34, 0.0]
    assert heap[6.0] < 0.02
    cost = compute(-1.8, 0.6, "3", 3.0)["kl_training"]
    assert (cost[0], cost[2]) == pytest.approx((0.12, 0.04), abs=5e-3) and cost[2] == min(cost) and cost[-1] > 1


def test_prompt_pay_less():
    cheap, plain = compute(-1.8, 0.6, "3", 0.25), compute(-1.8, 0.6, "3", 1.0)
    for name, values in {"reconstruction_held_out": (-17.35, -17.54), "reconstruction_training": (-14.15, -15.92), "kl_held_out": (5.16, 3.19),
                         "elbo_held_out": (-22.51, -20.73)}.items():
        assert (last(cheap, name), last(plain, name)) == pytest.approx(values, abs=6e-3), name
    size = lambda beta: digit_vae(beta).encode(TRAINING).mu.norm(dim=1).quantile(0.9).item()  # noqa: E731
    assert size(0.25) > 2 > 1.9 and size(0.25) > size(1.0)


def test_prompt_far_from_everything():
    frame = compute(3.6, -3.6, "3", 1.0)
    drawn = frame["drawn"].reshape(64, 7)[:, -1]
    assert last(frame, "nearest_z") == 2 and last(frame, "distance_z") == pytest.approx(2.6, abs=0.05)
    assert ((drawn < 0.1) | (drawn > 0.9)).mean() > 0.75, "firm black and white"
    assert math.exp(-(3.6**2 + 3.6**2) / 2) == pytest.approx(2e-6, abs=5e-7)
    assert (LABELS[:NUM_TRAINING] >= 0).all()


# ---- exercises -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu, sigma", [(0.7, 0.3), (-1.5, 1.0), (0.0, 0.2), (0.0, 1.0)])
def test_the_variance_of_a_sampled_kl(mu, sigma):
    nodes, weights = gauss_hermite(1, 20)
    eps = nodes[:, 0]
    values = -math.log(sigma) - 0.5 * eps**2 + 0.5 * (mu + sigma * eps) ** 2
    mean = (weights * values).sum()
    variance = (weights * (values - mean) ** 2).sum().item()
    assert variance == pytest.approx(mu**2 * sigma**2 + 0.5 * (sigma**2 - 1) ** 2, abs=1e-10)
    q = MeanFieldGaussian(torch.tensor([mu]).double(), torch.tensor([sigma]).double().log())
    torch.testing.assert_close(mean, kl_to_standard_normal(q))


def test_the_gradient_of_the_kl():
    mu, omega = (torch.tensor([a, b], dtype=torch.float64, requires_grad=True) for a, b in ((0.4, -1.0), (0.3, -0.7)))
    of_mu, of_omega = torch.autograd.grad(kl_to_standard_normal(MeanFieldGaussian(mu, omega)), (mu, omega))
    torch.testing.assert_close(of_mu, mu.detach())
    torch.testing.assert_close(of_omega, (2 * omega.detach()).exp() - 1)


def test_a_coordinate_dies_where_the_law_says(executed):
    for line in executed.output("law = (kappa").splitlines()[1:]:
        beta, long, short, law_long, law_short, cost = decimals(line)
        assert (long, short) == pytest.approx((law_long, law_short), abs=1e-3)
        assert (cost < 1e-3) == (law_long == 0) and beta > 1


def test_the_three_to_mend(executed):
    out, mended = executed.outputs("for loss in (first, second, third)")
    assert [line.split(":")[0] for line in out.splitlines() if "✗" in line] == ["first", "second", "third"]
    slips = ["log likelihood is a mean over the P pixels", "KL has the wrong sign", "none runs through the draws"]
    told = " ".join(out.split())
    assert all(slip in told for slip in slips)
    assert mended.count("✓ Right.") == 3 and check_vae_loss(executed.space["at_the_draws"])


def test_a_model_trained_for_several_draws(executed):
    plain, several = (decimals(line) for line in executed.output("num_epochs=60").splitlines()[1:])
    assert several[1] > plain[1] and several[0] < plain[0]


def test_grey_in_nats(executed):
    fair, drawn = decimals(executed.output("def log_integral").splitlines()[-1])
    assert fair == 44.4 and drawn > fair


def test_each_gap_is_a_divergence():
    """log p − ELBO of a picture is the KL to its posterior, both by quadrature on one grid."""
    vae, x = digit_vae(), binary_digits()[1][:1]
    axis = torch.linspace(-6, 6, 241, dtype=torch.float64)
    z, cell = torch.cartesian_prod(axis, axis).unsqueeze(1), 0.05**2
    q = vae.encode(x)
    log_joint, log_q = vae.log_joint(x)(z)[:, 0], q.log_prob(z)[:, 0]
    log_p = log_joint.logsumexp(0) + math.log(cell)
    assert log_p.item() == pytest.approx(data_log_evidence(vae, x, reach=6.0, num_nodes=241).item(), abs=1e-9)
    kl = (log_q.exp() * (log_q - (log_joint - log_p))).sum() * cell
    elbo = (log_q.exp() * (log_joint - log_q)).sum() * cell
    assert (log_p - elbo).item() == pytest.approx(kl.item(), abs=1e-8) and kl > 0
    eps = normal(20_000, (1,), 2, generator=seeded(3), dtype=torch.float64)
    for estimator in (analytic_kl, total_derivative):
        assert estimator(vae.log_joint(x), q, eps).item() == pytest.approx(elbo.item(), abs=0.1)
