use gatepass_control::api::Role;

use super::*;

fn directory() -> Directory {
    let technician = |name: &str, id| Technician {
        id: TechnicianId([id; 16]),
        name: name.into(),
        email: String::new(),
        role: Role::Technician,
        delegated: false,
        added: 0,
    };
    let computer = |name: &str, id| Computer {
        id: ComputerId([id; 16]),
        name: name.into(),
        domain: String::new(),
        os: String::new(),
        tags: Vec::new(),
        enrolled: 0,
        not_after: 0,
        agent_version: String::new(),
        last_event: None,
        revoked: false,
    };
    Directory {
        technicians: vec![technician("alex", 1), technician("kim", 2)],
        computers: vec![computer("web01", 11), computer("db01", 12), computer("twin", 13), computer("twin", 14)],
    }
}

const RULE: &str = r#"
default_minutes = 30
software_keys = false
[[rule]]
name = "on call"
technicians = ["alex"]
computers = ["web01"]
scenarios = ["ssh"]
accounts = ["named"]
groups = ["sudo"]
max_minutes = 60
"#;

fn error(text: &str) -> String {
    let compiled = PolicyFile::parse(text).and_then(|file| file.compile(&directory()));
    format!("{:#}", compiled.unwrap_err())
}

#[test]
fn the_example_compiles_and_reads_back_as_it_was_written() {
    for text in [EXAMPLE, RULE] {
        let file = PolicyFile::parse(text).unwrap();
        let (policy, offline) = (file.compile(&directory()).unwrap(), file.offline().unwrap());
        let shown = PolicyFile::of(&policy, offline.as_ref(), &directory()).to_text().unwrap();
        let again = PolicyFile::parse(&shown).unwrap();
        assert_eq!(again.compile(&directory()).unwrap(), policy, "{shown}");
        assert_eq!(again.offline().unwrap(), offline, "{shown}");
        assert_eq!(offline.is_some(), text == EXAMPLE, "a policy that says nothing of offline codes allows none");
    }
    let policy = PolicyFile::parse(RULE).unwrap().compile(&directory()).unwrap();
    assert_eq!(policy.rules[0].technicians, [TechnicianId([1; 16])]);
    assert_eq!(policy.rules[0].computers, [ComputerId([11; 16])]);
}

#[test]
fn a_misspelt_word_is_answered_with_the_nearest_one() {
    let cases = [
        ("max_minutes", "max_minuts", "did you mean \"max_minutes\"?"),
        ("software_keys", "sofware_keys", "did you mean \"software_keys\"?"),
        ("[[rule]]", "[[rules]]", "did you mean \"rule\"?"),
        ("\"ssh\"", "\"shs\"", "did you mean \"ssh\"?"),
        ("\"named\"", "\"name\"", "did you mean \"named\"?"),
        ("[\"alex\"]", "[\"alexx\"]", "no technician \"alexx\"; did you mean \"alex\"?"),
        ("[\"web01\"]", "[\"web1\"]", "no computer \"web1\"; did you mean \"web01\"?"),
        ("\"ssh\"", "\"telnet-of-old\"", "known are: logon, unlock, elevation, rdp, ssh, console"),
    ];
    for (right, wrong, expected) in cases {
        let error = error(&RULE.replace(right, wrong));
        assert!(error.contains(expected), "{wrong}: {error}");
    }
}

#[test]
fn a_rule_that_says_nothing_or_too_much_is_refused() {
    let cases = [
        ("technicians = [\"alex\"]", "technicians = []", "it says nobody"),
        ("technicians = [\"alex\"]", "technicians = \"alex\"", "or \"all\""),
        ("technicians = [\"alex\"]", "", "missing field `technicians`"),
        ("computers = [\"web01\"]", "", "it says nowhere"),
        ("computers = [\"web01\"]", "computers = \"all\"\ntags = [\"web\"]", "its tags mean nothing"),
        ("computers = [\"web01\"]", "computers = [\"twin\"]", "several computers are called \"twin\""),
        ("scenarios = [\"ssh\"]", "scenarios = []", "it has no scenario"),
        ("scenarios = [\"ssh\"]", "scenarios = [\"elevation\"]", "belong together"),
        ("accounts = [\"named\"]", "accounts = [\"own\"]", "belong together"),
        ("max_minutes = 60", "max_minutes = 0", "1 to 10080 minutes"),
        ("max_minutes = 60", "max_minutes = 20000", "1 to 10080 minutes"),
        ("max_minutes = 60", "max_minutes = -5", "max_minutes"),
        ("max_minutes = 60", "max_minutes = \"an hour\"", "max_minutes"),
        ("[\"sudo\"]", "[\"sudo,root\"]", "a colon, a comma"),
        ("[\"sudo\"]", "[\"su\\ndo\"]", "control character"),
        ("\"on call\"", "\"\"", "the name"),
        ("default_minutes = 30", "default_minutes = 0", "default_minutes"),
    ];
    for (right, wrong, expected) in cases {
        let error = error(&RULE.replace(right, wrong));
        assert!(error.contains(expected), "{wrong}: {error}");
    }
    let twice = format!("{RULE}{}", &RULE[RULE.find("[[rule]]").unwrap()..]);
    assert!(error(&twice).contains("two rules \"on call\""));
}

#[test]
fn what_is_said_of_offline_codes_is_checked() {
    let with = |lines: &str| {
        let text = RULE.replace("[[rule]]", &format!("[offline]\n{lines}\n[[rule]]"));
        PolicyFile::parse(&text).and_then(|file| file.offline()).map_err(|error| format!("{error:#}"))
    };
    let good = "max_age_hours = 72\nmax_minutes = 30\nscenarios = [\"ssh\"]\n";
    let terms = with(good).unwrap().unwrap();
    assert_eq!((terms.max_age_hours, terms.groups, terms.time_codes, terms.while_online), (72, None, false, false));
    for (from, to, why) in [
        ("72", "0", "max_age_hours is 0"),
        ("72", "721", "30 days"),
        ("= 30", "= 0", "max_minutes is 0"),
        ("\"ssh\"", "", "it has no scenario"),
        ("\"ssh\"", "\"shs\"", "did you mean \"ssh\"?"),
        ("max_age_hours", "max_age_hour", "did you mean \"max_age_hours\"?"),
    ] {
        let error = with(&good.replace(from, to)).unwrap_err();
        assert!(error.contains(why), "{from} -> {to}: {error}");
    }
}
