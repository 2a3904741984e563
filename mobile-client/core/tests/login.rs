//! A technician's phone against a real relay and the agent's side of the protocol.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod world;

use gatepass_client::edge;
use gatepass_mobile::{
    book::{Book, Computer, Granted, NoGrant},
    login::{self, LoginError},
    orders::{self, OrderError},
};
use gatepass_protocol::{
    Code,
    ids::{Serial, TechnicianId},
    order::EndReason,
    pairing::{
        agent::{Offer, Verdict},
        messages::Outcome,
        phone::{Chosen, NotApproved, Scan},
    },
    testing::{Tenant, chosen},
};

use world::{Agent, GRANT, World};

#[tokio::test]
async fn technician_scans_approves_and_reads_the_confirm_code_aloud() {
    let (mut world, mut agent) = World::new().await;
    let phone = world.tenant.phone(1);
    let offer = agent.offer().await;
    let scan = Scan::from_text(&offer.text()).unwrap();
    let (mut connection, mut trust) =
        (world.connect(&phone.identity.chain, &phone.identity.sign), world.tenant.trust());
    let computer = async {
        let rid = offer.rid();
        let approved = agent.approved(offer).await;
        (rid, approved)
    };
    let technician = async {
        let question = login::begin(&mut connection, scan, &phone.identity, &mut trust).await.unwrap();
        assert_eq!(question.asked().agent().terms().computer, "web-01");
        assert_eq!(question.asked().needs_code(&chosen()), Some(true));
        question.approve(&connection, &chosen(), &phone.identity, &phone.approve).await.unwrap()
    };
    let ((rid, at_computer), at_phone) = tokio::join!(computer, technician);
    assert!(at_computer.needs_code() && at_computer.code_is_right(&at_phone.confirm_code()));
    assert_eq!(
        (at_computer.reason(), at_computer.approval().body().groups.as_slice()),
        ("disk full", &["sudo".to_owned()][..])
    );
    let until = at_computer.until(edge::now());
    let (_, m6) = at_computer.granted(GRANT, "gp-alex".into(), until).unwrap();
    agent.connection.sender().forward(rid, m6).await.unwrap();
    let outcome = at_phone.outcome(&mut connection).await.unwrap();
    assert_eq!(outcome, Outcome::Granted { grant: GRANT, account: "gp-alex".into(), until });
}

#[tokio::test]
async fn technician_denies_what_somebody_else_asked_for() {
    let (mut world, mut agent) = World::new().await;
    let phone = world.tenant.phone(1);
    for not_me in [false, true] {
        let offer = agent.offer().await;
        let scan = Scan::from_text(&offer.text()).unwrap();
        let (mut connection, mut trust) =
            (world.connect(&phone.identity.chain, &phone.identity.sign), world.tenant.trust());
        let technician = async {
            let question = login::begin(&mut connection, scan, &phone.identity, &mut trust).await.unwrap();
            question.deny(&connection, not_me).await.unwrap();
        };
        let (verdict, ()) = tokio::join!(agent.decide(offer), technician);
        assert!(matches!(verdict, Verdict::Denied { not_me: said } if said == not_me));
    }
}

#[tokio::test]
async fn a_refusal_after_the_approval_says_why_on_the_phone() {
    let (mut world, mut agent) = World::new().await;
    let phone = world.tenant.phone(1);
    let offer = agent.offer().await;
    let (rid, scan) = (offer.rid(), Scan::from_text(&offer.text()).unwrap());
    let (mut connection, mut trust) =
        (world.connect(&phone.identity.chain, &phone.identity.sign), world.tenant.trust());
    let technician = async {
        let question = login::begin(&mut connection, scan, &phone.identity, &mut trust).await.unwrap();
        question.approve(&connection, &chosen(), &phone.identity, &phone.approve).await.unwrap()
    };
    let (at_computer, at_phone) = tokio::join!(agent.approved(offer), technician);
    let refusal = at_computer.refuse(Code::ConfirmCode).reply.unwrap();
    agent.connection.sender().forward(rid, refusal).await.unwrap();
    assert_eq!(at_phone.outcome(&mut connection).await.unwrap(), Outcome::Refused(Code::ConfirmCode));
}

#[tokio::test]
async fn a_phone_that_is_refused_before_the_question_is_told_why() {
    let (mut world, mut agent) = World::new().await;
    let phone = world.tenant.phone(1);
    let offer = agent.offer().await;
    let (rid, scan) = (offer.rid(), Scan::from_text(&offer.text()).unwrap());
    let (mut connection, mut trust) =
        (world.connect(&phone.identity.chain, &phone.identity.sign), world.tenant.trust());
    let computer = async {
        let refusal = agent.identify(offer).await.refuse(Code::Policy).reply.unwrap();
        agent.connection.sender().forward(rid, refusal).await.unwrap();
    };
    let ((), asked) = tokio::join!(computer, login::begin(&mut connection, scan, &phone.identity, &mut trust));
    let error = asked.err().unwrap().to_string();
    assert_eq!(error, Code::Policy.to_string());
}

#[tokio::test]
async fn more_than_the_policy_offers_never_leaves_the_phone() {
    let (mut world, mut agent) = World::new().await;
    let phone = world.tenant.phone(1);
    let offer = agent.offer().await;
    let scan = Scan::from_text(&offer.text()).unwrap();
    let (mut connection, mut trust) =
        (world.connect(&phone.identity.chain, &phone.identity.sign), world.tenant.trust());
    let technician = async {
        let question = login::begin(&mut connection, scan, &phone.identity, &mut trust).await.unwrap();
        let greedy = Chosen { groups: vec!["docker".into()], ..chosen() };
        question.approve(&connection, &greedy, &phone.identity, &phone.approve).await.err().unwrap()
    };
    tokio::select! {
        _ = agent.decide(offer) => panic!("something was sent"),
        error = technician => assert!(matches!(error, LoginError::NotApproved(NotApproved::NotOffered)), "{error}"),
    }
}

#[tokio::test]
async fn a_code_of_another_organisation_is_not_even_claimed() {
    let (mut world, agent) = World::new().await;
    let phone = world.tenant.phone(1);
    let offer = agent.offer().await;
    let mut trust = Tenant::at(2, edge::now()).trust();
    let mut connection = world.connect(&phone.identity.chain, &phone.identity.sign);
    let scan = Scan::from_text(&offer.text()).unwrap();
    let error = login::begin(&mut connection, scan, &phone.identity, &mut trust).await.err().unwrap();
    assert!(matches!(error, LoginError::OtherTenant), "{error}");
}

#[tokio::test]
async fn an_old_code_says_to_scan_the_new_one() {
    let (mut world, _agent) = World::new().await;
    let phone = world.tenant.phone(1);
    let offer = Offer::new(0, world.tenant.id, edge::now(), &mut edge::rng());
    let (mut connection, mut trust) =
        (world.connect(&phone.identity.chain, &phone.identity.sign), world.tenant.trust());
    let scan = Scan::from_text(&offer.text()).unwrap();
    let error = login::begin(&mut connection, scan, &phone.identity, &mut trust).await.err().unwrap();
    assert_eq!(error.to_string(), Code::Unknown.to_string());
}

#[tokio::test]
async fn a_revoked_computer_is_not_believed_even_where_the_relay_lets_it_in() {
    let (mut world, mut agent) = World::new().await;
    let phone = world.tenant.phone(1);
    let offer = agent.offer().await;
    let scan = Scan::from_text(&offer.text()).unwrap();
    let (mut connection, mut trust) =
        (world.connect(&phone.identity.chain, &phone.identity.sign), world.tenant.trust());
    let list = world.tenant.revocation(7, vec![Serial(*agent.computer.computer().as_bytes())]);
    trust.accept_revocation(&list, edge::now()).unwrap();
    let technician = login::begin(&mut connection, scan, &phone.identity, &mut trust);
    tokio::select! {
        _ = agent.decide(offer) => panic!("the phone showed itself to a revoked computer"),
        asked = technician => assert_eq!(asked.err().unwrap().to_string(), Code::Revoked.to_string()),
    }
}

#[tokio::test]
async fn what_was_revoked_while_the_phone_slept_reaches_it_before_the_question() {
    let (mut world, mut agent) = World::new().await;
    let phone = world.tenant.phone(1);
    let list = world.tenant.revocation(7, vec![Serial([0xee; 16])]);
    world.relay.announce(&list).await;
    let offer = agent.offer().await;
    let scan = Scan::from_text(&offer.text()).unwrap();
    let (mut connection, mut trust) =
        (world.connect(&phone.identity.chain, &phone.identity.sign), world.tenant.trust());
    let technician = async {
        login::begin(&mut connection, scan, &phone.identity, &mut trust).await.unwrap();
        assert!(trust.is_revoked(&[0xee; 16]));
    };
    tokio::select! {
        _ = agent.decide(offer) => panic!("nothing was decided"),
        () = technician => {}
    }
}

fn known(agent: &Agent) -> Computer {
    Computer::new(agent.computer.computer(), "web-01", 0, &agent.computer.chain)
}

#[tokio::test]
async fn technician_ends_a_grant_from_the_phone_and_keeps_the_receipt() {
    let (mut world, mut agent) = World::new().await;
    let phone = world.tenant.phone(1);
    let (mut connection, mut trust) =
        (world.connect(&phone.identity.chain, &phone.identity.sign), world.tenant.trust());
    let mut book = Book::default();
    let computer = known(&agent);
    book.met(computer.clone());
    book.granted(Granted { grant: GRANT, computer: agent.computer.computer(), account: "gp-alex".into(), until: 0 });
    let grant = book.find("ABAB").unwrap().grant;
    let receipts = vec![agent.receipt(TechnicianId([1; 16]))];
    let technician = async {
        orders::listen(&connection, &phone.identity, &trust).await.unwrap();
        loop {
            // The computer may come a moment later.
            match orders::order(&mut connection, &phone.identity, &mut trust, &computer, Some(grant)).await {
                Err(OrderError::Away { .. }) => tokio::task::yield_now().await,
                reported => break reported.unwrap_or_else(|error| panic!("{error}")),
            }
        }
    };
    let (order, reported) = tokio::join!(agent.obey(receipts), technician);
    assert_eq!(order.end, Some(GRANT));
    assert!(book.keep(&reported.chain, &reported.report.receipts[0], &trust, TechnicianId([1; 16])).unwrap());
    assert_eq!(book.find("ab").err(), Some(NoGrant::Unknown), "the grant is over");

    // The phone is switched off and on.
    let book: Book = serde_json::from_str(&serde_json::to_string(&book).unwrap()).unwrap();
    let [(grant, checked)] = &book.receipts(&trust)[..] else { panic!() };
    assert_eq!((*grant, checked.as_ref().unwrap().reason), (GRANT, EndReason::Technician));
}

#[tokio::test]
async fn a_computer_that_is_off_is_named_as_such() {
    let (mut world, agent) = World::new().await;
    let phone = world.tenant.phone(1);
    let (mut connection, mut trust) =
        (world.connect(&phone.identity.chain, &phone.identity.sign), world.tenant.trust());
    orders::listen(&connection, &phone.identity, &trust).await.unwrap();
    let error = orders::order(&mut connection, &phone.identity, &mut trust, &known(&agent), None).await.err().unwrap();
    assert!(matches!(error, OrderError::Away { .. }) && error.to_string().contains("web-01"), "{error}");
}

#[tokio::test]
async fn a_receipt_counts_only_for_its_own_technician_and_unchanged() {
    let (world, agent) = World::new().await;
    let trust = world.tenant.trust();
    let mut book = Book::default();
    let good = agent.receipt(TechnicianId([1; 16]));
    assert_eq!(book.keep(&agent.computer.chain, &good, &trust, TechnicianId([2; 16])), Err(Code::Context));
    for at in 0..good.len() {
        let mut bad = good.to_vec();
        bad[at] ^= 1;
        assert!(book.keep(&agent.computer.chain, &bad.into(), &trust, TechnicianId([1; 16])).is_err(), "byte {at}");
    }
    assert_eq!(book.keep(&agent.computer.chain, &good, &trust, TechnicianId([1; 16])), Ok(true));
    assert_eq!(book.keep(&agent.computer.chain, &good, &trust, TechnicianId([1; 16])), Ok(false));
    let other = Tenant::at(3, edge::now()).computer();
    assert!(book.keep(&other.chain, &good, &trust, TechnicianId([1; 16])).is_err());
}
