//! Sends traces to an OpenTelemetry collector, with OTLP over HTTP.
//!
//! This is not the exporter's own `reqwest` client, which follows redirects with the headers of the variables, ignores our
//! rules for proxies and certificates, and reports each failure with its URL. This one uses the clients of [`http`]
//! and logs a failure once, without values.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use crate::http::{self, Http, SetupError, read_bounded};

/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct CollectorClient {
    http: Http,
    /// The exporter's thread has no runtime.
    runtime: Runtime,
    timeout: Duration,
    warned: AtomicBool,
}

impl CollectorClient {
    /// # Errors
    /// Why the client cannot be set up, as a sentence.
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
            warned: AtomicBool::new(false),
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
impl HttpClient for CollectorClient {
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
            Ok(answer) => Some(format!(
                "the collector answered {}",
                answer.status().as_u16()
            )),
            Err(why) => Some(why.clone()),
        };
        match why {
            None => self.warned.store(false, Relaxed),
            Some(why) if !self.warned.swap(true, Relaxed) => {
                tracing::warn!(
                    "cannot send traces to the OpenTelemetry collector: {why}; everything else continues"
                );
            }
            Some(_) => {}
        }
        sent.map_err(HttpError::from)
    }
}
