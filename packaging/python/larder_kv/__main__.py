"""``python -m larder_kv WORDS...`` is ``larder WORDS...``."""

import os
import sys

from larder_kv.binary import find_binary

if __name__ == "__main__":
    binary = find_binary()
    os.execv(binary, [binary, *sys.argv[1:]])
