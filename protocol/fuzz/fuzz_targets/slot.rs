//! Every message of an enrolment by words, at the end that takes it; and words as a person types them.
#![no_main]

use gatepass_protocol::{
    slot::{administrator::Answering, phone::Opened},
    testing::Rng,
    words::Words,
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (mut a, mut b, words) = (Rng::new(1), Rng::new(2), Words::of([7, 9]));
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(typed) = text.parse::<Words>()
    {
        assert_eq!(typed.to_string().parse(), Ok(typed));
    }
    let _ = Answering::new(&words, [0; 4], bytes, &mut b);
    let (phone, hello) = Opened::new(&words, [0; 4], &mut a);
    assert!(phone.answered(bytes, &mut a).is_err(), "the tag was guessed");
    let Ok((admin, answer)) = Answering::new(&words, [0; 4], &hello, &mut b) else { return };
    assert!(admin.promised(bytes, &mut b).is_err(), "the tag was guessed");
    let (mut a, mut b) = (Rng::new(1), Rng::new(2));
    let (phone, hello) = Opened::new(&words, [0; 4], &mut a);
    let Ok((admin, _)) = Answering::new(&words, [0; 4], &hello, &mut b) else { return };
    let Ok((phone, commit)) = phone.answered(&answer, &mut a) else { return };
    let _ = phone.told(bytes);
    let Ok((admin, _)) = admin.promised(&commit, &mut b) else { return };
    assert!(admin.revealed(bytes).is_err(), "the nonce was guessed");
});
