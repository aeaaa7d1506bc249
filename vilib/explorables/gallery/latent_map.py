"""latent-map: what does a VAE know about a digit?

One VAE of the 8 × 8 digits for each β, at seven moments of its training, with a latent plane. A picture x goes to its q(z | x) on the
map, a point z of the map to the picture that the decoder draws there. The networks are those of `vilib.digit_vae`; every number is
computed from them, averages under q by quadrature, nats rounded to a hundredth so that what is printed adds up.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from vilib import VAE, digits, gauss_hermite, kl_to_standard_normal
from vilib.digit_vae import BETAS, EPOCHS, NUM_TRAINING, binary_digits, digit_vae

from ..core import Axis, Choice, Column, Definition, Ellipse, Image, Letters, Panel, Play, Point, Precision, Slider, Table
from ..widget import Explorable

PLACES = tuple(round(-3.6 + 0.6 * k, 1) for k in range(13))
#: Codes drawn of each class, and codes that are asked which class lives near z.
DRAWN, NEAREST = 20, 25
#: One ink a class. Here inks only help the eye to group the numerals; q and z keep their own.
INK = ("pathwise", "laplace", "stl", "pathwise", "control", "score", "score", "mcmc", "target", "laplace")
LABELS = digits()[1]
TRAINING, HELD_OUT = binary_digits()
#: The first held-out picture of each class: the digits that can be chosen.
CHOSEN = torch.stack([HELD_OUT[LABELS[NUM_TRAINING:] == c][0] for c in range(10)])
SHOWN = [(LABELS[:NUM_TRAINING] == c).nonzero()[:DRAWN, 0] for c in range(10)]


@lru_cache(maxsize=None)
def _vaes(beta: float) -> list[VAE]:
    return [digit_vae(beta, epoch) for epoch in EPOCHS]


def _terms(vae: VAE, x: torch.Tensor) -> np.ndarray:
    """E_q[log p(x | z)] and KL(q ‖ N(0, I)) of each x, (2, N), in nats; over many x the errors of a coarse rule average out."""
    q, (nodes, weights) = vae.encode(x), gauss_hermite(2, 16 if len(x) == 1 else 6)
    z = q.transform(nodes.unsqueeze(1).expand(-1, len(x), -1))
    return torch.stack([torch.tensordot(weights, vae.log_joint(x).log_likelihood(z), 1), kl_to_standard_normal(q)]).numpy()


def _ledger(whose: str, terms: np.ndarray) -> dict[str, np.ndarray]:
    """`terms` (2, epochs) as three channels in hundredths of a nat that add up."""
    reconstruction, kl = np.round(terms, 2) + 0.0
    return {f"reconstruction_{whose}": reconstruction, f"kl_{whose}": kl, f"elbo_{whose}": reconstruction - kl}


@lru_cache(maxsize=None)
def _codes(beta: float) -> np.ndarray:
    """The mean of q for each of the training digits at every epoch, (epoch, 1500, 2)."""
    return np.stack([vae.encode(TRAINING).mu.numpy() for vae in _vaes(beta)])


@lru_cache(maxsize=None)
def _of_beta(beta: float) -> dict[str, np.ndarray]:
    """What depends on neither z nor the chosen digit: the map, and the means over the data."""
    frame = {"epochs": np.array(EPOCHS, dtype=float), "prior": np.array([0.0, 0.0, 1.0, 0.0, 1.0])}
    for c, rows in enumerate(SHOWN):
        for j in (0, 1):
            frame[f"code_{c}_{j + 1}"] = np.ascontiguousarray(_codes(beta)[:, rows, j].T).reshape(-1)
    for name, x in (("training", TRAINING), ("held_out", HELD_OUT)):
        frame |= _ledger(name, np.stack([_terms(vae, x).mean(1) for vae in _vaes(beta)], 1))
    return frame


@lru_cache(maxsize=None)
def _of_digit(beta: float, digit: int) -> dict[str, np.ndarray]:
    """The chosen picture, its q and its reconstruction at every epoch."""
    x, vaes = CHOSEN[digit : digit + 1], _vaes(beta)
    q = [vae.encode(x) for vae in vaes]
    mu, sd = (np.stack([getattr(each, name)[0].numpy() for each in q]) for name in ("mean", "stddev"))
    drawn = np.stack([vae.decoder.mean(each.mu)[0].numpy() for vae, each in zip(vaes, q)], 1)
    return _ledger("x", np.stack([_terms(vae, x)[:, 0] for vae in vaes], 1)) | {
        "x": x[0].numpy(), "reconstruction": drawn.reshape(-1), "class": float(digit), "mu_1": mu[:, 0], "mu_2": mu[:, 1],
        "q": np.concatenate([mu[:, 0], mu[:, 1], sd[:, 0], 0 * sd[:, 0], sd[:, 1]]),
    }


@lru_cache(maxsize=None)
def _of_place(beta: float, z1: float, z2: float) -> dict[str, np.ndarray]:
    """What the decoder draws at z, and whose codes lie around it, at every epoch."""
    z = torch.tensor([[z1, z2]], dtype=torch.float64)
    distance = np.linalg.norm(_codes(beta) - z.numpy(), axis=-1)                                         # (epoch, 1500)
    around = LABELS[:NUM_TRAINING].numpy()[np.argsort(distance, axis=1, kind="stable")[:, :NEAREST]]
    votes = np.stack([(around == c).sum(1) for c in range(10)])
    return {
        "drawn": np.stack([vae.decoder.mean(z)[0].numpy() for vae in _vaes(beta)], 1).reshape(-1), "z_1": z1, "z_2": z2,
        "nearest_z": votes.argmax(0).astype(float), "votes_z": votes.max(0).astype(float), "distance_z": distance.min(1),
    }


#: Cells of the table that have no number.
NONE = {f"{name}_{whose}": np.full(len(EPOCHS), np.nan) for names, who in (
    (("reconstruction", "kl", "elbo"), ("z",)), (("nearest", "votes", "distance"), ("x", "training", "held_out"))) for name in names for whose in who}


def compute(z1: float, z2: float, digit: str, beta: float) -> dict[str, object]:
    """One frame; see the panels below for what each channel is. Channels over epochs hold each entry at every epoch."""
    return NONE | _of_beta(beta) | _of_digit(beta, int(digit)) | _of_place(beta, z1, z2)


def _panels() -> tuple[Panel, ...]:
    blank = Axis("", (0, 1), ticks=())
    picture = lambda pixels, at, ink, alt: Image(ink, {}, "", pixels, 8, 8, at, alt)  # noqa: E731
    return (
        Panel("map", "The latent plane", Axis("z₁", (-4, 4)), Axis("z₂", (-4, 4)),
              (Ellipse(params="prior", ink="muted"),
               *(Letters(INK[c], {}, "", f"code_{c}_1", f"code_{c}_2", str(c), DRAWN, "epoch") for c in range(10)),
               Ellipse(params="q", at="epoch", ink="q", fill=True), Point(x="mu_1", y="mu_2", at="epoch", ink="q", label="q(z | x)"),
               Point(x="z_1", y="z_2", ink="text", label="z")), 0, note="rings: the prior, 1 and 2 sd"),
        Panel("x", "The picture x", blank, blank, (picture("x", "", "text", "A held-out {class:d}."),), 1, 1.0),
        Panel("reconstruction", "Drawn at the mean of its q", blank, blank,
              (picture("reconstruction", "epoch", "q", "What the decoder draws at the mean of q for a held-out {class:d}."),), 1, 1.0),
        Panel("drawn", "Drawn at z", blank, blank,
              (picture("drawn", "epoch", "text", "What the decoder draws at z; most of the training codes nearest to z are of "
                       "the class {nearest_z@epoch:d}."),), 2, note="grey: probability of ink"),
    )


def latent_map(**values: object) -> Explorable:
    """What does a VAE know about a digit?

    values : where controls stand at first: `z1`, `z2`, `digit` (a class, as text), `beta`, `epoch` (a place in `digit_vae.EPOCHS`).
    Raises ExplorableError and TraitError (a value that is not offered).
    """
    columns = (("E_q[log p(x | z)]", "reconstruction", ".2f", "reconstruction, in nats"), ("− KL(q ‖ prior)", "kl", ".2f", "in nats"),
               ("= ELBO", "elbo", ".2f", "in nats, whatever β the training used"), ("nearest code", "distance", ".1f", "its distance from z"),
               ("class around", "nearest", "d", "of most of the 25 nearest codes"), ("of 25", "votes", "d", "so many of the 25 are of that class"))
    definition = Definition(
        name="latent-map", title="What does a VAE know about a digit?",
        controls=(
            Slider("z1", "z₁", PLACES, -1.8, ".1f"), Slider("z2", "z₂", PLACES, 0.6, ".1f"),
            Choice("digit", "the picture x", {str(c): f"a {c}" for c in range(10)}, "3"),
            Slider("beta", "weight of the KL, β", BETAS, 1.0, ".2f"),
            Play("epoch", "epochs of training", "epochs", len(EPOCHS), len(EPOCHS) - 1, 8.0),
        ),
        compute=compute, panels=_panels(),
        caption="Epoch {epochs@epoch:d} of a training with β = {beta}. Of the 25 training codes nearest to z = ({z1}, {z2}) most, {votes_z@epoch:d}, are "
                "of the class {nearest_z@epoch:d}; the nearest one lies about {distance_z@epoch:.1f} away. The q of this {class:d} costs {kl_x@epoch:.2f} nats; "
                "0 is the prior itself, which knows nothing of x.",
        table=Table({"x": "this x", "training": "trained on, mean", "held_out": "held out, mean", "z": "this z"},
                    tuple(Column(label, f"{name}_{{row}}", form, "epoch", words) for label, name, form, words in columns), {"x": "q"}),
        precision={"code_*": Precision(step=0.05), "drawn": Precision(step=0.1), "reconstruction": Precision(step=0.1), "x": Precision(step=1),
                   "votes_*": Precision(step=1), "distance_*": Precision(step=0.1), "nearest_*": Precision(step=1), "class": Precision(step=1), "epochs": Precision(step=1),
                   "z_*": Precision(step=0.1), "*": Precision(step=0.01)},
    )
    return Explorable(definition, **values)
