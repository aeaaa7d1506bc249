"""The mixture by coordinate ascent, against exact enumeration, quadrature and densities written out with torch.distributions."""

import math

import pytest
import torch
from helpers import seeded, tensor
from torch.distributions import Categorical, Dirichlet, Normal

from vilib import GaussianMixture, MissingGenerator, MixtureFactors, ShapeError, VilibError, coordinate_ascent, log_evidence

X = tensor(-2.3, -1.4, 0.2, 1.9, 2.6).unsqueeze(-1)


def some_q(model: GaussianMixture, *batch: int, seed: int = 0, dtype=torch.float64) -> MixtureFactors:
    draw, k = seeded(seed), model.num_components
    rand = lambda *shape: torch.randn((*batch, *shape), generator=draw, dtype=torch.float64).to(dtype)  # noqa: E731
    return MixtureFactors(rand(len(model.x), k).softmax(-1), rand(k).exp() + 0.5, 2 * rand(k, model.x.shape[-1]), rand(k).exp())


MODELS = {
    "two": GaussianMixture(X, 2), "three": GaussianMixture(X, 3, width=0.7, prior_width=2.0, concentration=0.5),
    "plane": GaussianMixture(torch.randn(6, 2, generator=seeded(1), dtype=torch.float64), 2, concentration=4.0),
    "one": GaussianMixture(X, 1),
}


# ---- the ELBO -----------------------------------------------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_elbo_is_the_mean_of_the_log_weights(model):
    """log p(x, z, m, π) − log q(z, m, π), each density by torch.distributions, over draws of q."""
    q, s, draws = some_q(model), model.width, 40_000
    torch_state = torch.get_rng_state()
    torch.manual_seed(3)                                               # torch.distributions draw from the global generator only
    try:
        dirichlet, normal = Dirichlet(q.alpha), Normal(q.mu, q.sigma.unsqueeze(-1))
        weights, means, labels = dirichlet.sample((draws,)), normal.sample((draws,)), Categorical(q.phi).sample((draws,))
    finally:
        torch.set_rng_state(torch_state)
    of_label = torch.gather(means, 1, labels.unsqueeze(-1).expand(-1, -1, means.shape[-1]))                 # (S, N, d)
    log_p = (Normal(of_label, s).log_prob(model.x).sum((-2, -1)) + weights.log().gather(1, labels).sum(-1)
             + Normal(0.0, model.prior_width).log_prob(means).sum((-2, -1))
             + Dirichlet(torch.full_like(q.alpha, model.concentration)).log_prob(weights))
    log_q = Categorical(q.phi).log_prob(labels).sum(-1) + normal.log_prob(means).sum((-2, -1)) + dirichlet.log_prob(weights)
    log_w = log_p - log_q
    assert abs(log_w.mean() - model.elbo(q)) < 5.5 * log_w.std() / math.sqrt(draws) + 1e-9


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.covers("2.14")
def test_it_is_a_bound_and_no_sweep_lowers_it(model):
    starts = some_q(model, 6)
    found = coordinate_ascent(model.updates, model.elbo, starts)
    assert found.converged.all() and (found.elbo.diff(dim=0) > -1e-10).all()
    assert (found.elbo <= model.log_evidence() + 1e-9).all()
    if model.num_components == 1:                                      # one label: q(m) is the posterior
        torch.testing.assert_close(found.elbo[-1], torch.full((6,), model.log_evidence(), dtype=torch.float64))


@pytest.mark.parametrize("name", ["labels", "means", "weights"])
@pytest.mark.parametrize("model", [MODELS["three"], MODELS["plane"]], ids=["three", "plane"])
@pytest.mark.covers("2.14")
def test_each_update_alone_is_the_optimum_of_its_factors(model, name):
    """No slope is left along the simplex of each label, in (μ, log σ), in log α; and it does not fall."""
    q = some_q(model)
    updated = getattr(model, f"update_{name}")(q)
    assert model.elbo(updated) > model.elbo(q)
    leaves = {"labels": [updated.phi.log()], "means": [updated.mu, updated.sigma.log()], "weights": [updated.alpha.log()]}[name]
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    fields = {"labels": lambda a: {"phi": a.softmax(-1)}, "means": lambda a, b: {"mu": a, "sigma": b.exp()}, "weights": lambda a: {"alpha": a.exp()}}
    made = MixtureFactors(**(vars(updated) | fields[name](*leaves)))
    for slope in torch.autograd.grad(model.elbo(made), leaves):
        assert slope.abs().max() < 1e-9
    for field in {"labels": ("alpha", "mu", "sigma"), "means": ("phi", "alpha"), "weights": ("phi", "mu", "sigma")}[name]:
        assert torch.equal(getattr(updated, field), getattr(q, field))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_with_the_global_factors_at_their_optimum_the_elbo_is_soft_evidence_plus_entropy(model):
    q = model.update_weights(model.update_means(some_q(model)))
    torch.testing.assert_close(model.elbo(q), model.log_joint_of(q.phi) + torch.special.entr(q.phi).sum())


# ---- exact answers --------------------------------------------------------------------------------------------------------


def test_enumeration_is_the_integral_over_means_and_weights():
    """A grid over (m1, m2), and the weights by quadrature on (0, 1): it knows nothing of labels."""
    model = MODELS["two"]
    weight = (torch.arange(60, dtype=torch.float64) + 0.5) / 60

    def log_joint(m):
        prior = Normal(0.0, tensor(model.prior_width)).log_prob(m).sum(-1)
        each = Normal(m.unsqueeze(-2), model.width).log_prob(model.x)                             # (..., N, 2)
        mixed = torch.logaddexp(each[..., 0, None] + weight.log(), each[..., 1, None] + torch.log1p(-weight)).sum(-2)
        return prior + mixed.logsumexp(-1) - math.log(60)

    assert model.log_evidence() == pytest.approx(log_evidence(log_joint, [-16, -16], [16, 16], 121), abs=1e-3)


def test_equal_weights_are_the_limit_of_a_large_concentration():
    """The sum of the chapter why-approximate: weights ½, each group's integral written out."""
    x, n, v = X[:, 0], len(X), 9.0
    labels = torch.cartesian_prod(*[tensor(0, 1)] * n)

    def group(members):
        count, total, squares = members.sum(-1), members @ x, members @ x**2
        return -0.5 * count * math.log(2 * math.pi) - 0.5 * torch.log1p(count * v) - 0.5 * (squares - total**2 / (count + 1 / v))

    by_hand = (n * math.log(0.5) + group(labels) + group(1 - labels)).logsumexp(0).item()
    assert GaussianMixture(X, 2, concentration=1e7).log_evidence() == pytest.approx(by_hand, abs=1e-5)


def test_one_observation_has_evidence_in_closed_form():
    """x ~ N(0, s² + σ0²), whatever its label."""
    for k in (1, 2, 5):
        model = GaussianMixture(tensor([1.3, -0.4]), k, width=0.5, prior_width=2.0)
        expected = Normal(tensor(0.0), math.sqrt(0.25 + 4.0)).log_prob(model.x).sum().item()
        assert model.log_evidence() == pytest.approx(expected, abs=1e-10)


def test_far_islands_cost_log_k_factorial():
    """Each of the K! mirror images holds 1/K! of the posterior, and q has one: 60 σ apart nothing else is lost but a little."""
    x = torch.cat([tensor(-30.0, 0.0, 30.0) + shift for shift in (-0.1, 0.0, 0.1)]).unsqueeze(-1)
    model = GaussianMixture(x, 3, prior_width=30.0, concentration=1e6)
    found = coordinate_ascent(model.updates, model.elbo, model.start(40, seeded()))
    gap = model.log_evidence() - found.elbo[-1].max().item()
    assert gap == pytest.approx(math.log(6), abs=1e-3)


def test_the_predictive_density_integrates_to_one_and_is_its_average():
    model = MODELS["three"]
    q = some_q(model, 2)
    grid = torch.linspace(-400, 400, 40_001, dtype=torch.float64).unsqueeze(-1)
    density = model.log_density(q, grid).exp()
    assert density.shape == (2, 40_001)
    torch.testing.assert_close(torch.trapezoid(density, grid[:, 0]), torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)


# ---- shapes, starts, errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_every_batch_and_dtype(batch, dtype):
    model = GaussianMixture(MODELS["plane"].x.to(dtype), 2)
    q = some_q(model, *batch, dtype=dtype)
    assert model.elbo(q).shape == batch and model.elbo(q).dtype == dtype
    for update in model.updates:
        q = update(q)
    assert (q.phi.shape, q.alpha.shape, q.mu.shape, q.sigma.shape) == ((*batch, 6, 2), (*batch, 2), (*batch, 2, 2), (*batch, 2))
    assert {value.dtype for value in vars(q).values()} == {dtype}
    assert model.log_density(q, model.x[:4]).shape == (*batch, 4)
    if batch:                                                           # members of a batch do not see each other
        first = MixtureFactors(*(value[0] for value in vars(some_q(model, *batch, dtype=dtype)).values()))
        torch.testing.assert_close(model.elbo(first), model.elbo(some_q(model, *batch, dtype=dtype))[0])


def test_starts_are_observations_and_repeat_with_the_seed():
    model = MODELS["two"]
    q = model.start(50, seeded(4))
    assert q.mu.shape == (50, 2, 1) and all(value in model.x[:, 0] for value in q.mu.flatten())
    assert (q.mu[:, 0] != q.mu[:, 1]).all() and torch.equal(q.mu, model.start(50, seeded(4)).mu)
    assert torch.isfinite(model.elbo(q)).all()
    with pytest.raises(MissingGenerator):
        model.start(3, None)


def test_more_components_than_observations_is_allowed():
    model = GaussianMixture(X[:2], 4)
    assert model.start(3, seeded()).mu.shape == (3, 4, 1)


def test_what_cannot_be_used_is_refused():
    with pytest.raises(ShapeError, match=r"x: expected floating-point numbers \(N, d\), got .* shape \(5,\).*unsqueeze"):
        GaussianMixture(X[:, 0], 2)
    with pytest.raises(VilibError, match="width, prior_width, concentration: at least 1 and numbers above zero"):
        GaussianMixture(X, 2, width=0.0)
    with pytest.raises(VilibError, match=r"x: 20 observations can be labelled in 2\^20 ways; at most 65,536"):
        GaussianMixture(torch.zeros(20, 1), 2).log_evidence()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda():
    model = GaussianMixture(X.cuda(), 2)
    found = coordinate_ascent(model.updates, model.elbo, model.start(4, torch.Generator("cuda").manual_seed(0)))
    assert found.q.mu.device.type == "cuda" and found.elbo[-1].max() < model.log_evidence()
