"""The command ``fedunlearn``: its groups, and the conversion of errors to exit statuses."""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn

import click
from typing_extensions import override

from fedunlearn.cli.compare import compare
from fedunlearn.cli.evaluate import evaluate
from fedunlearn.cli.keys import keys
from fedunlearn.cli.leaderboard import leaderboard
from fedunlearn.cli.ledger import ledger
from fedunlearn.cli.models import models
from fedunlearn.cli.receipts import receipt
from fedunlearn.cli.report import report, schema
from fedunlearn.cli.requests import request
from fedunlearn.cli.scenarios import demo, run
from fedunlearn.cli.serve import serve
from fedunlearn.cli.tune import tune
from fedunlearn.cli.work import work
from fedunlearn.errors import FedunlearnError, InputError, NonFiniteError

DONE, FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


class _Commands(click.Group):
    """The commands; without this class, click reports an EOFError as an interrupt."""

    @override
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except EOFError:
            raise InputError("a file is cut off; give the whole file") from None


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=False,
)
@click.version_option(package_name="fedunlearn")
def cli() -> None:
    """Remove data from a federated model without retraining it.

    Exit status: 0 done, 1 a check or a node failed, 2 wrong usage or unusable input.
    """


cli.add_command(demo)
cli.add_command(run)
cli.add_command(compare)
cli.add_command(evaluate)
cli.add_command(tune)
cli.add_command(leaderboard)
cli.add_command(report)
cli.add_command(schema)
cli.add_command(serve)
cli.add_command(work)
cli.add_command(request)
cli.add_command(receipt)
cli.add_command(ledger)
cli.add_command(keys)
cli.add_command(models)


def main() -> None:
    """Run the command line; every failure ends in one line on standard error."""
    try:
        for argument in sys.argv[1:]:
            if not argument.isascii() and any("\ud800" <= one <= "\udfff" for one in argument):
                raise InputError(f"{argument!a}: the argument is not valid UTF-8")
        status = cli.main(standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "fedunlearn"
        fail(UNUSABLE, f"{error.format_message().rstrip('.')}; see '{command} --help'")
    except click.ClickException as error:
        fail(UNUSABLE, error.format_message())
    except (click.Abort, KeyboardInterrupt) as error:
        interrupted(error)
    except (InputError, NonFiniteError) as error:
        fail(UNUSABLE, str(error))
    except FedunlearnError as error:
        fail(FAILED, str(error))
    sys.exit(status if isinstance(status, int) else DONE)


def interrupted(error: BaseException) -> NoReturn:
    """Exit with a line that reports what the error says about unfinished work."""
    interrupt = error.__cause__ if isinstance(error, click.Abort) else error  # click wraps it
    notes = interrupt.args if isinstance(interrupt, KeyboardInterrupt) else ()
    outcome = notes[0] if notes else "no result was written"
    click.echo(f"fedunlearn: interrupted; {outcome}", err=True)
    # An ordinary exit would wait for threads of Flower's engine, which may wait for workers that
    # have ended or still compute; and Ray, if interrupted while it starts, crashes in it.
    if "ray" in sys.modules or any(not thread.daemon for thread in threading.enumerate()[1:]):
        sys.stdout.flush()
        os._exit(INTERRUPTED)
    sys.exit(INTERRUPTED)


def fail(status: int, message: str) -> NoReturn:
    """Exit with a status and one line on standard error."""
    click.echo(f"fedunlearn: {' '.join(message.split())}", err=True)
    sys.exit(status)
