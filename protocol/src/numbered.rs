//! Enums that are one number on the wire, and for those that people meet, one name.

/// `pub enum NAME: "what it is" { Variant = 1, ... }`: written and read as that number, unknown ones refused. With a text behind
/// each number also `name` and `from_name`.
macro_rules! numbered {
    ($(#[$doc:meta])* pub enum $name:ident: $what:literal { $($(#[$item:meta])* $variant:ident = $number:literal $text:literal,)* }) => {
        $crate::numbered::numbered! {
            $(#[$doc])* pub enum $name: $what { $($(#[$item])* $variant = $number,)* }
        }

        impl $name {
            /// The name that people write and read.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The one of a name.
            pub fn from_name(name: &str) -> Option<$name> {
                Self::ALL.iter().copied().find(|one| one.name() == name)
            }
        }
    };
    ($(#[$doc:meta])* pub enum $name:ident: $what:literal { $($(#[$item:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(into = "u8", try_from = "u8")]
        #[repr(u8)]
        pub enum $name { $($(#[$item])* $variant = $number,)* }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$variant),*];
        }

        impl From<$name> for u8 {
            fn from(one: $name) -> u8 {
                one as u8
            }
        }

        impl TryFrom<u8> for $name {
            type Error = &'static str;
            fn try_from(number: u8) -> Result<Self, &'static str> {
                Self::ALL.iter().copied().find(|one| *one as u8 == number).ok_or(concat!("an unknown ", $what))
            }
        }
    };
}

pub(crate) use numbered;
