"""The book's own explorables, one file each; every function here returns a fresh one, ready to show.

`gradient_variance`, `fit_race` and `advi_lab` take a model of your own in place of the book's: a `vilib.Model`, a function of one draw with
`supports=…`, a function of many draws on the real line with `dim=…`, or a dict of several. See `vilib.own_model.own_model`.
"""

from .advi_lab import advi_lab
from .amortization_gap import amortization_gap
from .control_variate import control_variate
from .elbo_bars import elbo_bars
from .fit_race import fit_race
from .gradient_variance import gradient_variance
from .jacobian import jacobian
from .kl_directions import kl_directions
from .latent_map import latent_map
from .mean_field_ellipse import mean_field_ellipse
from .posterior_three_ways import posterior_three_ways

__all__ = [
    "advi_lab", "amortization_gap", "control_variate", "elbo_bars", "fit_race", "gradient_variance", "jacobian",
    "kl_directions", "latent_map", "mean_field_ellipse", "posterior_three_ways",
]
