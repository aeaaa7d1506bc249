"""Is my model right?  A marker for models that a reader writes down.

The right model is known, as a sum of terms: one log density for each prior, one for the data.  At many values of the parameters the
reader's log density minus the right one is a number.  If it is zero, or one constant, the model is right.  If it is a combination of the
terms, of log |det J| and of a constant, the coefficients say what happened: −1 a term left out, +1 counted twice, 1/N − 1 a mean in
place of a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor
from torch.distributions import constraints

from vilib.checks import Report, failed, raised
from vilib.models import Model
from vilib.noise import normal


def check_model(
    model: Model, terms: Mapping[str, Callable[[dict[str, Tensor]], Tensor]], supports: Mapping[str, constraints.Constraint],
    shapes: Mapping[str, tuple[int, ...]] | None = None, *,
    num_observations: int = 1, seed: int = 0,
) -> Report:
    """Compare ``model`` with the model whose log joint is the sum of ``terms``, and say in words what is wrong.

    terms: name -> function of one draw {name: tensor} -> scalar, as "the prior of sigma" or "the likelihood".  supports, shapes: of the
    right model, as for :class:`vilib.models.Model`.  num_observations: N, to tell a mean over the data from a sum.
    A constant left out passes, and is said: the posterior is right, the ELBO is not.  A model that raises is reported, not raised.

    >>> from torch.distributions import Exponential, constraints
    >>> terms = {"the prior of rate": lambda t: -t["rate"], "the likelihood": lambda t: 3 * t["rate"].log() - 5 * t["rate"]}
    >>> mine = Model(lambda t: 3 * t["rate"].log() - 5 * t["rate"], {"rate": constraints.positive})
    >>> check_model(mine, terms, {"rate": constraints.positive}).slip
    'the prior of rate missing'
    """
    right = Model(lambda theta: cast(Tensor, sum(term(theta) for term in terms.values())), supports, shapes)
    if not isinstance(model, Model):
        return failed("no Model", f"Expected a vilib.Model, got {type(model).__name__}: wrap your function, Model(log_joint, supports, shapes).")
    named = _wrong_names(model, right)
    if named is not None:
        return named
    z = 1.5 * normal(400, (), right.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    theta = right.constrain(z)
    for name, support in right.supports.items():
        if repr(model.supports[name]) != repr(support):
            return failed("support", f"{name} lives on {support!r}, and you say {model.supports[name]!r}. Draws of q land wherever the support lets "
                          "them: where the density is zero or undefined the ELBO is −∞, and where it is not, you have another model.")
    try:
        mine = model(z) - model._constrain(z)[1]                                          # what the reader's function returned
    except Exception as error:
        return raised(error, f"on z of shape {tuple(z.shape)}")
    if bool((mine == -torch.inf).any()):
        where = {name: value[mine == -torch.inf][0].tolist() for name, value in theta.items()}
        return failed("zero density", f"It returns −inf at {where}, {(mine == -torch.inf).double().mean():.0%} of the places tried, where the right "
                      "density is positive. One such draw makes the ELBO −∞.")
    columns = {name: torch.func.vmap(term)(theta).double() for name, term in terms.items()}
    for name in model.shapes:
        if not _uses(model, theta, name):
            return failed("unused", f"{name} is declared, but the log joint does not change with it. Its posterior has no end, or is the "
                          "uniform on its support. Did you forget its prior, or use another variable in its place?")
    return _explained(mine - sum(columns.values()), columns, right._constrain(z)[1], num_observations)


def _wrong_names(model: Model, right: Model) -> Report | None:
    missing, extra = sorted(right.shapes.keys() - model.shapes.keys()), sorted(model.shapes.keys() - right.shapes.keys())
    if missing or extra:
        parts = [f"{what} {', '.join(names)}" for what, names in (("without", missing), ("with an unknown", extra)) if names]
        return failed("names", f"The supports name {sorted(model.shapes)}, {' and '.join(parts)}. Expected {sorted(right.shapes)}.")
    for name, shape in right.shapes.items():
        if model.shapes[name] != shape:
            return failed("shape", f"One draw of {name} has shape {shape}, and you say {model.shapes[name]}. Give it in shapes={{{name!r}: {shape}}}.")
    return None


def _uses(model: Model, theta: dict[str, Tensor], name: str) -> bool:
    """Whether the reader's function changes when this parameter alone goes to that of another draw."""
    moved = theta | {name: theta[name].roll(1, 0)}
    here, there = (model._run(values, len(theta[name])) for values in (theta, moved))
    return bool((here - there).abs().max() > 1e-9)


def _explained(difference: Tensor, columns: dict[str, Tensor], log_jacobian: Tensor, num_observations: int) -> Report:
    """The difference as a combination of the terms, log |det J| and a constant."""
    size_at = 1 + cast(Tensor, sum(column.abs() for column in columns.values()))              # round-off goes with the place
    flat = lambda rest: bool(((rest - rest.median()).abs() <= 1e-6 * size_at).all())  # noqa: E731
    if bool((difference.abs() <= 1e-6 * size_at).all()):
        return Report(True, (f"At {len(difference)} places its log density is the right one, to {difference.abs().max():.1g} nats.",))
    if flat(difference):
        level = difference.median().item()
        return Report(True, (f"The posterior is right. The log joint is {abs(level):.4f} nats too {'high' if level > 0 else 'low'} everywhere: a "
                             "constant is left out, or too much, so the ELBO is no bound on log p(x) that others could compare.",), "constant")
    columns = columns | {"log |det J|": log_jacobian.double().expand_as(difference)}
    for name, column in columns.items():
        for value in (-1.0, 1.0, 1 / num_observations - 1):
            said = _said(name, value, num_observations)
            if said is not None and flat(difference - value * column):
                return failed(*said)
    design = torch.stack([*columns.values(), torch.ones_like(difference)], -1) / size_at.unsqueeze(-1)
    size = design.abs().amax(0).clamp_min(1e-300)
    found = torch.linalg.lstsq(design / size, (difference / size_at).double().unsqueeze(-1), driver="gelsd").solution[:, 0] / size
    if (design @ found - difference / size_at).abs().max() < 1e-6:
        times = {name: value + (name != "log |det J|") for name, value in zip(columns, found.tolist())}
        shares = ", ".join(f"{value:.3g} × {name}" for name, value in times.items())
        return failed("weights", f"It is {shares}, where each term should count once and log |det J| not at all.")
    worst = int((difference - difference.median()).abs().argmax())
    return failed(None, f"Its log density is not the right one, by up to {(difference - difference.median())[worst].abs():.3g} nats beyond a constant, "
                  "and no slip that we know explains it. Look at each term alone: the arguments of its distribution, and standard deviation against "
                  "variance.")


def _said(name: str, value: float, num_observations: int) -> tuple[str, str] | None:
    """What it means that this term counts ``value`` times more than it should."""
    if name == "log |det J|":
        return {1.0: ("Jacobian twice", "You added log |det J| by hand. Model does that itself: write the density of the parameters as they stand on "
                      "paper, and nothing of the map."),
                -1.0: ("Jacobian taken out", "You subtracted log |det J|, which Model adds: together there is none. Leave it to Model.")}.get(value)
    capital = name[0].upper() + name[1:]
    if value == -1.0:
        return f"{name} missing", f"{capital} is missing from the sum."
    if value == 1.0:
        return f"{name} twice", f"{capital} is counted twice."
    return "mean for sum", (f"{capital} counts 1/{num_observations}: you take the mean over the data where the log densities of all of them are summed. "
                            "The posterior of one typical observation is much too wide.")
