//! What attacks and questions start from. In: a control on the stage. Out: the same with its key, as false nodes need it,
//! and a user called eve.

use std::ops::{Deref, DerefMut};
use std::process::Command;

use sim::mesh::server_key;
use stage::Dir;
use stage::command::command;
use stage::control::Control;
use tailnet_proto::meshkey::MachineKey;

/// A running control.
pub(crate) struct Reached {
    control: Control,
    /// What its handshakes are under.
    pub(crate) key: MachineKey,
    _dir: Dir,
}

impl Reached {
    /// Started as it is.
    pub(crate) async fn with(args: &[&str]) -> Reached {
        Reached::by(command(&[]), args).await
    }

    /// Started by a command that lacks all arguments of `portcullis`.
    pub(crate) async fn by(command: Command, args: &[&str]) -> Reached {
        let dir = Dir::new("reached");
        let control = Control::by(command, dir.path(), args);
        control.user("eve");
        Reached { key: server_key(control.addr).await.unwrap(), control, _dir: dir }
    }
}

impl Deref for Reached {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl DerefMut for Reached {
    fn deref_mut(&mut self) -> &mut Control {
        &mut self.control
    }
}
