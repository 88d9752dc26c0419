"""The files and folders of a run: inputs, targets, and refusals before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from restorer.errors import OutputError, PictureError, RestorerError, UsageError
from restorer.folders.paths import Item, combined_exit_code, find_log_folder, find_mask, resolve_targets, split_results
from restorer.images.find import STDIO, collect

Resolved = tuple[list[Item], list[Item], list[tuple[Item, RestorerError]]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*names: str) -> list[Path]:
    """Create empty files; no test here opens one."""
    paths = [Path(name) for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def sources(inputs: list[str], recursive: bool = False) -> list[str]:
    return [path.as_posix() for path, _ in collect(inputs, recursive=recursive)]


def resolve(inputs: list[str], output: str | None = None, recursive: bool = False, **policy: bool) -> Resolved:
    policy = {"overwrite": False, "skip_existing": False} | policy
    return resolve_targets(collect(inputs, recursive=recursive), output, "denoised", **policy)


def targets(inputs: list[str], output: str | None = None, recursive: bool = False, **policy: bool) -> list[str]:
    to_do, skipped, failed = resolve(inputs, output, recursive, **policy)
    assert not skipped and not failed
    return [item.target.as_posix() for item in to_do]


def refusal(inputs: list[str], output: str | None = None, **policy: bool) -> str:
    """Return the reason why the only picture cannot be restored."""
    to_do, skipped, [(_, error)] = resolve(inputs, output, **policy)
    assert not to_do and not skipped
    assert isinstance(error, OutputError)
    return str(error)


# ---------------------------------------------------------------------------------------------------------- inputs


def test_files_are_taken_in_the_order_given_each_once() -> None:
    make("b.png", "a.png", "notes.txt")
    assert sources(["b.png", "a.png", "b.png", "./a.png"]) == ["b.png", "a.png"]
    assert sources(["notes.txt"]) == ["notes.txt"]  # the user named it, so the error comes from reading it


def test_standard_input_is_an_input() -> None:
    assert collect(["-"], recursive=False) == [(STDIO, None)]


def test_a_folder_needs_recursive() -> None:
    make("photos/a.png")
    with pytest.raises(UsageError, match="photos is a folder") as caught:
        collect(["photos"], recursive=False)
    assert "-r" in caught.value.hint


def test_a_folder_gives_its_pictures_and_those_below_sorted() -> None:
    make("photos/b.PNG", "photos/a.jpg", "photos/deep/er/c.webp", "photos/notes.txt", "photos/.hidden.partial")
    Path("photos/folder.png").mkdir()
    found = collect(["photos"], recursive=True)
    assert [path.as_posix() for path, _ in found] == ["photos/a.jpg", "photos/b.PNG", "photos/deep/er/c.webp"]
    assert {root for _, root in found} == {Path("photos")}


def test_a_picture_named_and_found_in_a_folder_is_one() -> None:
    make("photos/a.png", "photos/b.png")
    assert sources(["photos/b.png", "photos", "photos/*.png"], recursive=True) == ["photos/b.png", "photos/a.png"]


def test_a_folder_without_pictures_is_an_error() -> None:
    make("photos/notes.txt")
    with pytest.raises(PictureError, match="no pictures in photos"):
        collect(["photos"], recursive=True)


def test_globs_are_expanded() -> None:
    make("a1.png", "a2.png", "b.png", "deep/er/a3.png")
    assert sources(["a*.png"]) == ["a1.png", "a2.png"]
    assert sources(["**/a?.png"]) == ["a1.png", "a2.png", "deep/er/a3.png"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*.png"], [], ["in/a.png", "in/deep/c.png"]),
        ([], ["*.png"], ["in/b.jpg"]),
        (["deep/*"], [], ["in/deep/c.png"]),
        (["*.png", "b.*"], ["deep/*"], ["in/a.png", "in/b.jpg"]),
        (["[ab].*"], [], ["in/a.png", "in/b.jpg"]),
    ],
)
def test_patterns_choose_among_what_a_folder_holds(include: list[str], exclude: list[str], expected: list[str]) -> None:
    make("in/a.png", "in/b.jpg", "in/deep/c.png", "other.jpg")
    found = collect(["in", "other.jpg"], recursive=True, include=include, exclude=exclude)
    assert [path.as_posix() for path, _ in found] == [*expected, "other.jpg"]  # a named file is never filtered out
    with pytest.raises(PictureError, match="leave none of the 3"):
        collect(["in"], recursive=True, include=["*.gif"])


def test_a_file_whose_name_looks_like_a_glob_is_that_file() -> None:
    make("a[1].png", "a1.png")
    assert sources(["a[1].png"]) == ["a[1].png"]


@pytest.mark.parametrize("name", ["absent.png", "absent/", "none*.png", "a.png/b.png"])
def test_what_is_not_there_is_an_error(name: str) -> None:
    make("a.png")
    with pytest.raises(PictureError, match=r"does not exist|no file matches"):
        collect([name], recursive=True)


def test_a_glob_that_matches_only_folders_is_an_error() -> None:
    make("sub1/a.png")
    with pytest.raises(RestorerError):
        collect(["sub*"], recursive=False)


def test_a_name_too_long_for_the_file_system_is_an_error() -> None:
    with pytest.raises(PictureError):
        collect(["x" * 300 + ".png"], recursive=False)


# ---------------------------------------------------------------------------------------------------------- targets


def test_beside_the_input_by_default() -> None:
    make("a.png", "deep/b.JPG", "c.d.webp", "no_suffix")
    inputs = ["a.png", "deep/b.JPG", "c.d.webp", "no_suffix"]
    assert targets(inputs) == ["a_denoised.png", "deep/b_denoised.JPG", "c.d_denoised.webp", "no_suffix_denoised.png"]


def test_what_is_not_written_becomes_png() -> None:
    make("a.gif", "b.ppm")
    assert targets(["a.gif", "b.ppm"]) == ["a_denoised.png", "b_denoised.png"]


def test_a_file_a_folder_or_standard_output() -> None:
    make("a.png")
    Path("there").mkdir()
    assert targets(["a.png"], "other.jpg") == ["other.jpg"]
    assert targets(["a.png"], "there") == ["there/a_denoised.png"]
    assert targets(["a.png"], "new/er/") == ["new/er/a_denoised.png"]
    assert Path("new/er").is_dir()
    assert targets(["a.png"], "-") == ["-"]


def test_standard_input() -> None:
    assert targets(["-"]) == ["-"]
    assert targets(["-"], "x.png") == ["x.png"]
    assert targets(["-"], "new/") == ["new/picture_denoised.png"]


def test_the_tree_is_mirrored() -> None:
    make("photos/a.png", "photos/deep/er/b.jpg", "c.png")
    assert targets(["photos", "c.png"], "out/", recursive=True) == [
        "out/a_denoised.png",
        "out/deep/er/b_denoised.jpg",
        "out/c_denoised.png",
    ]
    assert Path("out/deep/er").is_dir()
    beside = targets(["photos"], recursive=True)
    assert beside == ["photos/a_denoised.png", "photos/deep/er/b_denoised.jpg"]


@pytest.mark.parametrize("output", ["one.png", "-"])
def test_several_pictures_do_not_go_into_one_file(output: str) -> None:
    make("a.png", "b.png")
    with pytest.raises(UsageError, match="2 pictures") as caught:
        resolve(["a.png", "b.png"], output)
    assert "folder" in caught.value.hint


# -------------------------------------------------------------------------------------------------------- refusals


def test_a_result_that_exists() -> None:
    make("a.png", "a_denoised.png")
    message = refusal(["a.png"])
    assert message == "a_denoised.png exists"
    assert targets(["a.png"], overwrite=True) == ["a_denoised.png"]
    to_do, [skipped], failed = resolve(["a.png"], skip_existing=True)
    assert (to_do, failed, skipped.target) == ([], [], Path("a_denoised.png"))


def test_what_an_earlier_run_made_is_replaced() -> None:
    make("a.png", "b.png", "a_denoised.png", "b_denoised.png")
    pictures = collect(["a.png", "b.png"], recursive=False)
    to_do, _, failed = resolve_targets(
        pictures,
        None,
        "denoised",
        overwrite=False,
        skip_existing=False,
        may_replace=lambda target: target.name[0] == "a",
    )
    assert [item.source.name for item in to_do] == ["a.png"] and [item.source.name for item, _ in failed] == ["b.png"]


def test_samples_means_and_maps_are_results() -> None:
    """Only beside a picture whose results they are, and only in folders: a picture that is named is restored."""
    beside = ["in/a_denoised.png", "in/a_denoised_sample2.png", "in/a_denoised_sample12.png", "in/a_denoised_mean.png"]
    lengthened = ["in/c_gif_denoised.png", "in/c_png_denoised_mean.png", "in/c_gif_denoised_sample2.png"]
    maps = ["in/a_denoised_uncertainty.png", "in/maps/a_denoised_uncertainty.png"]
    own = ["in/a.png", "in/a_mean.png", "in/a_sample2.png", "in/b_denoised_mean.png", "in/c.gif", "in/c.png"]
    other = ["in/a_denoised_sample0.png", "in/a_x4_mean.png", "in/a_uncertainty.png"]
    make(*beside, *lengthened, *maps, *own, *other)
    for output in (None, "in"):
        kept, results = split_results(collect(["in"], recursive=True), output, "denoised")
        assert sorted(path.as_posix() for path, _ in kept) == sorted([*own, *other])
        assert sorted(path.as_posix() for path in results) == sorted([*beside, *lengthened, *maps])
    kept, results = split_results(collect(["in"], recursive=True), "out", "denoised")
    assert sorted(path.as_posix() for path in results) == maps
    kept, results = split_results(collect(beside, recursive=False), None, "denoised")
    assert len(kept) == len(beside) and not results


def test_a_dry_run_makes_no_folder() -> None:
    make("a.png")
    to_do, _, _ = resolve_targets(
        collect(["a.png"], recursive=False), "out/", "x4", overwrite=False, skip_existing=False, dry_run=True
    )
    assert to_do[0].target == Path("out/a_x4.png") and not Path("out").exists()


@pytest.mark.parametrize(
    ("inputs", "output", "folder"),
    [
        (["in"], "out", "out"),
        (["in"], "out/", "out"),
        (["in", "other"], "out", "out"),
        (["a.png"], "out/", "out"),
        (["a.png"], "out.png", None),
        (["a.png"], "in", "in"),
        (["a.png"], "-", None),
        (["a.png"], None, None),
        (["in"], None, "in"),
        (["in", "other"], None, None),
        (["in", "a.png"], None, None),
    ],
)
def test_the_folder_a_run_belongs_to(inputs: list[str], output: str | None, folder: str | None) -> None:
    make("in/b.png", "other/c.png", "a.png")
    assert find_log_folder(collect(inputs, recursive=True), output) == (Path(folder) if folder else None)


def test_skipping_leaves_the_others_to_do() -> None:
    make("a.png", "b.png", "a_denoised.png")
    to_do, skipped, failed = resolve(["a.png", "b.png"], skip_existing=True)
    assert [i.source.name for i in to_do] == ["b.png"] and [i.source.name for i in skipped] == ["a.png"]
    assert not failed


@pytest.mark.parametrize("policy", [{}, {"overwrite": True}, {"skip_existing": True}])
@pytest.mark.parametrize("output", ["a.png", "./a.png", "deep/../a.png", "link.png", "hard.png"])
def test_the_input_itself_is_never_the_output(output: str, policy: dict[str, bool]) -> None:
    make("a.png", "deep/b.png")
    Path("link.png").symlink_to("a.png")
    os.link("a.png", "hard.png")
    assert "is the input itself" in refusal(["a.png"], output, **policy)


@pytest.mark.parametrize("policy", [{}, {"overwrite": True}, {"skip_existing": True}])
def test_two_pictures_never_share_a_result(policy: dict[str, bool]) -> None:
    make("one/a.png", "two/a.png")
    expected = ["out/one_a_denoised.png", "out/two_a_denoised.png"]
    assert targets(["one/a.png", "two/a.png"], "out/", **policy) == expected
    assert targets(["two/a.png", "one/a.png"], "out/", **policy) == expected[::-1]
    assert targets(["one", "two"], "out/", recursive=True, **policy) == expected


def test_another_input_is_never_the_output() -> None:
    make("a.png", "a_denoised.png")
    to_do, _, failed = resolve(["a.png", "a_denoised.png"], overwrite=True)
    assert "a.png" not in [i.source.name for i in to_do] and failed


def test_a_second_run_over_a_folder_finds_nothing_new() -> None:
    make("photos/a.png", "photos/a_denoised.png")
    to_do, skipped, _ = resolve(["photos"], recursive=True, skip_existing=True)
    assert not to_do and [i.source.name for i in skipped] == ["a.png"]


def test_a_missing_folder() -> None:
    make("a.png")
    assert "nowhere does not exist" in refusal(["a.png"], "nowhere/x.png")
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("output", ["a.png/x.png", "a.png/x/"])
def test_a_place_that_can_never_be_written(output: str) -> None:
    make("a.png")
    assert "a.png" in refusal(["a.png"], output)


def test_a_folder_that_is_not_writable(monkeypatch: pytest.MonkeyPatch) -> None:
    make("a.png", "locked/b.png")
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path))
    assert "locked is not writable" in refusal(["a.png"], "locked/x.png")
    assert "locked is not writable" in refusal(["locked/b.png"])


def test_a_folder_under_the_result_s_name() -> None:
    make("a.png")
    Path("a_denoised.png").mkdir()
    assert "is a folder" in refusal(["a.png"], overwrite=True)


# ------------------------------------------------------------------------------------------------------------ masks


def item_of(source: str, root: str | None = None) -> Item:
    return Item(Path(source), Path("unused.png"), Path(root) if root else None)


def test_a_mask_file_serves_every_picture() -> None:
    [mask] = make("m.png")
    assert find_mask(mask, item_of("a.png")) == mask
    assert find_mask(mask, item_of("photos/deep/b.png", "photos")) == mask


def test_a_folder_of_masks_is_matched_by_stem() -> None:
    make("masks/a.jpg", "masks/b_mask.png", "masks/c.txt", "masks/c_mask.webp", "masks/d.png", "masks/d_mask.png")
    masks = Path("masks")
    found = [find_mask(masks, item_of(f"{stem}.png")).name for stem in "abcd"]
    assert found == ["a.jpg", "b_mask.png", "c_mask.webp", "d.png"]


def test_a_folder_of_masks_mirrors_the_tree() -> None:
    make("masks/a.png", "masks/deep/a.png")
    assert find_mask(Path("masks"), item_of("photos/deep/a.jpg", "photos")) == Path("masks/deep/a.png")
    assert find_mask(Path("masks"), item_of("photos/deep/a.jpg")) == Path("masks/a.png")


def test_a_picture_s_name_is_no_glob_when_its_mask_is_sought() -> None:
    make("masks/a1.png", "masks/a[1].png")
    assert find_mask(Path("masks"), item_of("a[1].png")) == Path("masks/a[1].png")


def test_no_mask_is_an_error() -> None:
    make("masks/b.png")
    with pytest.raises(PictureError, match=r"no mask for a\.png in masks"):
        find_mask(Path("masks"), item_of("a.png"))


def test_a_dot_in_a_name_does_not_end_it() -> None:
    make("masks/a.b.png", "masks/a.png")
    assert find_mask(Path("masks"), item_of("a.b.png")) == Path("masks/a.b.png")
    assert find_mask(Path("masks"), item_of("a.png")) == Path("masks/a.png")


@pytest.mark.parametrize(
    ("codes", "done", "expected"),
    [([], 0, 0), ([], 5, 0), ([4], 0, 4), ([4, 4], 0, 4), ([4, 7], 0, 3), ([4], 1, 3), ([6, 6], 3, 3), ([7], 0, 7)],
)
def test_exit_code(codes: list[int], done: int, expected: int) -> None:
    assert combined_exit_code(codes, done) == expected


@pytest.mark.parametrize("name", ["loop", "loop/x.png", "loop/"])
def test_an_output_that_leads_back_to_itself_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    source = tmp_path / "a.png"
    source.write_bytes(b"x")
    with pytest.raises(OutputError, match="is a link that leads back to itself"):
        resolve_targets([(source, None)], f"{tmp_path}/{name}", "denoised", overwrite=False, skip_existing=False)
