//! Reads single settings as their rows of the table say, and notes what makes no sense.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use http::HeaderName;

use super::Environment;
use super::address::without_userinfo;
use super::table::{Kind, Setting, TABLE};
use crate::receiver::route::may_travel;

/// Something about the settings that a person should mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The variable that it is about.
    pub name: String,
    text: String,
}

impl Problem {
    /// `text`: a whole sentence, which names the variable itself.
    pub(super) fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Every setting that is set, as it may be shown.
pub fn shown(environment: &impl Environment) -> Vec<(&'static str, String)> {
    let set = TABLE.iter().filter_map(|setting| {
        let value = environment.get(setting.name)?;
        Some((setting.name, show(setting, &value)))
    });
    set.collect()
}

/// A value that may be a key, or hold a password, is not shown.
fn show(setting: &Setting, value: &str) -> String {
    match setting.kind {
        _ if setting.secret => "(set)".into(),
        Kind::Key if !value.trim_start().starts_with("pk-") => "(set)".into(),
        Kind::Address => without_userinfo(value),
        _ => value.to_owned(),
    }
}

pub(super) struct Reader<'a, E> {
    pub(super) environment: &'a E,
    pub(super) problems: Vec<Problem>,
}

impl<E: Environment> Reader<'_, E> {
    /// As it stands, if it is set.
    pub(super) fn get(&self, setting: &Setting) -> Option<String> {
        self.environment.get(setting.name)
    }

    /// Notes a problem of a setting whose value is replaced by the default.
    pub(super) fn not_used(&mut self, setting: &Setting, value: &str, must: &str) {
        let stands_in = match setting.default_value() {
            "" => String::new(),
            default => format!("; {default} stands in for it"),
        };
        let text = format!(
            "{}={:?} is not used: {must}{stands_in}",
            setting.name,
            show(setting, value)
        );
        self.problems.push(Problem::new(setting.name, text));
    }

    /// One of the words of its row.
    pub(super) fn choice(&mut self, setting: &Setting) -> &'static str {
        let default = setting.default_value();
        let (Kind::Choice(words), Some(text)) = (setting.kind, self.get(setting)) else {
            return default;
        };
        let word = words
            .iter()
            .find(|word| text.trim().eq_ignore_ascii_case(word));
        word.copied().unwrap_or_else(|| {
            self.not_used(setting, &text, &format!("it must be {}", one_of(words)));
            default
        })
    }

    pub(super) fn switch(&mut self, setting: &Setting) -> bool {
        let default = setting.default_value() == "true";
        let Some(text) = self.get(setting) else {
            return default;
        };
        parse_bool(&text).unwrap_or_else(|| {
            self.not_used(setting, &text, "it must be true or false");
            default
        })
    }

    pub(super) fn millis(&mut self, setting: &Setting) -> Duration {
        let default = setting.default_value().parse().unwrap_or_default();
        Duration::from_millis(self.number(setting, default))
    }

    /// A whole number within the bounds of its row.
    pub(super) fn number(&mut self, setting: &Setting, default: u64) -> u64 {
        let Some(text) = self.get(setting) else {
            return default;
        };
        let number = text.trim().parse().ok();
        let wrong = match (setting.kind, number) {
            (_, None) => "it must be a whole number".into(),
            (Kind::Millis { most }, Some(number)) if number > most => {
                format!("it must be {most} at most")
            }
            (Kind::Bytes { zero_is_off, .. }, Some(0)) if zero_is_off => return 0,
            (Kind::Bytes { least, .. }, Some(number)) if number < least => {
                format!("less than {least} bytes would hold nothing")
            }
            (_, Some(number)) => return number,
        };
        self.not_used(setting, &text, &wrong);
        default
    }

    /// Words with commas between.
    pub(super) fn list(&self, setting: &Setting) -> Vec<String> {
        let text = self.get(setting).unwrap_or_default();
        let words = text.split(',').map(str::trim).filter(|it| !it.is_empty());
        words.map(str::to_owned).collect()
    }

    /// An absolute path that is not the root.
    pub(super) fn path(&mut self, setting: &Setting) -> Option<PathBuf> {
        let text = self.get(setting)?;
        let path = Path::new(text.trim());
        let has_name = path
            .components()
            .any(|part| matches!(part, Component::Normal(_)));
        if path.is_absolute() && has_name {
            return Some(path.to_owned());
        }
        self.not_used(
            setting,
            &text,
            "it must be an absolute path, such as /tmp/langfuse, and not the root",
        );
        None
    }

    /// Names of headers that may travel with data, separated by commas.
    pub(super) fn header_names(&mut self, setting: &Setting) -> Vec<HeaderName> {
        let Some(text) = self.get(setting) else {
            return Vec::new();
        };
        let names = text.split(',').map(str::trim).filter(|it| !it.is_empty());
        let names: Result<Vec<HeaderName>, _> = names.map(str::parse).collect();
        match names {
            Ok(names) if names.iter().all(may_travel) => names,
            _ => {
                let must = "it must be names of headers with commas between, none of them of one connection or body";
                self.not_used(setting, &text, must);
                Vec::new()
            }
        }
    }

    /// An address that names neither family stands for both.
    pub(super) fn listen(&mut self, setting: &Setting) -> (SocketAddr, Option<SocketAddr>) {
        if let Some(text) = self.get(setting) {
            if let Some(listen) = parse_listen(text.trim()) {
                return listen;
            }
            let must = "it must be a loopback address and a port, such as 127.0.0.1:4318";
            self.not_used(setting, &text, must);
        }
        parse_listen(setting.default_value()).unwrap_or_else(|| both(0))
    }
}

fn one_of(words: &[&str]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => words.concat(),
    }
}

pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn parse_listen(text: &str) -> Option<(SocketAddr, Option<SocketAddr>)> {
    if let Some((name, port)) = text.split_once(':')
        && name.eq_ignore_ascii_case("localhost")
    {
        return port.parse().ok().map(both);
    }
    let address: SocketAddr = text.parse().ok()?;
    address.ip().is_loopback().then_some((address, None))
}

fn both(port: u16) -> (SocketAddr, Option<SocketAddr>) {
    let at = |ip| SocketAddr::new(ip, port);
    let other = at(IpAddr::V6(Ipv6Addr::LOCALHOST));
    (
        at(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Some(other).filter(|other| other.port() != 0),
    )
}
