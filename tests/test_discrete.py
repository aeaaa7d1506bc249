"""Discrete q: against torch.distributions, autograd and exact enumeration."""

import math

import pytest
import torch
from helpers import (
    DISCRETE, ESTIMATORS, INDEPENDENT, PATHWISE, bernoulli, by_autograd, categorical, enumerated, every_batch,
    noise_for, seeded, tensor,
)
from torch.distributions import Bernoulli, Categorical, Independent

from vilib import (
    FactorizedBernoulli, FactorizedCategorical, NotReparameterizable, ShapeError, adam, constant_baseline, exact_elbo,
    exact_gradient, expectation, fit, gradient_replicates, leave_one_out, moments, optimal_coefficient,
    pathwise_expectation, per_draw, rao_blackwell_leave_one_out, robbins_monro,
    score_function, score_function_expectation,
)

close = torch.testing.assert_close
every_family = pytest.mark.parametrize("make", DISCRETE.values(), ids=DISCRETE)
#: What needs only log q, and can therefore serve a discrete q.
BY_SCORE = sorted(ESTIMATORS.keys() - PATHWISE)


def of_torch(q):
    kind = Bernoulli if isinstance(q, FactorizedBernoulli) else Categorical
    return Independent(kind(logits=q.logits), 1)


def coupled(z):
    """A log joint whose coordinates hang together, not normalised."""
    return 0.8 * z[..., 0] - 0.5 * z[..., 1] ** 2 + 1.3 * z[..., 0] * z[..., 1] - 0.4


# ---- the families ---------------------------------------------------------------------------------------------------


@every_family
@every_batch
def test_log_prob_and_entropy_are_torchs(make, batch):
    q = make(*batch)
    z = q.sample(noise_for(q))
    assert z.shape == (8, *batch, 2) and z.dtype == torch.float64
    close(q.log_prob(z), of_torch(q).log_prob(z))
    close(q.log_factors(z).sum(-1), q.log_prob(z))
    close(q.entropy(), of_torch(q).entropy())


@every_family
@every_batch
def test_the_score_is_the_gradient_of_log_q(make, batch):
    q = make(*batch)
    z = q.sample(noise_for(q))
    vector = q.vector().detach().requires_grad_()
    log_q = q.with_vector(vector).log_prob(z)
    rows = torch.stack([torch.autograd.grad(log_q[s].sum(), vector, retain_graph=True)[0] for s in range(len(z))])
    close(q.score(z), rows)
    close(q.score(z, (1, 0)), rows[..., [1, 0]])
    close(q.score_variance((1, 0)), q.score_variance()[..., [1, 0]])


@every_family
def test_summed_over_every_state_the_probabilities_are_one_and_the_score_has_the_moments_it_says(make):
    q = make(3)
    weights, score = q.log_prob(q.states()).exp(), q.score(q.states())
    close(weights.sum(0), torch.ones(3, dtype=torch.float64))
    close((weights.unsqueeze(-1) * score).sum(0), torch.zeros_like(q.vector()))
    close((weights.unsqueeze(-1) * score.square()).sum(0), q.score_variance())
    close(-(weights * q.log_prob(q.states())).sum(0), q.entropy())
    assert q.states().shape == (q.num_classes**2, 3, 2)


@every_family
def test_a_draw_is_the_inverse_of_the_distribution_at_phi_of_eps(make):
    """At evenly spaced u each value has its probability's share, to within one point, and draws rise with ε."""
    q, num_points = make(dim=3), 10_000
    u = (torch.arange(num_points, dtype=torch.float64) + 0.5) / num_points
    z = q.sample(torch.special.ndtri(u).unsqueeze(-1).expand(num_points, 3))
    assert (z.diff(dim=0) >= 0).all()
    for value in range(q.num_classes):
        share = (z == value).double().mean(0)
        close(share, q.log_factors(torch.full((3,), float(value), dtype=torch.float64)).exp(), rtol=0, atol=1.001 / num_points)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_rare_one_is_drawn_as_rarely_as_it_is(dtype):
    """θ = 1e-9, below the spacing of float32 near one: drawn beyond ε = Φ⁻¹(1 − θ) = 5.998, and not before."""
    q = FactorizedBernoulli(torch.tensor([math.log(1e-9)], dtype=dtype))
    assert q.sample(torch.tensor([[5.98], [6.01]], dtype=dtype)).flatten().tolist() == [0, 1]


@every_family
def test_far_out_everything_stays_finite(make):
    for at in (-200.0, 200.0):
        q = make(dtype=torch.float32)
        q = q.with_vector(q.vector() * at)
        vector = q.vector().requires_grad_()
        far = q.with_vector(vector)
        total = far.log_prob(far.sample(noise_for(q))).sum() + far.entropy()
        assert total.isfinite() and torch.autograd.grad(total, vector)[0].isfinite().all()


@every_family
def test_vector_names_expand_and_detach(make):
    q = make(3)
    assert q.vector().shape == (3, q.num_parameters) and len(set(q.parameter_names())) == q.num_parameters
    assert torch.equal(q.with_vector(q.vector()).logits, q.logits)
    assert q.expand(4, 5).batch_shape == (4, 5, 3) and q.dim == q.expand(4).dim == 2
    moving = q.with_vector(q.vector().requires_grad_())
    assert moving.vector().requires_grad and not moving.detach().vector().requires_grad
    assert not moving.sample(noise_for(q)).requires_grad
    alone = q.with_vector(q.vector()[1])
    assert torch.equal(q.sample(noise_for(q))[:, 1], alone.sample(noise_for(q)[:, 1]))


def test_names_and_order_of_the_parameters():
    assert bernoulli().parameter_names() == ("logits[0]", "logits[1]")
    q = categorical(num_classes=2)
    assert q.parameter_names() == ("logits[0,0]", "logits[0,1]", "logits[1,0]", "logits[1,1]")
    assert q.vector().tolist() == q.logits.flatten().tolist()


def test_a_number_added_to_all_logits_of_a_coordinate_changes_nothing():
    q = categorical()
    shifted = FactorizedCategorical(q.logits + tensor(3.0, -2.0).unsqueeze(-1))
    close(shifted.log_prob(q.states()), q.log_prob(q.states()))
    gradient = exact_gradient(coupled, q, elbo=True).unflatten(-1, (2, 3))
    close(gradient.sum(-1), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)


def test_two_classes_are_a_bernoulli():
    b = bernoulli(3)
    c = FactorizedCategorical(torch.stack([torch.zeros_like(b.logits), b.logits], -1))
    eps = noise_for(b, 100)
    assert torch.equal(b.sample(eps), c.sample(eps))
    close(b.log_prob(b.states()), c.log_prob(c.states()))
    close(b.entropy(), c.entropy())


# ---- exact answers --------------------------------------------------------------------------------------------------


@every_family
def test_expectations_are_sums_over_every_state(make):
    q = make(2, 3)
    by_hand = torch.stack([of_torch(q).log_prob(z).exp() * coupled(z) for z in q.states()]).sum(0)
    close(expectation(coupled, q), by_hand)
    close(exact_elbo(coupled, q), by_hand + of_torch(q).entropy())
    alone = q.with_vector(q.vector()[1, 2])
    close(exact_gradient(coupled, q, elbo=True)[1, 2], exact_gradient(coupled, alone, elbo=True))


def test_the_elbo_of_the_posterior_is_the_log_evidence():
    """Independent terms: the posterior is a factorised Bernoulli with logits a, and log p(x) = Σ log(1 + e^a)."""
    a = tensor(0.7, -1.2)
    elbo = exact_elbo(lambda z: (a * z).sum(-1), FactorizedBernoulli(a))
    close(elbo, a.exp().log1p().sum())
    assert exact_gradient(lambda z: (a * z).sum(-1), FactorizedBernoulli(a), elbo=True).abs().max() < 1e-12


# ---- the toy: Bernoulli(θ), f(z) = (z − 0.45)² ----------------------------------------------------------------------


def toy(z):
    return (z[..., 0] - 0.45).square()


@pytest.mark.parametrize("theta", [0.5, 0.2])
@pytest.mark.parametrize("baseline", [0.0, 0.2525])
def test_the_toy_has_the_gradient_and_the_variance_of_two_terms(theta, baseline):
    """By θ: f(1) − f(0) = 0.1, and the single draw's variance; λ is the logit, ∂θ = ∂logit / (θ(1 − θ)).

    At θ = ½ the score is ±2: variance (f(1) + f(0))²  = 0.255025 without a baseline, and nothing is left of it with ½ (f(1) + f(0)).
    """
    q = FactorizedBernoulli(tensor(math.log(theta / (1 - theta))))
    f1, f0, slope = 0.55**2 - baseline, 0.45**2 - baseline, theta * (1 - theta)
    exact = f1 - f0
    variance = f1**2 / theta + f0**2 / (1 - theta) - exact**2
    estimator = lambda f, q, eps: score_function_expectation(f, q, eps, constant_baseline(baseline))  # noqa: E731
    value, gradient, found = enumerated(estimator, toy, q)
    assert gradient.item() / slope == pytest.approx(exact) == pytest.approx(0.1)
    assert value.item() == pytest.approx(theta * 0.55**2 + (1 - theta) * 0.45**2)
    assert found.item() / slope**2 == pytest.approx(variance, abs=1e-15)
    assert exact_gradient(toy, q).item() == pytest.approx(0.1 * slope)
    if theta == 0.5:
        assert variance == pytest.approx(0.255025 if baseline == 0 else 0, abs=1e-12)


def test_replicates_of_the_toy_are_what_enumeration_says():
    q = FactorizedBernoulli(tensor(0.0))
    found = gradient_replicates(lambda f, q, eps: score_function_expectation(f, q, eps), toy, q, num_samples=4,
                                num_replicates=20_000, generator=seeded())
    _, exact, variance = enumerated(score_function_expectation, toy, q, 4)
    close(found.mean(0), exact, rtol=0, atol=6 * (variance / 20_000).sqrt().item())
    close(found.var(0), variance, rtol=0.06, atol=0)
    assert variance.item() == pytest.approx(0.255025 / 16 / 4)


# ---- every estimator, every set of draws ----------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("num_samples", [1, 2, 3])
@pytest.mark.parametrize("name", BY_SCORE)
def test_over_every_set_of_draws_each_estimator_has_the_exact_mean(name, num_samples, make):
    """Not to within some standard errors: exactly."""
    if num_samples == 1 and name in INDEPENDENT:
        return
    q = make()
    value, gradient, _ = enumerated(ESTIMATORS[name], coupled, q, num_samples)
    close(value, exact_elbo(coupled, q))
    close(gradient, exact_gradient(coupled, q, elbo=True), rtol=1e-10, atol=1e-10)


def test_enumeration_notices_a_baseline_with_its_own_sample():
    def own(log_joint, q, eps):
        log_q = q.log_prob(z := q.sample(eps))
        f = (log_joint(z) - log_q).detach()
        return ((f - f.mean(0)) * log_q).mean(0)

    q = bernoulli()
    with pytest.raises(AssertionError):
        close(enumerated(own, coupled, q, 3)[1], exact_gradient(coupled, q, elbo=True))
    close(enumerated(own, coupled, q, 3)[1] * 3 / 2, exact_gradient(coupled, q, elbo=True))


@every_family
def test_the_leave_one_out_variance_is_the_formula(make):
    """Var[(f−f̄)(s−s̄)]/S + (Var f · Var s + Cov²)/(S(S−1)), by enumerating one draw, against enumerating all sets of three."""
    q = make()
    z, weights = q.states(), q.log_prob(q.states()).exp().unsqueeze(-1)
    average = lambda x: (weights * x).sum(0)  # noqa: E731
    f, s = (coupled(z) - q.log_prob(z)).unsqueeze(-1), q.score(z)
    f = f - average(f)
    covariance = average(f * s)
    formula = (average((f * s).square()) - covariance**2) / 3 + (average(f**2) * average(s**2) + covariance**2) / 6
    close(enumerated(leave_one_out, coupled, q, 3)[2], formula)


# ---- fits -----------------------------------------------------------------------------------------------------------


def best_by_ascent(log_joint, q):
    """The top of the exact ELBO near q, by plain ascent along the exact gradient."""
    for _ in range(2000):
        q = q.with_vector(q.vector() + 2.0 * exact_gradient(log_joint, q, elbo=True))
    assert exact_gradient(log_joint, q, elbo=True).abs().max() < 1e-6
    return q


@every_family
@pytest.mark.parametrize("estimator", [score_function, leave_one_out, optimal_coefficient, rao_blackwell_leave_one_out],
                         ids=lambda e: e.__name__)
def test_a_fit_climbs_to_the_enumerated_optimum(estimator, make):
    best = exact_elbo(coupled, best_by_ascent(coupled, make()))
    start = make().expand(8)
    done = fit(estimator, coupled, start, num_samples=16, num_steps=600, generator=seeded(),
               optimizer=adam(0.1, robbins_monro(kappa=1.0, delay=50)), record_every=100)
    short = best - exact_elbo(coupled, done.q)
    assert done.q.batch_shape == (8,) and type(done.q) is type(start) and (done.failed_at == -1).all()
    assert (short > -1e-9).all() and short.max() < 0.03 < (best - exact_elbo(coupled, make())).item()


def test_a_fit_of_independent_terms_finds_the_posterior():
    a = tensor(0.7, -1.2)
    done = fit(leave_one_out, lambda z: (a * z).sum(-1), FactorizedBernoulli(tensor(0.0, 0.0)), num_samples=32,
               num_steps=800, optimizer=adam(0.05), generator=seeded())
    close(done.q.mean, a.sigmoid(), rtol=0, atol=1e-3)              # a learnt baseline is silent at the posterior


# ---- refusals -------------------------------------------------------------------------------------------------------


@every_family
def test_whatever_needs_a_path_is_refused(make):
    q = make()
    message = rf"q: {type(q).__name__} has no differentiable transform\(eps\).*score_function, leave_one_out"
    for wants_a_path in [
        lambda: q.transform(noise_for(q)), lambda: per_draw(coupled, q, noise_for(q)),
        lambda: pathwise_expectation(coupled, q, noise_for(q)), lambda: moments(coupled, q),
        *(lambda name=name: ESTIMATORS[name](coupled, q, noise_for(q)) for name in sorted(PATHWISE)),
    ]:
        with pytest.raises(NotReparameterizable, match=message):
            wants_a_path()


@pytest.mark.parametrize("build, message", [
    (lambda: FactorizedBernoulli(torch.tensor(0.0)), r"logits: expected \(\*R, D\), got \(\).*torch.tensor\(\[logit\]\)"),
    (lambda: FactorizedCategorical(torch.zeros(3)), r"logits: expected \(\*R, D, K\) .*got \(3,\).*logits.unsqueeze\(-2\)"),
    (lambda: FactorizedCategorical(torch.zeros(3, 1)), r"K at least 2 classes, got \(3, 1\)"),
    (lambda: bernoulli().with_vector(torch.zeros(3)), r"vector: expected \(\*R, 2\), got \(3,\)"),
    (lambda: categorical().with_vector(torch.zeros(2, 5)), r"vector: expected \(\*R, 6\), got \(2, 5\)"),
    (lambda: bernoulli(3).sample(torch.zeros(4, 2)), r"eps: expected \(S, \*R, D\) = \(S, 3, 2\) for this q, got \(4, 2\)"),
    (lambda: categorical().sample(torch.zeros(4, 3)), r"eps: expected .*\(S, 2\) for this q, got \(4, 3\).*q.batch_shape"),
    (lambda: bernoulli(dim=21).states(), r"q: 2\^21 states are too many to sum over"),
])
def test_shapes_that_do_not_fit_are_named(build, message):
    with pytest.raises(ShapeError, match=message):
        build()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@every_family
def test_draws_states_and_scores_follow_the_device(make):
    q = make(3)
    there = q.with_vector(q.vector().cuda())
    z = there.sample(noise_for(q).cuda())
    assert {x.device.type for x in (z, there.states(), there.score(z), there.log_prob(z), there.entropy())} == {"cuda"}
    close(there.log_prob(there.states()).cpu(), q.log_prob(q.states()))
    assert by_autograd(leave_one_out, coupled, there, noise_for(q).cuda())[1].is_cuda
