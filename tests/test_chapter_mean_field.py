"""What the chapter ``mean-field`` says in words, held against closed forms, enumeration and its own explorable."""

import math
import re

import numpy as np
import pytest
import torch
from helpers import seeded, tensor

from vilib import (
    GaussianMixture, MeanFieldGaussian, VilibError, advi, check_coordinate_update, closest_mean_field, closest_mean_field_forward,
    coordinate_ascent, gaussian_kl, gaussian_of, gaussian_updates, kidiq, laplace, precision_of, update_gaussian_factor, weight_tail,
)
from vilib.explorables.gallery.mean_field_ellipse import RHOS, SEEDS, compute

SIGNS = tensor(1, -1, 1, 1, -1, 1, -1, 1, 1, 1)
NOISE = torch.randn(10, generator=seeded(0), dtype=torch.float64)


def equal_correlations(rho: float, dim: int = 2):
    eye = torch.eye(dim, dtype=torch.float64)
    return gaussian_of(torch.zeros(dim, dtype=torch.float64), (1 - rho) * eye + rho * torch.ones(dim, dim, dtype=torch.float64))


# ---- the page itself -------------------------------------------------------------------------------------------------


def test_every_cell_and_every_solution_runs(executed):
    assert len(executed.printed) > 20 and executed.marks == (3, 3)
    assert "nan" not in executed.everything and "The ELBO never fell: True" in executed.everything.replace("the ELBO", "The ELBO")


def test_closed_forms_and_ascent_print_the_same(executed):
    out = executed.output("width by CAVI")
    rows = [[float(v) for v in line.split()] for line in out.splitlines()[1:]]
    assert [row[0] for row in rows] == [0.0, 0.5, 0.8, 0.95, 0.99]
    for _, width, root, gap, formula, _ in rows:
        assert width == pytest.approx(root, abs=1e-4) and gap == pytest.approx(formula, abs=1e-4)
    sweeps = [row[-1] for row in rows]
    assert sweeps == sorted(sweeps) and sweeps[-1] > 10 * sweeps[1], "slow where mean field is bad"


# ---- the question ----------------------------------------------------------------------------------------------------


def test_the_question_widths_too_small_by_almost_seven_and_too_wide_at_100():
    p = laplace(kidiq(), tensor(26.0, 0.6, 2.9)).q
    q, reference = closest_mean_field(p), kidiq().reference
    for i, name in enumerate(("beta[1]", "beta[2]")):
        assert reference[name]["sd"] / q.stddev[i].item() == pytest.approx(6.8, abs=0.1)
        assert p.stddev[i].item() == pytest.approx(reference[name]["sd"], rel=0.02)
    rho = (p.covariance[0, 1] / (p.stddev[0] * p.stddev[1])).item()
    assert rho == pytest.approx(-0.989, abs=5e-4)
    assert weight_tail(q, p).item() == pytest.approx(0.989, abs=5e-4)
    at = tensor(1.0, 100.0)
    sd = lambda density: (at @ density.covariance[:2, :2] @ at).sqrt().item()  # noqa: E731
    assert sd(q) > 1.3 * sd(p)


# ---- the derivations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 3, 7])
@pytest.mark.covers("1.5")
def test_the_entropy_of_a_mean_field_gaussian(dim):
    omega = torch.randn(dim, generator=seeded(), dtype=torch.float64)
    q = MeanFieldGaussian(torch.zeros(dim, dtype=torch.float64), omega)
    by_torch = torch.distributions.Independent(torch.distributions.Normal(q.mean, q.stddev), 1).entropy()
    formula = dim / 2 * (1 + math.log(2 * math.pi)) + omega.sum()
    torch.testing.assert_close(formula, by_torch)
    torch.testing.assert_close(q.entropy(), by_torch)


def test_the_two_families_have_so_many_parameters():
    assert equal_correlations(0.0, 5).num_parameters == 5 + 5 * 6 // 2
    assert 1000 + 1000 * 1001 // 2 == pytest.approx(5e5, rel=0.01)


def test_a_step_raises_the_elbo_by_the_kl_of_the_factor():
    """thm-cavi, for a Gaussian factor."""
    p, q = equal_correlations(0.7, 3), MeanFieldGaussian(tensor(1.0, -2.0, 0.5), tensor(0.3, -0.2, 0.8))
    for i, update in enumerate(gaussian_updates(p)):
        after = update(q)
        factor = lambda density: MeanFieldGaussian(density.mu[i : i + 1], density.omega[i : i + 1])  # noqa: B023, E731
        rise = gaussian_kl(q, p) - gaussian_kl(after, p)
        torch.testing.assert_close(rise, gaussian_kl(factor(q), factor(after)))
        q = after


def test_conditional_variances_and_the_law_of_total_variance():
    p = gaussian_of(tensor(0.0, 0.0, 0.0), tensor([2.0, 0.6, -0.4], [0.6, 1.0, 0.3], [-0.4, 0.3, 1.5]))
    sigma, own = p.covariance, 1 / precision_of(p).diagonal()
    for j in range(3):
        rest = [k for k in range(3) if k != j]
        explained = sigma[j, rest] @ torch.linalg.solve(sigma[rest][:, rest], sigma[rest, j])
        assert own[j].item() == pytest.approx((sigma[j, j] - explained).item()) and explained >= 0


@pytest.mark.parametrize("a, b, rho", [(1.0, 1.0, 0.9), (0.3, 5.0, -0.7)])
@pytest.mark.covers("0.1", "1.5")
def test_two_dimensions(a, b, rho):
    """eq:gap-two-dimensions and eq:gap-of-forward."""
    p = gaussian_of(tensor(0.0, 0.0), tensor([a * a, rho * a * b], [rho * a * b, b * b]))
    q, r = closest_mean_field(p), 1 - rho**2
    assert q.stddev.tolist() == pytest.approx([a * math.sqrt(r), b * math.sqrt(r)])
    assert gaussian_kl(q, p).item() == pytest.approx(-0.5 * math.log(r))
    wide = closest_mean_field_forward(p)
    assert gaussian_kl(p, wide).item() == pytest.approx(-0.5 * math.log(r))
    assert gaussian_kl(wide, p).item() == pytest.approx(rho**2 / r + 0.5 * math.log(r))


def test_a_third_of_a_nat_reaches_the_threshold():
    p = equal_correlations(0.7)
    assert weight_tail(closest_mean_field(p), p).item() == pytest.approx(0.7)
    assert -0.5 * math.log(1 - 0.49) == pytest.approx(1 / 3, abs=5e-3)


def test_sweeps_for_two_digits():
    assert math.log(100) / (-2 * math.log(0.99)) == pytest.approx(230, abs=2)


def test_the_expected_log_weight_is_the_derivative_of_the_normaliser():
    alpha = tensor(0.7, 2.5, 4.0).requires_grad_()
    log_b = torch.lgamma(alpha).sum() - torch.lgamma(alpha.sum())
    (slope,) = torch.autograd.grad(log_b, alpha)
    torch.testing.assert_close(slope, torch.digamma(alpha.detach()) - torch.digamma(alpha.detach().sum()))
    # and by quadrature, for two components: E[log π] under Beta(0.7, 2.5)
    log_odds = torch.linspace(-60, 60, 40_001, dtype=torch.float64)
    pi = torch.sigmoid(log_odds)
    weights = torch.softmax(0.7 * torch.nn.functional.logsigmoid(log_odds) + 2.5 * torch.nn.functional.logsigmoid(-log_odds), 0)
    assert (weights * pi.log()).sum().item() == pytest.approx((torch.digamma(tensor(0.7)) - torch.digamma(tensor(3.2))).item(), abs=1e-6)


# ---- the mixture -----------------------------------------------------------------------------------------------------


def mixture(v: float) -> tuple[GaussianMixture, object]:
    model = GaussianMixture((v * SIGNS + NOISE).unsqueeze(-1), 2)
    return model, coordinate_ascent(model.updates, model.elbo, model.start(30, seeded(1)))


def test_four_groups_and_a_start_that_is_stuck(executed):
    out = executed.output("corners = ")
    counts = [int(n) for n in re.findall(r"(\d+) of 30 starts", out)]
    assert sum(counts) == 30 and len(counts) > 1 and counts[0] > 15


def test_ten_observations_against_enumeration():
    model, run = mixture(2.0)
    gap = model.log_evidence() - run.elbo[-1].max().item()
    assert 1.0 < gap < 1.3 and gap > math.log(2)
    labels, log_p = model.labellings()
    weight = log_p.softmax(0)
    for j in range(10):
        assert (weight * (labels[:, j] == 0)).sum().item() == pytest.approx(0.5, abs=1e-9), "names can be swapped"
    phi = run.q.phi[run.elbo[-1].argmax()]
    together = lambda j: (weight * (labels[:, 0] == labels[:, j])).sum().item()  # noqa: E731
    under_q = lambda j: (phi[0] * phi[j]).sum().item()  # noqa: E731
    for j in (1, 5):
        assert abs(under_q(j) - 0.5) > abs(together(j) - 0.5), "a little too surely"
        assert (under_q(j) > 0.5) == (together(j) > 0.5)


def test_q_is_narrower_than_its_island(executed):
    """The sd of m1 on the island of q, by the grid of the picture."""
    model, run = mixture(2.0)
    best = run.elbo[-1].argmax()
    mu = run.q.mu[best, :, 0]
    side = torch.linspace(-5.5, 5.5, 111, dtype=torch.float64)
    pi = (torch.arange(60, dtype=torch.float64) + 0.5) / 60
    m = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    each = torch.distributions.Normal(m.unsqueeze(-2), 1.0).log_prob(model.x)
    mixed = torch.logaddexp(each[..., 0, None] + pi.log(), each[..., 1, None] + torch.log1p(-pi))
    log_p = -0.5 * (m / 3).square().sum(-1) + mixed.sum(-2).logsumexp(-1)
    here = (m[..., 0] > m[..., 1]) == bool(mu[0] > mu[1])
    weight = torch.where(here, log_p, torch.full_like(log_p, -math.inf)).flatten().softmax(0)
    flat = m.reshape(-1, 2)
    sds = ((weight[:, None] * flat.square()).sum(0) - (weight[:, None] * flat).sum(0).square()).sqrt()
    assert (run.q.sigma[best] < sds).all()


def test_the_price_of_a_name():
    gaps = []
    for v in (0.0, 1.0, 2.0, 3.0, 4.0):
        model, run = mixture(v)
        gaps.append(model.log_evidence() - run.elbo[-1].max().item())
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] == pytest.approx(math.log(2), abs=1e-4)


# ---- what the prompts of the explorable promise ----------------------------------------------------------------------


def frame(rho, direction="reverse", family="mean_field", seed=0):
    return compute(rho, direction, family, seed)


def test_prompt_narrower_and_narrower():
    for rho, width, gap in ((0.6, 0.8, 0.223), (0.8, 0.6, 0.511), (0.95, 0.312, 1.164)):
        f, mirrored = frame(rho), frame(-rho)
        assert f["sd_reverse"] == pytest.approx(width, abs=5e-4) and f["gap_now"] == pytest.approx(gap, abs=5e-4)
        assert f["marginal_q"] == pytest.approx(f["conditional_p"]) and (f["marginal_p"] == frame(0.0)["marginal_p"]).all()
        assert mirrored["gap_now"] == pytest.approx(f["gap_now"]) and mirrored["sd_reverse"] == pytest.approx(f["sd_reverse"])
        assert mirrored["k_hat_now"] == f["k_hat_now"] and mirrored["ellipse_p"][3] == pytest.approx(-f["ellipse_p"][3])


def test_prompt_the_other_direction():
    reverse, forward = frame(0.8), frame(0.8, "forward")
    assert (forward["marginal_q"] == forward["marginal_p"]).all() and forward["sd_forward"] == 1
    assert reverse["gap_now"] == pytest.approx(0.511, abs=5e-4) and forward["gap_now"] == pytest.approx(1.267, abs=5e-4)
    assert reverse["law_now"] == pytest.approx(0.8) and forward["law_now"] == pytest.approx(0.8 / 1.8)


def test_prompt_a_richer_family():
    for direction in ("reverse", "forward"):
        f = frame(0.9, direction, "full_rank")
        assert (f["gap_curve"] == 0).all() and np.isnan(f["law_curve"]).all() and np.isnan(f["k_hats"]).all()
        assert "either divergence" in f["verdict"]


def test_prompt_how_sure_is_k_hat():
    reads = [frame(0.95, seed=seed)["k_hat_now"] for seed in range(SEEDS)]
    assert reads[2] == pytest.approx(0.69, abs=5e-3) and frame(0.95)["law_now"] == pytest.approx(0.95)
    assert sum(abs(read - 0.95) < 0.03 for read in reads) == SEEDS - 1 == 4
    rows = np.stack([frame(0.95, seed=seed)["k_hats"][RHOS.index(0.05):] for seed in range(SEEDS)])
    assert (rows[2] < np.delete(rows, 2, 0).min(0)).all(), "up and down together"


# ---- exercises -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.3, 0.9])
@pytest.mark.parametrize("dim", [2, 5, 40])
def test_many_coordinates(dim, rho):
    p = equal_correlations(rho, dim)
    own = (1 + (dim - 2) * rho) / ((1 - rho) * (1 + (dim - 1) * rho))
    log_det = (dim - 1) * math.log(1 - rho) + math.log(1 + (dim - 1) * rho)
    q = closest_mean_field(p)
    assert q.stddev[0].item() == pytest.approx(own**-0.5, rel=1e-6)
    assert gaussian_kl(q, p).item() == pytest.approx(0.5 * (dim * math.log(own) + log_det), abs=1e-6)
    assert gaussian_kl(p, closest_mean_field_forward(p)).item() == pytest.approx(-0.5 * log_det, abs=1e-6)
    if dim == 40:
        large = 0.5 * (math.log((1 + (dim - 1) * rho) / (1 - rho)) - 1)
        assert gaussian_kl(q, p).item() == pytest.approx(large, abs=0.05)
        ratio = (q.stddev.square().sum() / p.covariance.sum()).item()
        assert ratio == pytest.approx((1 - rho) / (dim * rho), rel=0.1)


def test_all_at_once():
    """Its error is multiplied by M; in three dimensions it diverges below ρ = −1/3."""
    for rho, dim in ((0.6, 2), (-0.3, 3), (-0.4, 3), (0.9, 3)):
        p = equal_correlations(rho, dim)
        precision = precision_of(p)
        m = torch.eye(dim, dtype=torch.float64) - precision / precision.diagonal().unsqueeze(-1)
        radius = torch.linalg.eigvals(m).abs().max().item()
        assert radius == pytest.approx(abs(rho) if dim == 2 else max(abs(2 * rho / (1 + rho)), abs(rho / (1 + rho))))
        assert (radius > 1) == (dim == 3 and rho < -1 / 3)
        q = MeanFieldGaussian(torch.arange(1.0, dim + 1).double(), torch.zeros(dim, dtype=torch.float64))
        at_once = torch.stack([update_gaussian_factor(q, i, p.mean, precision).mu[i] for i in range(dim)])
        torch.testing.assert_close(at_once, m @ q.mu)


@pytest.mark.parametrize("c", [0.5, 2.0])
def test_two_spins(c):
    states = torch.cartesian_prod(tensor(-1, 1), tensor(-1, 1))
    log_p = c * states.prod(-1)
    assert log_p.logsumexp(0).item() == pytest.approx(math.log(4 * math.cosh(c)))
    probability = log_p.softmax(0)
    assert (probability * states.prod(-1)).sum().item() == pytest.approx(math.tanh(c))
    z = 0.5
    for _ in range(500):
        z = math.tanh(c * z)
    assert (abs(z) > 0.9) == (c > 1)

    def gap(t1, t2):
        factor = lambda t: tensor((1 - t) / 2, (1 + t) / 2)  # noqa: E731
        q = torch.outer(factor(t1), factor(t2)).flatten()
        return (torch.xlogy(q, q) - q * probability.log()).sum().item()

    grid = np.linspace(-0.999, 0.999, 81)
    lowest = min(gap(a, b) for a in grid for b in grid)
    assert gap(z, z) <= lowest + 1e-9, "no factorised q does better"
    if c > 1:
        assert gap(0.0, 0.0) > gap(z, z) and gap(z, z) == pytest.approx(gap(-z, -z)) and abs(gap(z, z) - math.log(2)) < 0.03
    assert math.tanh(1) == pytest.approx(0.76, abs=2e-3)


def test_the_three_to_mend(executed):
    """In two dimensions a sweep of the second has determinant one; slips are called by their names."""
    def replaced(q, i, mu_i, omega_i):
        is_i = torch.arange(q.dim) == i
        return MeanFieldGaussian(torch.where(is_i, mu_i, q.mu), torch.where(is_i, omega_i, q.omega))

    def first(q, i, mean, precision):
        right = update_gaussian_factor(q, i, mean, precision)
        return replaced(q, i, right.mu[i], torch.linalg.inv(precision)[i, i].sqrt().log())

    def second(q, i, mean, precision):
        pull = (precision[i] * (q.mu - mean)).sum()
        return replaced(q, i, mean[i] - pull / precision[i, i], -0.5 * precision[i, i].log())

    def third(q, i, mean, precision):
        return MeanFieldGaussian(q.mu - precision @ (q.mu - mean) / precision.diagonal(), -0.5 * precision.diagonal().log())

    assert [check_coordinate_update(f).slip for f in (first, second, third)] == ["marginal width", "own term counted", "moved others"]
    rho = 0.6
    p, columns = equal_correlations(rho), []
    for start in torch.eye(2, dtype=torch.float64):
        q = MeanFieldGaussian(start, torch.zeros(2, dtype=torch.float64))
        for i in range(2):
            q = second(q, i, p.mean, precision_of(p))
        columns.append(q.mu)
    torch.testing.assert_close(torch.stack(columns, -1), tensor([-1.0, rho], [-rho, rho**2 - 1]))
    assert torch.det(torch.stack(columns, -1)).item() == pytest.approx(1)


def test_at_once_is_refused():
    p = equal_correlations(-0.4, 3)
    at_once = lambda q: MeanFieldGaussian(  # noqa: E731
        torch.stack([update_gaussian_factor(q, i, p.mean, precision_of(p)).mu[i] for i in range(3)]), q.omega)
    with pytest.raises(VilibError, match="lowered the ELBO"):
        coordinate_ascent([at_once], lambda q: -gaussian_kl(q, p), MeanFieldGaussian(torch.ones(3).double(), closest_mean_field(p).omega))


@pytest.fixture(scope="module")
def fits():
    return {centred: advi(kidiq(centred=centred), generator=seeded(0), num_draws=20_000, progress=False) for centred in (False, True)}


def test_centring_mends_kidiq(fits):
    reference, x = kidiq().reference, kidiq().data["x"]
    known = [reference["beta[1]"]["sd"], reference["beta[2]"]["sd"]]
    sigma, n = fits[False].mean["sigma"].item(), len(x)
    by_theory = [sigma / math.sqrt(n), sigma / x.square().sum().sqrt().item()]
    assert fits[False].sd["beta"].tolist() == pytest.approx(by_theory, rel=0.05)                     # wrong as theory says
    assert by_theory == pytest.approx([0.878, 0.00868], rel=5e-3)
    draws = fits[True].draws["beta"]
    intercept = draws[:, 0] - x.mean() * draws[:, 1]
    assert [intercept.std().item(), draws[:, 1].std().item()] == pytest.approx(known, rel=0.05)      # and mended
    rho = (-x.mean() / x.square().mean().sqrt()).item()
    assert rho == pytest.approx(-0.989, abs=5e-4)
    assert torch.corrcoef(torch.stack([intercept, draws[:, 1]]))[0, 1].item() == pytest.approx(rho, abs=2e-3)
    rise, error = fits[True].elbo - fits[False].elbo, fits[True].elbo_standard_error + fits[False].elbo_standard_error
    assert rise.item() == pytest.approx(-0.5 * math.log(1 - rho**2), abs=5 * error.item() + 0.01)
    assert fits[True].pareto_k < 0.5
    assert abs((0 - x.mean()) / x.std()).item() == pytest.approx(6.67, abs=0.01)
