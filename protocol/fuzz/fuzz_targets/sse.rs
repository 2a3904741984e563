//! A relay's stream of events, and the body of a POST.
#![no_main]

use gatepass_protocol::sse::{Post, Reader};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (mut whole, mut cut) = (vec![], vec![]);
    let read = Reader::default().read(bytes, |event| whole.push(event));
    let mut reader = Reader::default();
    let cut_read = bytes.iter().try_for_each(|byte| reader.read(&[*byte], |event| cut.push(event)));
    assert_eq!((read, whole), (cut_read, cut), "however the network cuts it");
    if let Ok(post) = Post::decode(bytes) {
        assert_eq!(post.encode(), bytes);
    }
});
