//! Arguments of `portcullis policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Arguments of `portcullis policy`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say what is wrong with a policy, with line and column; silent when it is good and there is nothing to note.
    Check {
        /// The policy, HuJSON; `-` reads standard input.
        file: PathBuf,
        /// Users and nodes as JSON; with it the policy's own tests run too.
        #[arg(long, value_name = "FILE", env = "PORTCULLIS_TOPOLOGY", conflicts_with = "running")]
        topology: Option<PathBuf>,
        /// Run the policy's own tests in the network of the running coordination server.
        #[arg(long)]
        running: bool,
        /// Tests of somebody who is not there yet count as failed.
        #[arg(long)]
        strict: bool,
    },
    /// Print what each node is told: packet filter, peers, routes, capabilities.
    Compile {
        #[command(flatten)]
        files: Files,
        /// Only this node.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        /// Print JSON; with it come also the capabilities that every node has.
        #[arg(long)]
        json: bool,
    },
    /// Run the policy's tests and sshTests, one line each.
    Test {
        #[command(flatten)]
        files: Files,
        /// Tests of somebody who is not there yet count as failed.
        #[arg(long)]
        strict: bool,
    },
    /// Say which rule lets something through, or which came nearest; ends with 3 if nothing gets through.
    Explain {
        #[command(flatten)]
        files: Files,
        /// Who asks: a node, a user, a tag, a host or an address.
        #[arg(value_name = "SRC")]
        src: String,
        /// Where to: the same, or a prefix, with a port or without.
        #[arg(value_name = "DST[:PORT]")]
        dst: String,
        /// Protocol, by name or number [default: each of tcp, udp, icmp and those that rules name].
        #[arg(long, value_name = "PROTO")]
        proto: Option<String>,
    },
    /// Say who would gain and who would lose which addresses.
    Diff {
        #[command(flatten)]
        files: Files,
        /// The policy that holds now [default: the one in force at the running server].
        #[arg(long, value_name = "OLD")]
        against: Option<PathBuf>,
    },
    /// Print who exists in the network of the running coordination server, as a topology file.
    Topology,
    /// Print the policy that a running coordination server has in force.
    Get {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Put a policy in force at a running coordination server, after its own tests; shows who gains and who loses what.
    Set {
        /// The policy, HuJSON; `-` reads standard input.
        file: PathBuf,
        /// Change nothing, only show.
        #[arg(long)]
        dry_run: bool,
        /// Tests of somebody who is not there yet count as failed.
        #[arg(long)]
        strict: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lay a policy out; comments stay.
    Fmt {
        /// The policy, changed in place; `-` reads standard input and writes standard output.
        file: PathBuf,
        /// Change nothing; exit 1 if the layout is another.
        #[arg(long)]
        check: bool,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Files {
    /// The policy, HuJSON; `-` reads standard input [default: the one in force at the running server].
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_POLICY")]
    pub(crate) policy: Option<PathBuf>,
    /// Users and nodes as JSON [default: those of the running server].
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_TOPOLOGY", requires = "policy")]
    pub(crate) topology: Option<PathBuf>,
}
