//! Taking traces to an OpenTelemetry collector, over OTLP and HTTP.
//!
//! The exporter decides what is sent and when, in a thread of its own. This only sends it, with the process's way of doing
//! HTTP, and says once where that fails.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use crate::http::{self, Http, SetupError, read_bounded};

/// How much of an answer is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// The way to a collector.
#[derive(Debug)]
pub(super) struct Collector {
    http: Http,
    /// The exporter's thread has none.
    runtime: Runtime,
    timeout: Duration,
    told: AtomicBool,
}

impl Collector {
    /// Each request may take this long.
    ///
    /// # Errors
    /// A sentence of why there is no way.
    pub(super) fn new(timeout: Duration) -> Result<Self, String> {
        http::install_tls();
        let http = Http::new(http::HttpTimeouts {
            request: timeout,
            ..http::HttpTimeouts::default()
        });
        let http = http.map_err(|error: SetupError| error.to_string())?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            http,
            runtime,
            timeout,
            told: AtomicBool::new(false),
        })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        let (head, body) = request.into_parts();
        let url = Url::parse(&head.uri.to_string()).map_err(|error| error.to_string())?;
        let route = self.http.route(&url).map_err(|error| error.to_string())?;
        let broken = |error| route.failure(error).to_string();
        let request = route
            .active_client()
            .client
            .request(head.method, url)
            .headers(head.headers)
            .body(body);
        let mut answer = request.send().await.map_err(broken)?;
        let status = answer.status();
        let headers = answer.headers().clone();
        let body = read_bounded(&mut answer, MAX_ANSWER)
            .await
            .map_err(broken)?
            .unwrap_or_default();
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let late = || Err("it did not answer in time".to_owned());
        // The exporter's thread does nothing else.
        let sent = self.runtime.block_on(async {
            tokio::time::timeout(self.timeout, self.send(request))
                .await
                .unwrap_or_else(|_| late())
        });
        let why = match &sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers with {}", answer.status().as_u16())),
            Err(why) => Some(why.clone()),
        };
        match why {
            None => self.told.store(false, Relaxed),
            Some(why) if !self.told.swap(true, Relaxed) => {
                tracing::warn!(
                    "traces do not reach the OpenTelemetry collector: {why}; everything else goes on"
                );
            }
            Some(_) => {}
        }
        sent.map_err(HttpError::from)
    }
}
