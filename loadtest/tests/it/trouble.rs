//! What does not go as wished, and what the tester says about it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use crate::server::{Server, program, said};

/// A refusal: exit code and words.
fn refused(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_broken_limit_is_named_and_the_exit_code_says_so() {
    let server = Server::start(false);
    let more = ["--agents", "5", "--set", "load.seconds=1", "--limit", "connect.max_ms=0", "--limit", "count>=5"];
    let words = refused(&mut server.run("idle", &more), 1);
    let line = words.lines().find(|line| line.contains("limit broken")).unwrap();
    assert!(line.contains("connect.max_ms is") && line.ends_with("must be at most 0"), "{words}");
    assert_eq!(words.matches("limit broken").count(), 1, "the others held: {words}");
}

#[test]
fn somebody_who_stops_it_keeps_what_was_measured_so_far() {
    let server = Server::start(false);
    let more = ["--agents", "4", "--phones", "4", "--set", "load.seconds=3600", "--set", "load.warm_up_seconds=0"];
    let mut run = server.run("pairings", &more);
    run.arg("--json").arg(server.path("partial.json")).arg("--html").arg(server.path("partial.html"));
    let mut running = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stderr.take().unwrap()).lines();
    // Until pairings are measured.
    assert!(lines.any(|line| line.unwrap().contains("pairing ")), "it ended by itself");
    let interrupted = Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    lines.for_each(drop);
    assert_eq!(running.wait().unwrap().code(), Some(130));
    let results = server.results("partial.json");
    assert!(results.interrupted && results.series["pairing"].count > 0);
    assert!(fs::read_to_string(server.path("partial.html")).unwrap().contains("these are partial results"));
}

#[test]
fn nobody_elses_machine_is_put_under_load_by_mistake() {
    let server = Server::start(false);
    let elsewhere = ["--relay", "wss://relay.example:8443"];
    let words = refused(&mut server.run("idle", &elsewhere), 2);
    assert!(words.contains("--not-loopback --target-is-mine relay.example"), "{words}");
    assert!(words.contains("can be one"), "and why: {words}");
    let once = [&elsewhere[..], &["--not-loopback"]].concat();
    assert!(refused(&mut server.run("idle", &once), 2).contains("--target-is-mine is missing"));
    let other = [&once[..], &["--target-is-mine", "relay2.example"]].concat();
    assert!(refused(&mut server.run("idle", &other), 2).contains("names \"relay2.example\""));
}

#[test]
fn a_relay_that_is_not_there_is_an_error_of_each_client_and_the_run_ends() {
    let server = Server::start(false);
    // Nobody listens on port 1.
    let more =
        ["--relay", "ws://127.0.0.1:1", "--agents", "3", "--set", "patience_seconds=1", "--set", "load.seconds=1"];
    let words = refused(&mut server.run("idle", &more), 1);
    assert!(words.contains("errors is 3, must be at most 0"), "{words}");
}

#[test]
fn mistakes_are_told_before_anything_is_sent() {
    let server = Server::start(false);
    for (more, said) in [
        (&["--set", "load.secnds=5"][..], "did you mean `load.seconds`?"),
        (&["--limit", "p99=5"], "did you mean \"p99_ms\"?"),
        (&["--workers", "9", "--agents", "3"], "9 workers are too many"),
        (&["--json", "/nonexistent/a.json"], "can't write /nonexistent/a.json"),
        (&["--server-pid", "4194305"], "there is no process 4194305"),
        (&["--relay", "relay"], "is not a server's address"),
    ] {
        let words = refused(&mut server.run("idle", more), 2);
        assert!(words.contains(said), "{more:?}: {words}");
    }
    let no_tenant = refused(program().args(["run", "idle", "--tenant", "/nonexistent"]), 2);
    assert!(no_tenant.contains("'gatepass-loadtest tenant' makes one"), "{no_tenant}");
    let twice = refused(
        program()
            .arg("tenant")
            .arg(server.tenant())
            .args(["--server", &server.url, "--operator-token-file"])
            .arg(server.path("operator.token")),
        2,
    );
    assert!(twice.contains("File exists"), "{twice}");
    fs::write(server.path("old.json"), r#"{"schema":"gatepass-loadtest/0"}"#).unwrap();
    let old = refused(program().arg("--compare").args([server.path("old.json"), server.path("old.json")]), 2);
    assert!(old.contains("run the test again with this version"), "{old}");
}
