//! What is released for. In: a target of the compiler, or a program's file. Out: the names that Debian, RPM, OCI and the
//! emulator have for it.

use std::str::FromStr;

use anyhow::{Result, bail};

/// A machine that is released for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    X86_64,
    Aarch64,
}

impl Target {
    /// All of them.
    pub(crate) const ALL: [Target; 2] = [Target::X86_64, Target::Aarch64];

    /// The compiler's name.
    pub(crate) fn triple(self) -> &'static str {
        match self {
            Target::X86_64 => "x86_64-unknown-linux-musl",
            Target::Aarch64 => "aarch64-unknown-linux-musl",
        }
    }

    /// The kernel's name (`uname -m`), which is RPM's too.
    pub(crate) fn machine(self) -> &'static str {
        match self {
            Target::X86_64 => "x86_64",
            Target::Aarch64 => "aarch64",
        }
    }

    /// Debian's name, which is that of OCI images too.
    pub(crate) fn deb(self) -> &'static str {
        match self {
            Target::X86_64 => "amd64",
            Target::Aarch64 => "arm64",
        }
    }

    /// Whether its programs run on this machine.
    pub(crate) fn is_here(self) -> bool {
        self.machine() == std::env::consts::ARCH
    }

    /// What runs its programs on other machines.
    pub(crate) fn emulator(self) -> &'static str {
        match self {
            Target::X86_64 => "qemu-x86_64-static",
            Target::Aarch64 => "qemu-aarch64-static",
        }
    }

    /// Reads `e_machine` of an ELF file's head (elf(5)): 62 is x86-64, 183 is AArch64, both little-endian.
    ///
    /// # Errors
    /// It is no program for Linux on one of these machines.
    pub(crate) fn of_elf(head: &[u8]) -> Result<Target> {
        match (head.get(..6), head.get(18..20)) {
            (Some(b"\x7fELF\x02\x01"), Some([62, 0])) => Ok(Target::X86_64),
            (Some(b"\x7fELF\x02\x01"), Some([183, 0])) => Ok(Target::Aarch64),
            (Some(b"\x7fELF\x02\x01"), _) => bail!("it is an ELF file for another machine than x86_64 and aarch64"),
            _ => bail!("it is no 64-bit ELF file"),
        }
    }
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Target> {
        match Target::ALL.into_iter().find(|t| t.triple() == name) {
            Some(target) => Ok(target),
            None => bail!("`{name}` is not released for; there are {}", Target::ALL.map(Target::triple).join(" and ")),
        }
    }
}
