"""Preparation of data sets: writes published files, a user's images or generated images as records for training.

File names, counts and every image are checked before anything is written. The prepared folder is built under a
temporary name and renamed at the end, so that it is complete whenever it exists, even if several processes write it.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reid_jax import errors, file_io, progress
from reid_jax.data import builders, catalog, checks, record_writing, records, source_files, staging, user_datasets
from reid_jax.plugins import names

ON_BAD_IMAGE = ("fail", "skip")


@dataclasses.dataclass(frozen=True)
class PreparationReport:
    """The result of a preparation.

    Attributes:
        name: the data set's name.
        path: the prepared folder with its version, None after a mere check.
        source: the folder or file that was read, None for generated data.
        table: the counts, with the published ones where they differ.
        warnings: a sentence for each warning.
        skipped: a sentence for each damaged image that was left out.
        seconds: duration.
        existed: the data set was prepared before, and nothing was done.
        details: the report of a check (`checks.describe`), empty otherwise.
    """

    name: str
    path: pathlib.Path | None
    source: str | None
    table: str
    warnings: tuple[str, ...]
    skipped: tuple[str, ...]
    seconds: float
    existed: bool
    details: str = ""

    @property
    def dataset(self) -> records.ReIDDataset:
        """The prepared data set, opened."""
        if self.path is None:
            raise errors.UserError(f"data set {self.name!r} was checked, not prepared; run without --check.")
        return records.open_folder(builders.title(self.name), self.path)

    def text(self) -> str:
        """Returns the report as text for the console."""
        lines = [self.table, ""] if self.table else []
        lines += [self.details, ""] if self.details else []
        lines += [f"warning: {warning}" for warning in self.warnings]
        if self.skipped:
            lines.append(f"warning: {len(self.skipped)} damaged images were left out:")
            lines += [f"  {sentence}" for sentence in self.skipped]
        if self.path is None:
            lines.append(f"{self.name}: checked {self.source} in {self.seconds:.1f} s, nothing was written.")
        elif self.existed:
            lines.append(f"{self.name}: already prepared in {self.path}.")
        else:
            origin = f" from {self.source}" if self.source else ""
            lines.append(f"{self.name}: prepared in {self.path}{origin} in {self.seconds:.1f} s.")
        return "\n".join(lines)


def ensure(name: str, root: str | pathlib.Path = "data", **options: Any) -> records.ReIDDataset:
    """Opens a data set, and prepares it first from `<root>/<name>` or its generator where it is not prepared.

    Raises:
        UserError: it is neither prepared nor can be; the sentence names the folder that was expected.
    """
    if user_datasets.is_function(name):
        return user_datasets.open_function(name, root, options)
    if records.prepared_current(name, root, options) is None:
        return prepare(name, root, **options).dataset
    return records.open_dataset(name, root, **options)


def open_prepared(name: str, root: str | pathlib.Path = "data", **options: Any) -> records.ReIDDataset:
    """Opens a data set that another process has prepared, or that a user's function opens.

    Raises:
        UserError: it is not prepared.
    """
    if user_datasets.is_function(name):
        return user_datasets.open_function(name, root, options)
    return records.open_dataset(name, root, **options)


def check_source(name: str, root: str | pathlib.Path = "data", **options: Any) -> None:
    """Checks that a data set is prepared, is generated, or has its folder with the right layout; reads no image.

    Raises:
        UserError: it could not be prepared; the sentence names the folder that was expected.
    """
    if user_datasets.is_function(name):
        return
    if records.prepared_current(name, root, options) is not None:
        return
    module = builders.load(name)
    if hasattr(module, "scan"):
        try:
            builders.locate(
                name, module, pathlib.Path(root) / builders.title(name), records.resolve_options(name, options)
            )
        except OSError as error:
            raise errors.UserError(f"cannot read {root} ({errors.reason(error)}); give another data.root.") from error


def prepare(
    name: str,
    root: str | pathlib.Path = "data",
    source: str | pathlib.Path | None = None,
    *,
    on_bad_image: str = "fail",
    strict_counts: bool = False,
    force: bool = False,
    check_only: bool = False,
    **options: Any,
) -> PreparationReport:
    """Prepares a data set; returns at once where it is prepared already.

    Args:
        name: one of `builders.available()`, or `package.module:Builder`.
        root: the prepared folder is `<root>/prepared/<name>[-<options>]/<version>`.
        source: the raw folder (or CSV file); None is `<root>/<name>`, with TFDS's name for a user's builder.
            Generated data sets of this project have none.
        on_bad_image: "fail" stops at images that do not decode and names them, "skip" leaves them out and lists them.
        strict_counts: stop where counts differ from the published ones, instead of warning.
        force: prepare again and replace the prepared folder.
        check_only: check everything and write nothing.
        **options: the data set's options (`catalog.Entry.options`).

    Returns:
        The report; `report.dataset` is the opened data set.

    Raises:
        UserError: the source cannot be used; the sentence gives the reason, and nothing is written.
    """
    started = time.monotonic()
    if on_bad_image not in ON_BAD_IMAGE:
        raise errors.unknown("value of on_bad_image", on_bad_image, ON_BAD_IMAGE)
    module = builders.load(name)
    options = records.resolve_options(name, options)
    folder = records.prepared_folder(name, root, **options)
    target = folder / (catalog.least_version(name) or str(module.Builder.VERSION))
    has_files = hasattr(module, "scan")
    if source is not None and not has_files and not names.is_path(name):
        raise errors.UserError(f"data set {name!r} is generated and takes no source folder; leave out --source.")
    if records.prepared_version(folder) == target and not force and not check_only:
        return _report_again(name, root, module, target, source, options)

    raw = pathlib.Path(source or pathlib.Path(root) / builders.title(name))
    checked = _Checked()
    if has_files:
        # A check reports everything, damaged images included, and stops at none of them.
        bad = "skip" if check_only else on_bad_image
        checked = _check_files(name, module, raw, options, bad, strict_counts, check_only)
    if check_only:
        return _report_of_check(checked, name, time.monotonic() - started)
    with staging.temporary_folder(folder) as temporary:
        built = record_writing.build(
            name,
            module,
            temporary,
            options,
            rows=checked.rows,
            origin=checked.source,
            manual=None if has_files else raw.expanduser(),
            images=_images(checked.rows or builders.published(name, module, options)),
        )
        if not checked.content:
            dataset = records.open_folder(builders.title(name), built)
            with progress.waiting("hashing the records"):
                checked.content = records.content_hash(dataset)
        if not has_files:
            checked.table, checked.warnings = _compare(name, dataset.splits(), module, options, strict_counts)
        _save_report(built, checked, name, options, time.monotonic() - started)
        _move(built, target, force)
    return dataclasses.replace(_report_of(name, target), existed=False)


def _images(splits: Mapping[str, Any]) -> int | None:
    """Returns the number of images of rows or published counts; None where there are none."""
    return sum(rows["images"] if isinstance(rows, Mapping) else len(rows) for rows in splits.values()) or None


@dataclasses.dataclass
class _Checked:
    """The result of checking source files; empty for data without files, which are checked after they are built."""

    rows: dict[str, list[Any]] | None = None
    source: pathlib.Path | None = None
    listing: str | None = None
    content: str = ""
    files: source_files.SourceFiles | None = None
    table: str = ""
    warnings: list[str] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)
    details: str = ""


def _report_of_check(checked: _Checked, name: str, seconds: float) -> PreparationReport:
    """Returns the report of a check that wrote nothing."""
    return PreparationReport(
        name=name,
        path=None,
        source=str(checked.source or "the generator"),
        table=checked.table,
        warnings=tuple(checked.warnings),
        skipped=tuple(checked.skipped),
        seconds=seconds,
        existed=False,
        details=checked.details,
    )


def _save_report(built: pathlib.Path, checked: _Checked, name: str, options: Mapping[str, Any], seconds: float) -> None:
    """Writes what is known of a preparation beside its records: sources, hashes, counts, warnings."""
    facts = {
        "name": builders.title(name),
        "source": str(checked.source.resolve()) if checked.source else None,
        "listing": checked.listing,
        "content": checked.content,
        "table": checked.table,
        "warnings": checked.warnings,
        "skipped": checked.skipped,
        "seconds": round(seconds, 2),
        "options": options,
        "files": {path.name: path.stat().st_size for path in sorted(built.iterdir())},
    }
    if checked.files is not None:
        checked.files.save(built)
    file_io.write_json(built / records.REPORT_FILE, facts, "the report of the preparation")


def _check_files(
    name: str,
    module: types.ModuleType,
    raw: pathlib.Path,
    options: Mapping[str, Any],
    on_bad_image: str,
    strict_counts: bool,
    describe: bool,
) -> _Checked:
    """Reads the lists of a data set, decodes every image and compares the counts; see `prepare`."""
    source, rows = builders.read(name, module, raw, options)
    _refuse_other_data_set(name, rows, source, builders.published(name, module, options))
    listing = _listing_hash(name, rows)
    inspection = _inspect_images(rows)
    details = ""
    if describe:
        details = checks.describe(_as_splits(name, rows), inspection, getattr(module, "DISJOINT_IDENTITIES", False))
    kept, skipped = _without_bad_images(rows, inspection, on_bad_image)
    table, warnings = _compare(name, _as_splits(name, kept), module, options, strict_counts)
    warnings += [f"{note.rstrip('.')}." for note in getattr(rows, "notes", ())]
    warnings += checks.warnings_about_files(_as_splits(name, rows), inspection)
    files = source_files.take(rows, inspection.hashes)
    content = (
        ""
        if any(getattr(row, "parts", None) for listed in kept.values() for row in listed)
        else _content(rows, inspection)
    )
    return _Checked(kept, source, listing, content, files, table, warnings, skipped, details)


def _content(rows: Mapping[str, Sequence[Any]], inspection: checks.Inspection) -> str:
    """Returns `records.content_hash` of the records that will be made of the readable images, from their hashes."""
    hashes: dict[str, list[dict[str, bytes]]] = {split: [] for split in rows}
    splits = (split for split, listed in rows.items() for _ in listed)
    for place, (split, content) in enumerate(zip(splits, inspection.hashes, strict=True)):
        if place not in inspection.bad:
            hashes[split].append({"image": content})
    return records.content_of(hashes)


def _refuse_other_data_set(
    name: str, rows: Mapping[str, Sequence[Any]], origin: pathlib.Path, published: Mapping[str, Mapping[str, int]]
) -> None:
    """Raises a `UserError` where the numbers of images are exactly those of another data set in every split.

    Several data sets share a layout and a naming scheme; their published counts distinguish them.
    """
    found = {split: len(listed) for split, listed in rows.items()}
    if not published or found == {split: counts["images"] for split, counts in published.items()}:
        return
    for other in builders.available():
        counts = builders.published(other, builders.load(other), {})
        if other != name and counts and found == {split: numbers["images"] for split, numbers in counts.items()}:
            raise errors.UserError(
                f"the images in {origin} are as many as {other} has in every split, and not as {name} has; name "
                f"the right folder with scripts/prepare_dataset.py --source DIR, or prepare them as {other}."
            )


def _inspect_images(rows: Mapping[str, Sequence[Any]]) -> checks.Inspection:
    paths = [row.path for listed in rows.values() for row in listed]
    with progress.bar("checking images", len(paths), "images") as advance:
        return checks.inspect_images(paths, progress=advance)


def _without_bad_images(
    rows: Mapping[str, Sequence[Any]], inspection: checks.Inspection, on_bad_image: str
) -> tuple[dict[str, list[Any]], list[str]]:
    """Returns the rows whose images decode, and a sentence for each other image."""
    flat = [(split, row) for split, listed in rows.items() for row in listed]
    bad = inspection.bad
    if bad and on_bad_image == "fail":
        first = bad[min(bad)]
        more = f" ({len(bad) - 1} more of {len(flat)} images are like that)" if len(bad) > 1 else ""
        raise errors.UserError(
            f"{first.rstrip('.')}{more}, or leave such images out with scripts/prepare_dataset.py --on-bad-image skip."
        )
    kept: dict[str, list[Any]] = {split: [] for split in rows}
    for position, (split, row) in enumerate(flat):
        if position not in bad:
            kept[split].append(row)
    for split, listed in kept.items():
        if not listed:
            raise errors.UserError(f"none of the {len(rows[split])} images of the {split} split can be read.")
    return kept, [bad[position] for position in sorted(bad)]


def _as_splits(name: str, rows: Mapping[str, Sequence[Any]]) -> dict[str, records.Split]:
    return {
        split: records.Split(
            name=f"{name}/{split}",
            source=listed,
            pids=np.array([row.pid for row in listed], np.int32),
            camids=np.array([row.camid for row in listed], np.int32),
            filenames=tuple(row.filename for row in listed),
        )
        for split, listed in rows.items()
    }


def _compare(
    name: str,
    splits: Mapping[str, records.Split],
    module: types.ModuleType,
    options: Mapping[str, Any],
    strict_counts: bool,
) -> tuple[str, list[str]]:
    published = builders.published(name, module, options)
    table, differences = checks.compare_counts(splits, published)
    warnings = []
    if differences:
        more = f", and {len(differences) - 1} more" if len(differences) > 1 else ""
        sentence = f"the counts are not the published ones of {name} ({differences[0]}{more})"
        if strict_counts:
            raise errors.UserError(f"{sentence}; get the whole data set again, or leave out --strict-counts.")
        warnings.append(f"{sentence}; scores are not comparable with published ones.")
    return table, warnings + checks.warnings_about(splits, getattr(module, "DISJOINT_IDENTITIES", False))


def _move(built: pathlib.Path, target: pathlib.Path, replace: bool) -> None:
    """Renames the finished folder to its target; where another process was faster, its result is kept."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if replace and target.exists():
        # A folder cannot be renamed to a folder that is not empty.
        target.rename(built.parent / "replaced")
    try:
        built.rename(target)
    except OSError:
        if records.prepared_version(target.parent) != target:
            raise


def _report_again(
    name: str,
    root: str | pathlib.Path,
    module: types.ModuleType,
    path: pathlib.Path,
    source: str | pathlib.Path | None,
    options: Mapping[str, Any],
) -> PreparationReport:
    """Returns the report of a prepared folder, compared with its source.

    Raises:
        UserError: the folder was prepared from another source.
    """
    report = _report_of(name, path)
    if source is not None and hasattr(module, "scan"):
        now, then = pathlib.Path(source).expanduser().resolve(), pathlib.Path(report.source or ".")
        if now != then and now not in then.parents and then not in now.parents:
            raise errors.UserError(
                f"{path} was prepared from {then}, not from {now}; use another --root (or, for reid_folder, "
                "--option title=NAME), or replace it with --force."
            )
    changed = _changes(name, root, path, options, source)
    return dataclasses.replace(report, warnings=(*report.warnings, *changed))


def warnings_of(
    name: str, dataset: records.ReIDDataset, root: str | pathlib.Path = "data", **options: Any
) -> list[str]:
    """Returns the warnings of a prepared data set: those of its preparation, and whether its source has changed since.

    Args:
        name: the data set's name.
        dataset: the opened data set.
        root: the folder that holds `prepared/`.
        **options: the options it was prepared with.
    """
    if dataset.path is None or not (dataset.path / records.REPORT_FILE).is_file():
        return []
    return [*_report_of(name, dataset.path).warnings, *_changes(name, root, dataset.path, options)]


def _changes(
    name: str,
    root: str | pathlib.Path,
    path: pathlib.Path,
    options: Mapping[str, Any],
    source: str | pathlib.Path | None = None,
) -> list[str]:
    """Returns a sentence if the source of a prepared data set is no longer what it was, names or contents.

    A source that is gone is no change: prepared data do not need it any longer.
    """
    facts, module = _read_facts(path), builders.load(name)
    origin = pathlib.Path(source or facts["source"] or "").expanduser()
    if not hasattr(module, "scan") or facts.get("listing") is None or not origin.exists():
        return []
    defaults = builders.option_defaults(name) or {}
    chosen = {key: value for key, value in options.items() if value != defaults.get(key)}
    again = (
        f"the images are used as they were prepared; to prepare them again, run "
        f"`{records.prepare_command(name, root, chosen)} --source {origin} --force`."
    )
    try:
        rows = builders.read(name, module, origin, facts.get("options"))[1]
    except errors.UserError as error:
        return [f"{origin} can no longer be read as the source of {path} ({str(error).rstrip('.')}); {again}"]
    then = source_files.load(path)
    found = "" if then is None else source_files.compare(path, then, rows).text()
    if not found and _listing_hash(name, rows) == facts["listing"]:
        return []
    found = found or "other names, identities or cameras"
    return [f"the files in {origin} are no longer those that {path} was prepared from ({found}); {again}"]


def _listing_hash(name: str, rows: Mapping[str, Sequence[Any]]) -> str:
    splits = _as_splits(name, rows)
    return records.ReIDDataset(name, splits.get("train"), splits.get("query"), splits.get("gallery")).index_hash()


def _read_facts(path: pathlib.Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((path / records.REPORT_FILE).read_text(encoding="utf-8"))
        table, origin, seconds = facts["table"], facts["source"], facts["seconds"]
        lists = [*facts["warnings"], *facts["skipped"], table, "" if origin is None else origin]
        if not all(isinstance(text, str) for text in lists) or not isinstance(seconds, (int, float)):
            raise ValueError
        return facts
    except (OSError, ValueError, KeyError, TypeError):
        raise errors.UserError(
            f"{path} is damaged ({records.REPORT_FILE}); remove that folder and prepare it again."
        ) from None


def _report_of(name: str, path: pathlib.Path) -> PreparationReport:
    facts = _read_facts(path)
    return PreparationReport(
        name=name,
        path=path,
        source=facts["source"],
        table=facts["table"],
        warnings=tuple(facts["warnings"]),
        skipped=tuple(facts["skipped"]),
        seconds=facts["seconds"],
        existed=True,
    )
