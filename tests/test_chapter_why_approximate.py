"""What the chapter ``why-approximate`` says in words, held against closed forms, enumeration and quadrature."""

import math

import pytest
import torch
from helpers import seeded, tensor

from vilib import (
    NoMode, check_metropolis, coin_toss, exact_gradient, expectation, laplace, log_evidence, metropolis, metropolis_step,
    posterior_density, two_component_mixture,
)

COIN, LOPSIDED = coin_toss(6, 4, (10, 10)), coin_toss(6, 1, (1, 1))
ZERO = tensor(0.0)


def in_theta(coin, start=0.5):
    return laplace(lambda z: coin.model.log_joint({"theta": z[..., 0]}), tensor(start))


def log_beta(a, b):
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def walk(num_chains, step_size, num_samples=2000, target=COIN, start=0.0, seed=1):
    return metropolis(target, torch.full((num_chains, 1), start, dtype=torch.float64), num_samples=num_samples, step_size=step_size,
                      warmup=200, generator=seeded(seed))


# ---- the page itself --------------------------------------------------------------------------------------------------


def test_every_cell_and_every_solution_runs(executed):
    assert len(executed.printed) > 20 and executed.marks == (1, 2) and "nan" not in executed.everything


# ---- Bayes, the coin and the mixture ----------------------------------------------------------------------------------


@pytest.mark.covers("1.1", "3.1")
def test_the_coin_by_bayes_rule_on_a_grid():
    """The ratio of two integrals that are added up, with no Beta function in sight."""
    theta = torch.linspace(0, 1, 20_001, dtype=torch.float64)[1:-1]
    joint = (COIN.model.log_joint({"theta": theta})).exp()
    evidence = torch.trapezoid(joint, theta).item()
    assert math.log(evidence) == pytest.approx(COIN.log_evidence, abs=1e-9)
    torch.testing.assert_close(joint / evidence, COIN.posterior.log_prob(theta).exp(), rtol=1e-8, atol=1e-12)
    assert torch.trapezoid(theta * joint, theta).item() / evidence == pytest.approx(16 / 30, abs=1e-9)


def mixture(num=10):
    x = 2.0 * torch.tensor([1, -1, 1, 1, -1, 1, -1, 1, 1, 1])[:num]
    x = x + torch.randn(10, generator=seeded(0), dtype=torch.float64)[:num]
    labels = torch.cartesian_prod(*[tensor(0, 1)] * num)

    def log_joint(m):
        prior = torch.distributions.Normal(0.0, tensor(3.0)).log_prob(m).sum(-1)
        each = torch.distributions.Normal(m.unsqueeze(-2), 1.0).log_prob(x.unsqueeze(-1))
        return prior + (each + math.log(0.5)).logsumexp(-1).sum(-1)

    return x, labels, log_joint


def log_group(members, x):
    n, total, squares = members.sum(-1), members @ x, members @ x**2
    return -0.5 * n * math.log(2 * math.pi) - 0.5 * torch.log1p(9 * n) - 0.5 * (squares - total**2 / (n + 1 / 9))


def test_a_groups_evidence_is_that_of_a_gaussian_with_common_mean():
    x, *_ = mixture()
    members = tensor(1, 0, 1, 1, 0, 1, 0, 0, 0, 0)
    mine = x[members == 1]
    covariance = torch.eye(4, dtype=torch.float64) + 9.0
    exact = torch.distributions.MultivariateNormal(torch.zeros(4, dtype=torch.float64), covariance).log_prob(mine)
    assert log_group(members, x).item() == pytest.approx(exact.item(), abs=1e-9)
    assert log_group(0 * members, x).item() == 0


@pytest.mark.parametrize("num", [1, 3, 10])
@pytest.mark.covers("2.1")
def test_the_sum_over_labellings_is_the_integral_over_means(num):
    x, labels, log_joint = mixture(num)
    labels = labels.reshape(-1, num)
    terms = num * math.log(0.5) + log_group(labels, x) + log_group(1 - labels, x)
    assert len(terms) == 2**num
    assert terms.logsumexp(0).item() == pytest.approx(log_evidence(log_joint, [-20, -20], [20, 20]), abs=1e-8)


@pytest.mark.covers("2.1")
def test_the_two_islands():
    _, _, log_joint = mixture()
    grid = torch.linspace(-5.5, 5.5, 161, dtype=torch.float64)
    density = posterior_density(log_joint, grid, grid)
    torch.testing.assert_close(density, density.mT)
    assert density.diagonal().max() < 0.01 * density.max()


def test_labels_are_dependent():
    x, labels, _ = mixture()
    probability = (10 * math.log(0.5) + log_group(labels, x) + log_group(1 - labels, x)).softmax(0)
    p1, p2 = (probability @ labels)[:2].tolist()
    same = (probability * (labels[:, 0] == labels[:, 1])).sum().item()
    assert (p1, p2) == pytest.approx((0.5, 0.5)) and same < 0.001


def test_a_label_alone_is_logistic_regression_if_the_widths_are_equal():
    m1, m2, s, pi1 = 1.5, -0.5, 0.8, 0.3
    for x in (-2.0, 0.7, 3.0):
        log_n = lambda m: -0.5 * ((x - m) / s) ** 2  # noqa: B023, E731
        bayes = pi1 * math.exp(log_n(m1)) / (pi1 * math.exp(log_n(m1)) + (1 - pi1) * math.exp(log_n(m2)))
        eta = math.log(pi1 / (1 - pi1)) + (m1 - m2) / s**2 * (x - (m1 + m2) / 2)
        assert bayes == pytest.approx(1 / (1 + math.exp(-eta)))


# ---- the grid ---------------------------------------------------------------------------------------------------------


def test_in_one_dimension_the_grid_wins():
    error = [abs(log_evidence(COIN, -8, 8, nodes) - COIN.log_evidence) for nodes in (10, 20, 30, 40)]
    assert error[0] > 1 > 40 * error[1] / 2 and error[2] < 2e-4 and error[3] < 1e-6
    theta = torch.linspace(0.02, 0.98, 30, dtype=torch.float64)
    thirty = COIN.model.log_joint({"theta": theta}).exp().sum() * (theta[1] - theta[0])
    assert math.log(thirty) == pytest.approx(COIN.log_evidence, abs=1e-6)                     # the dots of the first figure


def test_a_year_of_a_billion_a_second_is_between_eleven_and_twelve_dimensions():
    year = 1e9 * 3600 * 24 * 365
    assert 30**11 < year < 30**12
    assert 2.0**60 / year > 30 and 2.0**100 / year > 1e13
    assert 2560 ** (1 / 10) == pytest.approx(2, abs=0.3)                                      # prompt 1


# ---- Laplace ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads, tails, prior", [(6, 4, (10, 10)), (6, 1, (1, 1)), (0, 24, (0.5, 0.5))])
@pytest.mark.covers("3.2")
def test_laplace_in_logit_theta_by_hand(heads, tails, prior):
    coin, a, b = coin_toss(heads, tails, prior), prior[0] + heads, prior[1] + tails
    found = laplace(coin, ZERO)
    assert found.q.mean.item() == pytest.approx(math.log(a / b), abs=1e-8)
    assert found.q.stddev.item() ** 2 == pytest.approx(1 / a + 1 / b, rel=1e-7)
    assert torch.sigmoid(found.q.mean).item() == pytest.approx(a / (a + b), abs=1e-9)
    by_hand = a * math.log(a / (a + b)) + b * math.log(b / (a + b)) - log_beta(*prior) + 0.5 * math.log(2 * math.pi * (1 / a + 1 / b))
    assert found.log_evidence.item() == pytest.approx(by_hand, abs=1e-8)


@pytest.mark.parametrize("heads, tails, prior", [(6, 4, (10, 10)), (6, 1, (1, 1)), (3, 30, (2, 2))])
@pytest.mark.covers("3.2")
def test_laplace_in_theta_by_hand(heads, tails, prior):
    coin, a, b = coin_toss(heads, tails, prior), prior[0] + heads, prior[1] + tails
    nu, top = a + b - 2, (a - 1) / (a + b - 2)
    found = in_theta(coin)
    assert (found.q.mean.item(), found.q.stddev.item() ** 2) == pytest.approx((top, top * (1 - top) / nu), abs=1e-8)
    by_hand = coin.model.log_joint({"theta": tensor(top)[0]}).item() + 0.5 * math.log(2 * math.pi * top * (1 - top) / nu)
    assert found.log_evidence.item() == pytest.approx(by_hand, abs=1e-8)


def test_the_errors_of_the_evidence_on_both_scales():
    assert in_theta(COIN).log_evidence.item() - COIN.log_evidence == pytest.approx(0.0261, abs=5e-5)
    assert laplace(COIN, ZERO).log_evidence.item() - COIN.log_evidence == pytest.approx(-0.0084, abs=5e-5)
    ratios = []
    for a_n in (2.0, 8.0, 32.0, 128.0):
        coin = coin_toss(a_n - 1, a_n - 1, (1, 1))
        on_theta, on_logit = (found.log_evidence.item() - coin.log_evidence for found in (in_theta(coin, 0.4), laplace(coin, tensor(0.3))))
        assert on_logit < 0 < on_theta
        ratios.append(-on_theta / on_logit)
    assert ratios == sorted(ratios, reverse=True) and ratios[-1] == pytest.approx(3, abs=0.05)


def test_the_error_of_the_log_evidence_falls_like_one_over_n():
    scaled = []
    for n in (100, 1000, 10_000):
        coin = coin_toss(0.6 * n, 0.4 * n, (1, 1))
        scaled.append(n * (laplace(coin, ZERO).log_evidence.item() - coin.log_evidence))
    assert scaled == pytest.approx([scaled[-1]] * 3, rel=0.03)


def test_no_mode_the_spike_and_the_missing_factor():
    with pytest.raises(NoMode, match="rise up to the edge of its support"):
        in_theta(coin_toss(0, 10, (1, 1)))
    spike = two_component_mixture(means=(0.0, 3.0), sds=(1.0, 0.02), weight=0.9)
    found = laplace(spike, tensor(3.01))
    assert spike(tensor(3.0)) > spike(tensor(0.0)) and found.log_evidence.exp().item() == pytest.approx(0.1, abs=5e-4)
    forgot = laplace(lambda z: COIN.model.log_joint({"theta": torch.sigmoid(z[..., 0])}), ZERO)
    assert torch.sigmoid(forgot.q.mean).item() == pytest.approx(15 / 28, abs=1e-9)


# ---- Metropolis -------------------------------------------------------------------------------------------------------


@pytest.mark.covers("3.3")
def test_detailed_balance():
    """p(z) M(z → z′) is symmetric, Metropolis' and Barker's alike."""
    z, there = torch.randn(2, 50, 1, generator=seeded(), dtype=torch.float64)
    p, p_there = COIN(z).exp(), COIN(there).exp()
    for accept in (lambda a, b: torch.clamp(b / a, max=1.0), lambda a, b: b / (a + b)):
        torch.testing.assert_close(p * accept(p, p_there), p_there * accept(p_there, p))


@pytest.mark.statistical
def test_a_chain_is_worth_fewer_draws_than_it_has():
    means = torch.sigmoid(walk(200, 0.9, 5000).draws[..., 0]).mean(0)
    worth = (COIN.posterior.variance / means.var()).item()
    assert 500 < worth < 2500


@pytest.mark.statistical
def test_the_three_step_sizes_and_the_chain_that_never_crosses():
    small, middle, large = (walk(50, size, 300).acceptance_rate.mean().item() for size in (0.05, 0.9, 15.0))
    assert small > 0.9 and 0.3 < middle < 0.6 and large < 0.1
    islands = two_component_mixture(means=(-6.0, 6.0))
    for start in (-6.0, 6.0):
        run = walk(3, 1.5, 5000, islands, start)
        assert (run.draws.sign() == math.copysign(1, start)).all() and run.acceptance_rate.min() > 0.4


def test_the_step_of_the_exercise_is_marked():
    def my_step(log_joint, z, log_p, eps, u):
        proposal = z + eps
        accepted = u < log_joint(proposal) - log_p
        z = torch.where(accepted.unsqueeze(-1), proposal, z)
        return z, log_joint(z), accepted

    assert check_metropolis(my_step).slip == "no log"
    assert check_metropolis(metropolis_step)


def test_asking_the_prior():
    rho = math.exp(log_beta(22, 18) + log_beta(10, 10) - 2 * log_beta(16, 14))
    theta = torch.linspace(0, 1, 20_001, dtype=torch.float64)[1:-1]
    prior, likelihood = torch.distributions.Beta(*tensor(10, 10)).log_prob(theta).exp(), theta**6 * (1 - theta) ** 4
    mean, square = (torch.trapezoid(prior * likelihood**k, theta).item() for k in (1, 2))
    assert square / mean**2 == pytest.approx(rho, abs=1e-9) and rho - 1 == pytest.approx(0.137, abs=5e-4)
    assert 1e4 * (rho**100 - 1) > 1e9


# ---- variational inference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coin", [COIN, LOPSIDED, coin_toss(0, 24, (0.5, 0.5))], ids=["fair", "lopsided", "edge"])
@pytest.mark.covers("0.1", "3.4")
def test_vi_has_the_exact_mean_of_theta_and_a_bound_on_the_evidence(coin):
    q, elbo = coin.best
    assert expectation(lambda z: torch.sigmoid(z[..., 0]), q).item() == pytest.approx(coin.posterior.mean.item(), abs=1e-8)
    slope = expectation(lambda z: coin.slope(z)[..., 0], q).item()
    assert slope == pytest.approx(exact_gradient(coin, q, elbo=True)[0].item(), abs=1e-9) and slope == pytest.approx(0, abs=1e-8)
    assert elbo < coin.log_evidence


def test_the_numbers_of_the_chapters_coin():
    q, elbo = COIN.best
    assert (q.mean.item(), q.stddev.item(), elbo) == pytest.approx((0.137999, 0.372017, -7.069509), abs=1e-6)
    assert COIN.log_evidence - elbo == pytest.approx(0.000135, abs=1e-6)


def test_the_exercise_of_the_next_toss():
    assert math.exp(coin_toss(7, 4).log_evidence - COIN.log_evidence) == pytest.approx(16 / 30)


# ---- the prompts beside the explorable ----------------------------------------------------------------------------------


def frame(**values):
    from vilib.explorables.gallery import posterior_three_ways
    return posterior_three_ways().definition.frame(**values)


def test_prompt_1_what_effort_buys():
    f = frame(prior="fair", heads=6, tails=4)
    grid, draws = f["error_grid"], f["typical_mcmc"]
    assert grid[1] / grid[2] > 10 and grid[2] / grid[3] > 10
    assert 1.5 < draws[1] / draws[2] < 2.7 and 1.5 < draws[2] / draws[3] < 2.7
    for name in ("error_vi", "error_laplace_logit"):
        assert f[name][0] < grid[1] and f["error_mcmc"][-1] > f[name][0] and draws[-1] > f[name][0]


def test_prompt_2_a_lopsided_coin():
    f = frame(prior="flat", heads=6, tails=1)
    assert f["error_vi"][0] < f["error_laplace_logit"][0] < f["error_laplace_theta"][0]
    assert f["mean_laplace_theta"][0] == pytest.approx(6 / 7) and f["mean_exact"][0] == pytest.approx(7 / 9)
    assert 1 < f["sd_vi"][0] / f["sd_exact"][0] < 1.05
    assert f["curve_laplace_theta"][-1] > 0.3                                                 # at θ = 1.12
    assert f["gaussian_vi"][0] > f["gaussian_laplace_logit"][0]                               # towards the long tail


def test_prompt_3_more_tosses():
    frames = [frame(prior="flat", heads=n, tails=n) for n in (1, 6, 24)]
    for name in ("error_vi", "error_laplace_logit", "error_laplace_theta"):
        levels = [f[name][0] for f in frames]
        assert levels[0] > 2 * levels[1] > 4 * levels[2]
        assert levels[1] / levels[2] == pytest.approx(4, rel=0.4)
    for f in frames:
        assert f["error_vi"][0] < min(f["error_laplace_logit"][0], f["error_laplace_theta"][0])
        assert f["evidence_laplace_logit"][0] < f["evidence_vi"][0] < f["evidence_exact"][0] < f["evidence_laplace_theta"][0]


def test_prompt_4_at_the_edge():
    f = frame(prior="edges", heads=0, tails=24, evaluations=2560)
    last = {name: f[f"error_{name}"][-1] for name in ("grid", "laplace_logit", "mcmc", "vi")}
    assert min(last, key=last.get) == "mcmc"
    assert f["error_grid"][1:] == pytest.approx(f["missed"][0], abs=1e-3) and f["missed"][0] == pytest.approx(0.1, abs=0.005)
    assert "no mode" in f["verdict"].item() and f["mean_vi"][0] == pytest.approx(0.02, abs=1e-6)
