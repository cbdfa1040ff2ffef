//! What one setting can hold: how it is read from text, shown again, and measured against its range.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::units::{Percent, Size, format_duration, millis, parse_duration};

/// A type a setting can have. Values are always read from text, so that the file, the environment and options agree.
pub(crate) trait Value: Sized {
    /// Hidden in everything that is printed.
    const SECRET: bool = false;
    /// `null` means something.
    const NULLABLE: bool = false;
    /// What to write, for the reference page: `size`, `duration`, "`fsync` or `write`".
    fn kind() -> String;
    /// Reads it; the error says what was expected and never repeats a secret.
    fn parse(text: &str) -> Result<Self, String>;
    /// Writes it so that `parse` reads it back.
    fn show(&self) -> String;
    /// What a range compares: bytes, milliseconds or the number. `None` is outside of any range check (`off`, `auto`, words).
    fn magnitude(&self) -> Option<u64> {
        None
    }
}

impl Value for bool {
    fn kind() -> String {
        "`true` or `false`".into()
    }
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" | "on" => Ok(true),
            "false" | "off" => Ok(false),
            _ => Err("expected true or false".into()),
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for u32 {
    fn kind() -> String {
        "number".into()
    }
    fn parse(text: &str) -> Result<Self, String> {
        text.replace('_', "")
            .parse()
            .map_err(|_| "expected a whole number".into())
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn magnitude(&self) -> Option<u64> {
        Some((*self).into())
    }
}

impl Value for Size {
    fn kind() -> String {
        "size".into()
    }
    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn magnitude(&self) -> Option<u64> {
        Some(self.bytes())
    }
}

impl Value for Duration {
    fn kind() -> String {
        "duration".into()
    }
    fn parse(text: &str) -> Result<Self, String> {
        parse_duration(text)
    }
    fn show(&self) -> String {
        format_duration(*self)
    }
    fn magnitude(&self) -> Option<u64> {
        Some(millis(*self))
    }
}

impl Value for Percent {
    fn kind() -> String {
        "share".into()
    }
    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn magnitude(&self) -> Option<u64> {
        Some(self.get().into())
    }
}

impl Value for SocketAddr {
    fn kind() -> String {
        "address".into()
    }
    fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = text
            .rsplit_once(':')
            .ok_or("expected an address and a port, such as 127.0.0.1:4317")?;
        if host.is_empty() {
            return Err(format!(
                "expected an address in front of the port: 127.0.0.1:{port} for this machine only, 0.0.0.0:{port} for all"
            ));
        }
        if host == "localhost" {
            let port = port
                .parse()
                .map_err(|_| format!("`{port}` is not a port (0 to 65535)"))?;
            return Ok(Self::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        }
        text.parse()
            .map_err(|_| "expected an IP address and a port, such as 127.0.0.1:4317 or [::1]:4317".into())
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for PathBuf {
    fn kind() -> String {
        "path".into()
    }
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') {
            Err("expected a path".into())
        } else {
            Ok(Self::from(text))
        }
    }
    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl<V: Value> Value for Option<V> {
    const SECRET: bool = V::SECRET;
    const NULLABLE: bool = true;
    fn kind() -> String {
        format!("{} or `null`", V::kind())
    }
    fn parse(text: &str) -> Result<Self, String> {
        if text == "null" {
            Ok(None)
        } else {
            V::parse(text).map(Some)
        }
    }
    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "null".into(), V::show)
    }
    fn magnitude(&self) -> Option<u64> {
        self.as_ref().and_then(V::magnitude)
    }
}

/// A limit that can be switched off. Written `off` or the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit<T> {
    /// No limit.
    Off,
    /// Not more than this.
    At(T),
}

impl<T: Copy> Limit<T> {
    /// The limit, if there is one.
    #[must_use]
    pub fn get(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::At(limit) => Some(limit),
        }
    }
}

impl<V: Value> Value for Limit<V> {
    const SECRET: bool = V::SECRET;
    fn kind() -> String {
        format!("{} or `off`", V::kind())
    }
    fn parse(text: &str) -> Result<Self, String> {
        if text == "off" {
            Ok(Self::Off)
        } else {
            V::parse(text).map(Self::At).map_err(|e| format!("{e}, or off"))
        }
    }
    fn show(&self) -> String {
        match self {
            Self::Off => "off".into(),
            Self::At(limit) => limit.show(),
        }
    }
    fn magnitude(&self) -> Option<u64> {
        match self {
            Self::Off => None,
            Self::At(limit) => limit.magnitude(),
        }
    }
}

/// A value that follows the machine unless it is given. Written `auto` or the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auto<T> {
    /// Worked out from the machine at start.
    Auto,
    /// Exactly this.
    Is(T),
}

impl<V: Value> Value for Auto<V> {
    const SECRET: bool = V::SECRET;
    fn kind() -> String {
        format!("{} or `auto`", V::kind())
    }
    fn parse(text: &str) -> Result<Self, String> {
        if text == "auto" {
            Ok(Self::Auto)
        } else {
            V::parse(text).map(Self::Is).map_err(|e| format!("{e}, or auto"))
        }
    }
    fn show(&self) -> String {
        match self {
            Self::Auto => "auto".into(),
            Self::Is(value) => value.show(),
        }
    }
    fn magnitude(&self) -> Option<u64> {
        match self {
            Self::Auto => None,
            Self::Is(value) => value.magnitude(),
        }
    }
}

/// Most names in a [`Names`].
pub const NAMES_MAX: usize = 4;

/// A few names, such as attribute keys, each once. Written with commas between them, or `none`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Names(Vec<String>);

impl Names {
    /// The names, in the order given.
    #[must_use]
    pub fn get(&self) -> &[String] {
        &self.0
    }
}

impl Value for Names {
    fn kind() -> String {
        format!("up to {NAMES_MAX} names or `none`")
    }
    fn parse(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::default());
        }
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        if names
            .iter()
            .any(|name| name.is_empty() || name.contains(char::is_whitespace))
        {
            return Err("expected names with commas between them, or none".into());
        }
        if names.len() > NAMES_MAX {
            return Err(format!("expected at most {NAMES_MAX} names"));
        }
        match names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
            Some((_, name)) => Err(format!("{name} is there twice")),
            None => Ok(Self(names)),
        }
    }
    fn show(&self) -> String {
        if self.0.is_empty() {
            "none".into()
        } else {
            self.0.join(",")
        }
    }
}

/// Text that must never be seen: `Debug` and `Display` show `<redacted>`, and so does every page this crate prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Every use is a place where it could leak.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// What is shown in place of a secret.
pub(crate) const REDACTED: &str = "<redacted>";

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Value for Secret {
    const SECRET: bool = true;
    fn kind() -> String {
        "secret".into()
    }
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Err("expected a secret".into())
        } else {
            Ok(Self(text.into()))
        }
    }
    fn show(&self) -> String {
        REDACTED.into()
    }
}

/// An `enum` of words, each with the sentence that the reference page shows.
macro_rules! words {
    ($(#[doc = $doc:literal])+ pub enum $name:ident { $($(#[doc = $vdoc:literal])+ $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $vdoc])+ $variant),+ }

        impl $name {
            /// The word it is written as.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl $crate::value::Value for $name {
            fn kind() -> String {
                [$(concat!("`", $word, "`")),+].join(", ")
            }
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("expected one of {}", [$($word),+].join(", "))),
                }
            }
            fn show(&self) -> String {
                self.word().into()
            }
        }
    };
}
pub(crate) use words;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check<V: Value>(text: &str, shown: &str) {
        match V::parse(text) {
            Ok(value) => assert_eq!(value.show(), shown),
            Err(error) => assert!(error.contains(shown), "{text}: {error}"),
        }
    }

    #[test]
    fn values() {
        check::<bool>("on", "true");
        check::<bool>("True", "expected true or false");
        check::<u32>("10_000", "10000");
        check::<u32>("-1", "whole number");
        check::<SocketAddr>("localhost:4317", "127.0.0.1:4317");
        check::<SocketAddr>("[::1]:80", "[::1]:80");
        check::<SocketAddr>(":4317", "127.0.0.1:4317 for this machine only");
        check::<SocketAddr>("4317", "such as 127.0.0.1:4317");
        check::<SocketAddr>("localhost:99999", "not a port");
        check::<SocketAddr>("example.com:80", "expected an IP address");
        check::<PathBuf>("", "expected a path");
        check::<Option<PathBuf>>("null", "null");
        check::<Limit<Size>>("off", "off");
        check::<Limit<Size>>("1MiB", "1MiB");
        check::<Limit<Size>>("of", ", or off");
        check::<Names>("none", "none");
        check::<Names>("user.tier, region", "user.tier,region");
        check::<Names>("a,,b", "commas between");
        check::<Names>("", "commas between");
        check::<Names>("a b", "commas between");
        check::<Names>("a,b,c,d,e", "at most 4");
        check::<Names>("a,b,a", "a is there twice");
        check::<Auto<Size>>("auto", "auto");
        check::<Auto<Size>>("1MiB", "1MiB");
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::parse("hunter2").unwrap();
        assert_eq!(secret.reveal(), "hunter2");
        let seen = format!("{secret} {secret:?} {} {:?}", secret.show(), Some(&secret));
        assert!(!seen.contains("hunter2"), "{seen}");
    }
}
