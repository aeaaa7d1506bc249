"""The kept networks are what the recipe gives, and rounding does not lead the recipe elsewhere."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

import vilib.digit_vae  # noqa: F401
from vilib import VilibError, digit_vae, gauss_hermite, kl_to_standard_normal, train_digit_vae

module = __import__("sys").modules["vilib.digit_vae"]
BETAS, EPOCHS, binary_digits, snapshots = module.BETAS, module.EPOCHS, module.binary_digits, module.snapshots


def kept(beta: float) -> torch.Tensor:
    return torch.stack([parameters_to_vector(digit_vae(beta, epoch).parameters()) for epoch in EPOCHS])


def agree(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Half precision keeps 11 bits: 2⁻¹¹ of a number."""
    torch.testing.assert_close(ours, theirs, rtol=2.0**-11, atol=1e-4)


def test_the_file_holds_what_the_recipe_gives_from_the_first_epoch_to_the_last():
    agree(kept(1.0), snapshots(1.0, progress=False))


@pytest.mark.parametrize("beta", [beta for beta in BETAS if beta != 1.0])
def test_the_other_betas_start_as_the_recipe_does(beta):
    """Thirty epochs of each: the step size falls with the length of the run, so it is given the length of the whole."""
    whole, short = EPOCHS[-1], 30
    done = []

    class Enough(Exception):
        pass

    def keep(epoch, vae):
        if epoch in EPOCHS:
            done.append(parameters_to_vector(vae.parameters()).detach().clone())
        if epoch == short:
            raise Enough

    with pytest.raises(Enough):
        train_digit_vae(beta, num_epochs=whole, progress=False, on_epoch=keep)
    agree(kept(beta)[: len(done)], torch.stack(done))
    assert len(done) == EPOCHS.index(short) + 1


def test_rounding_stays_small(monkeypatch):
    """First weights that are off by 1e-12, a thousand roundings, end where the others do to 1e-6."""
    make = module.mlp_vae

    def nudged(*args, **options):
        vae = make(*args, **options)
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.mul_(1 + 1e-12)
        return vae

    straight = snapshots(1.0, num_epochs=30, progress=False)
    monkeypatch.setattr(module, "mlp_vae", nudged)
    off = (snapshots(1.0, num_epochs=30, progress=False) - straight).abs()
    assert 0 < off.max() < 1e-6


def test_every_moment_of_every_beta_is_there_and_the_elbo_climbs():
    images, held_out = binary_digits()
    nodes, weights = gauss_hermite(2, 5)

    def mean_objective(vae, beta, x):
        q = vae.encode(x)
        z = q.transform(nodes.unsqueeze(1).expand(-1, len(x), -1))
        return (torch.tensordot(weights, vae.log_joint(x).log_likelihood(z), 1) - beta * kl_to_standard_normal(q)).mean().item()

    for beta in BETAS:
        climbed = [mean_objective(digit_vae(beta, epoch), beta, images) for epoch in EPOCHS]
        assert climbed == sorted(climbed), beta
    assert not any(parameter.requires_grad for parameter in digit_vae().parameters())
    assert len(images) == 1500 and len(held_out) == 297 and set(images.unique().tolist()) == {0.0, 1.0}


def test_what_was_not_kept_is_refused():
    with pytest.raises(VilibError, match=r"kept are beta of \(0\.25, 1\.0, 3\.0, 6\.0\) and epoch of .*got 2\.0 and 300"):
        digit_vae(2.0)
    with pytest.raises(VilibError, match="got 1.0 and 7"):
        digit_vae(1.0, 7)


def test_it_is_written_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "snapshots", lambda beta: torch.full((2, 3), beta, dtype=torch.float64))
    module.write(tmp_path / "kept.npz")
    stored = np.load(tmp_path / "kept.npz")["parameters"]
    assert stored.dtype == np.float16 and stored.shape == (len(BETAS), 2, 3) and stored[1, 0, 0] == 1


def test_the_file_is_small():
    assert Path(module.__file__).with_name("data").joinpath("digit_vae.npz").stat().st_size < 250_000
