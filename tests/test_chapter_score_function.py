"""What the chapter ``score-function`` says in words, held against closed forms, enumeration and quadrature."""

import math
import re

import pytest
import torch
from helpers import by_mu, gaussian, of_epsilon

from vilib import (
    check_unbiased, constant_baseline, cosine_cost, exact_elbo, exact_gradient, expectation, fit,
    leave_one_out, logistic_one_coefficient, moments, normal, quadratic_cost,
    robbins_monro, score_function, score_function_with, sgd,
)
from vilib.explorables.gallery import gradient_variance
from vilib.quadrature import trapezoid

SQUARE = quadratic_cost()
LOGISTIC = logistic_one_coefficient()


# ---- the page itself --------------------------------------------------------------------------------------------------


def test_it_ends_on_what_the_next_chapter_does(text):
    assert "## What the next chapter does about it" in text and "{doc}`variance-reduction`" in text
    for label in ("eq:optimal-baseline", "eq:leave-one-out"):                         # they moved, links and all
        assert label not in text


def test_every_cell_and_every_solution_runs(executed):
    assert executed.marks == (3, 1)
    assert "It is short of the entropy's gradient" in executed.everything and "nan" not in executed.everything


# ---- the logistic ELBO by hand ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("x, y", [(1.0, 1.0), (-0.7, 0.0), (2.0, 1.0)])
@pytest.mark.covers("2.3")
def test_the_elbo_by_hand_is_the_elbo(x, y):
    model = logistic_one_coefficient(*(torch.tensor([v], dtype=torch.float64) for v in (x, y)))
    for mu, omega in [(-1.0, 0.0), (0.3, -0.5)]:
        last = expectation(lambda z: torch.log1p(torch.exp(x * z[..., 0])), gaussian(mu, omega)).item()
        by_hand = -0.5 * (mu**2 + math.exp(2 * omega)) + 0.5 + omega + y * x * mu - last
        assert by_hand == pytest.approx(exact_elbo(model, gaussian(mu, omega)).item(), abs=1e-10)


@pytest.mark.covers("2.3")
def test_best_gaussian_and_evidence_of_the_logistic_model():
    best, elbo = LOGISTIC.best
    assert (best.mean.item(), best.stddev.item(), elbo) == pytest.approx((0.413127, 0.910422, -0.693225), abs=1e-6)
    assert LOGISTIC.log_evidence == pytest.approx(-math.log(2), abs=1e-9)
    assert 0 < LOGISTIC.log_evidence - elbo < 1e-4
    assert len(trapezoid(1)[0]) == 2049


# ---- the score and its gradient ---------------------------------------------------------------------------------------


@pytest.mark.covers("2.5")
def test_the_score_has_mean_zero_and_the_variance_given():
    for mu, omega in [(0.0, 0.0), (1.3, -0.8)]:
        q = gaussian(mu, omega)
        score = lambda i: lambda z: q.score(z)[..., i]  # noqa: E731
        assert expectation(score(0), q).item() == pytest.approx(0, abs=1e-12)
        assert expectation(score(1), q).item() == pytest.approx(0, abs=1e-12)
        assert expectation(lambda z: score(0)(z) ** 2, q).item() == pytest.approx(math.exp(-2 * omega))
        assert expectation(lambda z: score(1)(z) ** 2, q).item() == pytest.approx(2)


@pytest.mark.covers("0.3", "2.4")
def test_likelihood_and_prior_terms_each_have_their_gradient_by_the_score():
    q = gaussian(-0.4, 0.2)
    for term in (lambda z: z[..., 0] - torch.log1p(z[..., 0].exp()), lambda z: -0.5 * z[..., 0] ** 2):
        by_score = torch.stack([expectation(lambda z: term(z) * q.score(z)[..., i], q) for i in range(2)])
        torch.testing.assert_close(by_score, exact_gradient(term, q), rtol=1e-9, atol=1e-10)


def test_the_true_logistic_gradient_at_the_prior_is_one_half():
    assert exact_gradient(LOGISTIC, gaussian(0.0), elbo=True)[0].item() == pytest.approx(0.5, abs=1e-10)


@pytest.mark.covers("0.4")
def test_of_five_draws_the_sd_exceeds_the_gradient():
    m = moments(LOGISTIC, gaussian(0.0), elbo=True)
    assert (m.variances(5)["score_function"].sqrt() > m.gradient.abs()).all()


# ---- climbing ---------------------------------------------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize("estimator, worst", [(score_function, 5e-3), (leave_one_out, 1e-4)])
@pytest.mark.covers("2.6")
def test_thirty_two_climbs_reach_the_best_elbo(estimator, worst):
    done = fit(estimator, LOGISTIC, gaussian(-1.0).expand(32), num_samples=16, num_steps=1000,
               optimizer=sgd(0.05, robbins_monro(kappa=0.7, delay=50)), generator=torch.Generator().manual_seed(3),
               record_steps=())
    gap = LOGISTIC.best[1] - exact_elbo(LOGISTIC, done.q)
    assert (done.failed_at == -1).all() and gap.min() > -1e-9 and gap.max() < worst


def test_a_constant_step_hovers_at_the_fixed_point_of_the_recursion():
    for h, v, rho in [(2.0, 30.0, 0.02), (2.0, 30.0, 0.04), (1.0, 1.0, 0.5)]:
        hover = rho * v / (h * (2 - rho * h))
        assert (1 - rho * h) ** 2 * hover + rho**2 * v == pytest.approx(hover)


# ---- how noisy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d, sigma", [(1.0, 1.0), (1.5, 0.7), (0.0, 2.0), (-2.0, 0.3)])
@pytest.mark.covers("0.4", "2.8")
def test_every_closed_form_of_the_square(d, sigma):
    q = gaussian(d, math.log(sigma))
    mu, omega = ({k: v[i].item() for k, v in SQUARE.variances(q).items()} for i in (0, 1))
    assert mu["score_function"] == pytest.approx(d**4 / sigma**2 + 14 * d**2 + 15 * sigma**2)
    assert mu["mean_baseline"] == pytest.approx(8 * d**2 + 10 * sigma**2)
    assert mu["optimal_baseline"] == pytest.approx(8 * d**2 + 6 * sigma**2)
    assert omega["score_function"] == pytest.approx(2 * d**4 + 60 * d**2 * sigma**2 + 74 * sigma**4)
    assert omega["optimal_baseline"] == pytest.approx(40 * d**2 * sigma**2 + 24 * sigma**4)
    best = moments(SQUARE, q).optimal_baseline
    assert best.tolist() == pytest.approx([d**2 + 3 * sigma**2, d**2 + 5 * sigma**2])


def test_the_slope_has_eight_of_the_fourteen():
    slope = lambda e: 2 * e**2                                                        # d = σ = 1  # noqa: E731
    others = lambda e: e + e**3  # noqa: E731
    assert of_epsilon(lambda e: slope(e) ** 2) - of_epsilon(slope) ** 2 == pytest.approx(8)
    assert of_epsilon(lambda e: others(e) ** 2) == pytest.approx(1 + 6 + 15)


def test_variance_falls_like_one_over_s_and_ten_takes_750_draws():
    q = gaussian(1.0)
    one, many = (by_mu(SQUARE.variances(q, s))["score_function"] for s in (1, 64))
    assert one == pytest.approx(30) and many == pytest.approx(one / 64)
    assert 10**2 * one / SQUARE.gradient(q)[0].item() ** 2 == pytest.approx(750)


@pytest.mark.covers("2.8")
def test_rare_draws_carry_the_second_moment():
    weight = lambda e: ((1 + e) ** 2 * e) ** 2  # noqa: E731
    for part, draws, moment in [(lambda e: e.abs() > 1, 31.8, 97.2), (lambda e: e.abs() > 2, 4.6, 64.3),
                                (lambda e: e > 2, 2.3, 61.4)]:
        assert 100 * of_epsilon(lambda e: part(e).double()) == pytest.approx(draws, abs=0.1)
        share = of_epsilon(lambda e: part(e) * weight(e)) / of_epsilon(weight)
        assert 100 * share == pytest.approx(moment, abs=0.1)
    assert 2.5 < 64 * of_epsilon(lambda e: (e.abs() > 2).double()) < 3.5              # "about three of them" in 64
    assert of_epsilon(lambda e: ((1 + e) ** 2 * e < 2).double()) > 0.7                # most draws are too small


@pytest.mark.statistical
def test_few_replicates_find_too_small_a_variance_more_often_than_not():
    eps = normal(20, (10_000,), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[..., 0]
    measured = ((1 + eps) ** 2 * eps).var(0)
    assert (measured < 30).double().mean() > 0.6 and measured.median() < 20


@pytest.mark.parametrize("dim", [1, 2, 10, 100])
def test_dimension(dim):
    at_zero = by_mu(SQUARE.variances(gaussian(0.0, dim=dim)))
    assert at_zero["score_function"] == pytest.approx((dim + 2) * (dim + 4)) and at_zero["pathwise"] == pytest.approx(4)
    d, sigma = 0.8, 1.3
    m, spread = (dim - 1) * (d**2 + sigma**2), (dim - 1) * (4 * d**2 * sigma**2 + 2 * sigma**4)
    by_hand = (d**4 / sigma**2 + 14 * d**2 + 15 * sigma**2 + (2 * m * (d**2 + 3 * sigma**2) + spread + m**2) / sigma**2)
    assert by_mu(SQUARE.variances(gaussian(d, math.log(sigma), dim)))["score_function"] == pytest.approx(by_hand)


def test_at_the_posterior_the_noise_is_the_evidence():
    log_px = -3.0
    posterior = gaussian(0.7, -0.4)
    m = moments(lambda z: posterior.log_prob(z) + log_px, posterior, elbo=True)
    assert by_mu(m.variances())["score_function"] == pytest.approx(log_px**2 * math.exp(0.8))
    assert by_mu(m.variances())["mean_baseline"] == pytest.approx(0, abs=1e-10)


def test_with_more_rows_the_constant_is_nearly_all_and_log_p_alone_stays_noisy():
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(100, generator=generator, dtype=torch.float64)
    y = (torch.rand(100, generator=generator, dtype=torch.float64) < torch.sigmoid(x)).double()
    for rows in (10, 100):
        data = logistic_one_coefficient(x[:rows], y[:rows])
        q, _ = data.best
        whole, alone = (by_mu(moments(data, q, elbo=elbo).variances()) for elbo in (True, False))
        assert whole["score_function"] == pytest.approx((data.log_evidence / q.stddev.item()) ** 2, rel=0.01)
        assert whole["mean_baseline"] < 0.01 * whole["score_function"]
        assert alone["score_function"] > whole["score_function"] and alone["mean_baseline"] > 10 * whole["mean_baseline"]


# ---- a constant ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [-4.0, 0.0, 10.0, 1000.0])
def test_adding_a_constant_to_the_square(c):
    variance = by_mu(moments(lambda z: SQUARE(z) + c, gaussian(1.0)).variances())["score_function"]
    assert variance == pytest.approx(30 + 8 * c + c**2)


def test_any_constant_baseline_is_unbiased():
    assert check_unbiased(score_function_with(constant_baseline(2.5)))


def test_the_two_slips_of_what_can_go_wrong():
    q = gaussian(0.3, -0.2)
    # Not detached: E[f s] − E[s log q] is the gradient and the entropy's once more.
    extra = torch.stack([-expectation(lambda z: q.score(z)[..., i] * q.log_prob(z), q) for i in range(2)])
    torch.testing.assert_close(extra, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-10)
    # Draws that move: log q at its own draws does not depend on mu.
    leaf = q.vector().requires_grad_()
    moving = q.with_vector(leaf)
    eps = normal(5, (), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope = torch.autograd.grad(moving.log_prob(moving.transform(eps)).sum(), leaf)[0]
    torch.testing.assert_close(slope, torch.tensor([0.0, -5.0], dtype=torch.float64), rtol=0, atol=1e-12)


# ---- discrete, and an edge that moves ----------------------------------------------------------------------------------


@pytest.mark.covers("2.7")
def test_the_coin_by_enumeration():
    z, theta = torch.tensor([0.0, 1.0], dtype=torch.float64), 0.5
    q, score, f = theta**z * (1 - theta) ** (1 - z), z / theta - (1 - z) / (1 - theta), (z - 0.45) ** 2
    assert (q * score).sum().item() == pytest.approx(0)
    for b, variance in [(0.0, 0.255025), (0.2525, 0.0)]:
        estimate = (f - b) * score
        assert (q * estimate).sum().item() == pytest.approx(0.1)
        assert (q * (estimate - 0.1) ** 2).sum().item() == pytest.approx(variance, abs=1e-12)
    assert ((q * f * score**2).sum() / (q * score**2).sum()).item() == pytest.approx(0.2525)


def test_the_moving_edge_turns_the_gradient_round():
    theta, n = 1.7, 200_001
    z = torch.linspace(0, theta, n, dtype=torch.float64)
    assert torch.trapezoid(z * (-1 / theta) / theta, z).item() == pytest.approx(-0.5)


# ---- the prompts beside the explorable -----------------------------------------------------------------------------------


def test_the_prompts_name_widths_that_the_slider_has(text):
    slider = next(c for c in gradient_variance().definition.controls if c.name == "log_sigma")
    said = re.findall(r"log\\sigma\$? (?:=|to) \$?(-?[\d.]*\d)", text.split("(score-function-move-it)=")[1].split("## What can go wrong")[0])
    assert len(said) >= 6 and {float(value) for value in said} <= set(slider.values)


def test_prompt_3_a_narrow_q_is_noisier_only_for_the_score_function():
    wide, narrow = (by_mu(SQUARE.variances(gaussian(2.0, omega), 64)) for omega in (0.0, -0.7))
    assert narrow["score_function"] > wide["score_function"]
    assert narrow["leave_one_out"] < wide["leave_one_out"] and narrow["pathwise"] < wide["pathwise"]


def test_prompt_4_nine_more_coordinates():
    one, ten = (by_mu(SQUARE.variances(gaussian(1.0, dim=dim))) for dim in (1, 10))
    assert [v["score_function"] for v in (one, ten)] == pytest.approx([30, 552])
    assert [v["mean_baseline"] for v in (one, ten)] == pytest.approx([18, 72])
    assert [v["pathwise"] for v in (one, ten)] == pytest.approx([4, 4])
    assert SQUARE.gradient(gaussian(1.0))[0] == SQUARE.gradient(gaussian(1.0, dim=10))[0] == 2
    measured = 64 * by_mu(SQUARE.variances(gaussian(1.0, dim=10), 64))["leave_one_out"]
    assert measured == pytest.approx(72, rel=0.03)


def test_prompt_5_where_the_score_function_wins():
    cost = cosine_cost(2.0)
    wide, narrow = (by_mu(cost.variances(gaussian(1.0, omega), 64)) for omega in (0.0, -0.7))
    assert wide["pathwise"] > 4 * wide["score_function"] and narrow["pathwise"] < narrow["score_function"]
    assert wide["leave_one_out"] > wide["score_function"] and narrow["leave_one_out"] > narrow["score_function"]
    m = moments(cost, gaussian(1.0))
    assert m.mean_f.item() < 0 < m.optimal_baseline[0].item()


def test_prompt_6_near_the_posterior():
    path = [by_mu(moments(LOGISTIC, gaussian(mu), elbo=True).variances(64)) for mu in (-2.0, -1.0, 0.0)]
    falling = [v["leave_one_out"] for v in path]
    assert falling[0] > 2 * falling[1] > 4 * falling[2] and falling[2] < path[2]["pathwise"] < path[1]["leave_one_out"]
    pathwise = [v["pathwise"] for v in path]
    assert max(pathwise) < 1.2 * min(pathwise)
    assert all(v["sticking_the_landing"] == min(v.values()) for v in path)


def test_the_product_of_averages_is_not_the_average_of_products():
    """E[f̄ s̄] = g/S, by all pairs of a small grid of draws."""
    eps, weights = trapezoid(1, 401)
    f, score, w = (1 + eps[:, 0]) ** 2, eps[:, 0], weights
    pairs = w.unsqueeze(0) * w.unsqueeze(1)
    product = 0.25 * (f.unsqueeze(0) + f.unsqueeze(1)) * (score.unsqueeze(0) + score.unsqueeze(1))
    assert (pairs * product).sum().item() == pytest.approx(2 / 2)


def test_the_entropy_by_formula_is_noisier_at_the_best_q():
    whole, alone = (by_mu(moments(LOGISTIC, LOGISTIC.best[0], elbo=elbo).variances()) for elbo in (True, False))
    assert alone["score_function"] > 10 * whole["score_function"]
