"""The command init-bank: write a bank file for weight files."""

from collections.abc import Sequence
from pathlib import Path

from jaxparc import files, printing
from jaxparc.bank import sources, toml_file, toml_text
from jaxparc.errors import InputError, OperationError


def init_bank(models: Sequence[str], *, out: Path = Path("bank.toml")) -> None:
    """Write a bank file that lists models, with what is found in their weights.

    Args:
        models: addresses of models, as `sources.read` takes them.
        out: the bank file; not overwritten.

    Raises:
        InputError: an address is wrong, a model cannot be listed, or the file exists.
        OperationError: the file cannot be written.
    """
    if out.suffix != ".toml":
        raise InputError(f"--out is {out}; expected a name that ends in .toml")
    if out.exists():
        raise InputError(f"{out} exists; move it away, or give another --out")
    entries = sources.read(models)
    for entry in entries:
        if entry.refused is not None:
            raise InputError(f"model {toml_file.printable_name(entry)}: {entry.refused}")
    try:
        files.write_text(out, toml_text.text(entries, out.parent))
    except OSError as error:
        raise OperationError(f"cannot write {out}: {printing.reason(error)}") from error
    for entry in entries:
        print(printing.shown(f"{entry.name}: {entry.address}, {entry.where}"))
    print(printing.shown(f"written to {out}; its keys are explained in docs/models.md of jaxparc"))
