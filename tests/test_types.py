"""The error classes, and the generator that every draw comes from."""

import pytest
import torch
from helpers import gaussian, seeded

import vilib
from vilib import GeneratorDeviceError, MissingGenerator, VilibError, gaussian_target, gradient_replicates, pathwise
from vilib.types import check_generator

ERRORS = [getattr(vilib, name) for name in vilib.__all__ if isinstance(getattr(vilib, name), type)
          and issubclass(getattr(vilib, name), Exception) and not issubclass(getattr(vilib, name), Warning)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: e.__name__)
def test_every_error_is_a_vilib_error_and_a_value_error(error):
    assert issubclass(error, VilibError) and issubclass(error, ValueError) and error.__doc__


@pytest.mark.parametrize("wrong", [None, 0, "cpu"])
def test_a_missing_generator_is_named_with_what_came_and_the_mend(wrong):
    with pytest.raises(MissingGenerator, match=rf"generator: expected a torch.Generator, got {wrong!r}.*manual_seed\(0\)"):
        check_generator(wrong)


def test_a_generator_passes_anywhere_or_on_its_own_device():
    generator = seeded()
    assert check_generator(generator) is check_generator(generator, "cpu") is generator


def test_a_generator_on_another_device_names_both_devices():
    message = r"generator: it lives on 'cpu', the parameters on 'cuda:0'.*torch.Generator\('cuda:0'\)"
    with pytest.raises(GeneratorDeviceError, match=message):
        check_generator(seeded(), "cuda:0")


def test_replicates_refuse_a_generator_on_another_device():
    q = type(gaussian())(torch.zeros(1, device="meta"), torch.zeros(1, device="meta"))
    with pytest.raises(GeneratorDeviceError, match="the parameters on 'meta'"):
        gradient_replicates(pathwise, gaussian_target(), q, num_samples=2, num_replicates=2, generator=seeded())
