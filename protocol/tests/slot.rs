//! Enrolment by words, with a carrier that lies: it swaps, replays, splices, guesses and stands in the middle.
#![allow(clippy::unwrap_used)]

use gatepass_protocol::{
    enrol::{DeviceRequest, Ticket},
    ids::{DeviceId, Serial},
    qr::tenant_tag,
    signed::Signed,
    slot::{
        DAY, Ended, Introduction, MOST_A_DAY, MOST_AT_ONCE, OPEN_FOR, Tries, administrator,
        administrator::{Answering, Reading},
        phone::{Accepted, Asking, Opened},
    },
    statement::{KeyProtection, Purpose},
    testing::{NOW, Rng, Tenant},
    words::Words,
};
use proptest::prelude::*;

const TAG: [u8; 4] = [1, 2, 3, 4];

fn words(text: &str) -> Words {
    text.parse().unwrap()
}

fn ticket() -> Ticket {
    Tenant::new(7).ticket(Purpose::Phone, "https://gate.example")
}

fn introduction(ticket: &Ticket) -> Introduction {
    let request = DeviceRequest {
        ticket: Serial([1; 16]),
        device: DeviceId([2; 16]),
        keys: Vec::new(),
        device_name: "pixel".into(),
        protection: KeyProtection::Hardware,
        time: NOW,
    };
    let request = Signed::sign(request, &ticket.key()).unwrap().bytes().clone();
    Introduction { request, model: "Pixel 9".into(), platform: "Android 16".into() }
}

/// Both ends up to the code, over a carrier that changes the messages 1 to 5 as it likes.
fn to_the_code(
    shown: &str,
    typed: &str,
    seed: u64,
    mut carry: impl FnMut(u8, Vec<u8>) -> Vec<u8>,
) -> Result<(Asking, Reading), Ended> {
    let (mut a, mut b) = (Rng::new(seed), Rng::new(seed + 1));
    let (phone, hello) = Opened::new(&words(shown), TAG, &mut a);
    let (admin, answer) = Answering::new(&words(typed), TAG, &carry(1, hello), &mut b)?;
    let (phone, commit) = phone.answered(&carry(2, answer), &mut a)?;
    let (admin, nonce) = admin.promised(&carry(3, commit), &mut b)?;
    let (phone, reveal) = phone.told(&carry(4, nonce))?;
    Ok((phone, admin.revealed(&carry(5, reveal))?))
}

fn honest(seed: u64) -> (Accepted, Reading) {
    let (phone, admin) = to_the_code("tiger tobacco", "tiger tobacco", seed, |_, message| message).unwrap();
    let code = admin.code().to_owned();
    (phone.typed(&format!("{} {}", &code[..3], &code[3..])).unwrap(), admin)
}

#[test]
fn a_phone_is_introduced_to_the_administrator_who_heard_its_words() {
    let ticket = ticket();
    let (phone, admin) = honest(1);
    assert_eq!((admin.code().len(), phone.reply().len()), (6, 3));
    let (admin, sealed) = admin.replied(phone.reply(), &ticket).unwrap();
    let (phone, got) = phone.ticket(&sealed).unwrap();
    assert_eq!(got.to_text(), ticket.to_text());
    let said = introduction(&ticket);
    let (request, heard) = admin.introduced(&phone.introduce(&said), &ticket).unwrap();
    assert_eq!((heard, request.body().device_name.as_str()), (said, "pixel"));
}

#[test]
fn wrong_words_are_noticed_by_the_phone_before_it_says_anything_more() {
    assert_eq!(to_the_code("tiger tobacco", "tiger tomorrow", 1, |_, m| m).err(), Some(Ended::Words));
}

#[test]
fn the_words_of_one_tenant_are_of_no_use_in_another() {
    let (mut a, mut b) = (Rng::new(1), Rng::new(2));
    let (phone, hello) = Opened::new(&words("tiger tobacco"), tenant_tag(Tenant::new(1).id), &mut a);
    let other = tenant_tag(Tenant::new(2).id);
    let (_, answer) = Answering::new(&words("tiger tobacco"), other, &hello, &mut b).unwrap();
    assert_eq!(phone.answered(&answer, &mut a).err(), Some(Ended::Words));
}

#[test]
fn a_carrier_that_changes_swaps_or_reflects_a_message_ends_it() {
    // Another run's message with the same words, in the place of each.
    for place in 1..=5 {
        let mut other = Vec::new();
        to_the_code("tiger tobacco", "tiger tobacco", 77, |number, message| {
            if number == place {
                other = message.clone();
            }
            message
        })
        .unwrap();
        let swapped =
            to_the_code(
                "tiger tobacco",
                "tiger tobacco",
                1,
                |number, message| {
                    if number == place { other.clone() } else { message }
                },
            );
        match (place, swapped) {
            // A nonce from elsewhere is no forgery by itself: the two codes then differ.
            (4, Ok((phone, admin))) => assert_eq!(phone.typed(admin.code()).err(), Some(Ended::Code)),
            (5, refused) => assert_eq!(refused.err(), Some(Ended::Promise)),
            (_, refused) => assert_eq!(refused.err(), Some(Ended::Words), "message {place}"),
        }
    }
    // The administrator's own tag and share sent back at it, and the phone's at the phone.
    let mut answer = Vec::new();
    let reflected = to_the_code("tiger tobacco", "tiger tobacco", 1, |number, message| match number {
        2 => {
            answer = message.clone();
            message
        }
        3 => answer.clone(),
        _ => message,
    });
    assert!(reflected.is_err());
}

#[test]
fn whoever_stands_between_and_guessed_the_words_has_two_codes() {
    // The one in the middle knows the words, runs the exchange with each end, and grinds what it may still choose.
    let (mut a, mut b, mut m) = (Rng::new(1), Rng::new(2), Rng::new(3));
    let secret = words("tiger tobacco");
    let (phone, hello) = Opened::new(&secret, TAG, &mut a);
    let (toward_phone, answer) = Answering::new(&secret, TAG, &hello, &mut m).unwrap();
    let (toward_admin, hello) = Opened::new(&secret, TAG, &mut m);
    let (admin, to_middle) = Answering::new(&secret, TAG, &hello, &mut b).unwrap();
    let (phone, commit) = phone.answered(&answer, &mut a).unwrap();
    let (toward_phone, nonce) = toward_phone.promised(&commit, &mut m).unwrap();
    let (toward_admin, commit) = toward_admin.answered(&to_middle, &mut m).unwrap();
    let (admin, from_admin) = admin.promised(&commit, &mut b).unwrap();
    let (phone, reveal) = phone.told(&nonce).unwrap();
    let toward_phone: Reading = toward_phone.revealed(&reveal).unwrap();
    let (toward_admin, reveal) = toward_admin.told(&from_admin).unwrap();
    let admin: Reading = admin.revealed(&reveal).unwrap();

    assert_ne!(admin.code(), toward_phone.code());
    assert_eq!(phone.typed(admin.code()).err(), Some(Ended::Code), "the technician types what the administrator reads");
    // The one in the middle can make its own end accept; but nobody at a phone reads a reply to the administrator.
    let fake = toward_admin.typed(admin.code()).unwrap();
    assert_eq!(fake.reply().len(), 3);
    assert_eq!(admin.replied("", &ticket()).err(), Some(Ended::Code));
}

#[test]
fn the_code_and_the_reply_have_one_try_and_both_are_needed() {
    let (phone, admin) = to_the_code("tiger tobacco", "tiger tobacco", 1, |_, message| message).unwrap();
    let wrong = if admin.code() == "000000" { "000001" } else { "000000" };
    assert_eq!(phone.typed(wrong).err(), Some(Ended::Code));
    let (phone, admin) = honest(5);
    let wrong = if phone.reply() == "000" { "001" } else { "000" };
    assert_eq!(admin.replied(wrong, &ticket()).err(), Some(Ended::Code), "nothing is sealed to it");
}

#[test]
fn what_is_sealed_opens_once_at_the_other_end_and_nowhere_else() {
    let ticket = ticket();
    let ((phone, admin), (other_phone, other_admin)) = (honest(1), honest(9));
    let (admin, sealed) = admin.replied(phone.reply(), &ticket).unwrap();
    assert_eq!(other_phone.ticket(&sealed).err(), Some(Ended::Forged), "another phone's slot");
    let (phone, _) = phone.ticket(&sealed).unwrap();
    let message = phone.introduce(&introduction(&ticket));
    let (other_phone, _) = honest(9);
    let (other_admin, _) = other_admin.replied(other_phone.reply(), &ticket).unwrap();
    assert_eq!(other_admin.introduced(&message, &ticket).err(), Some(Ended::Forged), "spliced into another slot");
    assert_eq!(admin.introduced(&sealed, &ticket).err(), Some(Ended::Forged), "the administrator's own");
}

#[test]
fn a_request_that_the_ticket_did_not_sign_is_not_taken() {
    let (mine, other) = (ticket(), Tenant::new(8).ticket(Purpose::Phone, "https://gate.example"));
    let (phone, admin) = honest(1);
    let (admin, sealed) = admin.replied(phone.reply(), &mine).unwrap();
    let (phone, _) = phone.ticket(&sealed).unwrap();
    assert_eq!(admin.introduced(&phone.introduce(&introduction(&other)), &mine).err(), Some(Ended::Forged));
}

#[test]
fn three_in_ten_minutes_and_ten_a_day_and_a_clock_put_back_makes_no_room() {
    let mut tries = Tries::default();
    for _ in 0..MOST_AT_ONCE {
        tries.count(NOW).unwrap();
    }
    let refused = tries.count(NOW + 60).unwrap_err();
    assert_eq!((refused.most, refused.wait), (MOST_AT_ONCE, OPEN_FOR - 60));
    assert!(refused.to_string().contains("wait 9 minutes"), "{refused}");
    assert!(tries.count(NOW - 3600).is_err());
    for n in 0..MOST_A_DAY - MOST_AT_ONCE {
        tries.count(NOW + (n + 1) * OPEN_FOR).unwrap();
    }
    let later = NOW + 20 * OPEN_FOR;
    assert_eq!(tries.count(later).unwrap_err().most, MOST_A_DAY);
    assert!(tries.count(NOW + DAY - 1).is_err());
    tries.count(NOW + DAY).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_flipped_bit_anywhere_is_never_taken(place in 1..=5_u8, bit in 0..2000_usize) {
        let mut changed = false;
        let flipped = to_the_code("tiger tobacco", "tiger tobacco", 1, |number, mut message| {
            if number == place {
                let at = bit % (message.len() * 8);
                message[at / 8] ^= 1 << (at % 8);
                changed = true;
            }
            message
        });
        prop_assert!(changed || flipped.is_err());
        if let Ok((phone, admin)) = flipped {
            prop_assert_eq!(phone.typed(admin.code()).err(), Some(Ended::Code));
        }
    }

    #[test]
    fn no_bytes_make_either_end_panic(message: Vec<u8>) {
        let mut rng = Rng::new(1);
        let (phone, hello) = Opened::new(&words("tiger tobacco"), TAG, &mut rng);
        prop_assert!(phone.answered(&message, &mut rng).is_err());
        prop_assert!(Answering::new(&words("tiger tobacco"), TAG, &message, &mut rng).is_err());
        let (admin, _) = administrator::Answering::new(&words("tiger tobacco"), TAG, &hello, &mut rng).unwrap();
        prop_assert!(admin.promised(&message, &mut rng).is_err());
        let (phone, admin) = honest(1);
        prop_assert!(phone.ticket(&message).is_err());
        let (phone, _) = honest(1);
        let (admin, _) = admin.replied(phone.reply(), &ticket()).unwrap();
        prop_assert!(admin.introduced(&message, &ticket()).is_err());
    }
}
