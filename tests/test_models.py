"""A reader's function of one draw becomes a density on the real line, or an error that says what to mend."""

import math
import re

import pytest
import torch
from helpers import ESTIMATORS, mean_field, readers_model, seeded, tensor
from torch.distributions import constraints

from vilib import (
    Model, NonFiniteLogJoint, NonScalarLogJoint, NotBatchable, ShapeError, UnsupportedSupport, log_evidence, normal,
)
from vilib.models import evaluate, slope_of, value_and_slope

close = torch.testing.assert_close

SUPPORTS = {
    "real": constraints.real, "positive": constraints.positive, "unit_interval": constraints.unit_interval,
    "interval": constraints.interval(-2.0, 5.0), "greater_than": constraints.greater_than(3.0),
    "less_than": constraints.less_than(-1.0), "nonnegative": constraints.nonnegative,
}
Z = torch.linspace(-3, 3, 7, dtype=torch.float64).unsqueeze(-1)


def assert_pays_for_the_change_of_variables(make, support) -> None:
    """model(z) = log p(θ(z)) + log |dθ/dz|, the derivative taken by autograd.  The missing Jacobian must fail this."""
    log_joint = lambda theta: -0.3 * theta["x"].abs()  # noqa: E731
    model = make(log_joint, {"x": support})
    theta_of = lambda z: model.constrain(z)["x"]  # noqa: E731
    for z in Z:
        slope = torch.autograd.functional.jacobian(theta_of, z).squeeze()
        close(model(z), -0.3 * theta_of(z).abs() + slope.abs().log(), rtol=1e-9, atol=1e-9)


# ---- the change of variables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("support", SUPPORTS.values(), ids=SUPPORTS)
def test_the_log_joint_gains_the_log_jacobian(support):
    assert_pays_for_the_change_of_variables(Model, support)


@pytest.mark.parametrize("support", SUPPORTS.values(), ids=SUPPORTS)
def test_constrain_lands_in_the_support_and_unconstrain_comes_back(support):
    model = Model(lambda theta: theta["x"], {"x": support})
    theta = model.constrain(Z)
    assert support.check(theta["x"]).all()
    close(model.unconstrain(theta), Z)


@pytest.mark.parametrize("density, support", [
    (torch.distributions.Gamma(tensor(3.0)[0], tensor(2.0)[0]), constraints.positive),
    (torch.distributions.Beta(tensor(2.0)[0], tensor(4.0)[0]), constraints.unit_interval),
], ids=["gamma", "beta"])
def test_a_density_still_integrates_to_one(density, support):
    model = Model(lambda theta: density.log_prob(theta["x"]), {"x": support})
    assert log_evidence(model, -20.0, 20.0) == pytest.approx(0, abs=1e-6)


def test_several_parameters_lie_side_by_side_in_the_order_of_supports():
    model = Model(lambda t: -t["beta"].square().sum() - t["sigma"] + t["m"].sum(),
                  {"beta": constraints.real_vector, "sigma": constraints.positive, "m": constraints.real},
                  {"beta": (2,), "m": (2, 2)})
    z = torch.arange(14.0, dtype=torch.float64).reshape(2, 7) / 7
    theta = model.constrain(z)
    assert model.dim == 7 and {k: tuple(v.shape) for k, v in theta.items()} == {"beta": (2, 2), "sigma": (2,), "m": (2, 2, 2)}
    close(theta["beta"], z[:, :2])
    close(theta["sigma"], z[:, 2].exp())
    close(theta["m"].flatten(1), z[:, 3:])
    close(model(z), -z[:, :2].square().sum(-1) - z[:, 2].exp() + z[:, 2] + z[:, 3:].sum(-1))
    close(model.unconstrain(theta), z)


def test_every_element_of_a_parameter_pays_its_own_jacobian():
    vector = Model(lambda theta: -theta["x"].sum(), {"x": constraints.positive}, {"x": (3,)})
    single = Model(lambda theta: -theta["x"], {"x": constraints.positive})
    z = torch.randn(5, 3, generator=seeded(), dtype=torch.float64)
    close(vector(z), single(z.unsqueeze(-1)).sum(-1))


@pytest.mark.parametrize("batch", [(), (5,), (5, 3), (5, 2, 3)], ids=str)
def test_any_batch_is_a_loop_over_draws(batch):
    model = readers_model()
    z = torch.randn((*batch, 2), generator=seeded(), dtype=torch.float64)
    one_by_one = torch.stack([model(draw) for draw in z.reshape(-1, 2)]).reshape(batch)
    close(model(z), one_by_one)
    assert model(z.float()).dtype == torch.float32


def test_batched_skips_vmap_and_gives_the_same():
    one = Model(lambda t: -(t["x"] - 1).square().sum(), {"x": constraints.positive}, {"x": (3,)})
    many = Model(lambda t: -(t["x"] - 1).square().sum(-1), {"x": constraints.positive}, {"x": (3,)}, batched=True)
    z = torch.randn(4, 2, 3, generator=seeded())
    close(one(z), many(z))


# ---- value and slope ------------------------------------------------------------------------------------------------


def test_value_and_slope_by_autograd_are_plain_numbers():
    z = torch.randn(4, 2, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        value, slope = value_and_slope(lambda z: -(z**2).sum(-1), z)
    close(slope, -2 * z)
    assert not value.requires_grad and not slope.requires_grad


@pytest.fixture(params=["by the engine", "as on a torch without it"])
def engine(request, monkeypatch):
    if request.param != "by the engine":
        monkeypatch.setattr("vilib.models._ENGINE", None)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1,), (5, 3), (5, 2, 4, 3)], ids=str)
def test_the_slope_of_values_is_torch_autograd_grad_to_the_last_bit(shape, dtype):
    leaf, weight = torch.randn(shape, generator=seeded(), dtype=dtype).requires_grad_(), torch.ones(shape[-1], dtype=dtype, requires_grad=True)
    values = lambda: (leaf.exp() * weight).sum(-1) + leaf[..., 0].sigmoid() * leaf.square().mean(-1)  # noqa: E731
    expected, = torch.autograd.grad(values().sum(), leaf)
    assert torch.equal(slope_of(values(), leaf), expected)
    assert leaf.grad is None and weight.grad is None                       # nothing is left behind


@pytest.mark.usefixtures("engine")
def test_values_that_do_not_depend_on_the_leaf_have_no_slope_and_say_so():
    leaf, other = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        slope_of(other.exp(), leaf)
    with pytest.raises(RuntimeError, match="does not require grad"):
        slope_of(torch.ones(3), leaf)


@pytest.mark.usefixtures("engine")
def test_a_log_joint_of_trained_parameters_gives_its_slope_in_z_alone():
    weight = torch.tensor([2.0, -1.0], requires_grad=True)                  # a decoder's, say
    value, slope = value_and_slope(lambda z: (z * weight).sum(-1), torch.ones(4, 2))
    assert torch.equal(slope, weight.detach().expand(4, 2)) and not value.requires_grad and weight.grad is None


def test_a_slope_by_hand_is_used_where_there_is_one():
    class Known:
        def __call__(self, z): return z.sum(-1)
        def slope(self, z): return torch.full_like(z, 7.0)

    assert (value_and_slope(Known(), torch.zeros(2, 3))[1] == 7).all()


# ---- what can go wrong: at construction -----------------------------------------------------------------------------


@pytest.mark.parametrize("support, why", [
    (constraints.lower_cholesky, "Build the matrix inside log_joint"), (constraints.positive_definite, "Build the matrix inside"),
    (constraints.corr_cholesky, "Build the matrix inside"), (constraints.nonnegative_integer, "It is discrete.*logsumexp"),
    (constraints.boolean, "It is discrete"), (constraints.one_hot, "It is discrete"), (constraints.interval, "Interval is a class"),
    ("positve", "'positve' is a string.*Did you mean constraints.positive?"), ("order", "Did you mean vilib.ordered?"),
    ("wishart", "'wishart' is a string"), (None, "None is not supported"), (constraints.dependent, "not supported"),
    (constraints.independent(constraints.boolean, 1), "It is discrete"),
], ids=repr)
def test_an_unsupported_support_is_refused_at_construction(support, why):
    with pytest.raises(UnsupportedSupport, match=r"supports\['x'\]: .*not supported.*Use one of .*unit_interval.*ordered") as caught:
        Model(lambda theta: theta["x"], {"x": support}, {"x": (2,)})
    assert re.search(why, str(caught.value)), str(caught.value)


def test_no_supports_and_unknown_shapes_are_refused():
    with pytest.raises(UnsupportedSupport, match="supports: name at least one parameter"):
        Model(lambda theta: 0.0, {})
    with pytest.raises(ShapeError, match=r"shapes: \['sigm'\] not among the supports \['sigma'\]"):
        Model(lambda theta: 0.0, {"sigma": constraints.positive}, {"sigm": (2,)})


# ---- what can go wrong: shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", [torch.zeros(3), torch.zeros(4, 1), torch.tensor(0.0)], ids=lambda z: str(tuple(z.shape)))
def test_draws_of_the_wrong_width_are_named(z):
    with pytest.raises(ShapeError, match=r"z: expected \(\.\.\., 2\) for \['rate', 'shift'\], got"):
        readers_model()(z)


def test_unconstrain_names_what_is_missing_or_misshapen():
    model = Model(lambda t: t["b"].sum(), {"b": constraints.real_vector, "s": constraints.positive}, {"b": (2,)})
    with pytest.raises(ShapeError, match=r"theta: no value for 's'; expected \['b', 's'\], got \['b'\]"):
        model.unconstrain({"b": torch.zeros(2)})
    with pytest.raises(ShapeError, match=r"theta\['b'\]: expected \(\.\.\., \(2,\)\), got \(3,\)"):
        model.unconstrain({"b": torch.zeros(3), "s": torch.tensor(1.0)})


@pytest.mark.parametrize("log_joint, batched, message", [
    (lambda t: t["x"].expand(3), False,
     r"expected one number a draw, got shape \(3,\) for one draw. Sum the log densities of the data: .sum\(\)"),
    (lambda t: t["x"].unsqueeze(-1).expand(-1, 3), True, r"got \(5, 3\). With batched=True keep the first axis"),
    (lambda t: t["x"].sum(), True, r"shape \(5,\) for 5 draws, got \(\)"),
    (lambda t: 1.0, True, "got float"),
    (lambda t: 1.0, False, r"expected a scalar tensor for one draw, got float. Return the tensor itself: not its .item\(\)"),
    (lambda t: None, False, "expected a scalar tensor for one draw, got NoneType. Return the log density"),
])
def test_a_log_joint_that_is_no_number_a_draw_is_refused(log_joint, batched, message):
    with pytest.raises(NonScalarLogJoint, match=f"log_joint: .*{message}"):
        Model(log_joint, {"x": constraints.real}, batched=batched)(torch.zeros(5, 1))


@pytest.mark.parametrize("log_joint, got", [(lambda z: z, r"\(4, 1\)"), (lambda z: z.sum(), r"\(\)"), (lambda z: 3.0, "float")])
def test_a_plain_function_of_z_is_checked_too(log_joint, got):
    message = rf"for z of shape \(4, 1\) expected log densities \(4,\), got {got}. Sum over the last axis"
    with pytest.raises(NonScalarLogJoint, match=message):
        evaluate(log_joint, torch.zeros(4, 1))


# ---- what can go wrong: while it runs -------------------------------------------------------------------------------


def test_python_control_flow_on_a_draw_is_explained():
    def log_joint(theta):
        return -theta["x"] if theta["x"] > 0 else theta["x"]

    with pytest.raises(NotBatchable, match=r"log_joint: runs on one draw, but not on many.*torch says: .*torch.where.*batched=True") as told:
        Model(log_joint, {"x": constraints.real})(torch.ones(3, 1))
    assert "control flow. Use torch.where" in str(told.value), "what torch says without whom to write to"


def test_noise_of_its_own_is_explained():
    with pytest.raises(NotBatchable, match="noise of its own"):
        Model(lambda theta: theta["x"] + torch.randn(()), {"x": constraints.real})(torch.ones(3, 1))


def test_what_the_readers_function_raises_is_what_the_reader_sees():
    def log_joint(theta):
        return theta["sigmma"]

    for batched in (False, True):
        with pytest.raises(KeyError, match="sigmma") as told:
            Model(log_joint, {"sigma": constraints.positive}, batched=batched)(torch.ones(3, 1))
        assert told.value.__notes__ == ["theta holds what supports names: 'sigma'."]
    with pytest.raises(KeyError) as told:                                               # of a dict of the reader's own
        Model(lambda theta: {}[("sigma", 1)], {"sigma": constraints.positive})(torch.ones(3, 1))
    assert told.value.args == (("sigma", 1),)


def test_theta_is_told_in_plain_numbers():
    model = Model(lambda t: (t["x"] - 5).log() + t["v"].sum(), {"x": constraints.positive, "v": constraints.real_vector}, {"v": (2,)})
    with pytest.raises(NonFiniteLogJoint, match=r"returned nan at theta = {'x': 1.0, 'v': tensor\(\[0., 0.\]\)}"):
        model(torch.zeros(3, 3))
    with pytest.raises(ZeroDivisionError):
        Model(lambda theta: theta["x"] * (1 / 0), {"x": constraints.real})(torch.ones(3, 1))
    with pytest.raises(RuntimeError, match="must match the size"):
        Model(lambda theta: (theta["x"] + torch.zeros(3)).sum(), {"x": constraints.real}, {"x": (2,)})(torch.ones(4, 2))


# ---- what can go wrong: numbers -------------------------------------------------------------------------------------


def test_a_log_joint_that_is_not_finite_comes_with_the_theta_that_gave_it():
    data = torch.tensor([1.0, math.nan])
    model = Model(lambda theta: -(data - theta["m"]).square().sum() / theta["s"],
                  {"m": constraints.real, "s": constraints.positive})
    with pytest.raises(NonFiniteLogJoint, match=r"log_joint: returned nan at theta = \{'m': .*0\.5.*'s': .*nan in the data") as caught:
        model(torch.tensor([[0.5, 0.0], [1.5, 0.0]]))
    error = caught.value
    assert math.isnan(error.value) and error.z.tolist() == [0.5, 0.0] and error.theta["s"].item() == 1
    assert "So it is at all 2 draws, whatever theta is." in str(error)
    assert error.replicates.ndim == 0


@pytest.mark.parametrize("bad, mend", [
    (math.nan, "division by zero"), (math.inf, "division by zero"), (-math.inf, "give the parameter its support"),
])
def test_evaluate_names_the_value_the_draw_and_every_problem_that_is_hit(bad, mend):
    z = torch.zeros(4, 3, 1)
    z[2, 1], z[3, 1] = 5.0, 6.0
    with pytest.raises(NonFiniteLogJoint, match=rf"log_joint: returned {bad} at z = \[5.0\]. .*{mend}") as caught:
        evaluate(lambda z: torch.where(z[..., 0] > 1, bad, 0.0), z)
    assert caught.value.replicates.tolist() == [False, True, False] and caught.value.theta is None


def test_a_density_of_zero_passes_the_model_but_not_the_estimators():
    model = Model(lambda t: torch.where(t["x"] > 0, -t["x"], -math.inf), {"x": constraints.real})
    assert model(torch.tensor([-1.0])) == -math.inf
    q = mean_field(dim=1)
    eps = normal(64, (), 1, generator=seeded(), dtype=torch.float64)
    for estimator in ESTIMATORS.values():
        with pytest.raises(NonFiniteLogJoint, match=r"returned -inf at theta = \{'x': .*Its density is zero there") as caught:
            estimator(model, q, eps)
        assert caught.value.theta["x"] < 0


def test_a_sum_that_overflows_over_finite_terms_is_no_error():
    huge = torch.full((4, 1), -3e38)
    assert torch.isinf(huge.sum())
    assert torch.equal(evaluate(lambda z: huge[:, 0], torch.zeros(4, 1)), huge[:, 0])


@pytest.mark.parametrize("far", [math.inf, -1e30, math.nan])
def test_a_draw_that_ran_away_is_not_blamed_on_the_model(far):
    with pytest.raises(NonFiniteLogJoint, match="q has run away. Take a smaller step size"):
        evaluate(lambda z: -z.square().sum(-1), torch.tensor([[0.0], [far]]))
