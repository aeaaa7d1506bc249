"""What the chapter ``advi`` says in words, held against closed forms, exact marginals and its own explorable."""

import math
import re
import sys

import pytest
import torch
from chapters import numbers
from helpers import gaussian, seeded, tensor
from torch.distributions import Beta, Gamma, Normal, constraints

from vilib import (
    FullRankGaussian, MeanFieldGaussian, Model, adagrad, adam, advi, eight_schools, kidiq, mixture_of_two, pathwise, reference_marginal,
    rmsprop, sgd,
)
from vilib.explorables.gallery import advi_lab

lab = sys.modules["vilib.explorables.gallery.advi_lab"]


# ---- the page itself -------------------------------------------------------------------------------------------------


def test_every_cell_and_every_solution_runs(executed):
    assert executed.marks == (3, 2) and "nan" not in executed.everything
    assert "You added log |det J| by hand" in executed.everything and "counts 1/6" in executed.everything
    assert "returned -inf at theta" in executed.everything and "False · Not converged: all 20 steps" in executed.everything


# ---- the first figure and the derivation -----------------------------------------------------------------------------


def test_thirteen_per_cent_of_the_gaussian_for_tau_is_below_zero():
    exact = reference_marginal("eight schools")
    below = Normal(exact.mean[1], exact.sd[1]).cdf(tensor(0.0)).item()
    assert below == pytest.approx(0.13, abs=0.005)


@pytest.mark.parametrize("support, theta_of, log_det", [
    (constraints.real, lambda z: z, lambda z, t: 0 * z), (constraints.positive, torch.exp, lambda z, t: z),
    (constraints.unit_interval, torch.sigmoid, lambda z, t: t.log() + (1 - t).log()),
    (constraints.interval(2.0, 5.0), lambda z: 2 + 3 * torch.sigmoid(z), lambda z, t: (t - 2).log() + (5 - t).log() - math.log(3)),
])
def test_the_table_of_supports(support, theta_of, log_det):
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    model = Model(lambda t: 0.0 * t["x"], {"x": support})
    theta = theta_of(z)
    torch.testing.assert_close(model.constrain(z.unsqueeze(-1))["x"], theta)
    torch.testing.assert_close(model(z.unsqueeze(-1)), log_det(z, theta))


def test_the_slope_of_the_coin_by_hand_and_the_gradient_by_autodiff(executed):
    coin = Model(lambda t: Beta(10.0, 10.0).log_prob(t["p"]) + 6 * t["p"].log() + 4 * torch.log1p(-t["p"]), {"p": constraints.unit_interval})
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).requires_grad_()
    slope, = torch.autograd.grad(coin(z.unsqueeze(-1)).sum(), z)
    torch.testing.assert_close(slope, 16 - 30 * torch.sigmoid(z.detach()), rtol=1e-6, atol=1e-6)
    by_hand, by_autodiff = (numbers(line)[:2] for line in executed.output("by_hand = ").splitlines())
    assert by_hand == by_autodiff


def test_a_gradient_of_kidiq_has_the_units_of_one_over_its_parameter(executed):
    line = executed.output("gradient in mu").splitlines()[1]
    beta0, beta1, _ = numbers(line)
    assert 80 < beta1 / beta0 < 120                                                         # "about a hundred times"


@pytest.mark.parametrize("make, length", [(adagrad, 1.0), (rmsprop, 10.0), (adam, 1.0)])
def test_the_first_step_of_each_optimiser(make, length):
    optimizer, gradient = make(0.1), tensor(5.7, -566.0, 1e-3)
    step, _ = optimizer.update(gradient, optimizer.init(torch.zeros(3).double()), 0)
    torch.testing.assert_close(step, 0.1 * length * gradient.sign(), rtol=1e-3, atol=0)
    assert sgd(0.1).update(gradient, (), 0)[0].tolist() == pytest.approx((0.1 * gradient).tolist())


def test_the_optimisers_are_the_equations():
    """eq:advi-adagrad, -rmsprop and -adam, written out for three steps."""
    gradients = [tensor(1.0, -2.0), tensor(0.5, 3.0), tensor(-2.0, 0.1)]
    runs = {name: [] for name in ("adagrad", "rmsprop", "adam")}
    total, mean, r, s = (torch.zeros(2).double() for _ in range(4))
    for t, g in enumerate(gradients):
        total = total + g**2
        runs["adagrad"].append(0.1 * g / total.sqrt())
        mean = 0.99 * mean + 0.01 * g**2
        runs["rmsprop"].append(0.1 * g / mean.sqrt())
        r, s = 0.9 * r + 0.1 * g, 0.999 * s + 0.001 * g**2
        runs["adam"].append(0.1 * (r / (1 - 0.9 ** (t + 1))) / (s / (1 - 0.999 ** (t + 1))).sqrt())
    for make in (adagrad, rmsprop, adam):
        optimizer = make(0.1)
        state = optimizer.init(torch.zeros(2).double())
        for t, g in enumerate(gradients):
            step, state = optimizer.update(g, state, t)
            torch.testing.assert_close(step, runs[make.__name__][t], rtol=1e-6, atol=1e-9)


def test_tempering_changes_the_hill_and_the_numbers_are_the_masses(executed):
    plain, tempered, masses = executed.output("def two_hills").splitlines()
    assert numbers(plain)[0] == pytest.approx(-6, abs=0.05) and numbers(tempered)[0] == pytest.approx(6, abs=0.05)
    assert plain.endswith("True") and tempered.endswith("True")
    for line, mass in zip((plain, tempered), numbers(masses)):
        assert numbers(line)[2] == pytest.approx(mass, abs=0.01)


# ---- what comes out --------------------------------------------------------------------------------------------------


def table(executed) -> dict[tuple[str, str], list[float]]:
    """(model, parameter) → mean, sd, 5 %, 95 %, reference mean and sd, …, off by, ratio."""
    found = {}
    for line in executed.output("known_coin = ").splitlines()[2:]:
        name, parameter, rest = line[:15].strip(), line[16:26].strip(), line[26:]
        found[name, parameter] = [float(n) if n != "–" else math.nan for n in rest.split()]
    return found


def test_all_means_are_within_three_tenths_and_the_widths_are_what_the_prose_says(executed):
    rows = table(executed)
    assert len(rows) == 14 and all(abs(row[-2]) < 0.3 for row in rows.values())
    for k, theory in ((0, 0.8758), (1, 0.00866)):
        row = rows["kidiq, raw", f"beta[{k}]"]
        assert row[1] == pytest.approx(theory, rel=0.05) and row[-1] == pytest.approx(1 / 7, abs=0.01) and abs(row[-2]) < 0.05
    assert all(rows["kidiq, centred", f"beta[{k}]"][-1] == pytest.approx(1, abs=0.03) for k in (0, 1))
    tau = rows["eight schools", "tau"]
    assert tau[-1] < 0.9 and tau[0] < tau[4] and tau[2] == pytest.approx(0.67, abs=0.01) and tau[6] == pytest.approx(0.26, abs=0.005)
    assert rows["mixture of two", "mu[0]"][-1] < 0.85 and rows["mixture of two", "mu[1]"][-1] > 1.07
    assert all(rows[row][-1] == pytest.approx(1, abs=0.04) for row in [("mixture of two", "sigma[0]"), ("mixture of two", "theta"), ("coin", "p")])


def test_the_conditional_widths_are_theory(executed):
    """σ_k^{-2} = (XᵀX)_kk E_q[1/σ²], with E_q[1/σ²] = exp(−2μ + 2s²) for the log-normal σ of q."""
    q, x = advi(kidiq(), generator=seeded(), tolerance=0.01, progress=False).q, kidiq().data["x"]
    inverse = (-2 * q.mean[2] + 2 * q.stddev[2] ** 2).exp().item()
    for k, gram in ((0, float(len(x))), (1, float(x @ x))):
        assert q.stddev[k].item() == pytest.approx((gram * inverse) ** -0.5, rel=0.02)
    assert [(g * inverse) ** -0.5 for g in (len(x), float(x @ x))] == pytest.approx([0.8758, 0.00866], rel=0.005)


def test_a_reported_interval_of_90_per_cent_covers_about_a_fifth():
    half = 1.645 * 0.8758 / reference_marginal("kidiq").sd[0].item()
    assert 2 * Normal(0.0, 1.0).cdf(torch.tensor(half)).item() - 1 == pytest.approx(0.2, abs=0.02)


def test_k_hat_of_the_prose(executed):
    rows = {line[:16].strip(): numbers(line[17:]) for line in executed.output("posteriors = {").splitlines()[1:]}
    spread, k_hat = ({name: row[i] for name, row in rows.items()} for i in (-2, -1))
    assert k_hat["kidiq, raw"] == pytest.approx(0.89, abs=0.005) and k_hat["eight schools"] == pytest.approx(0.70, abs=0.02)
    assert k_hat["coin"] == pytest.approx(3.5, abs=0.05) and spread["coin"] < 0.03 and spread["kidiq, raw"] > 0.8
    assert rows["coin"][1] == pytest.approx(-7.0695, abs=1e-3)


def test_the_exact_coin(executed):
    exact = Beta(torch.tensor(16.0), torch.tensor(14.0))
    assert (exact.mean.item(), exact.stddev.item()) == pytest.approx((0.5333, 0.0896), abs=1e-4)
    low, high = table(executed)["coin", "p"][6:8]
    phi = torch.linspace(0, math.pi / 2, 200_001, dtype=torch.float64)
    density = 2 * phi.sin() ** 31 * phi.cos() ** 27 * math.exp(math.lgamma(30) - math.lgamma(16) - math.lgamma(14))
    for quantile, share in ((low, 0.05), (high, 0.95)):
        assert (density[phi.sin() ** 2 < quantile].sum() * (phi[1] - phi[0])).item() == pytest.approx(share, abs=5e-4)


def test_the_map_has_made_a_correlation_of_minus_six_tenths():
    q = advi(mixture_of_two(), family=FullRankGaussian, generator=seeded(), num_draws=200, progress=False).q
    c = q.covariance
    assert (c[0, 1] / (c[0, 0] * c[1, 1]).sqrt()).item() == pytest.approx(-0.6, abs=0.03)


def test_many_seeds_end_in_one_place(executed):
    mu, tau = numbers(executed.output("64 seeds").split(";")[0])[1:], numbers(executed.output("64 seeds").split(";")[1].split("\n")[0])
    assert mu[2] - mu[1] < 0.5 and tau[2] - tau[1] < 0.8
    assert numbers(executed.output("64 seeds").splitlines()[1])[-1] < 30                      # "nothing like sixty-four times one"


# ---- the exercises ---------------------------------------------------------------------------------------------------


def test_the_rate_by_hand():
    """∇_μ = a − b E, ∇_ω = 1 − b E σ²; the optimum E = a/b, σ² = 1/a."""
    a, b = 10.0, 10.0
    model = Model(lambda t: (a - 1) * t["rate"].log() - b * t["rate"], {"rate": constraints.positive})
    q = gaussian(0.2, -0.9)
    leaf = q.vector().requires_grad_()
    nodes = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    weights = torch.softmax(-0.5 * nodes**2, 0)
    z = leaf[0] + leaf[1].exp() * nodes
    value = (weights * model(z.unsqueeze(-1))).sum() + leaf[1]
    gradient, = torch.autograd.grad(value, leaf)
    e, var = math.exp(0.2 + 0.5 * math.exp(-1.8)), math.exp(-1.8)
    assert gradient.tolist() == pytest.approx([a - b * e, 1 - b * e * var], abs=1e-6)
    assert math.sqrt(a * math.expm1(1 / a)) == pytest.approx(1.026, abs=5e-4)
    assert Gamma(a, b).mean == pytest.approx(a / b)


def test_full_rank_closes_the_gap_of_kidiq_and_hardly_any_of_eight_schools(executed):
    kid, schools, theory = executed.output("theory for kidiq").splitlines()
    assert numbers(kid)[0] == pytest.approx(numbers(theory)[0], abs=0.08) and abs(numbers(schools)[0]) < 0.15
    assert numbers(schools)[3] > 0.55                                                          # the 5 % quantile of tau, 0.26 in truth


def test_the_three_models_of_somebody_else(executed):
    rows = {line.split()[0]: numbers(line) for line in executed.output("def mine(t)").splitlines() if "sigma: mean" in line}
    assert rows["first"][2] > 2 * rows["mine"][2] and rows["second"][0] > rows["mine"][0]
    assert rows["third"][0] == pytest.approx(rows["mine"][0] ** 0.5, abs=0.1)


def test_the_dozen_lines_arrive(executed):
    mu, sigma = numbers(executed.output("def my_elbo").split("mu ")[-1].splitlines()[0])
    assert mu == pytest.approx(0.138, abs=0.02) and sigma == pytest.approx(0.372, rel=0.03)


def test_the_bad_start(executed):
    exact, stl, by_advi = executed.output("narrow = ").splitlines()
    at = lambda line: [float(n) for n in re.findall(r": (-[\d.]+)", line)]  # noqa: E731
    assert all(a >= b for a, b in zip(at(exact), at(stl))) and at(exact)[-1] > -31.9 and at(exact)[1] < -35
    assert float(re.search(r"ELBO (-[\d.]+)", by_advi)[1]) > -31.75


# ---- the prompts -----------------------------------------------------------------------------------------------------


def end(**setting) -> dict[str, float]:
    frame = advi_lab().definition.frame(**({"draws": 10, "optimizer": "adam", "step_size": 0.1, "tempering": "off"} | setting))
    return {name: value[-1] if value.dtype == float else value.item() for name, value in frame.items()}


def test_prompt_1():
    mean = end(model="raw", family="mean", tempering="on")
    assert (mean["ratio_x"], mean["ratio_y"]) == pytest.approx((0.15, 0.15), abs=0.006) and mean["verdict"].startswith("It has arrived, and")
    full = end(model="raw", family="full", tempering="on")
    assert (full["ratio_x"], full["ratio_y"]) == pytest.approx((1.02, 0.99), abs=0.001)
    centred = end(model="centred", family="mean", tempering="on")
    assert (centred["ratio_x"], centred["ratio_y"]) == pytest.approx((1, 1), abs=0.05)


def test_prompt_2():
    short = end(model="schools", family="mean", optimizer="adagrad", step_size=0.03)
    assert short["gap"] == pytest.approx(3.6, abs=0.05) and short["verdict"] == "It has not arrived."
    assert end(model="schools", family="mean", optimizer="adagrad", step_size=0.3)["verdict"].startswith("It has arrived.")
    assert end(model="schools", family="mean", optimizer="rmsprop", step_size=0.3)["verdict"] == "Its steps threw it out."
    mean, sd = lab.LABS["schools"].start
    assert (reference_marginal("eight schools").mean[0].item() - mean[0]) / sd[0] == pytest.approx(5, abs=0.3)
    assert 2 * 0.03 * math.sqrt(300) == pytest.approx(1, abs=0.05) and math.exp(3) == pytest.approx(20, abs=0.1)


def test_prompt_3():
    mean, full = end(model="schools", family="mean"), end(model="schools", family="full")
    assert (mean["mean_y"], mean["known_mean_y"]) == pytest.approx((2.8, 3.6), abs=0.05)
    assert (mean["ratio_y"], full["ratio_y"]) == pytest.approx((0.77, 0.79), abs=0.001)


def test_prompt_4():
    setting = dict(model="mixture", family="full", step_size=0.3)
    assert end(**setting, draws=1)["gap"] == pytest.approx(111, abs=1) and end(**setting, draws=1)["ratio_x"] < 0.01
    assert end(**setting)["gap"] == pytest.approx(0.01, abs=0.006)
    assert end(model="mixture", family="full", draws=1)["gap"] == pytest.approx(0.01, abs=0.008)


def test_prompt_5():
    f = end(model="mixture", family="mean")
    assert (f["ratio_x"], f["ratio_y"]) == pytest.approx((0.8, 1.1), abs=0.035)
    frame = advi_lab().definition.frame(model="mixture", family="mean", draws=10, optimizer="adam", step_size=0.1, tempering="off")
    assert (frame["q_ellipse"].reshape(5, -1)[3] == 0).all(), "upright in z"


def test_pathwise_is_the_gradient_of_the_chapter():
    """eq:advi-gradient in two dimensions, on a model with a support."""
    model, q = eight_schools(), MeanFieldGaussian(0.1 * torch.ones(10).double(), -0.5 * torch.ones(10).double())
    eps = torch.randn(5, 10, generator=seeded(), dtype=torch.float64)
    z = (q.mu + q.omega.exp() * eps).requires_grad_()
    g, = torch.autograd.grad(model(z).sum(), z)
    leaf = q.vector().requires_grad_()
    found, = torch.autograd.grad(pathwise(model, q.with_vector(leaf), eps), leaf)
    torch.testing.assert_close(found, torch.cat([g.mean(0), (g * q.omega.exp() * eps).mean(0) + 1]))
