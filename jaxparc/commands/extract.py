"""The command extract: extract the features of every model of a bank for a target."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from jaxparc import printing
from jaxparc.bank import features, layer_features
from jaxparc.bank.cuts import Cuts
from jaxparc.commands import jobs
from jaxparc.commands.dry_run import print_plan
from jaxparc.commands.layers import extract_layers
from jaxparc.errors import OperationError
from jaxparc.units.options import Execution


def extract(
    bank: str | None,
    target: str,
    *,
    models: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    licence: Sequence[str] = (),
    max_params: float | None = None,
    max_gmacs: float | None = None,
    images: int = 500,
    seed: int = 0,
    batch_size: int = 32,
    data_dir: str | None = None,
    out: Path | None = None,
    executor: str = "local",
    num_gpus: float | None = None,
    shard: tuple[int, int] = (1, 1),
    layers: bool = False,
    dry_run: bool = False,
) -> None:
    """Extract the features of every model of a bank for a target.

    Args:
        bank: as `jobs.open_job` takes it.
        target: as `jobs.open_job` takes it.
        models: as `jobs.open_job` takes it.
        include: see `Cuts`.
        exclude: see `Cuts`.
        licence: see `Cuts`.
        max_params: see `Cuts`.
        max_gmacs: see `Cuts`.
        images: as `jobs.open_job` takes it.
        seed: as `jobs.open_job` takes it.
        batch_size: as `jobs.open_job` takes it.
        data_dir: as `jobs.open_job` takes it.
        out: as `jobs.open_job` takes it.
        executor: see `Execution`.
        num_gpus: see `Execution`.
        shard: see `Execution`.
        layers: whether to extract the features of all layers as well.
        dry_run: whether to print what would be extracted, and to end.

    Raises:
        InputError: an argument or the bank is wrong, or the folder holds features of other images.
        OperationError: a model failed, or the folder is in use or cannot be written.
        DatasetError: the target cannot be read.
    """
    job = jobs.open_job(
        bank,
        target,
        models=models,
        cuts=Cuts(include, exclude, licence, max_params, max_gmacs),
        images=images,
        seed=seed,
        batch_size=batch_size,
        data_dir=data_dir,
        out=out,
    )
    jobs.print_classes(job)
    if dry_run:
        print_plan([job])
        return
    execution = Execution(executor, num_gpus, shard)
    with features.alone_in(job.folder, job.probe, job.entries, shard=shard):
        failed = jobs.run(job, execution)
        if layers:
            failed |= extract_layers(job, job.entries, execution)
    folder = job.folder / layer_features.FOLDER if layers else job.folder
    command = f"jaxparc score {shlex.quote(str(folder))}"
    if shard != (1, 1):
        command += " (once all shards are done)"
    print(printing.shown(f"features are in {job.folder}: {command}"))
    if failed:
        raise OperationError(jobs.failure(job.entries, failed))
