//! `ringnbd completions` and `ringnbd man`: what shells and `man` know of the command line, from the same
//! source as `--help`.

use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;

use super::Outcome;
use super::text::written;

const LONG_HELP: &str = "\
Examples:
  ringnbd completions bash > /usr/share/bash-completion/completions/ringnbd
  ringnbd completions zsh > /usr/share/zsh/vendor-completions/_ringnbd
  ringnbd completions fish > /usr/share/fish/vendor_completions.d/ringnbd.fish";

/// Options of `ringnbd completions`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = LONG_HELP)]
pub(crate) struct Args {
    /// The shell
    pub shell: Shell,
}

pub(crate) fn run(args: &Args, mut command: Command) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "ringnbd", &mut script);
    written(io::Write::write_all(&mut io::stdout().lock(), &script))
}

/// Options of `ringnbd man`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// The directory that the pages are written to
    pub directory: PathBuf,
}

pub(crate) fn man(args: &ManArgs, mut root: Command) -> Outcome {
    root.build();
    match write_pages(&root, &args.directory) {
        Ok(()) => Outcome::Done,
        Err(error) => {
            Outcome::failed(format_args!("cannot write pages to {}: {error}", args.directory.display()))
        }
    }
}

/// A page for each command that users start, `ringnbd-image-create.1`.
fn write_pages(command: &Command, directory: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    std::fs::write(directory.join(format!("{name}.1")), page)?;
    let is_for_users = |sub: &&Command| !sub.is_hide_set() && sub.get_name() != "help";
    command.get_subcommands().filter(is_for_users).try_for_each(|sub| write_pages(sub, directory))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_command_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        let outcome = man(&ManArgs { directory: directory.path().to_owned() }, Cli::command());
        assert_eq!(outcome, Outcome::Done);
        let mut names: Vec<String> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        for page in ["ringnbd.1", "ringnbd-serve.1", "ringnbd-image-create.1", "ringnbd-check.1"] {
            assert!(names.iter().any(|name| name == page), "{page}: {names:?}");
        }
        assert!(!names.iter().any(|name| name.contains("broker") || name.contains("help")), "{names:?}");
        let serve = std::fs::read_to_string(directory.path().join("ringnbd-serve.1")).unwrap();
        assert!(serve.contains(".TH ringnbd-serve 1"), "{serve}");
        assert!(serve.contains("handshake\\-timeout"), "{serve}");
    }

    #[test]
    fn each_shell_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ringnbd", &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in ["serve", "attach", "check", "pidfile", "junit"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
