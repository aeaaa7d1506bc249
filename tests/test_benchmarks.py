"""The benchmarks' models are the problems that they are held against, in whichever form they are written."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import seeded

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import problems
import table
import vilib_models

sys.path.pop(0)
close = torch.testing.assert_close


def slope(log_joint, z):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(log_joint(z).sum(), z)[0]


def draws(dim, dtype=torch.float64):
    return torch.randn(7, 3, dim, generator=seeded(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name, sizes", [
    ("linear", {}), ("linear", {"num_data": 1000, "dim": 1}), ("logistic", {}), ("logistic", {"num_data": 50, "dim": 10}), ("eight schools", {}),
], ids=str)
def test_vilibs_form_is_the_definition_in_numpy(name, sizes):
    problem = problems.make(name, **sizes)
    z = draws(problem.dim)
    close(vilib_models.log_joint(problem, torch.float64)(z), torch.as_tensor(problem.log_joint(z.numpy())), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("sizes", [{}, {"num_data": 10, "dim": 10}, {"num_data": 5000, "dim": 1}, {"num_data": 300, "dim": 100}], ids=str)
def test_linear_regression_by_sufficient_statistics_is_linear_regression(sizes):
    """Values and slopes, to rounding; also N = D, where nothing is left of the residual."""
    problem = problems.make("linear", **sizes)
    z, whole = draws(problem.dim), vilib_models.log_joint(problem, torch.float64)
    short = vilib_models.log_joint(problem, torch.float64, by_statistics=True)
    close(short(z), whole(z), rtol=1e-12, atol=1e-10)
    close(slope(short, z), slope(whole, z), rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("spread", [1.0, 1e3])
def test_it_loses_nothing_in_float32(spread):
    """Even where columns differ by a thousand, its float32 slopes are as near to float64's as those of the long form (within 3 times)."""
    plain = problems.make("linear", num_data=2000, dim=5)
    data = {"x": plain.data["x"] * np.logspace(0, np.log10(spread), 5), "y": plain.data["y"]}
    problem, z = problems.Problem("linear", 5, plain.log_joint, data), draws(5)
    exact = slope(vilib_models.log_joint(problem, torch.float64), z)

    def error(short):
        return (slope(vilib_models.log_joint(problem, by_statistics=short), z.float()).double() - exact).abs().mean((0, 1))

    assert (error(True) < 3 * error(False) + 1e-6 * exact.abs().mean((0, 1))).all()


def test_what_has_no_such_statistics_is_refused():
    with pytest.raises(ValueError, match="logistic: only linear regression has sufficient statistics here"):
        vilib_models.log_joint(problems.make("logistic"), by_statistics=True)
    with pytest.raises(ValueError, match="N ≥ D, got N = 5, D = 10"):
        vilib_models.log_joint(problems.make("linear", num_data=5, dim=10), by_statistics=True)


def test_the_table_says_which_form_was_timed():
    seconds = {"vilib, 1": 1.0, "vilib, 64": 1.2, "lax.scan, 64": 2.4, "vilib, 64" + table.LONG: 3.0, "lax.scan, 64" + table.SHORT: 1.5}
    times = {name: {"median": each, "first": each} for name, each in seconds.items()}
    results = {"jobs": {"J3": {"linear": {"times": times}}}, "repeats": 7,
               "machine": {"versions": {}, "processor": "a machine", "cores": 1, "python": "3", "date": "today"}}
    found = {what: measured for _, what, measured, _, _ in table.checks(results["jobs"])}
    assert found == {
        "linear, by sufficient statistics: 64 fits / one fit": 1.2, "64 fits / vmapped lax.scan, geometric mean": pytest.approx(0.5),
        "the same, lax.scan's linear regression too, by sufficient statistics": pytest.approx(0.8)}
    text = table.markdown(results)
    assert "through its sufficient statistics" in text and "vilib, 64, a term for each observation | 3 s" in text
