//! An API server in memory that knows one Lease.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::history::LeaseFault;

#[derive(Debug, Default)]
pub(crate) struct ApiServer {
    lease: Option<Value>,
    version: u64,
    pub(crate) faults: VecDeque<LeaseFault>,
}

pub(crate) type Shared = Arc<Mutex<ApiServer>>;

/// A client whose requests take `latency`.
pub(crate) fn client(server: &Shared, latency: Duration) -> kube::Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let fault = server.lock().faults.pop_front();
            tokio::time::sleep(latency / 2).await;
            if matches!(fault, Some(LeaseFault::Before)) {
                return Err(Box::<dyn std::error::Error + Send + Sync>::from(
                    "the connection broke",
                ));
            }
            let answer = match fault {
                Some(LeaseFault::Conflict) => Err(StatusCode::CONFLICT),
                Some(LeaseFault::Unavailable) => Err(StatusCode::SERVICE_UNAVAILABLE),
                _ => server.lock().answer(&head.method, &body),
            };
            tokio::time::sleep(latency / 2).await;
            match fault {
                Some(LeaseFault::After) => return Err("the connection broke".into()),
                Some(LeaseFault::Slow) => tokio::time::sleep(Duration::from_secs(4)).await,
                _ => {}
            }
            let (status, body) = match answer {
                Ok(lease) => (StatusCode::OK, lease),
                Err(status) => (
                    status,
                    json!({
                        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                        "reason": if status == StatusCode::NOT_FOUND { "NotFound" } else { "Conflict" },
                        "message": "no", "code": status.as_u16(),
                    }),
                ),
            };
            let body = Body::from(serde_json::to_vec(&body)?);
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
                Response::builder().status(status).body(body)?,
            )
        }
    });
    kube::Client::new(service, "calry")
}

impl ApiServer {
    fn answer(&mut self, method: &axum::http::Method, body: &[u8]) -> Result<Value, StatusCode> {
        match method.as_str() {
            "GET" => self.lease.clone().ok_or(StatusCode::NOT_FOUND),
            "POST" if self.lease.is_some() => Err(StatusCode::CONFLICT),
            "POST" => Ok(self.write(body)),
            "PUT" => {
                let sent: Value = serde_json::from_slice(body).unwrap();
                let known = self.lease.as_ref().ok_or(StatusCode::NOT_FOUND)?;
                let version = "/metadata/resourceVersion";
                if sent.pointer(version) != known.pointer(version) {
                    return Err(StatusCode::CONFLICT);
                }
                Ok(self.write(body))
            }
            _ => Err(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    fn write(&mut self, body: &[u8]) -> Value {
        self.version += 1;
        let mut lease: Value = serde_json::from_slice(body).unwrap();
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        lease["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000001");
        self.lease.insert(lease).clone()
    }
}
