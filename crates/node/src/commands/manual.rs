//! `fula completion` and `fula man`: what shells and `man` know of the commands.

use std::process::ExitCode;

use fula_core::error::io_text;

use super::Failure;
use crate::{
    cli::{self, CompletionArgs, ManArgs, Shell},
    output,
};

/// Prints the completion of a shell.
pub(crate) fn completion(args: CompletionArgs) -> ExitCode {
    let (mut command, mut text) = (cli::command(), Vec::new());
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    clap_complete::generate(shell, &mut command, "fula", &mut text);
    output::write(|out| out.write_all(&text));
    ExitCode::SUCCESS
}

/// Writes manual pages.
pub(crate) fn man(args: ManArgs) -> ExitCode {
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&args.folder)?;
        clap_mangen::generate_to(cli::command(), &args.folder)
    };
    match write() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let shown = args.folder.display();
            Failure::from(format!("cannot write manual pages to {shown}: {}", io_text(&error)))
                .report()
        }
    }
}
