//! Serves connections with limits on their number, duration and header size; each carries one request. A marked answer may
//! last longer, as long as the client reads it.
//!
//! Probes are always answered: some connections are reserved, and if all are in use, one is closed: the oldest with an
//! unfinished body, otherwise the oldest without a request, otherwise the oldest that waits for its turn.

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
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::host::CameTo;
use super::is_probe;
use super::limit::Peer;

/// How many requests are answered at once, except for probes. The others wait for their turn.
pub(super) const MAX_REQUESTS: usize = 128;
/// The number of further connections, for probes and for requests that may turn out to be probes.
const RESERVED: usize = 32;
/// The time limit of the headers, from the first byte.
const HEADERS: Duration = Duration::from_secs(5);
/// The time limit of the body.
const BODY: Duration = Duration::from_secs(4);
/// A connection without a request is no longer new after this.
const NEW_CONNECTION: Duration = Duration::from_secs(1);
/// The longest connection.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// A connection whose client does not read for this long is closed.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// The largest headers in bytes.
const HEADER_BYTES: usize = 16 << 10;
/// The pause after a failed accept, for example with too many open files.
const PAUSE: Duration = Duration::from_millis(200);

/// The extension of an answer that may last longer than others: its time limit.
#[derive(Clone, Copy)]
pub(super) struct Lasting(pub(super) Duration);

#[derive(Clone, Copy)]
enum Stage {
    /// The body of its request is unfinished.
    Body,
    /// It has not sent a request.
    Silent,
    /// Its request waits for its turn.
    Queued,
    /// Its request is being answered. It is never closed.
    Answered,
}

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
            Stage::Silent if self.since.elapsed() >= NEW_CONNECTION => Some(1),
            Stage::Queued => Some(2),
            Stage::Silent => Some(3),
            Stage::Answered => None,
        }
    }
}

#[derive(Clone, Default)]
struct Connections(Arc<Mutex<BTreeMap<u64, Open>>>);

impl Connections {
    /// Closes the least important one.
    fn close_one(&self) {
        let mut all = self.0.lock();
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

#[derive(Clone)]
struct Connection {
    number: u64,
    connections: Connections,
}

impl Connection {
    fn enter(&self, stage: Stage) {
        if let Some(open) = self.connections.0.lock().get_mut(&self.number) {
            open.stage = stage;
        }
    }
}

/// Serves connections until `stop` is cancelled.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_REQUESTS + RESERVED));
    let turns = Arc::new(Semaphore::new(MAX_REQUESTS));
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
        connections.0.lock().insert(number, open);
        let connection = Connection {
            number,
            connections: connections.clone(),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = answer(stream, router, &turns, &connection) => {}
                () = end.cancelled() => {}
            }
            connection.connections.0.lock().remove(&connection.number);
            drop(slot);
        });
    }
}

/// A body with a time limit, which also reports its end.
struct TimedBody {
    body: Incoming,
    patience: Pin<Box<Sleep>>,
    connection: Connection,
}

#[derive(Debug, thiserror::Error)]
#[error("the body was not received within {} s", BODY.as_secs())]
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
            self.connection.enter(Stage::Answered);
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
    // A connection has one request and ends with it: an unread answer is unfinished.
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
            connection.enter(Stage::Queued);
            if let Some(turns) = turns {
                let _ = held.set(turns.acquire_owned().await);
            }
            connection.enter(if request.body().is_end_stream() {
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
    stream.set_write_timeout(Some(WRITE_LIMIT));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .max_buf_size(HEADER_BYTES)
            .keep_alive(false)
            .serve_connection(TokioIo::new(Box::pin(stream)), service)
    );
    // A closed connection gets no answer.
    if timeout(CONNECTION_LIMIT, &mut connection).await.is_err()
        && let Some(time) = lasts.get()
    {
        let _ = timeout(*time, connection).await;
    }
}
