"""What the interop and torture tests share: server processes, raw frames, the stock client."""
