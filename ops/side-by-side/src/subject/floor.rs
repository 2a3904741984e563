//! The floor as a subject: this very program, started a second time.

use std::{net::SocketAddr, path::Path};

use super::Role;
use crate::{
    net::{Hearing, Out, Speaker},
    process::{Process, free_address},
};

pub(super) fn start(folder: &Path) -> anyhow::Result<(SocketAddr, Process)> {
    let address = free_address()?;
    let itself = std::env::current_exe()?;
    let arguments = |command: &mut std::process::Command| {
        command.arg("floor").arg(address.to_string());
    };
    Ok((address, Process::start("the floor", &itself, arguments, folder, address)?))
}

/// A client of the floor: a message is a frame.
pub(super) struct Client(pub(super) Role);

impl Speaker for Client {
    fn path(&self) -> String {
        match self.0 {
            Role::Subscriber | Role::Idle(_) | Role::Visitor(_) | Role::Returning(_) => "/subscribe".to_owned(),
            Role::Publisher => "/publish".to_owned(),
            Role::Asking(pair) => format!("/pair/{pair}/0"),
            Role::Answering(pair) => format!("/pair/{pair}/1"),
        }
    }

    fn opened(&mut self, _: &mut Out) -> bool {
        true
    }

    fn hear(&mut self, payload: &[u8], _: &mut Out, heard: &mut Hearing) -> anyhow::Result<()> {
        heard.message(payload)
    }

    fn say(&mut self, message: &[u8], out: &mut Out) -> anyhow::Result<()> {
        out.frame(message);
        Ok(())
    }
}
