//! The questions of `io.systemd.UserDatabase` and our answers (systemd's "User/Group Record Lookup API via Varlink").
//!
//! A message is JSON up to a NUL byte. libnss-systemd asks for a user or group by name or number, for the memberships of a user
//! or of a group, or for all of them (`more`: one answer for each, `continues` on all but the last).

use serde::Deserialize;
use serde_json::{Value, json};

const INTERFACE: &str = "io.systemd.UserDatabase.";

/// What the rest of the computer may know of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) real_name: String,
    pub(super) home: String,
    pub(super) shell: String,
    pub(super) groups: Vec<String>,
    /// None: locked and expired.
    pub(super) until: Option<u64>,
}

/// Where the answers come from. `root`: whether the question came from a process of uid 0.
pub(super) trait Directory: Send + Sync {
    /// The name of the service, which each question repeats.
    fn service(&self) -> &str;
    fn by_name(&self, name: &str, root: bool) -> Option<Record>;
    fn by_uid(&self, uid: u32, root: bool) -> Option<Record>;
    fn all(&self, root: bool) -> Vec<Record>;
}

#[derive(Deserialize)]
struct Question {
    method: String,
    #[serde(default)]
    parameters: Parameters,
    #[serde(default)]
    more: bool,
    #[serde(default)]
    oneway: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parameters {
    service: Option<String>,
    user_name: Option<String>,
    uid: Option<u32>,
    group_name: Option<String>,
    gid: Option<u32>,
}

/// Answers one message (without its NUL). None: it is no question at all, hang up.
pub(super) fn answer(directory: &dyn Directory, message: &[u8], root: bool) -> Option<Vec<u8>> {
    let question: Question = serde_json::from_slice(message).ok()?;
    let answers = match reply(directory, &question, root) {
        Ok(parameters) if parameters.len() > 1 && !question.more => vec![error("org.varlink.service.ExpectedMore")],
        Ok(parameters) => {
            let last = parameters.len().saturating_sub(1);
            let numbered = parameters.into_iter().enumerate();
            numbered
                .map(|(n, parameters)| match n < last {
                    true => json!({ "parameters": parameters, "continues": true }),
                    false => json!({ "parameters": parameters }),
                })
                .collect()
        }
        Err(name) => vec![error(name)],
    };
    let mut bytes = Vec::new();
    for answer in answers.iter().filter(|_| !question.oneway) {
        bytes.extend_from_slice(answer.to_string().as_bytes());
        bytes.push(0);
    }
    Some(bytes)
}

fn reply(directory: &dyn Directory, question: &Question, root: bool) -> Result<Vec<Value>, &'static str> {
    const NONE: &str = "io.systemd.UserDatabase.NoRecordFound";
    const CONFLICT: &str = "io.systemd.UserDatabase.ConflictingRecordFound";
    let Some(method) = question.method.strip_prefix(INTERFACE) else {
        return Err("org.varlink.service.InterfaceNotFound");
    };
    let asked = &question.parameters;
    if asked.service.as_deref().is_some_and(|service| service != directory.service()) {
        return Err("io.systemd.UserDatabase.BadService");
    }
    let found = |name: &Option<String>, id: Option<u32>| match (name, id) {
        (Some(name), id) => match directory.by_name(name, root) {
            Some(record) if id.is_some_and(|id| id != record.uid) => Err(CONFLICT),
            Some(record) => Ok(vec![record]),
            None => Err(NONE),
        },
        (None, Some(id)) => directory.by_uid(id, root).map(|record| vec![record]).ok_or(NONE),
        (None, None) => Ok(directory.all(root)),
    };
    let answers: Vec<Value> = match method {
        "GetUserRecord" => {
            found(&asked.user_name, asked.uid)?.iter().map(|record| whole(user(record, directory.service()))).collect()
        }
        "GetGroupRecord" => found(&asked.group_name, asked.gid)?
            .iter()
            .map(|record| whole(group(record, directory.service())))
            .collect(),
        "GetMemberships" => {
            let records = match &asked.user_name {
                Some(name) => directory.by_name(name, root).into_iter().collect(),
                None => directory.all(root),
            };
            let pairs = records.iter().flat_map(|record| record.groups.iter().map(move |group| (&record.name, group)));
            let wanted = pairs.filter(|(_, group)| asked.group_name.as_ref().is_none_or(|wanted| wanted == *group));
            wanted.map(|(user, group)| json!({ "userName": user, "groupName": group })).collect()
        }
        _ => return Err("org.varlink.service.MethodNotFound"),
    };
    if answers.is_empty() { Err(NONE) } else { Ok(answers) }
}

fn error(name: &str) -> Value {
    json!({ "error": name, "parameters": {} })
}

fn whole(record: Value) -> Value {
    json!({ "record": record, "incomplete": false })
}

/// A record without a password: nobody's password opens this account. `locked` makes libnss-systemd tell PAM that it expired in 1970.
fn user(record: &Record, service: &str) -> Value {
    let mut user = json!({
        "userName": record.name,
        "uid": record.uid,
        "gid": record.uid,
        "realName": record.real_name,
        "homeDirectory": record.home,
        "shell": record.shell,
        "memberOf": record.groups,
        "disposition": "regular",
        "locked": record.until.is_none(),
        "service": service,
    });
    // PAM counts in days and shuts on the day itself: the day after is the first one that must be refused by the record alone.
    // To the second, the account ends because the provider stops answering for it.
    let expires = record.until.map_or(0, |until| (until / 86_400).saturating_add(1).saturating_mul(86_400_000_000));
    user["notAfterUSec"] = json!(expires);
    user
}

fn group(record: &Record, service: &str) -> Value {
    json!({
        "groupName": record.name,
        "gid": record.uid,
        "disposition": "regular",
        "service": service,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One;

    impl Directory for One {
        fn service(&self) -> &str {
            "io.gatepass.Test"
        }

        fn by_name(&self, name: &str, root: bool) -> Option<Record> {
            self.all(root).into_iter().find(|record| record.name == name)
        }

        fn by_uid(&self, uid: u32, root: bool) -> Option<Record> {
            self.all(root).into_iter().find(|record| record.uid == uid)
        }

        fn all(&self, root: bool) -> Vec<Record> {
            let alex = Record {
                name: "gp-alex".into(),
                uid: 70_001,
                real_name: "Alex".into(),
                home: "/home/gp-alex".into(),
                shell: "/bin/bash".into(),
                groups: vec!["adm".into(), "sudo".into()],
                until: Some(86_400 * 20_000 + 5),
            };
            let anna = Record { name: "gp-anna".into(), uid: 70_002, groups: vec![], until: None, ..alex.clone() };
            if root { vec![alex, anna] } else { vec![alex] }
        }
    }

    fn ask(question: Value, root: bool) -> Vec<Value> {
        let bytes = answer(&One, question.to_string().as_bytes(), root).unwrap();
        let messages = bytes.split(|byte| *byte == 0).filter(|message| !message.is_empty());
        messages.map(|message| serde_json::from_slice(message).unwrap()).collect()
    }

    fn question(method: &str, mut parameters: Value) -> Value {
        parameters["service"] = json!("io.gatepass.Test");
        json!({ "method": format!("io.systemd.UserDatabase.{method}"), "parameters": parameters, "more": true })
    }

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        for asked in [
            json!({ "userName": "gp-alex" }),
            json!({ "uid": 70_001 }),
            json!({ "userName": "gp-alex", "uid": 70_001 }),
        ] {
            let answers = ask(question("GetUserRecord", asked), false);
            assert_eq!(answers.len(), 1);
            let record = &answers[0]["parameters"]["record"];
            assert_eq!(record["userName"], "gp-alex");
            assert_eq!(record["locked"], false);
            assert_eq!(record["notAfterUSec"], 86_400_u64 * 20_001 * 1_000_000);
        }
        let answers = ask(question("GetGroupRecord", json!({ "gid": 70_001 })), false);
        assert_eq!(answers[0]["parameters"]["record"]["groupName"], "gp-alex");
    }

    #[test]
    fn a_locked_account_is_seen_by_root_only() {
        let asked = question("GetUserRecord", json!({ "userName": "gp-anna" }));
        assert_eq!(ask(asked.clone(), false)[0]["error"], "io.systemd.UserDatabase.NoRecordFound");
        let record = &ask(asked, true)[0]["parameters"]["record"];
        assert_eq!((&record["locked"], &record["notAfterUSec"]), (&json!(true), &json!(0)));
    }

    #[test]
    fn memberships_are_listed_by_user_by_group_and_all() {
        for (asked, count) in [
            (json!({ "userName": "gp-alex" }), 2),
            (json!({ "groupName": "sudo" }), 1),
            (json!({ "userName": "gp-alex", "groupName": "adm" }), 1),
            (json!({}), 2),
        ] {
            let answers = ask(question("GetMemberships", asked), false);
            assert_eq!(answers.len(), count);
            assert_eq!(answers.iter().filter(|answer| answer["continues"] == true).count(), count - 1);
        }
        for asked in [json!({ "userName": "gp-anna" }), json!({ "groupName": "wheel" })] {
            assert_eq!(
                ask(question("GetMemberships", asked), true)[0]["error"],
                "io.systemd.UserDatabase.NoRecordFound"
            );
        }
    }

    #[test]
    fn whatever_is_asked_is_answered_or_hung_up_on() {
        let asked = question("GetUserRecord", json!({ "userName": "gp-alex", "uid": 70_001 })).to_string().into_bytes();
        for n in 0..asked.len() {
            assert!(answer(&One, &asked[..n], true).is_none(), "half a question");
            for bit in 0..8 {
                let mut flipped = asked.clone();
                flipped[n] ^= 1 << bit;
                if let Some(bytes) = answer(&One, &flipped, true) {
                    assert_eq!(bytes.last(), Some(&0));
                }
            }
        }
    }

    #[test]
    fn wrong_questions_get_the_error_that_says_so() {
        let service =
            json!({ "method": "io.systemd.UserDatabase.GetUserRecord", "parameters": { "service": "io.other" } });
        let conflict = question("GetUserRecord", json!({ "userName": "gp-alex", "uid": 70_002 }));
        let mut one_of_many = question("GetUserRecord", json!({}));
        one_of_many["more"] = json!(false);
        for (asked, error) in [
            (service, "io.systemd.UserDatabase.BadService"),
            (conflict, "io.systemd.UserDatabase.ConflictingRecordFound"),
            (one_of_many, "org.varlink.service.ExpectedMore"),
            (question("GetPassword", json!({})), "org.varlink.service.MethodNotFound"),
            (json!({ "method": "org.example.Get" }), "org.varlink.service.InterfaceNotFound"),
        ] {
            assert_eq!(ask(asked, true)[0]["error"], error);
        }
        for garbage in [&b""[..], b"{}", b"[1]", b"\xff\xfe", b"{\"method\": \"x\", \"parameters\": {\"uid\": -1}}"] {
            assert!(answer(&One, garbage, true).is_none());
        }
        assert_eq!(answer(&One, br#"{"method":"a.b","oneway":true}"#, true), Some(vec![]));
    }
}
