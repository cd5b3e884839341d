"""Images in PNG, JPEG and other files: decoded in threads, brought to one form, split in two."""

from __future__ import annotations

import hashlib
import io
import math
import os
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sparring.data import decoded
from sparring.data.dataset import LARGEST, SMALLEST, Dataset
from sparring.data.reading import machine_memory
from sparring.errors import DataError, SettingsError

if TYPE_CHECKING:
    from PIL import Image

Tell = Callable[[str], None]
"""Called with a sentence now and then while long work goes on."""
Result = TypeVar("Result")

CHUNK = 64
"""Images that are read or decoded as one piece of work."""
MOST_PIXELS = 2**26
"""Pixels that an image may have before it is resized."""
MOST_IMAGES = 10**7
"""Images that a data set may have."""

_VERSION = 1
"""Of what is made of the same files; another one leaves what was kept before alone."""
_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP")
"""What Pillow may take a file for: no formats that run programs, as EPS does."""
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of one channel, with or without alpha."""
_ORIENTATION = 0x0112
_EVERY = 5.0
"""Seconds between two sentences about progress."""

_CONVERTED = {
    "grey": "grey, made color",
    "bilevel": "black and white without grey, made grey levels 0 and 255",
    "palette": "with a palette, made color",
    "alpha": "with transparency, laid on white",
    "deep": "of 16 bits a channel, made 8 bits",
    "space": "of another color space (CMYK, YCbCr, LAB), made RGB",
    "turned": "turned as their EXIF orientation says",
    "frames": "of several frames, of which the first was taken",
}
"""What is said of images that were not taken as they are, by kind."""


@dataclass(frozen=True)
class Encoded:
    """One image as it lies in a file."""

    where: str
    """The file, and the row in it, for messages."""
    read: Callable[[], bytes]
    """Gives its bytes, from any thread."""


@dataclass(frozen=True)
class Collection:
    """Labeled images in their encoded form, before any is decoded."""

    name: str
    """Of the data set."""
    names: Sequence[str]
    """Of each image, all different: they decide the order of the images and who is held out."""
    labels: np.ndarray
    """Integers [N], counted from 0."""
    test: np.ndarray | None
    """Which images are for testing, booleans [N]; None holds a fifth of each class out."""
    class_names: tuple[str, ...]
    """In the order of the labels."""
    sha256: str
    """Of all that lies in the files."""
    chunks: Callable[[], Iterator[Sequence[Encoded]]]
    """Gives the images in order, some at a time."""
    notes: tuple[str, ...] = ()
    """What is to be said of them."""


def silent(text: str) -> None:
    """Tell nobody."""


def pillow() -> ModuleType:
    """Import Pillow's module Image.

    Raises:
        SettingsError: when it cannot be imported; says how to install it.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise SettingsError(
            "images in files are decoded by Pillow, which cannot be imported: "
            f"pip install 'sparring[images]' ({error})"
        ) from error
    return Image


def checked_resize(resize: int | None) -> int | None:
    """Give the side that images are resized to; SettingsError for one that none can have."""
    integer = isinstance(resize, int | np.integer) and not isinstance(resize, bool)
    if resize is not None and not (integer and SMALLEST <= resize <= LARGEST):
        raise SettingsError(
            f"resize: expected a side of {SMALLEST} to {LARGEST} pixels, got {resize!r:.80}"
        )
    return resize


def to_dataset(collection: Collection, resize: int | None, tell: Tell) -> Dataset:
    """Decode a collection, or take what was decoded before of the same files, and split it.

    The images of each part are in an order that follows from a hash of their names, so the first N
    of them have all classes in about the same shares.

    Args:
        collection: the images, as many classes as names.
        resize: side of the square that images are brought to: the shorter side by resampling, then
            the middle of the longer; None needs images of one size.
        tell: told how far decoding is.

    Returns:
        The data set, without a key.

    Raises:
        DataError: for images that cannot be read, are too large, or of several sizes without
            `resize`.
    """
    notes = list(collection.notes)
    draws = [hashlib.sha256(name.encode("utf-8", "surrogateescape")) for name in collection.names]
    ranks = np.argsort([draw.hexdigest() for draw in draws], kind="stable")
    test = collection.test
    if test is None:
        test = _held_out(collection, ranks)
        notes.append(
            f"{collection.name} has no test images of its own: {test.sum():,} of its "
            f"{len(test):,}, a fifth of each class drawn by a hash of their names, are held out "
            "for testing"
        )
    order = np.concatenate([ranks[~test[ranks]], ranks[test[ranks]]])
    about = f"{_VERSION} {resize} {collection.sha256}".encode()
    key = hashlib.sha256(about + order.astype("<i8").tobytes()).hexdigest()
    if (kept := decoded.find(key)) is None:
        images, converted = _decoded(collection, order, resize, tell)
        if problem := decoded.keep(key, images, converted):
            notes.append(f"decoded images are not kept for the next time: {problem}")
    else:
        images, converted = kept
    labels, train = collection.labels[order], int((~test).sum())
    return Dataset(
        name=collection.name,
        x_train=images[:train],
        y_train=labels[:train],
        x_test=images[train:],
        y_test=labels[train:],
        class_names=collection.class_names,
        notes=(*notes, *converted),
    )


def _held_out(collection: Collection, ranks: np.ndarray) -> np.ndarray:
    """Which images are held out for testing, a fifth of each class by rank, one at least."""
    test = np.zeros(len(ranks), bool)
    for label, name in enumerate(collection.class_names):
        own = ranks[collection.labels[ranks] == label]
        if len(own) < 2:
            raise DataError(
                f"class {name}: expected 2 images at least, one to train on and one held out for "
                f"testing, found {len(own)}"
            )
        test[own[: max(1, round(len(own) / 5))]] = True
    return test


def _decoded(
    collection: Collection, order: np.ndarray, resize: int | None, tell: Tell
) -> tuple[np.ndarray, tuple[str, ...]]:
    """All images, uint8 [N, H, W, C], in an order, and what is to be said of how they were made."""
    number = len(order)
    sizes: dict[tuple[int, int], str] = {}
    grey = True
    for looks in in_threads(_looked_at, collection.chunks(), number, "Looking at", tell):
        for (size, is_grey), where in looks:
            sizes.setdefault(size, where)
            grey = grey and is_grey
    [((width, height), where), *others] = sizes.items()
    notes: list[str] = []
    if resize is not None:
        notes = _resized(list(sizes), resize)
        width = height = resize
    elif others:
        [((other_width, other_height), other), *_] = others
        raise DataError(
            f"{collection.name}: expected images of one size, found {len(sizes)} sizes: {where} "
            f"has {width}x{height} pixels, {other} {other_width}x{other_height}. --resize N "
            "(resize=N) brings all to N x N"
        )
    elif not all(SMALLEST <= side <= LARGEST for side in (width, height)):
        raise DataError(
            f"{where}: expected sides of {SMALLEST} to {LARGEST} pixels, found "
            f"{width}x{height}. --resize N (resize=N) brings all to N x N"
        )
    channels = 1 if grey else 3
    needed = number * height * width * channels
    if needed > (memory := machine_memory()):
        raise DataError(
            f"{number:,} images of {width}x{height} take {needed:,} bytes, and this machine has "
            f"{memory:,.0f}. --resize N (resize=N) makes them smaller"
        )
    images = np.empty((number, height, width, channels), np.uint8)
    place = np.argsort(order)  # of each image, in the order of the collection
    counts: Counter[str] = Counter()
    done = 0
    make = partial(_pixels, shape=(height, width, channels), resize=resize is not None)
    for made in in_threads(make, collection.chunks(), number, "Decoding", tell):
        images[place[done : done + len(made)]] = [pixels for pixels, _ in made]
        done += len(made)
        for _, kinds in made:
            counts.update(kinds)
    notes += [
        f"{counts[kind]:,} of {number:,} images are {what}"
        for kind, what in _CONVERTED.items()
        if counts[kind]
    ]
    return images, tuple(notes)


def _resized(sizes: Sequence[tuple[int, int]], resize: int) -> list[str]:
    """Say how images were resized, if they were."""
    if sizes == [(resize, resize)]:
        return []
    cut = any(width != height for width, height in sizes)
    middle = "; of those that are not square the middle is taken" if cut else ""
    largest = "x".join(map(str, max(sizes, key=math.prod)))
    return [f"images of up to {largest} pixels were resized to {resize}x{resize}{middle}"]


def in_threads(
    work: Callable[[Encoded], Result],
    chunks: Iterable[Sequence[Encoded]],
    number: int,
    what: str,
    tell: Tell,
) -> Iterator[list[Result]]:
    """Do something with each image, in threads, and give the results in order.

    Args:
        work: what to do.
        chunks: the images, some at a time; a few chunks are taken ahead.
        number: how many images there are.
        what: is done with them, for `tell`.
        tell: told every few seconds how far it is.

    Yields:
        The results of a chunk.
    """
    threads = min(16, os.cpu_count() or 1)
    waiting: deque[Future[list[Result]]] = deque()
    done, told = 0, time.monotonic()

    def finished() -> list[Result]:
        nonlocal done, told
        results = waiting.popleft().result()
        done += len(results)
        if time.monotonic() - told > _EVERY:
            told = time.monotonic()
            tell(f"{what} the images: {done:,} of {number:,}")
        return results

    def on_chunk(chunk: Sequence[Encoded]) -> list[Result]:
        return [work(image) for image in chunk]

    executor = ThreadPoolExecutor(threads)
    try:
        with warnings.catch_warnings():  # Pillow's, of metadata that nobody asked for
            warnings.simplefilter("ignore")
            for chunk in chunks:
                waiting.append(executor.submit(on_chunk, chunk))
                if len(waiting) > 2 * threads:
                    yield finished()
            while waiting:
                yield finished()
    finally:
        executor.shutdown(cancel_futures=True)


def _opened(image: Encoded) -> Image.Image:
    """An image whose header is read and whose pixels are not."""
    opened: Image.Image = pillow().open(io.BytesIO(image.read()), formats=_FORMATS)
    width, height = opened.size
    if width * height > MOST_PIXELS:
        raise DataError(
            f"{image.where}: expected an image of at most {MOST_PIXELS:,} pixels, found "
            f"{width}x{height}"
        )
    return opened


def _turned(image: Image.Image) -> int:
    """How the image is to be turned, by EXIF: 1 not at all, up to 8; from 5 on its sides swap."""
    orientation: Any = image.getexif().get(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def _looked_at(image: Encoded) -> tuple[tuple[tuple[int, int], bool], str]:
    """Width and height, and whether it is grey; and where it lies."""
    with _naming(image), _opened(image) as opened:
        width, height = opened.size
        size = (height, width) if _turned(opened) >= 5 else (width, height)
        return (size, opened.mode in _GREY), image.where


def _pixels(
    image: Encoded, shape: tuple[int, int, int], resize: bool
) -> tuple[np.ndarray, list[str]]:
    """An image in color or grey, uint8 [H, W, C], and of which kinds of `_CONVERTED` it is."""
    library = pillow()
    from PIL import ImageOps

    height, width, channels = shape
    with _naming(image), _opened(image) as opened:
        kinds = _kinds(opened, channels)
        picture: Image.Image = opened
        if opened.mode.startswith("I"):
            levels = np.asarray(opened).astype(np.int64)
            if levels.min() < 0 or levels.max() > 65535:
                raise DataError(
                    f"{image.where}: expected 8 or 16 bits a channel, found values of "
                    f"{levels.min()} to {levels.max()}"
                )
            picture = library.fromarray(((levels + 128) // 257).astype(np.uint8))
        elif opened.mode == "F":
            raise DataError(
                f"{image.where}: expected 8 or 16 bits a channel, found floating-point values, "
                "which say nothing of what is black and white"
            )
        if "turned" in kinds:
            picture.getexif()[_ORIENTATION] = _turned(opened)
            picture = ImageOps.exif_transpose(picture)
        if "alpha" in kinds:
            over = library.new("RGBA", picture.size, "white")
            over.alpha_composite(picture.convert("RGBA"))
            picture = over
        picture = picture.convert("L" if channels == 1 else "RGB")
        if resize and picture.size != (width, height):
            # As torchvision's Resize and CenterCrop; averages over all pixels that it makes one of.
            picture = ImageOps.fit(picture, (width, height), library.Resampling.BILINEAR)
        return np.asarray(picture, np.uint8).reshape(shape), kinds


def _kinds(image: Image.Image, channels: int) -> list[str]:
    """Of which kinds of `_CONVERTED` an image is."""
    mode = image.mode
    is_a = {
        "grey": channels == 3 and mode in _GREY,
        "bilevel": mode == "1",
        "palette": mode in ("P", "PA"),
        "alpha": image.has_transparency_data,
        # Pillow drops the low bits of color by itself, and says so only here.
        "deep": mode.startswith("I")
        or any(";16" in str(part) for part in getattr(image, "tile", ())),
        "space": mode in ("CMYK", "YCbCr", "LAB", "HSV"),
        "turned": _turned(image) > 1,
        "frames": getattr(image, "is_animated", False),
    }
    return [kind for kind, applies in is_a.items() if applies]


@contextmanager
def _naming(image: Encoded) -> Iterator[None]:
    """Make a DataError with the place of an image of whatever Pillow raises within it."""
    try:
        yield
    except (DataError, SettingsError):
        raise
    except Exception as error:  # damaged bytes make Pillow raise nearly everything
        raise DataError(
            f"{image.where}: expected an image ({', '.join(_FORMATS)}), found one that is damaged, "
            f"truncated or of another kind ({error!s:.200})"
        ) from error
