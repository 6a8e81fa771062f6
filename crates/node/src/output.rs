//! Lines on standard output and standard error.
//!
//! A reader that closes its end, as `head` does, ends the output and not the command: the command goes on and
//! keeps its exit status. Any other failure to write results ends the command with exit status 1.

use std::{
    fmt::Arguments,
    io::{ErrorKind, Write},
};

use fula_core::error::io_text;

/// Prints a line on standard output.
macro_rules! say {
    () => { $crate::output::line(format_args!("")) };
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}

/// Prints a line on standard error.
macro_rules! note {
    ($($text:tt)*) => { $crate::output::note_line(format_args!($($text)*)) };
}

pub(crate) use {note, say};

/// Prints a line on standard output.
pub(crate) fn line(text: Arguments<'_>) {
    write(|out| writeln!(out, "{text}"));
}

/// Writes to standard output with `with`, and flushes it.
pub(crate) fn write(with: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) {
    let mut out = std::io::stdout().lock();
    match with(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            note_line(format_args!("fula: cannot write to standard output: {}", io_text(&error)));
            std::process::exit(1);
        }
        _ => {}
    }
}

/// Prints a line on standard error. Where that fails, nobody can be told.
pub(crate) fn note_line(text: Arguments<'_>) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}
