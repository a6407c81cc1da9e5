"""Folders of images: pixels, and classes if each class has a subfolder of its own."""

import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aevb.data.io import sources
from aevb.errors import UserError
from aevb.runtime.paths import shown

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
NO_CLASSES = ("__MACOSX", "@eaDir")  # folders of previews that systems make, besides hidden ones
USUAL_SIZE = 32, 32  # height and width that a message proposes; trained in minutes
MOST_NAMED = 10  # subfolders that a message names


class Images(NamedTuple):
    """The images of a folder, sorted by name or, with classes, by class and name."""

    pixels: np.ndarray  # [N, height, width] or [N, height, width, 3], uint8
    class_names: tuple[str, ...] = ()  # () without classes
    classes: np.ndarray | None = None  # [N], the place of each image's class in class_names


def read(folder: Path) -> Images:
    """Reads the images that lie directly in a folder or, if there are none, in its subfolders.

    Each subfolder with images is then a class. Numbers in names are compared as numbers, so 10.png
    comes after 9.png. Hidden files, other files, subfolders of subfolders, and subfolders that have
    the suffix of an image or a name of `NO_CLASSES` are ignored. Lines on stderr say how pixels
    were converted, and which subfolders are classes or left out.

    Raises:
        UserError: the folder or an image cannot be read, there is no image, or the images differ in
            shape.
    """
    files, by_class = _found(folder)
    if not by_class:
        return Images(_pixels(folder, files))
    names = tuple(by_class)
    words = f"has no image directly in it; its subfolders are taken as classes ({_some(names)})"
    print(f"{folder} {words}", file=sys.stderr)
    sizes = [len(of_class) for of_class in by_class.values()]
    return Images(_pixels(folder, files), names, np.repeat(np.arange(len(names)), sizes))


def _found(folder: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """Returns the images that `read` takes, and them by class, {} without classes.

    Raises:
        UserError: the folder cannot be read, or there is no image.
    """
    try:
        direct, by_class = _files(folder), _by_class(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({sources.one_line(error)})") from None
    names = tuple(by_class)
    if direct:
        if names:
            words = f"the {len(direct)} images directly in it are used, and not those in its "
            print(f"{folder}: {words}subfolders ({_some(names)})", file=sys.stderr)
        return direct, {}
    if not names:
        raise UserError(
            f"{folder} holds no image ({', '.join(SUFFIXES)}); images:FOLDER takes those that lie "
            "directly in it or, without these, in its subfolders, one for each class"
        )
    return [file for of_class in by_class.values() for file in of_class], by_class


def _files(folder: Path) -> list[Path]:
    """Returns the images directly in a folder, sorted by name."""
    files = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    return sorted(files, key=_in_order)


def _by_class(folder: Path) -> dict[str, list[Path]]:
    """Returns class -> its images, for each subfolder with images, both sorted by name."""
    subfolders = [
        path
        for path in folder.iterdir()
        if path.name not in NO_CLASSES
        and not path.name.startswith(".")
        and path.suffix.lower() not in SUFFIXES
        and path.is_dir()
    ]
    by_class = {shown(path.name): _files(path) for path in sorted(subfolders, key=_in_order)}
    return {name: files for name, files in by_class.items() if files}


def _some(names: Sequence[str]) -> str:
    """Returns the first names, and the number of the others."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _pixels(folder: Path, files: Sequence[Path]) -> np.ndarray:
    """Reads image files, [N, height, width] or [N, height, width, 3] uint8.

    Raises:
        UserError: an image cannot be read, or they differ in shape.
    """
    first, notes = _pixels_of(files[0])
    x = np.empty((len(files), *first.shape), np.uint8)
    for number, path in enumerate(files):
        pixels, more = _pixels_of(path)
        if pixels.shape != first.shape:
            raise UserError(
                f"{path} is {_described(pixels)}, and {files[0].relative_to(folder)} is "
                f"{_described(first)}; all images of {folder} must be alike. To crop and scale "
                f"them into a new folder: {_command(folder, pixels, first)}"
            )
        x[number], notes = pixels, notes | more
    for note in sorted(notes):
        print(f"{folder}: {note}", file=sys.stderr)
    return x


def _command(folder: Path, one: np.ndarray, other: np.ndarray) -> str:
    """Returns a shell command that resizes a folder of images, two of which differ in shape."""
    height, width = one.shape[:2] if one.shape[:2] == other.shape[:2] else USUAL_SIZE
    new = folder.with_name(f"{folder.name}_{height}x{width}")
    names = ", ".join(json.dumps(str(path), ensure_ascii=False) for path in (folder, new))
    code = f"from aevb.data.image_folders import resize; resize({names}, {height}, {width})"
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"


def resize(folder: str | Path, new: str | Path, height: int, width: int) -> None:
    """Writes the images of a folder, cropped at their center and scaled, into a new folder.

    They are written as PNG, FILE.png for the image FILE, and upright. Subfolders of classes are
    kept. If some images are in color, all are.

    Raises:
        UserError: the folder or an image cannot be read, the new folder exists or cannot be
            written, or a size is not positive.
    """
    from PIL import Image, ImageOps

    folder, new = Path(folder), Path(new)
    if min(height, width) < 1:
        raise UserError(f"the size is {height} x {width} pixels; both must be at least 1")
    if new.exists():
        raise UserError(f"{new} exists; name a new folder")
    files, _ = _found(folder)
    fitted = [ImageOps.fit(Image.fromarray(_pixels_of(file)[0]), (width, height)) for file in files]
    mode = "RGB" if any(image.mode == "RGB" for image in fitted) else "L"
    try:
        for file, image in zip(files, fitted, strict=True):
            target = new / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            image.convert(mode).save(target.with_name(f"{file.name}.png"))
    except OSError as error:
        raise UserError(f"{new} cannot be written ({error}); name another folder") from error


def _in_order(path: Path) -> list[str | int]:
    parts = re.split(r"(\d+)", path.name)  # text and numbers alternate
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _pixels_of(path: Path) -> tuple[np.ndarray, set[str]]:
    """Returns the pixels of an image file, [height, width] if grey, or [height, width, 3].

    They are upright, as the file's EXIF orientation says. It also returns what a reader must know
    of their conversion.

    Raises:
        UserError: the file cannot be read, or its pixels cannot be converted to 8 bits.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # many types of error, if the file is damaged
        raise UserError(
            f"{path} cannot be read as an image ({sources.one_line(error)}); repair it, or take it "
            "out of the folder"
        ) from None
    notes = set()
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        if all(np.ptp(np.asarray(image)[..., :3], axis=-1).ravel() == 0):
            image = image.convert("LA" if image.mode == "RGBA" else "L")
    if image.mode in ("RGBA", "LA"):
        notes.add("transparent pixels are shown over white")
        white = Image.new("RGBA", image.size, "white")
        grey = image.mode == "LA"
        image = Image.alpha_composite(white, image.convert("RGBA")).convert("L" if grey else "RGB")
    if image.mode in ("I", "I;16", "I;16B", "I;16L") and np.max(np.asarray(image)) < 2**16:
        notes.add("16-bit levels k are read as round(k / 257), in 8 bits")
        return np.rint(np.asarray(image, np.float64) / 257).astype(np.uint8), notes
    if image.mode == "1":
        image = image.convert("L")  # 0 and 255
    if image.mode in ("CMYK", "YCbCr"):
        image = image.convert("RGB")
    if image.mode not in ("L", "RGB"):
        raise UserError(
            f"{path} has pixels of Pillow's mode {image.mode!r}; they must be grey or colors, as "
            "image.convert('L') makes them"
        )
    return np.asarray(image), notes


def _described(pixels: np.ndarray) -> str:
    height, width, *channels = pixels.shape
    return f"{height} x {width} of {'colors' if channels else 'grey'}"
