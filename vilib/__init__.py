"""vilib: black-box variational inference, small enough to read.

Numbers flow one way: model and family → estimator → fit or replicates.  Start with ``estimators.py``; the shape law that all
of it keeps stands at the top of ``types.py``.
"""

from vilib.checking import BiasedEstimator, Report, assert_unbiased, check_unbiased
from vilib.checking_mcmc import check_metropolis
from vilib.control_variates import constant_baseline, cross_fitted_coefficient, leave_one_out_mean, other_half_mean
from vilib.draws import Draws, per_draw, value_and_gradient
from vilib.estimators import (
    leave_one_out, optimal_coefficient, pathwise, pathwise_expectation, score_function, score_function_expectation,
    score_function_mean_baseline, score_function_with, sticking_the_landing, total_derivative, value_of,
)
from vilib.examples import (
    Cost, Example, coin_toss, correlated_gaussian, cosine_cost, exponential_cost, gaussian_target, kidiq, logistic_one_coefficient,
    quadratic_cost, two_component_mixture,
)
from vilib.families import FullRankGaussian, MeanFieldGaussian
from vilib.fit import Fit, Optimizer, adagrad, adam, fit, rmsprop, robbins_monro, sgd
from vilib.laplace import Laplace, laplace
from vilib.mcmc import Chains, metropolis, metropolis_step
from vilib.models import Model
from vilib.nested import gradient_from_draws, nested_gradients, nested_study
from vilib.noise import antithetic, normal, sobol
from vilib.quadrature import (
    Moments, additive_moments, best_gaussian, exact_elbo, exact_gradient, expectation, gauss_hermite, log_evidence,
    moments, posterior_density, trapezoid,
)
from vilib.replicates import GradientSummary, gradient_replicates, summarize
from vilib.types import (
    AllFitsFailed, DependentDraws, GeneratorDeviceError, MissingGenerator, NoMode, NonFiniteLogJoint, NonScalarLogJoint,
    NotBatchable, NotReparameterizable, ShapeError, UnsupportedSupport, VilibError,
)

__version__ = "0.1.0"

__all__ = [
    # models and families
    "Model", "Example", "Cost", "MeanFieldGaussian", "FullRankGaussian",
    "quadratic_cost", "cosine_cost", "exponential_cost", "gaussian_target", "correlated_gaussian",
    "logistic_one_coefficient", "coin_toss", "two_component_mixture", "kidiq",
    # noise
    "normal", "antithetic", "sobol",
    # estimators and baselines
    "score_function_expectation", "pathwise_expectation", "value_of",
    "score_function", "score_function_with", "score_function_mean_baseline", "leave_one_out", "optimal_coefficient",
    "pathwise", "total_derivative", "sticking_the_landing",
    "constant_baseline", "other_half_mean", "leave_one_out_mean", "cross_fitted_coefficient",
    # many gradients
    "gradient_replicates", "summarize", "GradientSummary", "per_draw", "Draws", "value_and_gradient",
    "nested_gradients", "nested_study", "gradient_from_draws",
    # fits
    "fit", "Fit", "Optimizer", "sgd", "rmsprop", "adagrad", "adam", "robbins_monro",
    # the neighbours of variational inference
    "laplace", "Laplace", "metropolis", "metropolis_step", "Chains",
    # exact answers
    "expectation", "exact_gradient", "exact_elbo", "moments", "Moments", "additive_moments", "best_gaussian",
    "log_evidence", "posterior_density", "trapezoid", "gauss_hermite",
    # checks and errors
    "check_unbiased", "assert_unbiased", "check_metropolis", "Report", "BiasedEstimator",
    "VilibError", "ShapeError", "NonScalarLogJoint", "NonFiniteLogJoint", "UnsupportedSupport", "NotBatchable",
    "MissingGenerator", "GeneratorDeviceError", "NotReparameterizable", "DependentDraws", "AllFitsFailed", "NoMode",
]
