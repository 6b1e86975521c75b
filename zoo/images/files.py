"""Which files of a directory or an archive are images of which split and class, and what is left out.

    …/{train,test}/<class>/…/<image>        val/, valid/ or validation/ beside test/, or in its place; names like
                                            Training/ and Testing/, seg_train/ and seg_test/ where there is no train/
    …/<class>/…/<image>                     where there is neither: all in one, to be split

Images lie below a class at any depth; links are followed, hidden names are not. Nothing is left out in silence: what is
not read is counted by what it is.
"""

from __future__ import annotations

import lzma
import os
import re
import tarfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from zoo.errors import DataError

# By what their folders are called, in any case. Without a folder of splits all images are of the split "".
_SPLITS = {name: name for name in ("train", "validation", "test")} | {"val": "validation", "valid": "validation"}
# What else they are called: Training, test_set, seg_train, train-images, pets_val.
_LIKE_SPLITS = re.compile(
    r"(?:.*[\W_])?(?:(?P<train>train|training|trainval)|(?P<validation>val|valid|validation|dev)|(?P<test>test|testing))"
    r"(?:[\W_]?(?:set|data|images?|imgs?|photos?|pictures?))?",
    re.IGNORECASE,
)
# Which modules read what only some installations can.
_PLUGINS = {"PIL._avif": (".avif",), "pillow_heif": (".heic", ".heif")}


def _installed() -> Iterator[str]:
    """Suffixes that only some installations read."""
    for module, suffixes in _PLUGINS.items():
        try:
            yield from suffixes if find_spec(module) else ()
        except ModuleNotFoundError:  # not even Pillow
            continue


READ = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".pbm", ".pgm", ".ppm", ".pnm", *_installed()),
    )
)
# What a person would call an image too, wherever it lies.
_IMAGES = READ | {".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw"}
# An archive's images may have so many bytes, or so many times its own: it is read into memory.
_FEW_BYTES, _MOST_TIMES = 256 * 1024 * 1024, 100
# Names that systems leave behind, with those that begin with a dot.
_HIDDEN = frozenset(("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"))


# What a directory or an archive holds: a file, or a folder with None.
Entry = tuple[PurePosixPath, Path | bytes | None]


@dataclass(frozen=True)
class Found:
    """An image: where it is, as people would say it, and its bytes or where to read them."""

    path: PurePosixPath
    split: str
    label: str
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
            f"{count:,} {kind if count == 1 else _plural(kind)} ({first})" for kind, count, first in self.items()
        ) + ("; the package pillow-heif reads HEIC" if {".heic", ".heif"} & self._counts.keys() else "")

    def items(self) -> list[tuple[str, int, str]]:
        """What, how many, the first; the most first."""
        return [(kind, count, str(self._first[kind])) for kind, count in self._counts.most_common()]

    def add(self, kind: str, place: PurePosixPath) -> None:
        self._counts[kind] += 1
        self._first.setdefault(kind, place)


@dataclass
class Listing:
    # In the order of (split, class, name), the class in one Unicode form (NFC).
    files: list[Found] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    # What is left out in each class folder, which is there even where it is empty: (split, class)
    classes: dict[tuple[str, str], LeftOut] = field(default_factory=dict)
    # Class names that were found in more than one Unicode form.
    merged: set[str] = field(default_factory=set)


def listing(path: Path) -> Listing:
    """Raises DataError."""
    if not path.exists():
        raise DataError(f"{path}: no such directory or archive")
    result = Listing()
    entries = list(_in_directory(path, result.left_out) if path.is_dir() else _in_archive(path, result.left_out))
    found = _root_of_splits(path, entries)
    is_split = found is not None
    root = _root_of_classes(path, entries) if found is None else found
    depth = len(root)
    splits = _splits_at(path, root, entries) if is_split else {}
    doubled = {name for name, split in splits.items() if _is_doubled((*root, name), split, entries)}
    elsewhere = "outside the folders of splits" if is_split else "in no class folder"
    forms: dict[str, str] = {}
    for place, source in entries:
        top = place.parts[depth] if len(place.parts) > depth else ""
        split = splits.get(top, "")
        below = place.parts[depth + is_split + (top in doubled) :]
        if place.parts[:depth] != root or (is_split and not split):
            _leave_out(result, place, source, elsewhere)
        elif source is not None and len(below) < 2:
            _leave_out(result, place, source, "in no class folder")
        elif below:
            label = unicodedata.normalize("NFC", below[0])
            if forms.setdefault(label, below[0]) != below[0]:
                result.merged.add(label)
            others = result.classes.setdefault((split, label), LeftOut())
            kind = _kind(place)
            if source is not None and kind in READ:
                named = PurePosixPath(split, label, *below[1:])
                result.files.append(Found(named, split, label, source))
            elif source is not None:
                result.left_out.add(kind, place)
                if is_split or kind in _IMAGES:  # beside class folders others may lie, of labels as text
                    others.add(kind, place)
    result.files.sort(key=lambda found: found.path.parts)
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


def _split(name: str) -> str | None:
    return _SPLITS.get(name.lower())


def _like_split(name: str) -> str | None:
    found = _LIKE_SPLITS.fullmatch(name)
    return found and found.lastgroup


def _folders(entry: Entry) -> tuple[str, ...]:
    place, source = entry
    return place.parts if source is None else place.parts[:-1]


def _root_of_splits(path: Path, entries: list[Entry]) -> tuple[str, ...] | None:
    """The folder nearest to `path` that has a train/ with folders in it; else the one that has several with folders in
    them and names like those of splits."""
    roots = set()
    for folders in map(_folders, entries):
        at = next((depth for depth, name in enumerate(folders[:-1]) if _split(name) == "train"), None)
        if at is not None:
            roots.add(folders[:at])
    if not roots:
        called: dict[tuple[str, ...], set[str | None]] = {}
        for folders in map(_folders, entries):
            at = next((depth for depth, name in enumerate(folders[:-1]) if _like_split(name)), None)
            if at is not None:
                called.setdefault(folders[:at], set()).add(_like_split(folders[at]))
        roots = {root for root, splits in called.items() if "train" in splits and len(splits) > 1}
    nearest = sorted(root for root in roots if len(root) == min(map(len, roots)))
    if len(nearest) > 1:
        names = ", ".join("/".join((*root, "train")) for root in nearest[:5])
        raise DataError(f"{path} holds {len(nearest)} data sets ({names}): name the folder of one")
    return nearest[0] if nearest else None


def _splits_at(path: Path, root: tuple[str, ...], entries: list[Entry]) -> dict[str, str]:
    """Which folder is which split. Raises DataError where two could be the same."""
    names = sorted({place.parts[len(root)] for place, _ in entries if len(place.parts) > len(root) + 1})
    exact = {name: split for name in names if (split := _split(name))}
    if "train" in exact.values():
        return exact
    found = {name: split for name in names if (split := _like_split(name))}
    for split in set(found.values()):
        alike = [f"{name}/" for name in names if found.get(name) == split]
        if len(alike) > 1:
            raise DataError(
                f"{path} has {', '.join(alike)}: call one of them {split}/, or name the folder of one data set"
            )
    return found


def _is_doubled(folder: tuple[str, ...], split: str, entries: list[Entry]) -> bool:
    """Whether all that it holds is one folder of that name with classes: seg_train/seg_train/cat/1.jpg."""
    depth = len(folder)
    inside = {folders[depth:] for folders in map(_folders, entries) if folders[:depth] == folder} - {()}
    names = {below[0] for below in inside}
    return len(names) == 1 and _like_split(*names) == split and any(len(below) > 1 for below in inside)


def _root_of_classes(path: Path, entries: list[Entry]) -> tuple[str, ...]:
    """The folder nearest to `path` with images in more than one folder. Raises DataError where these are splits."""
    images = [place.parts for place, source in entries if source is not None and _kind(place) in _IMAGES]
    root: tuple[str, ...] = ()
    while True:
        folders = {parts[len(root)] for parts in images if parts[: len(root)] == root and len(parts) > len(root) + 1}
        splits = sorted(filter(_like_split if len(folders) > 1 else _split, folders))
        if splits and len(splits) == len(folders):
            raise DataError(f"{path} has {', '.join(f'{split}/' for split in splits)} and no train/ with class folders")
        inside = {parts[: len(root) + 1] for parts in images if parts[: len(root)] == root}
        deeper = any(len(parts) > len(root) + 2 for parts in images)
        if len(inside) != 1 or not folders or not deeper:
            return root
        root = next(iter(inside))


# --- directories ----------------------------------------------------------------------------------------


def _in_directory(path: Path, left_out: LeftOut) -> Iterator[Entry]:
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
    """Up to the class folder; nothing above the folders of splits."""
    first = next((index for index, part in enumerate(place.parts) if _split(part)), None)
    return () if first is None else place.parts[: first + 2]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _HIDDEN


# --- archives -------------------------------------------------------------------------------------------


def _in_archive(path: Path, left_out: LeftOut) -> Iterator[Entry]:
    """As `_in_directory`, with the bytes of the files that may be images. Raises DataError."""
    found: dict[PurePosixPath, bytes | None] = {}
    num_bytes, most = 0, max(_FEW_BYTES, _MOST_TIMES * path.stat().st_size)
    links: list[tuple[PurePosixPath, PurePosixPath]] = []
    try:
        for place, member in _in_zip(path) if zipfile.is_zipfile(path) else _in_tar(path):
            if any(_is_hidden(part) for part in place.parts):
                left_out.add("hidden folder" if member is None else "hidden file", place)
            elif isinstance(member, str):
                left_out.add(member, place)
            elif isinstance(member, PurePosixPath):
                links.append((place, member))
            elif member is None:
                found[place] = None
            elif _kind(place) not in READ:
                found[place] = b""
            else:
                num_bytes += member.num_bytes
                if num_bytes > most:
                    raise DataError(
                        f"{path}: the images in it have more than {most:,} bytes, {_MOST_TIMES} times the archive: no "
                        "photos can be packed so small"
                    )
                found[place] = member.read()
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, OSError, EOFError, RuntimeError, zlib.error) as error:
        # What tarfile makes of a file that is no archive names each kind of archive that it is not.
        is_none = isinstance(error, tarfile.ReadError) and "method" in str(error)
        reason = "it is no archive, or a damaged one" if is_none else " ".join(str(error).split())
        raise DataError(f"{path} is neither a directory nor a readable .tar.gz or .zip: {reason}") from error
    for place, target in links:
        content = found.get(target)
        if content:
            found[place] = content
        else:
            left_out.add("link in the archive to what is no image in it", place)
            found.setdefault(place.parent, None)  # a class without images is told of
    yield from found.items()


@dataclass(frozen=True)
class _Packed:
    num_bytes: int
    read: Callable[[], bytes]


# What an archive has: a file, None for a folder, where a link leads, or why it is left out.
Members = Iterator[tuple[PurePosixPath, "_Packed | PurePosixPath | str | None"]]


def _in_zip(path: Path) -> Members:
    """Raises RuntimeError over a password."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = _name_in_zip(info)
            is_folder = name.endswith("/")
            yield PurePosixPath(name), None if is_folder else _Packed(info.file_size, partial(archive.read, info))


def _name_in_zip(info: zipfile.ZipInfo) -> str:
    """As it was meant: macOS writes UTF-8 without saying so, and Windows has written backslashes."""
    name = info.filename
    if not info.flag_bits & 0x800:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name if "/" in name else name.replace("\\", "/")


def _in_tar(path: Path) -> Members:
    with tarfile.open(path) as archive:
        for member in archive:
            place = PurePosixPath(member.name)
            if member.isdir():
                yield place, None
            elif member.isfile() and (content := archive.extractfile(member)):
                yield place, _Packed(member.size, content.read)
            elif member.islnk() or member.issym():  # a file that is there twice is written as a link
                base = place.parent if member.issym() else PurePosixPath()
                yield place, PurePosixPath(os.path.normpath(base / member.linkname))
            else:
                yield place, "special file in the archive"
        # tarfile takes a damaged header for the end; the checksum of a .gz stands behind all that it reads.
        assert archive.fileobj is not None
        while archive.fileobj.read(2**20):
            pass


def _plural(kind: str) -> str:
    return kind if kind.startswith(".") else re.sub(r"\b(link|file|folder|image)\b", r"\1s", kind, count=1)
