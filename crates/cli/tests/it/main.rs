//! Tests of the `larder` binary: arguments in, text and exit status out.

mod binary;
mod ctl;
mod doctor;
mod process;
mod server;
mod server_errors;
mod server_flags;
mod server_sources;
mod simulate;
mod top;
