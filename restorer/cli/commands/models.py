"""The verb `models` and its commands: list, inspect, download, verify and remove models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from restorer.cli.terminal.downloads import is_interactive, pull
from restorer.cli.terminal.reporter import Reporter, human_bytes
from restorer.errors import ModelError, UsageError
from restorer.machine.memory import total
from restorer.models.catalogue import EMBEDDED

if TYPE_CHECKING:
    from huggingface_hub import HFCacheInfo
    from rich.console import JustifyMethod

    from restorer.models.hub.references import Reference, Snapshot

__all__ = ["register"]

WIDE = 120  # width in characters from which the table has all its columns
NARROW = 72  # width in characters below which the table has no columns of pixels and GFLOP

models = typer.Typer(
    help="List, inspect, download, verify and remove models.", no_args_is_help=True, rich_markup_mode="rich"
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME|REPO[@REV][:FILE]",
        help="Name from `restore models list`, path of a model, or repository of the Hugging Face Hub",
    ),
]
HubName = Annotated[
    str,
    typer.Argument(
        metavar="NAME|REPO[@REV][:FILE]",
        help="Name from `restore models list`, or repository of the Hugging Face Hub",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, for scripts")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print no messages, only results and errors")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask for confirmation")]


@models.command("list")
def _list(
    json: Json = False,
    installed: Annotated[bool, typer.Option("--installed", help="List only the models on this machine")] = False,
) -> None:
    """List the embedded model, the catalogue, and other models in the Hub's cache, without a network request."""
    rows = [row for row in (_embedded_row(), *_catalogue_rows(), *_cache_rows()) if row["here"] or not installed]
    if json:
        reporter = Reporter(as_json=True)
        for row in rows:
            reporter.emit({"event": "model", **row})
        return
    console = Console(emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = 240
    console.print(_table(rows, console.width))
    if console.width < WIDE:
        console.print(
            "Run restore models info NAME, or use a wider terminal, for parameters, memory and licence.", style="dim"
        )


def _table(rows: list[dict[str, Any]], width: int) -> Table:
    """Return the list of models as a table, with the columns that fit a terminal of `width` characters."""
    columns: list[tuple[str, JustifyMethod, Callable[[dict[str, Any]], str]]] = [
        ("model", "left", lambda row: row["name"]),
        ("installed", "left", lambda row: "yes" if row["here"] else "no"),
        ("download", "right", lambda row: _format_value(row, "bytes", human_bytes)),
    ]
    if width >= NARROW:
        columns += [
            ("pixels", "right", lambda row: _format_value(row, "size", str)),
            ("GFLOP", "right", lambda row: _format_value(row, "gflop", lambda n: f"{n:g}")),
        ]
    if width >= WIDE:
        columns += [
            ("parameters", "right", lambda row: _format_value(row, "parameters", lambda n: f"{n / 1e6:.1f} M")),
            ("memory", "right", lambda row: _format_value(row, "memory_bytes", human_bytes)),
            ("licence", "left", lambda row: row.get("licence") or ""),
        ]
    columns.append(("trained on", "left", _describe_use))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, side, _ in columns:
        table.add_column(heading, justify=side, no_wrap=heading != "trained on")
    for row in rows:
        table.add_row(*(escape(format_cell(row)) for _, _, format_cell in columns))
    return table


def _format_value(row: dict[str, Any], key: str, form: Callable[[Any], str]) -> str:
    return form(row[key]) if row.get(key) is not None else ""


def _describe_use(row: dict[str, Any]) -> str:
    """Return what a model was trained on, and the limits of its use."""
    parts = [row.get("domain") or ""]
    if task := row.get("task"):
        parts.append(f"for {task} only")
    if row.get("fits") is False:
        parts.append(f"needs {human_bytes(row['memory_bytes'])} of memory, more than this machine has")
    return "; ".join(filter(None, parts))


def _embedded_row() -> dict[str, Any]:
    """Return the facts about the embedded prior, as a row of the list."""
    from restorer.models.catalogue import read_facts, weights_folder

    facts = read_facts(weights_folder())
    status = {"here": True, "source": "embedded", "general": True, "domain": "photographs", "fits": True}
    size = {"size": facts["size"] or "any"}
    return {"name": EMBEDDED, **facts, **size, **status, "memory_bytes": _estimate_memory(facts["parameters"])}


def _catalogue_rows() -> list[dict[str, Any]]:
    """Return the facts about every model of the catalogue, as rows of the list."""
    from restorer.models.catalogue import cards
    from restorer.models.hub.references import Reference, find_cached

    rows = []
    for card in cards():
        facts = asdict(card)
        del facts["known_answer"]
        needed = _estimate_memory(card.parameters)
        path = find_cached(Reference(card.repo, card.revision, card.file, card))
        status = {"source": "catalogue", "memory_bytes": needed, "fits": needed < (total() or 1 << 62)}
        rows.append({**facts, **status, "here": path is not None})
    return rows


def _estimate_memory(parameters: int) -> int:
    """Return a rough estimate of the peak memory of a run on the CPU, in bytes.

    The model ADM, for instance, has 2.2 GB of weights and peaks at 3.4 GB on a picture 256 pixels wide.
    """
    return 6 * parameters + 100_000_000


def _cache_rows() -> list[dict[str, Any]]:
    """Return the models in the Hub's cache that are not in the catalogue, as rows of the list."""
    from restorer.models.catalogue import cards
    from restorer.models.hub.errors import clean
    from restorer.models.hub.references import choose_files

    known = {(card.repo, card.revision) for card in cards()}
    rows = []
    cache = _cache()
    for repo in (repo for repo in (cache.repos if cache else ()) if repo.repo_type == "model"):
        for revision in repo.revisions:
            names = {str(file.file_path.relative_to(revision.snapshot_path).as_posix()) for file in revision.files}
            if (repo.repo_id, revision.commit_hash) not in known and choose_files(names.__contains__) is not None:
                name = f"{repo.repo_id}@{revision.commit_hash[:12]}"
                origin = {"repo": clean(repo.repo_id), "revision": revision.commit_hash, "source": "cache"}
                rows.append({"name": clean(name), "here": True, "bytes": revision.size_on_disk, **origin})
    return sorted(rows, key=lambda row: row["name"])


def _cache() -> HFCacheInfo | None:
    """Return the content of the Hub's cache, or None if there is no cache yet."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return None


def _parse_name(name: str) -> Reference:
    """Return the reference to the Hub that a name stands for.

    Raises:
        ModelError: The name is that of the embedded prior, or it is neither in the catalogue nor a repository.
    """
    from restorer.models.hub.errors import clean
    from restorer.models.hub.references import parse_reference

    if name == EMBEDDED:
        raise ModelError(f"{name} is part of the program, so it is not downloaded or removed", "name another model")
    if (reference := parse_reference(name)) is None:
        text = f"{clean(name)!r} is neither a name in the catalogue nor a repository of the Hub"
        hint = "run restore models list for the names; write a repository as ORGANIZATION/NAME[@REV][:FILE]"
        raise ModelError(text, hint)
    return reference


def _find_local(name: str) -> Path:
    """Return the path of a model on this machine, without a network request.

    Args:
        name: A path, the name of the embedded prior, or the name or repository of a model in the Hub's cache.

    Raises:
        ModelError: The name is not that of a model, or the model is not in the cache.
    """
    from restorer.models.hub.references import find_cached

    if Path(name).exists():
        return Path(name).resolve()
    if name == EMBEDDED:
        from restorer.models.catalogue import weights_folder

        return weights_folder()
    reference = _parse_name(name)
    if (path := find_cached(reference)) is None:
        raise ModelError(f"{reference} is not in the cache", f"run restore models pull {name}")
    return path


@models.command("path")
def _path(name: Name) -> None:
    """Print the path of a model on this machine, without a network request.

    The exit code is 5 if the model is not on this machine.
    """
    print(_find_local(name))


@models.command("info")
def _info(name: Name, json: Json = False) -> None:
    """Print the facts about a model, from the catalogue and the cache, or else from the Hub."""
    from restorer.models.hub.references import find_cached, find_revision, query_hub, weights_file

    facts: dict[str, Any] = _embedded_row() if name == EMBEDDED else {"name": name}
    path = _find_local(name) if Path(name).exists() or name == EMBEDDED else None
    if path is None:
        reference = _parse_name(name)
        if (card := reference.card) is not None:
            facts = asdict(card)
        facts |= {"repo": reference.repo, "revision": reference.revision}
        path = find_cached(reference)
        if path is None and card is None:
            facts |= _snapshot_facts(query_hub(reference))
    if path is not None:
        weights = weights_file(path)
        size = {"bytes": weights.stat().st_size} if weights.is_file() else {}
        facts |= {"path": str(path), **size, **({"revision": commit} if (commit := find_revision(path)) else {})}
    facts["here"] = path is not None
    if json:
        Reporter(as_json=True).emit({"event": "model", **facts})
        return
    for key, value in facts.items():
        if value is not None and value != () and key != "known_answer":  # only `verify` uses the known answer
            shown = human_bytes(value) if key == "bytes" else "yes" if value is True else value
            print(f"{key:14} {'no' if value is False else shown}")


def _snapshot_facts(snapshot: Snapshot) -> dict[str, Any]:
    """Return the facts about a model on the Hub as JSON values; sizes and free disk space are in bytes."""
    from restorer.models.hub.download import free_bytes
    from restorer.models.hub.errors import clean

    missing = set(snapshot.missing)
    return {
        "revision": snapshot.commit,
        "files": [{"name": clean(f.name), "bytes": f.size, "cached": f not in missing} for f in snapshot.files],
        "bytes": snapshot.download_bytes,
        "free_bytes": free_bytes(),
        "licence": snapshot.licence,
    }


@models.command("pull")
def _pull(
    name: HubName,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List the files, their sizes and the free disk space, and download nothing"),
    ] = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download a model into the Hub's cache and print its path.

    On a terminal, a download of more than 1 GB must be confirmed.
    """
    from restorer.models.hub.references import find_revision, query_hub

    reporter = Reporter(quiet=quiet, as_json=json)
    reference = _parse_name(name)
    if not dry_run:
        path = pull(reference, reporter, yes=yes)
        if json:
            reporter.emit({"event": "model", "name": name, "path": str(path), "revision": find_revision(path)})
        else:
            print(path)
        return
    facts = _snapshot_facts(query_hub(reference))
    if json:
        reporter.emit({"event": "plan", "name": name, **facts})
        return
    for file in facts["files"]:
        size = human_bytes(file["bytes"]) if file["bytes"] is not None else "size unknown"
        print(f"{'cached' if file['cached'] else 'download':9} {size:>12}  {file['name']}")
    print(
        f"{human_bytes(facts['bytes'])} to download, {human_bytes(facts['free_bytes'])} free on the disk of the cache"
    )


@models.command("verify")
def _verify(name: Name, json: Json = False, quiet: Quiet = False) -> None:
    """Check the hash, the weights and, if the catalogue has one, the known answer of a model on this machine.

    The known answer is the published output of the network for a fixed input.

    A cached file with a wrong hash is removed.
    """
    from restorer.models.hub.download import check_cached, sha256_of
    from restorer.models.hub.references import find_cached, weights_file

    reporter = Reporter(quiet=quiet, as_json=json)
    path = _find_local(name)
    card = None
    hash_result = "no known hash"
    if not Path(name).exists() and name != EMBEDDED:
        reference = _parse_name(name)
        card = reference.card
        assert find_cached(reference) == path
        with reporter.working("hashing"):
            hash_result = "hash correct" if check_cached(reference, path) else hash_result
    with reporter.working("loading the model"):
        from restorer.models.verify import check_known_answer

        error = check_known_answer(path, card)
    facts = {"name": name, "path": str(path), "sha256": sha256_of(weights_file(path)), "answer_error": error}
    reporter.emit({"event": "verified", "hash": hash_result, **facts})
    answer = "no known answer" if error is None else f"known answer within {error:.1e}"
    reporter.say(
        f"{name}: {hash_result} · sha256 {facts['sha256']} · weights load and are finite · {answer}", style="green"
    )


@models.command("rm")
def _rm(name: HubName, yes: Yes = False, quiet: Quiet = False) -> None:
    """Remove a model from the Hub's cache.

    A repository without a revision is removed with all its revisions.
    """
    reporter = Reporter(quiet=quiet)
    reference = _parse_name(name)
    cache, revision = _cache(), reference.revision
    repos = cache.repos if cache else ()
    cached = [
        r for repo in repos if (repo.repo_type, repo.repo_id) == ("model", reference.repo) for r in repo.revisions
    ]
    commits = [r.commit_hash for r in cached if revision is None or revision in {r.commit_hash, *r.refs}]
    if cache is None or not commits:
        raise ModelError(f"{reference} is not in the cache", "run restore models list --installed to see what is")
    strategy = cache.delete_revisions(*commits)
    description = f"{reference}, {human_bytes(strategy.expected_freed_size)}"
    if not yes:
        if not is_interactive():
            raise UsageError(f"{description} would be removed", "add --yes to confirm")
        if not typer.confirm(f"Remove {description}?", err=True):
            return
    strategy.execute()
    reporter.say(f"removed {description}")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.add_typer(models, name="models")
