"""Larder, a native server for the LMCache multiprocess protocol. This package carries its binary."""
