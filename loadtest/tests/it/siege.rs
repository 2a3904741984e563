//! What others suffer of clients that mean no good.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::server::{Server, program, said};

#[test]
fn whoever_runs_a_relay_sees_what_each_attack_costs_the_others() {
    let server = Server::start(false);
    let mut siege = program();
    siege.args(["siege", "pairings", "--tenant"]).arg(server.tenant());
    siege.args(["--agents", "10", "--phones", "10", "--times", "1000", "--set", "connects_per_second=0"]);
    siege.args(["--set", "load.per_second=20", "--set", "load.seconds=1", "--set", "load.warm_up_seconds=0"]);
    for attack in ["slow-readers", "giant-frames", "ping-flood", "slowloris", "junk"] {
        siege.args(["--only", attack]);
    }
    let done = siege.arg("--json").arg(server.path("siege.json")).output().unwrap();
    assert!(done.status.success(), "{}", said(&done));
    let rounds: Vec<Value> = serde_json::from_str(&fs::read_to_string(server.path("siege.json")).unwrap()).unwrap();
    let attacks: Vec<&str> = rounds.iter().map(|round| round["attack"].as_str().unwrap_or("none")).collect();
    assert_eq!(attacks, ["none", "slow-readers", "giant-frames", "ping-flood", "slowloris", "junk", "none"]);
    assert!(rounds.iter().all(|round| round["errors"] == 0), "{}", said(&done));
    let active: BTreeSet<&str> = rounds
        .iter()
        .filter(|round| round["did"]["sockets"].as_u64() > Some(0) && round["did"]["bytes"].as_u64() > Some(0))
        .filter_map(|round| round["attack"].as_str())
        .collect();
    assert_eq!(active.len(), 5, "{}", said(&done));
}

#[test]
fn a_siege_of_a_relay_with_tls_is_refused_with_the_way_out() {
    let server = Server::start(true);
    let mut siege = program();
    siege.args(["siege", "pairings", "--tenant"]).arg(server.tenant());
    siege.args(["--agents", "2", "--phones", "2", "--only", "junk", "--set", "load.seconds=1"]);
    siege.args(["--set", "load.warm_up_seconds=0", "--set", "load.per_second=20"]);
    let done = siege.output().unwrap();
    assert_eq!(done.status.code(), Some(2), "{}", said(&done));
    assert!(said(&done).contains("attackers speak no TLS"), "{}", said(&done));
}
