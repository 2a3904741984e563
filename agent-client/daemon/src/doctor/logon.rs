//! Whether the machine's logins ask the agent at all: the module, the PAM stacks, sshd.

use std::fs;
use std::path::{Path, PathBuf};

use gatepass_accounts::doctor::Finding;

use super::{good, notice, problem};

const MODULE: &str = "pam_gatepass.so";

/// Looks below `root`.
pub(crate) fn examine(root: &Path) -> Vec<Finding> {
    let stacks = stacks(root);
    let mut findings = vec![module(root), stacks_with(&stacks)];
    findings.extend(stacks.iter().filter_map(without_session));
    if stacks.iter().any(|stack| stack.service == "sshd" && stack.auth) {
        findings.push(sshd(root));
    }
    findings
}

/// What a PAM service has of ours.
struct Stack {
    service: String,
    auth: bool,
    session: bool,
}

fn module(root: &Path) -> Finding {
    const SUBJECT: &str = "PAM module";
    let mut folders: Vec<PathBuf> = ["lib64", "usr/lib64", "lib", "usr/lib"].map(|dir| root.join(dir)).into();
    for lib in ["lib", "usr/lib"] {
        let below = fs::read_dir(root.join(lib)).into_iter().flatten().flatten().map(|entry| entry.path());
        folders.extend(below.filter(|path| path.to_string_lossy().ends_with("-linux-gnu")));
    }
    match folders.iter().map(|folder| folder.join("security").join(MODULE)).find(|path| path.is_file()) {
        Some(path) => good(SUBJECT, format!("{} is there", path.display())),
        None => problem(
            SUBJECT,
            format!("{MODULE} is in no security folder"),
            "Install it beside the other PAM modules (pam_unix.so).",
        ),
    }
}

fn stacks(root: &Path) -> Vec<Stack> {
    let files = fs::read_dir(root.join("etc/pam.d")).into_iter().flatten().flatten();
    let mut stacks: Vec<Stack> = files
        .filter_map(|file| {
            let text = fs::read_to_string(file.path()).ok()?;
            let has = |kind: &str| {
                text.lines().any(|line| {
                    let mut words = line.split_whitespace();
                    // A leading hyphen means "where the module is there".
                    words.next().is_some_and(|word| word.trim_start_matches('-') == kind)
                        && words.any(|word| word.ends_with(MODULE))
                })
            };
            let stack =
                Stack { service: file.file_name().into_string().ok()?, auth: has("auth"), session: has("session") };
            (stack.auth || stack.session).then_some(stack)
        })
        .collect();
    stacks.sort_by(|a, b| a.service.cmp(&b.service));
    stacks
}

fn stacks_with(stacks: &[Stack]) -> Finding {
    const SUBJECT: &str = "PAM stacks";
    let services: Vec<&str> = stacks.iter().filter(|stack| stack.auth).map(|stack| stack.service.as_str()).collect();
    match services.is_empty() {
        true => problem(
            SUBJECT,
            format!("no service in /etc/pam.d asks {MODULE}"),
            "Put it into the stacks where technicians log in; agent-client/pam/stacks has one for each service.",
        ),
        false => good(SUBJECT, format!("asked by {}", services.join(", "))),
    }
}

/// Without its session line the agent never hears that somebody is in, or has left.
fn without_session(stack: &Stack) -> Option<Finding> {
    (stack.auth && !stack.session).then(|| {
        problem(
            "PAM stacks",
            format!("/etc/pam.d/{} has {MODULE} under auth, and not under session", stack.service),
            format!(
                "Add \"session required {MODULE}\": without it a grant counts as unused and ends after two minutes."
            ),
        )
    })
}

fn sshd(root: &Path) -> Finding {
    const SUBJECT: &str = "sshd";
    let main = root.join("etc/ssh/sshd_config");
    let Ok(text) = fs::read_to_string(&main) else {
        return notice(
            SUBJECT,
            format!("{} can't be read", main.display()),
            "Check by hand: UsePAM yes, KbdInteractiveAuthentication yes.",
        );
    };
    let mut dropped: Vec<PathBuf> = fs::read_dir(root.join("etc/ssh/sshd_config.d"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|file| file.path())
        .collect();
    dropped.sort();
    // Debian's file includes these first, and of two values the first counts.
    let all: Vec<String> = dropped.iter().filter_map(|path| fs::read_to_string(path).ok()).chain([text]).collect();
    let value = |key: &str, default: bool| {
        let lines = all
            .iter()
            .flat_map(|text| text.lines())
            .take_while(|line| !line.trim().to_lowercase().starts_with("match"));
        let values = lines.filter_map(|line| {
            let mut words = line.split_whitespace();
            words.next().filter(|word| word.eq_ignore_ascii_case(key)).and(words.next())
        });
        values.map(|value| value.eq_ignore_ascii_case("yes")).next().unwrap_or(default)
    };
    let interactive = value("KbdInteractiveAuthentication", value("ChallengeResponseAuthentication", true));
    let missing: Vec<&str> =
        [("UsePAM yes", value("UsePAM", false)), ("KbdInteractiveAuthentication yes", interactive)]
            .into_iter()
            .filter_map(|(line, is_so)| (!is_so).then_some(line))
            .collect();
    match missing.is_empty() {
        true => good(SUBJECT, "asks PAM, and shows what it says"),
        false => problem(
            SUBJECT,
            format!("sshd is not set to ask PAM: missing {}", missing.join(", ")),
            "Put that into /etc/ssh/sshd_config.d/gatepass.conf and reload sshd.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepass_accounts::doctor::Severity;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn problems(root: &tempfile::TempDir) -> Vec<String> {
        let findings = examine(root.path()).into_iter().filter(|finding| finding.severity == Severity::Problem);
        findings.map(|finding| finding.found + " -> " + &finding.todo).collect()
    }

    #[test]
    fn a_machine_that_is_set_up_has_nothing_to_say() {
        let stack = "auth sufficient pam_gatepass.so\n-session optional pam_gatepass.so\n";
        let root = machine(&[
            ("lib/x86_64-linux-gnu/security/pam_gatepass.so", ""),
            ("etc/pam.d/sshd", stack),
            (
                "etc/ssh/sshd_config",
                "Include /etc/ssh/sshd_config.d/*.conf\nKbdInteractiveAuthentication no\nUsePAM yes\n",
            ),
            ("etc/ssh/sshd_config.d/gatepass.conf", "KbdInteractiveAuthentication yes\n"),
        ]);
        assert_eq!(problems(&root), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let root = machine(&[
            ("etc/pam.d/sshd", "auth sufficient pam_gatepass.so\n# session optional pam_gatepass.so\n"),
            ("etc/ssh/sshd_config", "UsePAM no\nMatch User x\nUsePAM yes\n"),
        ]);
        let problems = problems(&root).join("\n");
        for expected in ["in no security folder", "not under session", "missing UsePAM yes", "reload sshd"] {
            assert!(problems.contains(expected), "{expected}: {problems}");
        }
        assert!(super::examine(machine(&[]).path()).iter().any(|finding| finding.found.contains("no service")));
    }
}
