//! Checks the host of each request. A web page can resolve its own name to this machine (DNS rebinding) to read the
//! server's answers; but the browser sends the page's host name, and the server refuses foreign names.

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

/// The host of a request, without its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Ip(IpAddr),
    /// In lower case.
    Name(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a host is a name such as status.example.com, or an IP address, without scheme, port and path"
)]
pub struct InvalidHost;

/// The local address of a connection.
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

    /// Whether it always means this machine.
    fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(ip) => ip.is_loopback(),
            Self::Name(name) => name == "localhost",
        }
    }
}

/// Every host that a request names.
fn hosts_of(request: &Request) -> Vec<Result<Authority, InvalidUri>> {
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

/// Whether a request names only loopback hosts, not a name that a proxy may serve.
pub(super) fn names_loopback(request: &Request) -> bool {
    hosts_of(request)
        .iter()
        .flatten()
        .all(|named| Host::of(named).is_some_and(|host| host.is_loopback()))
}

/// Whether the browser's headers name a page of another origin. Other clients do not send them.
pub(super) fn is_cross_site(request: &Request, hosts: &[Host]) -> bool {
    let named = hosts_of(request);
    let is_own = |origin: &HeaderValue| {
        let origin = Uri::try_from(origin.as_bytes()).ok()?;
        let usual = if origin.scheme_str()? == "https" {
            443
        } else {
            80
        };
        let place = |authority: &Authority| {
            Some((Host::of(authority)?, authority.port_u16().unwrap_or(usual)))
        };
        let own = place(origin.authority()?)?;
        // A proxy may send another Host than the browser.
        let expected = own.1 == usual && hosts.contains(&own.0);
        let mut named = named.iter().flatten().filter_map(place);
        Some(expected || named.any(|named| named == own))
    };
    let elsewhere = |site: &HeaderValue| !matches!(site.as_bytes(), b"same-origin" | b"none");
    request
        .headers()
        .get_all("sec-fetch-site")
        .iter()
        .any(elsewhere)
        || !request
            .headers()
            .get_all(ORIGIN)
            .iter()
            .all(|origin| is_own(origin) == Some(true))
}

/// Accepts requests for loopback, the local address, and the hosts of `--admin-host`.
pub(super) async fn guard(
    State(hosts): State<Arc<[Host]>>,
    request: Request,
    next: Next,
) -> Response {
    let came_to = request
        .extensions()
        .get::<CameTo>()
        .map(|CameTo(ip)| Host::Ip(ip.to_canonical()));
    let named = hosts_of(&request);
    let ours = |named: &Result<Authority, _>| {
        let host = named.as_ref().ok().and_then(Host::of);
        host.is_some_and(|host| {
            host.is_loopback() || Some(&host) == came_to.as_ref() || hosts.contains(&host)
        })
    };
    if !named.is_empty() && named.iter().all(ours) {
        return next.run(request).await;
    }
    let hosts = named
        .iter()
        .flatten()
        .map(Authority::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    error(
        StatusCode::MISDIRECTED_REQUEST,
        &format!(
            "this server does not answer for the host \"{}\"; to accept it, add --admin-host",
            ellipsize(&hosts, 200)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_compared_without_case_port_and_brackets() {
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
