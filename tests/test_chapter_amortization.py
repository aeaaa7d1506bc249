"""What the chapter ``amortization`` says in words, held against closed forms, quadrature and its own explorable."""

import math
import re

import pytest
import torch
from chapters import decimals, numbers
from helpers import seeded, tensor
from torch import nn

from vilib import (
    VAE, GaussianDecoder, MeanFieldGaussian, check_encoder, exact_elbo, gaussian_kl,
    sensor_encoder, sensor_gap,
)
from vilib.explorables.gallery.amortization_gap import STEPS, WIDTHS, X, compute


# ---- the page itself -------------------------------------------------------------------------------------------------


def test_every_cell_and_every_solution_runs(executed):
    assert len(executed.printed) > 20 and "nan" not in executed.everything and executed.marks == (5, 4)


# ---- climbs and network ----------------------------------------------------------------------------------------------


@pytest.mark.covers("2.14", "2.15")
def test_own_climbs_arrive_late_and_the_network_early(executed):
    own = [numbers(line) for line in executed.output("own = fit(").splitlines()[1:]]
    assert own[-1][0] == 300 and own[-1][2] == 89                                               # "all but a tenth"
    table = {int(row[0]): row[1:] for row in map(numbers, executed.output("own climbs    32 units").splitlines()[1:-1])}
    assert table[10] == pytest.approx([6.08, 0.235], abs=5e-3) and table[300] == pytest.approx([0.059, 0.156], abs=5e-3)
    assert executed.output("own climbs    32 units").splitlines()[-1] == "as good as the finished encoder: after 132 gradients a reading"
    assert table[100][0] > table[100][1] and table[300][0] < table[300][1]


def test_the_linear_encoder_is_overtaken_after_some_fifty_gradients(executed):
    from vilib.sensor import sensor_best, training_readings

    x, vae = training_readings(256), sensor_encoder(0)
    best = sensor_best()[1]
    best_elbo = exact_elbo(vae.log_joint(x), best.with_vector(best.vector()[-256:])).mean()
    linear = {k: (best_elbo - exact_elbo(vae.log_joint(x), sensor_encoder(0, step=16 * k).encode(x)).mean()).item() for k in (30, 100)}
    own = {row[0]: row[1] for row in map(numbers, executed.output("own = fit(").splitlines()[1:])}
    assert own[30] > linear[30] and own[100] < linear[100]


def test_an_epoch_is_a_gradient_a_reading():
    assert [step // 16 for step in STEPS] == [0, 1, 3, 10, 30, 100, 300] and 256 // 16 == 16


@pytest.mark.covers("2.15")
def test_the_gap_falls_with_width_and_fresh_data_agree(executed):
    rows = [numbers(line)[-2:] for line in executed.output("hidden units    amortisation gap").splitlines()[2:]]
    training, fresh = zip(*rows)
    assert list(training) == sorted(training, reverse=True) and list(fresh) == sorted(fresh, reverse=True)
    assert training[1] < training[0] / 2 and training[3] == pytest.approx(0.16, abs=5e-3)
    assert max(abs(a - b) for a, b in rows) < 0.02


def test_by_heart_is_not_for_fresh_readings(executed):
    out = executed.output("{count} readings: {pairs}")
    pairs = [tuple(map(float, pair.split("→"))) for pair in out.splitlines()[1].split(":")[1].split(",")]
    seen, new = zip(*pairs)
    assert list(seen) == sorted(seen, reverse=True) and seen[-1] < 0.04
    assert new[2] < new[3] < new[1] < new[0]
    assert new[3] - seen[3] == pytest.approx(0.73, abs=5e-3) and new[3] == pytest.approx(0.76, abs=5e-3)


def test_the_gradient_is_the_chain_rule():
    """eq:amortization-gradient: Jᵀ times each datum's own gradient, averaged, against autodiff through the network."""
    from vilib import sensor_vae
    from vilib.amortized import analytic_kl

    vae, x = sensor_vae(3, generator=seeded(1)), tensor(-1.0, 0.4, 2.2).unsqueeze(-1)
    eps = torch.randn(8, 3, 1, generator=seeded(2), dtype=torch.float64)
    parameters = list(vae.encoder.parameters())
    straight = torch.cat([g.flatten() for g in torch.autograd.grad(vae.elbo(x, eps).mean(), parameters)])
    local = vae.encode(x).vector().detach().requires_grad_()
    q = vae.encode(x).with_vector(local)
    (wishes,) = torch.autograd.grad(analytic_kl(vae.log_joint(x), q, eps).sum(), local)          # (N, 2), each its own
    lam, total = vae.encode(x).vector(), 0.0
    for i in range(3):
        rows = [torch.cat([g.flatten() for g in torch.autograd.grad(lam[i, p], parameters, retain_graph=True)]) for p in range(2)]
        total = total + torch.stack(rows).T @ wishes[i] / 3
    torch.testing.assert_close(straight, total)


# ---- the gaps --------------------------------------------------------------------------------------------------------


def test_the_gap_is_a_difference_of_divergences_to_the_posterior_and_not_the_divergence_of_the_two():
    vae, x = sensor_encoder(2), tensor(-1.5, 2.0, 3.0).unsqueeze(-1)
    found = sensor_gap(vae, x)
    z, dz = torch.linspace(-6, 6, 6001, dtype=torch.float64).reshape(-1, 1, 1).expand(-1, 3, 1), 12 / 6000
    log_posterior = vae.log_joint(x)(z) - found.log_evidence
    to_posterior = lambda q: ((q.log_prob(z) - log_posterior) * q.log_prob(z).exp()).sum(0) * dz  # noqa: E731
    torch.testing.assert_close(found.inference, to_posterior(found.q), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.approximation, to_posterior(found.best), rtol=1e-6, atol=1e-6)
    between = gaussian_kl(found.q, found.best)
    assert ((between - found.amortization).abs() > 0.01).any()


def test_the_posterior_of_a_linear_model():
    """eq:amortization-linear, by Bayes' rule on a grid."""
    weights, bias, s = tensor([2.0], [0.5]), tensor(0.3, -0.2), 0.7
    x = tensor(1.0, -0.4)
    z = torch.linspace(-8, 8, 16_001, dtype=torch.float64).unsqueeze(-1)
    log_joint = -0.5 * z.square().sum(-1) - 0.5 * ((x - bias - z @ weights.T) ** 2).sum(-1) / s**2
    posterior = torch.softmax(log_joint, 0)
    m = (weights.T @ weights).item() + s**2
    mean = (posterior @ z[:, 0]).item()
    assert mean == pytest.approx(((x - bias) @ weights).item() / m, abs=1e-9)
    assert (posterior @ (z[:, 0] - mean) ** 2).item() == pytest.approx(s**2 / m, abs=1e-9)


@pytest.mark.parametrize("turn", [0.0, 0.3, math.pi / 6])
def test_a_linear_encoder_is_enough_and_what_is_left_is_the_familys(turn):
    """thm-amortization-linear, by the exact ELBO of a mean-field q with precision Λ, nudged in every direction."""
    weights = tensor([1.5, 0.0], [0.0, 0.6], [0.3, 0.0]) @ tensor([math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)])
    s2, bias, x = 0.3, tensor(0.1, 0.2, -0.4), torch.randn(5, 3, generator=seeded(0), dtype=torch.float64)
    m = weights.T @ weights + s2 * torch.eye(2)
    body = nn.Linear(2, 3, dtype=torch.float64)
    body.weight.data, body.bias.data = weights, bias
    mu = (x - bias) @ weights @ torch.linalg.inv(m)
    q = MeanFieldGaussian(mu, (-0.5 * (m.diagonal() / s2).log()).expand_as(mu))
    joint = VAE(nn.Identity(), GaussianDecoder(body, 0.5 * math.log(s2), learn_scale=False).double()).log_joint(x)
    with torch.no_grad():
        gap = data_log_evidence_of_linear(weights, bias, s2, x) - exact_elbo(joint, q)
        formula = 0.5 * (m.diagonal().log().sum() - torch.logdet(m))
        torch.testing.assert_close(gap, formula.expand(5), rtol=1e-5, atol=1e-6)
        assert (formula.abs() < 1e-9) == (turn == 0.0)
        for nudge in (0.05 * torch.eye(4, dtype=torch.float64)):
            for sign in (-1, 1):
                assert (exact_elbo(joint, q.with_vector(q.vector() + sign * nudge)) < exact_elbo(joint, q)).all()


def data_log_evidence_of_linear(weights, bias, s2, x):
    covariance = weights @ weights.T + s2 * torch.eye(len(bias))
    return torch.distributions.MultivariateNormal(bias, covariance).log_prob(x)


def test_the_printed_linear_models(executed):
    rows = [numbers(line.replace("30°", ""))[-3:] for line in executed.output("def linear_model").splitlines()[1:]]
    assert all(row[0] < 1e-6 and row[1] == pytest.approx(row[2], abs=2e-6) for row in rows)
    assert rows[0][2] < 1e-6 and rows[1][2] > 0.1


def test_refinement(executed):
    rows = {line[:10].strip(): [float(v) for v in line[10:].split()] for line in executed.output('print("start        "').splitlines()[2:]}
    assert rows["0 units"][3] < rows["0 units"][0] / 2                                          # twenty steps undo most of it
    assert rows["prior"][4] > rows["0 units"][0]
    ends = [rows[name][4] for name in ("0 units", "2 units", "32 units")]
    assert max(ends) - min(ends) < 0.01 and min(ends) > 0.1
    one, two = numbers(executed.output("the better of two"))
    assert two < one / 3


# ---- what can go wrong -----------------------------------------------------------------------------------------------


def test_one_climb_blames_the_family(executed):
    first, second = (decimals(line) for line in executed.output("one_climb =").splitlines())
    assert first[2] == second[2] and first[0] > second[0] + 0.05 and first[1] < second[1] / 2


def test_adams_first_step(executed):
    rows = {row[0]: row[1:] for row in map(numbers, executed.output("for step_size in (0.2").splitlines()[1:])}
    assert rows[0.2][1] > 1 and rows[0.05][1] > rows[0.05][0] and rows[0.01][1] <= rows[0.01][0]
    assert rows[0.05][3] < rows[0.05][0] and rows[0.01][3] < rows[0.01][0]


def test_a_strange_x(executed):
    rows = [re.findall(r"-?\d+\.\d+", line) for line in executed.output("strange =").splitlines()]
    amortisation, sigma = ([float(row[k]) for row in rows] for k in (4, 2))
    assert amortisation == sorted(amortisation) and amortisation[-1] > 5 and max(sigma) < 0.2


def test_the_model_bends():
    """eq:amortization-bias, on a grid of θ."""
    v, sigma = 5.0, 0.7
    theta = torch.linspace(0.5, 3, 250_001, dtype=torch.float64)
    u = 1 + theta**2
    mean_evidence = -0.5 * (math.log(2 * math.pi) + u.log() + v / u)
    mean_gap = 0.5 * (sigma**2 * u - 1 - (sigma**2 * u).log())
    best = theta[(mean_evidence - mean_gap).argmax()].item()
    assert best == pytest.approx(math.sqrt(math.sqrt(v) / sigma - 1), abs=1e-4) and best == pytest.approx(1.48, abs=5e-3)
    assert theta[mean_evidence.argmax()].item() == pytest.approx(2, abs=1e-4)


# ---- what the prompts promise ----------------------------------------------------------------------------------------


def loss_at(x: float, width: int, step: int = 4800, readings: int = 256) -> float:
    return compute(x, width, step, readings)["encoder_now"]


def test_prompt_a_straight_line():
    assert min(X, key=lambda x: loss_at(x, 0)) in (-0.4, -0.2) and max(loss_at(-0.4, 0), loss_at(-0.2, 0)) <= 0.0105
    assert loss_at(-2.4, 0) == pytest.approx(1.5, abs=0.05)
    frames = [compute(-1.0, w, s, r) for w in WIDTHS for s in STEPS for r in (16, 256)]
    assert len({frame["kl_best"] for frame in frames}) == 1
    assert (frames[13]["encoder_fresh"], compute(-1.0, 2, 4800, 256)["encoder_fresh"]) == pytest.approx((0.46, 0.19), abs=5e-3)


def test_prompt_the_wrong_hill():
    means = [float(compute(2.0, 32, step, 256)["mu_q"]) for step in STEPS]
    assert means[1] == pytest.approx(0.66, abs=5e-3) and all(0.1 < mean < 0.25 for mean in means[2:])
    frame = compute(2.0, 32, 4800, 256)
    assert (frame["mu_q"], frame["mu_best"], frame["encoder_now"]) == pytest.approx((0.16, 1.34, 0.60), abs=5e-3)


def test_prompt_by_heart():
    from vilib.sensor import training_readings

    x = training_readings(16)[:, 0]
    assert not ((x > 0.02) & (x < 1.1)).any()
    frame = compute(0.8, 32, 4800, 16)
    assert frame["encoder_now"] == pytest.approx(5.5, abs=0.05) and loss_at(0.6, 32, readings=16) > 14
    assert max(X, key=lambda x: loss_at(x, 32, readings=16)) == 0.6
    said = {32: (0.03, 0.61), 8: (0.035, 0.54), 2: (0.485, 1.25), 0: (0.92, 1.37)}
    for width, pair in said.items():
        frame = compute(0.8, width, 4800, 16)
        assert (frame["encoder_seen"], frame["encoder_fresh"]) == pytest.approx(pair, abs=5e-3)
    full = compute(0.8, 32, 4800, 256)
    assert abs(full["encoder_seen"] - full["encoder_fresh"]) < 0.03


def test_prompt_before_it_has_learnt():
    fresh = {step: compute(2.0, 2, step, 256)["encoder_fresh"] for step in STEPS}
    assert fresh[480] == pytest.approx(0.22, abs=6e-3) and fresh[160] == pytest.approx(1.02, abs=5e-3)
    assert next(step for step in STEPS if fresh[step] < 1) == 480
    assert fresh[480] - fresh[4800] < 0.01 * fresh[0]


# ---- exercises -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("w, s, delta", [(2.0, 0.5, 0.1), (0.7, 1.2, -0.4)])
def test_a_line_by_hand(w, s, delta):
    m, sigma2 = w**2 + s**2, s**2 / (w**2 + s**2)
    x = torch.randn(400_000, generator=seeded(0), dtype=torch.float64) * math.sqrt(m)
    slope_off = ((delta * x) ** 2 / (2 * sigma2)).mean().item()
    assert slope_off == pytest.approx(delta**2 * m**2 / (2 * s**2), rel=0.02)
    mu2 = (w / m) ** 2 * m
    mean_gap = lambda tau: 0.5 * math.log(sigma2) - math.log(tau) + (tau**2 + mu2) / (2 * sigma2) - 0.5  # noqa: E731
    best = math.sqrt(sigma2)
    assert mean_gap(best) == pytest.approx(w**2 / (2 * s**2)) and mean_gap(best) < min(mean_gap(0.98 * best), mean_gap(1.02 * best), mean_gap(1.0))


def test_the_line_in_code(executed):
    out = executed.output("line_body =").splitlines()
    measured, formula = numbers(out[0])
    assert measured == pytest.approx(formula, abs=1e-4)
    blind = [numbers(line)[1] for line in out[1:4]]
    assert blind == sorted(blind) and blind[0] == pytest.approx(8.0, abs=1e-3)


def test_when_it_pays(executed):
    out = executed.output("target = loss(").splitlines()
    k, more = numbers(out[0])[-1], numbers(out[1])[-1]
    assert 100 < k < 200 and more == pytest.approx(256 * (300 - k) / k, abs=0.6) and 256 / 2 < more < 2 * 256


def test_the_three_to_mend():
    def second(x, weights, bias, noise_sd):
        m = weights.square().sum(0)
        mu = (x - bias) @ weights / m
        return MeanFieldGaussian(mu, (noise_sd / m.sqrt()).log().expand_as(mu))

    assert check_encoder(second).slip == "no prior"


def test_the_attempts_at_a_gap(executed):
    first, second, third = re.split(r"^(?=second_attempt|third_attempt)", executed.output("def third_attempt"), flags=re.M)
    assert "the whole" in first and "lower hill" in second.replace("\n  ", " ") and "✓ Right." in third


def test_how_many_steps_a_network_is_worth(executed):
    stl, kl = map(numbers, executed.output("reaches it after K").splitlines()[1:])
    assert stl[0] < kl[0] <= 50 and stl[2] < kl[2]


def test_it_was_the_training(executed):
    before, taught, after = (decimals(line) for line in executed.output("taught by the table").splitlines())
    assert before == pytest.approx([0.156, 0.156], abs=2e-3)
    assert after[0] < before[0] - 0.02 and after[1] < before[1] and taught[0] < before[0]


def test_the_kl_of_the_theorem():
    """Its divergence between a diagonal q and a Gaussian posterior, against torch.distributions."""
    precision, mu_x = tensor([2.0, 0.7], [0.7, 1.1]), tensor(0.3, -0.2)
    mu, sigma2 = tensor(0.5, 0.4), tensor(0.3, 0.8)
    d = mu - mu_x
    by_formula = 0.5 * ((precision.diagonal() * sigma2).sum() - 2 - torch.logdet(precision) - sigma2.log().sum() + d @ precision @ d)
    q, p = torch.distributions.MultivariateNormal(mu, torch.diag(sigma2)), torch.distributions.MultivariateNormal(mu_x, precision_matrix=precision)
    assert by_formula.item() == pytest.approx(torch.distributions.kl_divergence(q, p).item())


@pytest.mark.covers("1.8")
def test_an_encoder_trained_on_simulated_pairs_has_each_posterior_s_mean_and_sd(executed):
    rows = [numbers(line) for line in executed.output("forward = sensor_vae(32").splitlines()[1:]]
    assert [row[0] for row in rows] == [-1, 2, 3]
    for _, mean, sd, forward_mean, forward_sd, elbo_mean, elbo_sd in rows:
        assert abs(forward_mean - mean) < 0.2 * sd and abs(forward_sd / sd - 1) < 0.15
    assert rows[1][-1] < 0.6 * rows[1][2], "by the ELBO, one hill"
