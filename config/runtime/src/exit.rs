//! The exit codes of every command, in one place.

use std::fmt;
use std::process::{ExitCode, Termination};

/// How a command ended. Codes above 63 are those of `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or yes.
    Ok = 0,
    /// The answer is no: nothing found, a check did not hold.
    No = 1,
    /// It did not work: wrong arguments, an unexpected error.
    Trouble = 2,
    /// The answer is neither yes nor no: too little was measured.
    Undetermined = 3,
    /// Something it needs is not there: no server running, a port taken.
    Unavailable = 69,
    /// Reading or writing failed.
    Io = 74,
    /// The configuration is wrong.
    Config = 78,
}

impl Exit {
    /// All of them, for documentation.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::No,
        Self::Trouble,
        Self::Undetermined,
        Self::Unavailable,
        Self::Io,
        Self::Config,
    ];

    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What it means, in a few words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Ok => "done, or yes",
            Self::No => "no",
            Self::Trouble => "trouble",
            Self::Undetermined => "undetermined, or no data",
            Self::Unavailable => "unavailable",
            Self::Io => "input or output failed",
            Self::Config => "the configuration is wrong",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.words(), self.code())
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        assert_eq!(
            Exit::ALL.map(Exit::code),
            [0, 1, 2, 3, 69, 74, tailwater_config::EXIT_CONFIG]
        );
        assert_eq!(Exit::Config.to_string(), "the configuration is wrong (78)");
    }
}
