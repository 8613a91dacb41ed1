"""Makes an engine's autostart launch Larder instead of LMCache's server.

With ``"lmcache.mp.autostart": true``, vLLM's connector runs
``python -m lmcache.v1.multiprocess.http_server FLAGS...`` and waits until that server answers a ping.
The command cannot be configured. So ``larder_kv.pth``, which every interpreter of the environment reads
at its start, calls :func:`take_over` when ``LARDER_AUTOSTART`` is set. If the command is exactly that one, the
interpreter is replaced by ``larder server FLAGS...`` before it has imported anything. The process id stays the
same, so the engine can still watch and terminate the process that it started.

The server then ends when no engine has been connected for a minute. An engine that restarts within that
minute finds its cache. ``--exit-when-idle-seconds`` in the engine's ``lmcache.mp.autostart.server_args``
overrides this.
"""

import os
import sys
from collections.abc import Mapping, Sequence

OPT_IN = "LARDER_AUTOSTART"
LMCACHE_SERVER = "lmcache.v1.multiprocess.http_server"

# Lowest precedence: the engine's server_args and the operator's environment win.
EXIT_WHEN_IDLE = {"LMCACHE_SERVER_EXIT_WHEN_IDLE_SECONDS": "60"}


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the operator set LARDER_AUTOSTART."""
    return environment.get(OPT_IN, "").strip().lower() in ("1", "true", "yes", "on")


def server_flags(command: Sequence[str]) -> list[str] | None:
    """The flags of LMCache's server, if this command of an interpreter starts it."""
    return list(command[3:]) if list(command[1:3]) == ["-m", LMCACHE_SERVER] else None


def take_over() -> None:
    """Replaces this process by ``larder server`` if it was started as LMCache's server and the operator opted in.

    Raises:
        SystemExit: The server cannot be started. Falling back to LMCache's would hide that.
    """
    flags = server_flags(sys.orig_argv)
    if flags is None or not is_wanted(os.environ):
        return
    from larder_kv.binary import find_binary  # costs milliseconds, and every interpreter runs this

    try:
        binary = find_binary()
        os.execve(binary, [binary, "server", *flags], EXIT_WHEN_IDLE | os.environ)
    except OSError as error:
        sys.exit(f"larder: {OPT_IN} is set, and the server cannot be started: {error}")
