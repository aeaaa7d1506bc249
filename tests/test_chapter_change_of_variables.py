"""What the chapter ``change-of-variables`` says in words, held against closed forms, autodiff, quadrature and its own explorable."""

import math
import re

import pytest
import torch
from chapters import decimals
from helpers import q_of as gaussian
from helpers import seeded, tensor
from torch.distributions import Beta, Chi2, Dirichlet, LogNormal, Normal, constraints
from torch.nn.functional import logsigmoid, pad, softplus

from vilib import (
    FullRankGaussian, Model, OrderedTransform, SimplexTransform, best_gaussian, check_transform, coin_toss, exact_elbo,
    expectation, gaussian_kl, log_evidence, normal, ordered, standard_normal_prior,
)
from vilib.explorables.gallery import jacobian

close = torch.testing.assert_close


#: name -> (T, its inverse, T' as the chapter writes it, from z and u; T' from u alone through the inverse)
MAPS = {
    "twice": (lambda z: 2 * z, lambda u: u / 2, lambda z, u: 2 + 0 * z),
    "exponential": (torch.exp, torch.log, lambda z, u: u),
    "sigmoid": (torch.sigmoid, torch.logit, lambda z, u: u * (1 - u)),
    "softplus": (softplus, lambda u: (u.exp() - 1).log(), lambda z, u: 1 - (-u).exp()),
    "less than 2": (lambda z: 2 - z.exp(), lambda u: (2 - u).log(), lambda z, u: -z.exp()),
    "interval": (lambda z: -1 + 6 * z.sigmoid(), lambda u: ((u + 1) / 6).logit(), lambda z, u: 6 * z.sigmoid() * (-z).sigmoid()),
}
Z = torch.linspace(-3, 3, 61, dtype=torch.float64)


# ---- the page itself -------------------------------------------------------------------------------------------------


def test_every_cell_and_every_solution_runs(executed):
    assert len(executed.printed) > 20 and executed.marks == (4, 4)
    assert not re.search(r"\bnan\b", executed.everything)


# ---- one dimension ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAPS)
def test_each_derivative_and_each_way_back(name):
    T, back, slope = MAPS[name]
    exact = torch.func.vmap(torch.func.grad(T))(Z)
    close(slope(Z, T(Z)), exact, rtol=1e-9, atol=1e-12)
    close(back(T(Z)), Z, rtol=1e-9, atol=1e-9)
    backward = torch.func.vmap(torch.func.grad(back))(T(Z))
    close(backward * exact, torch.ones_like(Z), rtol=1e-9, atol=1e-9)                     # eq:jac-reciprocal-one


@pytest.mark.parametrize("name", MAPS)
def test_the_rule_is_the_derivative_of_the_distribution_function(name):
    """The theorem, for rising and falling maps: F_u by its definition, differentiated by finite differences."""
    T, back, slope = MAPS[name]
    u, rises = T(Z), bool(slope(Z, T(Z))[0] > 0)
    h = 1e-5 * slope(Z, u).abs()
    cdf = lambda u: torch.special.ndtr(back(u)) if rises else 1 - torch.special.ndtr(back(u))  # noqa: E731
    by_rule = standard_normal_prior(Z.unsqueeze(-1)).exp() / slope(Z, u).abs()
    close((cdf(u + h) - cdf(u - h)) / (2 * h), by_rule, rtol=1e-5, atol=1e-9)


@pytest.mark.covers("1.4")
def test_areas_are_one_with_the_factor_and_the_mean_stretch_without(executed):
    rows = [line.split() for line in executed.output("edges = {").splitlines()[1:]]
    assert len(rows) == 4
    for row, stretch in zip(rows, (2.0, math.exp(0.5), None, 0.5)):
        assert float(row[-3]) == pytest.approx(1, abs=2e-5) and float(row[-4]) < 1e-12
        assert float(row[-2]) == pytest.approx(float(row[-1]), abs=2e-4)
        assert stretch is None or float(row[-1]) == pytest.approx(stretch, abs=1e-4)


# ---- many ------------------------------------------------------------------------------------------------------------


@pytest.mark.covers("1.4")
def test_determinants_there_and_back_are_reciprocals(executed):
    there, back = executed.space["log_polar"], executed.space["log_polar_back"]
    for z in torch.randn(5, 2, generator=seeded(1), dtype=torch.float64) * 0.6:
        det = torch.func.jacrev(there)(z).det()
        close(det, (2 * z[0]).exp())
        close(torch.func.jacrev(back)(there(z)).det() * det, tensor(1.0)[0])


def test_a_cell_of_the_picture_is_as_large_as_the_determinant_says():
    """The image of [a, a + h] × [b, b + h] is a piece of a ring, (e^{2(a+h)} − e^{2a}) h/2."""
    for a in (-1.2, -0.2, 0.4):
        h = 1e-4
        assert (math.exp(2 * (a + h)) - math.exp(2 * a)) * h / 2 / h**2 == pytest.approx(math.exp(2 * a), rel=2e-4)


def test_the_full_rank_gaussian_by_the_rule():
    q = FullRankGaussian(tensor(1.0, -0.5, 0.2), 0.5 * torch.randn(3, 3, generator=seeded(2), dtype=torch.float64))
    eps = normal(7, (), 3, generator=seeded(3), dtype=torch.float64)
    by_rule = standard_normal_prior(eps) - q.scale_tril.diagonal().log().sum()
    close(by_rule, torch.distributions.MultivariateNormal(q.mean, scale_tril=q.scale_tril).log_prob(q.sample(eps)))


# ---- the supports ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_the_stick_and_its_jacobian_by_hand(parts):
    """eq:jac-stick, eq:jac-stick-det, and the diagonal on the way to it."""
    z = torch.randn(parts - 1, generator=seeded(parts), dtype=torch.float64)
    v = torch.sigmoid(z - torch.arange(parts - 1, 0, -1, dtype=torch.float64).log())
    left = torch.cat([tensor(1.0), (1 - v).cumprod(0)])
    theta = torch.cat([v * left[:-1], left[-1:]])
    transform = SimplexTransform()
    close(transform(z), theta)
    close(left[:-1], 1 - pad(theta[:-1].cumsum(0)[:-1], (1, 0)))                          # θ_{≥k}
    close(transform.log_abs_det_jacobian(z, theta), (theta[:-1].log() + (1 - v).log()).sum())
    jacobian_matrix = torch.func.jacrev(lambda z: transform(z)[:-1])(z)
    close(jacobian_matrix, jacobian_matrix.tril())
    close(jacobian_matrix.diagonal(), theta[:-1] * (1 - v))
    close(transform(0 * z), torch.full((parts,), 1 / parts, dtype=torch.float64))
    close(torch.logit(theta[:-1] / left[:-1]) + torch.arange(parts - 1, 0, -1, dtype=torch.float64).log(), z)


def test_numbers_in_order_by_hand():
    z = tensor(0.4, -1.0, 0.3, 0.8)
    theta = torch.stack([z[0], z[0] + z[1].exp(), z[0] + z[1].exp() + z[2].exp(), z[0] + z[1].exp() + z[2].exp() + z[3].exp()])
    close(OrderedTransform()(z), theta)
    matrix = torch.func.jacrev(OrderedTransform())(z)
    close(matrix, matrix.tril())
    close(torch.linalg.slogdet(matrix)[1], z[1:].sum())


def test_evidence_is_the_same_on_both_scales():
    """eq:jac-evidence: the coin's, as a sum over θ and as one over z."""
    coin = coin_toss(6, 4, prior=(1, 1))
    theta = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]
    over_theta = torch.trapezoid(coin.model.log_joint({"theta": theta}).exp(), theta).log().item()
    assert over_theta == pytest.approx(log_evidence(coin.model, -20, 20), abs=1e-7)
    assert over_theta == pytest.approx(coin.log_evidence, abs=1e-7)


@pytest.mark.covers("1.3")
def test_the_cells_on_supports_find_no_difference(executed):
    rows = executed.output("by_formula = part.constrain").splitlines()[1:]
    assert len(rows) == 6 and all(float(row.split()[-1]) < 1e-14 for row in rows)
    rows = executed.output("two sorted normals").splitlines()
    assert len(rows) == 3 and all(float(row.split()[-1]) < 1e-6 for row in rows)
    sorted_normals = Model(lambda t: Normal(0.0, 1.0).log_prob(t["m"]).sum(-1), {"m": ordered}, {"m": (2,)}, batched=True)
    assert log_evidence(sorted_normals, [-7, -20], [7, 3], 801) == pytest.approx(-math.log(2), abs=1e-5)
    skewed = Model(lambda t: Dirichlet(tensor(2.0, 3.0, 4.0)).log_prob(t["p"]), {"p": constraints.simplex}, {"p": (3,)}, batched=True)
    assert log_evidence(skewed, [-14, -14], [14, 14]) == pytest.approx(0, abs=1e-6)


# ---- what moves, and what stays --------------------------------------------------------------------------------------


def test_of_a_log_normal(executed):
    rows = {line[:14].strip(): [float(x) for x in line[14:].split()] for line in executed.output("95 % quantile").splitlines()[1:-1]}
    assert rows["median"][1] == rows["median"][2] and rows["95 % quantile"][1] == rows["95 % quantile"][2]
    assert rows["mode"][1:] == pytest.approx([1, math.exp(-1)], abs=1e-4) and rows["mean"][1:] == pytest.approx([1, math.exp(0.5)], abs=1e-4)
    assert rows["mode"][0] == rows["median"][0] == rows["mean"][0] == 0


def test_the_mode_of_theta_is_no_mode_of_z():
    """eq:jac-mode on the coin: at the mode of θ the slope in z is that of the log Jacobian alone."""
    coin = coin_toss(3, 1, prior=(1, 1))
    mode = torch.logit(tensor(0.75)).requires_grad_()
    slope, = torch.autograd.grad(coin.model(mode.unsqueeze(0)).sum(), mode)
    close(slope, 1 - 2 * tensor(0.75))                                                    # d/dz log θ(1 − θ)


def test_kl_stays_and_entropy_moves():
    q, p, theta = gaussian(0.3, 0.5), gaussian(-0.2, 0.8), torch.linspace(1e-3, 60, 2_000_001, dtype=torch.float64)
    log_q, log_p = (LogNormal(g.mean, g.stddev).log_prob(theta) for g in (q, p))
    assert torch.trapezoid(log_q.exp() * (log_q - log_p), theta).item() == pytest.approx(gaussian_kl(q, p).item(), abs=1e-6)
    assert -torch.trapezoid(log_q.exp() * log_q, theta).item() == pytest.approx(q.entropy().item() + 0.3, abs=1e-6)


def posterior_mean_of_sigma(n: int, total: float, k: int) -> float:
    alpha = (n - k - 1) / 2
    return math.sqrt(total / 2) * math.gamma(alpha - 0.5) / math.gamma(alpha)


def test_three_flat_priors(executed):
    """The table by quadrature = the inverse gamma of the exercise; the mean doubles from the last row to the first."""
    rows = [line.split() for line in executed.output("flat in   mean of σ").splitlines()[1:]]
    means = [posterior_mean_of_sigma(4, 5.34, k) for k in (1, 0, -1)]
    assert [float(row[-4]) for row in rows] == pytest.approx(means, abs=2e-3)
    assert means[0] == pytest.approx(2 * means[2])
    s = torch.distributions.InverseGamma(tensor(1.5), 2.67)                             # flat in σ, N = 4: s = σ²
    assert float(rows[1][-3]) == pytest.approx(_root_of_median(s), abs=2e-3)
    assert 11**2 - 10**2 == 21 and (10 - 1) / (100 - 10) == 0.1
    by_exercise = [line.split() for line in executed.output("flat in σ²      σ    log σ").splitlines()[1:]]
    for row in by_exercise:
        n = int(row[0])
        assert [float(x) for x in row[1:]] == pytest.approx([posterior_mean_of_sigma(n, 1.335 * n, k) for k in (1, 0, -1)], abs=1e-4)


def _root_of_median(density) -> float:
    """√ of the median of a density of s on the positive numbers."""
    s = torch.linspace(1e-3, 400, 4_000_001, dtype=torch.float64)
    mass = torch.cumulative_trapezoid(density.log_prob(s).exp(), s)
    return math.sqrt(s[torch.searchsorted(mass, tensor(0.5))].item())


def test_averages_need_no_factor():
    q = gaussian(0.3, 0.5)
    u = torch.linspace(1e-4, 40, 1_000_001, dtype=torch.float64)
    over_u = torch.trapezoid(u**2 * LogNormal(q.mean, q.stddev).log_prob(u).exp(), u).item()
    assert over_u == pytest.approx(expectation(lambda z: (2 * z[..., 0]).exp(), q).item(), abs=1e-4)
    assert over_u == pytest.approx(math.exp(1.1), abs=1e-4)


# ---- what the prompts of the explorable promise ----------------------------------------------------------------------


def at(**values) -> dict[str, float]:
    frame = jacobian().definition.frame(**values)
    return {name: float(values[0]) for name, values in frame.items() if values.ndim == 1}


def test_prompt_wide_and_low():
    steep, flat, middle = (at(map="exp", middle=m, width=0.4) for m in (0.8, -1.2, 0.0))
    assert (steep["ratio"], steep["mean_z"], steep["mean_u"]) == pytest.approx((2.24, 0.289, 0.129), abs=5e-4)
    assert (flat["ratio"], flat["mean_z"], flat["mean_u"]) == pytest.approx((0.303, 0.195, 0.642), abs=5e-4)
    assert middle["ratio"] == pytest.approx(1, abs=0.01)
    for frame in (steep, flat, middle):
        assert frame["width_u"] * frame["mean_u"] == pytest.approx(frame["width_z"] * frame["mean_z"])


def test_prompt_an_interval_or_a_derivative():
    ratios = [at(map="exp", middle=0.8, width=w)["ratio"] for w in (0.8, 0.4, 0.2, 0.1, 0.05)]
    assert ratios == sorted(ratios, reverse=True) and (ratios[0], ratios[-1]) == pytest.approx((2.285, 2.226), abs=5e-4)
    assert math.exp(0.8) == pytest.approx(2.226, abs=5e-4)


def test_prompt_leave_it_out():
    frames = {key: at(map=key, factor="off", middle=0.8, width=0.4) for key in ("double", "flip", "exp", "sigmoid", "softplus", "cubic")}
    assert frames["double"]["area_u"] == pytest.approx(2 * frames["double"]["area_z"], abs=1e-6)
    assert frames["double"]["area_u"] == pytest.approx(0.2312, abs=5e-5)
    totals = [frame["total_u"] for frame in frames.values()]
    assert totals == pytest.approx([2, 0.5, 1.649, 0.207, 0.5, 3], abs=5e-4)


def test_prompt_a_map_that_falls():
    frame = at(map="flip", middle=0.8, width=0.4)
    assert (frame["from_u"], frame["to_u"], frame["mean_z"], frame["mean_u"]) == pytest.approx((-0.5, -0.3, 0.289, 0.578), abs=5e-4)


def test_prompt_where_the_map_is_flat():
    frame = at(map="cubic", middle=0.0, width=0.4)
    assert (frame["area_u"], frame["width_u"]) == pytest.approx((0.1585, 0.016), abs=5e-5)


# ---- what can go wrong -----------------------------------------------------------------------------------------------


def left_out(coin) -> Model:
    return Model(lambda t: coin.model.log_joint({"theta": torch.sigmoid(t["z"])}), {"z": constraints.real}, batched=True)


def test_without_the_factor_a_head_and_a_tail_are_lost():
    """eq:jac-left-out, pointwise; what is fitted is Beta(3, 1), its mean exact, its bound on another total."""
    coin = coin_toss(3, 1, prior=(1, 1))
    z = torch.linspace(-6, 6, 41, dtype=torch.float64).unsqueeze(-1)
    theta = torch.sigmoid(z[:, 0])
    close(left_out(coin)(z) - (theta * (1 - theta)).log() - Beta(3.0, 1.0).log_prob(theta),
          torch.full((41,), math.log(1 / 3), dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert log_evidence(left_out(coin), -30, 30) == pytest.approx(math.log(1 / 3), abs=1e-9)
    for model, mean in ((coin, 4 / 6), (left_out(coin), 3 / 4)):
        q, elbo = best_gaussian(model, gaussian(0.5, 1.0))
        assert expectation(lambda z: torch.sigmoid(z[..., 0]), q).item() == pytest.approx(mean, abs=1e-6)
    assert elbo > coin.log_evidence + 1, "higher than the evidence that it should be a bound on"


@pytest.mark.covers("1.3")
def test_advi_measures_it_and_says_that_it_converged(executed):
    out = executed.output("without = Model(")
    numbers = {line.split("mean of θ")[0].strip(): decimals(line) for line in out.splitlines() if "mean of θ" in line}
    assert numbers["with the factor"][0] == pytest.approx(2 / 3, abs=0.006) and numbers["without"][0] == pytest.approx(0.75, abs=0.006)
    assert numbers["without"][2] > -2.9957 > numbers["with the factor"][2] and out.count("converged: True") == 2


@pytest.mark.parametrize("wrong_by", [1, 2])
def test_the_wrong_sign_loses_two_of_each(wrong_by):
    """Left out, or subtracted: the total is that of Beta(a_n − 1, b_n − 1), or of Beta(a_n − 2, b_n − 2)."""
    coin = coin_toss(6, 4, prior=(1, 1))
    log_factor = lambda z: logsigmoid(z[..., 0]) + logsigmoid(-z[..., 0])  # noqa: E731
    total = log_evidence(lambda z: coin(z) - wrong_by * log_factor(z), -30, 30)
    log_beta = lambda a, b: math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)  # noqa: E731
    assert total == pytest.approx(log_beta(7 - wrong_by, 5 - wrong_by), abs=1e-9)


def test_three_heads_and_no_factor_have_no_best_q():
    three_heads = lambda z: 3 * logsigmoid(z[..., 0])  # noqa: E731
    values = [exact_elbo(three_heads, gaussian(4 * s, s)).item() for s in (1.0, 10.0, 100.0, 1000.0)]
    assert values == sorted(values) and values[-1] - values[-2] == pytest.approx(math.log(10), abs=0.1)


def test_a_factor_that_was_not_due_moves_a_gaussian_prior():
    m, s, omega = 0.4, 0.7, torch.linspace(-3, 3, 31, dtype=torch.float64)
    difference = Normal(m, s).log_prob(omega) + omega - Normal(m + s**2, s).log_prob(omega)
    close(difference, difference[:1].expand(31), rtol=0, atol=1e-6)


def test_softmax_of_all_k_has_no_inverse():
    assert check_transform(lambda z: torch.softmax(z, -1), torch.log, lambda z, theta: theta.log().sum(-1)).slip == "flat"


def test_rounding_spares_the_term_made_from_z():
    z = tensor(10.0, 30.0, 40.0, 800.0)
    theta = torch.sigmoid(z)
    assert theta[2] == 1 and torch.isinf(torch.log(1 - theta)).tolist() == [False, False, True, True]
    close((logsigmoid(z) + logsigmoid(-z))[1:], -z[1:], rtol=1e-12, atol=0)


# ---- self-checks and exercises ---------------------------------------------------------------------------------------


def test_self_check_on_mode_median_and_mean():
    """A skewed density of z with mode < median < mean: the mode of σ is below e^mode, the mean above e^mean."""
    z = torch.linspace(-12, 12, 480_001, dtype=torch.float64)
    density = torch.softmax(Normal(0.0, 1.0).log_prob(z) + logsigmoid(4 * z), 0)           # skew
    mode, median = z[density.argmax()], z[torch.searchsorted(density.cumsum(0), 0.5)]
    mean = (density * z).sum()
    assert mode < median < mean
    assert z[(density / z.exp()).argmax()] < mode and (density * z.exp()).sum() > mean.exp()


def test_two_into_one():
    u = tensor(0.1, 0.7, 3.0)
    p = lambda z: Normal(0.0, 1.0).log_prob(z).exp()  # noqa: E731
    close((p(u.sqrt()) + p(-u.sqrt())) / (2 * u.sqrt()), Chi2(tensor(1.0)).log_prob(u).exp())
    draws = (0.5 + torch.randn(400_000, generator=seeded(5), dtype=torch.float64)).square()
    assert draws.mean().item() == pytest.approx(1.25, abs=0.02)


@pytest.mark.parametrize("c", [-1.3, 0.0, 0.9])
def test_any_value_can_be_the_mode(c):
    """The triangle of the solution, its corner at F(c): on its scale the density of a standard normal is highest at c."""
    corner = torch.special.ndtr(tensor(c))
    share = torch.special.ndtr(Z)
    T = lambda z: torch.where(torch.special.ndtr(z) < corner, (torch.special.ndtr(z) * corner).sqrt(),  # noqa: E731
                              1 - (torch.special.ndtr(-z) * (1 - corner)).sqrt())
    slope = torch.func.vmap(torch.func.grad(lambda z: T(z).squeeze()))(Z)
    density = standard_normal_prior(Z.unsqueeze(-1)).exp() / slope
    u = T(Z)
    close(density, torch.where(share < corner, 2 * u / corner, 2 * (1 - u) / (1 - corner)), rtol=1e-6, atol=1e-9)
    assert Z[density.argmax()] == pytest.approx(c, abs=0.051) and T(tensor(c)).item() == pytest.approx(corner.item())


def test_softmax_made_one_to_one():
    constrain = lambda z: torch.softmax(pad(z, (0, 1)), -1)  # noqa: E731
    back = lambda theta: theta[..., :-1].log() - theta[..., -1:].log()  # noqa: E731
    for dim in (1, 2, 5):
        assert check_transform(constrain, back, lambda z, theta: theta.log().sum(-1), dim=dim, support=constraints.simplex)
    z = tensor(0.3, -0.8, 1.1)
    theta = constrain(z)
    close(torch.func.jacrev(lambda z: constrain(z)[:-1])(z), theta[:-1].diag() - theta[:-1, None] * theta[None, :-1])


def test_the_sketch_of_the_exercise_is_refused():
    sketch = check_transform(lambda z: torch.softmax(z, -1), torch.log, lambda z, theta: theta.log().sum(-1), support=constraints.simplex)
    assert not sketch and "not invertible" in sketch.findings[0]


def test_the_three_to_mend(executed):
    reports, mended = executed.outputs("parts = {")
    assert f"off by {3 * math.log(1 / 6):.4g} everywhere" in reports
    assert "It has the wrong sign" in reports and "unconstrain is not the way back" in reports
    assert mended.count("✓ Right.") == 3


@pytest.mark.parametrize("n", [4, 40, 400])
def test_how_much_it_costs(n):
    a, b = 1 + 0.75 * n, 1 + 0.25 * n
    for m in (1, 2):
        if b > m:
            error = Beta(tensor(a - m), tensor(b - m)).mean - Beta(tensor(a), tensor(b)).mean
            assert error.item() == pytest.approx(m * (a - b) / ((a + b) * (a + b - 2 * m)))
