//! The listening socket of the HTTP server of `run`.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::bail;
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpSocket};

use super::run_args::Listen;

/// Opens the socket of the HTTP server. If another program uses the address, that is an error only if the operator chose
/// the address.
pub(super) fn open(listen: Listen, is_chosen: bool) -> anyhow::Result<Option<TcpListener>> {
    let address = match listen {
        Listen::Off => return Ok(None),
        Listen::On(address) => address,
    };
    match bind(address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if !is_chosen => {
            tracing::warn!(
                %address,
                "cannot listen on {address}: {error}; the daemon continues without its HTTP server: choose another address \
                 with --listen, or disable it with --listen off"
            );
            Ok(None)
        }
        Err(error) => bail!(
            "cannot listen on {address}: {error}; choose another address with --listen, or disable the HTTP server with --listen off"
        ),
    }
}

/// Listens on an address. `[::]` is every interface of IPv6 and of IPv4, whatever the system's default is, and of IPv4
/// alone if the kernel has no IPv6.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => match TcpSocket::new_v6() {
            Err(error)
                if address.ip().is_unspecified()
                    && error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()) =>
            {
                return bind((Ipv4Addr::UNSPECIFIED, address.port()).into());
            }
            socket => socket?,
        },
    };
    if address.is_ipv6() && address.ip().is_unspecified() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_unspecified_ipv6_address_accepts_ipv4_whatever_the_kernels_default() {
        let listener = bind("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        if listener.local_addr().unwrap().is_ipv6() {
            assert!(!rustix::net::sockopt::ipv6_v6only(&listener).unwrap());
        }
        tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
    }
}
