"""The benchmarks' models are the problems that they are held against, in whichever form they are written."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import seeded

before = list(sys.path)
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import problems
import run
import table
import vilib_models

sys.path[:] = before
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


@pytest.mark.parametrize("sizes", [{}, {"num_data": 10, "dim": 10}, {"num_data": 4, "dim": 10}, {"num_data": 5000, "dim": 1},
                                   {"num_data": 300, "dim": 100}], ids=str)
def test_linear_regression_by_sufficient_statistics_is_linear_regression(sizes):
    """Values and slopes, to rounding; also with no more observations than coefficients."""
    problem = problems.make("linear", **sizes)
    z, whole = draws(problem.dim), vilib_models.log_joint(problem, torch.float64)
    short = vilib_models.log_joint(problem, torch.float64, problems.STATISTICS)
    close(short(z), whole(z), rtol=1e-12, atol=1e-10)
    close(short(z[:, 0]), whole(z)[:, 0], rtol=1e-12, atol=1e-10)
    close(slope(short, z), slope(whole, z), rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("spread", [1.0, 1e3])
def test_it_loses_nothing_in_float32(spread):
    """Even where columns differ by a thousand, its float32 slopes are as near to float64's as those of the long form (within 3 times)."""
    plain = problems.make("linear", num_data=2000, dim=5)
    data = {"x": plain.data["x"] * np.logspace(0, np.log10(spread), 5), "y": plain.data["y"]}
    problem, z = problems.Problem("linear", 5, plain.log_joint, data), draws(5)
    exact = slope(vilib_models.log_joint(problem, torch.float64), z)

    def error(form):
        return (slope(vilib_models.log_joint(problem, form=form), z.float()).double() - exact).abs().mean((0, 1))

    assert (error(problems.STATISTICS) < 3 * error("") + 1e-6 * exact.abs().mean((0, 1))).all()


def test_the_tabulated_logistic_is_the_logistic():
    problem, z = problems.make("logistic"), 3 * draws(1)
    whole, short = vilib_models.log_joint(problem, torch.float64), vilib_models.log_joint(problem, torch.float64, problems.TABULATED)
    close(short(z), whole(z), rtol=0, atol=1e-7)
    close(short.slope(z), slope(whole, z), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="a table has one coefficient, got 3"):
        vilib_models.log_joint(problems.make("logistic", dim=3), form=problems.TABULATED)


def test_the_slope_of_eight_schools_by_hand_is_autograds():
    problem, z = problems.make("eight schools"), 2 * draws(10)
    whole, by_hand = (vilib_models.log_joint(problem, torch.float64, form) for form in ("", problems.SLOPE))
    value, found = by_hand.value_and_slope(z)
    close(value, whole(z), rtol=1e-12, atol=1e-10)
    close(by_hand(z), value, rtol=1e-12, atol=1e-10)
    close(found, slope(whole, z), rtol=1e-11, atol=1e-11)


def test_a_form_that_a_problem_does_not_have_is_refused():
    with pytest.raises(ValueError, match="logistic: it has the forms .*tabulated.*, got 'by sufficient statistics'"):
        vilib_models.log_joint(problems.make("logistic"), form=problems.STATISTICS)


def test_the_table_says_which_form_was_timed():
    statistics, plain = f", {problems.STATISTICS}", table.PLAIN
    linear = {"vilib, 1": 1.0, "vilib, 64": 1.2, "lax.scan, 64": 2.4, "vilib, 64" + plain: 3.0, "lax.scan, 64" + statistics: 1.5}
    logistic = {"vilib, 1": 1.0, "vilib, 64": 1.8, "lax.scan, 64": 3.6, "vilib, 64" + plain: 7.2}
    cases = {name: {"times": {row: {"median": each, "first": each} for row, each in seconds.items()}, "form": form}
             for name, seconds, form in [("linear", linear, problems.STATISTICS), ("logistic", logistic, problems.TABULATED)]}
    cold = {row: {"median": each} for row, each in
            {"import torch": 1.0, f"vilib, {problems.SLOPE}": 1.25, "vilib": 1.5, "NumPyro": 5.0, "Pyro": 6.0}.items()}
    results = {"jobs": {"J3": cases, "cold": {"eight schools": {"times": cold}}}, "repeats": 7,
               "machine": {"versions": {}, "processor": "a machine", "cores": 1, "python": "3", "date": "today"}}
    found = {what: measured for _, what, measured, _, _ in table.checks(results["jobs"])}
    assert found == {
        "linear, by sufficient statistics: 64 fits / one fit": 1.2, "logistic, tabulated: 64 fits / one fit": 1.8,
        "64 fits / one fit, geometric mean": pytest.approx((1.2 * 1.8) ** 0.5),
        "64 fits / vmapped lax.scan, geometric mean": pytest.approx(0.5),
        "the same, both with the same form of the log joint": pytest.approx((0.8 * 2.0) ** 0.5),
        "cold process to first fit, its slope by hand / import torch": 1.25, "the same by autograd / import torch": 1.5,
        "cold process to first fit / NumPyro": pytest.approx(0.3), "cold process to first fit / Pyro": pytest.approx(0.25)}
    text = table.markdown(results)
    assert "but for rows that name another form" in text
    assert "| cold | the same by autograd / import torch | 1.3× | 1.5× ✗ |" in text
    assert "| J3 | linear, by sufficient statistics: 64 fits / one fit | 1.3× | 1.2× ✓ |" in text
    assert "| J3 | 64 fits / one fit, geometric mean | – | 1.47× |" in text
    assert "| J3 | the same, both with the same form of the log joint | – | 1.26× |" in text
    assert "vilib, 64, a term for each observation | 3 s" in text and "| cold, eight schools | vilib | – | 1.5 s |" in text


def test_each_machine_has_its_column():
    def measured(processor, **seconds):
        times = {"import torch": {"median": 1.0}, "NumPyro": {"median": 4.0}, "Pyro": {"median": 4.0}} | {row: {"median": each} for row, each in seconds.items()}
        return {"jobs": {"cold": {"eight schools": {"times": times}}}, "repeats": 7,
                "machine": {"versions": {}, "processor": processor, "cores": 2, "python": "3", "date": "today"}}

    text = table.aims(measured("one", vilib=1.2, **{f"vilib, {problems.SLOPE}": 1.1}), measured("another", vilib=2.4))
    assert "| job | compared | aim: at most | one, 2 cores, today | another, 2 cores, today |\n|---|---|---:|---:|---:|\n" in text
    assert "| cold | cold process to first fit / NumPyro | 0.45× | 0.3× ✓ | 0.6× ✗ |" in text
    assert "| cold | the same by autograd / import torch | 1.3× | 1.2× ✓ | – |" in text


def test_times_of_two_machines_never_mix(tmp_path):
    """A run on another machine puts the last results aside; back on the first, it finds its own again."""
    def write(processor):
        latest.write_text(json.dumps({"jobs": {"J1": processor}, "machine": {"processor": processor}}))
        latest.with_suffix(".md").write_text(processor)

    latest, elsewhere = tmp_path / "latest.json", tmp_path / "elsewhere"
    assert run.earlier(latest, elsewhere, "AMD EPYC") == {"jobs": {}}
    write("AMD EPYC")
    assert run.earlier(latest, elsewhere, "AMD EPYC")["jobs"] == {"J1": "AMD EPYC"}
    assert run.earlier(latest, elsewhere, "Xeon(R) @ 2.5GHz") == {"jobs": {}} and not latest.exists()
    write("Xeon(R) @ 2.5GHz")
    assert run.earlier(latest, elsewhere, "AMD EPYC")["jobs"] == {"J1": "AMD EPYC"} == json.loads(latest.read_text())["jobs"]
    assert latest.with_suffix(".md").read_text() == "AMD EPYC"
    assert sorted(file.name for file in elsewhere.iterdir()) == ["xeon-r-2-5ghz.json", "xeon-r-2-5ghz.md"]
