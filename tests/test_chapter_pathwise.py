"""Each number and each claim in the prose of chapters/pathwise.md, against closed form or quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import gradient as gradient_of
from helpers import q_of as gaussian
from helpers import seeded

from vilib import (
    Encoder, FullRankGaussian, MeanFieldGaussian, check_unbiased, correlated_gaussian, cosine_cost, exact_gradient,
    expectation, exponential_cost, fit, gamma_target, gaussian_target, gradient_replicates, logistic_one_coefficient, mlp,
    moments, normal, pathwise, pathwise_expectation, per_draw, quadratic_cost, score_function_expectation, sgd,
    simulated_tanh_regression, standard_normal_prior, sticking_the_landing, summarize, total_derivative, trapezoid,
)
from vilib.explorables.gallery.fit_race import compute


def naive(log_joint, q, eps):
    z = q.sample(eps)
    return (log_joint(z) - q.log_prob(z)).mean(0)


# ---- the chapter's own text ------------------------------------------------------------------------------------------


def test_every_cell_and_every_solution_runs(executed):
    assert len(executed.printed) > 20 and "22 weights, by hand and by autodiff the same" in executed.everything
    assert executed.marks == (4, 4)
    assert "formula 1.063782   quadrature 1.063782" in executed.everything and "formula 0.869954   quadrature 0.869954" in executed.everything


# ---- derivations -----------------------------------------------------------------------------------------------------


@pytest.mark.covers("0.5")
def test_change_of_variables_of_the_expectation():
    """eq:reparameterisation: E_q[f(z)] by integrating over z equals E_ε[f(μ + σε)]."""
    q, z = gaussian(0.3, 0.7), torch.linspace(-12, 12, 20001, dtype=torch.float64).unsqueeze(-1)
    f = lambda z: torch.sin(z[..., 0]) + z[..., 0] ** 2  # noqa: E731
    over_z = torch.trapezoid(f(z) * q.log_prob(z).exp(), z[..., 0])
    assert torch.allclose(over_z, expectation(f, q), atol=1e-12)


@pytest.mark.covers("0.5")
def test_change_of_variables_in_two_dimensions():
    """eq:pw-mass for a full-rank Gaussian: q(T(ε)) |det L| = p(ε), at every ε."""
    q = FullRankGaussian(torch.tensor([0.5, -1.0]).double(), torch.tensor([[0.2, 9.0], [-0.7, -0.4]]).double())
    eps = normal(50, (), 2, generator=seeded(0), dtype=torch.float64)
    log_p = -0.5 * eps.square().sum(-1) - math.log(2 * math.pi)
    assert torch.allclose(q.log_prob(q.transform(eps)) + torch.linalg.slogdet(q.scale_tril)[1], log_p, atol=1e-12)
    assert torch.allclose(q.log_prob(q.transform(eps)), -q.scale_tril.diagonal().log().sum() + log_p, atol=1e-12)


@pytest.mark.parametrize("term", ["likelihood", "prior"])
@pytest.mark.covers("0.6")
def test_each_term_has_its_own_unbiased_average_and_less_noise_by_the_path(term):
    """eq:pw-monte-carlo on the logistic regression at N(−1, 1); the variances by quadrature."""
    likelihood = lambda z: torch.nn.functional.logsigmoid(z[..., 0])  # noqa: E731
    f, q = {"likelihood": likelihood, "prior": standard_normal_prior}[term], gaussian(-1.0, 1.0)
    variances = moments(f, q).variances()
    ratio = variances["score_function"] / variances["pathwise"]
    low, high = {"likelihood": (22.5, 104), "prior": (12, 15.6)}[term]
    assert ratio.min().item() == pytest.approx(low, rel=0.01) and ratio.max().item() == pytest.approx(high, rel=0.01)
    exact = exact_gradient(f, q)
    for estimator in (score_function_expectation, pathwise_expectation):
        runs = summarize(gradient_replicates(estimator, f, q, num_samples=8, num_replicates=4000, generator=seeded(21)))
        assert ((runs.mean - exact).abs() < 5.5 * runs.standard_error).all()
    together = logistic_one_coefficient()
    eps = normal(5, (), 1, generator=seeded(1), dtype=torch.float64)
    both = gradient_of(pathwise_expectation, likelihood, q, eps) + gradient_of(pathwise_expectation, standard_normal_prior, q, eps)
    assert torch.allclose(both, gradient_of(pathwise_expectation, together, q, eps), rtol=1e-10)


@pytest.mark.covers("4.3")
def test_an_encoder_s_weights_get_the_gradient_of_the_two_lines():
    """eq:pw-encoder-gradient by finite differences in one weight, on the same noise."""
    x = torch.linspace(-2, 2, 6, dtype=torch.float64).unsqueeze(-1)
    encoder = Encoder(mlp([1, 4, 2], generator=seeded(0), dtype=torch.float64), gaussian(0.0, 1.0))
    eps = normal(3, (6,), 1, generator=seeded(1), dtype=torch.float64)
    log_joint = lambda z: standard_normal_prior(z) - 0.5 * (x - z).square().sum(-1)  # noqa: E731
    loss = lambda: pathwise(log_joint, encoder(x), eps).sum()  # noqa: E731
    weight = encoder.body[0].weight
    gradient, = torch.autograd.grad(loss(), weight)
    q = encoder(x)
    g = x - 2 * (q.mu + q.stddev * eps)
    slopes = [g.mean(0).detach(), (g * q.stddev * eps).mean(0).detach() + 1]
    by_hand, = torch.autograd.grad((q.mu, q.omega), weight, slopes)
    with torch.no_grad():
        weight[0, 0] += 1e-5
        above = loss()
        weight[0, 0] -= 2e-5
        below = loss()
    assert torch.allclose(gradient, by_hand, rtol=1e-12)
    assert gradient[0, 0].item() == pytest.approx(((above - below) / 2e-5).item(), rel=1e-7)


def test_square_has_gradient_two_mu():
    assert exact_gradient(lambda z: z[..., 0] ** 2, gaussian(1.3, 0.8))[0].item() == pytest.approx(2.6)


@pytest.mark.covers("1.7", "2.11")
def test_hand_gradient_is_autodiff():
    """eq:gaussian-by-hand on the logistic regression with x = y = 1, whose slope is 1 − sigmoid(z) − z."""
    model, q = logistic_one_coefficient(), gaussian(-1.0, 1.35)
    eps = normal(50, (), 1, generator=seeded(0), dtype=torch.float64)
    slope = 1 - torch.sigmoid(q.transform(eps)) - q.transform(eps)
    by_hand = torch.cat([slope.mean(0), (slope * q.stddev * eps).mean(0) + 1])
    assert torch.allclose(by_hand, gradient_of(pathwise, model, q, eps), rtol=1e-12)


def test_the_table_of_one_draw():
    """Path derivative, score, and that for a Gaussian the total derivative is the analytic entropy, draw by draw."""
    model, q, eps = logistic_one_coefficient(), gaussian(0.4, 0.6), torch.tensor([[1.7]], dtype=torch.float64)
    g = (1 - torch.sigmoid(q.transform(eps)) - q.transform(eps)).squeeze()
    e, s = 1.7, 0.6
    stl, total = (gradient_of(estimator, model, q, eps) for estimator in (sticking_the_landing, total_derivative))
    assert torch.allclose(stl, torch.stack([g + e / s, g * s * e + e**2]))
    assert torch.allclose(total, torch.stack([g, g * s * e + 1]))
    assert torch.allclose(total, gradient_of(pathwise, model, q, eps))
    assert torch.allclose(stl - total, q.score(q.transform(eps))[0])


def test_curvature_at_the_optimum():
    """1/σ² = −E_q[∂² log p] at the best Gaussian: here 1 + E[sigmoid(1 − sigmoid)]."""
    best, _ = logistic_one_coefficient().best
    curvature = expectation(lambda z: 1 + torch.sigmoid(z[..., 0]) * (1 - torch.sigmoid(z[..., 0])), best)
    assert torch.allclose(best.stddev[0] ** -2, curvature, rtol=1e-6)


@pytest.mark.parametrize("r", [0.1, 0.4, 0.5, 0.6, 1.0, 1.5])
def test_landing(r):
    """eq:pw-stl-variance, and that r > ½ decides both coordinates."""
    m, s, mu0, sigma0 = 0.9, math.sqrt(r) * 1.4, 0.2, 1.4
    exact = moments(gaussian_target(mu0, sigma0), gaussian(m, s), elbo=True).variances()
    path, stl = exact["pathwise"], exact["sticking_the_landing"]
    drift = s**2 * (m - mu0) ** 2 / sigma0**4
    assert np.allclose(path, [r**2 / s**2, drift + 2 * r**2])
    assert np.allclose(stl, [(1 - r) ** 2 / s**2, drift + 2 * (1 - r) ** 2])
    if r != 0.5:
        assert bool((stl < path).all()) == (r > 0.5)


def test_landing_is_silent_at_the_posterior():
    eps = normal(20, (), 1, generator=seeded(1), dtype=torch.float64)
    assert gradient_of(sticking_the_landing, gaussian_target(0.2, 1.4), gaussian(0.2, 1.4), eps).abs().max() < 1e-12


def test_variance_at_the_best_mean_field_q():
    for rho in (0.3, 0.9):
        target = correlated_gaussian(rho)
        exact = moments(target, target.best[0], elbo=True).variances()
        assert np.allclose(exact["pathwise"][:2], (1 + rho**2) / (1 - rho**2))
        assert np.allclose(exact["sticking_the_landing"][:2], rho**2 / (1 - rho**2))


# ---- the naive loss --------------------------------------------------------------------------------------------------


@pytest.mark.covers("3.7")
def test_naive_loss_same_value_no_gradient():
    model, q = logistic_one_coefficient(), gaussian(-2.0, 1.0)
    eps = normal(1000, (), 1, generator=seeded(2), dtype=torch.float64)
    assert naive(model, q, eps) == total_derivative(model, q, eps)
    assert torch.allclose(gradient_of(naive, model, q, eps), -q.score(q.sample(eps)).mean(0))
    report = check_unbiased(naive)
    assert not report and report.slip == "zero mean"


def test_naive_fit_wanders():
    model = logistic_one_coefficient()
    start = MeanFieldGaussian(torch.full((16, 1), -2.0), torch.zeros(16, 1))
    best = model.best[0].mean.item()

    def run(loss):
        return fit(loss, model, start, num_samples=8, num_steps=300, optimizer=sgd(0.05), generator=seeded(4)).q.mean

    assert (run(total_derivative) - best).abs().max() < 0.3
    assert (run(naive) - best).abs().min() > 1.0


def test_the_three_slips():
    def first(log_joint, q, eps):
        return log_joint(q.transform(eps)).mean(0)

    def second(log_joint, q, eps):
        z = q.transform(eps).detach()
        return (log_joint(z) - q.log_prob(z)).mean(0)

    def third(log_joint, q, eps):
        z = q.mu + q.omega * eps
        return (log_joint(z) - q.detach().log_prob(z)).mean(0)

    assert check_unbiased(first).slip == "no entropy"
    assert check_unbiased(second).slip == "zero mean"
    assert check_unbiased(third).slip == "draws with omega"


# ---- when the path is the noisier one --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mu", "sigma", "k"), [(1.0, 1.0, 1.0), (1.0, 1.0, 1.1), (0.0, 0.5, 3.0), (2.0, 1.5, 0.5), (0.7, 2.0, 0.45)]
)
def test_cosine_criterion(mu, sigma, k):
    """eq:pw-cos-crossover decides as quadrature does."""
    u, c = k * sigma, math.exp(-2 * (k * sigma) ** 2) * math.cos(2 * k * mu)
    v = cosine_cost(k).variances(gaussian(mu, sigma))
    assert (u**2 * (1 + 3 * c) > 1 + c) == bool(v["pathwise"][0] > v["score_function"][0])


@pytest.mark.parametrize(("cost", "k"), [(cosine_cost, 1.0638), (exponential_cost, 0.8700)])
def test_crossover(cost, k):
    def difference(k):
        v = cost(k).variances(gaussian(1.0, 1.0))
        return (v["pathwise"] - v["score_function"])[0].item()

    assert difference(k - 1e-3) < 0 < difference(k + 1e-3)


def test_cubic_of_the_bump():
    k = max(np.roots([16, -8, -4, -1]).real)
    v = exponential_cost(k).variances(gaussian(1.0, 1.0))
    assert k == pytest.approx(0.87, abs=5e-4)
    assert v["pathwise"][0].item() == pytest.approx(v["score_function"][0].item(), rel=1e-9)


@pytest.mark.covers("2.13")
def test_a_jump_is_invisible_to_the_path():
    jump = lambda z: 0.5 * (1 + torch.sign(z[..., 0]))  # noqa: E731
    runs = gradient_replicates(
        pathwise_expectation, jump, gaussian(0.3, 1.0), num_samples=8, num_replicates=100, generator=seeded(3)
    )
    assert (runs == 0).all()


def test_where_differentiates_both_branches():
    z = torch.tensor([-1.0, 2.0], requires_grad=True)
    gradient, = torch.autograd.grad(torch.where(z > 0, torch.sqrt(z), z).sum(), z)
    assert gradient.isnan().tolist() == [True, False]


# ---- orders of noise in the text and in the figures ------------------------------------------------------------------


@pytest.mark.covers("2.13")
def test_five_estimators_change_places():
    model = logistic_one_coefficient()
    far = moments(model, gaussian(-2.0, 1.0), elbo=True).variances(8)
    near = moments(model, model.best[0], elbo=True).variances(8)
    for name in ("pathwise", "sticking_the_landing"):
        for other in ("score_function", "leave_one_out"):
            assert (far[other] / far[name] > 7).all()
    for name in ("score_function", "leave_one_out", "sticking_the_landing"):
        assert (near["pathwise"] > near[name]).all()
    assert (near["leave_one_out"] < near["pathwise"] / 100).all()
    assert model.log_evidence == pytest.approx(-0.69, abs=5e-3)


# ---- the variance figure ---------------------------------------------------------------------------------------------


@pytest.mark.covers("2.12")
def test_gamma_panels():
    """At the first step the path is quietest; at the best q the order is turned round, by the closed form of the text."""
    gamma = gamma_target(10.0, 10.0)
    start, end = (moments(gamma, q, elbo=True).variances() for q in (gaussian(0.0, 1.0), gamma.best[0]))
    assert start["score_function"][0] / start["pathwise"][0] == pytest.approx(4.06, abs=0.01)
    assert start["optimal_baseline"][0] / start["score_function"][0] > 0.75, "the control variate helps little"
    assert end["pathwise"][0].item() == pytest.approx(100 * math.expm1(0.1), rel=1e-9)
    assert [round(end[name][0].item(), 2) for name in ("score_function", "pathwise", "sticking_the_landing")] == [1.24, 10.52, 0.52]
    assert end["optimal_baseline"][0] == pytest.approx(end["score_function"][0].item(), rel=1e-3)


def test_the_score_function_s_variance_is_made_by_rare_draws():
    """The kurtosis of one draw at the best q, by quadrature."""
    gamma = gamma_target(10.0, 10.0)
    q, (eps, weights) = gamma.best[0], trapezoid(1)
    z = q.transform(eps)
    score = (gamma(z) - q.log_prob(z)) * q.score(z)[:, 0]
    path = gamma.slope(z)[:, 0]
    kurtosis = []
    for term in (score, path):
        away = term - weights @ term
        kurtosis.append((weights @ away**4 / (weights @ away**2) ** 2).item())
    assert kurtosis == pytest.approx([818, 4.86], rel=0.01)


def test_log_evidence_is_paid_for_by_the_plain_score_function_alone():
    gamma = gamma_target(10.0, 10.0)
    at = lambda c: moments(lambda z: gamma(z) + c, gamma.best[0], elbo=True).variances()  # noqa: E731
    zero, three = at(0.0), at(3.0)
    for name in ("optimal_baseline", "pathwise"):
        assert three[name][0].item() == pytest.approx(zero[name][0].item(), rel=1e-9)
    mean_f = gamma.best[1]                                              # −0.008: c² and a cross term that is next to nothing
    added = (three["score_function"] - zero["score_function"])[0].item()
    assert added == pytest.approx(10 * 3.0**2, rel=0.01) and abs(mean_f) < 0.01


@pytest.mark.covers("2.12")
def test_the_figure_s_points_lie_on_its_lines_and_in_its_order(executed):
    space = executed.space
    counts = np.array(space["counts"])
    for title in space["settings"]:
        for name in space["kinds"]:
            ratio = space["points"][title, name].numpy() * counts / space["lines"][title][name]
            late = ratio[counts >= 32]                # until then the control variate learns, and tails are heavy on the Gamma
            assert np.abs(late - 1).max() < (0.3 if title.startswith("Gamma") else 0.15), (title, name, ratio)
        path, control, score = (space["lines"][title][name] for name in ("pathwise", "optimal_coefficient", "score_function"))
        assert (score < path and control < path) if title == "Gamma, at the best q" else (path < control < score), title


def test_the_numbers_in_the_text_of_the_figure(executed):
    space = executed.space
    at = 6                                                              # S = 64
    ratio = lambda title, name: (space["points"][title, name] / space["points"][title, "pathwise"])[at].item()  # noqa: E731
    assert ratio("regression, first step", "score_function") == pytest.approx(55_000, rel=0.05)
    assert ratio("regression, first step", "optimal_coefficient") == pytest.approx(75, rel=0.05)
    assert 6 < ratio("regression, after a fit", "optimal_coefficient") < 7
    assert ratio("regression, after a fit", "score_function") > ratio("regression, first step", "score_function")
    assert ratio("Gamma, first step", "score_function") == pytest.approx(4, abs=0.3)
    height, score = space["height"]["regression, first step"], space["lines"]["regression, first step"]["score_function"]
    assert height == pytest.approx(-353, abs=1) and 0.99 < height**2 / score < 1


def test_what_the_control_variate_leaves_is_the_wobble_of_f():
    """At N(0, I): Var[(f − b) s_j] is Var f to a few percent, and Var f is far smaller after a fit."""
    regression, eps = simulated_tanh_regression(100, 200, generator=seeded(5)), normal(20_000, (), 100, generator=seeded(7))
    draws = per_draw(regression, MeanFieldGaussian(torch.zeros(100), torch.zeros(100)), eps, elbo=True, coordinates=range(100))
    f, s = draws.f.unsqueeze(-1), draws.score
    b = (f * s**2).mean(0) / (s**2).mean(0)
    assert ((f - b) * s).var(0).mean() / draws.f.var() == pytest.approx(1, abs=0.03)


def test_the_fit_of_the_regression_has_arrived(executed):
    """At the fitted q the gradient is zero to its noise, and f wobbles far less than at the first step."""
    space = executed.space
    regression, fitted = space["regression"], space["fitted"]
    eps = normal(20_000, (), 100, generator=seeded(8))
    draws = per_draw(regression, fitted, eps, elbo=True)
    gradient, noise = draws.stl.mean(0), draws.stl.std(0) / len(eps) ** 0.5
    step = torch.cat([gradient[:100] * fitted.stddev, gradient[100:] / 2])               # in standard deviations; in log σ
    assert step.abs().max() < 0.1 and (noise < 0.03).all()
    assert draws.f.var() < 10


def test_question_on_a_narrow_q():
    assert (0.01**2, round((1 - 0.01) ** 2, 2)) == pytest.approx((0.0001, 0.98))


# ---- exercises -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "sigma"), [(0.5, 0.8), (1.5, 0.8)])
def test_antithetic_pairs(d, sigma):
    """A pair: no noise in μ, 8σ⁴ in ω; two independent draws: 2d²σ² + 4σ⁴.  By quadrature over ε."""
    q, cost = gaussian(d, sigma), quadratic_cost(0.0)
    eps = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    weights = torch.softmax(-0.5 * eps**2, 0)
    path = lambda e: torch.stack([2 * (d + sigma * e), 2 * (d + sigma * e) * sigma * e], -1)  # noqa: E731
    pair = 0.5 * (path(eps) + path(-eps))
    variance = (weights @ pair**2) - (weights @ pair) ** 2
    assert np.allclose(variance, [0, 8 * sigma**4], atol=1e-9)
    assert cost.variances(q, 2)["pathwise"][1].item() == pytest.approx(2 * d**2 * sigma**2 + 4 * sigma**4)
    assert (8 * sigma**4 > 2 * d**2 * sigma**2 + 4 * sigma**4) == (d**2 < 2 * sigma**2)


def test_exponential_family_exercise():
    z = torch.linspace(0, 60, 600_001, dtype=torch.float64)
    mean = lambda f: torch.trapezoid(f * torch.exp(-z), z).item()  # noqa: E731
    path, score = -2 * z**2, z**2 * (1 - z)                         # r = 1
    for estimate, variance in ((path, 80), (score, 488)):
        assert mean(estimate) == pytest.approx(-4, abs=1e-6)
        assert mean(estimate**2) - 16 == pytest.approx(variance, abs=1e-4)


# ---- what the prompts of the explorable promise ----------------------------------------------------------------------

KEYS = ("score", "control", "pathwise", "stl")


def race(target: str, optimizer: str, step_size: float, sample_count: int) -> dict[str, np.ndarray]:
    frame = compute(target=target, optimizer=optimizer, step_size=step_size, sample_count=sample_count, seed=0)
    return {name: np.asarray(channel) for name, channel in frame.items()}


def test_prompt_order_at_start_and_end():
    frame = race("logistic", "adam", 0.1, 2)
    start, end = ({key: frame[f"variance_{key}"][i] for key in KEYS} for i in (0, -1))
    assert min(start["score"], start["control"]) > 10 * max(start["pathwise"], start["stl"])
    assert end["stl"] < end["control"] < end["pathwise"] < end["score"]
    kl = {key: frame[f"kl_{key}"][-1] for key in KEYS}
    assert max(kl["stl"], kl["control"]) < kl["pathwise"] < kl["score"]
    assert frame["log_evidence"].item() == pytest.approx(-14, abs=0.5)


def test_prompt_steps_that_kill():
    frame = race("logistic", "sgd", 0.3, 8)
    failed = {key: int(frame[f"failed_{key}"].item()) for key in KEYS}
    assert failed["score"] == 32 and 5 <= failed["control"] <= 18 and failed["pathwise"] == failed["stl"] == 0
    assert race("logistic", "sgd", 0.03, 32)["failed_score"] == 0


def test_prompt_posterior_that_q_cannot_match():
    frame = race("correlated", "adam", 0.1, 8)
    score = np.minimum(frame["variance_score"], frame["variance_control"])
    path = np.maximum(frame["variance_pathwise"], frame["variance_stl"])
    assert (path < score).all()
    level = 2 * 0.9**2 / (1 - 0.9**2) / 8                           # ex-pathwise-mean-field: μ alone, S = 8
    assert frame["variance_stl"][-1] > 0.8 * level


def test_prompt_too_quiet():
    few, many = (race("mixture", "sgd", 0.3, count)["close_pathwise"].item() for count in (2, 32))
    assert few < 200 and (math.isnan(many) or many > few)


def test_prompt_wrong_worry():
    slow, fast = race("logistic", "adagrad", 0.03, 32), race("logistic", "adagrad", 0.3, 32)
    for key in KEYS:
        assert slow["best_elbo"].item() - slow[f"elbo_{key}"][-1] > 3
        assert math.isnan(slow[f"close_{key}"].item()) and fast[f"close_{key}"].item() < 400
