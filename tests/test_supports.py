"""Each support's map: its log-determinant by autograd, the way there and back, and what is refused."""

import math

import pytest
import torch
from helpers import seeded, tensor
from test_models import assert_pays_for_the_change_of_variables
from torch.distributions import Dirichlet, biject_to, constraints

from vilib import Model, OrderedTransform, ShapeError, SimplexTransform, UnsupportedSupport, VilibError, log_evidence, ordered
from vilib.supports import bijection

close = torch.testing.assert_close

SCALARS = {
    "real": constraints.real, "positive": constraints.positive, "nonnegative": constraints.nonnegative,
    "unit_interval": constraints.unit_interval, "interval": constraints.interval(-2.0, 5.0),
    "half_open_interval": constraints.half_open_interval(0.0, 3.0), "greater_than": constraints.greater_than(3.0),
    "greater_than_eq": constraints.greater_than_eq(-1.0), "less_than": constraints.less_than(-1.0),
}
VECTORS = {"simplex": constraints.simplex, "ordered": ordered, "real_vector": constraints.real_vector}
CASES = {
    **{f"{name}{shape}": (support, shape) for name, support in SCALARS.items() for shape in [(), (3,), (2, 3)]},
    **{f"{name}{shape}": (support, shape) for name, support in VECTORS.items() for shape in [(2,), (4,), (2, 3), (2, 2, 3)]},
    "independent positive": (constraints.independent(constraints.positive, 1), (3,)),
    "independent simplex": (constraints.independent(constraints.simplex, 1), (2, 3)),
    "twice independent": (constraints.independent(constraints.independent(constraints.unit_interval, 1), 1), (2, 2)),
    "bounds of their own": (constraints.interval(tensor(0.0, -5.0), tensor(1.0, 5.0)), (2,)),
}
each_case = pytest.mark.parametrize("support, shape", CASES.values(), ids=CASES)


def draws(part, *batch, scale=1.0, dtype=torch.float64):
    return scale * torch.randn((*batch, part.size), generator=seeded(3), dtype=torch.float64).to(dtype)


def assert_log_determinant_is_autograds(part, z) -> None:
    """θ's free coordinates against z: of a simplex the last entry is left out, since it follows from the others."""
    free = (slice(None),) * (len(part.shape) - 1) + (slice(None, -1),) if part.free_shape != part.shape else ()
    theta_of = lambda z: part.constrain(z)[0][free].flatten()  # noqa: E731
    jacobian = torch.autograd.functional.jacobian(theta_of, z)
    close(part.constrain(z)[1], torch.linalg.slogdet(jacobian)[1], rtol=1e-9, atol=1e-9)


# ---- the map --------------------------------------------------------------------------------------------------------


@each_case
def test_the_log_determinant_is_that_of_the_jacobian(support, shape):
    part = bijection("x", support, shape)
    for z in draws(part, 5, scale=1.5):
        assert_log_determinant_is_autograds(part, z)


@each_case
def test_shapes_batches_and_the_way_back(support, shape):
    part = bijection("x", support, shape)
    z = draws(part, 2, 3)
    theta, log_det = part.constrain(z)
    assert theta.shape == (2, 3, *shape) and log_det.shape == (2, 3) and part.support.check(theta).all()
    close(part.unconstrain(theta), z)
    one_by_one = [part.constrain(each) for each in z.reshape(6, -1)]
    close(theta.reshape(6, *shape), torch.stack([value for value, _ in one_by_one]))
    close(log_det.reshape(6), torch.stack([value for _, value in one_by_one]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_case
def test_far_out_it_is_finite_inside_and_comes_back_to_the_same_theta(support, shape, dtype):
    """At |z| = 30 rounding swallows some of z, but θ stays strictly inside, and unconstrain answers with a z that gives it."""
    part = bijection("x", support, shape)
    z = torch.sign(draws(part, 8, dtype=dtype)) * torch.linspace(20, 30, 8, dtype=dtype).unsqueeze(-1)
    theta, log_det = part.constrain(z)
    assert theta.dtype == log_det.dtype == dtype and theta.isfinite().all() and log_det.isfinite().all()
    lower, upper = getattr(part.support, "lower_bound", -math.inf), getattr(part.support, "upper_bound", math.inf)
    assert (theta > lower).all() and (theta < upper).all()
    again = part.unconstrain(theta) if part.support is not ordered else z                 # steps of e⁻³⁰ on e³⁰ are lost: see below
    assert again.isfinite().all()
    close(part.constrain(again)[0], theta, rtol=1e-4 if dtype == torch.float32 else 1e-12, atol=1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("far", [-1000.0, -120.0, 120.0, 1000.0])
@pytest.mark.parametrize("name", ["positive", "unit_interval", "interval", "greater_than", "less_than", "simplex"])
def test_beyond_the_numbers_there_are_theta_still_has_a_logarithm(name, far, dtype):
    """e^{−120} is no float32 and e^{1000} no float64, yet θ stays finite and off the edge, and the log-determinant right."""
    support = {**SCALARS, **VECTORS}[name]
    part = bijection("x", support, (3,))
    z = torch.full((part.size,), far, dtype=dtype)
    theta, log_det = part.constrain(z)
    assert theta.isfinite().all() and log_det.isfinite() and part.unconstrain(theta).isfinite().all()
    assert (theta > getattr(support, "lower_bound", -math.inf)).all() and (theta < getattr(support, "upper_bound", math.inf)).all()
    if name in ("positive", "greater_than", "less_than"):
        close(log_det, 3 * z[0])
    if name == "unit_interval":
        close(log_det, -3 * z[0].abs())
    if name == "simplex":
        assert (theta > 0).all()
        exact = bijection("x", support, (3,)).transform.log_abs_det_jacobian(z.double(), theta.double())
        close(log_det.double(), exact, rtol=1e-5, atol=1e-5)


def test_the_simplex_is_torchs_with_its_tails_mended():
    z = draws(bijection("x", constraints.simplex, (5,)), 100, scale=2.0)
    ours, theirs = SimplexTransform(), biject_to(constraints.simplex)
    close(ours(z), theirs(z), rtol=1e-9, atol=1e-12)
    close(ours.log_abs_det_jacobian(z, ours(z)), theirs.log_abs_det_jacobian(z, theirs(z)), rtol=1e-9, atol=1e-9)
    close(ours.inv(ours(z)), theirs.inv(theirs(z)), rtol=1e-7, atol=1e-7)
    far = torch.tensor([60.0, 60.0], dtype=torch.float64)              # θ_2 = s(−60) s(60): torch clips it to 2e-16
    close(ours(far)[1].log(), torch.nn.functional.logsigmoid(-(far[0] - math.log(2))), rtol=1e-12, atol=0)


def test_ordered_comes_back_as_far_as_rounding_lets_it():
    transform = OrderedTransform()
    z = tensor([-5.0, 3.0, -8.0, 12.0], [1e6, -3.0, 0.0, 2.0])
    close(transform.inv(transform(z)), z, rtol=1e-5, atol=1e-5)
    assert transform == OrderedTransform() and transform != SimplexTransform()
    assert ordered.check(tensor([1.0, 2.0], [2.0, 1.0], [1.0, 1.0])).tolist() == [True, False, False]
    tie = transform(tensor(1.0, -50.0))                                                  # 1 + e⁻⁵⁰ is 1
    assert transform.inv(tie).isfinite().all()


@pytest.mark.parametrize("support", SCALARS.values(), ids=SCALARS)
def test_a_model_of_it_pays_for_the_change_of_variables(support):
    assert_pays_for_the_change_of_variables(Model, support)


def test_densities_on_a_simplex_and_on_ordered_pairs_integrate_to_one():
    dirichlet = Dirichlet(tensor(2.0, 3.0))
    model = Model(lambda theta: dirichlet.log_prob(theta["p"]), {"p": constraints.simplex}, {"p": (2,)})
    assert model.dim == 1 and log_evidence(model, -20.0, 20.0) == pytest.approx(0, abs=1e-6)
    pair = Model(lambda theta: math.log(2) - 0.5 * theta["m"].square().sum() - math.log(2 * math.pi), {"m": ordered}, {"m": (2,)})
    first, second = torch.meshgrid(*[torch.linspace(-9, 9, 721, dtype=torch.float64)] * 2, indexing="ij")
    cell = (18 / 720) ** 2                                                              # two sorted standard normals
    assert (pair(torch.stack([first, second], -1)).exp().sum() * cell).item() == pytest.approx(1, abs=1e-3)


def test_parts_of_different_free_size_lie_side_by_side():
    model = Model(lambda t: t["p"].log().sum() + t["m"].sum() - t["s"],
                  {"p": constraints.simplex, "m": ordered, "s": constraints.positive}, {"p": (2, 3), "m": (2,)})
    z = torch.randn(4, 7, generator=seeded(), dtype=torch.float64)
    theta = model.constrain(z)
    assert model.dim == 7 and {k: tuple(v.shape) for k, v in theta.items()} == {"p": (4, 2, 3), "m": (4, 2), "s": (4,)}
    close(model.unconstrain(theta), z)
    close(theta["p"].sum(-1), torch.ones(4, 2, dtype=torch.float64))
    by_hand = theta["p"].log().sum((1, 2)) + theta["m"].sum(-1) - theta["s"] + z[:, 6] + z[:, 5]
    by_hand = by_hand + SimplexTransform().log_abs_det_jacobian(z[:, :4].reshape(4, 2, 2), None).sum(-1)
    close(model(z), by_hand)


# ---- mutants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, mutant", [
    ("simplex", lambda self, z, theta: theta[..., :-1].log().sum(-1)),                    # forgets s(−t)
    ("simplex", lambda self, z, theta: torch.zeros_like(z[..., 0])),
    ("ordered", lambda self, z, theta: z.sum(-1)),                                        # θ_1 = z_1 costs nothing
    ("ordered", lambda self, z, theta: theta.diff(dim=-1).sum(-1)),                       # forgets the logarithm
])
def test_a_wrong_log_determinant_is_noticed(monkeypatch, name, mutant):
    part = bijection("x", VECTORS[name], (4,))
    monkeypatch.setattr(type(part.transform), "log_abs_det_jacobian", mutant)
    with pytest.raises(AssertionError):
        assert_log_determinant_is_autograds(part, draws(part, 1)[0])


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("support, shape, message", [
    (constraints.simplex, (), r"shapes\['x'\]: Simplex\(\) needs at least 1 axis of its own, got the shape \(\)"),
    (ordered, (), r"shapes\['x'\]: vilib.ordered needs at least 1 axis"), (constraints.real_vector, (), "needs at least 1 axis"),
    (constraints.independent(constraints.simplex, 1), (3,), "needs at least 2 axis"),
    (constraints.simplex, (1,), "a simplex has at least two parts"), (constraints.positive, (0,), "leaves nothing to infer"),
])
def test_a_support_without_its_axis_is_refused(support, shape, message):
    with pytest.raises(ShapeError, match=message):
        Model(lambda theta: theta["x"], {"x": support}, {"x": shape})


@pytest.mark.parametrize("support", [
    constraints.interval(2.0, 1.0), constraints.interval(0.0, math.inf), constraints.interval(1.0, 1.0), constraints.greater_than(math.nan),
], ids=repr)
def test_bounds_that_leave_no_room_are_refused(support):
    with pytest.raises(UnsupportedSupport, match=r"supports\['x'\]: .*its lower bound must be below.*use greater_than\(a\)"):
        bijection("x", support)


@pytest.mark.parametrize("support, value", [
    (constraints.positive, -1.0), (constraints.unit_interval, 1.5), (constraints.simplex, [0.5, 0.6]), (ordered, [2.0, 1.0]),
    (constraints.real, math.nan),
], ids=repr)
def test_a_value_outside_of_its_support_is_refused(support, value):
    value = torch.tensor(value)
    model = Model(lambda theta: theta["x"].sum(), {"x": support}, {"x": tuple(value.shape)})
    with pytest.raises(VilibError, match=r"theta\['x'\]: .* is not inside its support.*not on its edge"):
        model.unconstrain({"x": value})


def test_whole_numbers_are_taken_as_numbers():
    model = Model(lambda theta: -theta["x"], {"x": constraints.positive})
    close(model.unconstrain({"x": 2}), torch.tensor([math.log(2)]))
