//! The building blocks against the examples in their RFCs.
#![allow(clippy::unwrap_used)]

use gatepass_protocol::keys::{ChannelKey, PublicKey, Signer, SigningKey};

fn unhex<const N: usize>(text: &str) -> [u8; N] {
    let bytes: Vec<u8> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

#[test]
fn base45_is_rfc_9285() {
    for (plain, encoded) in
        [("AB", "BB8"), ("Hello!!", "%69 VD92EX0"), ("base-45", "UJCLQE7W581"), ("ietf!", "QED8WEX0")]
    {
        assert_eq!(base45::encode(plain), encoded);
        assert_eq!(base45::decode(encoded).unwrap(), plain.as_bytes());
    }
    for wrong in ["GGW", "A", "BB8A", "bb8"] {
        assert!(base45::decode(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn ed25519_is_rfc_8032() {
    // Section 7.1, test 2.
    let key = SigningKey::from_seed(&unhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"));
    let public = unhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
    let signature: [u8; 64] = unhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    );
    assert_eq!(key.public_key(), PublicKey::Ed25519(public));
    assert_eq!(key.sign_now(&[0x72]), signature);
    assert!(key.public_key().verify(&[0x72], &signature).is_ok());
    assert!(key.public_key().verify(&[0x73], &signature).is_err());
}

#[test]
fn a_small_order_key_verifies_nothing() {
    // The neutral point as key and as R, with s = 0, fits every message in the looser rules of RFC 8032.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut signature = [0; 64];
    signature[0] = 1;
    assert!(PublicKey::Ed25519(neutral).verify(b"anything", &signature).is_err());
}

#[test]
fn x25519_is_rfc_7748() {
    // Section 6.1.
    let bob = ChannelKey::from_bytes(&unhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
    assert_eq!(bob.public_bytes(), unhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
    let alice = unhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    let shared = unhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    assert_eq!(*bob.agree(&alice).unwrap(), shared);
    assert!(bob.agree(&[0; 32]).is_err(), "the all-zero result");
}

#[test]
fn hkdf_is_rfc_5869() {
    // Appendix A.1.
    let salt: [u8; 13] = unhex("000102030405060708090a0b0c");
    let info: [u8; 10] = unhex("f0f1f2f3f4f5f6f7f8f9");
    let mut okm = [0; 42];
    hkdf::Hkdf::<sha2::Sha256>::new(Some(&salt), &[0x0b; 22]).expand(&info, &mut okm).unwrap();
    let expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
    assert_eq!(okm, unhex(expected));
}
