"""The command line. Each verb says what it does with an example; heavy packages are imported by the verb that needs them.

Exit codes: 0 all is well; 1 it failed; 2 the command or a configuration is wrong; 3 finished, with assets that failed; 130 interrupted,
the same command goes on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from orchestration.experiment import Experiment
    from orchestration.launch import Launch, Training

app = typer.Typer(
    name="crossloom",
    help="Meshes become paired datasets of point clouds and images; paired datasets become point-cloud encoders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
bench = typer.Typer(help="Ours against the alternatives, in one run, as ratios.", no_args_is_help=True)
app.add_typer(bench, name="bench")

Json = Annotated[bool, typer.Option("--json", help="The table as JSON on standard output.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Changes one value of the file; may be repeated.")]
Uri = Annotated[str, typer.Argument(help="The dataset's folder or fsspec URI.")]
Data = Annotated[str, typer.Option("--data", help="The dataset.")]
To = Annotated[Path, typer.Option("--to", help="Folder for journal, checkpoints and encoder.")]
Launcher = Annotated[str, typer.Option(help="local: this process, without Ray; ray: Ray Train.")]
Workers = Annotated[int, typer.Option(help="Ray workers that divide each batch.")]
Gpu = Annotated[bool, typer.Option(help="A GPU for each Ray worker.")]
Tracking = Annotated[str, typer.Option(help="MLflow tracking URI, or none.")]
Address = Annotated[str | None, typer.Option(help="The Ray cluster to use.")]


def say(text: str) -> None:
    """A line for a person, on standard error."""
    typer.echo(text, err=True)


def show(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Rows of one shape as a table or as JSON."""
    if as_json:
        typer.echo(json.dumps([dict(row) for row in rows], indent=1))
        return
    if not rows:
        return
    names = list(rows[0])
    cells = [[f"{row[n]:.4g}" if isinstance(row[n], float) else "" if row[n] is None else str(row[n]) for n in names] for row in rows]
    widths = [max(len(n), *(len(line[i]) for line in cells)) for i, n in enumerate(names)]
    numeric = [all(isinstance(row[n], int | float) or row[n] is None for row in rows) for n in names]
    for line in [names, *cells]:
        typer.echo("  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in zip(line, widths, numeric, strict=True)).rstrip())


def read_experiment(file: Path, overrides: list[str] | None) -> tuple[Experiment, str]:
    """The experiment and its resolved text."""
    import yaml

    from orchestration.experiment import Experiment
    from pipeline.config import load_yaml

    experiment = load_yaml(file, Experiment, overrides or ())
    return experiment, yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)


def home(experiment: Experiment, out: Path | None) -> Path:
    """The folder that an experiment works in."""
    return out if out is not None else Path("runs") / experiment.name


def close(outcomes: dict[str, Any], out: Path) -> None:
    """The last lines of a run: the figures and where to look; exit code 3 where assets failed."""
    from rich.console import Console

    from orchestration.run import result_table

    dataset = outcomes["dataset"]
    Console(width=None if sys.stdout.isatty() else 110).print(result_table(outcomes))
    typer.echo(f"\ngallery    {dataset.folder / 'gallery.html'}")
    typer.echo(f"report     {outcomes['report'].folder / 'index.html'}")
    typer.echo(f"dashboard  crossloom dashboard {out}")
    fail_with(dataset.outputs["failed"], str(dataset.folder / "data"))


def fail_with(failed: dict[str, int], uri: str) -> None:
    """Ends with exit code 3 and the failed assets by reason, if there are any."""
    if failed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(failed.items()))
        typer.echo(f"{sum(failed.values())} assets failed: {reasons} (crossloom status {uri})")
        raise typer.Exit(3)


def checked_launch(options: Mapping[str, Any]) -> Launch:
    """Where a training runs, from a verb's options."""
    from orchestration.launch import Launch
    from pipeline.config import checked

    return checked(Launch, dict(options), "the options")


def one_training(config: Training, data: str, to: Path, launch: Launch, tracking: str, given: Path | None) -> dict[str, Any]:
    """Runs one training before a person's eyes and returns its result."""
    from rich.console import Console

    from orchestration.graph import Stage
    from orchestration.launch import run_training
    from orchestration.run import alone, watching
    from orchestration.tracking import Tracker

    stage = Stage(to.name, "training", config.model_dump(mode="json"), (), lambda folder, needs: {})
    with alone(to):
        tracker = None if tracking == "none" else Tracker(tracking, to.name, to.parent, say)
        with watching(stage, to, Console(stderr=True, highlight=False)), tracker.following(stage, to, None) if tracker else _nothing():
            result = run_training(config, data, to, launch, given)
        if tracker:
            tracker.copy(stage, to, None, result["dataset"])
    return result


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for dataset, runs and report.")] = Path("demo"),
    workers: Annotated[int, typer.Option(help="Rendering workers.")] = 2,
) -> None:
    """The whole main job on built-in shapes and on clips of built-in creatures: dataset, pretraining, evaluation, report, MLflow tree.

    Example: crossloom demo --out demo
    """
    from orchestration.tracking import sqlite_uri

    recipes = Path(__file__).parent / "recipes"
    run(recipes / "demo.yaml", out, [f"workers={workers}"])
    typer.echo(f"\nThe same with point–video pairs of moving creatures, in {out / 'video'}:")
    run(recipes / "demo_video.yaml", out / "video", [f"workers={workers}", f"tracking={sqlite_uri(out)}"])


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="The experiment file.")],
    out: Annotated[Path | None, typer.Option(help="Folder to work in; runs/NAME by default.")] = None,
    overrides: Overrides = None,
    force: Annotated[list[str] | None, typer.Option(help="A stage to run again though it is finished; may be repeated.")] = None,
    address: Annotated[str | None, typer.Option(help="The Ray cluster to use.")] = None,
) -> None:
    """Brings every stage of an experiment up to date: runs what is missing or changed and says why.

    Example: crossloom run psb.yaml --set seeds=[0,1,2]
    """
    from rich.console import Console

    from orchestration.run import run_experiment
    from orchestration.tracking import sqlite_uri

    changes = list(overrides or ()) + ([f"launch.address={address}"] if address else [])
    experiment, text = read_experiment(file, changes)
    place = home(experiment, out)
    # Experiments under runs/ share one store; a folder of its own has its own.
    tracking = experiment.tracking or sqlite_uri(place if out is not None else place.parent)
    console = Console(stderr=True, highlight=False)
    outcomes = run_experiment(experiment, place, console, tracking=tracking, text=text, force=force or ())
    close(outcomes, place)


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(help="The experiment file.")],
    out: Annotated[Path | None, typer.Option(help="Folder to work in; runs/NAME by default.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Shows what `run` would do, and why, without doing it.

    Example: crossloom plan psb.yaml
    """
    from orchestration.run import plan_table

    experiment, _ = read_experiment(file, overrides)
    show(plan_table(experiment, home(experiment, out)), as_json)


@app.command()
def generate(
    recipe: Annotated[Path, typer.Argument(help="The recipe file.")],
    to: Annotated[str, typer.Option("--to", help="Folder or URI of the dataset.")],
    workers: Annotated[int, typer.Option(help="Ray workers; 0: this process, without Ray.")] = 1,
    address: Annotated[str | None, typer.Option(help="The Ray cluster to use.")] = None,
    overrides: Overrides = None,
) -> None:
    """Makes a dataset, or completes one: the same command again does what is missing.

    Example: crossloom generate recipe.yaml --to data/psb --workers 2
    """
    from pipeline.generate import generate as make
    from pipeline.recipe import load_recipe

    summary = make(load_recipe(recipe, overrides or ()), to, workers=workers, address=address)
    typer.echo(summary.text())
    typer.echo(f"next: crossloom gallery {to}")
    fail_with(summary.failed, to)


@app.command("import")
def import_recordings(
    form: Annotated[
        str, typer.Argument(metavar="FORMAT", help="msr_action3d, hoi4d_actions, hoi4d_semantic, synthia4d, radhar or mhomeges.")
    ],
    path: Annotated[Path, typer.Argument(help="The folder with the benchmark's files.")],
    to: Annotated[str, typer.Option("--to", help="Folder or URI of the dataset.")],
    points: Annotated[int | None, typer.Option(help="Points a frame; what the format gives by default.")] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(help="People, session or sequence to hold out in place of the official split, as a pattern; may be repeated."),
    ] = None,
    val: Annotated[list[str] | None, typer.Option(help="The same, for validation; taken out of train.")] = None,
    val_fraction: Annotated[float, typer.Option(help="Share of the train recordings for validation.")] = 0.0,
    window: Annotated[int | None, typer.Option(help="Cut into windows of so many frames; 0: whole recordings.")] = None,
    step: Annotated[int | None, typer.Option(help="Frames from one window's start to the next one's.")] = None,
    at_least: Annotated[
        int | None, typer.Option(help="A recording of fewer frames is short; with windows, one shorter than these.")
    ] = None,
    short: Annotated[str | None, typer.Option(help="What becomes of a short one: keep, repeat_last or leave_out.")] = None,
    lists: Annotated[
        list[str] | None, typer.Option("--list", metavar="SPLIT=FILE", help="A list of names beside the data; may be repeated.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="hoi4d_actions: the raw release, decoded to LINE/align_rgb/00000.jpg, LINE as in the list. That row i is line i of the"
            " list is what public code takes for granted; the makers never confirmed it."
        ),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the images' frames, in pixels; 224.")] = None,
    image_fps: Annotated[float | None, typer.Option(help="Images a second in the folder of --images; 15.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the points that are kept of a frame.")] = 0,
    workers: Annotated[int, typer.Option(help="Ray workers; 0: this process, without Ray.")] = 1,
    address: Address = None,
) -> None:
    """Makes a dataset of a public benchmark's recordings, or completes one: the same command again does what is missing.

    Example: crossloom import radhar .data/radhar --to data/radhar-d --test D --workers 2
    """
    from pipeline.config import checked
    from pipeline.generate import generate as make
    from pipeline.recipe import Recipe
    from pipeline.sources.recordings import COUNTS, SHARD_ASSETS, RecordingSource, overview
    from pipeline.status import flags

    wrong = next((text for text in lists or () if "=" not in text), None)
    if wrong is not None:
        raise UsageError(f"--list {wrong} names no split; write SPLIT=FILE, as train=release.txt.")
    given = {
        "test": tuple(test or ()) or None,
        "val": tuple(val or ()) or None,
        "window": window,
        "step": step,
        "at_least": at_least,
        "short": short,
        "lists": dict(text.split("=", 1) for text in lists) if lists else None,
        "images": images,
        "image_size": image_size,
        "image_fps": image_fps,
    }
    values: dict[str, Any] = {
        "name": form,
        "source": {"kind": "recording", "format": form, "path": path} | {name: value for name, value in given.items() if value is not None},
        "points": {"count": COUNTS.get(form, 1) if points is None else points},
        "seed": seed,
        "val_fraction": val_fraction,
    }
    if form in SHARD_ASSETS:
        values["shard_assets"] = SHARD_ASSETS[form]
    if images is not None:
        values["shard_assets"] = 8  # a few hundred images each
    recipe = checked(Recipe, values, "the options")
    assert isinstance(recipe.source, RecordingSource)
    if 0 < recipe.source.window < (at_least or 0):
        text = f"--at-least {at_least} asks for more frames than --window {recipe.source.window} has"
        raise UsageError(f"{text}; a recording as long as a window is long enough, so leave --at-least out or give --window 0.")
    summary = make(recipe, to, workers=workers, address=address)
    typer.echo(summary.text())
    for split, (here, whole) in overview(recipe.source).items():
        typer.echo(f"{split} by the official split: {here:,} recordings of the whole set's {whole:,} are here")
    if found := flags(to):
        typer.echo("flagged: " + ", ".join(f"{count:,} {name}" for name, count in found.items()))
    typer.echo(f"next: crossloom stats {to}")
    fail_with(summary.failed, to)


@app.command()
def pretrain(
    config: Annotated[Path, typer.Argument(help="The training's configuration.")],
    data: Data,
    to: To,
    tokenizer: Annotated[
        Path | None, typer.Option(help="The folder of a tokenizer, for Cross-BERT; without it one is trained first, in TO/tokenizer.")
    ] = None,
    launcher: Launcher = "local",
    workers: Workers = 1,
    gpu: Gpu = False,
    tracking: Tracking = "none",
    address: Address = None,
    overrides: Overrides = None,
) -> None:
    """Trains one encoder, or goes on where a training was interrupted.

    Example: crossloom pretrain dgcnn.yaml --data data/psb --to runs/dgcnn --launcher local --tracking none
    """
    from pipeline.config import load_yaml
    from training.objectives import CrossBertConfig
    from training.pretrain import PretrainConfig

    training = load_yaml(config, PretrainConfig, overrides or ())
    where = {"launcher": launcher, "workers": workers, "gpu": gpu, "address": address}
    objective = training.objective
    if tokenizer is None and isinstance(objective, CrossBertConfig) and objective.uses_tokenizer:
        seeded = objective.tokenizer.fit.model_copy(update={"seed": training.fit.seed})
        tokenizer = to / "tokenizer"
        one_training(objective.tokenizer.model_copy(update={"fit": seeded}), data, tokenizer, checked_launch(where), tracking, None)
    result = one_training(training, data, to, checked_launch(where), tracking, tokenizer)
    typer.echo(f"encoder  {to / 'encoder'}  ({result['steps']} steps, loss {result['metrics'].get('loss', float('nan')):.3f})")
    typer.echo(f"next: crossloom evaluate {to} --data {data}")


@app.command()
def finetune(
    config: Annotated[Path, typer.Argument(help="The training's configuration.")],
    data: Data,
    to: To,
    encoder: Annotated[Path | None, typer.Option(help="The folder of an encoder or of a pretraining; without it: random weights.")] = None,
    launcher: Launcher = "local",
    workers: Workers = 1,
    gpu: Gpu = False,
    tracking: Tracking = "none",
    address: Address = None,
    overrides: Overrides = None,
) -> None:
    """Trains an encoder further on labels, classes or parts, chooses the epoch on validation items and opens the test split once.

    Example: crossloom finetune parts.yaml --data data/lpsb --encoder runs/crossbert --to runs/parts
    """
    from pipeline.config import load_yaml
    from training.finetune import FinetuneConfig

    training = load_yaml(config, FinetuneConfig, overrides or ())
    launch = checked_launch({"launcher": launcher, "workers": workers, "gpu": gpu, "address": address})
    result = one_training(training, data, to, launch, tracking, encoder)
    show([{"figure": name, "test": value} for name, value in result["summary"].items()], False)
    typer.echo(f"encoder  {to / 'encoder'}  (epoch {result['epoch']}, chosen on validation items)")


@app.command()
def evaluate(
    trained: Annotated[Path, typer.Argument(help="A training's folder (all protocols), or an encoder's (those of points alone).")],
    data: Annotated[str, typer.Option("--data", help="The dataset.")],
    protocol: Annotated[str, typer.Option(help="Protocols, with commas; all by default.")] = "",
    to: Annotated[Path | None, typer.Option("--to", help="Folder for figures and evidence.")] = None,
    as_json: Json = False,
) -> None:
    """Figures of the frozen features beside random weights.

    Example: crossloom evaluate runs/dgcnn --data data/psb --protocol svm,knn
    """
    from orchestration.judge import evaluate_folder

    show(evaluate_folder(trained, data, [p for p in protocol.split(",") if p], to), as_json)


@app.command()
def status(uri: Uri, as_json: Json = False) -> None:
    """How far a dataset is, and which assets failed; works while another terminal generates it.

    Example: crossloom status data/psb
    """
    from pipeline.status import status as look

    show(look(uri), as_json)


@app.command()
def verify(uri: Uri, deep: Annotated[bool, typer.Option(help="Also decode every member and project points onto masks.")] = False) -> None:
    """Checks a dataset's files against its manifests.

    Example: crossloom verify data/psb --deep
    """
    from pipeline.verify import verify as check

    problems = check(uri, deep=deep)
    for problem in problems:
        typer.echo(str(problem))
    typer.echo(f"{len(problems)} problems in {uri}" if problems else f"{uri} is whole")
    if problems:
        raise typer.Exit(1)


@app.command()
def gallery(uri: Uri, to: Annotated[Path, typer.Option("--to", help="The page to write.")] = Path("gallery.html"), limit: int = 60) -> None:
    """A page to look at a dataset: views, orbiting clouds, failures by reason.

    Example: crossloom gallery data/psb --to psb.html
    """
    from pipeline.gallery import write_gallery

    typer.echo(f"open {write_gallery(uri, to, limit=limit)}")


@app.command()
def card(uri: Uri) -> None:
    """The dataset's card: contents, making, licences, how to read it.

    Example: crossloom card data/psb
    """
    from pipeline.card import card as text

    typer.echo(text(uri))


@app.command()
def stats(uri: Uri, as_json: Json = False) -> None:
    """Counts and sizes of a dataset by split.

    Example: crossloom stats data/psb
    """
    from pipeline.stats import stats as table

    show(table(uri), as_json)


@app.command()
def report(out: Annotated[Path, typer.Argument(help="The experiment's folder.")]) -> None:
    """Names the newest report of an experiment.

    Example: crossloom report runs/psb
    """
    pages = sorted(out.glob("report/*/index.html"), key=lambda page: page.stat().st_mtime)
    if not pages:
        raise UsageError(f"{out} holds no report: bring the experiment up to date with `crossloom run`.")
    typer.echo(pages[-1])


@app.command()
def dashboard(
    out: Annotated[Path, typer.Argument(help="An experiment's folder, or the folder of several.")] = Path("runs"),
    port: Annotated[int, typer.Option(help="Port on loopback.")] = 5000,
) -> None:
    """Opens MLflow's pages over the experiments, on loopback.

    Example: crossloom dashboard runs
    """
    found = [place / "mlflow.db" for place in (out, out.resolve().parent) if (place / "mlflow.db").exists()]
    if not found:
        raise UsageError(
            f"There is no mlflow.db in {out} or beside it: run an experiment first, or open your tracking server's own address."
        )
    typer.echo(f"http://127.0.0.1:{port}  (Ctrl-C ends it)")
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    store = f"sqlite:///{found[0].resolve()}"
    command = ["-m", "mlflow", "server", "--backend-store-uri", store, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, *command])


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine can do, and what is missing for the rest.

    Example: crossloom doctor
    """
    from orchestration.doctor import examine

    show(examine(), as_json)


@bench.command("render")
def bench_render(
    meshes: Annotated[list[Path], typer.Argument(help="Folders of meshes.")],
    limit: Annotated[int, typer.Option(help="Meshes of each folder; 0: all.")] = 25,
    as_json: Json = False,
) -> None:
    """Rasteriser, pyrender and other renderers at hand on the same meshes, with each one's error.

    Example: crossloom bench render .data/psb .data/sh3d
    """
    from orchestration.bench.render import bench_render as measure

    show(measure(meshes, limit=limit), as_json)


@bench.command("train")
def bench_train(
    method: Annotated[Literal["crosspoint", "crossbert", "crossvideo"], typer.Option(help="Whose operators and steps.")] = "crosspoint",
    size: Annotated[Literal["small", "paper"], typer.Option(help="Of crossbert's and crossvideo's networks and clouds.")] = "small",
    clouds: Annotated[int, typer.Option(help="Clouds of a step, or clips.")] = 8,
    points: Annotated[int, typer.Option(help="Points of a cloud, for crosspoint.")] = 1024,
    threads: Annotated[int, typer.Option(help="torch threads.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Operators and steps of training against their usual formulations, with peak memory.

    Example: crossloom bench train --method crossbert --clouds 32 --threads 2
    """
    if method == "crossbert":
        from orchestration.bench.crossbert import bench_crossbert

        show(bench_crossbert(size=size, clouds=clouds, threads=threads, device=device), as_json)
    elif method == "crossvideo":
        from orchestration.bench.crossvideo import bench_crossvideo

        show(bench_crossvideo(size=size, clips=clouds, threads=threads, device=device), as_json)
    else:
        from orchestration.bench.train import bench_ops

        show(bench_ops(clouds=clouds, points=points, threads=threads, device=device), as_json)


@bench.command("gpu")
def bench_gpu(objects: Annotated[int, typer.Option(help="Objects of a step.")] = 20, as_json: Json = False) -> None:
    """CrossPoint's step on a GPU at the paper's size, in float32 and bfloat16: samples a second and each branch's share of the time.

    Example: crossloom bench gpu --objects 64
    """
    import torch

    from orchestration.bench.train import bench_branches

    if not torch.cuda.is_available():
        raise UsageError(
            "There is no GPU that torch can use here: see `crossloom doctor`, or measure the CPU with `crossloom bench train`."
        )
    show(bench_branches(objects=objects, points=2048, device="cuda", precisions=("float32", "bfloat16")), as_json)


class UsageError(Exception):
    """The command is wrong; the text says what to type instead."""


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


def main() -> NoReturn:
    """Runs a command; errors become one sentence and an exit code, a traceback with --debug only."""
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1 or bool(os.environ.get("CROSSLOOM_DEBUG"))
    try:
        ended = app(arguments, standalone_mode=False)  # click gives the code of an Exit back
        code = ended if isinstance(ended, int) else 0
    except BaseException as error:
        code = _report(error, debug)
    sys.exit(code)


def _report(error: BaseException, debug: bool) -> int:
    """Prints an error as its reader needs it and returns the exit code."""
    import click

    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.exceptions.Abort | KeyboardInterrupt):
        say("interrupted; the same command goes on from here")
        return 130
    if isinstance(error, click.ClickException):
        error.show()
        return 2
    if debug:
        import traceback

        traceback.print_exception(error)
        return 1
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.errno == 28:
        text = f"No space left on the device ({error.filename or 'while writing'}): free some and give the same command again; it goes on."
    say(text if type(error).__module__.split(".")[0] in OURS else f"{type(error).__name__}: {text} (--debug shows where)")
    return 2 if {"ConfigError", "UsageError"} & {kind.__name__ for kind in type(error).__mro__} else 1


OURS = {"render", "pipeline", "training", "orchestration", "__main__"}

if __name__ == "__main__":
    main()
