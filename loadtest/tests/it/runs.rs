//! Each profile, small, and what it says afterwards.

use std::fs;

use gatepass_loadtest::results::Results;

use crate::server::{Server, program, said};

/// Runs a profile with two workers and no limits, and reads what it wrote.
fn ran(server: &Server, profile: &str, changes: &[&str]) -> Results {
    let (json, html) = (format!("{profile}.json"), format!("{profile}.html"));
    let mut run = server.run(profile, &["--workers", "2", "--set", "limits=[]", "--set", "connects_per_second=0"]);
    for change in changes {
        run.args(["--set", change]);
    }
    let done = run.arg("--json").arg(server.path(&json)).arg("--html").arg(server.path(&html)).output().unwrap();
    assert!(done.status.success(), "{profile}: {}", said(&done));
    let results = server.results(&json);
    assert_eq!(results.errors, Default::default(), "{profile}: {}", said(&done));
    assert!(!results.interrupted && results.workers == 2);
    let page = fs::read_to_string(server.path(&html)).unwrap();
    assert!(
        page.contains("<svg") && !page.contains("http://www") && !page.contains("src="),
        "one file, from nowhere else"
    );
    assert!(said(&done).contains("Nothing failed."), "{}", said(&done));
    for name in results.profile.series() {
        assert!(results.series.get(*name).is_some_and(|series| series.count > 0), "{profile} measured no {name}");
    }
    results
}

#[test]
fn idle_computers_connect_once_each_and_the_servers_memory_is_seen() {
    let server = Server::start(false);
    let results = ran(&server, "idle", &["agents=40", "load.seconds=2"]);
    assert_eq!(results.series["connect"].count, 40);
    assert_eq!(results.online.iter().map(|(_, online)| *online).max(), Some(40));
    assert!(results.server.is_some_and(|server| server.rss_highest_kib > 1_000));
}

#[test]
fn everybody_cut_in_a_storm_is_back_and_newcomers_get_in_meanwhile() {
    let server = Server::start(false);
    let changes = ["agents=30", "load.rounds=2", "load.round_seconds=5", "load.newcomers_per_second=4"];
    let results = ran(&server, "storm", &changes);
    assert_eq!((results.counts["cut"], results.series["reconnect"].count), (60, 60));
    assert_eq!(results.series["newcomer"].count, 40);
}

#[test]
fn technicians_pair_with_real_handshakes_and_the_relay_alone_with_messages_of_their_size() {
    let server = Server::start(false);
    let changes = ["agents=10", "phones=10", "load.per_second=20", "load.seconds=2", "load.warm_up_seconds=0.5"];
    for handshake in ["load.handshake=true", "load.handshake=false"] {
        let results = ran(&server, "pairings", &[&changes[..], &[handshake]].concat());
        let pairings = &results.series["pairing"];
        // The warm-up is played and not measured.
        assert!(pairings.count > 0 && results.counts["pairings"] > pairings.count);
        assert_eq!(pairings.histogram.iter().map(|(_, times)| times).sum::<u64>(), pairings.count);
    }
}

#[test]
fn messages_to_and_fro_in_open_pairings_arrive_each_once() {
    let server = Server::start(false);
    let changes = [
        "agents=6",
        "phones=6",
        "load.per_second=40",
        "load.arrivals=even",
        "load.seconds=2",
        "load.warm_up_seconds=0.5",
    ];
    let results = ran(&server, "messages", &changes);
    assert_eq!(results.series["message"].count, 80, "forty a second for two seconds, of both workers together");
    assert_eq!(results.counts["handed over"], results.counts["delivered"]);
}

#[test]
fn a_message_to_many_is_counted_at_each_of_them() {
    let server = Server::start(false);
    let changes = [
        "agents=24",
        "phones=2",
        "load.per_second=10",
        "load.channels=3",
        "load.seconds=2",
        "load.warm_up_seconds=0.5",
    ];
    let results = ran(&server, "fanout", &changes);
    assert_eq!(results.series["publish"].count, 20, "ten a second for two seconds, of both workers together");
    // Eight listen to each channel.
    assert_eq!(results.series["delivery"].count, results.series["publish"].count * 8);
    assert_eq!(results.counts["handed over"], results.counts["delivered"]);
}

#[test]
fn a_revocation_list_is_heard_by_every_computer_and_the_next_run_goes_on_from_its_epoch() {
    let server = Server::start(false);
    let changes = ["agents=30", "load.lists=2", "load.every_seconds=1"];
    for _ in 0..2 {
        let results = ran(&server, "revocation", &changes);
        assert_eq!((results.series["revocation"].count, results.series["last"].count), (60, 2));
    }
}

#[test]
fn a_day_has_logins_comings_and_goings_and_pushes() {
    let server = Server::start(false);
    let results =
        ran(&server, "day", &["agents=60", "phones=10", "load.seconds_per_hour=0.5", "load.reconnects_per_hour=20"]);
    let (most, least) = (
        results.online.iter().map(|(_, online)| *online).max(),
        results.online.iter().filter(|(s, _)| *s > results.load_from).map(|(_, online)| *online).min(),
    );
    assert!(most > least, "more are on at noon than at night");
}

#[test]
fn a_relay_with_tls_is_measured_like_any_other() {
    let server = Server::start(true);
    let results = ran(&server, "pairings", &["agents=4", "phones=4", "load.per_second=8", "load.seconds=2"]);
    assert!(results.target.starts_with("wss://"));
}

#[test]
fn two_runs_are_put_side_by_side_with_ratios() {
    let server = Server::start(false);
    ran(&server, "idle", &["agents=10", "load.seconds=1"]);
    fs::copy(server.path("idle.json"), server.path("before.json")).unwrap();
    ran(&server, "idle", &["agents=12", "load.seconds=1"]);
    let mut compare = program();
    compare.arg("--compare").args([server.path("before.json"), server.path("idle.json")]);
    let compared = compare.arg("--html").arg(server.path("both.html")).output().unwrap();
    let text = said(&compared);
    assert!(compared.status.success() && text.contains("connect p99 ms") && text.contains("x"), "{text}");
    assert!(text.contains("careful: the loads differ"), "{text}");
    assert!(fs::read_to_string(server.path("both.html")).unwrap().contains("<svg"));
    // The page of a run can be made again from its results.
    let again = program()
        .arg("report")
        .arg(server.path("idle.json"))
        .arg("--html")
        .arg(server.path("again.html"))
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!(fs::read(server.path("again.html")).unwrap(), fs::read(server.path("idle.html")).unwrap());
}
