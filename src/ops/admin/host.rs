//! For which hosts the server answers. A web page can have its own name lead to this machine (DNS rebinding), and then its
//! scripts may read what the browser gets from there; but the browser names the page's host, and that is not ours.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{HOST, HeaderValue, ORIGIN};
use axum::http::uri::{Authority, InvalidUri};
use axum::http::{StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;

use super::error;
use crate::model::ellipsize;

/// A host as a request names it, without its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name, in lower case.
    Name(String),
}

/// A text that is no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a host is a name such as status.example.com, or an IP address, without scheme, port and path"
)]
pub struct InvalidHost;

/// The address that a connection came in on.
#[derive(Clone, Copy)]
pub(super) struct CameTo(pub(super) IpAddr);

impl FromStr for Host {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(Self::Ip(ip.to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let valid = (1..=253).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        if valid {
            Ok(Self::Name(name))
        } else {
            Err(InvalidHost)
        }
    }
}

impl Host {
    /// The host of `name:port`.
    fn of(authority: &Authority) -> Option<Self> {
        if authority.as_str().contains('@') {
            None
        } else {
            authority.host().parse().ok()
        }
    }

    /// Whether it is this machine, whoever says so.
    fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(ip) => ip.is_loopback(),
            Self::Name(name) => name == "localhost",
        }
    }
}

/// Every host that a request names.
fn named(request: &Request) -> Vec<Result<Authority, InvalidUri>> {
    let target = request
        .uri()
        .authority()
        .map(|authority| Ok(authority.clone()));
    let headers = request
        .headers()
        .get_all(HOST)
        .iter()
        .map(|value| Authority::try_from(value.as_bytes()));
    target.into_iter().chain(headers).collect()
}

/// Whether a request names this machine as one on it does, and no name that a proxy may lead from elsewhere.
pub(super) fn names_loopback(request: &Request) -> bool {
    named(request)
        .iter()
        .flatten()
        .all(|named| Host::of(named).is_some_and(|host| host.is_loopback()))
}

/// Whether a browser says that a page of another origin sent this. Who is no browser says nothing of the kind.
pub(super) fn is_cross_site(request: &Request, hosts: &[Host]) -> bool {
    let named = named(request);
    let own = |origin: &HeaderValue| {
        let Ok(origin) = Uri::try_from(origin.as_bytes()) else {
            return false;
        };
        let (Some(scheme), Some(authority)) = (origin.scheme_str(), origin.authority()) else {
            return false;
        };
        let usual = if scheme == "https" { 443 } else { 80 };
        let place = |authority: &Authority| {
            Some((Host::of(authority)?, authority.port_u16().unwrap_or(usual)))
        };
        let Some((host, port)) = place(authority) else {
            return false;
        };
        // A proxy may pass on another Host than the browser's.
        (port == usual && hosts.contains(&host))
            || named
                .iter()
                .flatten()
                .any(|named| place(named).is_some_and(|named| named == (host.clone(), port)))
    };
    let elsewhere = |site: &HeaderValue| !matches!(site.as_bytes(), b"same-origin" | b"none");
    request
        .headers()
        .get_all("sec-fetch-site")
        .iter()
        .any(elsewhere)
        || !request.headers().get_all(ORIGIN).iter().all(own)
}

/// Lets a request through that names this machine, the address that it came to, or a host that the operator named.
pub(super) async fn guard(
    State(hosts): State<Arc<[Host]>>,
    request: Request,
    next: Next,
) -> Response {
    let came_to = request
        .extensions()
        .get::<CameTo>()
        .map(|CameTo(ip)| Host::Ip(ip.to_canonical()));
    let named = named(&request);
    let ours = |named: &Result<Authority, _>| {
        let host = named.as_ref().ok().and_then(Host::of);
        host.is_some_and(|host| {
            host.is_loopback() || Some(&host) == came_to.as_ref() || hosts.contains(&host)
        })
    };
    if !named.is_empty() && named.iter().all(ours) {
        return next.run(request).await;
    }
    let told = named
        .iter()
        .flatten()
        .map(Authority::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    error(
        StatusCode::MISDIRECTED_REQUEST,
        &format!(
            "this server does not answer for the host \"{}\"; where it should, name the host with --admin-host",
            ellipsize(&told, 200)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_as_one_whatever_its_case_its_port_and_its_brackets() {
        let host = |text: &str| Host::of(&Authority::from_str(text).unwrap());
        let name = |text: &str| Some(Host::Name(text.to_owned()));
        assert_eq!(host("LocalHost:8080"), name("localhost"));
        assert_eq!(host("status.example.com."), name("status.example.com"));
        assert_eq!(
            host("[::1]:80"),
            Some(Host::Ip(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])))
        );
        assert_eq!(
            host("[::ffff:127.0.0.1]"),
            Some(Host::Ip(IpAddr::from([127, 0, 0, 1])))
        );
        assert_eq!(host("localhost@evil.example"), None);
        assert!(
            ["", "a b", "http://x", "x:80", "x/y"]
                .iter()
                .all(|text| Host::from_str(text).is_err())
        );
    }
}
