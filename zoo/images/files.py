"""Which files of a directory or an archive are images of which split and class, and what is left out.

    …/{train,test}/<class>/…/<image>        images below a class at any depth; links are followed, hidden names are not

Nothing is left out in silence: what is not read is counted by what it is.
"""

from __future__ import annotations

import os
import re
import tarfile
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from zoo.errors import DataError

SPLITS = ("train", "test")
READ = frozenset((".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"))
# What a person would call an image too, wherever it lies.
_IMAGES = READ | {".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw"}
# Names that systems leave behind, with those that begin with a dot.
_HIDDEN = frozenset(("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"))


@dataclass(frozen=True)
class Found:
    """A file: where it is in the directory or archive, and its bytes or where to read them."""

    place: PurePosixPath
    source: Path | bytes


class LeftOut:
    """How many of what, and where the first is. As text: 3 .heic (train/cat/1.heic), 2 dead links (train/dog/a.png)"""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, PurePosixPath] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        return ", ".join(
            f"{count:,} {kind if count == 1 else _plural(kind)} ({self._first[kind]})"
            for kind, count in self._counts.most_common()
        )

    def add(self, kind: str, place: PurePosixPath) -> None:
        self._counts[kind] += 1
        self._first.setdefault(kind, place)


@dataclass
class Listing:
    # <split>/<class>/…/<image>, the class in one Unicode form (NFC).
    files: list[Found] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    # What is left out in each class folder, which is there even where it is empty: (split, class)
    classes: dict[tuple[str, str], LeftOut] = field(default_factory=dict)
    # Class names that were found in more than one Unicode form.
    merged: set[str] = field(default_factory=set)


def listing(path: Path) -> Listing:
    """Raises DataError."""
    result = Listing()
    entries = list(_in_directory(path, result.left_out) if path.is_dir() else _in_archive(path, result.left_out))
    root = _root(path, [place for place, _ in entries])
    forms: dict[str, str] = {}
    for place, source in entries:
        if place.parts[: len(root)] != root:
            _leave_out(result, place, source, "outside train/ and test/")
            continue
        split, *below = place.parts[len(root) :] or ("",)
        if split not in SPLITS:
            _leave_out(result, place, source, "outside train/ and test/")
        elif source is not None and len(below) < 2:
            _leave_out(result, place, source, "in no class folder")
        elif below:
            label = unicodedata.normalize("NFC", below[0])
            if forms.setdefault(label, below[0]) != below[0]:
                result.merged.add(label)
            others = result.classes.setdefault((split, label), LeftOut())
            kind = _kind(place)
            if source is not None and kind in READ:
                result.files.append(Found(PurePosixPath(split, label, *below[1:]), source))
            elif source is not None:
                others.add(kind, place)
                result.left_out.add(kind, place)
    result.files.sort(key=lambda found: found.place.parts)
    return result


def images_below(path: Path) -> tuple[list[Path], LeftOut]:
    """Of any folder, at any depth, in the order of their names. Raises DataError where one cannot be listed."""
    left_out = LeftOut()
    found = []
    for place, source in _in_directory(path, left_out):
        if isinstance(source, Path):
            if _kind(place) in READ:
                found.append(source)
            else:
                left_out.add(_kind(place), place)
    return sorted(found), left_out


def _leave_out(result: Listing, place: PurePosixPath, source: Path | bytes | None, why: str) -> None:
    """Files of other kinds may lie beside the images: a README, labels as text."""
    if source is not None and _kind(place) in _IMAGES:
        result.left_out.add(f"image {why}", place)


def _kind(place: PurePosixPath) -> str:
    return place.suffix.lower() or "file without suffix"


def _root(path: Path, places: list[PurePosixPath]) -> tuple[str, ...]:
    """Of train/ and test/: the folder nearest to `path` that has a train/ with something in it."""
    roots = {place.parts[: place.parts.index("train")] for place in places if "train" in place.parts[:-1]}
    nearest = sorted(root for root in roots if len(root) == min(map(len, roots)))
    if len(nearest) > 1:
        names = ", ".join("/".join((*root, "train")) for root in nearest[:5])
        raise DataError(f"{path} holds {len(nearest)} data sets ({names}): name the folder of one")
    return nearest[0] if nearest else ()


# --- directories ----------------------------------------------------------------------------------------

Entries = Iterator[tuple[PurePosixPath, "Path | bytes | None"]]


def _in_directory(path: Path, left_out: LeftOut) -> Entries:
    """Files, and folders with None. Raises DataError where a folder cannot be listed."""
    # Of each class, or of what lies above classes, every folder is read once, however many links lead to it.
    seen: set[tuple[tuple[str, ...], str]] = set()
    waiting = [(path, PurePosixPath())]
    while waiting:
        folder, place = waiting.pop()
        real = os.path.realpath(folder)
        key = (_class_of(place), real)
        if key in seen:
            left_out.add("link to a folder that is read already", place)
            continue
        seen.add(key)
        yield place, None
        try:
            # Links wait longest: of a folder and a link to it, the folder is read.
            entries = sorted(os.scandir(folder), key=lambda entry: (not entry.is_symlink(), entry.name))
        except OSError as error:
            raise DataError(f"the folder {folder} cannot be read: {error.strerror}") from error
        for entry in entries:
            kind = _entry_kind(entry, real)
            if kind == "folder":
                waiting.append((Path(entry.path), place / entry.name))
            elif kind == "file":
                yield place / entry.name, Path(entry.path)
            else:
                left_out.add(kind, place / entry.name)


def _entry_kind(entry: os.DirEntry[str], inside: str) -> str:
    """ "folder", "file", or why it is left out."""
    try:
        is_folder = entry.is_dir()
    except OSError:  # a link to itself
        return "dead link"
    if _is_hidden(entry.name):
        return "hidden folder" if is_folder else "hidden file"
    if not is_folder:
        return "file" if entry.is_file() else "dead link" if entry.is_symlink() else "special file"
    if entry.is_symlink() and Path(inside).is_relative_to(os.path.realpath(entry.path)):
        return "link to a folder that it lies in"
    return "folder"


def _class_of(place: PurePosixPath) -> tuple[str, ...]:
    """Up to the class folder; nothing above train/ and test/."""
    first = next((index for index, part in enumerate(place.parts) if part in SPLITS), None)
    return () if first is None else place.parts[: first + 2]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _HIDDEN


# --- archives -------------------------------------------------------------------------------------------


def _in_archive(path: Path, left_out: LeftOut) -> Entries:
    """As `_in_directory`, with the bytes of the files that may be images. Raises DataError."""
    found: dict[PurePosixPath, bytes | None] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                place = PurePosixPath(member.name)
                if any(_is_hidden(part) for part in place.parts):
                    left_out.add("hidden folder" if member.isdir() else "hidden file", place)
                elif member.isdir():
                    found[place] = None
                elif member.isfile():
                    content = archive.extractfile(member) if _kind(place) in READ else None
                    found[place] = content.read() if content else b""
                else:
                    left_out.add("link or special file in the archive", place)
            # tarfile takes a damaged header for the end; the checksum of a .gz stands behind all that it reads.
            assert archive.fileobj is not None
            while archive.fileobj.read(2**20):
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is neither a directory nor a readable .tar.gz: {reason}") from error
    yield from found.items()


def _plural(kind: str) -> str:
    return kind if kind.startswith(".") else re.sub(r"\b(link|file|folder|image)\b", r"\1s", kind, count=1)
