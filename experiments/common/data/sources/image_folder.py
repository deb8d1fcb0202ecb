"""A folder of PNG and JPEG images: one folder a class, or images without classes.

``class/image.png``, or ``train/class/image.png`` and ``test/class/image.png``; or the images
themselves in place of the folders of classes. Classes are numbered in the order of their names, or
of their values where all names are whole numbers. Grey images have one channel and all others
three: those with a palette become RGB. Transparency is left out where every pixel is opaque, and
refused where one is not, since what lies below it is not known. A photograph that says how it was
turned (EXIF) is turned.
"""

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from experiments.common.data.sources import contents, decoded
from experiments.common.errors import InputError, first_line

_SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif"}
_OTHER_IMAGES = {
    *(".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif", ".jxl"),
    *(".pbm", ".pgm", ".pnm", ".ppm", ".jp2", ".j2k", ".tga", ".ico", ".svg"),
}
# What Windows, macOS and network storage leave in folders.
_NOT_OF_THE_USER = {
    *("thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("__macosx", "@eadir", "lost+found"),
}
# Names of the folders of a split, the best first; validation images are a test split if need be.
_SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "validation", "valid", "val"),
}


class _Listing(NamedTuple):
    """The images and the folders in a folder, by their names."""

    images: list[Path]
    folders: list[Path]


class _Split(NamedTuple):
    """The images of a split in the order of their paths, and their classes, or None."""

    images: list[Path]
    classes: list[str] | None


def is_image_folder(folder: Path) -> bool:
    """Returns whether there are PNG or JPEG images in a folder, or in folders of classes there."""
    return any(any(map(_is_image, folder.glob(depth))) for depth in ("*", "*/*", "*/*/*"))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and path.is_file()


def load(folder: Path) -> decoded.Splits:
    """Returns images uint8 ``(n, height, width, channels)`` and labels ``(n,)``, or None.

    Raises:
      InputError: if there are none, they are not of one size, or one cannot be read.
    """
    splits = {split: _list_images(place) for split, place in _split_folders(folder).items()}
    numbers = _numbers({name for split in splits.values() for name in split.classes or ()})
    labels = {
        name: [numbers[c] for c in split.classes or ()] or [0] * len(split.images)
        for name, split in splits.items()
    }
    first = splits["train"].images[0]
    shape = _read_image(first).shape

    def decode(name: str) -> decoded.Decoded:
        rows = _rows(splits[name].images, labels[name], first, shape)
        return decoded.Decoded(len(labels[name]), rows, splits[name].classes is not None)

    files = {name: split.images for name, split in splits.items()}
    return decoded.load(files, decode, reading=f"images {json.dumps(labels)}")


def _split_folders(folder: Path) -> dict[str, Path]:
    """Returns the folder of each split: the whole one is the train split if there are none."""
    inside: dict[str, Path] = {}
    for path in _list(folder).folders:
        other = inside.setdefault(path.name.lower(), path)
        if other != path and any(path.name.lower() in names for names in _SPLITS.values()):
            raise InputError(
                f"--dataset {folder} has the folders {other.name} and {path.name}, which mean the "
                "same; put their images into one"
            )
    found = {
        split: next((inside[name] for name in names if name in inside), None)
        for split, names in _SPLITS.items()
    }
    places = {split: place for split, place in found.items() if place is not None}
    if len(places) == 1 and "train" in places:
        others = [path for path in inside.values() if path != places["train"]]
        if any(_list(path).images for path in others):  # then train is the name of a class
            return {"train": folder}
        return places
    return places if len(places) == 2 else {"train": folder}


def _list_images(folder: Path) -> _Split:
    """Returns the images of a folder, or those in the folders of classes that are in it."""
    flat, folders = _list(folder)
    listings = {path.name: _list(path) for path in folders}
    by_class = {name: listing for name, listing in listings.items() if listing.images}
    if flat and by_class:
        raise InputError(
            f"--dataset {flat[0]} is beside folders of images, such as {min(by_class)}; "
            "put it into the folder of its class"
        )
    if not by_class and not flat:
        _refuse_without_images(folder)
    read = {path.resolve() for path in (folder, *folders)}  # links may lead back to them
    for inner in (path for listing in listings.values() for path in listing.folders):
        if inner.resolve() not in read and _list(inner).images:
            raise InputError(f"--dataset {inner} holds images, but is in the folder of a class")
    if by_class:
        images = [image for name in sorted(by_class) for image in by_class[name].images]
        classes = [name for name in sorted(by_class) for _ in by_class[name].images]
        return _Split(images, classes)
    return _Split(flat, None)


def _refuse_without_images(folder: Path) -> NoReturn:
    """Raises InputError, which says where images are if they are deeper than they should be."""
    paths = (path for depth in ("*/*/*", "*/*/*/*") for path in folder.glob(depth))
    if image := next((path for path in paths if _is_image(path)), None):
        names = ", ".join(path.name for path in _list(folder).folders)
        raise InputError(
            f"--dataset {folder} must hold images, folders of classes, or train and test with "
            f"these in them, but it holds {names}, and images only deeper, such as {image}"
        )
    raise InputError(
        f"--dataset {folder} holds no PNG or JPEG images, nor folders of them; IDX files and "
        "data prepared by TensorFlow Datasets are for --data-dir, with their name as --dataset"
    )


def _list(folder: Path) -> _Listing:
    """Returns what is in a folder, but for hidden files and those that systems leave there.

    Raises:
      InputError: if there are images that are not read.
    """
    found = _Listing([], [])
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith(".") or entry.name.lower() in _NOT_OF_THE_USER:
                continue
            if entry.is_dir():
                found.folders.append(folder / entry.name)
            elif suffix in _OTHER_IMAGES:
                raise InputError(
                    f"--dataset {entry.path} must be a PNG or a JPEG, as all images of a folder"
                )
            elif suffix in _SUFFIXES and not entry.is_file():  # a pipe, or a link to nothing
                raise InputError(f"--dataset {entry.path} is no regular file")
            elif suffix in _SUFFIXES:
                found.images.append(folder / entry.name)
    return found


def _numbers(names: set[str]) -> dict[str, int]:
    """Returns the number of each class."""
    is_whole = all(name.isascii() and name.isdigit() for name in names)
    ordered = sorted(names, key=lambda name: (int(name), name) if is_whole else (0, name))
    return {name: number for number, name in enumerate(ordered)}


def _rows(
    paths: Sequence[Path], labels: Sequence[int], first: Path, shape: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, int]]:
    for path, label in zip(paths, labels, strict=True):
        image = _read_image(path)
        if image.shape != shape:
            raise InputError(
                f"--dataset {path} is {_described(image.shape)}, but {os.fspath(first)} is "
                f"{_described(shape)}; all images must be of one size, and all grey or all colour"
            )
        yield image, label


def _described(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{height} x {width} {'grey' if channels == 1 else 'colour'}"


def _read_image(path: Path) -> np.ndarray:
    """Returns the pixels uint8 ``(height, width, channels)`` of one file.

    Raises:
      InputError: if it cannot be read, has transparent pixels, or more than 8 bits a channel.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=("PNG", "JPEG"))
        with image:
            is_deep = any("16" in str(tile.args) for tile in image.tile)  # Pillow cuts colour to 8
            mode = image.mode
            has_alpha = "A" in mode or "transparency" in image.info
            if is_deep or mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
                kind = "more than 8 bits a channel" if is_deep else f"the mode {mode}"
                raise InputError(f"--dataset {path} has {kind}; save it as 8-bit grey or RGB")
            if has_alpha and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
                raise InputError(f"--dataset {path} has transparent pixels; save it without them")
            upright = ImageOps.exif_transpose(image)  # as every viewer shows it
            pixels = np.asarray(upright.convert("L" if mode in ("1", "L", "LA") else "RGB"))
    except InputError:
        raise
    except Exception as error:  # damaged bytes raise whatever the decoders raise, bombs too
        reason = _other_kind(path) or f"{first_line(error)}; is it damaged?"
        raise InputError(f"--dataset {path} cannot be read as an image: {reason}") from error
    return pixels.reshape(*pixels.shape[:2], -1)


def _other_kind(path: Path) -> str | None:
    """Returns the kind of a file that is known to be no PNG or JPEG, with a remedy, or None."""
    with open(path, "rb") as file:
        kind = contents.describe(file.read(contents.START))
    if kind in (None, "a PNG image", "a JPEG image"):
        return None
    return f"it must be a PNG or a JPEG, but it is {kind}"
