"""A recipe becomes a dataset: what has no manifest is made, by this process or by Ray workers; doing it again is how to resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline import dataset, manifest, shards
from pipeline.card import NAME as CARD
from pipeline.card import card
from pipeline.isolation import ENTRY, Isolated, describe_renderer
from pipeline.outcome import STAGES
from pipeline.plan import Plan, make_plan
from pipeline.recipe import Recipe
from pipeline.sources import RecordingSource
from pipeline.storage import StorageError, Store
from pipeline.worker import ShardResult, in_process, make_shard


@dataclass
class Summary:
    """What a run of `generate` did. samples and failed (by reason) are of the whole dataset, the rest of this run.

    wall_s is the run's own time, start_s that part of it before the first worker was ready, work_s from then to the last shard; the rates
    count work_s. busy_s and, by stage, seconds are sums over the workers, so that assets_made / busy_s is the rate of one. pictures is what
    the images are called, "" where there are none to make. log has the last words of child processes that assets ended.
    """

    uri: str
    samples: int
    failed: dict[str, int]
    fingerprint: str
    left_out: dict[str, int]
    shards_made: int = 0
    shards_found: int = 0
    assets_made: int = 0
    images_made: int = 0
    bytes_made: int = 0
    workers: int = 0
    wall_s: float = 0.0
    start_s: float = 0.0
    work_s: float = 0.0
    busy_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    pictures: str = "images"
    log: list[str] = field(default_factory=list)

    @property
    def assets_per_s(self) -> float:
        return self.assets_made / self.work_s if self.assets_made else 0.0

    @property
    def images_per_s(self) -> float:
        return self.images_made / self.work_s if self.assets_made else 0.0

    @property
    def shares(self) -> dict[str, float]:
        """Each stage's share of the workers' time; "other" is what no stage accounts for."""
        if not self.busy_s:
            return {}
        shares = {stage: self.seconds.get(stage, 0.0) / self.busy_s for stage in STAGES}
        return shares | {"other": 1.0 - sum(shares.values())}

    @property
    def throughput(self) -> dict[str, float]:
        """Assets and images a second of this run once its workers were up; "…_per_core_s" of one worker at work; shares of the stages."""
        if not self.busy_s:
            return {}
        rates = {
            "assets_per_s": self.assets_per_s,
            "images_per_s": self.images_per_s,
            "assets_per_core_s": self.assets_made / self.busy_s,
            "images_per_core_s": self.images_made / self.busy_s,
        }
        return rates | {f"share_{stage}": share for stage, share in self.shares.items()}

    def text(self) -> str:
        """The run in a few lines."""
        left_out = "".join(f", {count} left out ({rule})" for rule, count in self.left_out.items())
        lines = [f"{self.uri}: {self.samples} samples{left_out}; fingerprint {self.fingerprint[:16]}"]
        if self.assets_made:
            found = f", {self.shards_found} were there" if self.shards_found else ""
            size = f"{self.bytes_made / 2**20:.1f} MiB"
            lines.append(f"{self.shards_made} shards made ({size}){found} in {self.wall_s:.1f} s, {self.start_s:.1f} s of it to start")
            shares = ", ".join(f"{stage} {share:.0%}" for stage, share in self.shares.items() if share)
            rate = f"{self.assets_per_s:,.1f} assets/s with {max(1, self.workers)} worker(s)"
            each = f"{self.assets_made / self.busy_s:,.1f} assets/s of each"
            if self.pictures:
                rate, each = (
                    f"{self.images_per_s:,.0f} {self.pictures}/s, {rate}",
                    f"{self.images_made / self.busy_s:,.0f} {self.pictures}/s of each",
                )
            lines.append(f"{rate}, {each}: {shares}")
        else:
            lines.append(f"nothing to do: all {self.shards_found} shards were there")
        return "\n".join(lines + self.log)


def generate(
    recipe: Recipe,
    to: str,
    *,
    workers: int = 0,
    progress: bool = True,
    address: str | None = None,
    isolate: bool = True,
    entry: str = ENTRY,
) -> Summary:
    """Makes or completes the recipe's dataset at a folder or fsspec URI.

    workers=0 makes it here, without Ray; else so many Ray workers do, on this machine or the cluster at `address`. Assets are made in
    child processes, or, for debugging without workers, here with isolate=False; `entry` is what a child runs (`pipeline.isolation`).
    Raises ConfigError (the source), DatasetError (the folder holds something else), StorageError, WorkerError; interrupted or killed,
    the same call goes on where this one was.
    """
    begin = time.perf_counter()
    store = Store(to)
    if workers and not store.shared:
        raise StorageError(f"{store.uri} is memory of this process, where Ray workers cannot write; use 0 workers or another place.")
    recipe = _absolute(recipe)
    with store.exclusive():
        if store.exists(dataset.NAME):
            dataset.check_recipe(store, dataset.load_info(store), recipe)
        plan = make_plan(recipe)
        info = dataset.begin(store, recipe, plan, describe_renderer(recipe))
        store.remove_temporaries(("", shards.FOLDER, manifest.FOLDER))
        done = _finished(store, plan)
        missing = [shard for shard in plan.starts if shard not in done]
        results = _make(store, recipe, plan, missing, workers, address, isolate, entry)
        total = Summary(store.uri, 0, {}, "", plan.left_out, shards_found=len(done), workers=workers, seconds=dict.fromkeys(STAGES, 0.0))
        total.pictures = _pictures(recipe)
        with _bar(progress, plan, done, total.pictures) as advance:
            for result in results:
                if result is None:
                    total.start_s = time.perf_counter() - begin
                else:
                    total.work_s = time.perf_counter() - begin - total.start_s
                    _add(total, result)
                    advance(result)
        info = dataset.finish(store, info, manifest.read_all(store))
        text = card(store.uri).encode()
        if not store.exists(CARD) or store.read(CARD) != text:
            store.write(CARD, text)
    counts = info["counts"]
    total.samples, total.failed = counts["samples"], counts["reasons"]
    total.fingerprint = info["fingerprint"]
    total.wall_s = time.perf_counter() - begin
    return total


def _pictures(recipe: Recipe) -> str:
    """What the recipe's images are called; empty where it makes none."""
    if isinstance(recipe.source, RecordingSource):
        return "frames" if recipe.source.images is not None else ""
    return "frames" if recipe.clips else "images"


def _absolute(recipe: Recipe) -> Recipe:
    """The recipe with a source that a process elsewhere in the file system finds."""
    places = {name: getattr(recipe.source, name, None) for name in ("path", "images")}
    absolute = {name: place.absolute() for name, place in places.items() if place is not None}
    return recipe.model_copy(update={"source": recipe.source.model_copy(update=absolute)}) if absolute else recipe


def _finished(store: Store, plan: Plan) -> set[str]:
    """The shards whose manifest is there, of this plan, and whose file has the size that it names."""
    sizes = store.files(shards.FOLDER)
    manifests = manifest.read_all(store)
    return {item.shard for item in manifests if item.plan == plan.hash and sizes.get(f"{item.shard}.tar", 0) == item.size}


def _make(
    store: Store, recipe: Recipe, plan: Plan, missing: list[str], workers: int, address: str | None, isolate: bool, entry: str
) -> Iterator[ShardResult | None]:
    """Results as they come, after one None when the first worker is ready."""
    if not missing:
        return
    if workers:
        from pipeline.ray_workers import make_shards

        yield from make_shards(store.uri, recipe, plan, missing, workers, address, entry)
        return
    maker = Isolated(recipe, entry) if isolate else in_process(recipe)
    try:
        if isinstance(maker, Isolated):
            maker.start()
        yield None
        for shard in missing:
            result = make_shard(store, shard, plan.assets(shard), plan.hash, maker)
            if isinstance(maker, Isolated):
                result, maker.log = replace(result, log=tuple(maker.log)), []
            yield result
    finally:
        if isinstance(maker, Isolated):
            maker.close()


def _add(total: Summary, result: ShardResult) -> None:
    total.shards_made += 1
    total.assets_made += result.samples + sum(result.reasons.values())
    total.images_made += result.images
    total.bytes_made += result.size
    total.busy_s += result.wall_s
    total.log.extend(result.log[: max(0, 100 - len(total.log))])
    for stage, spent in result.seconds.items():
        total.seconds[stage] = total.seconds.get(stage, 0.0) + spent


@contextmanager
def _bar(show: bool, plan: Plan, done: set[str], pictures: str) -> Iterator[Callable[[ShardResult], None]]:
    """A progress bar on stderr, with the assets made, the time left, images (without any: assets) a second and failures."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    made, failed, begin = 0, 0, time.perf_counter()
    with Progress(*columns, console=Console(stderr=True), disable=not show, refresh_per_second=4) as bar:
        here = sum(1 for shard in plan.table["shard"].to_pylist() if shard in done)
        task = bar.add_task("assets", total=len(plan.table), completed=here, rate="")

        def advance(result: ShardResult) -> None:
            nonlocal made, failed
            assets = result.samples + sum(result.reasons.values())
            made += result.images if pictures else assets
            failed += sum(result.reasons.values())
            rate = f"{made / (time.perf_counter() - begin):,.0f} {pictures or 'assets'}/s" + (f", {failed} failed" if failed else "")
            bar.update(task, advance=assets, rate=rate)

        yield advance
