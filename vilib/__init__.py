"""vilib: black-box variational inference, small enough to read.

Numbers flow one way: model and family → estimator → fit or replicates.  Start with ``estimators.py``; the shape law that all
of it keeps stands at the top of ``types.py``.
"""

from vilib.advi import Posterior, advi
from vilib.along import Along, along, path_or_gaps, steps_to_within
from vilib.amortization_gap import AmortizationGap, amortization_gap, data_log_evidence
from vilib.amortized import (
    VAE, DataLogJoint, analytic_kl, expected_log_prior, kl_to_standard_normal, mlp_vae, with_model_gradient,
)
from vilib.baseline_checking import check_leave_one_out
from vilib.bound import ElboTerms, elbo_terms, log_weights_at
from vilib.cavi import (
    Ascent, closest_mean_field, closest_mean_field_forward, coordinate_ascent, gaussian_of, gaussian_updates, precision_of,
    update_gaussian_factor, weight_tail,
)
from vilib.cavi_checking import check_coordinate_update
from vilib.checking import BiasedEstimator, assert_unbiased, check_unbiased
from vilib.checking_mcmc import check_metropolis
from vilib.checking_model import check_model
from vilib.checking_slope import check_slope
from vilib.checking_transforms import check_transform
from vilib.checks import Report
from vilib.control_variates import (
    FactorizedLogJoint, constant_baseline, cross_fitted_coefficient, effective_sample_size, leave_one_out_mean,
    log_importance_weights, other_half_mean,
)
from vilib.datasets import digits
from vilib.diagnostics import elbo_estimate, log_weights, pareto_k, pareto_k_of
from vilib.digit_vae import digit_vae, train_digit_vae
from vilib.discrete import FactorizedBernoulli, FactorizedCategorical
from vilib.distribution_functions import DistributionFunction
from vilib.divergences import (
    StationaryPoint, forward_kl, gaussian_kl, moment_matched_gaussian, monte_carlo_forward_kl, monte_carlo_kl,
    monte_carlo_kl_k3, reverse_kl, stationary_gaussians,
)
from vilib.draws import Draws, per_draw, value_and_gradient
from vilib.elbo_checking import check_elbo
from vilib.encoder_checking import check_encoder, check_gap
from vilib.estimators import (
    leave_one_out, optimal_coefficient, pathwise, pathwise_expectation, rao_blackwell, rao_blackwell_leave_one_out,
    reweighted_score_function, score_function, score_function_expectation, score_function_mean_baseline, score_function_with,
    self_normalized_score_function, sticking_the_landing, total_derivative, value_of,
)
from vilib.examples import (
    Cost, Example, coin_toss, correlated_gaussian, cosine_cost, eight_schools, exponential_cost, gaussian_target,
    gumbel_target, kidiq, logistic_one_coefficient, quadratic_cost, two_component_mixture,
)
from vilib.families import FullRankGaussian, MeanFieldGaussian
from vilib.fit import Fit, Optimizer, adagrad, adam, fit, rmsprop, robbins_monro, sgd
from vilib.iwae import doubly_reparameterized, iwae
from vilib.joint_moments import JointMoments, joint_moments
from vilib.kl_checking import check_kl
from vilib.kl_noise import LogRatioMoments, log_ratio_moments
from vilib.laplace import Laplace, laplace
from vilib.linear_vae import PPCA, LinearVAE, ppca
from vilib.mcmc import Chains, metropolis, metropolis_step
from vilib.mixture import GaussianMixture, MixtureFactors
from vilib.models import Model
from vilib.nested import gradient_from_draws, nested_gradients, nested_study
from vilib.networks import BernoulliDecoder, Encoder, GaussianDecoder, mlp
from vilib.noise import antithetic, normal, sobol
from vilib.one_unknown import coin, gaussian_mean, hidden_sign, standard_normal_prior
from vilib.quadrature import (
    Moments, additive_moments, best_gaussian, exact_elbo, exact_gradient, expectation, gauss_hermite, log_evidence,
    moments, posterior_density, trapezoid,
)
from vilib.reference import (
    Marginal, eight_schools_marginal, kidiq_marginal, mixture_of_two, reference_marginal, transformed_moments,
)
from vilib.replicates import GradientSummary, gradient_replicates, summarize
from vilib.sensor import sensor_encoder, sensor_gap, sensor_readings, sensor_vae, train_sensor_encoder
from vilib.side_by_side import Tempered, optimizers_side_by_side
from vilib.simulated import train_on_simulations
from vilib.supports import OrderedTransform, SimplexTransform, ordered
from vilib.tables import Table, tabulate
from vilib.training import Training, train
from vilib.types import (
    AllFitsFailed, DependentDraws, GeneratorDeviceError, MissingGenerator, MissingPackage, NoMode, NonFiniteLogJoint,
    NonScalarLogJoint, NotBatchable, NotConverged, NotFactorized, NotReparameterizable, ShapeError, UnsupportedSupport,
    VilibError,
)
from vilib.vae_checking import check_vae_loss
from vilib.variance_examples import gamma_target, simulated_tanh_regression, tanh_regression

__version__ = "0.1.0"

__all__ = [
    # models and families
    "Model", "Example", "Cost", "MeanFieldGaussian", "FullRankGaussian", "FactorizedBernoulli", "FactorizedCategorical",
    "FactorizedLogJoint",
    "quadratic_cost", "cosine_cost", "exponential_cost", "gaussian_target", "gumbel_target", "correlated_gaussian",
    "logistic_one_coefficient", "coin_toss", "two_component_mixture", "kidiq", "eight_schools",
    "standard_normal_prior", "gaussian_mean", "coin", "hidden_sign",
    "gamma_target", "tanh_regression", "simulated_tanh_regression",
    "ordered", "OrderedTransform", "SimplexTransform",
    # noise
    "normal", "antithetic", "sobol",
    # estimators and baselines
    "score_function_expectation", "pathwise_expectation", "value_of",
    "score_function", "score_function_with", "score_function_mean_baseline", "leave_one_out", "optimal_coefficient",
    "rao_blackwell", "rao_blackwell_leave_one_out", "reweighted_score_function", "self_normalized_score_function",
    "pathwise", "total_derivative", "sticking_the_landing",
    "log_importance_weights", "effective_sample_size",
    "constant_baseline", "other_half_mean", "leave_one_out_mean", "cross_fitted_coefficient",
    "joint_moments", "JointMoments",
    # many gradients
    "gradient_replicates", "summarize", "GradientSummary", "per_draw", "Draws", "value_and_gradient",
    "nested_gradients", "nested_study", "gradient_from_draws", "tabulate", "Table",
    # fits
    "fit", "Fit", "Optimizer", "sgd", "rmsprop", "adagrad", "adam", "robbins_monro",
    "along", "Along", "path_or_gaps", "steps_to_within", "optimizers_side_by_side", "Tempered",
    # a model in, its posterior out
    "advi", "Posterior",
    # how good is a q?
    "elbo_estimate", "log_weights", "pareto_k", "pareto_k_of",
    # mean field and coordinate ascent
    "coordinate_ascent", "Ascent", "closest_mean_field", "closest_mean_field_forward", "weight_tail", "gaussian_of", "precision_of",
    "update_gaussian_factor", "gaussian_updates", "GaussianMixture", "MixtureFactors",
    # amortised inference
    "Encoder", "BernoulliDecoder", "GaussianDecoder", "mlp", "VAE", "mlp_vae", "DataLogJoint",
    "analytic_kl", "kl_to_standard_normal", "expected_log_prior", "with_model_gradient", "train", "Training", "train_on_simulations",
    "iwae", "doubly_reparameterized", "amortization_gap", "AmortizationGap", "data_log_evidence",
    "ppca", "PPCA", "LinearVAE", "digits", "digit_vae", "train_digit_vae", "sensor_vae", "sensor_readings",
    "train_sensor_encoder", "sensor_encoder", "sensor_gap",
    # the neighbours of variational inference
    "laplace", "Laplace", "metropolis", "metropolis_step", "Chains",
    # exact answers
    "expectation", "exact_gradient", "exact_elbo", "moments", "Moments", "additive_moments", "best_gaussian",
    "log_evidence", "posterior_density", "DistributionFunction", "trapezoid", "gauss_hermite", "elbo_terms",
    "ElboTerms", "log_weights_at", "mixture_of_two", "reference_marginal", "kidiq_marginal", "eight_schools_marginal",
    "transformed_moments", "Marginal",
    # divergences
    "gaussian_kl", "reverse_kl", "forward_kl", "monte_carlo_kl", "monte_carlo_kl_k3", "monte_carlo_forward_kl",
    "moment_matched_gaussian", "stationary_gaussians", "StationaryPoint", "log_ratio_moments", "LogRatioMoments",
    # checks and errors
    "check_unbiased", "assert_unbiased", "check_elbo", "check_metropolis", "check_transform", "Report",
    "BiasedEstimator", "check_coordinate_update", "check_kl", "check_vae_loss", "check_leave_one_out",
    "check_encoder", "check_gap", "check_model", "check_slope",
    "VilibError", "ShapeError", "NonScalarLogJoint", "NonFiniteLogJoint", "UnsupportedSupport", "NotBatchable",
    "MissingGenerator", "MissingPackage", "GeneratorDeviceError", "NotReparameterizable", "NotFactorized", "DependentDraws",
    "AllFitsFailed", "NoMode", "NotConverged",
]
