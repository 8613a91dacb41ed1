"""Lets an engine's autostart launch Larder.

With ``"lmcache.mp.autostart": true``, vLLM's connector runs
``python -m lmcache.v1.multiprocess.http_server FLAGS...`` and waits until that server answers a ping.
The command cannot be configured. So ``larder_kv.pth``, which every interpreter of the environment reads
at its start, comes here when ``LARDER_AUTOSTART`` is set; and when the command is exactly that one, the
interpreter becomes ``larder server FLAGS...`` before it has imported anything. It is replaced, not forked:
the process id stays, so the engine goes on watching, and can terminate, the process that it started.

The server then leaves when no engine has been connected for a minute. An engine that starts anew within
that minute finds its cache; none leaves a server behind. ``--exit-when-idle-seconds`` among the engine's
``lmcache.mp.autostart.server_args`` says otherwise.
"""

import os
import sys
from collections.abc import Mapping, Sequence

OPT_IN = "LARDER_AUTOSTART"
LMCACHE_SERVER = "lmcache.v1.multiprocess.http_server"

# The weakest way to set a flag: the engine's server_args and the operator's environment win.
LEAVE_WITH_THE_ENGINES = {"LMCACHE_SERVER_EXIT_WHEN_IDLE_SECONDS": "60"}


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the operator has asked for it."""
    return environment.get(OPT_IN, "").strip().lower() in ("1", "true", "yes", "on")


def server_flags(command: Sequence[str]) -> list[str] | None:
    """The flags of LMCache's server, if that is what this command of an interpreter starts."""
    return list(command[3:]) if list(command[1:3]) == ["-m", LMCACHE_SERVER] else None


def take_over() -> None:
    """Becomes the server if this process was started to be LMCache's and the operator wants ours.

    Raises:
        SystemExit: It cannot be started. LMCache's server instead would be a surprise.
    """
    flags = server_flags(sys.orig_argv)
    if flags is None or not is_wanted(os.environ):
        return
    from larder_kv.binary import find_binary  # costs milliseconds, and every interpreter comes by here

    try:
        binary = find_binary()
        os.execve(binary, [binary, "server", *flags], LEAVE_WITH_THE_ENGINES | os.environ)
    except OSError as error:
        sys.exit(f"larder: {OPT_IN} is set, and the server cannot be started: {error}")
