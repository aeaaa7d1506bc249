"""What the chapter ``elbo`` says in words, held against closed forms, quadrature and its own explorable."""

import math

import pytest
import torch
from helpers import gaussian, q_of, seeded, tensor

from vilib import (
    MeanFieldGaussian, best_gaussian, check_elbo, elbo_terms, exact_elbo, exact_gradient, expectation, fit, gaussian_mean, log_weights_at,
    normal, pathwise, sgd, standard_normal_prior,
)
from vilib.explorables.gallery.elbo_bars import DEPTH, MEANS, MODELS, SDS, TOSSES, X, _example, compute, elbo_bars

THREE = gaussian_mean(tensor(*X[:3]))
CANDIDATES = {"A": (-0.2, 0.45), "B": (0.35, 0.9), "C": (0.55, 0.4)}


def gap(example, mu: float, sigma: float) -> float:
    return example.log_evidence - exact_elbo(example, q_of(mu, sigma)).item()


def gaussian_kl(mu: float, sigma: float, mu0: float, sigma0: float) -> float:
    r = (sigma / sigma0) ** 2
    return (mu - mu0) ** 2 / (2 * sigma0**2) + 0.5 * (r - 1 - math.log(r))


# ---- the page itself -------------------------------------------------------------------------------------------------


def test_every_cell_and_every_solution_runs(executed):
    assert len(executed.printed) > 15 and executed.marks == (3, 3) and "nan" not in executed.everything
    assert "of 32 climbs from mu = 0, sigma = 1, 32 end at the wide one" in executed.everything


@pytest.mark.covers("1.2", "2.2")
def test_the_ledger_of_nine_rows_adds_up(executed):
    ledger = executed.output("def kl_on_a_grid")
    rows = [[float(number) for number in line.split(")")[1].split()] for line in ledger.splitlines()[1:] if line]
    assert len(rows) == 9
    for elbo, kl, total, evidence in rows:
        assert total == pytest.approx(evidence, abs=2e-5) and elbo + kl == pytest.approx(total, abs=2e-5) and kl > 0


# ---- the derivations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", CANDIDATES.values(), ids=CANDIDATES)
@pytest.mark.covers("0.2", "1.2", "3.8", "4.1")
def test_the_gap_is_the_kl_to_the_posterior(place):
    """eq:elbo-identity, with the KL of two Gaussians by its own formula."""
    assert gap(THREE, *place) == pytest.approx(gaussian_kl(*place, 0.8, 0.5), abs=1e-10)


def test_the_order_of_the_candidates():
    gaps = [gap(THREE, *place) for place in CANDIDATES.values()]
    assert gaps[0] > gaps[1] > gaps[2] > 0


@pytest.mark.covers("4.1", "2.2")
def test_the_weights_have_mean_p_of_x():
    """eq:elbo-weight, and what Jensen's inequality loses, eq:elbo-gap."""
    q = q_of(*CANDIDATES["C"])
    u = lambda z: (THREE(z) - q.log_prob(z) - THREE.log_evidence).exp()  # noqa: E731
    assert expectation(u, q).item() == pytest.approx(1, abs=1e-8)
    assert expectation(lambda z: u(z) - 1 - u(z).log(), q).item() == pytest.approx(gap(THREE, *CANDIDATES["C"]), abs=1e-8)


def test_the_elbo_by_hand_and_its_gradient():
    """eq:elbo-example-elbo, the derivatives under it, and the table of pulls."""
    x, n = tensor(*X[:3]), 3
    for mu, sigma in [(-1.0, 0.6), (0.8, 0.5), (0.1, 1.7)]:
        q = q_of(mu, sigma)
        fit_term = -0.5 * ((x - mu) ** 2).sum().item() - 0.5 * n * sigma**2 - 0.5 * n * math.log(2 * math.pi)
        cost = 0.5 * (mu**2 + sigma**2 - 1) - math.log(sigma)
        terms = elbo_terms(lambda z: THREE(z) - standard_normal_prior(z), standard_normal_prior, q)
        assert (terms.expected_log_likelihood.item(), terms.kl_to_prior.item()) == pytest.approx((fit_term, cost), abs=1e-10)
        by_hand = [x.sum().item() - (1 + n) * mu, 1 - (1 + n) * sigma**2]
        assert exact_gradient(THREE, q, elbo=True).tolist() == pytest.approx(by_hand, abs=1e-9)
        joint = exact_gradient(THREE, q)
        assert joint.tolist() == pytest.approx([by_hand[0], by_hand[1] - 1], abs=1e-9)                 # entropy: 0 and 1
    q, elbo = THREE.best
    assert (q.mean.item(), q.stddev.item(), elbo) == pytest.approx((0.8, 0.5, THREE.log_evidence))


def test_b_is_closer_than_a_and_noisier():
    eps = normal(200_000, (), 1, generator=seeded(0), dtype=torch.float64)
    sd = {name: log_weights_at(THREE, q_of(*place), eps).std().item() for name, place in CANDIDATES.items()}
    assert sd["B"] > sd["A"] > sd["C"]


def test_what_a_tenth_of_a_nat_has_room_for():
    assert gaussian_kl(0.0, 1.3, 0.0, 1.0) < 0.1 and -math.log(1 - 0.09) < 0.1
    assert 0.5 * math.log(2 * math.pi) == pytest.approx(0.92, abs=5e-3)


def test_evidence_prefers_the_sign_and_the_elbo_the_mean():
    mean, sign = _example("mean", 15), _example("sign", 15)
    assert sign.log_evidence == pytest.approx(-22.05, abs=5e-3) and mean.log_evidence == pytest.approx(-22.10, abs=5e-3)
    assert mean.best[1] == pytest.approx(-22.10, abs=5e-3) and sign.best[1] == pytest.approx(-22.76, abs=5e-3)


# ---- a data set ------------------------------------------------------------------------------------------------------


@pytest.mark.covers("4.2")
def test_the_mean_elbo_touches_the_mean_evidence_where_q_is_right_and_climbing_it_climbs_the_evidence():
    data = 2.0 * torch.randn(200, generator=seeded(2), dtype=torch.float64) + torch.randn(200, generator=seeded(3), dtype=torch.float64)

    def posteriors(theta):
        mean = (theta * data / (1 + theta**2)).unsqueeze(-1)
        return MeanFieldGaussian(mean, torch.full_like(mean, -0.5 * math.log(1 + theta**2)))

    def elbos(theta, q):
        likelihood = lambda z: -0.5 * (data - theta * z[..., 0]) ** 2 - 0.5 * math.log(2 * math.pi)  # noqa: E731
        return exact_elbo(lambda z: standard_normal_prior(z) + likelihood(z), q)

    def evidences(theta):
        return torch.distributions.Normal(tensor(0.0), tensor(1 + theta**2).sqrt()).log_prob(data)

    for theta in (0.5, 1.0, 2.0):
        torch.testing.assert_close(elbos(theta, posteriors(theta)), evidences(theta), rtol=1e-9, atol=1e-9)
    gaps = evidences(1.5) - elbos(1.5, posteriors(1.0))
    assert gaps.shape == (200,) and (gaps > 0).all()

    thetas, at, peaks = torch.linspace(0.4, 3.2, 113, dtype=torch.float64).tolist(), 1.0, []
    best = max(thetas, key=lambda t: evidences(t).mean().item())
    for _ in range(3):
        q = posteriors(at)
        peak = max(thetas, key=lambda t: elbos(t, q).mean().item())
        assert evidences(peak).mean() > evidences(at).mean()
        peaks.append(abs(peak - best))
        at = peak
    assert peaks[0] > peaks[1] > peaks[2] > 0


# ---- what the prompts of the explorable promise ----------------------------------------------------------------------


def kl_at(model: str, observations: int, mu: float, sigma: float) -> float:
    return compute(mu, sigma, observations, model)["kl_q"]


@pytest.mark.covers("3.8")
def test_prompt_two_bars_one_sum():
    assert kl_at("mean", 3, -1.0, 0.6) == pytest.approx(6.52, abs=5e-3)
    assert kl_at("mean", 3, 0.8, 0.6) == pytest.approx(0.04, abs=5e-3)
    frames = [compute(0.8, sigma, 3, "mean") for sigma in SDS] + [compute(mu, 0.6, 3, "mean") for mu in MEANS]
    assert len({frame["evidence_q"] for frame in frames}) == 1
    assert kl_at("mean", 3, 0.8, 0.5) == 0
    assert "q is the posterior" in compute(0.8, 0.5, 3, "mean")["verdict"]


def test_prompt_who_wants_it_narrow():
    frames = [compute(1.0, sigma, 15, "mean") for sigma in SDS if sigma <= 1]            # from narrow to σ = 1
    for name, sign in (("fit", -1), ("joint", -1), ("cost", -1), ("entropy", 1)):
        values = [sign * frame[f"{name}_q"] for frame in frames]
        assert values == sorted(values), name
    assert min(frames, key=lambda frame: frame["kl_q"])["sigma_q"] == 0.25 and kl_at("mean", 15, 1.0, 0.25) == 0
    assert kl_at("mean", 15, 1.0, 0.13) == pytest.approx(0.29, abs=5e-3)


def test_prompt_a_gap_that_no_gaussian_closes():
    assert kl_at("sign", 15, 1.0, 0.13) == pytest.approx(0.71, abs=5e-3)
    assert kl_at("sign", 15, 0.0, 0.6) == pytest.approx(4.01, abs=5e-3)
    assert math.log(2) < compute(1.0, 0.13, 15, "sign")["kl_best"] < math.log(2) + 0.02
    assert min(kl_at("sign", 15, mu, 0.6) for mu in (-0.2, 0.2)) > kl_at("sign", 15, 0.0, 0.6)
    for count in (0, 1, 3):
        assert compute(0.0, 1.0, count, "sign")["mu_best"] == pytest.approx(0, abs=1e-6)
    assert "price of a Gaussian" in compute(1.0, 0.13, 15, "sign")["verdict"]


def test_prompt_no_data():
    for model in MODELS:
        frame = compute(1.0, 0.5, 0, model)
        assert frame["evidence_q"] == 0 and frame["fit_q"] == 0 and frame["elbo_q"] == -frame["cost_q"] < 0
        assert (frame["mu_best"], frame["sigma_best"]) == pytest.approx((0, 1), abs=1e-6)
        assert "Without data" in frame["verdict"] and kl_at(model, 0, 0.0, 1.0) == 0


def test_prompt_which_model():
    mean, sign = compute(1.0, 0.25, 15, "mean"), compute(1.0, 0.13, 15, "sign")
    assert sign["evidence_q"] > mean["evidence_q"] and sign["elbo_q"] < mean["elbo_q"]
    assert (sign["evidence_q"], mean["evidence_q"]) == pytest.approx((-22.05, -22.10), abs=5e-3)
    assert (sign["elbo_q"], mean["elbo_q"]) == pytest.approx((-22.76, -22.10), abs=5e-3)


# ---- exercises -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu, sigma", [(0.3, 0.4), (0.8, 0.7), (-0.5, 0.5)])
def test_when_is_it_tight(mu, sigma):
    """The variance of log w, by quadrature."""
    q, d, r = q_of(mu, sigma), mu - 0.8, (sigma / 0.5) ** 2
    log_w = lambda z: THREE(z) - q.log_prob(z)  # noqa: E731
    mean = expectation(log_w, q)
    variance = expectation(lambda z: (log_w(z) - mean) ** 2, q).item()
    assert variance == pytest.approx(d**2 * sigma**2 / 0.5**4 + 0.5 * (1 - r) ** 2, abs=1e-8)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 100.0])
def test_a_weighed_cost_moves_the_optimum(beta):
    mean_x, n = tensor(*X[:3]).mean().item(), 3
    q = q_of(n * mean_x / (beta + n), math.sqrt(beta / (beta + n)))
    likelihood = lambda z: THREE(z) - standard_normal_prior(z)  # noqa: E731
    of_fit = exact_gradient(likelihood, q)
    of_cost = -(exact_gradient(standard_normal_prior, q) + tensor(0.0, 1.0))
    torch.testing.assert_close(of_fit, beta * of_cost, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("data", [X, X[:1], (-3.0, -2.0), (9.0,) * 40], ids=["fifteen", "one", "negative", "far"])
def test_the_wide_one_is_always_a_hill(data):
    from vilib import hidden_sign

    example, n, a = hidden_sign(tensor(*data)), len(data), 2 * sum(data) - 1
    t = (a + math.sqrt(a**2 + 24 * n)) / (12 * n)
    slope = lambda mu, omega: exact_gradient(example, gaussian(mu, omega), elbo=True)  # noqa: E731
    omega, h = 0.5 * math.log(t), 1e-4
    assert slope(0.0, omega).abs().max() < 1e-6 * max(1, abs(a))
    curvature_mu = ((slope(h, omega) - slope(-h, omega)) / (2 * h))[0].item()
    curvature_omega = ((slope(0.0, omega + h) - slope(0.0, omega - h)) / (2 * h))[1].item()
    assert curvature_mu == pytest.approx(0.5 * (a - math.sqrt(a**2 + 24 * n)), rel=1e-4) and curvature_mu < 0
    assert curvature_omega == pytest.approx(-2 * a * t - 4, rel=1e-4) and curvature_omega < -2


def test_the_third_hill_holds_what_starts_there():
    sign = _example("sign", 15)
    middle, elbo = best_gaussian(sign.log_joint, q_of(0.0, 0.7))
    assert middle.mean.abs().item() < 1e-6 and sign.log_evidence - elbo == pytest.approx(4.01, abs=5e-3)
    done = fit(pathwise, sign, q_of(0.0, 1.0).expand(32), num_samples=64, num_steps=600, optimizer=sgd(0.005), generator=seeded(6))
    assert (done.q.mean.abs() < 0.5).all()


def test_the_three_to_mend():
    def first(log_joint, q, eps):
        z = q.mu + q.omega.exp() ** 2 * eps
        return (log_joint(z) - q.log_prob(z)).mean(0)

    def second(log_joint, q, eps):
        return (log_joint(q.sample(eps)) - (-0.5 * eps**2 - q.omega).sum(-1)).mean(0)

    def third(log_joint, q, eps):
        return (log_joint(q.sample(eps)) - q.log_prob(q.sample(eps))).exp().mean(0).log()

    slips = [check_elbo(estimate).slip for estimate in (first, second, third)]
    assert slips == ["variance for standard deviation", "q without its constant", "log of the mean"]


def test_a_handful_scaled_rightly_and_wrongly():
    """The mean over all handfuls of two among four, by enumeration."""
    from itertools import combinations

    rows, mu, sigma = tensor(0.3, -1.0, 2.0, 0.8), 0.4, 0.5
    q, n, b = q_of(mu, sigma), 4, 2
    cost = 0.5 * (mu**2 + sigma**2 - 1) - math.log(sigma)
    fit_of = lambda part: -0.5 * ((part - mu) ** 2).sum() - 0.5 * len(part) * (sigma**2 + math.log(2 * math.pi))  # noqa: E731
    handfuls = [rows[list(pair)] for pair in combinations(range(n), b)]
    elbo = exact_elbo(gaussian_mean(rows), q).item()
    right = torch.stack([n / b * fit_of(part) - cost for part in handfuls]).mean().item()
    wrong = torch.stack([n / b * (fit_of(part) - cost) for part in handfuls]).mean().item()
    assert right == pytest.approx(elbo) and wrong == pytest.approx(elbo - (n / b - 1) * cost)
    assert math.sqrt(1001 / 11) == pytest.approx(9.5, abs=0.05)


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_bound_from_above(name):
    mu, sigma = CANDIDATES[name]
    posterior, q = THREE.best[0], q_of(mu, sigma)
    above = expectation(lambda z: THREE(z) - q.log_prob(z), posterior).item()
    assert above == pytest.approx(THREE.log_evidence + gaussian_kl(0.8, 0.5, mu, sigma), abs=1e-9)
    looser_above = above - THREE.log_evidence > gap(THREE, mu, sigma)
    assert looser_above == (sigma < 0.5)


# ---- the explorable --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("count", DEPTH)
def test_what_is_printed_is_exact_and_adds_up(model, count):
    example = _example(model, count)
    for mu, sigma in [(MEANS[0], SDS[0]), (0.2, 0.5), (MEANS[-1], SDS[-1])]:
        frame, q = compute(mu, sigma, count, model), q_of(mu, sigma)
        assert frame["elbo_q"] == pytest.approx(exact_elbo(example, q).item(), abs=6e-4)
        assert frame["evidence_q"] == pytest.approx(example.log_evidence, abs=6e-4)
        for whose in ("q", "best"):
            of = lambda name: frame[f"{name}_{whose}"]  # noqa: B023, E731
            assert of("elbo") + of("kl") == pytest.approx(of("evidence"), abs=1e-9) and of("kl") >= 0
            assert of("fit") - of("cost") == pytest.approx(of("elbo"), abs=1e-9)
            assert of("joint") + of("entropy") == pytest.approx(of("elbo"), abs=1e-9)
        assert frame["kl_q"] >= frame["kl_best"] - 1e-9 and frame["climb"] == pytest.approx(frame["kl_q"] - frame["kl_best"])
        assert bool(frame["below"]) == (frame["elbo_q"] < frame["nats_range"][0])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("count", DEPTH)
def test_level_lines_lie_at_their_level(model, count):
    import numpy as np

    example, frame = _example(model, count), compute(0.0, 1.0, count, model)
    x, y = (frame[name].reshape(8, 50)[:, :-1] for name in ("ring_mu", "ring_omega"))
    assert (~np.isnan(frame["ring_levels"])).sum() >= 3
    for level, mu, omega in zip(frame["ring_levels"], x, y):
        inside = (np.abs(mu) < 2.4) & (omega > -2.9) & (omega < 1.0)                     # the panel; the wall is outside
        if np.isnan(level) or not inside.any():
            continue
        q = MeanFieldGaussian(*(torch.tensor(v[inside]).unsqueeze(-1) for v in (mu, omega)))
        kl = example.log_evidence - exact_elbo(example, q).numpy()
        assert np.abs(kl / level - 1).max() < 0.12, (level, np.abs(kl / level - 1).max())


def test_the_axes_hold_still_while_q_moves():
    frames = [compute(mu, sigma, 3, "coin") for mu in (-2.0, 0.0, 2.0) for sigma in (0.13, 2.0)]
    for name in ("density_range", "nats_range", "posterior", "ring_mu", "ring_omega", "z"):
        assert all((frame[name] == frames[0][name])[~torch.isnan(torch.as_tensor(frame[name])).numpy()].all() for frame in frames), name


def test_the_recording_is_light():
    from vilib.explorables import record

    recording = record(elbo_bars())
    assert len(recording.base64()) + len(str(recording.header)) < 60_000


def test_data_of_the_explorable():
    assert len(X) == len(TOSSES) == max(DEPTH) and sum(X) == pytest.approx(16) and sum(X[:3]) == pytest.approx(3.2)
