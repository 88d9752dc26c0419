"""`restore models`: which priors there are, which are here, and how they get here and away again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from restorer.cli.terminal.downloads import on_terminal, pull
from restorer.cli.terminal.reporter import Reporter, human_bytes
from restorer.errors import ModelError, UsageError
from restorer.machine.memory import total
from restorer.models.catalogue import EMBEDDED

if TYPE_CHECKING:
    from huggingface_hub import HFCacheInfo
    from rich.console import JustifyMethod

    from restorer.models.hub.references import Plan, Reference

__all__ = ["register"]

WIDE = 120  # columns that the whole table needs
NARROW = 72  # columns below which what is costly about a model is left out as well

models = typer.Typer(help="Models: list, info, pull, path, verify, rm.", no_args_is_help=True, rich_markup_mode="rich")

Name = Annotated[
    str, typer.Argument(metavar="NAME|REPO[@REV][:FILE]", help="A name that `list` tells, or a repository of the Hub")
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Nothing but the result")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask")]


@models.command("list")
def _list(
    json: Json = False,
    installed: Annotated[bool, typer.Option("--installed", help="Only those that are here")] = False,
) -> None:
    """The embedded prior, the catalogue, and what else lies in the Hub's cache. Makes no request."""
    rows = [row for row in (_embedded(), *_catalogue(), *_others()) if row["here"] or not installed]
    if json:
        reporter = Reporter(as_json=True)
        for row in rows:
            reporter.record({"event": "model", **row})
        return
    console = Console(emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = 240
    console.print(_table(rows, console.width))
    if console.width < WIDE:
        console.print(
            "restore models info NAME, or a wider terminal, tells parameters, memory and licence", style="dim"
        )


def _table(rows: list[dict[str, Any]], width: int) -> Table:
    """The list, with the columns for which a terminal of that width has room."""
    columns: list[tuple[str, JustifyMethod, Callable[[dict[str, Any]], str]]] = [
        ("model", "left", lambda row: row["name"]),
        ("here", "left", lambda row: "yes" if row["here"] else "no"),
        ("download", "right", lambda row: _number(row, "bytes", human_bytes)),
    ]
    if width >= NARROW:
        columns += [
            ("pixels", "right", lambda row: _number(row, "size", str)),
            ("GFLOP", "right", lambda row: _number(row, "gflop", lambda n: f"{n:g}")),
        ]
    if width >= WIDE:
        columns += [
            ("parameters", "right", lambda row: _number(row, "parameters", lambda n: f"{n / 1e6:.1f} M")),
            ("memory", "right", lambda row: _number(row, "memory_bytes", human_bytes)),
            ("licence", "left", lambda row: row.get("licence") or ""),
        ]
    columns.append(("shows", "left", _shows))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, side, _ in columns:
        table.add_column(heading, justify=side, no_wrap=heading != "shows")
    for row in rows:
        table.add_row(*(escape(cell(row)) for _, _, cell in columns))
    return table


def _number(row: dict[str, Any], key: str, form: Callable[[Any], str]) -> str:
    return form(row[key]) if row.get(key) is not None else ""


def _shows(row: dict[str, Any]) -> str:
    """What a model was trained on, and where it is of no use."""
    words = [row.get("domain") or ""]
    if task := row.get("task"):
        words.append(f"for {task} only")
    if row.get("fits") is False:
        words.append(f"{human_bytes(row['memory_bytes'])} of memory: more than this machine has")
    return "; ".join(filter(None, words))


def _embedded() -> dict[str, Any]:
    from restorer.models.catalogue import facts_of, weights_folder

    facts = facts_of(weights_folder())
    more = {"here": True, "source": "embedded", "general": True, "domain": "photographs", "fits": True}
    size = {"size": facts["size"] or "any"}
    return {"name": EMBEDDED, **facts, **size, **more, "memory_bytes": _memory_of(facts["parameters"])}


def _catalogue() -> list[dict[str, Any]]:
    from restorer.models.catalogue import cards
    from restorer.models.hub.references import Reference, cached

    rows = []
    for card in cards():
        facts = asdict(card)
        del facts["known_answer"]
        needed = _memory_of(card.parameters)
        here = cached(Reference(card.repo, card.revision, card.file, card))
        more = {"source": "catalogue", "memory_bytes": needed, "fits": needed < (total() or 1 << 62)}
        rows.append({**facts, **more, "here": here is not None})
    return rows


def _memory_of(parameters: int) -> int:
    """What a run on the CPU needs at its highest, roughly: ADM's 2.2 GB of weights peak at 3.4 GB, 256 pixels wide."""
    return 6 * parameters + 100_000_000


def _others() -> list[dict[str, Any]]:
    """Models in the cache that the catalogue does not know."""
    from restorer.models.catalogue import cards
    from restorer.models.hub.errors import clean
    from restorer.models.hub.references import choose

    known = {(card.repo, card.revision) for card in cards()}
    rows = []
    cache = _cache()
    for repo in (repo for repo in (cache.repos if cache else ()) if repo.repo_type == "model"):
        for revision in repo.revisions:
            here = {str(file.file_path.relative_to(revision.snapshot_path).as_posix()) for file in revision.files}
            if (repo.repo_id, revision.commit_hash) not in known and choose(here.__contains__) is not None:
                name = f"{repo.repo_id}@{revision.commit_hash[:12]}"
                more = {"repo": clean(repo.repo_id), "revision": revision.commit_hash, "source": "cache"}
                rows.append({"name": clean(name), "here": True, "bytes": revision.size_on_disk, **more})
    return sorted(rows, key=lambda row: row["name"])


def _cache() -> HFCacheInfo | None:
    """What lies in the Hub's cache; None where there is none yet."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return None


def _reference(name: str) -> Reference:
    from restorer.models.hub.errors import clean
    from restorer.models.hub.references import parse

    if name == EMBEDDED:
        raise ModelError(f"{name} ships inside the program: it is neither fetched nor removed", "name another model")
    if (reference := parse(name)) is None:
        text = f"{clean(name)!r} is neither a name of the catalogue nor a repository of the Hub"
        raise ModelError(text, "restore models list tells the names; a repository is ORGANIZATION/NAME[@REV][:FILE]")
    return reference


def _here(name: str) -> Path:
    """The path of a model that is here: embedded, a path of its own, or in the cache. Makes no request."""
    from restorer.models.hub.references import cached

    if Path(name).exists():
        return Path(name).resolve()
    if name == EMBEDDED:
        from restorer.models.catalogue import weights_folder

        return weights_folder()
    reference = _reference(name)
    if (path := cached(reference)) is None:
        raise ModelError(f"{reference} is not in the cache", f"restore models pull {name}")
    return path


@models.command("path")
def _path(name: Name) -> None:
    """Print where a model lies; exit code 5 if it is not here. Makes no request."""
    print(_here(name))


@models.command("info")
def _info(name: Name, json: Json = False) -> None:
    """What is known of a model: from the catalogue and the cache, else from the Hub."""
    from restorer.models.hub.references import cached, plan, revision_of, weights_of

    facts: dict[str, Any] = _embedded() if name == EMBEDDED else {"name": name}
    path = _here(name) if Path(name).exists() or name == EMBEDDED else None
    if path is None:
        reference = _reference(name)
        if (card := reference.card) is not None:
            facts = asdict(card)
        facts |= {"repo": reference.repo, "revision": reference.revision}
        path = cached(reference)
        if path is None and card is None:
            facts |= _facts(plan(reference))
    if path is not None:
        weights = weights_of(path)
        size = {"bytes": weights.stat().st_size} if weights.is_file() else {}
        facts |= {"path": str(path), **size, **({"revision": commit} if (commit := revision_of(path)) else {})}
    facts["here"] = path is not None
    if json:
        Reporter(as_json=True).record({"event": "model", **facts})
        return
    for key, value in facts.items():
        if value is not None and value != () and key != "known_answer":  # that one is for `verify`
            shown = human_bytes(value) if key == "bytes" else "yes" if value is True else value
            print(f"{key:14} {'no' if value is False else shown}")


def _facts(wanted: Plan) -> dict[str, Any]:
    """What the Hub says of a model, for a script."""
    from restorer.models.hub.download import free_bytes
    from restorer.models.hub.errors import clean

    missing = set(wanted.missing)
    return {
        "revision": wanted.commit,
        "files": [{"name": clean(f.name), "bytes": f.size, "cached": f not in missing} for f in wanted.files],
        "bytes": wanted.bytes,
        "free_bytes": free_bytes(),
        "licence": wanted.licence,
    }


@models.command("pull")
def _pull(
    name: Name,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell the files, their sizes and the free disk")] = False,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download a model into the Hub's cache, and print where it lies. Above 1 GB it asks, on a terminal."""
    from restorer.models.hub.references import plan, revision_of

    reporter = Reporter(quiet=quiet, as_json=json)
    reference = _reference(name)
    if not dry_run:
        path = pull(reference, reporter, yes=yes)
        if json:
            reporter.record({"event": "model", "name": name, "path": str(path), "revision": revision_of(path)})
        else:
            print(path)
        return
    facts = _facts(plan(reference))
    if json:
        reporter.record({"event": "plan", "name": name, **facts})
        return
    for file in facts["files"]:
        size = human_bytes(file["bytes"]) if file["bytes"] is not None else "size unknown"
        print(f"{'cached' if file['cached'] else 'download':9} {size:>12}  {file['name']}")
    print(
        f"{human_bytes(facts['bytes'])} to download, {human_bytes(facts['free_bytes'])} free on the disk of the cache"
    )


@models.command("verify")
def _verify(name: Name, json: Json = False, quiet: Quiet = False) -> None:
    """Check a model that is here: its hash, its weights, and the known answer where the catalogue has one.

    A file of the cache with a wrong hash is removed.
    """
    from restorer.models.hub.download import check_cached, sha256_of
    from restorer.models.hub.references import cached, weights_of

    reporter = Reporter(quiet=quiet, as_json=json)
    path = _here(name)
    card = None
    hashed = "no hash to compare with"
    if not Path(name).exists() and name != EMBEDDED:
        reference = _reference(name)
        card = reference.card
        assert cached(reference) == path
        with reporter.working("hashing"):
            hashed = "hash as promised" if check_cached(reference, path) else hashed
    with reporter.working("loading the model"):
        from restorer.models.verify import answer_error

        error = answer_error(path, card)
    facts = {"name": name, "path": str(path), "sha256": sha256_of(weights_of(path)), "answer_error": error}
    reporter.record({"event": "verified", "hash": hashed, **facts})
    answer = "no known answer" if error is None else f"known answer within {error:.1e}"
    reporter.say(f"{name}: {hashed} · sha256 {facts['sha256']} · weights load and are finite · {answer}", style="green")


@models.command("rm")
def _rm(name: Name, yes: Yes = False, quiet: Quiet = False) -> None:
    """Take a model out of the Hub's cache; for REPO alone, all its revisions."""
    reporter = Reporter(quiet=quiet)
    reference = _reference(name)
    cache, revision = _cache(), reference.revision
    repos = cache.repos if cache else ()
    here = [r for repo in repos if (repo.repo_type, repo.repo_id) == ("model", reference.repo) for r in repo.revisions]
    commits = [r.commit_hash for r in here if revision is None or revision in {r.commit_hash, *r.refs}]
    if cache is None or not commits:
        raise ModelError(f"{reference} is not in the cache", "restore models list --installed tells what is")
    strategy = cache.delete_revisions(*commits)
    what = f"{reference}, {human_bytes(strategy.expected_freed_size)}"
    if not yes:
        if not on_terminal():
            raise UsageError(f"{what} would be removed", "say --yes")
        if not typer.confirm(f"Remove {what}?", err=True):
            return
    strategy.execute()
    reporter.say(f"removed {what}")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.add_typer(models, name="models")
