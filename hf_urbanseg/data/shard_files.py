"""Files that are read by ranges, on disk or far away: opened, called by name, and tried again."""

import logging
import os
import re
import time

from fsspec.core import url_to_fs

from hf_urbanseg.data.hub_errors import hub_errors_in_one_line
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import check_regular

logger = logging.getLogger(__name__)

_WAITS = (1.0, 4.0)
"""Seconds before a file is opened and read again; those that the Hub's client waits for itself come on top."""


def name_file(url: str) -> str:
    """As errors call it: a path, or `user/set/data/train-00000-of-00001.parquet`."""
    return re.sub(r"^hf://datasets/([^/]+/[^/@]+)(@[^/]+)?", r"\1", url)


def open_url(url: str):
    """A file that is read by ranges, exactly those which are asked for."""
    if os.path.isabs(url):
        check_regular(url)
    system, path = url_to_fs(url)
    return system.open(path, "rb", **({} if os.path.isabs(url) else {"cache_type": "none"}))


def try_again(read, url: str):
    """What `read` returns, at the third attempt at the latest."""
    for wait in (*_WAITS, None):
        try:
            return read()
        except DataError:
            raise
        except Exception as error:  # of pyarrow, fsspec, the Hub's client and its HTTP library
            if wait is None:
                with hub_errors_in_one_line(name_file(url)):
                    raise
            logger.info("%s: %s; again in %g s", name_file(url), type(error).__name__, wait)
            time.sleep(wait)
