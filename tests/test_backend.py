"""Which choices hold where."""

import dataclasses

import jax
import pytest

from jaxparc import backend
from jaxparc.models import layers
from jaxparc.training import steps


def test_a_cpu_has_choices_of_its_own_and_all_others_share_theirs():
    assert backend.for_backend("cpu") is backend.CPU
    assert {id(backend.for_backend(name)) for name in ("gpu", "tpu", "METAL")} == {
        id(backend.ACCELERATOR)
    }
    assert backend.choices() is backend.for_backend(jax.default_backend())


def test_every_choice_differs_between_a_cpu_and_an_accelerator():
    for field in dataclasses.fields(backend.Choices):
        assert getattr(backend.CPU, field.name) != getattr(backend.ACCELERATOR, field.name), field


def test_choices_are_others_in_a_block():
    usual = backend.choices()
    for other in (backend.CPU, backend.ACCELERATOR):
        with backend.using(other):
            assert backend.choices() is other
        assert backend.choices() is usual


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_compiler_options_of_what_runs_once(name, monkeypatch):
    monkeypatch.setattr(backend, "choices", lambda: backend.for_backend(name))
    given, jit = [], jax.jit

    def noted(function, *, compiler_options):
        given.append(compiler_options)
        return jit(function)

    class Module:
        def init(self, key, images):
            return {"params": jax.random.normal(key, images.shape)}

    monkeypatch.setattr(jax, "jit", noted)
    layers.new_head(jax.random.key(0), 3, 19 if name == "cpu" else 23)  # cached by shape
    steps.initial(Module(), 4, 0)
    assert given == [{"xla_backend_optimization_level": 0} if name == "cpu" else {}] * 2
