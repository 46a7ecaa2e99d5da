"""`python -m server`: serve models over REST and gRPC until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import structlog

from server import logs, process
from server.app import run
from server.config import PREFIX, Settings, SettingsError, load, unknown_variables
from server.engine.stats import Observer
from server.models import ServedModel
from server.premises import Build, StartupError
from server.transport.listening import AddressInUse
from server.transport.tls import TlsError

log = structlog.get_logger()


def main(arguments: Sequence[str] | None = None, build: Build | None = None) -> int:
    """The exit code: 0 after a drain, 1 when the server could not do its work, 2 when the settings are wrong.

    `build` None: the models that the settings name.
    """
    process.tune()
    made = build or build_models
    try:
        settings = load(sys.argv[1:] if arguments is None else arguments)
    except SettingsError as error:
        return _complain(str(error), 2)
    os.environ.pop(f"{PREFIX}API_KEYS", None)  # not for the children of this process
    logs.configure(settings.log_level)
    for name in unknown_variables():
        log.warning("variable is not read by anything", name=name)
    try:
        with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
            return runner.run(run(settings, made))
    except (AddressInUse, StartupError, TlsError, ValueError, OSError) as error:
        log.debug("could not start", exc_info=True)
        return _complain(str(error), 1)
    except Exception as error:
        log.debug("could not start", exc_info=True)
        return _complain(f"{type(error).__name__}: {error}", 1)


def build_models(settings: Settings, observer: Observer, *, measures: bool = True) -> list[ServedModel]:
    """The models of the settings. What needs torch is imported here, once the listeners are up."""
    import model.environment  # noqa: F401  # before torch

    if settings.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)  # torch reads it when it is imported
    from server.build import build_model

    models = []
    for built, spec in enumerate(settings.model):  # those still to come shall find as much of a GPU as this one
        share = settings.cache_share / (len(settings.model) - built)
        its_own = settings.model_copy(update={"cache_share": share})
        models.append(build_model(spec, its_own, observer, measures=measures))
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise StartupError(f"two models are called {name}; name one ID=NAME")
    return models


def _complain(message: str, code: int) -> int:
    with contextlib.suppress(OSError):  # nobody reads it; the code tells all the same
        print(f"dyno serve: {message}", file=sys.stderr)
    return code


def leave(code: int) -> NoReturn:
    """End the process, whether or not what it has said last can be written."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    # A model that is still being built in its thread would hold up the interpreter's end.
    os._exit(code)


if __name__ == "__main__":
    leave(main())
