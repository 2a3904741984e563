//! nginx with Debian's nchan module: a message is a frame; which channels a connection hears and speaks to is in its path.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::bail;

use super::{Role, daemon, quoted};
use crate::{
    message,
    net::{Hearing, Out, Speaker},
    process::{Process, free_address},
};

const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

pub(super) fn start(folder: &Path) -> anyhow::Result<(SocketAddr, Process)> {
    if !Path::new(MODULE).exists() {
        bail!("{MODULE} (libnginx-mod-nchan) is not installed; ops/bench installs it");
    }
    let address = free_address()?;
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {};\n", quoted(&folder.join(kind))))
        .concat();
    let config = format!(
        "load_module {MODULE};
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {};
error_log stderr warn;
events {{ worker_connections 19000; }}
http {{
    access_log off;
{temporary}    server {{
        listen {address} backlog=4096;
        location = /subscribe {{ nchan_subscriber websocket; nchan_channel_id $arg_from; }}
        location = /publish {{ nchan_publisher websocket; nchan_channel_id $arg_to; }}
        location = /both {{
            nchan_pubsub websocket;
            nchan_publisher_channel_id $arg_to;
            nchan_subscriber_channel_id $arg_from;
        }}
    }}
}}
",
        quoted(&folder.join("pid"))
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config)?;
    let arguments = |command: &mut std::process::Command| {
        command.arg("-p").arg(folder).args(["-e", "stderr", "-c"]).arg(&file);
    };
    Ok((address, Process::start("nginx", &daemon("nginx")?, arguments, folder, address)?))
}

/// A client of nchan.
pub(super) struct Client(pub(super) Role);

impl Speaker for Client {
    fn path(&self) -> String {
        match self.0 {
            Role::Subscriber | Role::Idle(_) | Role::Visitor(_) | Role::Returning(_) => {
                "/subscribe?from=fan".to_owned()
            }
            Role::Publisher => "/publish?to=fan".to_owned(),
            Role::Asking(pair) => format!("/both?from=a{pair}&to=b{pair}"),
            Role::Answering(pair) => format!("/both?from=b{pair}&to=a{pair}"),
        }
    }

    fn opened(&mut self, _: &mut Out) -> bool {
        true
    }

    fn hear(&mut self, payload: &[u8], _: &mut Out, heard: &mut Hearing) -> anyhow::Result<()> {
        // A publisher is told after each message how its channel is.
        if payload.len() != message::LEN && payload.starts_with(b"queued messages: ") {
            return Ok(());
        }
        heard.message(payload)
    }

    fn say(&mut self, message: &[u8], out: &mut Out) -> anyhow::Result<()> {
        out.frame(message);
        Ok(())
    }
}
