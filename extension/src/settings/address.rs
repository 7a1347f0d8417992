//! Where Langfuse is: what may be its address, and whose of several variables counts.

use std::net::{IpAddr, SocketAddr};

use reqwest::Url;

use super::Environment;

/// Langfuse's EU cloud, where its SDKs send to as long as nobody says otherwise.
pub const DEFAULT_BASE_URL: &str = "https://cloud.langfuse.com";

/// By which of their own variables Langfuse's SDKs and LiteLLM find Langfuse.
pub(crate) const SDK_BASE_URLS: [&str; 4] = [
    "LANGFUSE_BASE_URL",
    "LANGFUSE_HOST",
    "LANGFUSE_BASEURL",
    "LANGFUSE_OTEL_HOST",
];

/// By which variables OTLP exporters find anything, Langfuse too.
pub(crate) const OTLP_BASE_URLS: [&str; 3] = [
    "TRACELOOP_BASE_URL",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// Below Langfuse's base URL, what OTLP exporters are given.
pub(crate) const OTLP_PATH: &str = "/api/public/otel";

/// Why a text is no address of Langfuse; the sentence goes on after the setting and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// Not a URL, or of another scheme.
    #[error("it must begin with https://, as in {DEFAULT_BASE_URL}")]
    NotHttp,
    /// Everything would be sent to the same path, whose answer means nothing.
    #[error("it must end before the ? or #")]
    Query,
    /// It would be sent in place of the project's keys, and stand in logs.
    #[error("it must not hold a user name or password; keys have settings of their own")]
    UserInfo,
    /// What is sent would come back as new data, for ever.
    #[error("it is this extension itself; set it to Langfuse's own address")]
    Ourselves,
}

/// Where Langfuse is, as far as the environment says.
#[derive(Debug)]
pub(super) enum Address {
    /// There.
    Known(Url),
    /// Nothing names it, so it is where the SDKs would send to.
    Default(Url),
    /// This does not, and something has to.
    Unknown(String),
}

/// Every client's variable that names Langfuse, or the extension in its place, with the base URL that it means.
pub(super) fn of_clients(environment: &impl Environment) -> Vec<(&'static str, String)> {
    let of_sdks = SDK_BASE_URLS
        .into_iter()
        .filter_map(|name| Some((name, environment.get(name)?)));
    let of_exporters = OTLP_BASE_URLS.into_iter().filter_map(|name| {
        let url = environment.get(name)?;
        Some((name, langfuse_of_otlp(&url)?.to_owned()))
    });
    of_sdks.chain(of_exporters).collect()
}

/// Reads `own` if there is one, else the first of the clients' that does not lead to `listen`, where the extension is:
/// such a one says where the app finds it.
pub(super) fn find(
    own: Option<(&'static str, String)>,
    of_clients: &[(&'static str, String)],
    listen: SocketAddr,
) -> Address {
    let elsewhere = of_clients
        .iter()
        .find(|(_, text)| !names_listener(text, listen));
    let Some((name, text)) = own.or_else(|| elsewhere.cloned()) else {
        return match of_clients.first() {
            None => default(),
            Some((name, _)) => Address::Unknown(format!(
                "{name} is where the app finds the extension, and nothing says where Langfuse is, so everything is held: \
                 set LANGFUSE_EXTENSION_BASE_URL (EU {DEFAULT_BASE_URL}, US https://us.cloud.langfuse.com, \
                 JP https://jp.cloud.langfuse.com, HIPAA https://hipaa.cloud.langfuse.com, or your own)"
            )),
        };
    };
    match parse(&text, listen) {
        Ok(url) => Address::Known(url),
        Err(why) => Address::Unknown(format!(
            "{name}={:?} is no address of Langfuse, so everything is held: {why}",
            without_userinfo(&text)
        )),
    }
}

fn default() -> Address {
    match Url::parse(DEFAULT_BASE_URL) {
        Ok(url) => Address::Default(url),
        Err(error) => Address::Unknown(error.to_string()),
    }
}

fn parse(text: &str, listen: SocketAddr) -> Result<Url, NoAddress> {
    let url = Url::parse(text.trim()).map_err(|_| NoAddress::NotHttp)?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(NoAddress::NotHttp);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(NoAddress::Query);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(NoAddress::UserInfo);
    }
    if is_here(&url, listen) {
        return Err(NoAddress::Ourselves);
    }
    Ok(url)
}

/// Names that a resolver or a proxy would turn into us are found out by the header that each request carries.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback() || ip.is_unspecified(),
        Some(url::Host::Ipv6(ip)) => match ip.to_canonical() {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_unspecified(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unspecified(),
        },
        Some(url::Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        None => false,
    }
}

fn is_here(url: &Url, listen: SocketAddr) -> bool {
    is_loopback(url) && url.port_or_known_default() == Some(listen.port())
}

/// Whether this address is the extension's own: then it says where the app finds it, and not where Langfuse is.
pub(crate) fn names_listener(url: &str, listen: SocketAddr) -> bool {
    Url::parse(url.trim()).is_ok_and(|url| is_here(&url, listen))
}

/// Langfuse's base URL, if an OTLP exporter's address is one of Langfuse's.
/// <https://langfuse.com/integrations/native/opentelemetry>
pub(crate) fn langfuse_of_otlp(url: &str) -> Option<&str> {
    url.find(OTLP_PATH).map(|at| &url[..at])
}

/// A URL, or what was meant as one, without the name and password that may stand in it.
pub fn without_userinfo(url: &str) -> String {
    match (url.split_once("//"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}//{host}"),
        (None, Some((_, host))) => host.to_owned(),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::DEFAULT_LISTEN;

    const NAME: &str = "LANGFUSE_EXTENSION_BASE_URL";

    fn own(text: &str) -> Address {
        find(Some((NAME, text.to_owned())), &[], DEFAULT_LISTEN)
    }

    fn refused(text: &str) -> String {
        match own(text) {
            Address::Unknown(why) => why,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn every_spelling_of_ourselves_is_refused() {
        for here in [
            "http://localhost:4318",
            "http://LOCALHOST.:4318/base",
            "http://app.localhost:4318",
            "http://127.0.0.1:4318",
            "http://127.9.9.9:4318",
            "http://127.1:4318",
            "http://0x7f000001:4318",
            "http://2130706433:4318",
            "http://0.0.0.0:4318",
            "http://[::1]:4318",
            "http://[::]:4318",
            "http://[::ffff:127.0.0.1]:4318",
            "http://%6cocalhost:4318",
        ] {
            assert!(refused(here).contains("this extension itself"), "{here}");
        }
        let other_port = own("http://localhost:3000");
        assert!(matches!(other_port, Address::Known(_)), "{other_port:?}");
    }

    #[test]
    fn what_would_send_everything_to_one_path_or_to_nobody_is_refused() {
        for (text, why) in [
            ("cloud.langfuse.com", NoAddress::NotHttp),
            ("ftp://langfuse.example", NoAddress::NotHttp),
            ("https://langfuse.example/?x=1", NoAddress::Query),
            ("https://langfuse.example?", NoAddress::Query),
            ("https://langfuse.example/#x", NoAddress::Query),
            ("https://user:hidden@langfuse.example", NoAddress::UserInfo),
            ("https://hidden@langfuse.example", NoAddress::UserInfo),
            ("user:hidden@langfuse.example", NoAddress::NotHttp),
        ] {
            let said = refused(text);
            assert!(said.ends_with(&why.to_string()), "{text}: {said}");
            assert!(!said.contains("hidden"), "{said}");
        }
    }

    #[test]
    fn where_only_the_extensions_own_address_is_set_nothing_is_guessed() {
        let here = [
            ("LANGFUSE_BASE_URL", "http://localhost:4318".to_owned()),
            ("LANGFUSE_HOST", "http://127.0.0.1:4318/".to_owned()),
        ];
        let Address::Unknown(said) = find(None, &here, DEFAULT_LISTEN) else {
            panic!("guessed");
        };
        assert!(said.contains("hipaa.cloud"), "{said}");
        assert!(matches!(
            find(None, &[], DEFAULT_LISTEN),
            Address::Default(_)
        ));
    }

    #[test]
    fn a_clients_address_counts_unless_it_leads_here() {
        let mixed = [
            ("LANGFUSE_BASE_URL", "http://[::1]:4318".to_owned()),
            ("LANGFUSE_HOST", "https://langfuse.example/base".to_owned()),
        ];
        let Address::Known(url) = find(None, &mixed, DEFAULT_LISTEN) else {
            panic!("unknown");
        };
        assert_eq!(url.as_str(), "https://langfuse.example/base");
        let Address::Known(url) = find(
            Some((NAME, "http://127.0.0.1:9".into())),
            &mixed,
            DEFAULT_LISTEN,
        ) else {
            panic!("unknown");
        };
        assert_eq!(url.as_str(), "http://127.0.0.1:9/");
    }
}
