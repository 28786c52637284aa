//! What operators see and use of a daemon: the HTTP endpoints with the page, metrics, history, notifications, Kubernetes,
//! traces.

pub mod admin;
pub mod history;
pub mod kubernetes;
pub mod metrics;
pub mod notifications;
pub mod telemetry;
