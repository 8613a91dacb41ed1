//! Tests of the `larder` binary, as its users meet it: words in, text and exit status out.

mod command;
mod ctl;
mod doctor;
mod running;
mod server_errors;
mod server_flags;
mod server_sources;
mod simulate;
mod top;
