//! The bench as it is run, with a crowd of a few: our relay and the floor, which need nothing installed.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gatepass-side-by-side");

#[test]
fn whoever_tunes_the_relay_gets_figures_of_every_work_and_nothing_stays_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let temporary = folder.path().join("tmp");
    fs::create_dir(&temporary).expect("made");
    let rows = folder.path().join("rows.json");
    let output = Command::new(PROGRAM)
        .args(["--tiny", "--rounds", "1", "--subjects", "gatepass,floor", "--out"])
        .arg(folder.path())
        .arg("--json")
        .arg(&rows)
        .env("TMPDIR", &temporary)
        .output()
        .expect("run");
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complaint}");

    let read = |file: &Path| -> Value { serde_json::from_slice(&fs::read(file).expect("written")).expect("JSON") };
    let rows = read(&rows);
    let rows = rows["rows"].as_array().expect("rows");
    let both = ["floor", "gatepass"];
    let works = ["fanout-20", "fanout-100", "fanout-300", "pair-100", "pair-1", "idle-15000", "connect"];
    let mut expected: Vec<_> = works.iter().flat_map(|work| both.map(|subject| (*work, subject))).collect();
    expected.insert(12, ("idle-15000-tls", "gatepass"));
    expected.push(("connect-ticket", "gatepass"));
    assert_eq!(rows.len(), expected.len());
    for (row, (work, subject)) in rows.iter().zip(expected) {
        assert_eq!((&row["work"], &row["subject"]), (&work.into(), &subject.into()));
        let idle = work.starts_with("idle");
        for figure in ["cpu_us", "per_s", "p50_ms", "p99_ms"] {
            assert_eq!(row[figure].is_f64(), !idle, "{figure}: {row}");
        }
        assert_eq!(row["rss_kib"].is_f64(), idle, "{row}");
    }
    assert!(said.contains("gatepass: CPU at most 1.1 x the floor"), "{said}");
    assert_eq!(read(&folder.path().join("samples.json"))["samples"].as_array().map(Vec::len), Some(rows.len()));
    assert!(fs::read_to_string(folder.path().join("report.html")).expect("written").ends_with("</html>\n"));
    assert_eq!(fs::read_dir(&temporary).expect("listed").count(), 0, "servers' folders are gone");
}

#[test]
fn a_mistyped_work_is_answered_with_those_that_there_are() {
    let output = Command::new(PROGRAM).args(["--only", "fanout-30"]).output().expect("run");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && complaint.contains("fanout-20, fanout-100, fanout-300"), "{complaint}");
}

#[test]
fn a_relay_that_does_not_start_fails_with_its_own_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(PROGRAM)
        .args([
            "--tiny",
            "--rounds",
            "1",
            "--only",
            "connect",
            "--subjects",
            "gatepass",
            "--relay",
            "/bin/false",
            "--out",
        ])
        .arg(folder.path())
        .output()
        .expect("run");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && complaint.contains("gatepass-relay did not start (exit status: 1)"),
        "{complaint}"
    );
}
