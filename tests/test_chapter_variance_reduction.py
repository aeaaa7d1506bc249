"""What the chapter ``variance-reduction`` says in words, held against closed forms, enumeration, quadrature and its own explorable."""

import math

import pytest
import torch
from chapters import labels, numbers
from helpers import bernoulli, by_mu, enumerated, gaussian, of_epsilon, seeded

from vilib import (
    FactorizedLogJoint, MeanFieldGaussian, additive_moments, antithetic, check_unbiased, cosine_cost, effective_sample_size, expectation,
    gradient_replicates, joint_moments, leave_one_out, leave_one_out_mean, log_importance_weights, logistic_one_coefficient, moments, normal,
    quadratic_cost, rao_blackwell, score_function, score_function_expectation, trapezoid, value_of,
)
from vilib.explorables.gallery.control_variate import compute

SQUARE, COSINE, LOGISTIC = quadratic_cost(), cosine_cost(2.0), logistic_one_coefficient()


def variance_of(g) -> float:
    return of_epsilon(lambda e: g(e) ** 2) - of_epsilon(g) ** 2


# ---- the page itself -------------------------------------------------------------------------------------------------


def test_it_defines_the_equations_that_docstrings_point_to_and_no_others(text):
    wanted = {"control-variate", "optimal-coefficient", "share-left", "optimal-baseline", "coefficient-bias", "leave-one-out",
              "leave-one-out-variance", "rao-blackwell", "rao-blackwell-gain", "importance-weights", "effective-sample-size", "antithetic"}
    assert set(labels(text)) == wanted


def test_every_cell_and_every_solution_runs(executed):
    assert executed.marks == (2, 1) and "nan" not in executed.everything
    assert "your baseline includes its own" in executed.everything and "divide by S − 1" in executed.everything
    assert "leave_one_out learns its baseline from the other draws" in executed.everything


def test_the_climbs_with_leave_one_out_end_nearer(executed):
    lines = executed.output("def climb").splitlines()
    plain, learnt = (next(line for line in lines if line.startswith(name)) for name in ("score function", "leave-one-out"))
    assert numbers(learnt)[-1] < 1e-4 < numbers(plain)[-1] < 5e-3 and numbers(learnt)[-2] < 0.01 * numbers(plain)[-2]


@pytest.mark.covers("2.10")
def test_rao_blackwell_on_the_chain_does_not_grow_and_needs_terms(executed):
    lines = executed.output("def chain").splitlines()
    (plain2, loo2, rb2, both2), (plain10, loo10, _, both10), (plain50, loo50, rb50, both50) = (numbers(line)[1:] for line in lines[2:5])
    assert plain50 > 10 * plain10 > 100 * plain2 and loo50 > 3 * loo10 > 9 * loo2
    assert rb50 < 1.3 * rb2 and max(both2, both10, both50) < 1.15 * min(both2, both10, both50) and 0.8 < both2 / loo2 < 1.25
    assert numbers(lines[5])[-1] > 1.5 * loo10                       # one term that touches executed.everything: worse than plain


@pytest.mark.covers("2.10")
def test_reuse_pays_less_for_a_small_move_and_far_more_for_a_large_one(executed):
    rows = [numbers(line.split("²)")[1]) for line in executed.output("def reused_from_old").splitlines()[2:]]
    shifts, widths = rows[:4], rows[4:]
    assert shifts[0][3] < shifts[0][2] and widths[0][3] < widths[0][2]                     # a small, a shrinking one
    assert all(row[3] > 5 * row[2] for row in (*shifts[2:], *widths[2:]))
    assert widths[2][0] == pytest.approx(256 / 3.57, rel=0.01) and widths[2][1] > 150 and widths[3][0] == 0 and widths[3][1] > 100


def test_at_equal_cost_no_row_is_best_everywhere(executed):
    rows = {line[:20].strip(): numbers(line[20:]) for line in executed.output("problems = ").splitlines()[2:]}
    score, pairs, even, loo, both, path = (rows[name] for name in (
        "score function", "+ antithetic", "+ Sobol", "leave-one-out", "+ Rao–Blackwell", "pathwise, 16 draws"))
    assert 0.8 < path[0] / loo[0] < 1.25 and loo[2] < 0.01 * path[2]           # mu at the start; mu at the best
    assert pairs[4] == min(row[4] for row in rows.values()) and pairs[5] > score[5]      # the chain: mu and omega
    assert pairs[2] < 0.01 * score[2] and pairs[3] > score[3]
    assert even[0] == min(row[0] for row in rows.values()) and both[5] == min(row[5] for row in rows.values())
    assert even[4] > both[4]                                                             # one dimension, and ten


# ---- control variates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d, sigma", [(1.0, 1.0), (1.5, 0.7), (0.0, 2.0), (-2.0, 0.3)])
@pytest.mark.covers("2.9")
def test_the_optimal_baseline_of_the_square_and_what_it_leaves(d, sigma):
    """eq:optimal-coefficient, eq:share-left, eq:optimal-baseline."""
    g, s = (lambda e: (d + sigma * e) ** 2 * e / sigma), (lambda e: e / sigma)
    covariance, variance = of_epsilon(lambda e: g(e) * s(e)), variance_of(s)
    assert covariance / variance == pytest.approx(d**2 + 3 * sigma**2)
    rho2 = covariance**2 / (variance * variance_of(g))
    left = variance_of(lambda e: g(e) - covariance / variance * s(e))
    assert left == pytest.approx(8 * d**2 + 6 * sigma**2) and left == pytest.approx((1 - rho2) * variance_of(g))
    assert variance_of(lambda e: g(e) - (d**2 + sigma**2) * s(e)) == pytest.approx(8 * d**2 + 10 * sigma**2)
    m = moments(SQUARE, gaussian(d, math.log(sigma)))
    assert m.optimal_baseline.tolist() == pytest.approx([d**2 + 3 * sigma**2, d**2 + 5 * sigma**2])
    omega = {k: v[1].item() for k, v in m.variances().items()}
    assert omega["score_function"] == pytest.approx(2 * d**4 + 60 * d**2 * sigma**2 + 74 * sigma**4)
    assert omega["optimal_baseline"] == pytest.approx(40 * d**2 * sigma**2 + 24 * sigma**4)


@pytest.mark.covers("2.9")
def test_shares_and_correlations_in_words():
    assert 1 - 0.995**2 == pytest.approx(0.01, abs=1e-4) and math.sqrt(0.5) == pytest.approx(0.71, abs=0.005)
    assert 1000 * (1 - 0.9**2) == pytest.approx(190)


@pytest.mark.parametrize("dim", [1, 10, 100])
def test_the_mean_misses_the_best_constant_by_two_in_any_dimension(dim):
    one = by_mu(additive_moments(lambda z: z[..., 0] ** 2, gaussian(0.0), dim).variances())
    assert one["score_function"] == pytest.approx((dim + 2) * (dim + 4))
    assert (one["optimal_baseline"], one["mean_baseline"]) == pytest.approx((2 * dim + 4, 2 * dim + 8))


# ---- where the coefficient comes from --------------------------------------------------------------------------------


def test_the_bias_of_a_coefficient_from_the_same_draws():
    """eq:coefficient-bias at first order: −6d/S for the square, and −g/S for the mean."""
    for d, sigma in [(1.0, 1.0), (-0.7, 0.5)]:
        best = d**2 + 3 * sigma**2
        third = of_epsilon(lambda e: ((d + sigma * e) ** 2 - best) * (e / sigma) ** 3)        # noqa: B023
        assert third * sigma**2 == pytest.approx(6 * d)


@pytest.mark.statistical
@pytest.mark.parametrize("baseline, bias", [
    (lambda f, s: f.mean(0).unsqueeze(-1), -2 / 64),
    (lambda f, s: (f.unsqueeze(-1) * s**2).sum(0) / (s**2).sum(0), -6 / 64),
], ids=["mean", "regression"])
def test_it_is_measured(baseline, bias):
    estimator = lambda f, q, eps: score_function_expectation(f, q, eps, baseline=baseline)  # noqa: E731
    runs = gradient_replicates(estimator, SQUARE, gaussian(1.0), num_samples=64, num_replicates=200_000, generator=seeded(2))[:, 0]
    error = runs.std().item() / len(runs) ** 0.5
    assert abs(runs.mean().item() - 2 - bias) < 5 * error + 6 * 6 / 64**2 and runs.mean().item() < 2 - 5 * error


def test_a_baseline_with_its_own_draw_loses_one_in_s():
    def own_draw(log_joint, q, eps):
        log_q = q.log_prob(z := q.sample(eps))
        f = (log_joint(z) - log_q).detach()
        return value_of(f.mean(0), gradient_of=((f - f.mean(0)) * log_q).mean(0))

    eps = normal(4, (), 1, generator=seeded(), dtype=torch.float64)
    gradients = []
    for estimator in (own_draw, leave_one_out):
        leaf = gaussian(0.2).vector().requires_grad_()
        gradients.append(torch.autograd.grad(estimator(LOGISTIC, gaussian(0.0).with_vector(leaf), eps), leaf)[0])
    torch.testing.assert_close(gradients[0], 0.75 * gradients[1])
    report = check_unbiased(own_draw)
    assert not report and report.slip == "own sample"


# ---- leave one out ---------------------------------------------------------------------------------------------------


def test_leave_one_out_is_the_sample_covariance_and_forgets_constants():
    q = gaussian(1.0)
    eps = normal(8, (), 1, generator=seeded(), dtype=torch.float64)
    z = q.sample(eps)
    f, score = SQUARE(z), q.score(z)[..., 0]
    covariance = ((f - f.mean()) * (score - score.mean())).sum() / 7
    for c in (0.0, 1000.0):
        leaf = q.vector().requires_grad_()
        value = score_function_expectation(lambda z: SQUARE(z) + c, q.with_vector(leaf), eps, baseline=leave_one_out_mean)
        assert torch.autograd.grad(value, leaf)[0][0].item() == pytest.approx(covariance.item(), rel=1e-9)


@pytest.mark.parametrize("num_samples", [2, 8, 64])
@pytest.mark.covers("2.9")
def test_leave_one_out_variance_is_the_sum_of_the_two_terms(num_samples):
    m = moments(SQUARE, gaussian(1.0))
    mean_baseline = by_mu(m.variances())["mean_baseline"]
    price = (m.variance_f[0] * m.score_variance[0] + m.gradient[0] ** 2).item()
    expected = mean_baseline / num_samples + price / (num_samples * (num_samples - 1))
    assert by_mu(m.variances(num_samples))["leave_one_out"] == pytest.approx(expected)


@pytest.mark.parametrize("num_samples", [2, 3, 4])
def test_leave_one_out_variance_over_every_set_of_draws(num_samples):
    """eq:leave-one-out-variance, exactly, for two coins."""
    q, joint = bernoulli(dim=2), (lambda z: 1.3 * z[..., 0] - 0.4 * z[..., 1] + 2 * z[..., 0] * z[..., 1] - 1)
    z = q.states()
    p, score = q.log_prob(z).exp().unsqueeze(-1), q.score(z)
    f = (joint(z) - q.log_prob(z)).unsqueeze(-1)
    average = lambda x: (p * x).sum(0)  # noqa: E731
    centred, g = f - average(f), average(f * score)
    expected = (average((centred * score) ** 2) - g**2) / num_samples
    expected = expected + (average(centred**2) * average(score**2) + g**2) / (num_samples * (num_samples - 1))
    torch.testing.assert_close(enumerated(leave_one_out, joint, q, num_samples)[2], expected)


@pytest.mark.statistical
def test_a_measured_variance_lies_on_its_line():
    gradients = gradient_replicates(leave_one_out, LOGISTIC, gaussian(-1.0), num_samples=8, num_replicates=4000, generator=seeded())
    exact = by_mu(moments(LOGISTIC, gaussian(-1.0), elbo=True).variances(8))["leave_one_out"]
    assert gradients[:, 0].var().item() == pytest.approx(exact, rel=0.25)


def test_the_figure_against_s_left_and_right():
    left, right = (moments(LOGISTIC, q, elbo=True) for q in (gaussian(-1.0), LOGISTIC.best[0]))
    at = lambda m, name, S: by_mu(m.variances(S))[name]  # noqa: E731
    assert 0.8 < at(left, "pathwise", 16) / at(left, "leave_one_out", 64) < 1.25          # four evaluations a draw
    assert at(left, "leave_one_out", 64) < at(left, "score_function", 64)
    assert at(right, "leave_one_out", 64) < 0.01 * min(at(right, "score_function", 64), at(right, "pathwise", 16))


# ---- Rao–Blackwell, reuse, better draws ------------------------------------------------------------------------------


def test_the_gain_of_dropping_the_rest_and_the_accident():
    """eq:rao-blackwell-gain on the two coins of the exercise: 5 with the rest, 121 without."""
    q = bernoulli(dim=2).with_vector(torch.zeros(2, dtype=torch.float64))
    z = q.states()
    p = q.log_prob(z).exp()
    score = 4 * z[:, 0] - 2
    variance = lambda f: ((p * (f * score) ** 2).sum() - (p * f * score).sum() ** 2).item()  # noqa: E731
    f_1, rest = 5 + z[:, 0], -5 + z[:, 1]
    assert (variance(f_1 + rest), variance(f_1), variance(f_1 - 5.5)) == pytest.approx((5, 121, 0))
    gain = 0.25 * 4 + 4.5**2 * 4 + 2 * -4.5 * (p * f_1 * score**2).sum().item()
    assert gain == pytest.approx(5 - 121) and 121 / 5 == pytest.approx(24.2)


def test_rao_blackwell_leaves_the_mean():
    joint = FactorizedLogJoint([(lambda z: 0.7 * z[..., 0], [0]), (lambda z: -1.1 * z[..., 0], [1])])
    q = bernoulli(dim=2)
    torch.testing.assert_close(enumerated(rao_blackwell, joint, q, 1)[1], enumerated(score_function, joint, q, 1)[1])


@pytest.mark.parametrize("mu, sigma", [(0.6, 0.7), (0.6, 1.25), (0.5, 1.0), (0.0, 0.5)])
def test_the_mean_squared_weight_of_two_gaussians(mu, sigma):
    old, q = gaussian(0.0), gaussian(mu, math.log(sigma))
    square = expectation(lambda z: (2 * (q.log_prob(z) - old.log_prob(z))).exp(), old, lambda dim: trapezoid(dim, 8001, 30.0)).item()
    assert square == pytest.approx(math.exp(mu**2 / (2 - sigma**2)) / (sigma * math.sqrt(2 - sigma**2)), rel=1e-6)


def test_how_far_a_batch_goes():
    assert math.sqrt(math.log(2)) == pytest.approx(0.83, abs=0.005) and math.sqrt(math.log(2) / 100) == pytest.approx(0.083, abs=5e-4)
    eps = normal(200_000, (), 1, generator=seeded(1), dtype=torch.float64)
    size = effective_sample_size(log_importance_weights(gaussian(math.sqrt(math.log(2))), gaussian(0.0), eps))
    assert size.item() / 200_000 == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("d, sigma", [(1.0, 1.0), (-0.5, 0.6)])
def test_pairs_keep_the_even_part_and_double_it(d, sigma):
    """eq:antithetic: 16d² for mu, and twice the even part for omega."""
    for score, odd, even in [
        (lambda e: e / sigma, d**4 / sigma**2 + 6 * d**2 + 15 * sigma**2, 8 * d**2),
        (lambda e: e**2 - 1, 40 * d**2 * sigma**2, 2 * d**4 + 20 * d**2 * sigma**2 + 74 * sigma**4),
    ]:
        g = lambda e: (d + sigma * e) ** 2 * score(e)  # noqa: B023, E731
        assert variance_of(lambda e: 0.5 * (g(e) + g(-e))) == pytest.approx(even)         # noqa: B023
        assert variance_of(lambda e: 0.5 * (g(e) - g(-e))) == pytest.approx(odd)          # noqa: B023
        assert variance_of(g) == pytest.approx(even + odd)
    if d == sigma == 1:
        assert 2 * 96 == 2 * (2 + 20 + 74) == 192 and 136 - 40 == 96


@pytest.mark.statistical
def test_pairs_measured():
    estimator = lambda f, q, eps: score_function_expectation(f, q, eps)  # noqa: E731
    runs = 16 * gradient_replicates(estimator, SQUARE, gaussian(1.0), num_samples=16, num_replicates=100_000, generator=seeded(6),
                                    noise=antithetic).var(0)
    assert runs.tolist() == pytest.approx([16, 192], rel=0.05)


@pytest.mark.covers("2.10")
def test_sobol_falls_faster_in_one_dimension(executed):
    slopes = {line.split()[0]: numbers(line)[-1] for line in executed.output("for name, variances in falls").splitlines()}
    assert abs(slopes["normal"] + 1) < 0.1 and abs(slopes["antithetic"] + 1) < 0.1 and slopes["sobol"] < -1.5


def test_and_less_so_in_many(executed):
    lines = executed.output("print(f\"{'dimension'").splitlines()
    a_sum, together = (numbers(line[29:]) for line in lines[1:3])
    assert len(a_sum) == len(together) == 6
    assert max(a_sum) < 0.8 and a_sum[-1] > 3 * a_sum[0] and together[0] < 0.2 and min(together[4:]) > 0.85


def test_the_jump_slows_sobol_down(executed):
    rows = {tuple(line.split()[i] for i in (0, 3, 4)): numbers(line[22:])[-1]
            for line in executed.output("def jump").splitlines()[1:]}
    assert rows["jump", "1", "sobol"] < -1.7 and rows["sum", "8", "sobol"] < -1.7
    assert rows["jump", "1", "sobol"] < rows["jump", "2", "sobol"] < -1.2 and -1.6 < rows["jump", "8", "sobol"] < -1.0
    assert all(abs(slope + 1) < 0.15 for (_, _, noise), slope in rows.items() if noise != "sobol")


# ---- exercises -------------------------------------------------------------------------------------------------------


def test_three_hermite_polynomials_take_all_of_the_square():
    d, sigma = 0.8, 1.3
    g = lambda e: d**2 / sigma * e + 2 * d * e**2 + sigma * e**3  # noqa: E731
    shares = []
    for h, a in [(lambda e: e, d**2 / sigma + 3 * sigma), (lambda e: e**2 - 1, 2 * d), (lambda e: e**3 - 3 * e, sigma)]:
        assert of_epsilon(lambda e: g(e) * h(e)) / variance_of(h) == pytest.approx(a)     # noqa: B023
        shares.append(a**2 * variance_of(h))
    assert shares == pytest.approx([(d**2 / sigma + 3 * sigma) ** 2, 8 * d**2, 6 * sigma**2])
    assert sum(shares) == pytest.approx(d**4 / sigma**2 + 14 * d**2 + 15 * sigma**2)


# ---- what the prompts of the explorable promise ----------------------------------------------------------------------


def at(multiple=0.0, count=64, variate="score", cost="quadratic", noise="normal") -> dict:
    return compute(multiple, count, variate, cost, noise)


def of_count(frame: dict, name: str, count: int) -> float:
    return frame[name][frame["counts"].tolist().index(count)]


def test_prompt_tilt_the_line():
    frame = at()
    assert (frame["best"], frame["best_left"]) == pytest.approx((0.73, 0.47), abs=5e-3) and 30 * frame["best_left"] == pytest.approx(14)
    assert 1 < at(1.5)["left"] < 1.1 and at(1.4)["left"] < 1
    ratio = [at(0.7)["variance_normal"][i] / frame["variance_normal"][i] for i in (0, 5, 9)]
    assert max(ratio) < 2 * min(ratio)                               # the line only moves down


def test_prompt_two_that_are_no_use():
    assert at(0.5, variate="sine")["best"] == pytest.approx(0, abs=1e-6) and at(0.5, variate="sine")["left"] == pytest.approx(1.25)
    exact = at(1.0, variate="parabola")
    assert exact["best_left"] == pytest.approx(0, abs=1e-8)
    assert all(torch.isnan(torch.as_tensor(exact[f"variance_{noise}"])).all() for noise in ("normal", "antithetic", "sobol"))
    assert at(variate="parabola", cost="logistic")["best_left"] < 0.01
    cosine = at(variate="parabola", cost="cosine")
    assert cosine["best"] == pytest.approx(-0.28, abs=5e-3) and cosine["best_left"] > 0.9


def test_prompt_pairs():
    still = [at(a, noise="antithetic")["variance_antithetic"] for a in (-1.0, 0.0, 1.5)]
    assert still[0] == pytest.approx(still[1], rel=1e-9) and still[1] == pytest.approx(still[2], rel=1e-9)
    assert 64 * of_count(at(), "variance_antithetic", 64) == pytest.approx(16, rel=0.3)
    cosine = at(cost="cosine")
    assert (cosine["variance_antithetic"] > cosine["plain"]).all()
    a, b = (at(a, variate="omega")["variance_antithetic"] for a in (0.0, 0.5))
    assert (b < 0.9 * a).all()


def test_prompt_evenly():
    frame = at(noise="sobol")
    assert of_count(frame, "variance_sobol", 64) / of_count(frame, "variance_sobol", 1024) > 100
    assert 70_000 < of_count(frame, "worth_sobol", 1024) < 140_000
    ten, best = at(cost="quadratic_10"), at(0.9, cost="quadratic_10")
    assert of_count(ten, "worth_sobol", 4) == pytest.approx(8, abs=0.6)
    assert of_count(ten, "worth_antithetic", 4) > 3 * of_count(ten, "worth_sobol", 4)
    assert 0.7 < of_count(best, "worth_normal", 4) / of_count(ten, "worth_antithetic", 4) < 1.4 and abs(best["best"] - 0.9) < 0.05


def test_prompt_a_negative_coefficient():
    assert at(0.7, cost="logistic")["left"] > 1 and at(-0.7, cost="logistic")["left"] < 0.5
    q = MeanFieldGaussian(torch.ones(1).double(), torch.zeros(1).double())
    assert moments(LOGISTIC, q, elbo=True).mean_f.item() < 0


def test_a_pair_is_the_pair_of_the_text():
    eps, weights = trapezoid(1)
    pair = joint_moments((1 + eps[:, 0]) ** 2 * eps[:, 0], eps[:, 0], weights)
    assert pair.variance(8.0).item() == pytest.approx(30) and pair.variance(2.0).item() == pytest.approx(18)
    assert COSINE.variances(gaussian(1.0))["optimal_baseline"][0].item() == pytest.approx(0.4125, abs=1e-4)


def test_the_question_s_slope_in_ten_dimensions():
    ten = additive_moments(lambda z: z[..., 0] ** 2, gaussian(1.0), 10)
    assert ten.optimal_baseline[0].item() == pytest.approx(22) and ten.gradient[0].item() == pytest.approx(2)
    assert by_mu(ten.variances())["optimal_baseline"] < 0.15 * by_mu(ten.variances())["score_function"]


def test_a_coefficient_from_few_draws_is_no_better_and_from_many_close_to_the_best(executed):
    rows = [numbers(line.split("=")[1])[1:] for line in executed.output("learnt_from_others").splitlines()[1:]]
    (loo4, learnt4, best), (loo256, learnt256, _) = rows[0], rows[-1]
    assert 0.9 < learnt4 / loo4 < 1.1 and learnt4 > 1.4 * best and learnt256 < 1.1 * best < loo256
