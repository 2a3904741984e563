//! What happens in Redis at once or not at all: one Lua script for each act, and what it answers.

use redis::Value;

use crate::backplane::Refusal;

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal,)*) => {
        /// A script.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Script { $($(#[$doc])* $name,)* }

        impl Script {
            pub(super) const ALL: &[Script] = &[$(Script::$name,)*];

            /// Its text.
            pub(super) fn body(self) -> &'static str {
                match self { $(Script::$name => include_str!(concat!("scripts/", $file)),)* }
            }
        }
    };
}

scripts! {
    Open = "open.lua",
    Claim = "claim.lua",
    Forward = "forward.lua",
    Ack = "ack.lua",
    Resume = "resume.lua",
    Close = "close.lua",
    Sync = "sync.lua",
    Settle = "settle.lua",
    Publish = "publish.lua",
    Announce = "announce.lua",
    Position = "position.lua",
    Hold = "hold.lua",
    Spend = "spend.lua",
    Presence = "presence.lua",
}

impl Script {
    /// Whether doing it twice is the same as doing it once, so that it may be tried again when the answer was lost.
    pub(super) fn repeatable(self) -> bool {
        !matches!(self, Script::Publish | Script::Spend)
    }
}

/// A script's answer.
#[derive(Debug)]
pub(super) struct Answer(std::vec::IntoIter<Value>);

/// Why a script did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum No {
    /// As the memory of one process would refuse it.
    Refused(Refusal),
    /// The end has taken its place anew since; the same holder did, or another.
    Moved { same_holder: bool },
}

/// An answer that no script of ours gives.
#[derive(Debug)]
pub(super) struct Nonsense;

impl Answer {
    /// Reads the first word.
    pub(super) fn read(value: Value) -> Result<Result<Self, No>, Nonsense> {
        let Value::Array(items) = value else { return Err(Nonsense) };
        let mut answer = Self(items.into_iter());
        let word = answer.bytes()?;
        Ok(Err(No::Refused(match word.as_slice() {
            b"ok" => return Ok(Ok(answer)),
            b"moved" => return Ok(Err(No::Moved { same_holder: answer.number().unwrap_or(1) == 1 })),
            b"unknown" => Refusal::Unknown,
            b"taken" => Refusal::Taken,
            b"claimed" => Refusal::Claimed,
            b"unclaimed" => Refusal::Unclaimed,
            b"expired" => Refusal::Expired,
            b"denied" => Refusal::ResumeDenied,
            b"unacked" => Refusal::Unacked(answer.number()? as usize),
            // The number that came is the caller's to add.
            b"gap" => Refusal::Gap { expected: answer.number()? as u32, got: 0 },
            b"ahead" => Refusal::AckAhead { sent: answer.number()? as u32, got: 0 },
            _ => return Err(Nonsense),
        })))
    }

    pub(super) fn number(&mut self) -> Result<u64, Nonsense> {
        match self.0.next() {
            // Redis tells a key that has no end, or is gone, by a negative number.
            Some(Value::Int(number)) => Ok(u64::try_from(number).unwrap_or(0)),
            _ => Err(Nonsense),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, Nonsense> {
        match self.0.next() {
            Some(Value::BulkString(bytes)) => Ok(bytes),
            Some(Value::SimpleString(text)) => Ok(text.into_bytes()),
            _ => Err(Nonsense),
        }
    }

    pub(super) fn list(&mut self) -> Result<Vec<Vec<u8>>, Nonsense> {
        let Some(Value::Array(items)) = self.0.next() else { return Err(Nonsense) };
        let mut items = Answer(items.into_iter());
        (0..items.0.len()).map(|_| items.bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_word_and_what_belongs_to_it() {
        let word = |text: &str| Value::BulkString(text.into());
        let answer = |items: Vec<Value>| Answer::read(Value::Array(items));
        let mut ok = answer(vec![word("ok"), Value::Int(-2), Value::Array(vec![word("a")])]).unwrap().unwrap();
        assert_eq!((ok.number().unwrap(), ok.list().unwrap()), (0, vec![b"a".to_vec()]));
        assert!(ok.number().is_err());
        let no = answer(vec![word("gap"), Value::Int(4)]).unwrap().unwrap_err();
        assert_eq!(no, No::Refused(Refusal::Gap { expected: 4, got: 0 }));
        assert!(answer(vec![]).is_err() && answer(vec![word("huh")]).is_err() && Answer::read(Value::Okay).is_err());
    }
}
