"""The command line: `jaxparc COMMAND ...`.

Exit codes: 0 success; 1 the command failed, entirely or for some models or methods; 2 wrong usage;
130 interrupted. The reason for 1 and 2 is one line on stderr. A bug in this package ends with a
traceback and exit code 1.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from jaxparc import extras, interrupts, printing
from jaxparc._version import __version__
from jaxparc.commands import LEARNING_RATES, PROGRAM, RANKED_BY, SCORED_BY, arguments
from jaxparc.commands.arguments import Parser
from jaxparc.errors import InputError, OperationError, is_out_of_memory
from jaxparc.units import options
from jaxparc.units.compilation import cache_compilations


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after `jaxparc`; by default those of this process.

    Returns:
        The exit code.
    """
    with printing.ending():
        try:
            words = sys.argv[1:] if argv is None else argv
            _run(**vars(_parser(words).parse_args(words)))
        except KeyboardInterrupt as interrupt:
            print(printing.shown(interrupts.line(PROGRAM, interrupt)), file=sys.stderr)
            return interrupts.CODE
        except BrokenPipeError:
            raise
        except Exception as error:
            if interrupts.came():  # a library turned the interrupt into this error
                print(interrupts.line(PROGRAM), file=sys.stderr)
                return interrupts.CODE
            if isinstance(error, InputError):
                return _fail(error, 2)
            if isinstance(error, OperationError | OSError | extras.MissingPackageError):
                return _fail(error, 1)
            if is_out_of_memory(error):
                return _fail(OperationError(f"out of memory: {printing.line(error)}"), 1)
            raise
    return 0


def _run(module: str, function: str, *, extra: str | None = None, **arguments: Any) -> None:
    """Call the function of a command, importing its module only now, so that --help is fast.

    Its compiled programs are kept for the next call if its module imports JAX.
    """
    with extras.advising(extra):
        called = importlib.import_module(f"jaxparc.commands.{module}")
        if "jax" in sys.modules:
            cache_compilations()
        getattr(called, function)(**arguments)


def _fail(error: Exception, code: int) -> int:
    print(f"{PROGRAM}: {printing.line(error)}", file=sys.stderr)
    return code


_Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def _parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of a command line; its words tell which of two forms it has.

    One parser of both, with an optional BANK, would take the TARGET for it where flags stand
    between the two.
    """
    by_models = any(arguments.is_models(word) for word in words)
    parser = Parser(
        prog=PROGRAM,
        description="Predict which pretrained model will be best after fine-tuning.",
        epilog="Exit codes: 0 success; 1 the command failed, entirely or for some models or "
        "methods; 2 wrong usage; 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_score(commands)
    _add_extract(commands, by_models)
    _add_rank(commands, by_models)
    _add_finetune(commands, any(arguments.is_top(word) for word in words))
    _add_predict(commands)
    _add_init_bank(commands)
    _add_convert(commands)
    _add_data(commands)
    _add_models(commands)
    return parser


def _add_score(commands: _Commands) -> None:
    score = commands.add_parser(
        "score",
        parents=[arguments.methods(SCORED_BY)],
        help="rank models by files with their features",
        description="Rank the models of a folder by their expected accuracy after fine-tuning.",
    )
    score.add_argument("folder", metavar="FOLDER", help="folder of one .npz or .npy per model")
    score.add_argument(
        "--labels",
        metavar="FILE",
        help=".npy, or text with one label per line [FOLDER/labels.npy, or the labels in the "
        "models' files]",
    )
    score.add_argument(
        "--facts",
        metavar="FILE",
        help="CSV with the columns model and layers (for +l) or source_images (for heuristic)",
    )
    # The old spelling: in all other commands, --models are weights.
    score.add_argument("--models", dest="facts", help=argparse.SUPPRESS)
    score.add_argument(
        "--target-images",
        type=int,
        metavar="N",
        help="size of the target's training split, for heuristic",
    )
    score.add_argument(
        "--num-classes",
        type=int,
        metavar="C",
        help="number of classes of the target, if some have no label",
    )
    score.add_argument(
        "--label-kind",
        metavar="KIND",
        help="classes, multi_label, vectors, or values for numbers to predict [as the models' "
        "files say, or inferred]",
    )
    score.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder of scores.csv, ranking.* and index.html [.]",
    )
    score.set_defaults(module="score", function="score")


def _add_extract(commands: _Commands, by_models: bool) -> None:
    extract = commands.add_parser(
        "extract",
        parents=[
            arguments.models(by_models),
            arguments.target(arguments.VALUES),
            arguments.probe(),
            arguments.cuts(),
            arguments.data_dir(),
        ],
        usage=arguments.usage("extract"),
        help="extract the features of every model of a bank for a target",
        description="Extract the features of every model of a bank for a probe set of a target.",
    )
    extract.add_argument(
        "--layers",
        action="store_true",
        help="extract the features of all layers as well, as models MODEL@LAYER",
    )
    options.add_shard(extract)
    extract.set_defaults(module="extract", function="extract")
    extract.hint = arguments.FORMS


def _add_rank(commands: _Commands, by_models: bool) -> None:
    rank = commands.add_parser(
        "rank",
        parents=[
            arguments.models(by_models),
            arguments.target(arguments.VALUES),
            arguments.probe(),
            arguments.methods(RANKED_BY),
            arguments.cuts(),
            arguments.data_dir(),
        ],
        usage=arguments.usage("rank"),
        help="rank the models of a bank for a target: extract and score",
        description="Rank pretrained models by their expected accuracy after fine-tuning.",
    )
    rank.add_argument(
        "--probe-sets",
        type=int,
        default=1,
        metavar="R",
        help="number of probe sets, of which scores are the means [1]",
    )
    rank.add_argument(
        "--race",
        action="store_true",
        help="extract fewer images of models that are surely worse: 64, 128, 256, ...",
    )
    rank.add_argument(
        "--budget",
        type=float,
        metavar="MINUTES",
        help="stop in time with what is known: --race, with ever fewer models",
    )
    rank.add_argument(
        "--layers", action="store_true", help="say which layer of the best model scores best"
    )
    options.add_shard(rank)
    rank.set_defaults(module="rank", function="rank")
    rank.hint = arguments.FORMS


def _add_finetune(commands: _Commands, by_top: bool) -> None:
    tune = commands.add_parser(
        "finetune",
        parents=[arguments.advised() if by_top else arguments.one_model(), arguments.data_dir()],
        usage=f"{PROGRAM} finetune [options] FOLDER --top K\n"
        f"       {PROGRAM} finetune [options] BANK NAME TARGET",
        help="fine-tune the best models of a ranking, or one model of a bank",
        description="Fine-tune all weights of models: of the K best in a FOLDER that rank wrote, "
        "or of one model of a bank. The learning rate is chosen on a fifth of the training images "
        "(those that do badly are stopped early); the model is tested on the test images. An "
        "interrupted command goes on where it was.",
    )
    tune.hint = "expected FOLDER --top K, or BANK NAME TARGET"
    tune.add_argument(
        "--top", type=int, metavar="K", help="number of models of the ranking, the best first"
    )
    rates = ", ".join(f"{rate:g}" for rate in LEARNING_RATES)
    for name, kind, default, what in (
        ("steps", int, 1000, "number of batches [1000]"),
        ("batch_size", int, 64, "images per batch, over all devices [64]"),
        (
            "learning_rate",
            float,
            None,
            "peak learning rate, after the warm-up; all training images are then trained on "
            f"[the best of {rates}]",
        ),
        ("seed", int, 0, "seed of the new head, the order of the images and the crops [0]"),
    ):
        metavar = "N" if kind is int else "X"
        tune.add_argument(
            options.flag_of(name), type=kind, default=default, metavar=metavar, help=what
        )
    tune.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="file of the weights [finetuned/NAME-TARGET-HASH.safetensors]; with --top, their "
        "folder [FOLDER/finetuned]",
    )
    tune.set_defaults(module="finetune", function="finetune", extra="train")


def _add_predict(commands: _Commands) -> None:
    predict = commands.add_parser(
        "predict",
        parents=[arguments.data_dir()],
        help="classify images with a fine-tuned model",
        description="Classify images with weights that finetune wrote, and evaluate them where "
        "labels are known: in folders that are named like the classes, and in data sets.",
    )
    predict.add_argument("weights", type=Path, metavar="WEIGHTS", help="the .safetensors file")
    predict.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="image files, folders of them at any depth, or a data set, whose test split is taken",
    )
    predict.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="CSV file: path, and the three most probable classes [printed]",
    )
    predict.set_defaults(module="predict", function="predict", extra="train")


def _add_init_bank(commands: _Commands) -> None:
    init = commands.add_parser(
        "init-bank",
        usage=f"{PROGRAM} init-bank [--out FILE] [NAME=]FILE ...",
        help="write a bank file for weight files",
        description="Write a bank file that lists weight files, with what is found in them, to be "
        "completed by hand.",
    )
    init.add_argument(
        "models", nargs="+", metavar="[NAME=]FILE", help="weight file, or a folder of them"
    )
    init.add_argument(
        "--out", type=Path, default=Path("bank.toml"), metavar="FILE", help="[bank.toml]"
    )
    init.set_defaults(module="init_bank", function="init_bank")


def _add_convert(commands: _Commands) -> None:
    convert = commands.add_parser(
        "convert",
        help="convert weights of any supported format to safetensors",
        description="Convert published weights to a safetensors file with this package's names.",
    )
    convert.add_argument(
        "source", metavar="SRC", help="weights of PyTorch, safetensors, NumPy, Keras, ..."
    )
    convert.add_argument(
        "destination", type=Path, metavar="DST", help="the .safetensors file to write"
    )
    convert.add_argument(
        "--architecture", metavar="NAME", help="key of jaxparc.models.MODELS [detected from names]"
    )
    convert.add_argument(
        "--scheme", metavar="NAME", help="library that named the weights [detected from names]"
    )
    convert.add_argument(
        "--variant", metavar="NAME", help="which of several networks with the same names"
    )
    convert.add_argument(
        "--weights-key", metavar="KEY", help="which of several sets of weights in SRC"
    )
    convert.add_argument(
        "--ignore", nargs="+", default=(), metavar="PATTERN", help="names in SRC to leave out"
    )
    convert.add_argument(
        "--channels",
        choices=("rgb", "bgr"),
        help="channel order that the weights expect [that of the scheme]",
    )
    convert.add_argument(
        "--stride-in-1x1",
        action=argparse.BooleanOptionalAction,
        help="whether ResNet bottlenecks stride in the first convolution [that of the scheme]",
    )
    convert.set_defaults(module="convert", function="convert")


def _add_data(commands: _Commands) -> None:
    data = commands.add_parser("data", help="list or prepare data sets")
    actions = data.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list", parents=[arguments.data_dir()], help="list the known data sets"
    )
    listing.set_defaults(module="data", function="print_list", extra="train")
    preparing = actions.add_parser(
        "prepare", parents=[arguments.data_dir()], help="download and convert data sets"
    )
    preparing.add_argument("names", nargs="+", metavar="NAME", help=arguments.DATASET)
    preparing.set_defaults(module="data", function="prepare", extra="train")


def _add_models(commands: _Commands) -> None:
    listing = commands.add_parser(
        "models", help="list architectures, ready-made banks, and what is on this machine"
    )
    listing.add_argument(
        "patterns",
        nargs="*",
        metavar="PATTERN",
        help='architectures of these names, such as "resnet*" [all]',
    )
    listing.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    listing.set_defaults(module="models", function="print_models")
