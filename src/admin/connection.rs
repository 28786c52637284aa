//! Connections with bounds: so many at once, one request each, so many bytes of headers, and an end after so much time,
//! however slowly somebody writes or reads. An answer that says so may last longer, as long as somebody reads it. Where every
//! place is taken, whoever has been there longest without asking for anything makes room, so that idle connections keep no
//! probe out. It knows nothing of what is asked.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::host::CameTo;
use super::limit::Peer;

/// More connections wait until one of these ends, where none of them is silent.
pub(super) const AT_ONCE: usize = 128;
/// From the first byte of a request to the end of its headers.
const HEADERS: Duration = Duration::from_secs(5);
/// From the beginning of a connection to its end.
const WHOLE: Duration = Duration::from_secs(10);
/// A write that is not taken for so long is the last one.
const WRITE: Duration = Duration::from_secs(10);
/// The most bytes of a request's headers.
const HEADER_BYTES: usize = 16 << 10;
/// After an attempt to accept that failed, as it does where there are too many open files.
const PAUSE: Duration = Duration::from_millis(200);

/// In the extensions of an answer that lasts longer than others: for how long, from its beginning to its end.
#[derive(Clone, Copy)]
pub(super) struct Lasting(pub(super) Duration);

/// The connections that have not asked for anything yet, in the order in which they came, and how each is ended.
#[derive(Clone, Default)]
struct Silent(Arc<Mutex<BTreeMap<u64, CancellationToken>>>);

impl Silent {
    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers connections until told to stop.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let silent = Silent::default();
    for number in 0_u64.. {
        let accepted = async {
            let accepted = listener.accept().await;
            if slots.available_permits() == 0
                && let Some((_, end)) = silent.all().pop_first()
            {
                end.cancel();
            }
            (Arc::clone(&slots).acquire_owned().await, accepted)
        };
        let (slot, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accepted => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (router, silent, end) = (router.clone(), silent.clone(), CancellationToken::new());
        silent.all().insert(number, end.clone());
        tokio::spawn(async move {
            let asked = {
                let silent = silent.clone();
                move || drop(silent.all().remove(&number))
            };
            tokio::select! {
                () = answer(stream, router, asked) => {}
                () = end.cancelled() => {}
            }
            silent.all().remove(&number);
            drop(slot);
        });
    }
}

/// Answers one connection; `asked` is told when its request has come.
async fn answer(stream: TcpStream, router: Router, asked: impl Fn()) {
    let came_to = stream.local_addr().ok().map(|address| CameTo(address.ip()));
    let peer = stream.peer_addr().ok().map(|address| Peer(address.ip().to_canonical()));
    let service = TowerToHyperService::new(router);
    let lasts = Arc::new(OnceLock::new());
    let longer = Arc::clone(&lasts);
    let service = service_fn(move |mut request: Request<Incoming>| {
        asked();
        if let Some(came_to) = came_to {
            request.extensions_mut().insert(came_to);
        }
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let (answer, longer) = (service.call(request), Arc::clone(&longer));
        async move {
            let answer: Response = answer.await.unwrap_or_default();
            if let Some(Lasting(time)) = answer.extensions().get() {
                // There is one request.
                let _ = longer.set(*time);
            }
            Ok::<Response, Infallible>(answer)
        }
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .max_buf_size(HEADER_BYTES)
            .keep_alive(false)
            .serve_connection(TokioIo::new(Box::pin(stream)), service)
    );
    // Who was cut off, or went away, is told nothing more.
    if timeout(WHOLE, &mut connection).await.is_err()
        && let Some(time) = lasts.get()
    {
        let _ = timeout(*time, connection).await;
    }
}
