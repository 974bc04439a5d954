"""The evidence plan: which tables say whether the parts of the systems work, as data in one file.

`configs/evidence.toml` is the plan; its first lines say what its entries mean. `evidence_runs` runs it on one machine
in the background, `benchmarks.campaign_evidence` at larger size on a device that is lent for minutes, and the pages of
the documentation take from it what the papers claim.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

from reid_jax import errors, file_io
from reid_jax.config import files
from reid_jax.runs import ablation, ablation_table

LIMIT = 1 << 20  # bytes of a plan


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two rows whose difference says something of a part of a system.

    Attributes:
        row: the row with the part.
        against: the row without it, or with something in its place.
        part: what the difference is due to, as the papers name it.
        claim: what the paper says of it, in a sentence.
        published: the paper's own gain in points of mAP; None where it prints none.
        where: where that gain was measured.
    """

    row: str
    against: str
    part: str = ""
    claim: str = ""
    published: float | None = None
    where: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the plan.

    Attributes:
        name: its name; `results/evidence-<name>.csv` holds it.
        question: what it answers.
        config: path of the config file.
        preset: preset of every row, with the data set.
        rows: see `ablation.Plan`.
        seeds: seeds of network and order.
        minutes: minutes that its runs may take of two cores that do nothing else.
        compare: its comparisons.
        data_seeds: whether the data set is drawn from the seed of the run, too.
        metrics: columns.
        scored: data set of the scores, one of `evals.datasets`; "" for the one that is trained on.
        overrides: settings of all rows, `key=value`.
        why: what was chosen for its size, and how a smaller set-up could show the opposite.
        device_overrides: settings in place of `overrides` on a device that is lent for minutes.
        pretraining_overrides: settings of the runs that rows behind "@" start from.
        page: page of the documentation's systems that shows it; "" for that of the config.
    """

    name: str
    question: str
    config: str
    preset: str
    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    minutes: float
    compare: tuple[Comparison, ...] = ()
    data_seeds: bool = True
    metrics: tuple[str, ...] = ablation_table.SHOWN
    scored: str = ""
    overrides: tuple[str, ...] = ()
    why: str = ""
    device_overrides: tuple[str, ...] = ()
    pretraining_overrides: tuple[str, ...] = ()
    page: str = ""

    @property
    def file(self) -> str:
        """Name of its files in the folder of results, without their ending."""
        return f"evidence-{self.name}"

    def on_device(self) -> Table:
        """Returns the table with the settings for a device that is lent for minutes."""
        return dataclasses.replace(self, overrides=self.device_overrides, why="")

    def plan(self, workdir: pathlib.Path, overrides: tuple[str, ...] = ()) -> ablation.Plan:
        """Returns its runs.

        Args:
            workdir: folder of the runs of all tables.
            overrides: further settings of every run, `key=value`.

        Raises:
            UserError: a comparison names no row.
        """
        return ablation.Plan(
            config=self.config,
            preset=self.preset,
            rows=self.rows,
            seeds=self.seeds,
            workdir=workdir / self.name,
            overrides=tuple(f"--config.{pair}" for pair in (*self.overrides, *overrides)),
            pairs=tuple(dict.fromkeys((pair.row, pair.against) for pair in self.compare)),
            data_seeds=self.data_seeds,
            references_once=True,
            pretraining_overrides=tuple(f"--config.{pair}" for pair in self.pretraining_overrides),
        )


def path_of(name: str) -> pathlib.Path:
    """Returns the path of a plan, given that path or the name of a packaged plan ("evidence").

    Raises:
        UserError: there is no such plan.
    """
    path = pathlib.Path(name)
    if path.is_file():
        return path
    folders = dict.fromkeys(file.parent for file in files.packaged().values())
    plans = {file.stem: file for folder in folders for file in sorted(folder.glob("*.toml"))}
    if name in plans:
        return plans[name]
    raise errors.unknown("plan (--plan)", name, plans)


def read(path: pathlib.Path) -> list[Table]:
    """Returns the tables of a plan in the order of their priority.

    Raises:
        UserError: the file is no plan; the sentence names the table and the key.
    """
    text = file_io.read_text(path, "an evidence plan", "name a file like configs/evidence.toml", limit=LIMIT)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise errors.UserError(
            f"expected TOML in {path}, got {errors.reason(error, 200)}; repair that line."
        ) from error
    common = document.get("all", {})
    tables = document.get("tables", {})
    if not isinstance(common, Mapping) or not isinstance(tables, Mapping) or not tables:
        raise errors.UserError(f"expected [tables.NAME] in {path}, there is none; see configs/evidence.toml.")
    return [_table(path, name, common, entry) for name, entry in tables.items()]


def _table(path: pathlib.Path, name: str, common: Mapping[str, Any], entry: Any) -> Table:
    """Returns a table from its entry and that of all tables, checked by the types of its fields."""
    if not name.replace("_", "a").isalnum():
        raise errors.UserError(
            f"expected a table's name in {path} of letters, digits and _, got {name[:100]!r}; rename it."
        )
    where = f"tables.{name} in {path}"
    if not isinstance(entry, Mapping):
        raise errors.UserError(f"expected {where} as a table of keys; see configs/evidence.toml.")
    pairs = entry.get("compare", [])
    if not isinstance(pairs, list) or not all(isinstance(pair, Mapping) for pair in pairs):
        raise errors.UserError(
            f"expected {where}: compare as a list of {{row, against, ...}}; see configs/evidence.toml."
        )
    compare = tuple(Comparison(**_checked(Comparison, pair, f"{where}: compare")) for pair in pairs)
    given = {key: value for key, value in entry.items() if key != "compare"}
    own = _checked(Table, {**common, "name": name, **given}, where)
    for key in (key for key in own if key.endswith("overrides")):
        own[key] = tuple(dict.fromkeys((*common.get(key, ()), *own[key])))
    beside = path.parent / f"{own['config']}.py"
    own["config"] = str(beside if beside.is_file() else files.path_of(own["config"]))
    return Table(**own, compare=compare)


def _checked(kind: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the values of a dataclass's fields, lists as tuples.

    Raises:
        UserError: an unknown, absent or wrong key.
    """
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name != "compare"}
    for key in given:
        if key not in fields:
            raise errors.unknown(f"key of {where}", str(key), fields)
    for key, field in fields.items():
        if key not in given and field.default is dataclasses.MISSING:
            raise errors.UserError(f"expected {where} with the key {key}, it has none; see configs/evidence.toml.")
    values = {}
    for key, value in given.items():
        wanted = str(fields[key].type)
        element = int if wanted == "tuple[int, ...]" else str
        fits = {
            "str": isinstance(value, str),
            "bool": isinstance(value, bool),
            "float": isinstance(value, int | float) and not isinstance(value, bool),
        }.get(wanted.removesuffix(" | None"))
        if wanted.startswith("tuple"):
            fits = isinstance(value, list) and bool(value) and all(type(each) is element for each in value)
        if not fits:
            raise errors.UserError(f"expected {where}: {key} as {wanted}, got {str(value)[:100]!r}; change it.")
        values[key] = tuple(value) if isinstance(value, list) else value
    return values
