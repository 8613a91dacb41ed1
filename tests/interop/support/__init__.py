"""Shared by the interop and torture tests: server processes, raw frames, the stock client."""
