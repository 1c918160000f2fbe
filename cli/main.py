"""The entry point: `dspymq VERB`, and its help."""

import click

from dspymq.cli import logs, options
from dspymq.cli.broker import broker
from dspymq.cli.call import call
from dspymq.cli.conformance import conformance
from dspymq.cli.definitions import alias, define, undefine
from dspymq.cli.drain import drain, undrain
from dspymq.cli.events import events
from dspymq.cli.exit_codes import table
from dspymq.cli.group import Commands
from dspymq.cli.jobs import jobs
from dspymq.cli.local import local
from dspymq.cli.ping import ping
from dspymq.cli.programs import programs
from dspymq.cli.status import status
from dspymq.cli.up import up
from dspymq.cli.worker import worker

HELP = """DSPy programs as a service: a broker, pools of workers, and calls from any language.

\b
Try it on one machine:
  dspymq local install            fetch a small language model (once)
  dspymq up examples.programs     a broker and a pool, until Ctrl-C
  dspymq call "question -> answer" question="What is the capital of France?"

\b
As services, each started by itself, in any order:
  dspymq broker
  dspymq worker myapp.programs --processes 4
  dspymq call summarize text=@report.txt --stream
"""

EPILOG = f"""\b
Environment: each option has a variable, named in its verb's help. Besides:
  DSPYMQ_BROKER           where clients find the broker
  DSPYMQ_BROKER_KEY       any key of [broker] in the configuration file
  DSPYMQ_WORKER_KEY       any key of [worker]
  DSPYMQ_LM_MODEL, DSPYMQ_LM_API_BASE, DSPYMQ_LM_API_KEY
                          the language model of a worker's default profile
  NO_COLOR                no colours

\b
Exit codes:
{table()}
"""


@click.group(
    name="dspymq",
    cls=Commands,
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@options.log_options("info")
@click.version_option(package_name="dspymq", prog_name="dspymq", message="%(prog)s %(version)s")
def cli() -> None:
    """See HELP."""


_VERBS = (
    broker,
    worker,
    up,
    call,
    programs,
    define,
    undefine,
    alias,
    status,
    jobs,
    events,
    drain,
    undrain,
    ping,
    local,
)
for _verb in (*_VERBS, conformance):
    cli.add_command(_verb)


def main() -> None:
    """Run the command line of this process."""
    logs.open_standard_streams()
    cli.main()
