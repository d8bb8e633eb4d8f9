"""`python -m remit.app PROCESS --notify-fd N`: the entry of every process that the supervisor starts."""

from __future__ import annotations

import asyncio
import importlib
import logging
import signal
import sys
from collections.abc import Coroutine, Iterator
from typing import Any

import uvloop

from remit.core.errors import RemitError
from remit.node import notify
from remit.settings import load

PROCESSES = ("control", "decide", "cells", "forward", "openbao")


async def _run(serving: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(serving)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        logging.getLogger("remit").info("stopped")


def main(argv: list[str]) -> int:
    name, flag, descriptor = argv
    if name not in PROCESSES or flag != "--notify-fd":
        raise SystemExit(f"usage: python -m remit.app {'|'.join(PROCESSES)} --notify-fd N")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    module = importlib.import_module(f"remit.app.{name}")
    notifier, code = notify.Notifier(int(descriptor)), 0
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(module.serve(load(), notifier)))
    except* RemitError as errors:
        found = list(_leaves(errors))
        for error in found:
            logging.getLogger("remit").error("%s (%s)", error.detail, error.hint)
        notifier.failed(found[0].detail, found[0].hint)
        code = 1
    return code


def _leaves(errors: BaseExceptionGroup[RemitError]) -> Iterator[RemitError]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
