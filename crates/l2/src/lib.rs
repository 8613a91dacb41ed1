//! L2 adapters and the layers that wrap them.
