//! CPace (draft-irtf-cfrg-cpace-21) in its initiator-responder form: CPACE-RISTR255-SHA512. Two who know the same short
//! secret get the same long one; whoever does not know it gets one guess, and a carrier that only listens gets none.
//!
//! Names are the draft's. Its published test vectors are at the end of this file.

use curve25519_dalek::{RistrettoPoint, Scalar, ristretto::CompressedRistretto, traits::IsIdentity};
use hmac::{Hmac, KeyInit, Mac};
use rand_core::CryptoRng;
use sha2::{Digest, Sha512};
use zeroize::{ZeroizeOnDrop, Zeroizing};

const DSI: &[u8] = b"CPaceRistretto255";
const DSI_ISK: &[u8] = b"CPaceRistretto255_ISK";
/// The input block of SHA-512, which the secret is padded to: hashing it takes as long for each secret.
const S_IN_BYTES: usize = 128;

/// The other end's share is no point that both could have come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAShare;

/// One end between its own share and the other's.
#[derive(ZeroizeOnDrop)]
pub(crate) struct Run {
    y: Scalar,
    #[zeroize(skip)]
    sid: [u8; 16],
    #[zeroize(skip)]
    share: [u8; 32],
}

/// What both have in common afterwards.
#[derive(ZeroizeOnDrop)]
pub(crate) struct Isk {
    key: [u8; 64],
    #[zeroize(skip)]
    sid: [u8; 16],
}

impl Run {
    /// Begins with the short secret `prs`, the channel identifier and the session's.
    pub(crate) fn new(prs: &[u8], ci: &[u8], sid: [u8; 16], rng: &mut impl CryptoRng) -> Self {
        let mut wide = Zeroizing::new([0; 64]);
        rng.fill_bytes(&mut *wide);
        Self::with(Scalar::from_bytes_mod_order_wide(&wide), prs, ci, sid)
    }

    fn with(y: Scalar, prs: &[u8], ci: &[u8], sid: [u8; 16]) -> Self {
        let share = (generator(prs, ci, &sid) * y).compress().to_bytes();
        Self { y, sid, share }
    }

    /// What the other end needs: `Ya` or `Yb`.
    pub(crate) fn share(&self) -> &[u8; 32] {
        &self.share
    }

    /// The initiator, who has heard the responder's share.
    pub(crate) fn initiator(self, ad_a: &[u8], share_b: &[u8; 32], ad_b: &[u8]) -> Result<Isk, NotAShare> {
        let k = self.secret_point(share_b)?;
        Ok(isk(self.sid, &k, &transcript(&self.share, ad_a, share_b, ad_b)))
    }

    /// The responder, who has heard the initiator's share.
    pub(crate) fn responder(self, ad_b: &[u8], share_a: &[u8; 32], ad_a: &[u8]) -> Result<Isk, NotAShare> {
        let k = self.secret_point(share_a)?;
        Ok(isk(self.sid, &k, &transcript(share_a, ad_a, &self.share, ad_b)))
    }

    /// `scalar_mult_vfy`: the neutral element, or no element at all, ends the run.
    fn secret_point(&self, other: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, NotAShare> {
        let other = CompressedRistretto(*other).decompress().ok_or(NotAShare)?;
        let k = other * self.y;
        if k.is_identity() { Err(NotAShare) } else { Ok(Zeroizing::new(k.compress().to_bytes())) }
    }
}

impl Isk {
    /// The key, to derive others from.
    pub(crate) fn key(&self) -> &[u8; 64] {
        &self.key
    }

    /// The draft's key confirmation (section 9.4): proves to the other end that whoever sent `share` has this key.
    pub(crate) fn tag(&self, share: &[u8; 32], ad: &[u8]) -> Hmac<Sha512> {
        let key = Sha512::new().chain_update(b"CPaceMac").chain_update(self.sid).chain_update(self.key).finalize();
        let Ok(mut mac) = Hmac::<Sha512>::new_from_slice(&key) else { unreachable!("HMAC takes any key") };
        mac.update(&lv_cat(&[share, ad]));
        mac
    }
}

fn generator(prs: &[u8], ci: &[u8], sid: &[u8]) -> RistrettoPoint {
    let text = Zeroizing::new(generator_string(prs, ci, sid));
    RistrettoPoint::from_uniform_bytes(&Sha512::digest(&*text).into())
}

fn generator_string(prs: &[u8], ci: &[u8], sid: &[u8]) -> Vec<u8> {
    let padding = (S_IN_BYTES - 1).saturating_sub(lv_cat(&[prs]).len() + lv_cat(&[DSI]).len());
    lv_cat(&[DSI, prs, &vec![0; padding], ci, sid])
}

fn transcript(share_a: &[u8], ad_a: &[u8], share_b: &[u8], ad_b: &[u8]) -> Vec<u8> {
    lv_cat(&[share_a, ad_a, share_b, ad_b])
}

fn isk(sid: [u8; 16], k: &[u8; 32], transcript: &[u8]) -> Isk {
    let begin = Zeroizing::new(lv_cat(&[DSI_ISK, &sid, k]));
    let key = Sha512::new().chain_update(&*begin).chain_update(transcript).finalize().into();
    Isk { key, sid }
}

/// Each part behind its length in LEB128.
pub(crate) fn lv_cat(parts: &[&[u8]]) -> Vec<u8> {
    // All at once, so that no copy of a secret is left behind by a vector that grew.
    let mut out = Vec::with_capacity(parts.iter().map(|part| part.len() + 10).sum());
    for part in parts {
        let mut length = part.len();
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex<const N: usize>(text: &str) -> [u8; N] {
        let digits: String = text.split_whitespace().collect();
        let bytes: Vec<u8> =
            (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect();
        bytes.try_into().unwrap()
    }

    const PRS: &[u8] = b"Password";
    const CI: &[u8] = b"oc\x0bB_responder\x0bA_initiator";
    const SID: &str = "7e4b4791d6a8ef019b936c79fb7f2c57";
    const YA: &str = "da3d23700a9e5699258aef94dc060dfda5ebb61f02a5ea77fad53f4ff0976d08";
    const YB: &str = "d2316b454718c35362d83d69df6320f38578ed5984651435e2949762d900b80d";

    fn run(y: &str) -> Run {
        Run::with(Scalar::from_bytes_mod_order(unhex(y)), PRS, CI, unhex(SID))
    }

    /// "Test vector for CPace using group ristretto255 and hash SHA-512" of the draft.
    #[test]
    fn the_published_vectors_come_out() {
        assert_eq!(generator_string(PRS, CI, &unhex::<16>(SID)).len(), 172);
        assert_eq!(
            generator(PRS, CI, &unhex::<16>(SID)).compress().to_bytes(),
            unhex("a6fc82c3b8968fbb2e06fee81ca858586dea50d248f0c7ca6a18b0902a30b36b")
        );
        let (a, b) = (run(YA), run(YB));
        let (share_a, share_b) = (*a.share(), *b.share());
        assert_eq!(share_a, unhex("d40fb265a7abeaee7939d91a585fe59f7053f982c296ec413c624c669308f87a"));
        assert_eq!(share_b, unhex("08bcf6e9777a9c313a3db6daa510f2d398403319c2341bd506a92e672eb7e307"));
        let k = unhex("e22b1ef7788f661478f3cddd4c600774fc0f41e6b711569190ff88fa0e607e09");
        assert_eq!((*a.secret_point(&share_b).unwrap(), *b.secret_point(&share_a).unwrap()), (k, k));
        let expected: [u8; 64] = unhex(
            "4c5469a16b2364c4b944ebc1a79e51d1674ad47db26e8718154f59faebfaa52d
             8346f30aa58377117eb20d527f2cbc5c76381f7fd372e89df8239f87f2e02ed1",
        );
        assert_eq!(*a.initiator(b"ADa", &share_b, b"ADb").unwrap().key(), expected);
        assert_eq!(*b.responder(b"ADb", &share_a, b"ADa").unwrap().key(), expected);
    }

    /// "Test case for scalar_mult with valid inputs", and the strings' own.
    #[test]
    fn the_published_multiplication_and_strings_come_out() {
        let s = unhex("7cd0e075fa7955ba52c02759a6c90dbbfc10e6d40aea8d283e407d88cf538a05");
        let run = Run { y: Scalar::from_bytes_mod_order(s), sid: [0; 16], share: [0; 32] };
        let x = unhex("2c3c6b8c4f3800e7aef6864025b4ed79bd599117e427c41bd47d93d654b4a51c");
        let product = unhex("7c13645fe790a468f62c39beb7388e541d8405d1ade69d1778c5fe3e7f6b600e");
        assert_eq!(*run.secret_point(&x).unwrap(), product);
        assert_eq!(lv_cat(&[b"1234", b"5", b"", b"6789"]), unhex::<13>("04313233340135000436373839"));
        let long: Vec<u8> = (0..128).collect();
        assert_eq!(lv_cat(&[&long])[..3], [0x80, 0x01, 0]);
    }

    #[test]
    fn a_share_that_fixes_the_outcome_is_refused() {
        assert_eq!(run(YA).secret_point(&[0; 32]).err(), Some(NotAShare), "the neutral element");
        assert_eq!(run(YA).secret_point(&[0xff; 32]).err(), Some(NotAShare), "no element");
        let odd = unhex("0100000000000000000000000000000000000000000000000000000000000000");
        assert_eq!(run(YA).secret_point(&odd).err(), Some(NotAShare), "a negative encoding");
    }

    #[test]
    fn another_secret_channel_or_session_gives_another_key() {
        let key = |prs: &[u8], ci: &[u8], sid: [u8; 16]| {
            let a = Run::with(Scalar::from(7u8), prs, ci, sid);
            let b = run(YB);
            (*a.initiator(b"a", b.share(), b"b").unwrap().key()).to_vec()
        };
        let right = key(PRS, CI, unhex(SID));
        let wrong = [key(b"password", CI, unhex(SID)), key(PRS, b"another", unhex(SID)), key(PRS, CI, [0; 16])];
        assert!(wrong.iter().all(|key| *key != right));
    }
}
