"""`dspymq call`: run a program, or a signature, and print what comes out."""

from __future__ import annotations

import click

from dspymq.cli import options


@click.command(short_help="Run a program or an inline signature.")
@click.argument("program", metavar="PROGRAM_OR_SIGNATURE")
@click.argument("pairs", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--input",
    "input_path",
    metavar="FILE",
    envvar="DSPYMQ_CALL_INPUT",
    show_envvar=True,
    help="A JSON object of inputs; - reads standard input. KEY=VALUE goes over it.",
)
@click.option(
    "--kind",
    type=click.Choice(["predict", "chain_of_thought"]),
    envvar="DSPYMQ_CALL_KIND",
    show_envvar=True,
    help="How an inline signature is run; default predict.",
)
@click.option(
    "--stream", is_flag=True, envvar="DSPYMQ_CALL_STREAM", show_envvar=True, help="Print text as it is written."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    envvar="DSPYMQ_CALL_TIMEOUT",
    show_envvar=True,
    help="For all of it, waiting for a worker included; default 60.",
)
@click.option(
    "--profile",
    metavar="NAME",
    envvar="DSPYMQ_CALL_PROFILE",
    show_envvar=True,
    help="The worker's LM profile to run it on.",
)
@options.broker_option
@options.json_option("Print one JSON document; with --stream one a line, the result last.")
@options.log_options("warning")
def call(
    program: str,
    pairs: tuple[str, ...],
    input_path: str | None,
    kind: str | None,
    stream: bool,
    timeout_s: float | None,
    profile: str | None,
    brokers: tuple[str, ...],
    as_json: bool,
) -> int:
    """Run a program by its name, or a signature such as "question -> answer", and print its outputs.

    Values are read with the program's types in mind: a text field gets the text as it stands, others are JSON
    (ages='[3, 4]'). KEY=@FILE takes a file's content, KEY=@@ begins with an @. Ctrl-C cancels the job and exits
    with 130; `dspymq --help` has all exit codes.

    \b
    Examples:
      dspymq call sentiment review="It broke after a day."
      dspymq call "text -> name, age: int, mood: Literal['happy', 'sad']" text=@letter.txt
      dspymq call "question -> answer" --kind chain_of_thought --stream question="Why is the sky blue?"
      echo '{"question": "..."}' | dspymq call qa --input - --json | jq -r .outputs.answer
    """
    from dspymq.cli.calling import CallRequest, run_call
    from dspymq.cli.inputs import read_json_inputs

    if kind is not None and "->" not in program:
        raise click.UsageError(f"--kind is for inline signatures; {program} is a program's name")
    request = CallRequest(
        program=program,
        pairs=pairs,
        given={} if input_path is None else read_json_inputs(input_path),
        options={
            name: value
            for name, value in (("kind", kind), ("timeout_s", timeout_s), ("profile", profile))
            if value is not None
        },
        stream=stream,
        as_json=as_json,
    )
    return run_call(request, brokers)
