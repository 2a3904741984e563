//! The administrator's guides do what they say: their commands are run here, in their order.

#![allow(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod harness;

use std::fs;

use gatepass_client::edge;

use harness::{Administrator, Computer, Server};

#[test]
fn every_command_of_the_guide_to_people_works() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let ticket = admin.ticket("agent", " --tag web --uses 3");
    for name in ["web01", "web02", "db01"] {
        server.enrol_agent(&Computer::with(&ticket, name).enrolment()).unwrap();
    }
    fs::copy(server.folder.path().join("operator.token"), admin.path("operator.token")).unwrap();
    let profile = fs::read_to_string(admin.path("gatepass/profile.toml")).unwrap();
    let own = admin.path("cleo.token").display().to_string();
    let own = profile
        .lines()
        .map(|line| if line.starts_with("token_file") { format!("token_file = \"{own}\"") } else { line.into() });
    admin.write("cleo.toml", &own.collect::<Vec<String>>().join("\n"));
    let said = run(&admin, include_str!("../../../docs/guides/people.md"), |command| {
        let command = command.replace("$URL", &server.url);
        if command.contains("$CODE") { command.replace("$CODE", &code(&admin)) } else { command }
    });
    for outcome in [
        "bo@acme.example",
        "\"name\": \"night shift\"",
        "inventory script",
        "db01 is shared with all administrators, bo",
        "dana is a technician of \"Acme\"",
        "signed in as auditor until",
        "_gatepass",
        "person added  dana",
    ] {
        assert!(said.contains(outcome), "{outcome}: {said}");
    }

    // And what was given is what is had.
    let token = |file: &str| fs::read_to_string(admin.path(file)).unwrap().trim().to_owned();
    let url = format!("/api/v1/tenants/{}", admin.tenant());
    let ask = |file: &str, what: &str| {
        let http = server.http().with_bearer(&token(file));
        let answer = server.runtime.block_on(http.request(hyper::Method::GET, &format!("{url}{what}"), None));
        answer.map(|answer| String::from_utf8(answer.body.to_vec()).unwrap()).map_err(|error| error.to_string())
    };
    assert!(ask("cleo.token", "/events").unwrap().contains("items"));
    assert!(ask("inventory.token", "/computers").unwrap().contains("db01"));
    let refused = ask("inventory.token", "/events").unwrap_err();
    assert!(refused.contains("the role read-only may not do this"), "{refused}");
    let tokens = admin.did("token list");
    let id = tokens.lines().find(|line| line.contains("inventory")).and_then(|line| line.split(' ').next()).unwrap();
    admin.did(&format!("token remove {id}"));
    assert!(ask("inventory.token", "/computers").is_err());
    assert!(!tokens.contains(&token("inventory.token")));
}

#[test]
fn every_command_of_the_guide_to_the_audit_log_works() {
    let server = Server::start();
    let admin = Administrator::of_tenant(&server, "Acme");
    let computer = Computer::with(&admin.ticket("agent", ""), "web01");
    server.enrol_agent(&computer.enrolment()).unwrap();
    server.send_event(&computer.signed(computer.event(1, "hello"))).unwrap();
    admin.did("technician add bo");
    let said = run(&admin, include_str!("../../../docs/guides/audit.md"), |command| command);
    for outcome in [
        "web01  started  hello",
        "\"event\":\"technician added\"",
        "all of them are here, unchanged and in order",
        "1 chosen entries are in it, unchanged",
        "\"from\": 3",
        "\"log_key\":",
    ] {
        assert!(said.contains(outcome), "{outcome}: {said}");
    }
}

/// What cleo's authenticator shows.
fn code(admin: &Administrator) -> String {
    let uri = fs::read_to_string(admin.path("cleo.codes")).unwrap();
    let secret = uri.split("secret=").nth(1).unwrap().split('&').next().unwrap();
    let secret = totp_rs::Secret::try_from_base32(secret).unwrap();
    totp_rs::Builder::new().with_secret(secret).build().unwrap().generate(edge::now()).to_string()
}

/// Runs every command of a guide, as it becomes here; what all of them said.
fn run(admin: &Administrator, guide: &str, here: impl Fn(String) -> String) -> String {
    let mut said = String::new();
    let commands = harness::shell_lines(guide);
    assert!(commands.len() > 10, "the guide has lost its commands");
    for command in commands {
        let command = here(command.to_owned());
        let words = words(&command);
        let arguments: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        let answer = admin.run(&arguments);
        assert!(answer.ok, "{command}: {}", answer.err);
        said.push_str(&answer.out);
    }
    said
}

/// The words of a command, as a shell would split them.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for letter in command.chars() {
        match letter {
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            letter => words.last_mut().unwrap().push(letter),
        }
    }
    words
}
