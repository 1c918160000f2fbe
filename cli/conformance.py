"""`dspymq conformance broker|client|worker`: tests an implementation of DJP/1 in any language, by rule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dspymq.cli.errors import CommandError
from dspymq.cli.exit_codes import ExitCode
from dspymq.cli.group import Commands
from dspymq.cli.output import console, print_json, to_json

if TYPE_CHECKING:
    from dspymq.conformance.runs import Choice
    from dspymq.conformance.verdicts import Outcome

F = TypeVar("F", bound=Callable[..., Any])
Run = Callable[["Choice", Callable[["Outcome"], None]], "list[Outcome]"]


@dataclass(frozen=True)
class Asked:
    """What the common options say."""

    rules: tuple[str, ...]
    sections: tuple[int, ...]
    names: tuple[str, ...]
    scale: float
    lists: bool
    whole: bool
    json_path: str | None
    junit_path: Path | None


@click.group(cls=Commands, short_help="Test a broker, client or worker of any language against SPEC.md.")
def conformance() -> None:
    """Test somebody's broker, client or worker against the rules of SPEC.md, over real sockets.

    The kit plays the transcripts of protocol/vectors, each of which names the rules that it shows. A verdict is one of
    pass, fail, not supported, and informational (what is only recommended). The exit code is 0 if nothing failed, or 1.

    \b
    Examples:
      dspymq conformance client -- node driver.js
      dspymq conformance client --rule R-5.10 -v -- ruby driver.rb
      dspymq conformance worker --junit report.xml -- ./worker-driver
      dspymq conformance broker tcp://127.0.0.1:5570 tcp://127.0.0.1:5571
    """


def common_options(function: F) -> F:
    """What all three verbs take; the verb gets `asked`."""

    @functools.wraps(function)
    def gather(**said: Any) -> Any:
        own = {field.name: said.pop(field.name) for field in fields(Asked)}
        own["rules"] = _rules(own["rules"])
        return function(asked=Asked(**own), **said)

    wrapped: Any = gather
    for option in reversed(_COMMON):
        wrapped = option(wrapped)
    found: F = wrapped
    return found


def _option(*names: str, **settings: Any) -> Callable[[Any], Any]:
    """An option, and its variable: DSPYMQ_CONFORMANCE_ and its long name."""
    long = next(name for name in names if name.startswith("--")).removeprefix("--")
    variable = f"DSPYMQ_CONFORMANCE_{long.replace('-', '_').upper()}"
    return click.option(*names, envvar=variable, show_envvar=True, **settings)


_COMMON: list[Callable[[Any], Any]] = [
    _option("--rule", "rules", metavar="RULE", multiple=True, help="Only what shows this rule, such as R-5.7."),
    _option(
        "--section", "sections", metavar="N", type=int, multiple=True, help="Only rules of this section of SPEC.md."
    ),
    _option("--only", "names", metavar="NAME", multiple=True, help="Only the transcript of this name."),
    _option("--list", "lists", is_flag=True, help="Show what would be run, and run nothing."),
    _option(
        "-v", "--verbose", "whole", is_flag=True, help="Show the whole exchange of each transcript that was not kept."
    ),
    _option("--json", "json_path", metavar="FILE", help="Write the report as JSON; - is stdout."),
    _option(
        "--junit",
        "junit_path",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write it as JUnit XML.",
    ),
    _option(
        "--timeout-scale",
        "scale",
        type=click.FloatRange(0, min_open=True),
        default=1.0,
        help="Multiplies the patience of the kit (10 s a message); more for slow machines.",
    ),
]
_JOBS = _option("--jobs", type=click.IntRange(1), default=2, help="Transcripts at once; default 2.")
_COMMAND = click.argument("command", nargs=-1, required=False, type=click.UNPROCESSED)


def _rules(said: tuple[str, ...]) -> tuple[str, ...]:
    from dspymq.conformance.vectors import rules

    found = tuple(rule if rule.upper().startswith("R-") else f"R-{rule}" for rule in said)
    found = tuple(rule.upper() for rule in found)
    for rule in found:
        if rule not in rules():
            raise click.UsageError(f"SPEC.md has no rule {rule}")
    return found


@conformance.command(short_help="Test a client.")
@_COMMAND
@common_options
@_JOBS
def client(asked: Asked, command: tuple[str, ...], jobs: int) -> int:
    """Test a client: COMMAND is its driver, a program that does what the kit tells it (docs/conformance-drivers.md).

    It is started anew for each transcript, with the addresses of its brokers in DSPYMQ_BROKERS.

    \b
    Examples:
      dspymq conformance client -- python -m examples.conformance.python_client
      dspymq conformance client --section 9 -v -- node driver.js
    """
    from dspymq.conformance.runs import run_client

    return _run("client", asked, command, jobs, lambda choice, report: run_client(command, choice, report))


@conformance.command(short_help="Test a worker.")
@_COMMAND
@common_options
def worker(asked: Asked, command: tuple[str, ...]) -> int:
    """Test a worker: COMMAND is its driver, which offers a few small programs (docs/conformance-drivers.md).

    It is started once, with the address of its broker in DSPYMQ_BROKERS, and again after each failure.

    \b
    Examples:
      dspymq conformance worker -- python -m examples.conformance.python_pool
      dspymq conformance worker --rule R-6.15 -v -- ./worker-driver
    """
    from dspymq.conformance.runs import run_worker

    return _run("worker", asked, command, 1, lambda choice, report: run_worker(command, choice, report))


@conformance.command(short_help="Test a broker.")
@click.argument("addresses", nargs=-1, metavar="[ADDR_CLIENTS ADDR_WORKERS]")
@_option(
    "--start",
    "template",
    metavar="COMMAND",
    help="How the kit starts a broker: a command line with {clients}, {workers} (addresses) and {settings} (JSON).",
)
@common_options
@_JOBS
def broker(asked: Asked, addresses: tuple[str, ...], template: str | None, jobs: int) -> int:
    """Test a broker at its two addresses; or start it, as often as needed, by --start.

    Transcripts that need settings, a restart or a broker that nobody has met are run only with --start. Its {settings}
    are a JSON object with the names of SPEC.md section 13; the three are in DSPYMQ_CLIENTS, DSPYMQ_WORKERS and
    DSPYMQ_SETTINGS, too. No other workers should be at a broker under test.

    \b
    Examples:
      dspymq conformance broker tcp://127.0.0.1:5570 tcp://127.0.0.1:5571
      dspymq conformance broker --start "my-broker {clients} {workers} --settings {settings}"
    """
    from dspymq.conformance.broker_runs import Broker, run_broker

    if len(addresses) not in (0, 2) or not (addresses or template or asked.lists):
        raise click.UsageError("a broker has two addresses, for clients and for workers; or give --start COMMAND")
    pair = (addresses[0], addresses[1]) if addresses else None
    tested = Broker(pair, template)
    words = addresses or (template or "",)
    return _run("broker", asked, words, jobs, lambda choice, report: run_broker(tested, choice, report))


def _run(role: str, asked: Asked, command: Sequence[str], jobs: int, run: Run) -> int:
    from dspymq.conformance.runs import CannotRun, Choice, NothingToRun

    choice = Choice(asked.rules, asked.sections, asked.names, asked.scale, jobs)
    try:
        if asked.lists:
            return _list(role, choice)
        if not command:
            raise click.UsageError("which COMMAND? It stands after --, as in: -- node driver.js")
        outcomes = run(choice, _progress())
    except NothingToRun as problem:
        raise click.UsageError(str(problem)) from None
    except CannotRun as problem:
        raise CommandError(str(problem)) from None
    return _report(role, " ".join(command), outcomes, asked)


def _list(role: str, choice: Choice) -> int:
    from dspymq.conformance.broker_runs import cases, needs_its_own
    from dspymq.conformance.features import needed

    for transcript in choice.of(role, cases() if role == "broker" else ()):
        needs = sorted(needed(role, transcript) - {"call"})
        needs += ["--start"] if role == "broker" and needs_its_own(transcript) else []
        words = f"  (needs {', '.join(needs)})" if needs else ""
        click.echo(f"{transcript['name']}  {' '.join(transcript['rules'])}{words}\n    {transcript['about']}")
    return ExitCode.OK


def _progress() -> Callable[[Outcome], None]:
    """On a terminal a line that tells what was run last; elsewhere nothing."""
    shown = console(err=True)
    if not shown.is_terminal:
        return lambda _: None
    count = 0

    def tell(outcome: Outcome) -> None:
        nonlocal count
        count += 1
        shown.print(f"\r\x1b[K{count} {outcome.verdict}: {outcome.name}", end="")

    return tell


def _report(role: str, tested: str, outcomes: list[Outcome], asked: Asked) -> int:
    from dspymq.cli import conformance_report
    from dspymq.conformance.documents import document, junit
    from dspymq.conformance.verdicts import is_conformant

    is_on_stdout = asked.json_path == "-"
    where = console(err=is_on_stdout)
    if console(err=True).is_terminal:
        click.echo("\r\x1b[K", nl=False, err=True)
    conformance_report.show(where, role, tested, outcomes, whole=asked.whole)
    if is_on_stdout:
        print_json(document(role, tested, outcomes))
    elif asked.json_path:
        Path(asked.json_path).write_text(to_json(document(role, tested, outcomes)) + "\n", "utf-8")
    if asked.junit_path:
        asked.junit_path.write_text(junit(role, tested, outcomes), "utf-8")
    return ExitCode.OK if is_conformant(outcomes) else ExitCode.FAILURE
