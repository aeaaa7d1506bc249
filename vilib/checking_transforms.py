"""Is my transform right?  A marker for maps from the real line to a support, and for their Jacobians.

A map z → θ leaves nothing to chance: autodiff knows its Jacobian at every point, and the way back either returns to z
or does not.  :func:`check_transform` compares both at many points, and where the log-determinant is wrong it looks for
the slip that explains every number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from vilib.checks import Report, described, explanation, failed, raised

#: name -> (what the slip returns instead of log |det J|, given the Jacobian matrices J (N, D, D); what to say about it)
JACOBIAN_SLIPS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "left out": (lambda J: torch.zeros(len(J)).to(J),
        "It is zero everywhere: the Jacobian is left out, and a density that is moved by this map does not keep its "
        "mass (eq:jac-joint)."),
    "sign": (lambda J: -_log_det(J),
        "It has the wrong sign: it is log |det dz/dθ|, of the way back. The two determinants are reciprocals "
        "(eq:jac-reciprocal), so turn the sign."),
    "no log": (lambda J: _log_det(J).exp(),
        "It is |det J| itself: a log density is given the *logarithm*, log |det J|."),
    "log of the inverse": (lambda J: (-_log_det(J)).exp(),
        "It is 1/|det J|: take the logarithm, and the determinant of dθ/dz, not of dz/dθ."),
    "not the absolute value": (lambda J: torch.linalg.det(J).log(),
        "It is the logarithm of det J, which is nan where det J < 0: take the absolute value first."),
    "twice": (lambda J: 2 * _log_det(J), "It is there twice: it is 2 log |det J|."),
    "mean": (lambda J: _log_det(J) / J.shape[-1],
        "It is a mean over the coordinates: volumes multiply, so their logarithms are summed."),
    "trace": (lambda J: J.diagonal(dim1=-2, dim2=-1).sum(-1),
        "It is the sum of the slopes, the trace. Volumes multiply: sum the *logarithms* of the slopes."),
    "diagonal": (lambda J: J.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1),
        "It is the sum of the log slopes on the diagonal of J. That is the determinant of a triangular J alone, and "
        "this one is not triangular."),
    "first coordinate": (lambda J: J[:, 0, 0].abs().log(),
        "It is that of the first coordinate alone: sum over all of them."),
    "without the first": (lambda J: _log_det(J) - J[:, 0, 0].abs().log(),
        "The first coordinate's share is missing from the sum."),
    "without the last": (lambda J: _log_det(J) - J[:, -1, -1].abs().log(),
        "The last coordinate's share is missing from the sum."),
}


def check_transform(
    constrain: Callable[..., Any], unconstrain: Callable[..., Any], log_abs_det_jacobian: Callable[..., Any], *, dim: int = 3,
    support: constraints.Constraint | None = None, num_points: int = 64, tolerance: float = 1e-6, seed: int = 0,
) -> Report:
    """Compare a map z → θ with its way back and its Jacobian by autodiff, and say what is wrong.  (eq:jac-rule-inverse)

    constrain: z (..., D) to θ (..., D); or to (..., D + 1) where its entries add up to a constant, as on a simplex.
    unconstrain: θ to z, the way back.  log_abs_det_jacobian: (z, θ) to log |det dθ/dz| (...), one number for each z.
    dim: D.  support: where θ must lie, a constraint of ``torch.distributions.constraints``, or None.
    num_points: places to look at, drawn from N(0, 1.5²) in float64.  tolerance: the largest difference allowed,
        relative to 1 + size.
    The draws are the check's own: the same seed gives the same report.  A function that raises is reported, not raised.

    >>> check_transform(torch.exp, torch.log, lambda z, theta: z.sum(-1)).passed
    True
    >>> check_transform(torch.exp, torch.log, lambda z, theta: -z.sum(-1)).slip
    'sign'
    """
    z = 1.5 * torch.randn(num_points, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    theta = z                                                             # until there is one
    given = {"constrain": lambda: constrain(z), "unconstrain": lambda: unconstrain(theta),
             "log_abs_det_jacobian": lambda: log_abs_det_jacobian(z, theta)}
    values = {}
    for name, call in given.items():
        try:
            values[name] = call()
        except Exception as error:
            return raised(error, f"on z of shape {tuple(z.shape)}", name)
        if name == "constrain":
            wrong = _theta_is_wrong(values[name], z, constrain, support)
            if wrong is not None:
                return wrong
            theta = values[name].detach()
    jacobian = _jacobian(constrain, z, theta)
    if isinstance(jacobian, Report):
        return jacobian
    wrong = _way_back_is_wrong(values["unconstrain"], z, theta, tolerance)
    if wrong is None:
        wrong = _log_det_is_wrong(values["log_abs_det_jacobian"], log_abs_det_jacobian, z, theta, jacobian, tolerance)
    return _praise(values, z, jacobian) if wrong is None else wrong


def _off(got: Tensor, wanted: Tensor) -> Tensor:
    """The difference relative to 1 + size, elementwise; infinite where ``got`` is no number and ``wanted`` is one."""
    same_gap = got.isnan() & wanted.isnan()
    return torch.where(same_gap, 0.0, ((got - wanted).abs() / (1 + wanted.abs())).nan_to_num(nan=torch.inf))


def _log_det(jacobian: Tensor) -> Tensor:
    return torch.linalg.slogdet(jacobian)[1]


def _numbers(x: Tensor) -> str:
    return f"({', '.join(f'{v:.4g}' for v in x.reshape(-1).tolist())})"


def _theta_is_wrong(
    theta: Any, z: Tensor, constrain: Callable[..., Any], support: constraints.Constraint | None
) -> Report | None:
    size, dim = tuple(z.shape), z.shape[-1]
    if not isinstance(theta, Tensor) or theta.ndim != 2 or theta.shape[0] != len(z):
        return failed("shape of theta", f"constrain returned {described(theta)} for z of shape {size} = (..., D). It maps the last axis "
                       "and leaves the others alone.")
    if theta.shape[-1] not in (dim, dim + 1):
        return failed("shape of theta", f"constrain made {theta.shape[-1]} numbers of {dim}. A change of variables keeps the "
                       "count; only where the entries add up to a constant may θ have one more, since it follows from the "
                       "others (dim says how many z there are).")
    total = theta.sum(-1)
    if theta.shape[-1] == dim + 1 and bool(_off(total, total[:1]).max() > 1e-9):
        return failed("not a simplex", f"constrain made {dim + 1} numbers of {dim}, and they do not add up to a constant: "
                       f"their sums run from {total.min():.4g} to {total.max():.4g}.")
    if not theta.isfinite().all():
        at = int((~theta.isfinite()).any(-1).nonzero()[0])
        return failed("not finite", f"constrain made {_numbers(theta[at])} of z = {_numbers(z[at])}.")
    if bool(_off(constrain(z[:1]), theta[:1]).max() > 1e-9):
        return failed("leak", "The first point comes out differently alone than among the rest: work along the last axis "
                       "only, .sum(-1), .cumsum(-1).")
    if support is not None:
        inside = support.check(theta)
        inside = inside if inside.ndim == 1 else inside.all(-1)
        if not inside.all():
            at = int((~inside).nonzero()[0])
            return failed("support", f"constrain leaves the support {support!r}: z = {_numbers(z[at])} goes to "
                           f"{_numbers(theta[at])}.")
    return None


def _jacobian(constrain: Callable[..., Any], z: Tensor, theta: Tensor) -> Tensor | Report:
    """dθ/dz (N, D, D) by autodiff; of a simplex the last entry of θ is left out."""
    dim = z.shape[-1]
    leaf = z.clone().requires_grad_()
    moved = constrain(leaf)
    if not moved.requires_grad:
        return failed("no gradient", "Autodiff cannot follow constrain: write it in torch, without .item(), .numpy() or .detach().")
    rows = [torch.autograd.grad(moved[:, i].sum(), leaf, retain_graph=True)[0] for i in range(dim)]
    jacobian = torch.stack(rows, -2)
    flat = ~(_log_det(jacobian) > -100)
    if flat.any():
        at = int(flat.nonzero()[0])
        return failed("flat", f"The map is not invertible: at z = {_numbers(z[at])}, θ = {_numbers(theta[at])}, the "
                       "determinant of its Jacobian is zero, so it squeezes a volume to nothing.")
    return jacobian


def _way_back_is_wrong(back: Any, z: Tensor, theta: Tensor, tolerance: float) -> Report | None:
    if not isinstance(back, Tensor) or back.shape != z.shape:
        return failed("shape of z", f"unconstrain returned {described(back)} for θ of shape {tuple(theta.shape)}; expected "
                       f"{tuple(z.shape)}, one number for each of z.")
    off = _off(back.detach(), z)
    if off.max() <= tolerance:
        return None
    at = int(off.max(-1).values.argmax())
    facts = (f"z = {_numbers(z[at])} goes to θ = {_numbers(theta[at])}, and unconstrain takes that to "
             f"{_numbers(back[at])}.")
    good = (off.max(0).values <= tolerance).tolist()
    if not any(good):
        return failed("way back", "unconstrain is not the way back.", facts)
    names = [f"z[{i}]" for i, right in enumerate(good) if right]
    return failed("way back", f"unconstrain is not the way back. Of z[0] … z[{len(good) - 1}] only {', '.join(names)} "
                   f"{'comes' if len(names) == 1 else 'come'} back.", facts)


def _log_det_is_wrong(log_det: Any, function: Callable[..., Any], z: Tensor, theta: Tensor, jacobian: Tensor,
                      tolerance: float) -> Report | None:
    exact = _log_det(jacobian)
    fits = lambda got, wanted: bool(_off(got.detach().double(), wanted).max() <= tolerance)  # noqa: E731
    if not isinstance(log_det, Tensor) or log_det.shape != exact.shape:
        words = (f"log_abs_det_jacobian returned {described(log_det)} for z of shape {tuple(z.shape)}; expected {tuple(exact.shape)}, one "
                 "number for each z. ")
        if isinstance(log_det, Tensor) and log_det.shape == z.shape:
            right = fits(log_det.sum(-1), exact)
            words += "It is one number a coordinate: sum over the last axis, .sum(-1)."
            return failed("not summed", words + (" Then it is right." if right else ""))
        advice = "It summed over the points too: .sum(-1)." if isinstance(log_det, Tensor) and log_det.ndim == 0 else ""
        return failed("shape of the log-determinant", words + advice)
    if fits(log_det, exact):
        return None
    off = _off(log_det.detach().double(), exact)
    at = int(off.argmax())
    facts = f"At z = {_numbers(z[at])} it is {log_det[at].item():.4g}; the Jacobian by autodiff has log |det J| = {exact[at]:.4g}."
    way_back = "The map and the way back are right; log_abs_det_jacobian is not."
    found = explanation(JACOBIAN_SLIPS, lambda predict: fits(log_det, predict(jacobian)))
    if found is not None:
        return failed(*found, facts, way_back)
    if _swapped(function, z, theta, exact, fits):
        return failed("arguments", "Its two arguments are the wrong way round: it is called with (z, θ), in this order.",
                       facts, way_back)
    shift = (log_det.detach() - exact).mean()
    if fits(log_det, exact + shift):
        return failed("constant", f"It is off by {shift:.4g} everywhere. No optimum moves, but every density is wrong by "
                       "that factor, and so is the evidence.", facts, way_back)
    return failed(None, facts, way_back, "No single slip that we know explains all the numbers.")


def _swapped(function: Callable[..., Any], z: Tensor, theta: Tensor, exact: Tensor, fits: Callable[..., Any]) -> bool:
    try:
        turned = function(theta, z)
        return isinstance(turned, Tensor) and turned.shape == exact.shape and fits(turned, exact)
    except Exception:
        return False


def _praise(values: dict[str, Tensor], z: Tensor, jacobian: Tensor) -> Report:
    exact = _log_det(jacobian)
    back = _off(values["unconstrain"].detach(), z).max()
    det = _off(values["log_abs_det_jacobian"].detach().double(), exact).max()
    return Report(True, (
        f"At {len(z)} points in {z.shape[-1]} dimension{'s' * (z.shape[-1] > 1)} the way back returns to z (to {back:.0e}), "
        f"and the log-determinant is that of the Jacobian by autodiff (to {det:.0e}).",
        f"log |det J| runs from {exact.min():.3g} to {exact.max():.3g}."))
