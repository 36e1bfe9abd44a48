"""The banks that `bank` scores: their sizes and models, and how each side scores them."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import jaxparc
from experiments.speed import plain
from jaxparc import parallel, selectors

POOL = 16  # models with different values; a larger bank has copies of them under other names
# Measured together, as users request them, without H-Score: its plain side inverts a d x d matrix.
TOGETHER = ("parc_f32", "parc", "rsa", "dds", "nce", "leep", "knn", "logistic", "heuristic")
LATER = ("ridge", "logme", "ncm", "lfc", "transrate", "gbc", "hscore_shrunk", "sfda", "nleep")
ALONE = (
    *("parc", "rsa", "rsa_f32", "dds", "dds_f32", "nce", "leep", "knn", "logistic", "hscore_f32"),
    *LATER,
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes to measure.

    Attributes:
        n: number of images.
        models: values of m, the number of models, for PARC f=32.
        widths: values of d, the feature width, for PARC f=32.
        classes: values of c, the number of classes, for PARC f=32.
        places: where the features are, for PARC f=32 and all methods together.
        m: number of models for the other methods.
        d: feature width for the other methods.
        c: number of classes for the other methods.
        z: number of source classes.
        together: values of d for all methods together.
        alone: methods that are measured on their own.
        plain_models: number of models for the plain side.
        repeats: repeats of each side; at most three for more than 100 models.
        plain_repeats: repeats of the plain side; by default as many as of the other.
        slow: whether the plain side of H-Score without PCA is measured, which takes a minute.
        first_call: whether the first call is measured, in a process of its own.
    """

    n: int = 500
    models: tuple[int, ...] = (1, 8, 65, 512)
    widths: tuple[int, ...] = (512, 1024, 2048, 4096)
    classes: tuple[int, ...] = (10, 37, 200)
    places: tuple[str, ...] = ("host",)
    m: int = 65
    d: int = 2048
    c: int = 10
    z: int = 1000
    together: tuple[int, ...] = (2048,)
    alone: tuple[str, ...] = ALONE
    plain_models: int = 8
    repeats: int = 5
    plain_repeats: int | None = None
    slow: bool = True
    first_call: bool = True


QUICK = dataclasses.replace(Sizes(), models=(8, 65), widths=(2048,), repeats=3)
ACCELERATOR = Sizes(
    models=(1000,),
    widths=(2048, 512),
    classes=(),
    places=("device", "host"),
    m=1000,
    together=(2048, 512),
    plain_repeats=1,
    slow=False,
    first_call=False,
)
TINY = Sizes(
    n=40,
    models=(3,),
    widths=(24,),
    classes=(),
    places=("device", "host"),
    m=3,
    d=24,
    c=4,
    z=6,
    together=(24,),
    alone=("parc",),
    plain_models=2,
    repeats=2,
    slow=False,
    first_call=False,
)


def default(quick: bool = False) -> Sizes:
    """Return the sizes for this machine's devices."""
    if jax.default_backend() == "cpu":
        return QUICK if quick else Sizes()
    return dataclasses.replace(ACCELERATOR, widths=(2048,), alone=()) if quick else ACCELERATOR


def synthetic(sizes: Sizes, d: int, c: int, seed: int) -> plain.Model:
    """Return a model with realistic features: rectified, correlated, with separable classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(sizes.n) % c
    spectrum = np.arange(1, d + 1) ** -0.5
    code = rng.normal(size=(sizes.n, d)) + 0.7 * rng.normal(size=(c, d))[labels]
    units = (code * spectrum).astype(np.float32) @ rng.normal(size=(d, d)).astype(np.float32)
    probs = rng.gamma(0.05, size=(sizes.n, sizes.z)) + 3 * (labels[:, None] == np.arange(sizes.z))
    return plain.Model(
        features=np.maximum(units / units.std(), 0),
        labels=labels,
        num_classes=c,
        probs=(probs / probs.sum(axis=1, keepdims=True)).astype(np.float32),
        reference=np.maximum(units[:, ::-1] / units.std() + 0.5, 0),
    )


class Banks:
    """Models of some width and number of classes, of which those used last are kept.

    Every model has arrays of its own, as long as all take at most `limit` bytes or, on an
    accelerator, half of its memory; further models share the arrays of the first ones.
    """

    limit = 1 << 33

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._key: tuple[int, int] | None = None
        self._pool: list[plain.Model] = []
        self._placed: dict[str, list[plain.Model]] = {}

    def pool(self, d: int, c: int) -> list[plain.Model]:
        """Return `POOL` models with different values, on the host."""
        if self._key != (d, c):
            self.free()
            self._pool = [synthetic(self._sizes, d, c, seed) for seed in range(POOL)]
            self._key = d, c
        return self._pool

    def placed(self, d: int, c: int, place: str, m: int) -> list[plain.Model]:
        """Return m models whose arrays are on the "host" or the "device"."""
        pool = self.pool(d, c)
        found = self._placed.setdefault(place, [])
        size = pool[0].features.nbytes + pool[0].probs.nbytes
        memory = parallel.memory() if place == "device" else None
        most = max(POOL, (self.limit if memory is None else memory // 2) // size)
        while len(found) < min(m, most):
            model = pool[len(found) % POOL]
            found.append(
                model._replace(
                    features=_copied(model.features, place),
                    probs=_copied(model.probs, place),
                    reference=_copied(model.reference, place) if not found else found[0].reference,
                )
            )
        jax.block_until_ready([[model.features, model.probs] for model in found])
        return [found[i % len(found)] for i in range(m)]

    def free(self) -> None:
        """Forget all models."""
        self._key = None
        self._pool = []
        self._placed = {}


def _copied(array: np.ndarray, place: str) -> Any:
    copy = array.copy()  # on a CPU, arrays of JAX may share the memory of NumPy's
    return copy if place == "host" else jax.device_put(copy, jax.local_devices()[0])


def score_bank(models: Sequence[plain.Model], methods: Sequence[str]) -> jaxparc.BankScores:
    """Score models with this library."""
    names = list(map(str, range(len(models))))
    needs = {need for method in methods for need in selectors.method(method).needs}
    with warnings.catch_warnings(action="ignore"):  # H-Score is at its limit for these widths
        return jaxparc.score_bank(
            dict(zip(names, (one.features for one in models), strict=True)),
            models[0].labels,
            methods=methods,
            num_classes=models[0].num_classes,
            probs=[one.probs for one in models] if "probs" in needs else None,
            reference=models[0].reference if "reference" in needs else None,
            layers=[one.layers for one in models],
            source_images=[one.source_images for one in models],
            target_images=int(models[0].target_images),
        )


def score_plain(models: Sequence[plain.Model], methods: Sequence[str]) -> None:
    """Score models one after another with the plain implementations."""
    for model in models:
        for method in methods:
            plain.score(method, model)


def least_work(methods: Sequence[str], n: int, d: int, c: int, z: int) -> tuple[float, float]:
    """Return the minimum operations and bytes per model that the usual algorithms need.

    Work that methods can share counts once.
    """
    operations: dict[str, float] = {}
    read: dict[str, float] = {}
    for method in methods:
        name, _, reduction = method.partition("_f")
        if name in ("nce", "leep"):
            read["probs"] = 4.0 * n * z
        elif name != "heuristic":
            read["features"] = 4.0 * n * d  # every feature is read
        if reduction:
            # one product with f vectors and its transpose; the algorithm decides how many
            operations[f"components {reduction}"] = 4.0 * n * d * int(reduction)
        elif name in ("parc", "rsa", "dds", "hscore"):
            # half of the symmetric product of standardised images; H-Score needs a basis of it
            operations["standardised images"] = 1.0 * n * n * d
        elif name == "knn":
            operations["images"] = 1.0 * n * n * d  # half of the product of unscaled images
        elif name == "logistic":
            # one evaluation of logits and gradient for half of the images, and logits of the rest
            operations["logistic"] = 3.0 * n * d * c
        elif name == "nce":
            operations["nce"] = 1.0 * n * z  # the maximum of every row
        elif name == "leep":
            operations["leep"] = 4.0 * n * z  # each probability enters one sum and leaves it
    return sum(operations.values()), sum(read.values())
