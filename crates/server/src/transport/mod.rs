//! Transports: how requests arrive and answers leave.
