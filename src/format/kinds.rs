//! Small enumerations that are bytes on media.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

macro_rules! byte_enum {
    ($(#[$doc:meta])* $name:ident, $structure:literal { $($(#[$vdoc:meta])* $variant:ident = $byte:literal $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The byte on media.
            #[must_use]
            pub fn to_byte(self) -> u8 {
                match self { $(Self::$variant => $byte),+ }
            }

            /// From the byte on media.
            ///
            /// # Errors
            /// [`ErrorKind::Corrupt`] for a byte that stands for nothing.
            pub fn from_byte(byte: u8) -> Result<Self> {
                match byte {
                    $($byte => Ok(Self::$variant),)+
                    other => Err(Error::corrupt($structure, "value", 0, u64::from(other))),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text),+ })
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    other => Err(Error::new(
                        ErrorKind::Config,
                        format!("{other:?} is none of: {}", [$($text),+].join(", ")),
                    )),
                }
            }
        }
    };
}

byte_enum!(
    /// How the bytes of a fragment were made smaller.
    Codec, "codec" {
        /// As they came.
        Raw = 0 "raw",
        /// LZ4 block format.
        Lz4 = 1 "lz4",
        /// One zstd frame.
        Zstd = 2 "zstd",
        /// All zero: no payload.
        Zero = 3 "zero",
    }
);

byte_enum!(
    /// How a namespace's fragments are sealed.
    Cipher, "cipher" {
        /// AES-256-XTS (IEEE 1619): the seal number is the tweak, one fragment one data unit.
        Aes256Xts = 1 "aes-256-xts",
        /// AES-256-GCM (SP 800-38D): authenticated; 16 bytes more a fragment.
        Aes256Gcm = 2 "aes-256-gcm",
    }
);

byte_enum!(
    /// What a namespace's writes are compressed with.
    Compression, "compression" {
        /// Stored as they come.
        None = 0 "none",
        /// LZ4.
        Lz4 = 1 "lz4",
        /// zstd at its fastest levels.
        Zstd = 2 "zstd",
    }
);
