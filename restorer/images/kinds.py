"""The kinds of files that lie among pictures, told apart by their names alone.

A folder of pictures also holds what cameras, telephones, editors, desktops and file servers leave there. A run over a
folder restores the pictures and counts everything else by kind, so that no file is passed over without a word.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["KINDS", "Kind", "describe_counts", "folder_kind", "is_own_file", "kind_of"]


@dataclass(frozen=True)
class Kind:
    """A kind of files that a run over a folder passes over.

    Args:
        one: The words for one such file.
        many: The words for several.
        suffixes: The suffixes by which such a file is recognized, in lower case.
    """

    one: str
    many: str
    suffixes: frozenset[str] = frozenset()


def _suffixes(text: str) -> frozenset[str]:
    return frozenset(f".{suffix}" for suffix in text.split())


KINDS: dict[str, Kind] = {
    "raw": Kind(
        "raw photograph",
        "raw photographs",
        _suffixes(
            "3fr ari arw bay braw cap cr2 cr3 crw dcr dcs dng drf eip erf fff gpr iiq k25 kdc mdc mef mos mrw nef nrw "
            "obm orf ori pef ptx pxn r3d raf raw rw2 rwl rwz sr2 srf srw x3f"
        ),
    ),
    "heic": Kind("HEIC photograph", "HEIC photographs", _suffixes("heic heics heif heifs hif avci avcs")),
    "picture": Kind(
        "picture in a format that is not read",
        "pictures in formats that are not read",
        _suffixes(
            "jxl jxr wdp hdp svg svgz eps ps ai wmf emf xcf kra clip sai afphoto psb pdn exr hdr pic cin dpx fits fit "
            "fts icns cur ani jp3 jls djvu djv flif bpg ecw sid xbm xpm cdr indd sketch fig lrprev"
        ),
    ),
    "video": Kind(
        "video",
        "videos",
        _suffixes(
            "mp4 m4v mov qt avi mkv webm mpg mpeg mpe m2v mts m2ts ts mod tod 3gp 3g2 wmv asf flv f4v vob ogv mxf lrv "
            "lrf insv 360 mp glv dv"
        ),
    ),
    "audio": Kind(
        "sound recording",
        "sound recordings",
        _suffixes("mp3 m4a aac wav flac ogg oga opus wma amr aif aiff caf mka mid"),
    ),
    "sidecar": Kind(
        "sidecar file",
        "sidecar files",
        _suffixes(
            "xmp aae thm pp3 pp2 dop cos cop cof on1 photo-edit rrdata dxo nksc vrd arp comask exif iptc mie "
            "ctg ind int bin bdm cpi mpl bnp inp idx srt gpx gis nmea log"
        ),
    ),
    "document": Kind(
        "document",
        "documents",
        _suffixes(
            "pdf txt text md rst rtf doc docx odt xls xlsx ods csv tsv ppt pptx odp key pages numbers htm html xhtml "
            "css js json jsonl xml yaml yml toml ini cfg conf url webloc lnk eml msg tex epub py sh bat cmd ps1"
        ),
    ),
    "archive": Kind(
        "archive",
        "archives",
        _suffixes("zip tar gz tgz bz2 tbz xz txz zst 7z rar iso dmg jar cbz cbr"),
    ),
    "library": Kind(
        "photo library",
        "photo libraries",
        _suffixes(
            "photoslibrary photolibrary aplibrary migratedphotolibrary migratedaplibrary lrdata lrcat-data cocatalog"
        ),
    ),
    "backup": Kind("backup copy", "backup copies", _suffixes("bak orig old backup tmp temp part partial crdownload")),
    "result": Kind("result of an earlier run", "results of an earlier run"),
    "hidden": Kind("hidden file or folder", "hidden files and folders"),
    "system": Kind("file or folder of the system", "files and folders of the system"),
    "link": Kind("link that is not followed", "links that are not followed"),
    "special": Kind("pipe, socket or device", "pipes, sockets and devices"),
    "other": Kind("other file", "other files"),
}
"""The kinds by their names in the JSON output, in the order in which they are counted."""

_BY_SUFFIX = {suffix: name for name, kind in KINDS.items() for suffix in kind.suffixes}

# The folders and files that desktops, file servers and cameras make for themselves: thumbnails, bins, snapshots.
_SYSTEM_NAMES = frozenset(
    [
        *("@eadir", "@tmp", "@sharebin", "@sharesnap", "@recycle", "@recently-snapshot", "@__thumb"),  # file servers
        *("#recycle", "#snapshot", "~snapshot", "network trash folder", "temporary items"),
        *("$recycle.bin", "recycler", "recycled", "system volume information"),  # Windows
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        *("__macosx", "icon\r", "lost+found", "thmbnl", "lost.dir"),  # macOS, Unix, cameras, Android
    ]
)
_OWN_NAME = re.compile(r"\.restorer(-\d+-of-\d+)?\.jsonl(\.lock)?|\.[0-9a-f]{16}\.partial")
_TAKEOUT = re.compile(r"\.supplemental-metadata(\(\d+\))?$|\.[a-z0-9]{3,4}$")  # the description of IMG_1.jpg in Takeout


def is_own_file(name: str) -> bool:
    """Return whether a file is the log of a run, its lock, or a result that is just being written."""
    return _OWN_NAME.fullmatch(name) is not None


def folder_kind(name: str, status: os.stat_result | None = None) -> str:
    """Return the kind of a folder that is not searched, or "" for a folder that is.

    Args:
        name: The name of the folder, without the folders above it.
        status: The status of the folder, in which macOS and Windows say whether it is hidden.
    """
    if name.casefold() in _SYSTEM_NAMES or name.casefold().startswith(".trash"):
        return "system"
    if name.startswith(".") or _has_hidden_flag(status):
        return "hidden"
    return "library" if _BY_SUFFIX.get(_suffix(name)) == "library" else ""


def kind_of(name: str, status: os.stat_result | None = None) -> str:
    """Return the kind of a file that is not a picture by its name.

    Args:
        name: The name of the file, without its folder.
        status: The status of the file, as for `folder_kind`.
    """
    if (kind := folder_kind(name, status)) in ("hidden", "system"):
        return kind
    if _suffix(name) == ".json" and _TAKEOUT.search(name.lower().removesuffix(".json")):
        return "sidecar"
    if name.endswith("~"):
        return "backup"
    return _BY_SUFFIX.get(_suffix(name), "other")


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return counts of kinds in words, for instance "2 raw photographs, 1 video", in the order of `KINDS`."""
    found = ((counts[name], kind) for name, kind in KINDS.items() if counts.get(name))
    return ", ".join(f"{count} {kind.one if count == 1 else kind.many}" for count, kind in found)


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def _has_hidden_flag(status: os.stat_result | None) -> bool:
    """Return whether the system marks a file as hidden: macOS by a flag, Windows by an attribute."""
    flags = getattr(status, "st_flags", 0) & getattr(stat, "UF_HIDDEN", 0)
    attributes = getattr(status, "st_file_attributes", 0) & stat.FILE_ATTRIBUTE_HIDDEN
    return bool(flags or attributes)
