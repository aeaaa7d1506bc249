"""What the chapter ``kl`` says in words, held against closed forms, quadrature and its own explorable."""

import math
import re

import numpy as np
import pytest
import torch
from chapters import links
from helpers import FAMILIES, full_rank, gaussian, q_of, seeded, tensor

from vilib import (
    MeanFieldGaussian, NonFiniteLogJoint, best_gaussian, check_kl, correlated_gaussian, exact_gradient, expectation, forward_kl, gaussian_kl,
    gumbel_target, log_ratio_moments, moment_matched_gaussian, monte_carlo_kl, monte_carlo_kl_k3, normal, reverse_kl, stationary_gaussians,
    two_component_mixture,
)
from vilib.explorables.gallery.kl_directions import compute, kl_directions

HILLS, SKEWED = two_component_mixture(), gumbel_target(-1.5, 2.0)


def width(r: float) -> float:
    return 0.5 * (r - 1 - math.log(r))


def flat_places():
    starts = MeanFieldGaussian(tensor([-2.0], [0.1], [2.0]), tensor([0.0], [1.0], [0.0]))
    return stationary_gaussians(HILLS, starts)


# ---- the page itself -------------------------------------------------------------------------------------------------


def test_every_cell_and_every_solution_runs(executed):
    assert len(executed.printed) > 25 and executed.marks == (4, 4) and "nan" not in executed.everything


@pytest.mark.covers("3.6")
def test_what_the_cells_print_is_what_the_prose_says(executed):
    coins = executed.output("def kl_of_coins")
    assert "KL(q ‖ p) = 0.5108   KL(p ‖ q) = 0.3681" in coins
    terms = executed.output("by_quadrature = expectation")
    for row in re.findall(r"^ +\d +(\S+) +(\S+)$", terms, re.M):
        assert float(row[0]) == pytest.approx(float(row[1]), abs=1e-6)
    assert "KL(q ‖ p) = 0.443147   KL(p ‖ q) = 1.306853" in terms
    flat = executed.output("flat = stationary_gaussians")
    assert flat.count("minimum") == 3 and flat.count("saddle") == 2 and "0.840621" in flat and flat.count("0.688769") == 2
    ends = re.findall(r"^(forward|reverse) .*\) +(\S+) +(\S+) +(\S+) +(\S+)$", executed.output("path[-500:]"), re.M)
    assert [way for way, *_ in ends] == ["forward"] * 3 + ["reverse"] * 3
    for (_, mu, sigma, kl, lowest), (m, s) in zip(ends, [(0, 3.162)] * 3 + [(-2.984, 1.023), (0, 2.744), (2.984, 1.023)]):
        assert float(mu) == pytest.approx(m, abs=0.15) and float(sigma) == pytest.approx(s, abs=0.05)
        assert float(kl) >= float(lowest)
    many = re.findall(r"(\d+) fits", executed.output("64 starts"))
    assert len(many) == 3 and sum(map(int, many)) == 64 and min(map(int, many)) > 5
    wrong = executed.output("on_a_hill = flat")
    k1, k3 = (float(re.search(rf"{name}: .*, (\S+) of its", wrong)[1]) for name in ("k1", "k3"))
    assert k1 < 4 < 20 < k3
    outside = executed.output("exponential = lambda")
    assert outside.count("draws below zero: 0") == 3 and "inf" in outside
    assert "one hill wins from d = 2.800 on" in executed.output("def minima(d)")


# ---- definition, non-negativity, infinity ----------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [("mean-field", "full-rank"), ("full-rank", "mean-field")], ids=" to ".join)
@pytest.mark.covers("3.5")
def test_the_proof_of_gibbs_inequality_step_by_step(kinds):
    """−KL = E_q[log w] ≤ E_q[w − 1] = 0, and the difference is what k3 averages."""
    q, p = (FAMILIES[kind](seed=seed) for kind, seed in zip(kinds, (5, 6)))
    log_w = lambda z: p.log_prob(z) - q.log_prob(z)  # noqa: E731
    assert -expectation(log_w, q).item() == pytest.approx(gaussian_kl(q, p).item(), abs=1e-9)
    assert expectation(lambda z: log_w(z).exp(), q).item() == pytest.approx(1, abs=1e-4)
    assert gaussian_kl(q, p) > 0 and gaussian_kl(q, q).abs() < 1e-12


def test_the_kl_of_independent_parts_adds_up_and_units_do_not_matter():
    q, p = FAMILIES["mean-field"](dim=3, seed=5), FAMILIES["mean-field"](dim=3, seed=6)
    part = lambda x, d: MeanFieldGaussian(x.mu[d : d + 1], x.omega[d : d + 1])  # noqa: E731
    assert sum(gaussian_kl(part(q, d), part(p, d)).item() for d in range(3)) == pytest.approx(gaussian_kl(q, p).item())
    feet = lambda x: MeanFieldGaussian(x.mu / 0.3048, x.omega - math.log(0.3048))  # noqa: E731
    assert gaussian_kl(feet(q), feet(p)).item() == pytest.approx(gaussian_kl(q, p).item())


def test_uniform_densities():
    """By a sum over cells: −log a one way round and log a the other, and a share 1 − 1/a falls outside."""
    for a in (0.25, 0.8):
        assert torch.full((1000,), 1 / a).log().mean().item() == pytest.approx(-math.log(a), rel=1e-6)
    inside = (tensor(*np.linspace(0, 2, 100_001)) <= 1).double().mean().item()
    assert 1 - inside == pytest.approx(1 - 1 / 2, abs=1e-4)


def test_monte_carlo_kl_raises_where_a_draw_falls_outside():
    exponential = lambda z: torch.where(z > 0, -z, -torch.inf).sum(-1)  # noqa: E731
    with pytest.raises(NonFiniteLogJoint):
        monte_carlo_kl(exponential, q_of(1.0, 0.25), tensor([-4.5], [0.0]))
    assert monte_carlo_kl(exponential, q_of(1.0, 0.25), tensor([-3.5], [0.0]))[0].isfinite()
    assert torch.special.ndtr(tensor(-4.0)).item() == pytest.approx(3e-5, abs=2e-6)


# ---- Gaussians -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [(0.0, 1.0, 1.0, 2.0), (1.0, 2.0, 0.0, 1.0), (-0.7, 0.4, 0.3, 0.9)])
@pytest.mark.covers("3.5")
def test_the_seven_terms(place):
    """eq:kl-seven and its table: each mean by quadrature, and their sum, eq:kl-gaussian."""
    mu, sigma, mu0, sigma0 = place
    q, p = q_of(mu, sigma), q_of(mu0, sigma0)
    constant = lambda c: lambda z: 0 * z + c  # noqa: E731
    table = [
        (constant(math.log(sigma0 / sigma)), math.log(sigma0 / sigma)),
        (lambda z: -(z**2) / (2 * sigma**2), -(mu**2 + sigma**2) / (2 * sigma**2)),
        (lambda z: 2 * mu * z / (2 * sigma**2), 2 * mu**2 / (2 * sigma**2)),
        (constant(-(mu**2) / (2 * sigma**2)), -(mu**2) / (2 * sigma**2)),
        (lambda z: z**2 / (2 * sigma0**2), (mu**2 + sigma**2) / (2 * sigma0**2)),
        (lambda z: -2 * mu0 * z / (2 * sigma0**2), -2 * mu0 * mu / (2 * sigma0**2)),
        (constant(mu0**2 / (2 * sigma0**2)), mu0**2 / (2 * sigma0**2)),
    ]
    z = tensor([0.3], [-1.2])
    ratio = sum(term(z[:, 0]) for term, _ in table)
    torch.testing.assert_close(ratio, q.log_prob(z) - p.log_prob(z))
    for term, mean in table:
        assert expectation(lambda z: term(z[..., 0]), q).item() == pytest.approx(mean, abs=1e-9)  # noqa: B023
    total, r = sum(mean for _, mean in table), sigma**2 / sigma0**2
    assert total == pytest.approx(gaussian_kl(q, p).item(), abs=1e-12)
    assert total == pytest.approx((mu - mu0) ** 2 / (2 * sigma0**2) + width(r), abs=1e-12)
    assert -1 / 2 == pytest.approx(sum(mean for _, mean in table[1:4]))


def test_too_wide_costs_like_half_r_and_too_narrow_like_a_log():
    assert width(1e4) / (0.5 * 1e4) == pytest.approx(1, abs=1e-2) and width(1e-9) / (-0.5 * math.log(1e-9)) == pytest.approx(1, abs=0.05)
    assert width(1.0) == 0


def test_the_matrix_form():
    """eq:kl-gaussian-matrix, by norms of matrices written out."""
    q, p = full_rank(dim=3, seed=5), full_rank(dim=3, seed=6)
    inverse = torch.linalg.inv(p.scale_tril)
    logdet = lambda x: x.scale_tril.det().log()  # noqa: E731
    by_hand = 0.5 * ((inverse @ q.scale_tril).square().sum() - 3 + (inverse @ (q.mean - p.mean)).square().sum()) + logdet(p) - logdet(q)
    torch.testing.assert_close(gaussian_kl(q, p), by_hand)


# ---- k1 and k3 -------------------------------------------------------------------------------------------------------


@pytest.mark.covers("4.1")
def test_k3_is_k1_and_a_term_of_mean_zero_and_never_negative():
    q, p = q_of(0.0, 1.0), q_of(0.5, 0.9)
    eps = normal(5000, (), 1, generator=seeded(0), dtype=torch.float64)
    log_w = p.log_prob(eps) - q.log_prob(eps)
    k3 = log_w.exp() - 1 - log_w
    assert (k3 >= 0).all() and (-log_w < 0).any()
    assert monte_carlo_kl_k3(p.log_prob, q, eps)[0].item() == pytest.approx(k3.mean().item())
    assert monte_carlo_kl(p.log_prob, q, eps)[1].item() == pytest.approx(
        ((log_w - log_w.mean()).square().sum() / (5000 * 4999)).sqrt().item())                                  # eq:kl-standard-error


@pytest.mark.parametrize("r", [0.51, 0.7, 0.9, 1.1, 2.0, 10.0])
def test_the_variances_for_two_widths(r):
    """Var k1 = ½(r−1)², E[w²] = r/√(2r−1), for q = N(0,1), p = N(0, 1/r)."""
    found = log_ratio_moments(q_of(0.0, 1.0).log_prob, q_of(0.0, r**-0.5).log_prob, -80, 80, 16_001)
    assert found.variance == pytest.approx(0.5 * (r - 1) ** 2, abs=1e-9)
    assert found.chi_squared == pytest.approx(r / math.sqrt(2 * r - 1) - 1, rel=1e-5)
    assert found.kl + found.opposite_kl == pytest.approx(0.5 * (r + 1 / r) - 1, abs=1e-9)


def test_k3_wins_for_every_narrower_p_and_up_to_1_2425_times_the_width():
    r = tensor(*np.geomspace(1.0001, 1e6, 4000))
    assert (r / (2 * r - 1).sqrt() - 1 < r + 1 / r - 2).all()
    for s, wins in [(1.2424, True), (1.2426, False)]:
        r = 1 / s**2
        assert (r / math.sqrt(2 * r - 1) - 1 < r + 1 / r - 2) == wins
    for m, wins in [(1.1208, True), (1.1210, False)]:
        assert (math.expm1(m**2) < 2 * m**2) == wins


def test_near_p_equal_q_chi_squared_is_twice_each_kl():
    for shift, ratio in [(0.03, 0.99), (-0.02, 1.02)]:
        found = log_ratio_moments(q_of(0.0, 1.0).log_prob, q_of(shift, ratio).log_prob, -30, 30, 12_001)
        assert found.chi_squared / found.kl == pytest.approx(2, rel=0.1) and found.opposite_kl / found.kl == pytest.approx(1, rel=0.1)


# ---- which way round -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target, lower, upper", [(HILLS, -16.0, 16.0), (SKEWED, -12.0, 60.0)], ids=["hills", "skewed"])
@pytest.mark.covers("1.9")
def test_the_forward_optimum_splits_every_forward_kl(target, lower, upper):
    """eq:kl-pythagoras."""
    star, lowest = moment_matched_gaussian(target, lower, upper, MeanFieldGaussian)
    for mu, sigma in [(1.0, 2.0), (-2.0, 0.9), (0.0, 5.0)]:
        q = q_of(mu, sigma)
        assert forward_kl(target, q, lower, upper).item() == pytest.approx(lowest + gaussian_kl(star, q).item(), abs=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_two_dimensions_too_among_all_gaussians_and_among_independent_ones(family):
    ridge = correlated_gaussian(0.8, (1.0, 0.6))
    kind = type(FAMILIES[family]())
    star, lowest = moment_matched_gaussian(ridge, (-9, -9), (9, 9), kind)
    q = FAMILIES[family](seed=9)
    assert forward_kl(ridge, q, (-9, -9), (9, 9)).item() == pytest.approx(lowest + gaussian_kl(star, q).item(), abs=1e-7)


def test_the_price_of_one_hill():
    q = FAMILIES["mean-field"](50, dim=1, seed=3)
    for weight in (0.5, 0.1):
        target = two_component_mixture(weight=weight)
        on_left = gaussian_kl(q, gaussian(-3.0, 0.0)) - math.log(weight)
        assert (reverse_kl(target, q) <= on_left + 1e-9).all()
    assert reverse_kl(HILLS, q_of(3.0, 1.0)).item() < math.log(2)


def test_the_slopes_of_the_reverse_kl():
    """eq:kl-reverse-slopes against autograd; the slope of log p by hand."""
    for mu, sigma in [(0.7, 1.4), (-2.0, 0.8)]:
        q = q_of(mu, sigma)
        slope = lambda z: -z[..., 0] + 3 * torch.tanh(3 * z[..., 0])  # noqa: E731
        by_mu = -expectation(slope, q)
        by_omega = -1 - expectation(lambda z: (z[..., 0] - mu) * slope(z), q)  # noqa: B023
        torch.testing.assert_close(torch.stack([by_mu, by_omega]), -exact_gradient(HILLS, q, elbo=True), rtol=1e-6, atol=1e-7)


@pytest.mark.covers("1.9")
def test_the_symmetric_place_is_a_local_minimum_and_why():
    points = flat_places()
    assert [point.is_minimum for point in points] == [True, True, True, False, False]
    assert [point.kl for point in points[:3]] == pytest.approx([0.688769, 0.688769, 0.840621], abs=1e-6)
    hill, middle = points[1].q, points[2].q
    assert (abs(hill.mean.item()), hill.stddev.item()) == pytest.approx((2.98431, 1.02337), abs=1e-5)
    assert (middle.mean.item(), middle.stddev.item()) == pytest.approx((0.0, 2.74377), abs=1e-5)
    assert 0.68 < points[0].kl < math.log(2) and abs(hill.mean.item()) < 3 and hill.stddev.item() > 1
    curvature = 1 - expectation(lambda z: 9 / torch.cosh(3 * z[..., 0]) ** 2, middle).item()
    assert curvature == pytest.approx(points[2].curvature[0].item(), abs=1e-5) and curvature > 0
    assert 6 / (math.sqrt(2 * math.pi) * 2.74377) == pytest.approx(0.87, abs=5e-3)
    for sigma, sign in [(2.3, -1), (2.5, 1)]:                                      # "about 2.4"
        assert sign * (1 - expectation(lambda z: 9 / torch.cosh(3 * z[..., 0]) ** 2, q_of(0.0, sigma)).item()) > 0
    z = tensor(*np.linspace(-20, 20, 40_001))
    assert torch.trapezoid(9 / torch.cosh(3 * z) ** 2, z).item() == pytest.approx(6, abs=1e-6)


@pytest.mark.parametrize("sds", [(1.0, 1.0), (1.0, 0.4)])
@pytest.mark.covers("1.9")
def test_both_ways_on_a_ridge(sds):
    """eq:kl-ridge, at any variances, and the common price."""
    rho = 0.7
    ridge = correlated_gaussian(rho, sds)
    back, elbo = best_gaussian(ridge, gaussian(0.2, -0.3, 2))
    forth, kl = moment_matched_gaussian(ridge, (-9, -9), (9, 9), MeanFieldGaussian)
    assert back.stddev.tolist() == pytest.approx([sd * math.sqrt(1 - rho**2) for sd in sds], abs=1e-7)
    assert forth.stddev.tolist() == pytest.approx(sds, abs=1e-7)
    assert (-elbo, kl) == pytest.approx((-0.5 * math.log(1 - rho**2),) * 2, abs=1e-7)


# ---- what the prompts of the explorable promise ----------------------------------------------------------------------


def frame(target, direction, mu, sigma, count=10_000, seed=0):
    return compute(mu, sigma, direction, target, count, seed)


def kl_at(*setting) -> float:
    return frame(*setting)["value_q"][0]


def test_prompt_one_q_two_numbers():
    wide, narrow = (0.0, 3.16), (3.0, 1.02)
    assert kl_at("bimodal", "forward", *wide) == pytest.approx(0.462, abs=5e-4)
    assert kl_at("bimodal", "reverse", *wide) == pytest.approx(0.937, abs=5e-4)
    assert kl_at("bimodal", "reverse", *narrow) == pytest.approx(0.689, abs=5e-4)
    assert kl_at("bimodal", "forward", *narrow) == pytest.approx(7.962, abs=5e-4)
    z = frame("bimodal", "forward", *narrow)["z"]
    assert abs(z[frame("bimodal", "reverse", *wide)["curve"].argmax()]) < 0.5
    left = frame("bimodal", "forward", *narrow)
    assert z[left["curve"].argmax()] < 0 and left["above"] and frame("bimodal", "reverse", *narrow)["rest"] < 0.01


def test_prompt_a_hollow_where_p_has_a_valley():
    assert kl_at("bimodal", "reverse", 0.0, 2.74) == pytest.approx(0.841, abs=5e-4)
    assert [kl_at("bimodal", "reverse", mu, 2.74) for mu in (-0.5, 0.5)] == pytest.approx([0.857] * 2, abs=5e-4)
    assert kl_at("bimodal", "reverse", 0.0, 1.3) == pytest.approx(2.081, abs=5e-4)
    assert [kl_at("bimodal", "reverse", mu, 1.3) for mu in (-0.5, 0.5)] == pytest.approx([1.985] * 2, abs=5e-4)
    assert np.isfinite(frame("bimodal", "forward", 0.0, 2.74)["minima_mu"]).sum() == 1


def test_prompt_the_price_of_a_ridge():
    forward, reverse, best = (frame("correlated", *setting) for setting in [("forward", 0.0, 2.0), ("reverse", 0.0, 2.0), ("reverse", 0.0, 0.87)])
    assert (forward["value_q"][0], forward["first"], forward["rest"]) == pytest.approx((0.830, 0.701, 0.129), abs=1e-9)
    assert reverse["value_q"][0] == pytest.approx(3.433, abs=5e-4) and reverse["first"] > 0.97 * 3.433
    assert (best["value_q"][0], best["rest"]) == pytest.approx((0.830, 0.703), abs=1e-9)
    assert all(kl_at("correlated", "reverse", 0.0, sigma) > 0.83 for sigma in (0.65, 1.02, 1.3))


def test_prompt_quiet_and_wrong():
    middle, hill = frame("bimodal", "reverse", 0.0, 2.0), frame("bimodal", "reverse", 3.0, 1.02)
    assert "quieter one, by a factor of 1.86" in middle["verdict"]
    assert middle["error_k3"][-1] == pytest.approx(middle["theory_k3"][-1], rel=0.1)
    assert hill["value_k3"][-1] == pytest.approx(0.198, abs=5e-4) and hill["error_k3"][-1] == pytest.approx(0.004, abs=5e-4)
    assert hill["value_k1"][-1] == pytest.approx(0.689, abs=3 * hill["error_k1"][-1]) and "of no use" in hill["verdict"]
    for direction in ("reverse", "forward"):
        for mu, sigma in [(-0.5, 2.0), (0.0, 1.02), (2.0, 4.0), (-4.0, 0.65)]:
            assert np.isnan(frame("skewed", direction, mu, sigma)["theory_k3"]).all()


def test_the_links_to_the_best_go_to_the_nearest_notch(text):
    explorable = kl_directions()
    (jump,) = re.findall(r"Jump to what is best:.*?notch\)", text, re.S)
    for _, at in links(jump):
        best = frame(at["target"], at["direction"], float(at["mu"]), float(at["sigma"]))
        controls = {c.name: c for c in explorable.definition.controls}
        nearest = lambda name, value: min(controls[name].values, key=lambda v: abs(v - value))  # noqa: E731, B023
        assert (float(at["mu"]), float(at["sigma"])) == (nearest("mu", best["mu_best"]), nearest("sigma", best["sigma_best"]))
        assert best["value_q"][0] < best["value_best"][0] + 0.003


# ---- self-checks and exercises ---------------------------------------------------------------------------------------


def test_the_self_checks():
    assert -0.5 * math.log(1 - 0.87**2) == pytest.approx(math.log(2), abs=0.02)
    back, forth = SKEWED.best[0].stddev.item(), moment_matched_gaussian(SKEWED, -12, 60, MeanFieldGaussian)[0].stddev.item()
    assert (back, forth) == pytest.approx((2, 2.57), abs=5e-3)


def test_two_rates():
    kl = lambda a, b: b / a - 1 - math.log(b / a)  # noqa: E731
    z = tensor(*np.linspace(1e-9, 80, 400_001))
    for a, b in [(1, 2), (2, 1), (1, 3), (2, 3)]:
        by_sum = torch.trapezoid(a * (-a * z).exp() * (math.log(a / b) - (a - b) * z), z)
        assert by_sum.item() == pytest.approx(kl(a, b), abs=1e-5)
    assert all(kl(1, t) > kl(t, 1) for t in (1.01, 2, 50)) and kl(1, 3) > kl(1, 2) + kl(2, 3)


def test_finite_or_not(executed):
    out = executed.output("log_cauchy = lambda")
    assert "0.9189" in out.splitlines()[0] and "0.9189" in out.splitlines()[1] and out.count("1.0856") == 2
    rows = [list(map(float, line.split())) for line in out.splitlines()[3:]]
    assert len({row[1] for row in rows}) == 1
    assert rows[2][2] / rows[1][2] == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("rho", [0.3, 0.9])
def test_across_and_along(rho):
    minus, plus, price = 1 - rho, 1 + rho, -0.5 * math.log(1 - rho**2)
    reverse = width((1 - rho**2) / minus), width((1 - rho**2) / plus)
    forward = width(minus), width(plus)
    assert sum(reverse) == pytest.approx(price) and sum(forward) == pytest.approx(price)
    assert reverse == pytest.approx(forward[::-1]) and forward[0] > forward[1]


def test_the_best_coefficient(executed):
    for m in (0.3, 1.0, 2.0):
        found = log_ratio_moments(q_of(0.0, 1.0).log_prob, q_of(m, 1.0).log_prob, -30, 30)
        K = found.kl + found.opposite_kl
        at = lambda a: found.variance + a * a * found.chi_squared - 2 * a * K  # noqa: B023, E731
        best = K / found.chi_squared
        assert at(best) == pytest.approx(m**2 - m**4 / math.expm1(m**2), rel=1e-6)
        assert at(best) <= min(at(0), at(1), at(best + 0.01), at(best - 0.01))
        assert (at(1) < at(0)) == (best > 0.5)
    assert "49.59815" in executed.output("log_w = mu0 * eps")


def test_the_four_to_mend():
    def with_log_w(make):
        def estimate(log_p, q, eps):
            z = q.sample(eps)
            terms, power = make(log_p(z) - q.log_prob(z))
            return terms.mean(0), terms.std(0) / len(terms) ** power
        return estimate

    wrong = [lambda w: ((-w).clamp(min=0), 0.5), lambda w: (w.exp() * w, 0.5), lambda w: (-w, 1), lambda w: ((-w).exp() - 1 + w, 0.5)]
    assert [check_kl(with_log_w(make)).slip for make in wrong] == ["clipped at zero", "other direction", "divided by S", "k3 upside down"]


def test_how_far_apart():
    def lowest(d):
        starts = MeanFieldGaussian(tensor([0.0], [d]), tensor([0.5 * math.log1p(d * d)], [0.05]))
        points = [point for point in stationary_gaussians(two_component_mixture((-d, d)), starts) if point.is_minimum]
        return abs(points[0].q.mean.item()), points[0].kl, len({round(abs(point.q.mean.item()), 3) for point in points})

    assert lowest(2.79)[0] < 0.5 < lowest(2.81)[0]
    assert (lowest(2.2)[2], lowest(2.5)[2], lowest(5.0)[2]) == (1, 2, 2)           # the hills count once: mirror images
    assert lowest(5.0)[1] == pytest.approx(math.log(2), abs=1e-4)
    star, kl = moment_matched_gaussian(two_component_mixture((-5.0, 5.0)), -17.0, 17.0)
    assert star.covariance.item() == pytest.approx(26, abs=1e-6)
    assert kl == pytest.approx(0.5 * math.log(26) - math.log(2), abs=1e-4) and kl == pytest.approx(0.936, abs=5e-4)
