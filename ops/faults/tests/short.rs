//! The command, on a few pairings: a relay is killed, and a Redis master, and everything is accounted for.

use std::process::Command;

#[test]
fn a_relay_and_a_redis_master_are_killed_under_pairings_and_nothing_is_lost_doubled_or_silent() {
    let faults = "relay-killed,master-killed";
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_gatepass-chaos"));
    let ran = chaos.args(["--only", faults, "--pairings", "24", "--seed", "3"]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{err}");
    for fault in faults.split(',') {
        let row = out.lines().find(|line| line.starts_with(fault)).unwrap_or_else(|| panic!("no {fault} in\n{out}"));
        let cells: Vec<&str> = row.split_whitespace().collect();
        let begun: usize = cells[2].parse().unwrap();
        assert!(cells[1] == "24/24" && begun >= 24 && cells[5..8] == ["0", "0", "0"], "{out}");
    }
}

#[test]
fn a_fault_that_does_not_exist_is_answered_with_those_that_do() {
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_gatepass-chaos"));
    let ran = chaos.args(["--only", "flood"]).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success() && said.contains("relay-cut-off") && said.contains("flood"), "{said}");
}
