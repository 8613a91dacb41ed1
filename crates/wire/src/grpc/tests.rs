//! Requests and replies against what stock clients and the reference sent.
