"""How every command ends: one line and status 2 for a mistake in the input."""

import os
import sys
from collections.abc import Callable

from hf_urbanseg.errors import UrbanSegError
from hf_urbanseg.hub.client import bound_requests
from hf_urbanseg.hub.secrets import hide_secrets


def run_command(command: Callable[[], None]) -> None:
    """Runs `command`; an `UrbanSegError` becomes one line on standard error and exit status 2.

    With several processes only the first of each machine prints, so the line appears once.
    """
    try:
        bound_requests()  # a Hub that is silent must not hold a command for ever
        command()
    except UrbanSegError as error:
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            # What was found may be a token, given to an option that is misspelt or takes something else.
            print(f"error: {hide_secrets(str(error))}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
