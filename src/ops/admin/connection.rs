//! Connections with bounds: so many at once, one request each, so many bytes of headers, and an end after so much time,
//! however slowly somebody writes or reads. An answer that says so may last longer, as long as somebody reads it.
//!
//! Probes are answered whatever else happens: some connections are beyond what other requests may use, and if all are
//! taken, the oldest is closed of those that sent headers and no whole body, then of those that are silent, then of those
//! that wait for their turn.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::Request;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::{Mutex, MutexGuard};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::host::CameTo;
use super::is_probe;
use super::limit::Peer;

/// How many requests are answered at once, beside probes. More of them wait until one of these ends.
pub(super) const AT_ONCE: usize = 128;
/// How many connections there may be beyond that: for probes, and for what is not known yet to be one.
const SPARE: usize = 32;
/// From the first byte of a request to the end of its headers.
const HEADERS: Duration = Duration::from_secs(5);
/// From the end of the headers to that of the body.
const BODY: Duration = Duration::from_secs(4);
/// A connection that has sent nothing for so long is not new any more.
const NEW: Duration = Duration::from_secs(1);
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

/// What a connection is in the middle of.
#[derive(Clone, Copy)]
enum Stage {
    /// Its request has headers, and no whole body yet.
    Body,
    /// It has not sent a request.
    Silent,
    /// Its request waits for its turn.
    Queued,
    /// Its request is answered. It is never closed.
    Answered,
}

/// An open connection.
struct Open {
    stage: Stage,
    since: Instant,
    end: CancellationToken,
}

impl Open {
    /// The order in which connections are closed if there are too many. A new one may still be a probe.
    fn rank(&self) -> Option<u8> {
        match self.stage {
            Stage::Body => Some(0),
            Stage::Silent if self.since.elapsed() >= NEW => Some(1),
            Stage::Queued => Some(2),
            Stage::Silent => Some(3),
            Stage::Answered => None,
        }
    }
}

/// Every connection, by its number.
#[derive(Clone, Default)]
struct Connections(Arc<Mutex<BTreeMap<u64, Open>>>);

impl Connections {
    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        self.0.lock()
    }

    /// Closes the one that is to be missed least.
    fn close_one(&self) {
        let mut all = self.all();
        let ranked = all
            .iter()
            .filter_map(|(number, open)| Some((open.rank()?, *number)));
        if let Some((_, number)) = ranked.min()
            && let Some(open) = all.remove(&number)
        {
            open.end.cancel();
        }
    }
}

/// One of the connections, for as long as it is open.
#[derive(Clone)]
struct Connection {
    number: u64,
    connections: Connections,
}

impl Connection {
    fn is_in(&self, stage: Stage) {
        if let Some(open) = self.connections.all().get_mut(&self.number) {
            open.stage = stage;
        }
    }
}

/// Answers connections until told to stop.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(AT_ONCE + SPARE));
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let connections = Connections::default();
    for number in 0_u64.. {
        let accepted = async {
            let accepted = listener.accept().await;
            if slots.available_permits() == 0 {
                connections.close_one();
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
        let (router, turns, end) = (router.clone(), Arc::clone(&turns), CancellationToken::new());
        let open = Open {
            stage: Stage::Silent,
            since: Instant::now(),
            end: end.clone(),
        };
        connections.all().insert(number, open);
        let connection = Connection {
            number,
            connections: connections.clone(),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = answer(stream, router, &turns, &connection) => {}
                () = end.cancelled() => {}
            }
            connection.connections.all().remove(&connection.number);
            drop(slot);
        });
    }
}

/// A body that has to come in time, and is known to have come.
struct TimedBody {
    body: Incoming,
    patience: Pin<Box<Sleep>>,
    connection: Connection,
}

/// A body that did not come in time.
#[derive(Debug, thiserror::Error)]
#[error("the body did not come within {} s", BODY.as_secs())]
struct TooSlow;

impl hyper::body::Body for TimedBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if self.patience.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(TooSlow.into())));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.connection.is_in(Stage::Answered);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Answers one connection.
async fn answer(
    stream: TcpStream,
    router: Router,
    turns: &Arc<Semaphore>,
    connection: &Connection,
) {
    let came_to = stream.local_addr().ok().map(|address| CameTo(address.ip()));
    let peer = stream
        .peer_addr()
        .ok()
        .map(|address| Peer(address.ip().to_canonical()));
    let service = TowerToHyperService::new(router);
    let lasts = Arc::new(OnceLock::new());
    let longer = Arc::clone(&lasts);
    // There is one request, and it is over with the connection: an answer that is not read is not done.
    let held = Arc::new(OnceLock::new());
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (connection, held) = (connection.clone(), Arc::clone(&held));
        let turns = (!is_probe(request.uri().path())).then(|| Arc::clone(turns));
        if let Some(came_to) = came_to {
            request.extensions_mut().insert(came_to);
        }
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let (service, longer) = (service.clone(), Arc::clone(&longer));
        async move {
            connection.is_in(Stage::Queued);
            if let Some(turns) = turns {
                let _ = held.set(turns.acquire_owned().await);
            }
            connection.is_in(if request.body().is_end_stream() {
                Stage::Answered
            } else {
                Stage::Body
            });
            let request = request.map(|body| {
                Body::new(TimedBody {
                    body,
                    patience: Box::pin(sleep(BODY)),
                    connection,
                })
            });
            let answer: Response = service.call(request).await.unwrap_or_default();
            if let Some(Lasting(time)) = answer.extensions().get() {
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
