//! What a unit of ours may not do. In: what the process needs all the same. Out: lines of `[Service]`, the same for units
//! that `--generate=systemd` prints and those of the packages (systemd.exec(5)).

use std::fmt;

/// What a process needs besides its files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sandbox {
    /// Families of sockets.
    pub(super) families: &'static str,
    /// What it sees of people's folders.
    pub(super) home: Home,
    /// It has a `/tmp` of its own; before the file systems are all there it has none.
    pub(super) own_tmp: bool,
    /// It runs programs that need rights of root.
    pub(super) root: bool,
}

/// What is seen of people's folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// They can be read: a command line may name files there.
    Readable,
    /// Nothing.
    Hidden,
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let home = if self.home == Home::Hidden { "yes" } else { "read-only" };
        let tmp = if self.own_tmp { "PrivateTmp=yes\n" } else { "" };
        let calls = if self.root { "" } else { "SystemCallFilter=~@privileged @resources\n" };
        let families = self.families;
        // A core would hold keys and tokens.
        write!(
            f,
            "\
LimitCORE=0
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome={home}
{tmp}PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
RemoveIPC=yes
RestrictAddressFamilies={families}
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
{calls}SystemCallErrorNumber=EPERM
UMask=0077
"
        )
    }
}
